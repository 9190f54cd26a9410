"""How much memory a process has held at most."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hack.testbed.peak_memory import peak_memory

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
CHILD = "from hack.testbed.peak_memory import peak_memory; print(peak_memory())"


def test_what_a_process_has_held_tells_nothing_of_its_parent() -> None:
    before = peak_memory()
    held = bytearray(before + 256 * MIB)
    held[::4096] = b"\1" * len(held[::4096])
    mine = peak_memory()
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True, cwd=ROOT)
    assert mine >= before + 256 * MIB
    assert 0 < int(child.stdout) < 128 * MIB
