"""kubeballoon itself in the cluster: its images, built from this checkout, and the chart, installed by helm."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

from hack.testbed.chart import CHART, NAMESPACE, RELEASE, helm
from hack.testbed.controlplane import ControlPlane
from hack.testbed.controlplane.build import cache_directory
from hack.testbed.controlplane.commands import run
from hack.testbed.controlplane.progress import Progress

from . import build, cgroups
from .images import REGISTRY, ContainerImage, pack

PROGRAM = "/opt/kubeballoon/bin/kubeballoon"
"""PROGRAM is where kubeballoon is in each of its images, which start it as their entrypoint."""
PYTHON = "/opt/kubeballoon/bin/python"

_CHECKOUT = CHART.parents[1]
_SUITE = "bookworm"  # as of images/Containerfile's base
_HERE = Path(__file__).resolve().parent
_SOURCES = (
    *("pyproject.toml", "uv.lock", "README.md", "LICENSE"),
    *("images/Containerfile", "images/root.sh", "images/slim.sh"),
)
_BUILD_SECONDS = 1200.0
_INSTALL_SECONDS = 300
_USERS = {"controller": "65532:65532", "agent": "0:0"}  # as images/Containerfile has them
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@cache  # once a run: the images that are built are those that are installed, though a file is edited meanwhile
def tag() -> str:
    """The images' tag: another for each state of the checkout."""
    own = [_HERE / name for name in ("product.py", "product.sh", "images.py", "packages-product-build.txt")]
    sources = [*(_CHECKOUT / name for name in _SOURCES), *sorted((_CHECKOUT / "operator").rglob("*.py")), *own]
    return build.fingerprint(path.read_bytes() for path in sources)


def archive() -> Path:
    """The archive with the images of controller, which also uninstalls, and agent, as this checkout has them."""
    return build.only("kubeballoon-images", tag(), _pack)


def _pack(result: Path) -> None:
    tools = build.root_file_system("kubeballoon's build", build.listed(_HERE / "packages-product-build.txt"), _SUITE)
    scratch = result.with_suffix(".build")
    scratch.mkdir()
    downloads = cache_directory() / "python-downloads"
    downloads.mkdir(exist_ok=True)
    with Progress("building kubeballoon's images") as progress:
        progress.show("a minute")
        run([_HERE / "product.sh", _CHECKOUT, tools, downloads, scratch], seconds=_BUILD_SECONDS)
    images = [
        ContainerImage(image(part), layers, [PROGRAM], user, _ENVIRONMENT)
        for part, user in _USERS.items()
        for layers in [[scratch / f"{part}-root.tar", scratch / f"{part}.tar"]]
    ]
    pack(images, result)
    shutil.rmtree(scratch)


def image(part: str, image_tag: str | None = None) -> str:
    """The name of a part's image, of this checkout's unless a tag says otherwise."""
    return f"{REGISTRY}/{part}:{image_tag or tag()}"


def options() -> tuple[str, ...]:
    """What helm is told beside the chart's own values: the images of this checkout."""
    return ("--set", f"image.registry={REGISTRY},image.tag={tag()},image.pullPolicy=Never")


def install(plane: ControlPlane, *values: str) -> None:
    """Install the chart, or upgrade to it, and wait until all of its pods are ready.

    Args:
        plane: The cluster.
        values: Values of the chart such as "taints.enabled=true"; the others are the chart's own, whatever was before.

    Raises:
        ControlPlaneError: They are not within five minutes.
    """
    # One that was interrupted would refuse all others.
    interrupted = "--selector=owner=helm,status in (pending-install,pending-upgrade,pending-rollback)"
    plane.kubectl("delete", "secret", f"--namespace={NAMESPACE}", interrupted)
    where = ("upgrade", "--install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace")
    wait = ("--wait", f"--timeout={_INSTALL_SECONDS}s")
    told = (*options(), "--set", ",".join([f"agent.nodeMemoryCgroup={_pods_cgroup()}", *values]))
    helm(*where, *wait, *told, kubeconfig=plane.kubeconfig, seconds=_INSTALL_SECONDS + 60)
    # helm waits for as many agents as an upgrade leaves available, not for all of them.
    rollout = ("rollout", "status", "daemonset", f"{RELEASE}-agent", f"--namespace={NAMESPACE}")
    plane.kubectl(*rollout, f"--timeout={_INSTALL_SECONDS}s", seconds=_INSTALL_SECONDS + 60)


def _pods_cgroup() -> str:
    """The cgroup of a node's pods, its share of the machine, which agents take for its memory; below /sys/fs/cgroup."""
    directory = cgroups.memory_hierarchy(cgroups.hierarchies()) / cgroups.NAME / "$(NODE_NAME)/kubepods"
    return str(directory.relative_to("/sys/fs/cgroup"))


def uninstall(plane: ControlPlane) -> None:
    """Uninstall the chart: every VM has all of its memory back when this returns.

    Raises:
        ControlPlaneError: One has not in time.
    """
    command = ("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", f"--timeout={_INSTALL_SECONDS}s")
    helm(*command, kubeconfig=plane.kubeconfig, seconds=_INSTALL_SECONDS + 60)
