"""``kubeballoon replay``: its output, and one line for each thing that cannot be used."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kubeballoon.__main__ import main

GIB = 1 << 30
BY_REQUEST = """
apiVersion: kubeballoon.io/v1alpha1
kind: MemoryPolicy
metadata: {name: by-request}
spec: {selector: {}, memory: {min: PodRequest}}
"""
KEYS = {
    "strategy",
    "overcommit",
    "nodes",
    "vms",
    "demand_gib_hours",
    "unmet_gib_hours",
    "exhaustions",
    "exhausted_seconds",
    "vms_killed",
    "moved_gib",
    "direction_changes",
    "below_min_seconds",
    "seconds",
}


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Eight VMs of 4 GiB; every other one works with all of it for ten minutes, half an hour on."""
    directory = tmp_path / "traces"
    directory.mkdir()
    for index in range(8):
        rows = [(0, 1), (600, 4 if index % 2 else 1), (1200, 1), (1800, 1)]
        lines = [f"{seconds},{4 * GIB},{used * GIB}" for seconds, used in rows]
        (directory / f"{index}.csv").write_text("\n".join(["seconds,size_bytes,used_bytes", *lines]) + "\n")
    return directory


def command(traces: Path, *options: str) -> list[str]:
    return ["replay", str(traces), "--node-memory", "16Gi", *options]


def runs(text: str) -> dict[tuple[str, float], dict[str, float]]:
    return {(run["strategy"], run["overcommit"]): run for run in json.loads(text)["runs"]}


def test_one_run_per_strategy_and_ratio(traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY.format("{min: 25%}"))  # all of it is in use: there is nothing of it to lend
    options = ("--overcommit", "1,1.6", "--format", "json", "--jobs", "1", "--policy", str(policy))
    assert main(command(traces, *options)) == 0
    by_run = runs(capsys.readouterr().out)
    strategies = ("kubeballoon", "static", "none", "clairvoyant")
    assert set(by_run) == {(strategy, ratio) for strategy in strategies for ratio in (1.0, 1.6)}
    assert all(set(run) >= KEYS for run in by_run.values())
    assert all(run["below_min_seconds"] == 0 for run in by_run.values())
    assert by_run["kubeballoon", 1.6]["unmet_gib_hours"] < by_run["static", 1.6]["unmet_gib_hours"]
    assert by_run["clairvoyant", 1.6]["unmet_gib_hours"] <= by_run["kubeballoon", 1.6]["unmet_gib_hours"]
    for strategy in strategies:
        assert by_run[strategy, 1.6]["demand_gib_hours"] == pytest.approx((8 * 2400 + 4 * 3 * 600) / 3600)


