"""The benchmarks' limits, without the benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack.bench import __main__ as bench
from hack.bench.limits import LIMITS, Rows, exceeded

CHEAP = {"vms": 50, "core_percent": 1.9, "resident_mib": 99.0}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (CHEAP, []),
        ({**CHEAP, "core_percent": 2.65}, ["agent: core_percent is 2.65, and may be 2"]),
        ({**CHEAP, "resident_mib": 102.3}, ["agent: resident_mib is 102.3, and may be 100"]),
    ],
)
def test_what_an_agent_may_cost_is_held(row: dict[str, object], said: list[str]) -> None:
    assert list(exceeded("agent", [CHEAP, row])) == said


@pytest.mark.parametrize(("seconds", "fails"), [(1.6, 0), (1.8, 1)])
def test_a_limit_that_is_exceeded_fails_the_run_and_is_named(
    seconds: float, fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"kubeballoon_seconds": seconds, "libvirt_seconds": 0.5, "allowed_seconds": 1.75}

    def measured() -> Rows:
        return [row]

    monkeypatch.setitem(bench.BENCHMARKS, "reaction", measured)
    assert bench.main(["reaction", f"--output={tmp_path / 'bench.json'}"]) == fails
    assert ("LIMIT EXCEEDED: reaction: kubeballoon_seconds" in capsys.readouterr().err) == bool(fails)


def test_every_limit_is_of_a_benchmark() -> None:
    assert LIMITS.keys() <= bench.BENCHMARKS.keys()
