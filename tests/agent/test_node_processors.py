"""The node's processors, from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeballoon.agent.node.memory import HostError
from kubeballoon.agent.node.processors import HostProcessorReader
from tests.support.waiting import Clock


def write(proc: Path, busy: int, idle: int) -> None:
    lines = [f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0", "cpu0 1 0 0 1 0 0 0 0 0 0", "cpu1 1 0 0 1 0 0 0 0 0 0", "ctxt 5"]
    (proc / "stat").write_text("\n".join(lines) + "\n")


def test_usage_follows_what_was_counted_since_the_last_reading(tmp_path: Path) -> None:
    clock = Clock()
    reader = HostProcessorReader(tmp_path, clock)
    write(tmp_path, busy=100, idle=900)
    assert reader.read().count == 2
    for busy in (300, 400, 500):
        write(tmp_path, busy=busy, idle=900)
        clock.now += 30
        usage = reader.read().pressure.usage
    assert usage > 95


def test_the_stall_is_the_kernel_s_and_0_where_the_kernel_does_not_measure_it(tmp_path: Path) -> None:
    write(tmp_path, busy=1, idle=1)
    assert HostProcessorReader(tmp_path).read().pressure.stall == 0
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure/cpu").write_text("some avg10=37.50 avg60=1.00 avg300=0.10 total=5\nfull avg10=0.00\n")
    assert HostProcessorReader(tmp_path).read().pressure.stall == 37.5


@pytest.mark.parametrize("text", [None, "", "cpu  x y z\n"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "stat").write_text(text)
    with pytest.raises(HostError, match="the node's processors cannot be read"):
        HostProcessorReader(tmp_path).read()
