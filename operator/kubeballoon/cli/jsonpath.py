r"""This module renders templates of ``-o jsonpath``, in kubectl's dialect: text, and paths in braces.

Paths are evaluated by python-jsonpath. What only kubectl has is done here: several results are joined by a blank,
``{range PATH}…{end}`` repeats, ``{"\n"}`` is text, and a path needs no ``$`` at its beginning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kubeballoon.cli.arguments import WrongOptionError

_PART = re.compile(r"""\{((?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^{}"'])*)\}|([^{}]+)|(.)""", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


@dataclass(slots=True)
class _Loop:
    """A _Loop is a sequence of parts, repeated for each result of its path."""

    path: str
    parts: list[str | _Path | _Loop] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Path:
    """A _Path is an expression whose results are printed."""

    path: str


def render(template: str, document: Any) -> str:
    """Render a template for a document of JSON values.

    Raises:
        WrongOptionError: the template or a path in it cannot be read, or python-jsonpath is not installed.
    """
    return "".join(_render(_parse(template).parts, document))


def _parse(template: str) -> _Loop:
    loops = [_Loop("$")]
    text = template if "{" in template else f"{{{template}}}"
    for expression, plain, odd in _PART.findall(text):
        inner = expression.strip()
        if odd:
            raise WrongOptionError(f"-o jsonpath: unbalanced {odd} in {template!r}")
        if plain:
            loops[-1].parts.append(plain)
        elif inner[:1] in {'"', "'"}:
            loops[-1].parts.append(re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), inner[1:-1]))
        elif inner == "end":
            if len(loops) == 1:
                raise WrongOptionError("-o jsonpath: {end} without {range}")
            loops.pop()
        elif inner.startswith("range "):
            loop = _Loop(_rooted(inner.removeprefix("range ").strip()))
            loops[-1].parts.append(loop)
            loops.append(loop)
        else:
            loops[-1].parts.append(_Path(_rooted(inner)))
    if len(loops) > 1:
        raise WrongOptionError("-o jsonpath: {range} without {end}")
    return loops[0]


_ESCAPED_NAME = re.compile(r"\.((?:[^.\[\]\\]|\\.)*\\\.(?:[^.\[\]\\]|\\.)*)")


def _rooted(path: str) -> str:
    """Begin a path with ``$``, which kubectl does not ask for; a name with escaped dots is written in brackets."""
    path = _ESCAPED_NAME.sub(lambda match: "['" + match[1].replace("\\.", ".") + "']", path)
    if path.startswith("$"):
        return path
    if path.startswith("@"):
        return f"${path[1:]}"
    return f"${path}" if path.startswith((".", "[")) else f"$.{path}"


def _render(parts: Sequence[str | _Path | _Loop], here: Any) -> list[str]:
    texts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, _Path):
            texts.append(" ".join(map(_format, _find(part.path, here))))
        else:
            for item in _find(part.path, here):
                texts += _render(part.parts, item)
    return texts


def _find(path: str, document: Any) -> list[Any]:
    try:
        import jsonpath  # noqa: PLC0415 - part of the extra `cli`
    except ModuleNotFoundError as error:
        raise WrongOptionError("-o jsonpath needs python-jsonpath: pip install 'kubeballoon[cli]'") from error
    if path in {"$", "$."}:
        return [document]
    try:
        return list(jsonpath.findall(path, document))
    except (jsonpath.JSONPathError, TypeError) as error:
        raise WrongOptionError(
            f"-o jsonpath: {path.removeprefix('$')} cannot be read: {str(error).splitlines()[0]}"
        ) from error


def _format(value: Any) -> str:
    """Format a result as kubectl does: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
