"""How the agent reaches a VM's libvirt daemon: one without root or with, and behind a path of any length."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import libvirt
import pytest

from hack.testbed.lab import GuestSpec, LabNode, LauncherPod
from hack.testbed.lab.unix_sockets import listen
from kubeballoon.agent.hypervisor.errors import GoneError, HypervisorError, SocketRefusedError
from kubeballoon.agent.hypervisor.launcher_sockets import RUNTIME, Launcher, connect_to, find_launcher
from kubeballoon.agent.hypervisor.libvirt import LibvirtHypervisor
from kubeballoon.agent.hypervisor.relay import Relay
from tests.agent.test_libvirt import FakeError
from tests.agent.test_relay import abstract

SESSION, SYSTEM = "/session", "/system"


class FakeDaemon:
    """A FakeDaemon refuses some forms of its address, each with an error code, and notes which were tried."""

    def __init__(self, directory: Path, refusals: dict[str, int]) -> None:
        """Listen in ``directory``."""
        self.listener = listen(directory / "virtqemud-sock")
        self.launcher = Launcher("pod", directory.parent, f"{directory.name}/virtqemud-sock")
        self.refusals = refusals
        self.tried: list[str] = []
        self.reached: list[bytes] = []

    def open(self, uri: str) -> SimpleNamespace:
        """Connect as ``libvirt.open`` does."""
        address = urlsplit(uri)
        self.tried.append(address.path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(abstract(parse_qs(address.query)["socket"][0]))
            client.sendall(b"hello")
            with self.listener.accept()[0] as accepted:
                self.reached.append(accepted.recv(5))
        if address.path in self.refusals:
            raise FakeError(self.refusals[address.path], "refused")
        domain = SimpleNamespace(XMLDesc=lambda: "<domain type='kvm'><memory>1024</memory></domain>")
        return SimpleNamespace(lookupByName=lambda _: domain, close=lambda: None)


def held(directory: Path) -> bool:
    """Whether this process has a file open in a directory, or the directory itself."""
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # another thread closed it meanwhile
            if str(entry.readlink()).startswith(str(directory)):
                return True
    return False


async def connect(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect as the agent does, and close the connection."""
    monkeypatch.setattr(libvirt, "open", daemon.open)
    hypervisor = LibvirtHypervisor()
    try:
        (await hypervisor.connect_memory(daemon.launcher, "default_vm")).close()
    finally:
        hypervisor.forget("pod")
        daemon.listener.close()
        # Through whichever path it was tried, it was this socket; and nothing is left open.
        assert set(daemon.reached) == {b"hello"}
        assert not held(daemon.launcher.pods)


@pytest.fixture(params=[0, 107], ids=["short", "long"])
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
        await LibvirtHypervisor().connect_memory(Launcher("pod", tmp_path, "none/virtqemud-sock"), "default_vm")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """Listen on a socket outside of all pods."""
    with listen(tmp_path / "elsewhere"):
        yield tmp_path / "elsewhere"


@pytest.mark.parametrize("target", ["elsewhere", "nowhere", "x" * 4000])
def test_a_link_in_place_of_the_socket_is_not_followed_but_named(elsewhere: Path, target: str) -> None:
    pods = elsewhere.parent / "pods"
    runtime = pods / "uid" / RUNTIME
    runtime.mkdir(parents=True)
    (runtime / "virtqemud-sock").symlink_to(elsewhere.parent / target)
    with pytest.raises(SocketRefusedError, match="in pod uid a link stands in place of the libvirt socket") as refused:
        find_launcher(pods, ["uid"])
    assert refused.value.reason == "SocketRefused"
    with pytest.raises(SocketRefusedError):
        connect_to(Launcher("uid", pods, f"uid/{RUNTIME}/virtqemud-sock"), 1)


def test_a_link_on_the_way_to_the_socket_is_not_followed(elsewhere: Path) -> None:
    pods, runtime = elsewhere.parent / "pods", elsewhere.parent / "pods/uid" / RUNTIME
    runtime.parent.mkdir(parents=True)
    (runtime.parent / "real").mkdir()
    runtime.symlink_to("real")
    with listen(runtime.parent / "real/virtqemud-sock"):
        assert find_launcher(pods, ["uid"]) is None
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            connect_to(Launcher("uid", pods, f"uid/{RUNTIME}/virtqemud-sock"), 1)


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
    domain = await LibvirtHypervisor().connect_memory(launcher, far.spec.domain_name)
    assert (await domain.sample()).size == far.spec.memory_bytes
    domain.close()


@pytest.mark.guest
def test_a_real_daemon_refuses_the_form_that_is_not_its_own_with_this_error(lab_guest: LauncherPod) -> None:
    launcher = find_launcher(lab_guest.pods, [lab_guest.uid])
    assert launcher is not None
    relay = Relay(connect_to(launcher, 5))
    with pytest.raises(libvirt.libvirtError) as refused:
        libvirt.open(f"qemu+unix:///system?socket={relay.address}")
    relay.close()
    assert refused.value.get_error_code() == libvirt.VIR_ERR_INTERNAL_ERROR
