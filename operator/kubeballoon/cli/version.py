"""This module is ``version``: it says which version this program has, and which versions the agents have."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kubeballoon import __version__
from kubeballoon.api.meta import ApiModel
from kubeballoon.api.names import GROUP, VERSION
from kubeballoon.cli.arguments import ExitStatus
from kubeballoon.cli.output import Output
from kubeballoon.cluster import paths

if TYPE_CHECKING:
    from kubeballoon.cluster.reader import ApiReader


class Versions(ApiModel):
    """A Versions is the document that ``version`` prints.

    Attributes:
        agents: how many agents report each version; None if the cluster was not asked.
    """

    client: str
    api: str = f"{GROUP}/{VERSION}"
    agents: dict[str, int] | None = None


def run_without_cluster(output: Output) -> ExitStatus:
    """Print this program's version."""
    return _print(Versions(client=__version__), output)


def run(_: argparse.Namespace, reader: ApiReader, output: Output) -> ExitStatus:
    """Print this program's version and the agents'.

    Raises:
        ApiError: the cluster cannot be read.
    """
    agents: dict[str, int] = {}
    for node in reader.items(paths.NODE_PRESSURES):
        version = str((node.get("status") or {}).get("agentVersion") or "unknown")
        agents[version] = agents.get(version, 0) + 1
    return _print(Versions(client=__version__, agents=dict(sorted(agents.items()))), output)


def _print(versions: Versions, output: Output) -> ExitStatus:
    if not output.print_document(versions):
        output.print_line(f"Client Version: {versions.client}")
        for version, count in (versions.agents or {}).items():
            output.print_line(f"Agent Version: {version} ({count} nodes)")
        if versions.agents == {}:
            output.print_line("Agent Version: none has reported")
    return ExitStatus.DONE
