"""How the agent reaches a VM's libvirt daemon: one without root or with, and behind a path of any length."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import libvirt
import pytest

from hack.testbed.lab import GuestSpec, LabNode, LauncherPod
from kubeballoon.agent.hypervisor.errors import GoneError, HypervisorError
from kubeballoon.agent.hypervisor.launcher_sockets import LONGEST_SOCKET_PATH, Launcher, find_launcher, uris
from kubeballoon.agent.hypervisor.libvirt import LibvirtHypervisor
from tests.agent.test_libvirt import FakeError

SESSION, SYSTEM = "/session", "/system"


class FakeDaemon:
    """A FakeDaemon refuses some forms of its address, each with an error code, and notes which were tried."""

    def __init__(self, directory: Path, refusals: dict[str, int]) -> None:
        """Listen in ``directory``."""
        self.launcher = Launcher("pod", directory / "virtqemud-sock")
        self.refusals = refusals
        self.tried: list[str] = []
        self.reached: list[str] = []

    def open(self, uri: str) -> SimpleNamespace:
        """Connect as ``libvirt.open`` does."""
        address = urlsplit(uri)
        self.tried.append(address.path)
        (socket,) = parse_qs(address.query)["socket"]
        self.reached.append(os.path.realpath(socket))
        assert len(socket) <= LONGEST_SOCKET_PATH
        if address.path in self.refusals:
            raise FakeError(self.refusals[address.path], "refused")
        domain = SimpleNamespace(XMLDesc=lambda: "<domain type='kvm'><memory>1024</memory></domain>")
        return SimpleNamespace(lookupByName=lambda _: domain, close=lambda: None)


def is_held(directory: Path) -> bool:
    """Whether this process has a directory open."""
    return str(directory) in {os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()}


async def connect(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect as the agent does, and close the connection."""
    monkeypatch.setattr(libvirt, "open", daemon.open)
    hypervisor = LibvirtHypervisor()
    try:
        (await hypervisor.connect(daemon.launcher, "default_vm")).close()
    finally:
        hypervisor.forget("pod")
        # Through whichever path it was tried, it was this socket; and nothing is left open.
        assert set(daemon.reached) == {str(daemon.launcher.socket)}
        assert not is_held(daemon.launcher.socket.parent)


@pytest.fixture(params=[0, LONGEST_SOCKET_PATH], ids=["short", "long"])
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Make a directory for a socket, whose path is short, or too long for a socket."""
    made: Path = tmp_path / f"d{'d' * request.param}"
    made.mkdir()
    return made


@pytest.mark.parametrize(
    ("refusals", "tried"),
    [({}, [SESSION]), ({SESSION: libvirt.VIR_ERR_INTERNAL_ERROR}, [SESSION, SYSTEM])],
    ids=["without root", "with root"],
)
async def test_a_daemon_is_reached_in_the_form_that_it_takes(
    directory: Path, refusals: dict[str, int], tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = FakeDaemon(directory, refusals)
    await connect(daemon, monkeypatch)
    assert daemon.tried == tried


@pytest.mark.parametrize(
    ("refusals", "tried", "raises"),
    [
        ({SESSION: libvirt.VIR_ERR_AUTH_FAILED}, [SESSION], HypervisorError),
        ({SESSION: libvirt.VIR_ERR_SYSTEM_ERROR}, [SESSION], GoneError),
        (dict.fromkeys((SESSION, SYSTEM), libvirt.VIR_ERR_INTERNAL_ERROR), [SESSION, SYSTEM], GoneError),
    ],
    ids=["refuses the agent", "does not answer", "takes neither form"],
)
async def test_an_error_that_does_not_concern_the_form_is_not_tried_twice(
    directory: Path,
    refusals: dict[str, int],
    tried: list[str],
    raises: type[HypervisorError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    daemon = FakeDaemon(directory, refusals)
    with pytest.raises(raises) as raised:
        await connect(daemon, monkeypatch)
    assert type(raised.value) is raises
    assert daemon.tried == tried


async def test_a_pod_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(GoneError, match="the socket of pod pod is gone: No such file"):
        await LibvirtHypervisor().connect(Launcher("pod", tmp_path / "none/virtqemud-sock"), "default_vm")


@pytest.fixture
def far(lab_node: LabNode, tmp_path: Path) -> Iterator[LauncherPod]:
    """Start a guest in a pods directory whose path alone is longer than a socket's may be."""
    pods = tmp_path / ("p" * (120 - len(str(tmp_path)) - 1))
    assert len(str(pods)) == 120
    pod = lab_node.start(GuestSpec(name="far"), pods)
    yield pod
    lab_node.stop(pod.spec.name)


@pytest.mark.guest
async def test_a_real_daemon_is_reached_however_long_its_path_is(far: LauncherPod) -> None:
    launcher = find_launcher(far.pods, [far.uid])
    assert launcher is not None
    domain = await LibvirtHypervisor().connect(launcher, far.spec.domain_name)
    assert (await domain.sample()).size == far.spec.memory_bytes
    domain.close()


@pytest.mark.guest
def test_a_real_daemon_refuses_the_form_that_is_not_its_own_with_this_error(lab_guest: LauncherPod) -> None:
    _, system = uris(Launcher(lab_guest.uid, lab_guest.socket), None)
    with pytest.raises(libvirt.libvirtError) as refused:
        libvirt.open(system)
    assert refused.value.get_error_code() == libvirt.VIR_ERR_INTERNAL_ERROR
