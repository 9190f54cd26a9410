"""The rendered chart: complete, switched by its values, with no needless privilege; invalid values are refused."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import kubeballoon
from hack.testbed import chart
from hack.testbed.chart import CHART, NAMESPACE, Object, default_objects, helm, is_shipped, render
from hack.testbed.controlplane import ControlPlane, ControlPlaneError, LocalControlPlane
from hack.testbed.controlplane.programs import Programs
from kubeballoon.api.names import CONTROLLER_ANNOTATIONS, EXCLUDE
from kubeballoon.api.v1alpha1 import KINDS

pytestmark = pytest.mark.usefixtures("tools")

EVERYTHING = (
    "--set=networkPolicy.enabled=true,monitoring.podMonitor.enabled=true,monitoring.rules.enabled=true",
    "--set=monitoring.dashboard.enabled=true,taints.enabled=true,migrations.enabled=true",
)
TOGGLES = {
    "crds.install": "CustomResourceDefinition/memorypolicies.kubeballoon.io",
    "admission.enabled": "ValidatingAdmissionPolicy/kubeballoon-virtualmachineinstances",
    "flowControl.enabled": "FlowSchema/kubeballoon-leases",
    "rbac.aggregate": "ClusterRole/kubeballoon-view",
    "controller.podDisruptionBudget.enabled": "PodDisruptionBudget/kubeballoon-controller",
    "heartbeats.enabled": "Role/kubeballoon-agent-heartbeats",
    "taints.enabled": "ClusterRole/kubeballoon-agent-taints",
    "migrations.enabled": "ClusterRole/kubeballoon-controller-migrations",
    "uninstall.enabled": "Job/kubeballoon-uninstall",
    "networkPolicy.enabled": "NetworkPolicy/kubeballoon",
    "monitoring.podMonitor.enabled": "PodMonitor/kubeballoon",
    "monitoring.serviceMonitor.enabled": "ServiceMonitor/kubeballoon",
    "monitoring.rules.enabled": "PrometheusRule/kubeballoon",
    "monitoring.dashboard.enabled": "ConfigMap/kubeballoon-dashboard",
}


def names(objects: list[Object]) -> set[str]:
    return {f"{item['kind']}/{item['metadata']['name']}" for item in objects}


def one(objects: list[Object], name: str) -> Object:
    (found,) = (item for item in objects if f"{item['kind']}/{item['metadata']['name']}" == name)
    return found


def containers(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """Yield each container with the name of its workload and the spec of its pod."""
    for item in objects:
        if item["kind"] in ("Deployment", "DaemonSet", "Job"):
            pod = item["spec"]["template"]["spec"]
            for container in pod["containers"]:
                yield item["metadata"]["name"], pod, container


def test_what_is_shipped_for_demo_and_tests_is_what_helm_renders() -> None:
    assert is_shipped(), "run `make generate`"
    assert default_objects() == [item for item in render() if item["kind"] != "CustomResourceDefinition"]


def test_a_stale_rendering_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = default_objects()
    stale = tmp_path / "chart.yaml"
    stale.write_text("# charts/kubeballoon 0123456789abcdef, rendered by `make generate`; do not edit.\nkind: Old\n")
    monkeypatch.setattr(chart, "SHIPPED", stale)
    assert default_objects() == shipped


def refusal(*options: str) -> str:
    with pytest.raises(ControlPlaneError) as refused:
        render(*options)
    return str(refused.value).partition("Error: ")[2]


def test_lints() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART)


def test_its_version_is_the_programs() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == kubeballoon.__version__


@pytest.mark.parametrize(("toggle", "name"), TOGGLES.items())
def test_a_value_switches_its_object_on_and_off(toggle: str, name: str) -> None:
    assert name in names(render(f"--set={toggle}=true"))
    assert name not in names(render(f"--set={toggle}=false"))


def test_a_single_controller_blocks_no_drain() -> None:
    assert "PodDisruptionBudget/kubeballoon-controller" not in names(render("--set=controller.replicas=1"))


@pytest.mark.parametrize(("timeout", "seconds"), [("4m", 270), ("1h0.5m", 3660), ("1500ms", 32)])
def test_an_uninstaller_that_cannot_start_ends_at_its_deadline(timeout: str, seconds: int) -> None:
    job = one(render(f"--set=uninstall.timeout={timeout}"), "Job/kubeballoon-uninstall")
    assert job["spec"]["activeDeadlineSeconds"] == seconds


def test_every_kind_has_a_crd_that_is_kept_unless_the_values_say_otherwise() -> None:
    for keep, policy in (("true", "keep"), ("false", None)):
        rendered = render(f"--set=crds.keep={keep}")
        for kind in KINDS:
            crd = one(rendered, f"CustomResourceDefinition/{kind.plural}.kubeballoon.io")
            assert crd["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == policy


def test_no_role_has_a_wildcard() -> None:
    roles = [item for item in render(*EVERYTHING) if item["kind"] in ("Role", "ClusterRole")]
    assert len(roles) == 15
    for role in roles:
        assert "*" not in json.dumps(role["rules"])
        for rule in role["rules"]:
            assert "secrets" not in rule["resources"]


RIGHTS = {
    "ClusterRole/kubeballoon-agent": {
        "nodepressures": {"get", "create", "patch"},
        "nodepressures/status": {"patch"},
        "memorypolicies": {"list", "watch"},
        "processorpolicies": {"list", "watch"},
        "nodepolicies": {"list", "watch"},
        "namespaces": {"list", "watch"},
        "virtualmachineinstances": {"list", "watch"},
        "kubevirts": {"list", "watch"},
        "nodes": {"get"},
    },
    "Role/kubeballoon-agent-heartbeats": {"leases": {"get", "create", "update"}},
    "ClusterRole/kubeballoon-controller": {
        "memorypolicies": {"list", "watch"},
        "processorpolicies": {"list", "watch"},
        "nodepolicies": {"list", "watch"},
        "nodepressures": {"list", "watch"},
        "memorypolicies/status": {"patch"},
        "processorpolicies/status": {"patch"},
        "nodepolicies/status": {"patch"},
        "namespaces": {"list", "watch"},
        "virtualmachineinstances": {"patch"},
        "events": {"create", "patch"},
        "customresourcedefinitions": {"list", "watch"},
    },
    "Role/kubeballoon-controller": {"leases": {"get", "create", "update"}},
    "Role/kubeballoon-controller-heartbeats": {"leases": {"list", "watch", "delete"}},
    "ClusterRole/kubeballoon-uninstall": {
        "virtualmachineinstances": {"list", "patch"},
        "memorypolicies": {"release"},
        "nodepressures": {"list"},
    },
    "ClusterRole/kubeballoon-uninstall-taints": {"nodes": {"list", "patch"}},
    "Role/kubeballoon-uninstall": {"leases": {"get", "create", "update", "list"}},
}
"""What each part asks of the API server; the tests on a real API server run with these rights."""
RIGHTS_TO_TAINT = {
    "ClusterRole/kubeballoon-agent-taints": {"nodes": {"patch"}},
    "ClusterRole/kubeballoon-controller-taints": {"nodes": {"list", "watch", "patch"}},
}
"""What each part asks for in addition where taints are enabled."""


def rights(objects: list[Object], role: str) -> dict[str, set[str]]:
    """Return the verbs that a role allows, by resource."""
    found: dict[str, set[str]] = {}
    for rule in one(objects, role)["rules"]:
        for resource in rule["resources"]:
            found.setdefault(resource, set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize("role", RIGHTS)
def test_a_part_has_no_right_but_those_that_its_code_needs(role: str) -> None:
    assert rights(default_objects(), role) == RIGHTS[role]


def test_the_right_to_taint_nodes_has_roles_of_its_own_and_changes_no_other() -> None:
    enabled = render("--set=taints.enabled=true")
    assert {role: rights(enabled, role) for role in RIGHTS} == RIGHTS
    assert {role: rights(enabled, role) for role in RIGHTS_TO_TAINT} == RIGHTS_TO_TAINT
    for role in RIGHTS_TO_TAINT:
        binding = one(enabled, role.replace("ClusterRole", "ClusterRoleBinding"))
        (subject,) = binding["subjects"]
        assert binding["roleRef"]["name"] == binding["metadata"]["name"] == f"{subject['name']}-taints"
    assert not names(render()) & {*RIGHTS_TO_TAINT}


def test_each_part_has_an_account_of_its_own() -> None:
    used = {name: pod["serviceAccountName"] for name, pod, _ in containers(render())}
    assert used == {name: name for name in ("kubeballoon-controller", "kubeballoon-agent", "kubeballoon-uninstall")}


def test_the_leases_of_controller_and_agents_have_a_priority_level_of_their_own() -> None:
    rendered = render("--set=controller.serviceAccount.create=false,controller.serviceAccount.name=existing")
    schema = one(rendered, "FlowSchema/kubeballoon-leases")["spec"]
    level = schema["priorityLevelConfiguration"]["name"]
    assert one(rendered, f"PriorityLevelConfiguration/{level}")["spec"]["type"] == "Limited"
    (rule,) = schema["rules"]
    accounts = {subject["serviceAccount"]["name"] for subject in rule["subjects"]}
    assert accounts == {"existing", "kubeballoon-agent"}
    assert [each["resources"] for each in rule["resourceRules"]] == [["leases"]]


@pytest.mark.parametrize("part", ["kubeballoon-controller", "kubeballoon-uninstall"])
def test_what_decides_has_no_privilege_on_its_node(part: str) -> None:
    ((pod, container),) = ((pod, container) for name, pod, container in containers(render()) if name == part)
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod.keys() & {"hostPID", "hostNetwork", "hostIPC", "volumes"}


def test_on_openshift_the_platform_gives_the_uid_and_constraints_allow_the_agent_what_it_asks_for() -> None:
    rendered = render("--set=openshift.enabled=true")
    for name, pod, _ in containers(rendered):
        assert name == "kubeballoon-agent" or not pod["securityContext"].keys() & {"runAsUser", "runAsGroup"}
    (allowed,) = (item for item in rendered if item["kind"] == "SecurityContextConstraints")
    ((pod, container),) = ((p, c) for name, p, c in containers(rendered) if name == "kubeballoon-agent")
    assert allowed["users"] == ["system:serviceaccount:kubeballoon-system:kubeballoon-agent"]
    assert allowed["allowedCapabilities"] == container["securityContext"]["capabilities"]["add"]
    assert (allowed["allowHostPID"], allowed["allowHostNetwork"]) == (pod["hostPID"], False)
    assert (
        {"hostPath"} == {key for volume in pod["volumes"] for key in volume if key != "name"} <= {*allowed["volumes"]}
    )
    assert not any(item["kind"] == "SecurityContextConstraints" for item in render())


def test_it_renders_without_a_cluster_and_without_options() -> None:
    assert "kind: DaemonSet" in helm("template", "kubeballoon", CHART)


@pytest.mark.parametrize("part", ["controller", "agent"])
def test_a_platform_adds_what_it_asks_for(part: str) -> None:
    values: dict[str, Any] = {
        "extraArgs": ["--some-option=x"],
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "probes": {"liveness": {"timeoutSeconds": 9}},
        "serviceAccount": {"annotations": {"example.com/role": "x"}, "labels": {"team": "y"}},
    }
    rendered = render(f"--set-json={part}={json.dumps(values)}")
    ((_, container),) = ((p, c) for name, p, c in containers(rendered) if name == f"kubeballoon-{part}")
    assert container["args"][-1] == "--some-option=x"
    assert container["env"][-1] == values["extraEnv"][0]
    assert container["livenessProbe"]["timeoutSeconds"] == 9
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["timeoutSeconds"] == 5
    metadata = one(rendered, f"ServiceAccount/kubeballoon-{part}")["metadata"]
    assert metadata["annotations"] == {"example.com/role": "x"}
    assert metadata["labels"]["team"] == "y"


def test_an_account_that_exists_is_used_everywhere_and_not_made() -> None:
    rendered = render("--set=agent.serviceAccount.create=false,agent.serviceAccount.name=mine")
    assert "ServiceAccount/mine" not in names(rendered)
    assert {name: pod["serviceAccountName"] for name, pod, _ in containers(rendered)}["kubeballoon-agent"] == "mine"
    for binding in ("ClusterRoleBinding/kubeballoon-agent", "RoleBinding/kubeballoon-agent-heartbeats"):
        assert one(rendered, binding)["subjects"][0]["name"] == "mine"
    condition = one(rendered, "ValidatingAdmissionPolicy/kubeballoon-nodepressures")["spec"]["matchConditions"][0]
    assert "'system:serviceaccount:kubeballoon-system:mine'" in condition["expression"]
    assert "agent.serviceAccount.name" in refusal("--set=agent.serviceAccount.create=false")


@pytest.mark.parametrize(
    ("said", "status", "passes"),
    [
        ("Controller c-1 leads", 0, True),
        ("Controller c-1 leads\nNeeds attention:\n- no policy", 3, True),
        ("Nodes 2\nNeeds attention:\n- no controller leads: it stopped 9s ago", 3, False),
        ("", 1, False),
    ],
)
def test_helm_test_passes_if_a_controller_leads(tmp_path: Path, said: str, status: int, *, passes: bool) -> None:
    (pod,) = (item for item in render() if item["kind"] == "Pod")
    (container,) = pod["spec"]["containers"]
    program = tmp_path / "status"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{said}'\nexit {status}\n")
    program.chmod(0o755)
    python, option, script = container["command"]
    assert python == "/opt/kubeballoon/bin/python"
    script = script.replace("/opt/kubeballoon/bin/kubectl-balloon", str(program))
    ended = subprocess.run([sys.executable, option, script], check=False)
    assert (ended.returncode == 0) is passes


def test_the_controllers_pods_spread_and_have_another_security_context_where_the_values_say_so() -> None:
    spread = {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
    values = {
        "topologySpreadConstraints": [spread],
        "podSecurityContext": {"runAsUser": 1000},
        "securityContext": {"privileged": False},
    }
    rendered = render(f"--set-json=controller={json.dumps(values)}")
    ((pod, container),) = ((p, c) for name, p, c in containers(rendered) if name == "kubeballoon-controller")
    (constraint,) = pod["topologySpreadConstraints"]
    template = one(rendered, "Deployment/kubeballoon-controller")["spec"]["template"]
    assert constraint["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert constraint.items() >= spread.items()
    assert (pod["securityContext"], container["securityContext"]) == ({"runAsUser": 1000}, {"privileged": False})


def test_objects_of_the_administrator_s_own_are_installed_too() -> None:
    extra = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-extra"}}
    assert "ConfigMap/kubeballoon-extra" in names(render(f"--set-json=extraObjects={json.dumps([extra])}"))
    assert "ConfigMap/kubeballoon-extra" in names(render(f"--set-json=extraObjects={json.dumps([json.dumps(extra)])}"))


def test_the_agents_privileges_are_these_and_no_others() -> None:
    ((pod, container),) = ((p, c) for name, p, c in containers(render()) if name == "kubeballoon-agent")
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]}
    assert "privileged" not in context
    assert context["readOnlyRootFilesystem"]
    assert pod["hostPID"]
    assert not pod.keys() & {"hostNetwork", "hostIPC"}
    assert pod["volumes"] == [
        {"name": "pods", "hostPath": {"path": "/var/lib/kubelet/pods", "type": "Directory"}},
        {"name": "cgroup", "hostPath": {"path": "/sys/fs/cgroup", "type": "Directory"}},
    ]
    assert all(mount["readOnly"] for mount in container["volumeMounts"])


def test_the_agent_reads_the_kubelet_s_configuration_where_the_values_name_it() -> None:
    rendered = containers(render("--set=agent.kubeletConfig=/etc/kubelet.yaml"))
    ((pod, container),) = ((pod, c) for name, pod, c in rendered if name == "kubeballoon-agent")
    volume = {"name": "kubelet-config", "hostPath": {"path": "/etc/kubelet.yaml", "type": "File"}}
    assert volume in pod["volumes"]
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == volume["name"])
    assert mount["readOnly"]
    assert f"--kubelet-config={mount['mountPath']}" in container["args"]


@pytest.mark.parametrize(
    ("command", "value"),
    [
        ("controller", "agent.evictionThreshold=1Gi"),
        ("agent", "agent.evictionThreshold=1Gi"),
        ("agent", "agent.evictionThreshold=2.5%"),
        ("agent", "agent.kubeletConfig=/var/lib/kubelet/config.yaml"),
        ("uninstall", "agent.evictionThreshold=1Gi"),
    ],
)
def test_the_commands_understand_their_arguments(command: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_NAME", "node")
    (arguments,) = (c["args"] for _, _, c in containers(render(f"--set={value}")) if command in c["args"])
    parser = argparse.ArgumentParser()
    parser.add_argument("--log-level")
    parser.add_argument("--log-format")
    importlib.import_module(f"kubeballoon.{command}.main").add_parser(parser.add_subparsers())
    parser.parse_args(arguments)


def test_names_follow_the_release_and_admission_follows_the_names() -> None:
    rendered = render("--set=fullnameOverride=kb", release="other", namespace="elsewhere")
    condition = one(rendered, "ValidatingAdmissionPolicy/kb-virtualmachines")["spec"]["matchConditions"][0]
    assert "'system:serviceaccount:elsewhere:kb-controller'" in condition["expression"]
    condition = one(rendered, "ValidatingAdmissionPolicy/kb-nodepressures")["spec"]["matchConditions"][0]
    assert "'system:serviceaccount:elsewhere:kb-agent'" in condition["expression"]
    assert all(item["metadata"].get("namespace", "elsewhere") == "elsewhere" for item in rendered)


def test_all_of_the_controllers_annotations_are_under_the_protected_prefix() -> None:
    policy = json.dumps(one(render(), "ValidatingAdmissionPolicy/kubeballoon-virtualmachineinstances"))
    (prefix,) = set(re.findall(r"startsWith\('(.*?)'\)", policy))
    assert all(name.startswith(prefix) and name != EXCLUDE for name in CONTROLLER_ANNOTATIONS)


def test_a_digest_takes_precedence_over_a_tag() -> None:
    digest = f"sha256:{'0' * 64}"
    options = ("--set=image.registry=mirror/x,image.tag=v9", f"--set=agent.image.digest={digest}")
    images = {name: container["image"] for name, _, container in containers(render(*options))}
    assert images["kubeballoon-agent"] == f"mirror/x/agent@{digest}"
    assert images["kubeballoon-controller"] == images["kubeballoon-uninstall"] == "mirror/x/controller:v9"


@pytest.mark.parametrize("cgroup", ["kubepods.slice", "memory/nodes/$(NODE_NAME)/kubepods"])
def test_a_cgroup_can_stand_for_the_node_s_memory(cgroup: str) -> None:
    def agent_of(*options: str) -> tuple[list[str], list[str], list[str]]:
        pod = one(render(*options), "DaemonSet/kubeballoon-agent")["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        return container["args"], mounts, [volume["hostPath"]["path"] for volume in pod["volumes"]]

    args, mounts, paths = agent_of()
    assert not [each for each in args if "node-memory-cgroup" in each]
    more_args, more_mounts, more_paths = agent_of(f"--set=agent.nodeMemoryCgroup={cgroup}")
    assert more_args == [*args, f"--node-memory-cgroup=/node-cgroups/{cgroup}"]
    assert (more_mounts, more_paths) == ([*mounts, "/node-cgroups"], [*paths, "/sys/fs/cgroup"])


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("controller.replicas=none", "/controller/replicas"),
        ("controller.replicas=0", "/controller/replicas"),
        ("controller.coolDown=soon", "/controller/coolDown"),
        ("controller.resources.requests.memory=lots", "/controller/resources/requests/memory"),
        ("controller.image.digest=latest", "/controller/image/digest"),
        ("agent.evictionThreshold=105%", "/agent/evictionThreshold"),
        ("agent.kubeletConfig=here", "/agent/kubeletConfig"),
        ("agent.statsPeriod=1.5s", "/agent/statsPeriod"),
        ("agent.maxUnavailable=0", "/agent/maxUnavailable"),
        ("agent.maxUnavailable=0%", "/agent/maxUnavailable"),
        ("controller.podDisruptionBudget.minAvailable=101%", "/controller/podDisruptionBudget/minAvailable"),
        ("agent.kubeletRootDir=here", "/agent/kubeletRootDir"),
        ("agent.nodeMemoryCgroup=/sys/fs/cgroup", "/agent/nodeMemoryCgroup"),
        ("agent.nodeMemoryCgroup=a/../b", "/agent/nodeMemoryCgroup"),
        ("uninstall.timeout=0", "/uninstall/timeout"),
        ("networkPolicy.apiServerPorts={https}", "/networkPolicy/apiServerPorts/0"),
        ("logLevel=LOUD", "/logLevel"),
        ("monitoring.rules.runbookUrl=here", "/monitoring/rules/runbookUrl"),
        ("agents.image=x", "additional properties 'agents' not allowed"),
        ("agent.tolerate=x", "/agent"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(value: str, field: str) -> None:
    assert field in refusal(f"--set={value}")


def test_every_value_is_described_by_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(values: Any, described: Any, path: str) -> None:
        if not described.get("properties"):
            return
        assert described["additionalProperties"] is False, path
        assert values.keys() == described["properties"].keys() - {"global", "claims", "limits"} | values.keys() & {
            "limits"
        }, path
        for key, value in values.items():
            compare(value, described["properties"][key], f"{path}/{key}")

    compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


@pytest.mark.cluster
def test_a_cluster_without_kubevirt_is_one_line() -> None:
    with LocalControlPlane(Programs.find()) as plane, pytest.raises(ControlPlaneError) as refused:
        helm("install", "kubeballoon", CHART, "--dry-run=server", kubeconfig=plane.kubeconfig)
    (line,) = [line for line in str(refused.value).splitlines() if line.startswith("helm install")]
    assert "this cluster has no KubeVirt" in line


def test_an_old_kubernetes_is_one_line() -> None:
    line, *_ = refusal("--kube-version=1.29.5").splitlines()
    assert line == "chart requires kubeVersion: >=1.30.0-0 which is incompatible with Kubernetes v1.29.5"
    render("--kube-version=v1.31.2-gke.100")


@pytest.mark.cluster
def test_the_api_server_accepts_every_object(cluster: ControlPlane) -> None:
    rendered = render(*EVERYTHING)
    cluster.apply(one(rendered, "ServiceAccount/kubeballoon-test"))  # a pod is refused where its account is missing
    text = yaml.safe_dump_all(rendered)
    command = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--filename=-")
    accepted = cluster.kubectl(*command, stdin=text).splitlines()
    assert len(accepted) == len(rendered)
    assert NAMESPACE in text


def test_only_where_taints_are_enabled_may_anything_but_the_uninstaller_write_nodes() -> None:
    def writers(*options: str) -> set[str]:
        roles = [item for item in render(*options) if item["kind"] == "ClusterRole"]
        return {
            item["metadata"]["name"]
            for item in roles
            for rule in item["rules"]
            if "nodes" in rule["resources"] and {"patch", "update"} & set(rule["verbs"])
        }

    assert writers() == {"kubeballoon-uninstall-taints"}
    all_parts = {f"kubeballoon-{part}-taints" for part in ("controller", "agent", "uninstall")}
    assert writers("--set=taints.enabled=true") == all_parts
    assert writers("--set=admission.enabled=false") == set(), "nothing would keep it to the taint"
    assert "needs admission.enabled=true" in refusal("--set=taints.enabled=true,admission.enabled=false")


@pytest.mark.parametrize("without", ["heartbeats.enabled", "admission.enabled"])
def test_only_where_heartbeats_are_enabled_and_bounded_has_anybody_a_right_to_agents_leases(without: str) -> None:
    rendered = render(f"--set={without}=false")
    own = {"get", "create", "update"}
    found = {name: rights(rendered, name) for name in names(rendered) if name.startswith("Role/")}
    assert {name: each["leases"] for name, each in found.items() if "leases" in each} == {
        "Role/kubeballoon-controller": own,
        "Role/kubeballoon-uninstall": own,
    }
    (options,) = (each["args"] for name, _, each in containers(rendered) if name == "kubeballoon-controller")
    assert "--no-heartbeats" in options
    (options,) = (each["args"] for name, _, each in containers(render()) if name == "kubeballoon-controller")
    assert "--no-heartbeats" not in options


def test_the_right_to_migrate_vms_has_a_role_of_its_own_and_changes_no_other() -> None:
    enabled, role = render("--set=migrations.enabled=true"), "ClusterRole/kubeballoon-controller-migrations"
    assert {role: rights(enabled, role) for role in RIGHTS} == RIGHTS
    migrations = {"virtualmachineinstancemigrations": {"create", "list", "watch", "delete"}, "kubevirts": {"list"}}
    assert rights(enabled, role) == {**migrations, "virtualmachineinstances": {"get"}, "nodes": {"get"}}
    limited = render("--set=migrations.enabled=true,migrations.maxAtOnce=7")
    options = [each for *_, container in containers(limited) for each in container.get("args", [])]
    assert "--max-migrations=7" in options
    binding = one(enabled, role.replace("ClusterRole", "ClusterRoleBinding"))
    assert binding["roleRef"]["name"] == "kubeballoon-controller-migrations"
    assert [each["name"] for each in binding["subjects"]] == ["kubeballoon-controller"]
    assert role not in names(render())
    assert "needs admission.enabled=true" in refusal("--set=migrations.enabled=true,admission.enabled=false")
