"""This module writes annotations on VMIs, a few at a time; urgent writes do not wait for others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ForbiddenError, InvalidError, NotFoundError, Object

CONCURRENT_PATCHES = 8  # hides the API server's latency without filling its queue for everyone else
_ANNOTATIONS = "/metadata/annotations"
_NOTHING_CHANGES = "the patch changes nothing"  # in the message by which the chart's admission refuses such a patch


class WriteResult(StrEnum):
    """A WriteResult says what became of annotations that were to be written on a VMI."""

    WRITTEN = "written"
    GONE = "gone"
    MISMATCHED = "mismatched"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class VMIReference:
    """A VMIReference names the VMI that is meant; another VMI, or one on another node, must not be written to.

    Attributes:
        node: the node that must run the VMI: the one whose agent named it, for one node's agent may not name another's
            VMs. None, which is said each time, only where the API server itself named the VMI.
    """

    namespace: str
    name: str
    uid: str
    node: str | None


class VMIAnnotator:
    """A VMIAnnotator patches annotations on VMIs, at most eight VMIs at a time, and eight more that are urgent."""

    def __init__(self, cluster: ApiClient) -> None:
        """Write to the API server ``cluster``."""
        self._cluster = cluster
        self._calm_limit = asyncio.Semaphore(CONCURRENT_PATCHES)
        self._urgent_limit = asyncio.Semaphore(CONCURRENT_PATCHES)

    async def write(
        self,
        vmi: VMIReference,
        annotations: Mapping[str, str | None],
        wanted: Callable[[], bool] = lambda: True,
        *,
        urgent: bool = False,
    ) -> WriteResult:
        """Write annotations on a VMI, beside those that it has; a value of None removes the annotation.

        Args:
            vmi: the VMI.
            annotations: what to write.
            wanted: whether the write is still wanted; it is asked when the write's turn has come.
            urgent: whether the write must not wait for others that are not urgent.

        Returns:
            Whether the annotations were written. If not, no VMI has the name (``GONE``), or the one that has it is of
            another uid or runs on another node (``MISMATCHED``), or the write was not wanted any more (``SKIPPED``).

        Raises:
            ApiError: the API server refuses the patch for another reason, or cannot be reached.
        """
        async with self._urgent_limit if urgent else self._calm_limit:
            if not wanted():
                return WriteResult.SKIPPED
            try:
                await self._patch(vmi, annotations)
            except NotFoundError:
                return WriteResult.GONE
            except InvalidError:  # the answer does not say which test of the patch failed
                return WriteResult.MISMATCHED
            except ForbiddenError as error:
                if _NOTHING_CHANGES not in str(error):
                    raise
        return WriteResult.WRITTEN

    async def _patch(self, vmi: VMIReference, annotations: Mapping[str, str | None]) -> None:
        path, tests = paths.instance(vmi.namespace, vmi.name), _tests(vmi)
        try:
            await self._cluster.json_patch(path, [*tests, *_changes(annotations)])
        except InvalidError:
            # JSON patches add nothing to a map that does not exist, and the controller may not read whether it does.
            without_any = {"op": "test", "path": _ANNOTATIONS, "value": None}
            values = {key: value for key, value in annotations.items() if value is not None}
            changes = [_add(_ANNOTATIONS, values)] if values else []
            await self._cluster.json_patch(path, [*tests, without_any, *changes])


def _tests(vmi: VMIReference) -> list[Object]:
    expected = {"/metadata/uid": vmi.uid, **({} if vmi.node is None else {"/status/nodeName": vmi.node})}
    return [{"op": "test", "path": path, "value": value} for path, value in expected.items()]


def _changes(annotations: Mapping[str, str | None]) -> Iterator[Object]:
    for key, value in annotations.items():
        path = f"{_ANNOTATIONS}/{key.replace('~', '~0').replace('/', '~1')}"
        yield _add(path, value or "")
        if value is None:  # only what is there can be removed
            yield {"op": "remove", "path": path}


def _add(path: str, value: object) -> Object:
    return {"op": "add", "path": path, "value": value}
