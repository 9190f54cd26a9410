"""The control plane that is used is found in the documented order; what must be built is built once."""

from __future__ import annotations

import io
import json
import os
import select
import shutil
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from hack.testbed.controlplane import (
    KUBECONFIG_VARIABLE,
    ControlPlaneError,
    NamedControlPlane,
    build,
    open_control_plane,
)
from hack.testbed.controlplane.programs import DIRECTORY_VARIABLE, Programs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NEW_GO = "go1.99.0"
OLD_GO = "go1.20.1"
PATIENCE_SECONDS = 30

# A fake go: prints its version, lists two packages, and "builds" the file after -o; logs its calls.
FAKE_GO = """\
#!/bin/sh
echo "$0 $*" >>"{calls}"
case "$1" in
env) echo {version} ;;
list) echo "go: downloading example.org/module v1.0.0" >&2; echo fmt; echo main ;;
build)
    {build}
    while [ "$1" != -o ]; do shift; done
    printf '#!/bin/sh\\necho "{{}}"\\n' >"$2"
    chmod +x "$2"
    ;;
esac
"""


class Workshop:
    """A PATH with fake programs, an empty cache, and a log of the fakes' calls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.cache = root / "cache" / "kubeballoon"
        self.calls_file = root / "calls"
        self.bin.mkdir()
        self.calls_file.touch()

    def script(self, path: Path, text: str) -> Path:
        """Write an executable file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def go(self, version: str = NEW_GO, before_build: str = ":") -> Path:
        """Put a fake go on PATH."""
        text = FAKE_GO.format(calls=self.calls_file, version=version, build=before_build)
        return self.script(self.bin / "go", text)

    def calls(self, verb: str) -> list[str]:
        """Return the calls of the fakes with this first argument."""
        return [line for line in self.calls_file.read_text().splitlines() if line.split()[1] == verb]

    def programs(self, names: Sequence[str]) -> Path:
        """Create a directory with programs of these names."""
        directory = self.root / "programs"
        for name in names:
            self.script(directory / name, "#!/bin/sh\n")
        return directory


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = Workshop(tmp_path)
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(KUBECONFIG_VARIABLE, raising=False)
    monkeypatch.delenv(DIRECTORY_VARIABLE, raising=False)
    return made


def test_kubeconfig_of_the_environment_names_a_cluster(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeconfig = workshop.root / "kubeconfig"
    kubeconfig.touch()
    monkeypatch.setenv(KUBECONFIG_VARIABLE, str(kubeconfig))
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(workshop.programs(build.PROGRAMS)))
    opened = open_control_plane()
    assert isinstance(opened, NamedControlPlane)
    assert opened.kubeconfig == kubeconfig


