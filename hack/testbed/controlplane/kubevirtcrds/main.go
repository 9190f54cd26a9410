// Command kubevirtcrds prints those of the CustomResourceDefinitions that KubeVirt's operator installs which concern
// kubeballoon, built by KubeVirt's own code, as one List in JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/components"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "kubevirtcrds:", err)
		os.Exit(1)
	}
}

func run() error {
	list := extv1.CustomResourceDefinitionList{}
	list.APIVersion = extv1.SchemeGroupVersion.String()
	list.Kind = "CustomResourceDefinitionList"
	for _, build := range []func() (*extv1.CustomResourceDefinition, error){
		components.NewVirtualMachineInstanceCrd,
		components.NewVirtualMachineCrd,
		components.NewReplicaSetCrd,
		components.NewVirtualMachinePoolCrd,
		components.NewVirtualMachineInstanceMigrationCrd,
		components.NewKubeVirtCrd,
	} {
		crd, err := build()
		if err != nil {
			return err
		}
		list.Items = append(list.Items, *crd)
	}
	return json.NewEncoder(os.Stdout).Encode(list)
}
