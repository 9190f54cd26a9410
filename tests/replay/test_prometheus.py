"""``kubeballoon replay --prometheus``: a real Prometheus with a history, and a fake one that answers badly."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.testbed.prometheus import Prometheus, open_metrics
from kubeballoon.__main__ import main
from kubeballoon.core.units import GIB
from kubeballoon.replay.prometheus import PrometheusAccess, PrometheusError, TimeRange, ask_now
from kubeballoon.replay.vm_history import VMHistory, read_history
from kubeballoon.replay.vm_queries import VMQueries
from tests.support.prometheus import Form, fake_prometheus, success

STEP = 300.0
SCRAPE = 60  # seconds
DAY = 86_400
VM = {"namespace": "shop", "name": "vm"}


def replay(url: str, *options: str) -> int:
    return main(["replay", "--prometheus", url, "--node-memory", "16Gi", "--jobs", "1", *options])


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line in which the command says what is wrong."""
    message = capsys.readouterr().err
    assert message.startswith("kubeballoon replay: ")
    assert message.count("\n") == 1
    return message.removeprefix("kubeballoon replay: ").rstrip()


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ((200, "<html>"), "answers with HTTP status 200, and not as a Prometheus does"),
        ((502, "bad gateway"), "answers with HTTP status 502, and not as a Prometheus does"),
        ((302, ""), "answers with HTTP status 302, and not as a Prometheus does"),
        ((401, "who?"), "asks for a token: give one with --bearer-token-file"),
        ((403, "no"), "forbids the query"),
        ((404, "404 page not found"), "has no /api/v1/query_range"),
        (
            (422, json.dumps({"status": "error", "errorType": "execution", "error": "too many\nsamples"})),
            "refuses the query: too many samples",
        ),
        ((200, "[]"), "answers with HTTP status 200"),
        ((200, json.dumps({"status": "success", "data": []})), "answers with what is not series"),
        ((200, json.dumps({"status": "success", "data": {"resultType": "matrix", "result": [1]}})), "is not series"),
        (success(kind="vector"), "answers with a vector, and not with series"),
        (success((VM, [(0, "many")])), "answers with what is not series: could not convert"),
        (success(), "neither kubeballoon_vm_memory_bytes nor kubevirt_vmi_memory_domain_bytes"),
    ],
)
def test_a_bad_answer_is_one_line(answer: tuple[int, str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_prometheus(lambda _: answer) as fake:
        assert replay(fake.url) == 1
    assert complaint in refused(capsys)


def test_a_query_that_is_not_answered_in_time_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def answer(_: Form) -> tuple[int, str]:
        fake.end.wait()
        return success()

    with fake_prometheus(answer) as fake:
        assert replay(fake.url, "--query-timeout", "1s") == 1
        assert refused(capsys) == (
            f"{fake.url} did not answer within 1s: give it longer with --query-timeout, or ask for less with --range "
            "or a longer --step"
        )


def test_a_prometheus_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay("http://127.0.0.1:9") == 1
    assert "http://127.0.0.1:9 cannot be reached: " in refused(capsys)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--prometheus", "prometheus:9090"), "'prometheus:9090' is not the URL of a Prometheus"),
        (("--prometheus", "http://p", "--bearer-token-file", "/nowhere"), "/nowhere: No such file or directory"),
        (("--prometheus", "http://p", "--bearer-token-file", "/dev/null"), "/dev/null: does not hold a bearer token"),
        (("--prometheus", "http://p", "--ca-file", "/nowhere"), "/nowhere: No such file or directory"),
        (("--prometheus", "http://p", "--ca-file", "/etc/hostname"), "/etc/hostname: "),
        (("--prometheus", "http://p", "--range", "1m"), "--range is shorter than --step, which is 5m"),
        (("--prometheus", "http://p", "traces"), "give either a directory of traces, or --prometheus URL"),
        ((), "give either a directory of traces, or --prometheus URL"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(
    options: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", "--node-memory", "16Gi", *options]) == 1
    assert complaint in refused(capsys)


@pytest.mark.parametrize("option", [("--until", "noon"), ("--until", "2026-11-26T19:00:00"), ("--range", "0d")])
def test_a_wrong_time_is_refused(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        replay("http://p", *option)
    assert ended.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_a_long_range_is_asked_for_in_parts_that_make_one_whole(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")

    def answer(form: Form) -> tuple[int, str]:
        start, end, step = (float(form[name]) for name in ("start", "end", "step"))
        instants = [start + number * step for number in range(int((end - start) / step) + 1)]
        return success((VM, [(at, "NaN" if at == 0 else str(at)) for at in instants]))

    times = TimeRange(0.0, 3 * DAY, STEP)
    with fake_prometheus(answer) as fake:
        answers = ask_now(PrometheusAccess(f"{fake.url}/", token), {"size": "up"}, times)
    ((_, values),) = answers["size"].items()
    assert len(fake.queries) == 4, "a day each"
    assert fake.tokens == ["Bearer secret"] * 4
    assert values[1:].tolist() == [number * STEP for number in range(1, times.instants)]
    assert values[0] != values[0], "not a number"


@pytest.fixture(scope="module")
def now() -> float:
    return time.time() // STEP * STEP


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, now: float) -> Iterator[str]:
    """The URL of a real Prometheus with two hours of KubeVirt's metrics.

    shop/steady works with 1 of its 4 GiB; after an hour it migrates, and its counters begin anew. shop/short runs for
    the first hour, and swaps. shop/mute has no driver. Prometheus was down from minute 80 to minute 100.
    """
    start = now - 2 * 3600
    down = (start + 80 * 60, start + 100 * 60)
    times = [start + second for second in range(0, 7201, SCRAPE) if not down[0] <= start + second < down[1]]
    hour = [at for at in times if at < start + 3600]
    labels = {"namespace": "shop", "instance": "handler-1", "node": "one"}
    steady = [
        ({**labels, "name": "steady"}, hour),
        ({**labels, "name": "steady", "instance": "handler-2", "node": "two"}, [at for at in times if at not in hour]),
    ]
    short, mute = ({**labels, "name": "short"}, hour), ({**labels, "name": "mute"}, times)

    def constant(
        value: float, *of: tuple[dict[str, str], list[float]]
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        return [(each, [(at, value) for at in seen]) for each, seen in of]

    def counter(
        rate: float, *of: tuple[dict[str, str], list[float]]
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        return [(each, [(at, rate * (at - seen[0])) for at in seen]) for each, seen in of]

    metrics = {
        "kubevirt_vmi_memory_domain_bytes": constant(4 * GIB, *steady, short, mute),
        "kubevirt_vmi_memory_actual_balloon_bytes": constant(4 * GIB, *steady, short, mute),
        "kubevirt_vmi_memory_usable_bytes": constant(3 * GIB, *steady) + constant(1 * GIB, short),
        "kubevirt_vmi_storage_read_traffic_bytes_total": counter(1024, *steady, short),
        "kubevirt_vmi_storage_write_traffic_bytes_total": counter(2048, *steady, short),
        "kubevirt_vmi_memory_swap_in_traffic_bytes": counter(0, *steady) + counter(4096, short),
        "kube_node_status_allocatable": [
            ({"resource": "memory", "node": node}, [(at, 14.0 * GIB) for at in times]) for node in ("one", "two", "cp")
        ],
    }
    own = {"cluster": "own", "namespace": "shop", "name": "vm", "node": "one", "policy": "gold"}
    node = {"cluster": "own", "node": "one"}
    metrics |= {
        "kubeballoon_vm_memory_bytes": constant(8 * GIB, ({**own, "kind": "size"}, times))
        + constant(3 * GIB, ({**own, "kind": "need"}, times)),
        "kubeballoon_node_memory_bytes": constant(64 * GIB, ({**node, "kind": "total"}, times))
        + constant(4 * GIB, ({**node, "kind": "other"}, times)),
    }
    directory = tmp_path_factory.mktemp("prometheus")
    prometheus = Prometheus([], directory)
    prometheus.fill(open_metrics(metrics))
    with prometheus:
        yield prometheus.url


def read(url: str, now: float, matchers: str = 'cluster=""') -> VMHistory:
    times = TimeRange(now - 2 * 3600, now, STEP)
    return read_history(ask_now(PrometheusAccess(url), VMQueries(STEP, matchers).all(), times), times)


@pytest.mark.tools
def test_vms_that_migrate_come_and_go_are_read_from_a_real_prometheus(filled: str, now: float) -> None:
    found = read(filled, now)
    traces = {trace.name: trace for trace in found.workload.traces}
    assert sorted(traces) == ["shop/mute", "shop/short", "shop/steady"]
    assert all(trace.size == 4 * GIB for trace in traces.values())
    assert traces["shop/steady"].demand.tolist() == [GIB], "one VM, through its migration and Prometheus' absence"
    assert traces["shop/mute"].demand.tolist() == [4 * GIB]
    short = traces["shop/short"]
    assert short.demand.tolist() == [3 * GIB, 0]
    assert 3600 <= short.end <= 3600 + 2 * STEP, "Prometheus itself lets a value hold for five minutes"
    assert traces["shop/steady"].disk_rate == pytest.approx(3072, rel=0.01), "counters begin anew on another node"
    assert found.swapping == {"shop/steady": 0.0, "shop/short": 1.0}
    assert found.node_memory == [14 * GIB, 14 * GIB], "the node without VMs does not count"
    assert any("nothing was recorded of any VM once" in note for note in found.notes)
    assert any("shop/mute" in note for note in found.notes)


@pytest.mark.tools
def test_a_real_prometheus_is_replayed(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--prometheus", filled, "--match", 'cluster=""', "--range", "2h", "--overcommit", "1.2"]
    options += ["--placement", "scheduler"]
    assert main(["replay", *options, "--format", "json", "--jobs", "1"]) == 0
    printed = capsys.readouterr()
    runs = {run["strategy"]: run for run in json.loads(printed.out)["runs"]}
    assert runs["kubeballoon"]["nodes"] == 1
    assert runs["kubeballoon"]["vms"] == 3
    assert runs["kubeballoon"]["demand_gib_hours"] == pytest.approx(2 * 5 + 3, rel=0.1)
    assert "nodes are replayed with 14 GiB, as Prometheus knows them" in printed.err


@pytest.mark.tools
def test_kubeballoon_s_own_metrics_come_first_where_they_are(filled: str, now: float) -> None:
    found = read(filled, now, 'cluster="own"')
    (trace,) = found.workload.traces
    assert (trace.size, trace.demand.tolist()) == (8 * GIB, [3 * GIB])
    assert found.policies == {"shop/vm": "gold"}
    assert found.node_memory == [60 * GIB], "without what others use"


@pytest.mark.tools
def test_a_history_of_hours_is_too_short_to_recommend_from(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--prometheus", filled, "--node-memory", "16Gi"]) == 1
    assert "a day at least is needed" in capsys.readouterr().err


@pytest.mark.tools
def test_a_real_prometheus_says_what_it_does_not_have_or_understand(
    filled: str, now: float, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PrometheusError, match="neither kubeballoon_vm_memory_bytes nor"):
        read(filled, now, 'cluster="other"')
    assert replay(filled, "--match", "cluster=") == 1
    assert "refuses the query: invalid parameter" in refused(capsys)
    assert replay(f"{filled}/nowhere") == 1
    assert "has no /api/v1/query_range" in refused(capsys)
