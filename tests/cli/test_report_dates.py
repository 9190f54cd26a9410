"""How old commands take a report to be: by its own date, and by the Lease by which its agent says that it holds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from kubeballoon.cli.cluster_view import read_nodes
from kubeballoon.cluster import paths
from kubeballoon.cluster.errors import ForbiddenError
from kubeballoon.cluster.heartbeat import lease_name
from kubeballoon.cluster.reader import ApiReader
from tests.support.cluster import Object

WRITTEN = datetime(2026, 6, 1, tzinfo=UTC)


class Reader(ApiReader):
    """A Reader reads reports of WRITTEN, and Leases, of which it counts the lists."""

    def __init__(self, homes: dict[str, str], beats: dict[str, dict[str, timedelta]]) -> None:
        """Read nodes whose reports name a namespace, and for a namespace when its Leases were renewed after WRITTEN."""
        self.homes = homes
        self.beats = beats
        self.lists: list[str] = []

    def items(self, path: str, accept: str = "", page: int = 0, **query: str) -> Iterator[Object]:  # noqa: ARG002 - all is one page
        """List the reports, or a namespace's Leases."""
        memory = dict.fromkeys(("total", "available", "other", "reserve"), "1Gi")
        for name, namespace in self.homes.items() if path == paths.NODE_PRESSURES else ():
            status = {"observedAt": WRITTEN.isoformat(), "memory": memory, "leaseNamespace": namespace}
            yield {"metadata": {"name": name}, "status": status}
        if path == paths.NODE_PRESSURES:
            return
        self.lists.append(path)
        beats = {paths.leases(namespace): of_nodes for namespace, of_nodes in self.beats.items()}.get(path)
        if beats is None:
            raise ForbiddenError("Leases may not be read there")
        for name, later in beats.items():
            yield {"metadata": {"name": lease_name(name)}, "spec": {"renewTime": (WRITTEN + later).isoformat()}}


def ages(reader: Reader) -> dict[str, timedelta]:
    """Find by how much later than it was written each node's report last held."""
    return {node.metadata.name: node.status.observed_at - WRITTEN for node in read_nodes(reader) if node.status}


def test_reports_are_as_old_as_their_leases_which_are_listed_once() -> None:
    reader = Reader({"a": "own", "b": "own", "c": "own"}, {"own": {"a": timedelta(1), "b": timedelta(2)}})
    assert ages(reader) == {"a": timedelta(1), "b": timedelta(2), "c": timedelta()}
    assert len(reader.lists) == 1


def test_leases_where_a_forged_report_has_its_own_speak_for_no_other_node() -> None:
    evil = {"forger": timedelta(3), "honest": timedelta(9)}
    reader = Reader({"forger": "evil", "honest": "own"}, {"evil": evil, "own": {"honest": timedelta(1)}})
    assert ages(reader) == {"forger": timedelta(3), "honest": timedelta(1)}


def test_leases_that_may_not_be_read_cost_a_warning_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert ages(Reader({"n": "elsewhere", "m": "elsewhere"}, {})) == {"n": timedelta(), "m": timedelta()}
    assert capsys.readouterr().err.count("agents may seem to be silent") == 1
