"""kubectl-balloon as a real process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SECONDS = 60.0


def balloon(kubeconfig: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``kubectl-balloon ARGUMENTS`` to its end."""
    command, *rest = arguments
    return subprocess.run(
        [sys.executable, "-m", "kubeballoon.cli.main", command, *rest, f"--kubeconfig={kubeconfig}"],
        capture_output=True,
        text=True,
        check=False,
        input=stdin,
        timeout=SECONDS,
    )
