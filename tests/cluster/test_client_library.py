"""Only the asynchronous half of the client library is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest


def modules(statements: str) -> set[str]:
    """Run statements in a new interpreter, and return the top-level packages that it has loaded then."""
    script = f"import sys\n{statements}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize("part", ["agent.main", "agent.hypervisor.libvirt", "cli.main"])
def test_libraries_that_a_command_does_not_use_are_not_loaded(part: str) -> None:
    assert not modules(f"import kubeballoon.{part}") & {"kopf", "requests", "oauthlib", "websocket", "matplotlib"}


def test_the_synchronous_half_can_still_be_imported() -> None:
    after = modules(
        "import kubeballoon.cluster.client, kubernetes\n"
        "assert kubernetes.client.V1Pod and kubernetes.config.load_kube_config\n"
        "assert not hasattr(kubernetes, 'nonsense')"
    )
    assert "requests" in after
