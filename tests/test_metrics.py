"""What agent and controller export to Prometheus is documented, and what the chart uses is exported."""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

import kubeballoon
from kubeballoon.agent.metrics import AgentMetrics, ReportResult
from kubeballoon.api.v1alpha1 import KINDS, NodePressureStatus
from kubeballoon.cluster.events import EventRecorder
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.metric_counters import ControllerCounters
from kubeballoon.controller.metric_gauges import ControllerGauges
from kubeballoon.controller.rounds import RoundResult, RoundRunner
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.migration import ChosenMigration, MigratableVM, MigrationPlan
from kubeballoon.governance.policy_types import MEMORY
from kubeballoon.metrics import Gauge, expose, new_registry
from kubeballoon.options import add_serving_options
from kubeballoon.serving import serve
from kubeballoon.vocabulary import TaintEffect
from tests.support.cluster import MIB, memory_policy, node_policy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs/reference.md"
CHART = ROOT / "charts/kubeballoon"
A = {"node": "n", "namespace": "shop", "name": "a", "policy": "default"}
B = {"node": "n", "namespace": "shop", "name": "b", "policy": ""}
USERS = sorted(
    [CHART / "files/dashboard.json", CHART / "files/rules.yaml", *CHART.glob("*.md"), *ROOT.glob("docs/*.md")]
)
"""The files that name metrics, for Prometheus, Grafana or a person."""


class _Slow(Collector):
    """A collector of several metrics, each of which may take long; it notes what else went on before each."""

    def __init__(self) -> None:
        """Start before any other work."""
        self.work = 0
        self.seen: list[int] = []

    def collect(self) -> Iterator[Metric]:
        """Collect three metrics."""
        for number in range(3):
            self.seen.append(self.work)
            yield Gauge(f"kubeballoon_slow_{number}", "One of three.").family([((), float(number))])


async def test_a_scrape_lets_other_work_go_on_between_two_metrics() -> None:
    registry, slow = CollectorRegistry(auto_describe=False), _Slow()
    registry.register(slow)

    async def work() -> None:
        while True:
            slow.work += 1
            await asyncio.sleep(0)

    working = asyncio.create_task(work())
    text, _ = await expose(registry, "text/plain")
    working.cancel()
    assert len(set(slow.seen)) == len(slow.seen), "each metric met more work done"
    assert b"kubeballoon_slow_2 2.0" in text


def vm(name: str, **report: Any) -> dict[str, Any]:
    return {"uid": name, "namespace": "shop", "name": name, "size": "512Mi", "actual": "256Mi", **report}


def status(*vms: dict[str, Any]) -> dict[str, Any]:
    return {
        "observedAt": "2026-01-01T00:00:00Z",
        "memory": {"total": "1Gi", "available": "512Mi", "other": "64Mi", "reserve": "32Mi"},
        "stall": {"some": 7, "full": 1},
        "state": "Tight",
        "virtualMachines": list(vms),
        "conditions": [],
    }


class Controller:
    """A Controller is a controller's registry, with the state and the rounds that it exports."""

    def __init__(self) -> None:
        self.state = ClusterState()
        self.registry = new_registry("controller")
        unused: Any = None  # no round is run here: only their results are read
        self.rounds = RoundRunner(unused, self.state, EventRecorder(unused, "test"), ControllerCounters(self.registry))
        self.registry.register(ControllerGauges(self.state, self.rounds, lambda: True))

    def decide(self, *vms: dict[str, Any]) -> None:
        """Take in a node's report, and decide on it as a round does."""
        self.state.nodes.clear()
        self.state.memory.put(memory_policy("default"))
        self.state.put_node({"metadata": {"name": "n"}, "status": status(*vms)}, 0.0)
        report = self.state.nodes["n"].status
        assert report is not None
        self.rounds.results["n"] = RoundResult(
            {MEMORY.model.plural: allocate_memory(self.state.snapshot("n", report, 0.0))}
        )
        self.rounds.last_decided_at = NOW
        tainting = node_policy("pool", taint={"mode": "Enforce"})
        tainting["metadata"] |= {"uid": "pool", "resourceVersion": "1"}
        self.state.node_policies.put(tainting)
        self.state.taints_enabled, self.state.taints = True, {"n": TaintEffect.NO_SCHEDULE}
        migration = ChosenMigration(MigratableVM("a", "shop/a", 1, 1), "n", "free", "why")
        self.state.migration_plans = {"pool": MigrationPlan((migration,), {"lost": "why not"}, ("n", "late"))}


