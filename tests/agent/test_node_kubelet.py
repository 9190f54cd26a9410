"""When the node's kubelet evicts pods, by its configuration and its version."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kubeballoon.agent.node.kubelet import (
    EvictionThreshold,
    KubeletConfigError,
    is_old,
    parse_threshold,
    read_threshold,
)

MIB = 1 << 20
DEFAULT = EvictionThreshold(100 * MIB)


def written(directory: Path, **fields: object) -> Path:
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump({"kind": "KubeletConfiguration", **fields}))
    return path


@pytest.mark.parametrize(
    ("fields", "threshold"),
    [
        ({}, DEFAULT),
        ({"evictionHard": {}}, DEFAULT),
        ({"evictionHard": {"memory.available": "500Mi"}}, EvictionThreshold(500 * MIB)),
        ({"evictionHard": {"memory.available": "5%"}}, EvictionThreshold(percent=5)),
        ({"evictionHard": {"memory.available": "2.5%"}}, EvictionThreshold(percent=2.5)),
        (
            {"evictionHard": {"memory.available": "5%"}, "evictionSoft": {"memory.available": "1Gi"}},
            EvictionThreshold(1024 * MIB, 5),
        ),
        ({"evictionHard": {"nodefs.available": "10%"}}, EvictionThreshold()),
        ({"evictionHard": {"nodefs.available": "10%"}, "mergeDefaultEvictionSettings": True}, DEFAULT),
    ],
)
def test_the_threshold_is_the_kubelet_s_own(
    tmp_path: Path, fields: dict[str, object], threshold: EvictionThreshold
) -> None:
    assert read_threshold(written(tmp_path, **fields)) == threshold


@pytest.mark.parametrize("text", ["kind: Pod", "[]", ": {", "kind: KubeletConfiguration\nevictionHard: 5", ""])
def test_a_file_that_is_no_kubelet_s_configuration_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(KubeletConfigError, match=r"config\.yaml") as error:
        read_threshold(path)
    assert "\n" not in str(error.value)
    with pytest.raises(KubeletConfigError, match=r"none\.yaml"):
        read_threshold(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["much", "5 %", "-5%", "100%", "1e999%", "%"])
def test_a_threshold_is_a_quantity_or_a_percentage(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parse_threshold(text)


@pytest.mark.parametrize("version", ["v1.28.15", "v1.27.1+k3s1"])
def test_kubelets_before_1_29_are_old(version: str) -> None:
    assert is_old(version)


@pytest.mark.parametrize("version", ["v1.29.0", "v1.36.3-gke.100", ""])
def test_later_kubelets_are_not(version: str) -> None:
    assert not is_old(version)
