"""What calls of kubectl-balloon cost, beside `kubectl get -o json` of the same objects, on a fake API server."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hack.bench.limits import Rows

SIZES = ((51, 1200), (500, 10_000))  # nodes, VMs
COMMANDS = (("top", "nodes"), ("top", "vms", "-A"), ("status",))
ALLOWED_RATIO = 3.0  # of the CPU that a command uses for the smaller cluster to kubectl's
KINDS = "nodepressures,memorypolicies,processorpolicies,namespaces"
ROUNDS = 3  # the best of which counts: other programs on the machine only ever add
MIB = 1 << 20


def measure() -> Rows:
    """Measure the CPU, and of the larger cluster also the memory and the time, of each command."""
    rows: list[Mapping[str, Any]] = []
    for nodes, vms in SIZES:
        with tempfile.TemporaryDirectory() as name, _fake(Path(name), nodes, vms) as environment:
            kubectl, _, _ = _best(["kubectl", "get", KINDS, "--output=json"], environment)
            for command in COMMANDS:
                program = [sys.executable, "-m", "kubeballoon.cli.main", *command]
                cpu, seconds, resident = _best(program, environment)
                row = {"command": " ".join(command), "vms": vms, "cpu_seconds": cpu, "kubectl_seconds": kubectl}
                limits = {"allowed_ratio": ALLOWED_RATIO} if vms == SIZES[0][1] else {}
                measured = {"cpu_ratio": cpu / kubectl, "wall_seconds": seconds, "resident_mib": resident / MIB}
                rows.append({**row, **measured, **limits})
    return rows


@contextmanager
def _fake(directory: Path, nodes: int, vms: int) -> Iterator[dict[str, str]]:
    """Serve a fake cluster in a process of its own; the context is the environment in which commands find it."""
    kubeconfig = directory / "kubeconfig"
    arguments = [str(kubeconfig), f"--nodes={nodes}", f"--vms={vms}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "hack.bench.fake_api_server", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None  # noqa: S101 - for mypy: it is piped
        server.stdout.readline()
        # As pip installs it, Python finds every module compiled; the first run of the first command compiles them.
        compiled = {"PYTHONPYCACHEPREFIX": str(directory / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
        yield {**os.environ, **compiled, "KUBECONFIG": str(kubeconfig), "HOME": str(directory)}
    finally:
        server.kill()
        server.communicate()


def _best(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float, int]:
    """Run a command a few times; return the least CPU time and wall time, seconds, and the most memory, bytes."""
    runs = [_run(command, environment) for _ in range(ROUNDS)]
    return min(each[0] for each in runs), min(each[1] for each in runs), max(each[2] for each in runs)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float, int]:
    begun = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0  # it has been waited for
    return usage.ru_utime + usage.ru_stime, time.monotonic() - begun, usage.ru_maxrss * 1024