@pytest.fixture
def vms() -> list[dict[str, Any]]:
    """The VMs that the agent reports."""
    return [
        vm(
            "a",
            need="100Mi",
            target="256Mi",
            resident="300Mi",
            min="128Mi",
            policy="default",
            troubled=True,
            guest={"swapOut": "3Mi"},
            processors={"size": 4, "online": 2, "target": 2, "policy": "cpus"},
        ),
        vm("b", guest={"swapIn": "1Mi"}),
    ]


@pytest.fixture
def agent(vms: list[dict[str, Any]]) -> AgentMetrics:
    metrics = AgentMetrics("n", lambda: NodePressureStatus.model_validate(status(*vms)), lambda: {("shop", "a"): 5.0})
    metrics.reported(NOW, ReportResult.WRITTEN)
    return metrics


@pytest.fixture
def controller() -> Controller:
    made = Controller()
    made.decide(vm("a", need="100Mi"), vm("b", need="400Mi"))
    return made


def value(registry: CollectorRegistry, name: str, /, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_the_agent_exports_its_node_and_vms(agent: AgentMetrics) -> None:
    def shown(name: str, /, **labels: str) -> float | None:
        return value(agent.registry, f"kubeballoon_{name}", **labels)

    assert [shown("node_state", node="n", state=state) for state in ("Ample", "Tight", "Scarce", "Critical")] == [
        0,
        1,
        0,
        0,
    ]
    assert shown("node_memory_bytes", node="n", kind="other") == 64 * MIB
    assert shown("node_stall_percent", node="n", kind="some") == 7
    assert shown("vm_memory_bytes", **A, kind="target") == 256 * MIB
    assert shown("vm_memory_bytes", **B, kind="target") is None
    assert shown("vm_responsive", **A) == 1
    assert shown("vm_troubled", **A) == 1
    assert shown("vm_swap_bytes", **A, direction="out") == 3 * MIB
    assert shown("vm_swap_bytes", **A, direction="in") is None
    assert shown("vm_processors", **{**A, "policy": "cpus"}, kind="online") == 2
    assert shown("vm_sample_timestamp_seconds", node="n", namespace="shop", name="a") == 5
    assert shown("build_info", component="agent", version=kubeballoon.__version__) == 1
    assert shown("agent_report_timestamp_seconds", node="n") == NOW.timestamp()
    assert shown("agent_reports_total", result="written") == 1
    assert shown("agent_reports_total", result="confirmed") == 0
    assert shown("agent_reports_total", result="failed") == 0


def test_a_report_that_fails_is_counted_and_leaves_the_last_ones_time(agent: AgentMetrics) -> None:
    agent.reported(None, ReportResult.FAILED)
    assert value(agent.registry, "kubeballoon_agent_reports_total", result="failed") == 1
    assert value(agent.registry, "kubeballoon_agent_report_timestamp_seconds", node="n") == NOW.timestamp()


def test_an_agent_that_has_never_reported_is_as_old_as_itself() -> None:
    before = time.time()
    agent = AgentMetrics("n", lambda: None, dict)
    agent.reported(None, ReportResult.FAILED)
    began = value(agent.registry, "kubeballoon_agent_report_timestamp_seconds", node="n")
    assert began is not None
    assert before <= began <= time.time()


def test_the_controller_exports_its_decisions(controller: Controller) -> None:
    def shown(name: str, /, **labels: str) -> float | None:
        return value(controller.registry, f"kubeballoon_{name}", **labels)

    assert shown("leader") == 1
    assert shown("node_capacity_bytes", node="n") == (1024 - 64 - 32) * MIB
    assert shown("node_shortfall_bytes", node="n") == 0
    assert shown("node_reclaimed_bytes", node="n") == 512 * MIB
    assert shown("node_agent_silent", node="n") == 0
    demand = shown("vm_demand_bytes", **{**B, "policy": "default"})
    assert demand is not None
    assert 400 * MIB < demand <= 512 * MIB
    assert shown("node_guaranteed_bytes", node="n") == 512 * MIB
    assert shown("policy_virtual_machines", kind="MemoryPolicy", policy="default") == 2
    assert shown("policy_memory_bytes", policy="default", kind="min") == 512 * MIB
    assert shown("policy_memory_bytes", policy="default", kind="actual") == 512 * MIB
    assert shown("policy_memory_bytes", policy="default", kind="size") == 1024 * MIB
    assert shown("vm_entitlement_bytes", **{**B, "policy": "default"}) is not None
    assert shown("node_tainted", node="n", effect="NoSchedule") == 1
    assert shown("policy_contended_nodes", policy="pool", result="mendable") == 2
    assert shown("policy_contended_nodes", policy="pool", result="unmended") == 1
    assert shown("build_info", component="controller", version=kubeballoon.__version__) == 1
    assert shown("last_round_timestamp_seconds") == NOW.timestamp()


def test_a_node_that_would_be_tainted_only_is_not_exported_as_tainted(controller: Controller) -> None:
    def tainted() -> float | None:
        return value(controller.registry, "kubeballoon_node_tainted", node="n", effect="NoSchedule")

    controller.state.taints_enabled = False
    assert tainted() is None
    controller.state.taints_enabled = True
    observing = node_policy("pool", taint={"mode": "Observe"})
    observing["metadata"] |= {"uid": "pool", "resourceVersion": "2", "generation": 2}
    controller.state.node_policies.put(observing)
    assert tainted() is None


def test_a_vm_that_takes_no_part_leaves_the_node_s_capacity_as_it_is(controller: Controller) -> None:
    controller.decide(vm("a", need="100Mi"), vm("b", need="400Mi", ownerExcluded=True))
    assert value(controller.registry, "kubeballoon_node_capacity_bytes", node="n") == (1024 - 64 - 32) * MIB
    assert value(controller.registry, "kubeballoon_node_guaranteed_bytes", node="n") == 512 * MIB


def test_a_vm_that_is_gone_is_exported_no_more(
    agent: AgentMetrics, vms: list[dict[str, Any]], controller: Controller
) -> None:
    governed = {**B, "policy": "default"}
    assert value(agent.registry, "kubeballoon_vm_eligible", **B) == 1
    del vms[1]
    assert value(agent.registry, "kubeballoon_vm_eligible", **B) is None
    assert value(controller.registry, "kubeballoon_vm_demand_bytes", **governed) is not None
    controller.decide(vm("a", need="100Mi"))
    assert value(controller.registry, "kubeballoon_vm_demand_bytes", **governed) is None


@pytest.mark.parametrize(
    ("accept", "kind"), [("", "text/plain"), ("application/openmetrics-text; version=1.0.0", "application/openmetrics")]
)
async def test_metrics_are_served_as_the_scraper_likes_them(
    agent: AgentMetrics, accept: str, kind: str, unused_tcp_port: int
) -> None:
    address = ("127.0.0.1", unused_tcp_port)
    async with (
        serve(*address, live=lambda: None, ready=lambda: None, metrics=agent.registry),
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{unused_tcp_port}/metrics", headers={"Accept": accept}) as answer,
    ):
        assert answer.headers["Content-Type"].startswith(kind)
        assert 'kubeballoon_node_state{node="n",state="Tight"} 1.0' in await answer.text()


def _has(family: socket.AddressFamily, address: str) -> bool:
    try:
        with socket.socket(family) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        pytest.param("::1", marks=pytest.mark.skipif(not _has(socket.AF_INET6, "::1"), reason="there is no IPv6 here")),
    ],
)
async def test_without_a_host_every_address_is_served(agent: AgentMetrics, address: str, unused_tcp_port: int) -> None:
    parser = argparse.ArgumentParser()
    add_serving_options(parser)
    listen = parser.parse_args([f"--listen=:{unused_tcp_port}"]).listen
    async with serve(*listen, live=lambda: None, ready=lambda: None, metrics=agent.registry):
        reader, writer = await asyncio.open_connection(address, unused_tcp_port)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (await reader.read()).endswith(b"ok\n")
        writer.close()


