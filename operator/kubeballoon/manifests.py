"""Policies in files: read and checked as the API server would, in its words."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kubeballoon.api.meta import ApiModel, ObjectMeta
from kubeballoon.api.names import GROUP
from kubeballoon.api.v1alpha1 import (
    API_VERSION,
    KINDS,
    MemoryPolicy,
    MemoryPolicySpec,
    Policy,
    PolicySpec,
    ProcessorPolicy,
    ProcessorPolicySpec,
)

_SUFFIXES = (".yaml", ".yml", ".json")
_POLICIES: Mapping[Any, type[Policy]] = {each.__name__: each for each in (MemoryPolicy, ProcessorPolicy)}
_SPECS: Mapping[Any, type[PolicySpec]] = {"MemoryPolicy": MemoryPolicySpec, "ProcessorPolicy": ProcessorPolicySpec}
_NO_POLICIES = {each.__name__ for each in KINDS} - _POLICIES.keys()
Document = dict[str, Any]


class RefusedError(Exception):
    """Files that the API server would refuse; one line a mistake."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def read(sources: Iterable[str]) -> list[Policy]:
    """The policies in files, directories (all of their YAML and JSON files) or standard input ("-").

    Objects of other groups are passed over, so that a whole rendered repository can be given.

    Raises:
        RefusedError: a file cannot be read, or holds what the API server would refuse.
    """
    wrong: list[str] = []
    found: dict[tuple[str, str], tuple[str, Policy]] = {}
    for where, document in _documents(sources, wrong):
        if document.get("kind") in _NO_POLICIES:
            continue
        mistakes = list(_mistakes(document))
        wrong += [f"{where}: {mistake}" for mistake in mistakes]
        if mistakes:
            continue
        policy = _POLICIES[document["kind"]].model_validate(document)
        name = policy.metadata.name
        if (policy.kind, name) in found:
            wrong.append(f"{where}: {policy.kind} {name} is in {found[policy.kind, name][0]} too")
        found[policy.kind, name] = where, policy
    if wrong:
        raise RefusedError(wrong)
    return [policy for _, policy in found.values()]


def _documents(sources: Iterable[str], wrong: list[str]) -> Iterator[tuple[str, Document]]:
    """Every object of our group, with the file it is in; files that cannot be read go to ``wrong``."""
    for where, text in _texts(sources, wrong):
        try:
            documents = list(yaml.safe_load_all(text))
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = "" if mark is None else f" line {mark.line + 1}:"
            wrong.append(f"{where}:{line} {getattr(error, 'problem', None) or 'this is no YAML'}")
            continue
        for document in documents:
            for each in _objects(_without_nulls(document)):
                if str(each.get("apiVersion", "")).split("/")[0] == GROUP:
                    yield where, each


