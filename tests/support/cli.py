"""Runs kubectl-balloon as a real process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SECONDS = 60.0  # far more than any command takes


def balloon(kubeconfig: Path | None, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``kubectl-balloon ARGUMENTS`` to its end; without a kubeconfig, the environment names the cluster."""
    access = [] if kubeconfig is None else [f"--kubeconfig={kubeconfig}"]
    return subprocess.run(
        [sys.executable, "-m", "kubeballoon.cli.main", *arguments, *access],
        capture_output=True,
        text=True,
        check=False,
        input=stdin,
        timeout=SECONDS,
    )
