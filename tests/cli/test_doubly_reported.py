"""A VM that two nodes' agents report is shown once, on the node that runs it."""

from __future__ import annotations

from dataclasses import dataclass

from kubeballoon.cli.doubly_reported import MOST_READ, without_false_reports
from kubeballoon.cluster import paths
from kubeballoon.cluster.errors import ForbiddenError
from kubeballoon.cluster.reader import ApiReader
from tests.support.cluster import Object


@dataclass(frozen=True)
class Reported:
    """A Reported is a VM in the report of one node."""

    node: str
    name: str = "web"
    namespace: str = "shop"


class Reader(ApiReader):
    """A Reader knows which node runs each VM of the namespace shop, and counts what is asked."""

    def __init__(self, nodes: dict[str, str | None]) -> None:
        """Read VMs that run on ``nodes``, by their names; None is a VM that runs nowhere, and others are forbidden."""
        self.instances = {paths.instance("shop", name): node for name, node in nodes.items()}
        self.asked: list[str] = []

    def get(self, path: str, accept: str = "", **query: str) -> Object:  # noqa: ARG002 - there is one of each
        """Read a VM."""
        self.asked.append(path)
        if path not in self.instances:
            raise ForbiddenError("VMs may not be read")
        node = self.instances[path]
        return {"status": {} if node is None else {"nodeName": node}}


def test_of_two_reports_the_one_of_the_vm_s_own_node_is_shown() -> None:
    reader = Reader({"web": "honest"})
    vms = [Reported("forger"), Reported("honest"), Reported("honest", "db")]
    kept, false_reports = without_false_reports(reader, vms)
    assert kept == [Reported("honest"), Reported("honest", "db")]
    assert false_reports == ["the agent of node forger reports the VM shop/web, which runs on node honest"]
    assert len(reader.asked) == 1


def test_both_reports_are_shown_where_nothing_says_which_is_right() -> None:
    vms = [Reported("a"), Reported("b")]
    for nodes in ({}, {"web": None}, {"web": "a third"}):
        assert without_false_reports(Reader(dict(nodes)), vms) == (vms, [])


def test_a_node_that_reports_all_vms_costs_a_bounded_number_of_reads() -> None:
    names = [f"vm-{number:04}" for number in range(3 * MOST_READ)]
    reader = Reader(dict.fromkeys(names, "honest"))
    kept, false_reports = without_false_reports(
        reader, [Reported(node, name) for node in ("a", "honest") for name in names]
    )
    assert len(reader.asked) == len(false_reports) == MOST_READ
    assert {vm.name for vm in kept} == set(names)
