"""This module holds what kubeballoon's kinds have in common: metadata, conditions, conversion to and from JSON."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from kubeballoon.api.names import RELEASE
from kubeballoon.api.rules import Rule

_NO_FIELDS: set[str] = set()
LONGEST_MESSAGE = 1024  # characters: people read a condition's message; metav1 would allow 32768


class ApiModel(BaseModel):
    """An ApiModel is a value of the API: camel-case on the wire, immutable; fields of a newer version are ignored."""

    rules: ClassVar[tuple[Rule, ...]] = ()
    """The CEL rules by which the API server checks an object of this type, beyond its schema."""

    # Commands use few of the models, so each is built when it is used first.
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore", defer_build=True
    )

    def model_post_init(self, _: Any, /) -> None:
        """Forget which fields were given: nobody asks, and it takes a third of the memory that VMs' reports take."""
        object.__setattr__(self, "__pydantic_fields_set__", _NO_FIELDS)  # models are frozen

    def to_wire(self) -> dict[str, Any]:
        """Write the model as JSON values, without fields that are None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add computed fields and the CEL rules to pydantic's schema, where the API server looks for both."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        cls.model_rebuild()  # until then computed fields have no types: a model is built only when it is used
        for name, each in cls.model_computed_fields.items():
            shape = TypeAdapter(each.return_type).json_schema()
            schema["properties"][to_camel(name)] = {**shape, "description": each.description}
        if cls.rules:
            schema["x-kubernetes-validations"] = [rule.to_wire() for rule in cls.rules]
        return schema


def fault(error: ValidationError) -> str:
    """Describe the first mistake in an object in one line: the field and what is wrong with it."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _rfc3339(moment: datetime) -> str:
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def _in_utc(moment: datetime) -> datetime:
    """Translate an instant to UTC; one without an offset is in UTC.

    Raises:
        ValueError: its offset leads it out of the calendar.
    """
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("no such time in UTC") from error


Time = Annotated[datetime, AfterValidator(_in_utc), PlainSerializer(_rfc3339, return_type=str)]
"""An instant; on the wire RFC 3339 in UTC to the second, like metav1.Time."""


class ConditionStatus(StrEnum):
    """A ConditionStatus says whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """A Condition says what holds at present or does not, since when and why, as everywhere in Kubernetes."""

    type: str = Field(pattern=r"^[A-Za-z]([A-Za-z0-9]*[A-Za-z0-9])?$", max_length=316)
    status: ConditionStatus
    reason: str = Field(pattern=r"^[A-Za-z]([A-Za-z0-9]*[A-Za-z0-9])?$", max_length=1024)
    message: str = Field(max_length=32768)
    observed_generation: int = Field(default=0, ge=0)
    last_transition_time: Time


def set_conditions(present: Iterable[Condition], new: Iterable[Condition]) -> list[Condition]:
    """Return the new conditions, each with the transition time of the present one if its status has not changed.

    Messages are cut to LONGEST_MESSAGE; a present condition without a new one of its type is dropped.
    """
    known = {condition.type: condition for condition in present}
    merged = []
    for condition in new:
        before = known.get(condition.type)
        same = before is not None and before.status == condition.status
        merged.append(
            condition.model_copy(
                update={
                    "message": condition.message[:LONGEST_MESSAGE],
                    **({"last_transition_time": before.last_transition_time} if before is not None and same else {}),
                }
            )
        )
    return merged


class ObjectMeta(ApiModel):
    """An ObjectMeta is the part of metav1.ObjectMeta that kubeballoon reads."""

    name: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    deletion_timestamp: datetime | None = None

    @property
    def released(self) -> bool:
        """Whether an administrator released the object, so that nothing is requested of its VMs."""
        return self.annotations.get(RELEASE) == "true"
