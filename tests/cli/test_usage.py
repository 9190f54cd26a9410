"""The command line: what it takes, and how it answers what it does not."""

from __future__ import annotations

import pytest

from kubeballoon.cli.arguments import WrongOptionError
from kubeballoon.cli.main import main, parse
from kubeballoon.cli.selector import parse_selector


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("status", "--bogus"), "kubectl balloon status"),
        (("top", "nodes", "--bogus"), "kubectl balloon top nodes"),
        (("top", "vms", "--sort-by=colour"), "kubectl balloon top vms"),
        (("top", "vms", "-o", "html"), "kubectl balloon top vms"),
        (("status", "-o", "name"), "kubectl balloon status"),
        (("explain", "ns/a", "-n", "other"), "kubectl balloon explain"),
        (("release", "ns/a", "--namespace=other"), "kubectl balloon release"),
        (("release",), "kubectl balloon release"),
        (("top", "vms", "ns/a", "-n", "other"), "kubectl balloon top vms"),
        (("status", "--request-timeout=soon"), "kubectl balloon status"),
    ],
)
def test_wrong_usage_is_answered_with_the_usage_of_that_command(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], command: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"usage: {command} [")
    assert said.splitlines()[-1].startswith(f"{command}: error: ")


@pytest.mark.parametrize("arguments", [("explain", "ns/a", "-n", "ns"), ("explain", "vm/a", "-n", "ns")])
def test_a_namespace_may_be_said_twice(arguments: tuple[str, ...]) -> None:
    assert parse(arguments).namespace == "ns"


@pytest.mark.parametrize("resource", ["nodes", "node", "no"])
def test_nodes_have_kubectls_names(resource: str) -> None:
    options = parse(["top", resource, "worker-1"])
    assert (options.resource, options.names) == ("nodes", ["worker-1"])


@pytest.mark.parametrize(("text", "seconds"), [("5", 5.0), ("5s", 5.0), ("1m30s", 90.0), ("0", None), ("0s", None)])
def test_a_timeout_is_read_as_kubectl_reads_it(text: str, seconds: float | None) -> None:
    assert parse(["status", f"--request-timeout={text}"]).request_timeout == seconds


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("tier=gold", True),
        ("tier==gold,zone!=b", True),
        ("tier!=gold", False),
        ("none!=x", True),
        ("tier in (silver, gold)", True),
        ("tier notin (silver)", True),
        ("tier", True),
        ("!tier", False),
        ("!none,example.com/app", True),
    ],
)
def test_a_selector_means_what_it_means_to_kubectl(selector: str, matches: bool) -> None:  # noqa: FBT001 - a parameter
    labels = {"tier": "gold", "zone": "a", "example.com/app": "web"}
    assert parse_selector(selector).matches(labels) is matches


@pytest.mark.parametrize("selector", ["", "tier=", "a b", "tier in gold", "tier=gold;x", "=gold", "a,,b", "!"])
def test_only_what_is_a_selector_is_taken_for_one(selector: str) -> None:
    if selector == "tier=":
        assert not parse_selector(selector).matches({"tier": "gold"})
        return
    with pytest.raises(WrongOptionError, match="is not a label selector"):
        parse_selector(selector)


def test_the_version_of_the_program_needs_no_cluster(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert main(["version", "--client"]) == 0
    assert capsys.readouterr().out.startswith("Client Version: ")
