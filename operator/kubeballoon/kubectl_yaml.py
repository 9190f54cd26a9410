"""This module reads YAML as kubectl does, which turns it into JSON before it sends it.

kubectl's library knows other words and numbers than PyYAML: ``1e3`` is a number to it, ``12:30`` and ``2026-01-01`` are
texts, and a whole number is one whether it is written as 5, 5.0 or 0o5.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"[yY]|yes|Yes|YES|on|On|ON|true|True|TRUE")
_FALSE = re.compile(r"[nN]|no|No|NO|off|Off|OFF|false|False|FALSE")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+|0o?[0-7]+|0b[01]+)")
_NUMBER = re.compile(r"[-+]?([.][0-9]+|[0-9]+([.][0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?[.](inf|Inf|INF)|[.](nan|NaN|NAN)")
_BASES = {"0x": 16, "0o": 8, "0b": 2}
_LONGEST_INTEGER = 70  # characters, for all 64 bits in any base; longer ones are no whole numbers to kubectl either

_PLAIN = "kubectl's plain scalar"


class _Loader(yaml.SafeLoader):
    """A _Loader loads a plain scalar as what kubectl takes it for, and every key as a text."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """Find the tag of a node that has none; quoted scalars are not plain."""
        tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]  # types-pyyaml leaves it out
        plain = kind is yaml.ScalarNode and implicit[0] and tag != "tag:yaml.org,2002:merge"
        return _PLAIN if plain else tag

    def construct_plain(self, node: yaml.ScalarNode) -> Any:
        """Read a scalar that stands without quotes."""
        return _parse(str(self.construct_scalar(node)))

    def construct_number(self, node: yaml.ScalarNode) -> float:
        """Construct a number with the tag of one."""
        return _whole(self.construct_yaml_float(node))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's
        """Construct a mapping, whose keys become texts as in JSON."""
        found = super().construct_mapping(node, deep=deep)
        return {key if isinstance(key, str) else json.dumps(key, default=str): each for key, each in found.items()}


_Loader.add_constructor(_PLAIN, _Loader.construct_plain)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)


def load_yaml(text: str) -> Iterator[Any]:
    """Load all documents of a text.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    yield from yaml.load_all(text, _Loader)


def _parse(text: str) -> Any:
    """Find what a plain scalar is: null, a truth value, a number or a text."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return _TRUE.fullmatch(text) is not None
    plain = text if text.startswith("_") else text.replace("_", "")
    if _INTEGER.fullmatch(plain) and len(plain) <= _LONGEST_INTEGER:
        return _integer(plain)
    if _NUMBER.fullmatch(plain):
        number = float(plain)
        return text if math.isinf(number) else _whole(number)
    return float(text.replace(".", "")) if _NOT_FINITE.fullmatch(text) else text


def _whole(number: float) -> float:
    """Return a whole number as one, as it is in JSON."""
    return int(number) if number.is_integer() else number


def _integer(text: str) -> int:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.removeprefix("+"))
    base = _BASES.get(digits[:2]) or (8 if digits[0] == "0" else 10)
    return sign * int(digits, base)