def _without_nulls(value: Any) -> Any:
    """The same without what is null: the API server takes that for left out."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _objects(document: object) -> Iterator[Document]:
    if isinstance(document, dict):
        if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
            yield from (item for item in document["items"] if isinstance(item, dict))
        else:
            yield document


def _texts(sources: Iterable[str], wrong: list[str]) -> Iterator[tuple[str, str]]:
    for source in sources:
        if source == "-":
            yield "standard input", sys.stdin.read()
            continue
        path = Path(source)
        files = [path]
        if path.is_dir():
            files = sorted(each for each in path.rglob("*") if each.suffix in _SUFFIXES and each.is_file())
            if not files:
                wrong.append(f"{path}: this directory has no {' or '.join(_SUFFIXES)} file")
        for file in files:
            try:
                yield str(file), file.read_text()
            except (OSError, UnicodeDecodeError) as error:
                wrong.append(f"{file}: {getattr(error, 'strerror', None) or 'this is no text'}")


def _mistakes(document: Document) -> Iterator[str]:
    """What the API server would say to it."""
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind not in _POLICIES or version != API_VERSION:
        yield f'no matches for kind "{kind}" in version "{version}"'
        return
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = metadata.get("name")
    if not isinstance(name, str) or not name:
        yield "resource name may not be empty"
        return
    unknown = sorted(document.keys() - {"apiVersion", "kind", "metadata", "spec", "status"})
    said = [f'unknown field "{field}"' for field in unknown]
    said += [*_schema(ObjectMeta, metadata, "metadata", extra="ignore"), *check(_SPECS[kind], document.get("spec"))]
    for line in said:
        yield f'The {kind} "{name}" is invalid: {line}'


def check(model: type[ApiModel], written: object) -> Iterator[str]:
    """What is wrong with a spec as it is written: field and reason, as the API server has them."""
    if written is None:
        yield "spec: Required value"
        return
    if not isinstance(written, dict):
        yield "spec: Invalid value: must be of type object"
        return
    broken = dict(_broken(model, written, "spec"))
    yield from (f"{field}: Invalid value: {message}" for field, message in broken.items())
    yield from _schema(model, written, "spec", extra="forbid", said=broken)


def _schema(
    model: type[ApiModel],
    written: Mapping[str, Any],
    path: str,
    *,
    extra: Literal["ignore", "forbid"],
    said: Collection[str] = (),
) -> Iterator[str]:
    """What the schema refuses, but for fields of which something is said already."""
    try:
        # As JSON: there a number in quotes is no number.
        text = json.dumps(written, default=str)
        model.model_validate_json(text, strict=True, extra=extra, by_alias=True, by_name=False)
    except ValidationError as error:
        for detail in error.errors():
            field = _field(path, detail["loc"])
            if field not in said:
                yield _said(field, detail)


def _broken(model: type[BaseModel], written: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """The rules that do not hold, as (field, message), in a model and the models in its fields."""
    for rule in getattr(model, "rules", ()):
        if not rule.holds(written):
            yield f"{path}.{rule.field}", rule.message
    for name, field in model.model_fields.items():
        key = field.alias or name
        inner = _model(field.annotation)
        value = written.get(key)
        if inner is None or value is None:
            continue
        for where, each in [(f"{path}.{key}", value)] if isinstance(value, dict) else _items(path, key, value):
            if isinstance(each, dict):
                yield from _broken(inner, each, where)


def _items(path: str, key: str, value: object) -> list[tuple[str, Any]]:
    return [(f"{path}.{key}[{index}]", each) for index, each in enumerate(value)] if isinstance(value, list) else []


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model behind a field's type: its own, or that of its items."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _field(path: str, location: Iterable[int | str]) -> str:
    return path + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


_Wording = Callable[[str, ErrorDetails], str]


def _bound(words: str, key: str) -> _Wording:
    def say(field: str, detail: ErrorDetails) -> str:
        return f"Invalid value: {detail['input']!r}: {field} in body should be {words} {detail['ctx'][key]}"

    return say


def _unsupported(_: str, detail: ErrorDetails) -> str:
    supported = str(detail["ctx"]["expected"]).replace("'", '"').replace(" or ", ", ")
    return f'Unsupported value: "{detail["input"]}": supported values: {supported}'


def _not_of_type(name: str) -> _Wording:
    def say(field: str, detail: ErrorDetails) -> str:
        return f"Invalid value: {json.dumps(detail['input'])}: {field} in body must be of type {name}"

    return say


def _mismatch(field: str, detail: ErrorDetails) -> str:
    return f"Invalid value: \"{detail['input']}\": {field} in body should match '{detail['ctx']['pattern']}'"


_WORDINGS: Mapping[str, _Wording] = {
    "enum": _unsupported,
    "missing": lambda field, detail: "Required value",  # noqa: ARG005 - one signature for all
    "greater_than_equal": _bound("greater than or equal to", "ge"),
    "less_than_equal": _bound("less than or equal to", "le"),
    "string_pattern_mismatch": _mismatch,
    "int_type": _not_of_type("integer"),
    "int_from_float": _not_of_type("integer"),
    "string_type": _not_of_type("string"),
    "model_type": _not_of_type("object"),
    "model_attributes_type": _not_of_type("object"),
    "dict_type": _not_of_type("object"),
    "list_type": _not_of_type("array"),
}


def _said(field: str, detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        return f'unknown field "{field}"'
    wording = _WORDINGS.get(detail["type"])
    if wording is not None:
        return f"{field}: {wording(field, detail)}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{field}: Invalid value: {message}"
