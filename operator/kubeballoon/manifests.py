"""This module reads policies from files, and refuses what the API server would refuse, in the API server's words."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from kubeballoon.api.meta import ApiModel, ObjectMeta
from kubeballoon.api.names import GROUP
from kubeballoon.api.selector import is_label_key, is_label_value
from kubeballoon.api.v1alpha1 import (
    API_VERSION,
    KINDS,
    MemoryPolicy,
    MemoryPolicySpec,
    NodePolicy,
    NodePolicySpec,
    Policy,
    ProcessorPolicy,
    ProcessorPolicySpec,
)
from kubeballoon.kubectl_yaml import load_yaml

_NAME = "[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LONGEST_NAME = 253
_SUFFIXES = (".yaml", ".yml", ".json")
AnyPolicy = Policy | NodePolicy
_POLICIES: Mapping[Any, type[AnyPolicy]] = {
    "MemoryPolicy": MemoryPolicy,
    "ProcessorPolicy": ProcessorPolicy,
    "NodePolicy": NodePolicy,
}
_SPECS: Mapping[Any, type[ApiModel]] = {
    "MemoryPolicy": MemoryPolicySpec,
    "ProcessorPolicy": ProcessorPolicySpec,
    "NodePolicy": NodePolicySpec,
}
_OTHER_KINDS = {each.__name__ for each in KINDS} - _POLICIES.keys()
Document = dict[str, Any]


class _Metadata(ObjectMeta):
    """_Metadata are all fields of metav1.ObjectMeta, in so far as an object that is to be created may have them."""

    generate_name: str = ""
    namespace: str = ""
    self_link: str = ""
    creation_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    finalizers: list[str] = Field(default_factory=list)
    owner_references: list[dict[str, Any]] = Field(default_factory=list)
    managed_fields: list[dict[str, Any]] = Field(default_factory=list)


class RefusedError(Exception):
    """The API server would refuse the files; there is one line for each mistake."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def read_manifests(sources: Iterable[str]) -> list[AnyPolicy]:
    """Read the policies in files, in the YAML and JSON files of directories, or in standard input ("-").

    Objects of other API groups are passed over, so that a whole rendered repository can be given.

    Raises:
        RefusedError: a file cannot be read, or the API server would refuse one of its policies.
    """
    errors: list[str] = []
    found: dict[tuple[str, str], tuple[str, AnyPolicy]] = {}
    for file, document in _documents(sources, errors):
        if str(document.get("kind")) in _OTHER_KINDS:
            continue
        mistakes = list(_mistakes(document))
        errors += [f"{file}: {mistake}" for mistake in mistakes]
        if mistakes:
            continue
        policy = _POLICIES[document["kind"]].model_validate({**document, "status": None})  # as the API server takes it
        name = policy.metadata.name
        if (policy.kind, name) in found:
            errors.append(f"{file}: {policy.kind} {name} is in {found[policy.kind, name][0]} too")
        found[policy.kind, name] = file, policy
    if errors:
        raise RefusedError(errors)
    return [policy for _, policy in found.values()]


def _documents(sources: Iterable[str], errors: list[str]) -> Iterator[tuple[str, Document]]:
    """Find every object of kubeballoon's API group, as (file, object); errors of reading are added to ``errors``."""
    for file, text in _texts(sources, errors):
        try:
            documents = list(load_yaml(text))
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = "" if mark is None else f" line {mark.line + 1}:"
            errors.append(f"{file}:{line} {getattr(error, 'problem', None) or 'this file is not YAML'}")
            continue
        except RecursionError:
            errors.append(f"{file}: this file is nested too deeply")
            continue
        for document in documents:
            for each in _objects(document):
                if str(each.get("apiVersion", "")).split("/")[0] != GROUP:
                    continue
                try:
                    yield file, _without_nulls(each, _POLICIES.get(str(each.get("kind"))))
                except RecursionError:
                    errors.append(f"{file}: an anchor's value contains itself")


