"""The docs say what is so; the examples are what the API server takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from hack.generate_docs import REFERENCE, render_fields
from hack.testbed.controlplane import ControlPlane
from kubeballoon.api import names
from kubeballoon.cli import diff_memory, diff_nodes, diff_processors, top
from kubeballoon.cli.arguments import parser
from kubeballoon.core.entitlement import Claim, divide
from kubeballoon.core.units import GIB
from kubeballoon.manifests import read_manifests

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "operator/ARCHITECTURE.md"])
POLICIES = ROOT / "examples/policies"


def test_every_field_is_listed_as_the_models_have_it() -> None:
    assert render_fields() in REFERENCE.read_text()


def test_every_field_has_a_meaning() -> None:
    rows = re.findall(r"^\| `((?:spec|status)\S*)` \|[^|]*\| ?(\([^)]*\))?([^|]*)\|$", render_fields(), re.MULTILINE)
    assert len(rows) > 50
    assert [field for field, _, meaning in rows if not meaning.strip()] == []


def test_every_annotation_is_listed() -> None:
    text = REFERENCE.read_text()
    assert [name for name in (*names.CONTROLLER_ANNOTATIONS, names.EXCLUDE, names.RELEASE) if name not in text] == []


def test_every_command_of_the_plugin_is_listed() -> None:
    commands = next(action.choices for action in parser()._actions if action.dest == "command")  # noqa: SLF001 - argparse
    # has no public way to list them
    section = REFERENCE.read_text().split("## Commands")[1].split("## Metrics")[0]
    assert commands is not None
    assert set(re.findall(r"^\| `([a-z]+)", section, re.MULTILINE)) - {"kubectl"} == set(commands)


def test_every_column_of_a_table_is_explained_under_its_title() -> None:
    headers = (
        *(top._NODE_HEADER, top._WIDE_NODE_HEADER, top._VM_HEADER, top._WIDE_VM_HEADER),  # noqa: SLF001 - nobody else's
        *(diff_memory.NODE_HEADER, diff_memory.VM_HEADER, diff_memory.WIDE_VM_HEADER),
        diff_nodes.NODE_HEADER,
        *(diff_processors.NODE_HEADER, diff_processors.VM_HEADER, diff_processors.WIDE_VM_HEADER),
    )
    titles = {column.title for header in headers for column in header}
    section = REFERENCE.read_text().split("## Commands")[1].split("## Metrics")[0]
    explained = set(re.findall(r"`([A-Z%-]+)`(?=[^|]*\| `(?:top|diff))", section))
    assert explained == titles - {"NAMESPACE", "NODE", "STATE", "VM", "VMS"}, "those need no explanation"


@pytest.mark.parametrize(
    ("row", "shares", "idle_tax"),
    [
        ("equal shares, `idleTax: 0`", 1000, 0),
        ("equal shares, `idleTax: 75`", 1000, 75),
        ("idle has three times the shares, `idleTax: 0`", 3000, 0),
        ("idle has three times the shares, `idleTax: 75`", 3000, 75),
    ],
)
def test_the_worked_example_of_the_idle_tax_is_what_the_core_computes(row: str, shares: int, idle_tax: int) -> None:
    idle = Claim("idle", minimum=2 * GIB, maximum=8 * GIB, weight=shares * 8, active=2 * GIB, idle_tax=idle_tax)
    busy = Claim("busy", minimum=7 * GIB, maximum=8 * GIB, weight=8000, active=7 * GIB, idle_tax=idle_tax)
    first, second = (f"{round(part / GIB, 1):g} GiB" for part in divide([idle, busy], 12 * GIB))
    assert f"| {row} | {first} | {second} |" in (ROOT / "docs/concepts.md").read_text()


def test_the_commands_that_show_vms_give_memory_on_a_cluster_are_the_same_wherever_they_stand() -> None:
    shown = [re.findall("```sh\n(export KUBECONFIG=.*?)```", page.read_text(), re.DOTALL) for page in PAGES]
    readme, guide = [blocks[0] for blocks in shown if blocks]
    assert readme == guide
    assert len(readme.splitlines()) == 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("alert", re.findall(r"`(Kubeballoon\w+)`", (ROOT / "docs/operations.md").read_text()))
def test_an_alert_that_is_named_exists_and_has_a_runbook(alert: str) -> None:
    assert f"alert: {alert}\n" in (ROOT / "charts/kubeballoon/files/rules.yaml").read_text()
    assert f"## {alert}\n" in (ROOT / "charts/kubeballoon/RUNBOOKS.md").read_text()


@pytest.mark.cluster
@pytest.mark.parametrize("file", sorted(POLICIES.iterdir()), ids=lambda file: file.name)
def test_an_example_is_taken_by_the_api_server(installed: ControlPlane, file: Path) -> None:
    installed.kubectl("create", "--dry-run=server", "--validate=strict", f"--filename={file}")


def test_the_architecture_names_every_module_but_main_in_the_row_of_its_package() -> None:
    rows = re.findall(r"^\| ([^|]*) \| (.*) \|$", (ROOT / "operator/ARCHITECTURE.md").read_text(), re.MULTILINE)
    named = {place: words(text) for places, text in rows for place in re.findall("`([^`]*)`", places)}
    package = ROOT / "operator/kubeballoon"
    modules = [path.relative_to(package).with_suffix("") for path in sorted(package.rglob("[!_]*.py"))]
    unnamed = [
        path
        for path in modules
        if str(path) not in named and path.name not in {"main", *named.get(str(path.parent), ())}
    ]
    assert [str(path) for path in unnamed] == []


def words(text: str) -> set[str]:
    """List the words that a text marks as code."""
    return set(re.findall(r"\w+", " ".join(re.findall("`([^`]*)`", text))))


def test_examples_are_read_as_one_repository() -> None:
    assert {(policy.kind, policy.metadata.name) for policy in read_manifests([str(ROOT / "examples")])} == {
        ("MemoryPolicy", "observe"),
        ("MemoryPolicy", "default"),
        ("MemoryPolicy", "production"),
        ("MemoryPolicy", "databases"),
        ("MemoryPolicy", "web-farm"),
        ("MemoryPolicy", "virtual-desktops"),
        ("MemoryPolicy", "ci-runners"),
        ("MemoryPolicy", "java"),
        ("MemoryPolicy", "test-environments"),
        ("ProcessorPolicy", "default"),
        ("NodePolicy", "large-nodes"),
    }


@pytest.mark.parametrize("file", ["argocd/application.yaml", "flux/kustomization.yaml"])
def test_gitops_examples_prune_what_leaves_the_repository(file: str) -> None:
    documents = list(yaml.safe_load_all((ROOT / "examples" / file).read_text()))
    spec = documents[-1]["spec"]
    assert spec.get("prune") or spec["syncPolicy"]["automated"]["prune"]