@pytest.mark.parametrize(
    ("text", "address"),
    [(":8080", (None, 8080)), ("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:80", ("::1", 80)), ("[::]:80", ("::", 80))],
)
def test_an_address_may_be_of_ipv4_ipv6_or_every(text: str, address: tuple[str | None, int]) -> None:
    parser = argparse.ArgumentParser()
    add_serving_options(parser)
    assert parser.parse_args([f"--listen={text}"]).listen == address


Line = tuple[str, str, tuple[str, ...], str]
"""A metric's name, type, labels and meaning."""


def documented() -> Iterator[Line]:
    for line in DOCS.read_text().splitlines():
        row = re.match(r"\| `(kubeballoon_\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|", line)
        if row is not None:
            yield row[1], row[2], tuple(sorted(re.findall(r"`(\w+)`", row[3]))), row[4]


def exported(registry: CollectorRegistry) -> Iterator[Line]:
    for family in registry.collect():
        if family.name.startswith("kubeballoon_"):
            name = family.samples[0].name if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            yield name, family.type, tuple(sorted(labels)), family.documentation


def test_the_docs_list_exactly_what_is_exported(agent: AgentMetrics, controller: Controller) -> None:
    assert sorted(documented()) == sorted([*exported(agent.registry), *exported(controller.registry)])