def test_given_kubeconfig_goes_before_that_of_the_environment(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfig = workshop.root / "kubeconfig"
    kubeconfig.touch()
    monkeypatch.setenv(KUBECONFIG_VARIABLE, str(workshop.root / "other"))
    assert open_control_plane(kubeconfig).kubeconfig == kubeconfig


def test_missing_kubeconfig_is_an_error(workshop: Workshop) -> None:
    with pytest.raises(ControlPlaneError, match=r"no such kubeconfig: .*/missing"):
        open_control_plane(workshop.root / "missing")


def test_ordinary_kubeconfig_is_not_used(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeconfig = workshop.root / "kubeconfig"
    kubeconfig.touch()
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(workshop.programs(build.PROGRAMS)))
    assert not isinstance(open_control_plane(), NamedControlPlane)


def test_named_directory_is_used_and_nothing_built(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.go()
    directory = workshop.programs(build.PROGRAMS)
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(directory))
    programs = Programs.find()
    assert programs.kube_apiserver == directory / "kube-apiserver"
    assert programs.kube_controller_manager == directory / "kube-controller-manager"
    assert not workshop.calls_file.read_text()


def test_named_directory_may_lack_the_controllers(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(workshop.programs(("etcd", "kube-apiserver", "kubectl"))))
    assert Programs.find().kube_controller_manager is None
    assert not open_control_plane().has_controllers


def test_named_directory_must_have_the_rest(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = workshop.programs(("etcd",))
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(directory))
    with pytest.raises(ControlPlaneError, match=f"no kube-apiserver and no kubectl in {directory}"):
        Programs.find()


def test_builds_once(workshop: Workshop) -> None:
    workshop.go()
    first = Programs.find()
    assert all(os.access(workshop.cache / first.etcd.parent / program, os.X_OK) for program in build.PROGRAMS)
    assert Programs.find() == first
    assert len(workshop.calls("build")) == 1


def test_built_server_knows_its_version(workshop: Workshop) -> None:
    workshop.go()
    Programs.find()
    version = build.CLUSTER.requirement("k8s.io/kubernetes")
    assert f"version.gitVersion={version} " in workshop.calls("build")[0]


def test_kubevirt_crds_are_what_the_built_program_prints(workshop: Workshop) -> None:
    workshop.go()
    assert build.built_kubevirt_crds().read_text() == "{}\n"
    build.built_kubevirt_crds()
    assert len(workshop.calls("build")) == 1


def test_kubevirt_crds_need_not_be_built(workshop: Workshop) -> None:
    workshop.go()
    names = [crd["metadata"]["name"] for crd in json.loads(build.kubevirt_crds())["items"]]
    assert "virtualmachineinstances.kubevirt.io" in names
    assert not workshop.calls_file.read_text()


def test_kubevirt_crds_are_built_once_their_generator_was_changed(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.go()
    copy = shutil.copytree(build.KUBEVIRT_CRDS.directory, tmp_path / "module")
    with (copy / "go.mod").open("a") as file:
        file.write("// another version\n")
    monkeypatch.setattr(build, "KUBEVIRT_CRDS", build.GoModule(copy, ""))
    assert build.kubevirt_crds() == "{}\n"


@pytest.mark.parametrize("changed", ["go.mod", "go.sum", "main.go"])
def test_any_change_of_the_module_is_built_anew(tmp_path: Path, changed: str) -> None:
    copy = shutil.copytree(build.KUBEVIRT_CRDS.directory, tmp_path / "module")
    module = build.GoModule(copy, "")
    assert module.fingerprint() == build.KUBEVIRT_CRDS.fingerprint()
    with (copy / changed).open("a") as file:
        file.write("\n")
    assert module.fingerprint() != build.KUBEVIRT_CRDS.fingerprint()
    assert module.sources_digest() != build.KUBEVIRT_CRDS.sources_digest()


def test_old_go_is_passed_over_for_pypis(workshop: Workshop) -> None:
    workshop.go(OLD_GO)
    new_go = FAKE_GO.format(calls=workshop.calls_file, version=NEW_GO, build=":")
    staged = workshop.script(workshop.root / "staged-go", new_go)
    workshop.script(
        workshop.bin / "uv",
        f"""#!/bin/sh
        while [ "$1" != --target ]; do shift; done
        mkdir -p "$2/go/bin" && cp {staged} "$2/go/bin/go" && echo uv install "$3" >>{workshop.calls_file}
        """,
    )
    Programs.find()
    build.built_kubevirt_crds()
    assert workshop.calls("install") == [f"uv install {build.GO_PACKAGE}"]
    assert all(call.startswith(str(workshop.cache)) for call in workshop.calls("build"))


@pytest.mark.parametrize("module", [build.CLUSTER, build.KUBEVIRT_CRDS])
def test_pypis_go_is_new_enough(module: build.GoModule) -> None:
    version = tuple(map(int, build.GO_PACKAGE.partition("==")[2].split(".")))
    assert version >= module.go_version()


def test_no_go_at_all_is_one_clear_error(workshop: Workshop) -> None:
    workshop.go(OLD_GO)
    workshop.script(workshop.bin / "uv", "#!/bin/sh\necho no network >&2\nexit 2\n")
    with pytest.raises(ControlPlaneError, match="no network"):
        Programs.find()


def test_failed_build_shows_its_log_and_leaves_nothing(workshop: Workshop) -> None:
    workshop.go(before_build="echo main.go:1: undefined: x; exit 1")
    with pytest.raises(ControlPlaneError, match=r"`go build` failed(.|\n)*build\.log:(.|\n)*undefined: x"):
        Programs.find()
    workshop.go()
    assert Programs.find().kubectl.exists()


class Announcer(io.StringIO):
    """A fake stderr with an event that is set when a builder waits for another."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Event()

    def write(self, text: str) -> int:
        """Set the event at the builder's message."""
        if "waiting for another build" in text:
            self.waiting.set()
        return super().write(text)


def open_pipe(path: Path) -> int:
    os.mkfifo(path)
    return os.open(path, os.O_RDWR)  # opening one end alone would block


def test_concurrent_builders_build_once(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    started = open_pipe(workshop.root / "started")
    proceed = open_pipe(workshop.root / "proceed")
    workshop.go(before_build=f"echo >{workshop.root}/started; read _ <{workshop.root}/proceed")
    monkeypatch.setattr(sys, "stderr", announcer := Announcer())
    with ThreadPoolExecutor() as pool:
        first = pool.submit(Programs.find)
        try:
            assert select.select([started], [], [], PATIENCE_SECONDS)[0]
            second = pool.submit(Programs.find)
            assert announcer.waiting.wait(PATIENCE_SECONDS)
        finally:
            os.write(proceed, b"\n" * 2)
        assert first.result() == second.result()
    assert len(workshop.calls("build")) == 1
    os.close(started)
    os.close(proceed)
