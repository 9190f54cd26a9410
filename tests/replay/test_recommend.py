"""``kubeballoon recommend``: its output, and one line for each thing that cannot be used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kubeballoon.__main__ import main

GIB = 1 << 30
HOUR = 3600


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Six VMs of 8 GiB for two days: they work with 2 GiB, and all of them for one hour of each day with 4."""
    directory = tmp_path / "traces"
    directory.mkdir()
    for index in range(6):
        lines = [f"{hour * HOUR},{8 * GIB},{(4 if hour % 24 == 9 else 2) * GIB}" for hour in range(48)]
        (directory / f"vm{index}.csv").write_text("\n".join(["seconds,size_bytes,used_bytes", *lines]) + "\n")
    return directory


def command(traces: Path, *options: str) -> list[str]:
    return ["recommend", str(traces), "--node-memory", "20Gi", "--placements", "1", "--jobs", "1", *options]


def test_the_highest_safe_ratio_is_recommended_with_what_to_set(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    options = ("--overcommit", "3,1.5", "--price-per-gib-month", "2", "--html", str(page))
    assert main(command(traces, *options, "-o", "json")) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    low, high = found["ratios"]
    assert found["recommended_overcommit"] == low["overcommit"] == 1.5
    assert (low["safe"], high["safe"]) == (True, False)
    assert low["within_limits_share"] == 1
    assert low["within_limits_share_95"] < 1
    assert high["unmet_share"] > low["unmet_share"]
    assert found["nodes_without_overcommit"] == 3
    assert low["nodes_saved"] == 1
    assert low["saved_per_month"] == 1 * 20 * 2
    kubevirt, policy = found["patches"]
    assert kubevirt["patch"]["spec"]["configuration"]["developerConfiguration"] == {"memoryOvercommit": 150}
    assert policy["patch"]["spec"]["memory"]["min"] == f"{low['min_percent']['']}%"
    assert "recommend: the history covers 2 days" in printed.err
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2
    assert "Recommended: 1.5." in text
    assert "http" not in text


def test_a_table_says_it_in_words(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(traces, "--overcommit", "1.25", "--max-unmet", "1%")) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("overcommit")
    assert "Recommended: 1.25. Of " in printed
    assert "kubectl patch kubevirt kubevirt -n kubevirt --type=merge -p '" in printed
    assert '{"spec":{"configuration":{"developerConfiguration":{"memoryOvercommit":125}}}}' in printed


def test_no_safe_ratio_is_said_and_has_a_status_of_its_own(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(traces, "--overcommit", "3")) == 3
    printed = capsys.readouterr().out
    assert "No ratio that was tried is safe" in printed
    assert "kubectl patch" not in printed


def test_a_policy_in_a_file_keeps_its_minimum(traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "{apiVersion: kubeballoon.io/v1alpha1, kind: MemoryPolicy, metadata: {name: p}, "
        "spec: {selector: {}, memory: {min: 20%}}}"
    )
    assert main(command(traces, "--overcommit", "1.25", "--policy", str(policy), "-o", "json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ratios"][0]["min_percent"] == {}
    assert [each["kind"] for each in found["patches"]] == ["KubeVirt"]


def node_policy(directory: Path, spec: str) -> str:
    """A file with a NodePolicy."""
    path = directory / "node-policy.yaml"
    path.write_text(f"{{apiVersion: kubeballoon.io/v1alpha1, kind: NodePolicy, metadata: {{name: all}}, spec: {spec}}}")
    return str(path)


def test_what_a_node_policy_keeps_free_is_not_counted_on(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unmet(spec: str) -> float:
        options = ("--interval", "1m", "--node-policy", node_policy(tmp_path, spec), "-o", "json")
        main(command(traces, "--overcommit", "1.25", *options))
        return float(json.loads(capsys.readouterr().out)["ratios"][0]["unmet_share"])

    assert unmet("{selector: {}, reserve: 12Gi}") > 0.01 > unmet("{selector: {}}")


def test_a_node_policy_s_migrations_are_said_not_to_be_replayed(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = node_policy(tmp_path, "{selector: {}, migration: {mode: Observe, after: 1m}}")
    main(command(traces, "--overcommit", "1.25", "--node-policy", path))
    assert f"recommend: the migrations of {path} are not replayed\n" in capsys.readouterr().err


def test_a_node_policy_that_leaves_nothing_is_one_line(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = node_policy(tmp_path, "{selector: {}, reserve: 30Gi}")
    assert main(command(traces, "--overcommit", "1.25", "--node-policy", path)) == 1
    assert f"kubeballoon recommend: {path}: it would keep 30 GiB of 20 GiB free" in capsys.readouterr().err


def test_a_history_that_is_too_short_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vm.csv").write_text(f"seconds,size_bytes,used_bytes\n0,{GIB},0\n3600,{GIB},0\n")
    assert main(command(tmp_path)) == 1
    assert capsys.readouterr().err == "kubeballoon recommend: the history covers 2h, and a day at least is needed\n"


def test_a_vm_that_fits_no_node_is_one_line(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command(traces, "--overcommit", "1.5"), "--node-memory", "4Gi"]) == 1
    assert "has 8 GiB, and a node takes VMs of at most 6 GiB at this ratio" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        ("--overcommit", "0.9"),
        ("--placements", "0"),
        ("--max-unmet", "much"),
        ("--target", "101%"),
        ("--max-short", "5"),
        ("--price-per-gib-month", "-1"),
        ("--price-per-gib-month", "cheap"),
    ],
)
def test_a_wrong_option_is_refused(traces: Path, option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(command(traces, *option))
    assert refused.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_the_command_runs_in_several_processes(traces: Path) -> None:
    words = [*command(traces, "--overcommit", "1.25", "-o", "json"), "--jobs", "2"]
    ended = subprocess.run([sys.executable, "-m", "kubeballoon", *words], check=True, capture_output=True, text=True)
    assert json.loads(ended.stdout)["recommended_overcommit"] == 1.25
