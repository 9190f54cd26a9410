"""This module reads how the node's kubelet is set up, as far as that decides when it evicts pods for memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kubeballoon.api.quantity import parse_quantity

_SIGNAL = "memory.available"
_LEAST_MINOR = (
    29  # the first minor version of Kubernetes 1 whose kubelet counts as used only what processes and files use
)


class KubeletConfigError(Exception):
    """A KubeletConfigError means that a kubelet's configuration cannot be read; its text is one line for a person."""


@dataclass(frozen=True, slots=True)
class EvictionThreshold:
    """An EvictionThreshold is the memory.available below which a kubelet evicts pods; the larger figure counts.

    Attributes:
        size: bytes.
        percent: percent of the node's capacity.
    """

    size: int = 0
    percent: float = 0.0


DEFAULT_THRESHOLD = EvictionThreshold(100 << 20)
"""What a kubelet that is told nothing has."""


def parse_threshold(text: str) -> EvictionThreshold:
    """Read a threshold as the kubelet's configuration has it: a quantity such as 100Mi, or a percentage such as 5%.

    Raises:
        ValueError: the text is neither.
    """
    if not text.endswith("%"):
        return EvictionThreshold(parse_quantity(text))
    if re.fullmatch(r"[0-9]+([.][0-9]+)?%", text) is None or float(text[:-1]) >= 100:  # noqa: PLR2004 - percent
        raise ValueError(f"{text!r} is not a percentage of the node's memory such as 5%")
    return EvictionThreshold(percent=float(text[:-1]))


def read_threshold(path: Path) -> EvictionThreshold:
    """Read a kubelet's threshold from its configuration file.

    Soft thresholds count as the hard ones do: beyond them the kubelet evicts pods a little later.

    Raises:
        KubeletConfigError: the file cannot be read, or is no KubeletConfiguration.
    """
    try:
        config = yaml.safe_load(path.read_text())
        if not isinstance(config, Mapping) or config.get("kind") != "KubeletConfiguration":
            raise KubeletConfigError(f"{path} is not a KubeletConfiguration")
        return _largest(map(parse_threshold, _written(config)))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise KubeletConfigError(f"{path}: {' '.join(str(error).split())}") from error


def _written(config: Mapping[str, Any]) -> list[str]:
    """List the thresholds that a configuration sets."""
    hard, soft = config.get("evictionHard") or {}, config.get("evictionSoft") or {}
    found = [str(thresholds[_SIGNAL]) for thresholds in (hard, soft) if _SIGNAL in thresholds]
    # A kubelet that is told any hard threshold has no default for the others, unless it is told to merge them.
    if _SIGNAL not in hard and (not hard or config.get("mergeDefaultEvictionSettings")):
        found.append(str(DEFAULT_THRESHOLD.size))
    return found


def _largest(thresholds: Iterable[EvictionThreshold]) -> EvictionThreshold:
    every = list(thresholds)
    return EvictionThreshold(
        max((each.size for each in every), default=0), max((each.percent for each in every), default=0.0)
    )


def is_old(version: str) -> bool:
    """Whether a kubelet is older than 1.29, by the ``kubeletVersion`` of its Node; not where that says nothing."""
    found = re.match(r"v?1[.]([0-9]+)", version)
    return found is not None and int(found[1]) < _LEAST_MINOR
