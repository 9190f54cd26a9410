"""Container images without a container engine: tar archives of an OCI image layout, which containerd imports."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REGISTRY = "kubeballoon.local"
"""The registry that the cluster's images are named after. It does not exist: every image is imported."""

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_NAME = "io.containerd.image.name"  # the annotation that containerd takes an image's name from

# What file capabilities are in the kernel's own form (VFS_CAP_REVISION_2 with "effective"), for CAP_NET_BIND_SERVICE.
NET_BIND_SERVICE = (b"\x01\x00\x00\x02" + (1 << 10).to_bytes(4, "little") + bytes(12)).decode("ascii")


@dataclass(frozen=True, slots=True)
class ContainerImage:
    """An image to pack.

    Attributes:
        name: With the registry and a tag.
        layers: Tar archives, not compressed, from the bottom up.
        entrypoint: The program and its arguments, unless a pod names its own.
        user: A number, as pods that must not be root insist on; perhaps a group's after a colon.
        environment: Variables of the program.
    """

    name: str
    layers: Sequence[Path]
    entrypoint: Sequence[str] = ()
    user: str = ""
    environment: Mapping[str, str] | None = None

    def config(self, digests: Sequence[str]) -> dict[str, Any]:
        """The image's configuration, as OCI has it; `digests` are those of the layers."""
        variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **(self.environment or {})}
        run: dict[str, Any] = {"Env": [f"{name}={value}" for name, value in variables.items()]}
        if self.entrypoint:
            run["Entrypoint"] = list(self.entrypoint)
        if self.user:
            run["User"] = self.user
        layers = {"type": "layers", "diff_ids": list(digests)}
        return {"architecture": "amd64", "os": "linux", "config": run, "rootfs": layers}


def pack(images: Sequence[ContainerImage], archive: Path) -> None:
    """Write one archive of several images; a layer that images share is in it once.

    Each image also gets its name by digest, by which KubeVirt asks for it on the target of a migration.
    """
    with tarfile.open(archive, "w") as tar:
        blobs = _Blobs(tar)
        index = [described for image in images for described in _describe(image, blobs)]
        _add(tar, "index.json", _encode({"schemaVersion": 2, "manifests": index}))
        _add(tar, "oci-layout", _encode({"imageLayoutVersion": "1.0.0"}))


def _describe(image: ContainerImage, blobs: _Blobs) -> Iterator[dict[str, Any]]:
    layers = [blobs.add_file(path) for path in image.layers]
    config = blobs.add(_encode(image.config([layer["digest"] for layer in layers])), _CONFIG)
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}
    described = blobs.add(_encode(manifest), _MANIFEST)
    for name in (image.name, f"{image.name.rpartition(':')[0]}@{described['digest']}"):
        yield {**described, "annotations": {_NAME: name}}


class _Blobs:
    """The contents in an archive, each once, under its digest."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._files: dict[Path, dict[str, Any]] = {}
        self._there: set[str] = set()

    def add(self, content: bytes, kind: str) -> dict[str, Any]:
        """Add content, and return its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._there:
            self._there.add(digest)
            _add(self._tar, f"blobs/sha256/{digest}", content)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

    def add_file(self, path: Path) -> dict[str, Any]:
        """Add a layer, and return its descriptor."""
        if path not in self._files:
            digest = _digest(path)
            self._tar.add(path, f"blobs/sha256/{digest}", recursive=False)
            self._files[path] = {"mediaType": _LAYER, "digest": f"sha256:{digest}", "size": path.stat().st_size}
        return self._files[path]


@contextmanager
def layer(path: Path) -> Iterator[LayerWriter]:
    """Write a layer of files that all belong to root."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        yield LayerWriter(tar)


@dataclass(frozen=True, slots=True)
class LayerWriter:
    """Add files to a layer."""

    tar: tarfile.TarFile

    def directory(self, path: str, mode: int = 0o755, owner: int = 0) -> None:
        """Add an empty directory."""
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, owner, owner
        self.tar.addfile(entry)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        entry = tarfile.TarInfo(path)
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
        self.tar.addfile(entry)

    def file(self, path: str, content: Path | str, mode: int = 0o644, capability: str = "") -> None:
        """Add a file with the content of another, or a text; `capability` is what `NET_BIND_SERVICE` is."""
        entry = tarfile.TarInfo(path)
        entry.mode = mode
        if capability:
            entry.pax_headers = {"SCHILY.xattr.security.capability": capability}
        data = content.encode() if isinstance(content, str) else content.read_bytes()
        entry.size = len(data)
        self.tar.addfile(entry, io.BytesIO(data))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _encode(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
