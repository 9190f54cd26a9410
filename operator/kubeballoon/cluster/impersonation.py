"""This module acts as another user, where a kubeconfig or the command line says so, as kubectl does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Impersonation:
    """An Impersonation is the user as whom requests are made; without a user, nobody is impersonated.

    Attributes:
        extra: further attributes of the user, each with its values.
    """

    user: str | None = None
    uid: str | None = None
    groups: Sequence[str] = ()
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def from_kubeconfig(cls, user: Mapping[str, Any]) -> Self:
        """Read a kubeconfig's user: the value of one of ``users[].user``."""
        return cls(
            user.get("as") or None,
            user.get("as-uid") or None,
            tuple(user.get("as-groups") or ()),
            dict(user.get("as-user-extra") or {}),
        )

    def merge(self, other: Impersonation) -> Impersonation:
        """Replace by another's attributes those that the other has, as kubectl's options replace a kubeconfig's."""
        return Impersonation(
            other.user or self.user, other.uid or self.uid, other.groups or self.groups, other.extra or self.extra
        )

    def headers(self) -> Iterator[tuple[str, str]]:
        """Build the headers of each request; one may be there several times.

        Raises:
            ValueError: nobody is named whom the other attributes are of.
        """
        if not self.user:
            if self.uid or self.groups or self.extra:
                raise ValueError("groups, uid or extra attributes are to be impersonated, but no user")
            return
        yield "Impersonate-User", self.user
        if self.uid:
            yield "Impersonate-Uid", self.uid
        for group in self.groups:
            yield "Impersonate-Group", group
        for key, values in self.extra.items():
            for value in values:
                yield f"Impersonate-Extra-{quote(key.lower(), safe='')}", value