def test_every_value_of_a_label_with_fixed_values_is_explained(agent: AgentMetrics, controller: Controller) -> None:
    samples = [
        (family, label, sample.labels[label])
        for registry in (agent.registry, controller.registry)
        for family in registry.collect()
        for sample in family.samples
        for label in ("kind", "direction", "result")
        if label in sample.labels and sample.labels[label] not in {kind.__name__ for kind in KINDS}
    ]
    assert {label for _, label, _ in samples} == {"kind", "direction", "result"}
    for family, label, found in samples:
        assert found in family.documentation, f"what the {label} {found} of {family.name} means is not said"


@pytest.mark.parametrize("user", USERS, ids=lambda user: str(user.relative_to(ROOT)))
def test_every_metric_that_is_used_is_exported(agent: AgentMetrics, controller: Controller, user: Path) -> None:
    samples = [
        sample
        for registry in (agent.registry, controller.registry)
        for family in registry.collect()
        for sample in family.samples
    ]
    known = {sample.name for sample in samples} | {name for name, *_ in documented()}  # a histogram's own name too
    text = user.read_text()
    assert set(re.findall(r"\bkubeballoon_[a-z_]+", text)) - known == set()
    for name, matchers in re.findall(r"\b(kubeballoon_[a-z_]+)\{([^}]*)\}", text.replace('\\"', '"')):
        for label, operator, wanted in re.findall(r'(\w+)(=~|=)"([^"$]*)"', matchers):
            values = {sample.labels.get(label) for sample in samples if sample.name == name}
            for each in wanted.split("|") if operator == "=~" else [wanted]:
                assert each in values, f"{name} has no {label} {each}"


def test_the_dashboard_and_the_rules_are_looked_into() -> None:
    """An expression that finds nothing would let the test before pass."""
    for path in (CHART / "files/dashboard.json", CHART / "files/rules.yaml"):
        assert len(set(re.findall(r"\bkubeballoon_[a-z_]+", path.read_text()))) >= 6
