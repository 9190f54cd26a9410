"""This module models label selectors, with the meaning they have everywhere in Kubernetes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.names import DNS_NAME
from kubeballoon.api.rules import Rule

_LABEL_PART = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
KEY = f"^({DNS_NAME}/)?{_LABEL_PART}$"
"""The pattern of a label's key: a name, which a DNS name and a slash may precede."""
_LONGEST_VALUE = 63
_Value = Annotated[str, Field(max_length=_LONGEST_VALUE, pattern=f"^({_LABEL_PART})?$")]
_NO_KEY = "a label's key is a name such as tier, or example.com/tier"


def is_label_key(text: object) -> bool:
    """Whether a text can be the key of a label or an annotation."""
    return isinstance(text, str) and re.fullmatch(KEY, text) is not None


def is_label_value(text: str) -> bool:
    """Whether a text can be the value of a label."""
    return len(text) <= _LONGEST_VALUE and re.fullmatch(f"({_LABEL_PART})?", text) is not None


class Operator(StrEnum):
    """An Operator says how a requirement compares a label with its values."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(ApiModel):
    """A Requirement of a selector is a label's key, an operator, and values where the operator takes them."""

    rules = (
        Rule(
            "self.operator in ['In', 'NotIn'] ? (has(self.values) && size(self.values) > 0) : "
            "(!has(self.values) || size(self.values) == 0)",
            "values must be given for operators In and NotIn, and only for those",
            "values",
            lambda written: bool(written.get("values")) == (written.get("operator") in ("In", "NotIn")),
        ),
        Rule(
            f"self.key.matches('{KEY}')",
            _NO_KEY,
            "key",
            lambda written: "key" not in written or is_label_key(written["key"]),
        ),
    )

    key: str = Field(min_length=1, max_length=317)
    operator: Operator
    values: list[_Value] = Field(
        default_factory=list, max_length=64, json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet this requirement."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels


class LabelSelector(ApiModel):
    """A LabelSelector selects the objects that meet all of its requirements; an empty one selects every object."""

    rules = (
        Rule(
            f"!has(self.matchLabels) || self.matchLabels.all(key, key.matches('{KEY}'))",
            _NO_KEY,
            "matchLabels",
            lambda written: (
                not isinstance(written.get("matchLabels"), Mapping) or all(map(is_label_key, written["matchLabels"]))
            ),
        ),
    )

    match_labels: dict[str, _Value] = Field(default_factory=dict, max_length=64)
    match_expressions: list[Requirement] = Field(
        default_factory=list, max_length=64, json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the labels on which the selection depends."""
        return frozenset([*self.match_labels, *(each.key for each in self.match_expressions)])

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        # Sets of items are compared in C: selectors are matched with every VM, several times a second.
        if not self.match_labels.items() <= labels.items():
            return False
        return not self.match_expressions or all(each.matches(labels) for each in self.match_expressions)
