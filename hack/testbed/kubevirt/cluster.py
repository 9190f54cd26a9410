"""The whole cluster: made, and taken down whatever state it is in."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from hack.testbed.controlplane import ControlPlane, ControlPlaneError, NamedControlPlane
from hack.testbed.controlplane import build as control_plane
from hack.testbed.lab import image
from hack.testbed.lab.accelerator import kvm_boots
from hack.testbed.tools import HELM

from . import build, cgroups, checks, diagnosis, kubevirt, network, processes, product
from .control import Control
from .node import Node

DIRECTORY = Path("/var/lib") / cgroups.NAME
"""Everything that the cluster writes. There is one cluster of a name on a machine."""
KUBECONFIG = DIRECTORY / "kubeconfig"
PORT_VARIABLE = "KUBEBALLOON_CLUSTER_PORT"
NODES = 2

_PORT = 16443
_LAST_PORT = (1 << 16) - 1
_NETWORK = DIRECTORY / "network"
_READY = DIRECTORY / "ready"  # there once all of it was
_FORWARD = Path(__file__).with_name("forward.py")
_LOCK = Path("/run/lock") / cgroups.NAME
_READY_SECONDS = 120.0
_POLL_SECONDS = 0.5
_REMOVED_AT_ONCE = 32  # files


def up() -> None:
    """Make the cluster anew, with KubeVirt in it; one that is there is taken down first.

    Raises:
        ControlPlaneError: The machine cannot, or a part did not start; what was started is still there, with its logs.
    """
    with _locked():
        _take_down()
        checks.check(DIRECTORY)
        chosen = port()
        with network.listen(chosen):
            pass  # told before minutes are spent
        say("building what is not built yet")
        archives = _build()
        _start(chosen)
        import_images(*archives)
        say("waiting for the nodes")
        _await_api()
        with NamedControlPlane(KUBECONFIG) as plane:
            _prepare_nodes(plane)
            say("installing KubeVirt")
            kubevirt.install(plane)
            kubevirt.wait(plane)
            say("installing kubeballoon")
            product.install(plane)
        _READY.touch()
        say("ready; for kubectl, kubectl balloon and helm:")
        print(f"export KUBECONFIG={KUBECONFIG} PATH={_link_programs()}:$PATH", flush=True)


def ensure() -> None:
    """Make the cluster unless it is there; have it run what this checkout is in either case."""
    if not _READY.exists():
        up()
        return
    import_images(product.archive())
    with NamedControlPlane(KUBECONFIG) as plane:
        product.install(plane)


def down() -> None:
    """Take the cluster down, however much of it there is; nothing of it is left."""
    with _locked():
        _take_down()
    _LOCK.unlink(missing_ok=True)


def diagnose() -> None:
    """Print what may tell why a cluster failed: the ends of its logs, and what its API server answers, if it does."""
    found = list(diagnosis.log_ends(DIRECTORY))
    if KUBECONFIG.exists():
        try:
            with NamedControlPlane(KUBECONFIG) as plane:
                found += diagnosis.sections(plane)
        except ControlPlaneError as error:
            found.append(("API server", str(error)))
    for title, text in found:
        print(f"--- {title}\n{text}", flush=True)


def kill(group: str, program: str) -> None:
    """Kill a program that keeps running in one of the cluster's cgroups, such as "control"; it is started again.

    Raises:
        ControlPlaneError: It does not run there.
    """
    _signal(group, program, signal.SIGKILL)


@contextmanager
def stopped(group: str, program: str) -> Iterator[None]:
    """Stop a program in one of the cluster's cgroups, so that it hangs, until the context ends.

    Raises:
        ControlPlaneError: It does not run there.
    """
    _signal(group, program, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(group, program, signal.SIGCONT)


def _signal(group: str, program: str, number: int) -> None:
    if not cgroups.send_signal(group, program, cgroups.hierarchies(), number):
        raise ControlPlaneError(f"there is no {program} in {cgroups.NAME}/{group}")


def port() -> int:
    """A port of this machine's loopback for the API server: any that is free, if a cluster has a name of its own.

    Raises:
        ControlPlaneError: `PORT_VARIABLE` says something else than a port.
    """
    if PORT_VARIABLE not in os.environ and cgroups.NAME != cgroups.DEFAULT_NAME:
        return network.free_port()
    wanted = os.environ.get(PORT_VARIABLE, str(_PORT))
    if not wanted.isascii() or not wanted.isdigit() or not 0 < int(wanted) <= _LAST_PORT:
        raise ControlPlaneError(f"{PORT_VARIABLE} is no port: {wanted}")
    return int(wanted)


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"cluster: {text}", file=sys.stderr, flush=True)


def nodes() -> list[Node]:
    """The nodes of the cluster."""
    return [Node(number, DIRECTORY / f"node-{number}") for number in range(1, NODES + 1)]


def import_images(*archives: Path) -> None:
    """Give every node the images of archives."""
    say("giving the nodes their images")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda node: node.import_images(*archives), nodes()))


def _link_programs() -> Path:
    """Make the directory with the programs that a user of the cluster needs."""
    directory = DIRECTORY / "bin"
    directory.mkdir()
    programs = (
        control_plane.control_plane() / "kubectl",
        HELM.path(),
        Path(sys.executable).with_name("kubectl-balloon"),
    )
    for program in programs:
        (directory / program.name).symlink_to(program)
    return directory


def _build() -> tuple[Path, ...]:
    """Build all that is needed; return the archives of images."""
    control_plane.control_plane()
    build.kubelet()
    build.dns()
    HELM.path()
    return kubevirt.archive(), product.archive()


def _start(chosen: int) -> None:
    say("starting the control plane and the nodes")
    DIRECTORY.mkdir(mode=0o700, parents=True)
    network.create(_NETWORK)
    roots = cgroups.hierarchies()
    control = Control(DIRECTORY / "control")
    control.write(KUBECONFIG, chosen)
    own = cgroups.create("control", roots)
    control.start(_NETWORK, own)
    _forward(own, chosen)
    kvm = kvm_boots(image.build())
    for node in nodes():
        node.write(control)
        node.start(_NETWORK, roots, kvm=kvm)


def _forward(own: list[Path], chosen: int) -> None:
    """Start what connects the port on loopback with the API server: it listens outside of the namespace it is in."""
    with network.listen(chosen) as listener:
        to = (str(listener.fileno()), network.API_SERVICE, str(network.API_PORT))
        command: list[str | Path] = [*network.inside(_NETWORK), sys.executable, _FORWARD, *to]
        processes.start(command, DIRECTORY / "forward.log", own, inherit=(listener.fileno(),))


def _await_api() -> None:
    """Wait until the API server answers."""
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            with NamedControlPlane(KUBECONFIG):  # which asks whether it is ready
                return
        except ControlPlaneError as error:
            if time.monotonic() > deadline:
                log = DIRECTORY / "control/kube-apiserver.log"
                raise ControlPlaneError("the API server is not ready in time", log) from error
            time.sleep(_POLL_SECONDS)


def _prepare_nodes(plane: ControlPlane) -> None:
    """Wait until the nodes are ready, and label them as those that KubeVirt puts its own parts on."""
    deadline = time.monotonic() + _READY_SECONDS
    names = [node.name for node in nodes()]
    while sorted(plane.kubectl("get", "node", "--output=jsonpath={.items[*].metadata.name}").split()) != names:
        if time.monotonic() > deadline:
            raise ControlPlaneError("a kubelet does not register its node", nodes()[0].directory / "logs/kubelet.log")
        time.sleep(_POLL_SECONDS)
    plane.kubectl("label", "node", "--all", "node-role.kubernetes.io/control-plane=")
    timeout = f"--timeout={_READY_SECONDS:g}s"
    plane.kubectl("wait", "node", "--all", "--for=condition=Ready", timeout, seconds=_READY_SECONDS * 2)


def _take_down() -> None:
    """End all processes by their cgroups, and with them their namespaces and mounts; then remove the files."""
    cgroups.remove(cgroups.hierarchies())
    network.remove(_NETWORK)
    if DIRECTORY.exists():
        _remove(DIRECTORY)


def _remove(directory: Path) -> None:
    """Remove a directory with all that is in it, many files at once.

    One after the other, its 30,000 files took two minutes on a busy disk, which answers each after milliseconds.
    """
    with ThreadPoolExecutor(_REMOVED_AT_ONCE) as pool:
        for below, _, names in os.walk(directory):
            for name in names:
                pool.submit(Path(below, name).unlink)
    shutil.rmtree(directory)  # tells why, if a file is still there


@contextmanager
def _locked() -> Iterator[None]:
    checks.check_root()
    with _LOCK.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ControlPlaneError("another make cluster or make cluster-down is at work") from error
        yield
