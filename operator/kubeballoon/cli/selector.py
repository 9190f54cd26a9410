"""This module reads label selectors as kubectl's ``-l`` takes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kubeballoon.cli.arguments import WrongOptionError

if TYPE_CHECKING:
    from kubeballoon.api.selector import LabelSelector, Requirement

_KEY = r"\s*([^\s=!,()]+)"
_EQUAL = re.compile(rf"{_KEY}\s*(==|=|!=)\s*([^\s=!,()]*)\s*")
_SET = re.compile(rf"{_KEY}\s+(in|notin)\s*\(([^()]*)\)\s*")
_EXISTS = re.compile(rf"\s*(!?){_KEY}\s*")


def parse_selector(text: str) -> LabelSelector:
    """Read a selector such as ``tier=gold,zone!=b,env in (prod,test),!canary``.

    Raises:
        WrongOptionError: the text is not a selector.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - --help and completion do without

    from kubeballoon.api.selector import LabelSelector  # noqa: PLC0415 - --help and completion do without

    try:
        return LabelSelector(match_expressions=list(_requirements(text)))
    except ValidationError as error:
        raise WrongOptionError(f"-l: {text!r} is not a label selector: {error.errors()[0]['msg']}") from error


def _requirements(text: str) -> Iterator[Requirement]:
    position = 0
    while position <= len(text):
        requirement, position = _requirement(text, position)
        yield requirement
        if position < len(text) and text[position] != ",":
            raise WrongOptionError(f"-l: {text!r} is not a label selector: {text[position:]!r} is not expected")
        position += 1


def _requirement(text: str, position: int) -> tuple[Requirement, int]:
    """Read one requirement, and say where it ends."""
    from kubeballoon.api.selector import Operator, Requirement  # noqa: PLC0415 - with pydantic

    if match := _SET.match(text, position):
        operator = Operator.IN if match[2] == "in" else Operator.NOT_IN
        return Requirement(key=match[1], operator=operator, values=re.split(r"\s*,\s*", match[3].strip())), match.end()
    if match := _EQUAL.match(text, position):
        operator = Operator.NOT_IN if match[2] == "!=" else Operator.IN
        return Requirement(key=match[1], operator=operator, values=[match[3]]), match.end()
    if match := _EXISTS.match(text, position):
        return Requirement(key=match[2], operator=Operator.DOES_NOT_EXIST if match[1] else Operator.EXISTS), match.end()
    raise WrongOptionError(f"-l: {text!r} is not a label selector")
