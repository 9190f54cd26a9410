"""The archives that containerd imports."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

from hack.testbed.kubevirt.images import NET_BIND_SERVICE, ContainerImage, layer, pack
from hack.testbed.kubevirt.kubevirt import with_small_checksum


def packed(tmp_path: Path, *images: ContainerImage) -> dict[str, bytes]:
    archive = tmp_path / "archive.tar"
    pack(images, archive)
    with tarfile.open(archive) as tar:
        return {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in tar}


def index(files: dict[str, bytes]) -> dict[str, str]:
    """The digest of each name's manifest."""
    manifests = json.loads(files["index.json"])["manifests"]
    return {each["annotations"]["io.containerd.image.name"]: each["digest"] for each in manifests}


def blob(files: dict[str, bytes], digest: str) -> Any:
    content = files[f"blobs/sha256/{digest.removeprefix('sha256:')}"]
    assert hashlib.sha256(content).hexdigest() == digest.removeprefix("sha256:")
    return json.loads(content)


def a_layer(path: Path, text: str) -> Path:
    with layer(path) as writer:
        writer.file("etc/text", text)
    return path


def test_an_image_has_its_name_and_its_name_by_digest(tmp_path: Path) -> None:
    image = ContainerImage(
        "example.local/part:1", [a_layer(tmp_path / "layer", "one")], ["/part"], "65532:65532", {"A": "b"}
    )
    files = packed(tmp_path, image)
    names = index(files)
    digest = names["example.local/part:1"]
    assert set(names) == {"example.local/part:1", f"example.local/part@{digest}"}
    config = blob(files, blob(files, digest)["config"]["digest"])["config"]
    assert (config["Entrypoint"], config["User"]) == (["/part"], "65532:65532")
    assert "A=b" in config["Env"]


def test_a_layer_that_images_share_is_in_the_archive_once(tmp_path: Path) -> None:
    shared = a_layer(tmp_path / "shared", "shared")
    own = a_layer(tmp_path / "own", "own")
    files = packed(
        tmp_path, ContainerImage("example.local/a:1", [shared]), ContainerImage("example.local/b:1", [shared, own])
    )
    names = index(files)
    layers = {name: [each["digest"] for each in blob(files, names[name])["layers"]] for name in names}
    assert layers["example.local/b:1"][0] == layers["example.local/a:1"][0]
    assert (
        len([name for name in files if name.startswith("blobs/")]) == 2 + 2 * 2
    )  # layers; manifests and configurations


def test_a_file_keeps_its_capability_mode_and_owner(tmp_path: Path) -> None:
    with layer(tmp_path / "layer") as writer:
        writer.file("usr/bin/program", "#!/bin/sh\n", 0o755, NET_BIND_SERVICE)
    with tarfile.open(tmp_path / "layer") as tar:
        (member,) = tar
    assert (member.mode, member.uid, member.gid) == (0o755, 0, 0)
    capability = member.pax_headers["SCHILY.xattr.security.capability"].encode()
    assert (len(capability), capability[:4], capability[4:8]) == (
        20,
        b"\x01\x00\x00\x02",
        (1 << 10).to_bytes(4, "little"),
    )


def test_an_initramfs_is_padded_until_its_checksum_fits_into_a_signed_number() -> None:
    contents = [bytes([number]) * 64 for number in range(32)]
    assert any(zlib.crc32(content) >= 1 << 31 for content in contents)
    for content in contents:
        padded = with_small_checksum(content)
        assert zlib.crc32(padded) < 1 << 31
        assert padded[:64] == content
        assert not any(padded[64:])
        assert len(padded) % 4 == 0