def _without_nulls(value: Any, model: type[BaseModel] | None = None) -> Any:
    """Drop fields that are null, because the API server treats them as left out.

    It refuses fields that ``model`` does not have even then, so these are kept.
    """
    if isinstance(value, list):
        return [_without_nulls(each, model) for each in value]
    if not isinstance(value, dict):
        return value
    if model is ObjectMeta:
        model = _Metadata
    inner = {} if model is None else {field.alias or name: field for name, field in model.model_fields.items()}
    return {
        key: _without_nulls(each, _model(inner[key].annotation) if key in inner else None)
        for key, each in value.items()
        if each is not None or (model is not None and key not in inner)
    }


def _objects(document: object) -> Iterator[Document]:
    """Find the objects in a YAML document, which may be a List of them."""
    if isinstance(document, dict):
        if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
            yield from (item for item in document["items"] if isinstance(item, dict))
        else:
            yield document


def _texts(sources: Iterable[str], errors: list[str]) -> Iterator[tuple[str, str]]:
    """Read all files, as (file, text); errors of reading are added to ``errors``."""
    for source in sources:
        if source == "-":
            yield "standard input", sys.stdin.read()
            continue
        path = Path(source)
        files = [path]
        if path.is_dir():
            files = sorted(each for each in path.rglob("*") if each.suffix in _SUFFIXES and each.is_file())
            if not files:
                errors.append(f"{path}: this directory has no {' or '.join(_SUFFIXES)} file")
        for file in files:
            try:
                yield str(file), file.read_text()
            except (OSError, UnicodeDecodeError) as error:
                errors.append(f"{file}: {getattr(error, 'strerror', None) or 'this file is not text'}")


def _mistakes(document: Document) -> Iterator[str]:
    """List the errors with which the API server would refuse an object."""
    kind, version = document.get("kind"), document.get("apiVersion")
    if not isinstance(kind, str) or kind not in _POLICIES or version != API_VERSION:
        yield f'no matches for kind "{kind}" in version "{version}"'
        return
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = metadata.get("name", "")
    if not name:
        yield "resource name may not be empty"
        return
    unknown = sorted(document.keys() - {"apiVersion", "kind", "metadata", "spec", "status"})
    errors = [f'unknown field "{field}"' for field in unknown]
    errors += _name_errors(metadata)
    errors += _schema_errors(_Metadata, metadata, "metadata", extra="forbid")
    errors += check(_SPECS[kind], document.get("spec"))
    for error in errors:
        yield f'The {kind} "{name}" is invalid: {error}'


def _name_errors(metadata: Mapping[str, Any]) -> Iterator[str]:
    """List the errors in an object's name, and in its labels and annotations, that are no errors of type."""
    name = metadata["name"]
    if isinstance(name, str) and (len(name) > _LONGEST_NAME or re.fullmatch(_NAME, name) is None):
        yield f'metadata.name: Invalid value: "{name}": must be a lowercase RFC 1123 subdomain such as my-policy'
    for field in ("labels", "annotations"):
        entries = metadata.get(field)
        for key, value in entries.items() if isinstance(entries, dict) else ():
            if not is_label_key(key if field == "labels" else key.lower()):
                yield f'metadata.{field}: Invalid value: "{key}": must be a name such as tier, or example.com/tier'
            elif field == "labels" and isinstance(value, str) and not is_label_value(value):
                yield f'metadata.labels: Invalid value: "{value}": must be empty or a word of at most 63 characters'


def check(model: type[ApiModel], spec: object) -> Iterator[str]:
    """List the errors in a spec as "field: reason", in the API server's words."""
    if spec is None:
        yield "spec: Required value"
        return
    if not isinstance(spec, dict):
        yield "spec: Invalid value: must be of type object"
        return
    broken_rules = dict(_broken_rules(model, spec, "spec"))
    yield from (f"{field}: Invalid value: {message}" for field, message in broken_rules.items())
    yield from _schema_errors(model, spec, "spec", extra="forbid", reported=broken_rules)


