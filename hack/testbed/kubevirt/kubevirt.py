"""KubeVirt, as its own operator installs it: the images, the operator, and what it is asked for."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from hack.testbed.controlplane import ControlPlane
from hack.testbed.controlplane.commands import run
from hack.testbed.lab import image as lab

from . import build
from .images import NET_BIND_SERVICE, REGISTRY, ContainerImage, LayerWriter, layer, pack

NAMESPACE = "kubevirt"
PAUSE = f"{REGISTRY}/pause:1"
"""What holds a pod's namespaces open."""
GUEST = f"{REGISTRY}/guest:1"
"""The lab's kernel and initramfs, for a VM's kernelBoot."""

_ASK_SECONDS = 30.0
_DEPLOY_SECONDS = 900
_CRC_LIMIT = 1 << 31

# Debian's libvirt starts only where there is its own user.
_USERS = """\
root:x:0:0:root:/root:/bin/bash
qemu:x:107:107::/home/qemu:/bin/bash
libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin
kubevirt:x:1001:1001::/:/usr/sbin/nologin
"""
_GROUP = "root:x:0:\nqemu:x:107:\nlibvirt-qemu:x:64055:\nkubevirt:x:1001:\n"


def archive() -> Path:
    """The archive of all images that the cluster needs beside kubeballoon's own."""
    parts = (build.kubevirt(), build.c_programs(), build.launcher_root(), lab.build().directory)
    sources = (Path(__file__), Path(__file__).with_name("images.py"))
    mark = build.fingerprint([*(path.name.encode() for path in parts), *(path.read_bytes() for path in sources)])
    return build.only("kubevirt-images", mark, _pack)


def _pack(result: Path) -> None:
    scratch = result.parent
    layers = [build.launcher_root(), scratch / "programs.tar"]
    with layer(layers[1]) as writer:
        _add_programs(writer)
    with layer(scratch / "pause.tar") as writer:
        writer.file("pause", build.c_programs() / "pause", 0o755)
    with layer(scratch / "guest.tar") as writer:
        _add_guest(writer, scratch)
    version = build.KUBEVIRT_VERSION
    unprivileged = ("virt-operator", "virt-api", "virt-controller")
    images = [
        ContainerImage(f"{REGISTRY}/{name}:{version}", layers, [f"/usr/bin/{name}"], "1001") for name in unprivileged
    ]
    images += [ContainerImage(f"{REGISTRY}/{name}:{version}", layers) for name in ("virt-handler", "virt-launcher")]
    images += [
        ContainerImage(PAUSE, [scratch / "pause.tar"], ["/pause"], "65535:65535"),
        ContainerImage(GUEST, [scratch / "guest.tar"]),
    ]
    pack(images, result)


def _add_programs(writer: LayerWriter) -> None:
    """Add KubeVirt's programs and the configuration that they expect, where KubeVirt's own images have them."""
    for path in sorted(build.kubevirt().glob("virt-*")):
        capability = NET_BIND_SERVICE if path.name == "virt-launcher-monitor" else ""
        writer.file(f"usr/bin/{path.name}", path, 0o755, capability)
    writer.file("usr/bin/container-disk", build.c_programs() / "container-disk", 0o755)
    writer.file("usr/sbin/virtqemud", build.c_programs() / "virtqemud", 0o755)
    shipped = build.kubevirt_sources() / "cmd/virt-launcher"
    labeller = (shipped / "node-labeller/node-labeller.sh").read_text()
    # It makes /dev/kvm where the kernel knows KVM; but a node has the device only where KVM runs guests.
    writer.file("usr/bin/node-labeller.sh", labeller.replace("mknod /dev/kvm", ": mknod /dev/kvm"), 0o755)
    writer.file("etc/libvirt/hooks/qemu", shipped / "qemu", 0o755)
    for name in ("qemu.conf", "virtqemud.conf"):
        writer.file(f"etc/libvirt/{name}", shipped / name)
    writer.file("etc/nsswitch.conf", shipped / "nsswitch.conf")
    writer.file("etc/passwd", _USERS)
    writer.file("etc/group", _GROUP)
    writer.directory("home/qemu", owner=107)
    # Debian's is absolute: virt-handler, which follows it from /proc/PID/root of a container, would be led back home.
    writer.link("var/run", "../run")


def _add_guest(writer: LayerWriter, scratch: Path) -> None:
    guest = lab.build()
    writer.file("boot/vmlinuz", guest.kernel)
    padded = scratch / "initramfs"
    padded.write_bytes(with_small_checksum(guest.initramfs.read_bytes()))
    writer.file("boot/initramfs", padded)


def with_small_checksum(initramfs: bytes) -> bytes:
    """Pad an initramfs with zero words, which the kernel skips, until its CRC32 fits into 31 bits.

    KubeVirt 1.7.0 has the checksum of a kernelBoot's files in a status field of type int32, and refuses others.
    """
    checksum = zlib.crc32(initramfs)
    padding = 0
    while checksum >= _CRC_LIMIT:
        padding += 4
        checksum = zlib.crc32(bytes(4), checksum)
    return initramfs + bytes(padding)


def install(plane: ControlPlane) -> None:
    """Install the operator, and ask it for KubeVirt.

    Raises:
        ControlPlaneError: The API server refused an object.
    """
    manifests = run([build.kubevirt() / "manifests", REGISTRY, build.KUBEVIRT_VERSION], seconds=_ASK_SECONDS)
    items = json.loads(manifests)["items"]
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    plane.apply_crds([item for item in items if item["kind"] == "CustomResourceDefinition"])
    plane.apply([item for item in items if item["kind"] != "CustomResourceDefinition"])
    plane.apply(_wanted())


def wait(plane: ControlPlane) -> None:
    """Wait until KubeVirt is deployed and VMs may run.

    Raises:
        ControlPlaneError: It is not within fifteen minutes.
    """
    available = ("wait", "kubevirt/kubevirt", f"--namespace={NAMESPACE}", "--for=condition=Available")
    plane.kubectl(*available, f"--timeout={_DEPLOY_SECONDS}s", seconds=_DEPLOY_SECONDS + _ASK_SECONDS)
    schedulable = ("wait", "node", "--all", "--for=jsonpath={.metadata.labels.kubevirt\\.io/schedulable}=true")
    plane.kubectl(*schedulable, f"--timeout={_DEPLOY_SECONDS}s", seconds=_DEPLOY_SECONDS + _ASK_SECONDS)


def _wanted() -> dict[str, Any]:
    """The KubeVirt object; without KVM its VMs are emulated in software."""
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": NAMESPACE},
        "spec": {
            "imagePullPolicy": "IfNotPresent",
            "infra": {"replicas": 1},
            # A VM is migrated to a pod that has room for the memory or the processors that it is given.
            "workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]},
            "configuration": {
                "imagePullPolicy": "IfNotPresent",
                "developerConfiguration": {"useEmulation": True},
                "vmRolloutStrategy": "LiveUpdate",
            },
        },
    }
