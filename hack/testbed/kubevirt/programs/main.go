// Command manifests prints, as one List in JSON, what installs KubeVirt's operator: built by KubeVirt's own code, with
// the images of the registry and the version that are its arguments.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/components"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/rbac"
)

const namespace = "kubevirt"

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: manifests REGISTRY VERSION")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

func run(registry, version string) error {
	crd, err := components.NewKubeVirtCrd()
	if err != nil {
		return err
	}
	items := []any{crd, components.NewKubeVirtPriorityClassCR()}
	for _, object := range rbac.GetAllOperator(namespace) {
		items = append(items, object)
	}
	image := func(name string) string { return registry + "/" + name + ":" + version }
	operator := components.NewOperatorDeployment(namespace, registry, "", version, "2", version, "",
		image("virt-api"), image("virt-controller"), image("virt-handler"), image("virt-launcher"),
		image("virt-exportproxy"), image("virt-exportserver"), image("virt-synchronization-controller"),
		image("libguestfs-tools"), image("pr-helper"), image("sidecar-shim"), image("virt-operator"),
		corev1.PullIfNotPresent)
	replicas := int32(1)
	operator.Spec.Replicas = &replicas
	items = append(items, operator)
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
}