def _schema_errors(
    model: type[ApiModel],
    value: Mapping[str, Any],
    path: str,
    *,
    extra: Literal["ignore", "forbid"],
    reported: Collection[str] = (),
) -> Iterator[str]:
    """List the violations of the schema, except those in fields that are ``reported`` already."""
    try:
        # Checked as JSON: pydantic's strict mode then takes strings for enums, and still refuses "5" for a number.
        text = json.dumps(value, default=str)
        model.model_validate_json(text, strict=True, extra=extra, by_alias=True, by_name=False)
    except ValidationError as error:
        for detail in error.errors():
            field = _field(path, detail["loc"])
            if field not in reported:
                yield _error_text(field, detail)


def _broken_rules(model: type[BaseModel], value: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Find the CEL rules that do not hold in a model and in the models of its fields, as (field, message)."""
    for rule in getattr(model, "rules", ()):
        if not rule.holds(value):
            yield f"{path}.{rule.field}", rule.message
    for name, field in model.model_fields.items():
        key = field.alias or name
        inner_model = _model(field.annotation)
        inner = value.get(key)
        if inner_model is None or inner is None:
            continue
        for inner_path, each in [(f"{path}.{key}", inner)] if isinstance(inner, dict) else _items(path, key, inner):
            if isinstance(each, dict):
                yield from _broken_rules(inner_model, each, inner_path)


def _items(path: str, key: str, value: object) -> list[tuple[str, Any]]:
    """List the items of a list with their paths; nothing else has items."""
    return [(f"{path}.{key}[{index}]", each) for index, each in enumerate(value)] if isinstance(value, list) else []


def _model(annotation: Any) -> type[BaseModel] | None:
    """Find the model in a field's annotation: the field's own type, an alternative, or the type of its items."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _field(path: str, location: Iterable[int | str]) -> str:
    return path + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


_Wording = Callable[[str, ErrorDetails], str]


def _out_of_bounds(words: str, key: str) -> _Wording:
    def text(field: str, detail: ErrorDetails) -> str:
        return f"Invalid value: {detail['input']!r}: {field} in body should be {words} {detail['ctx'][key]}"

    return text


def _unsupported(_: str, detail: ErrorDetails) -> str:
    supported = str(detail["ctx"]["expected"]).replace("'", '"').replace(" or ", ", ")
    return f'Unsupported value: "{detail["input"]}": supported values: {supported}'


def _not_of_type(name: str) -> _Wording:
    def text(field: str, detail: ErrorDetails) -> str:
        return f"Invalid value: {json.dumps(detail['input'])}: {field} in body must be of type {name}"

    return text


def _mismatch(field: str, detail: ErrorDetails) -> str:
    return f"Invalid value: \"{detail['input']}\": {field} in body should match '{detail['ctx']['pattern']}'"


# By pydantic's names of errors.
_WORDINGS: Mapping[str, _Wording] = {
    "enum": _unsupported,
    "missing": lambda field, detail: "Required value",  # noqa: ARG005 - one signature for all
    "greater_than_equal": _out_of_bounds("greater than or equal to", "ge"),
    "less_than_equal": _out_of_bounds("less than or equal to", "le"),
    "string_pattern_mismatch": _mismatch,
    "int_type": _not_of_type("integer"),
    "int_from_float": _not_of_type("integer"),
    "string_type": _not_of_type("string"),
    "model_type": _not_of_type("object"),
    "model_attributes_type": _not_of_type("object"),
    "dict_type": _not_of_type("object"),
    "list_type": _not_of_type("array"),
}


def _error_text(field: str, detail: ErrorDetails) -> str:
    """Write one of pydantic's errors as the API server would."""
    if detail["type"] == "extra_forbidden":
        return f'unknown field "{field}"'
    wording = _WORDINGS.get(detail["type"])
    if wording is not None:
        return f"{field}: {wording(field, detail)}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{field}: Invalid value: {message}"