def test_what_is_assumed_of_guests_can_be_chosen(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def outcome(*options: str) -> dict[str, float]:
        fixed = ("--overcommit", "1.6", "--format", "json", "--jobs", "1", *options)
        assert main(command(traces, *fixed)) == 0
        return runs(capsys.readouterr().out)["none", 1.6]

    cold = outcome("--cache-rate", "0", "--guests-with-swap", "0")
    assert cold["vms_killed"] == 2, "three VMs with 4 GiB do not fit beside four with 1 GiB, also five minutes later"
    full = outcome("--cache-rate", "64Mi", "--restart-time", "10s")
    assert full["vms_killed"] > cold["vms_killed"]
    assert full["unmet_gib_hours"] > 0
    assert outcome("--cache-rate", "0", "--boot-storm", "1m")["vms_killed"] > cold["vms_killed"]


def test_processes_change_nothing(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(traces, "--format", "json", "--jobs", "1", "--seed", "7")) == 0
    printed = capsys.readouterr()
    one_process = runs(printed.out)
    percents = [int(line.split()[1]) for line in printed.err.splitlines() if line.endswith("% done")]
    assert percents == sorted(set(percents))
    assert len(percents) > 2
    assert percents[-1] == 100
    ended = subprocess.run(
        [sys.executable, "-m", "kubeballoon", *command(traces, "--format", "json", "--jobs", "2", "--seed", "7")],
        check=True,
        capture_output=True,
        text=True,
    )
    several_processes = runs(ended.stdout)
    assert several_processes == one_process
    assert "100 % done" in ended.stderr


def test_the_report_needs_nothing_beside_it(traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert main(command(traces, "--overcommit", "1.6", "--output", str(output), "--jobs", "1")) == 0
    assert "kubeballoon" in capsys.readouterr().out
    page = (output / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page
    assert "taxed at 75 %" in page or "demands do not fit" in page
    assert all((output / name).read_bytes().startswith(b"\x89PNG") for name in ("curve.png", "node.png"))


POLICY = (
    "{{apiVersion: kubeballoon.io/v1alpha1, kind: MemoryPolicy, metadata: {{name: p}}, "
    "spec: {{selector: {{}}, memory: {}}}}}"
)


@pytest.mark.parametrize(
    ("manifest", "complaint"),
    [
        ("kind: Pod", "holds 0 MemoryPolicies, and one is needed"),
        (BY_REQUEST, "traces do not say what pods request"),
        ("{", "expected the node content"),
        (POLICY.format("{min: 2X}"), "spec.memory.min: Invalid value: min must be a quantity of bytes"),
        (POLICY.format("{min: 90%, max: 50%}"), "spec.memory.min: Invalid value: min must not exceed max"),
        (POLICY.format("{idleTax: 100}"), "spec.memory.idleTax"),
        (POLICY.format("{floor: 1Gi}"), 'unknown field "spec.memory.floor"'),
    ],
)
def test_a_bad_policy_is_one_line(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], manifest: str, complaint: str
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(manifest)
    assert main(command(traces, "--policy", str(policy))) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert str(policy) in message
    assert complaint in message


def test_bad_traces_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path)) == 1
    assert capsys.readouterr().err == f"kubeballoon replay: {tmp_path}: holds no .csv file\n"


def test_a_directory_that_cannot_be_made_is_one_line(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert main(command(traces, "--output", str(file))) == 1
    assert capsys.readouterr().err == f"kubeballoon replay: {file}: File exists\n"


def test_a_missing_extra_is_one_line(
    traces: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert main(command(traces)) == 1
    assert capsys.readouterr().err == "kubeballoon replay: needs matplotlib: pip install 'kubeballoon[replay]'\n"


@pytest.mark.parametrize(
    "options",
    [
        ("--overcommit", "none"),
        ("--overcommit", "0"),
        ("--interval", "5"),
        ("--jobs", "0"),
        ("--cache-rate", "much"),
        ("--guests-with-swap", "101%"),
        ("--restart-time", "0s"),
        ("--boot-storm", "noon"),
    ],
)
def test_a_wrong_option_is_refused(traces: Path, options: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(command(traces, *options))
    assert refused.value.code == 2
    assert options[0] in capsys.readouterr().err


NODE_POLICY = "{{apiVersion: kubeballoon.io/v1alpha1, kind: NodePolicy, metadata: {{name: pool}}, spec: {0}}}"


def test_a_node_policy_is_replayed_with_its_reserve_and_its_migrations(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def outcome(spec: str) -> dict[tuple[str, float], dict[str, float]]:
        policy = tmp_path / "policy.yaml"
        policy.write_text(NODE_POLICY.format(spec))
        fixed = ("--overcommit", "1.6", "--format", "json", "--jobs", "1", "--node-policy", str(policy))
        assert main(command(traces, *fixed)) == 0
        return runs(capsys.readouterr().out)

    plain = outcome("{selector: {}}")
    assert {strategy for strategy, _ in plain} == {"kubeballoon", "static", "none", "clairvoyant"}
    kept = outcome("{selector: {}, reserve: 6Gi, migration: {mode: Observe, after: 1m}}")
    assert kept["kubeballoon", 1.6]["unmet_gib_hours"] > plain["kubeballoon", 1.6]["unmet_gib_hours"]
    assert kept["migration", 1.6]["unmet_gib_hours"] < kept["kubeballoon", 1.6]["unmet_gib_hours"]
    assert kept["migration", 1.6]["migrations"] > kept["kubeballoon", 1.6]["migrations"] == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (POLICY.format("{}"), "holds 0 NodePolicies, and one is needed"),
        (NODE_POLICY.format("{selector: {}, reserve: 20Gi}"), "it would keep 20 GiB of 16 GiB free"),
        (NODE_POLICY.format("{selector: {}, reserve: much}"), "reserve"),
    ],
)
def test_a_node_policy_that_cannot_be_used_is_one_line(
    traces: Path, tmp_path: Path, text: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(text)
    assert main(command(traces, "--node-policy", str(policy))) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"kubeballoon replay: {policy}: ")
    assert complaint in printed
    assert printed.count("\n") == 1
