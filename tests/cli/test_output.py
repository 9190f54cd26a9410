"""The formats in which commands print, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest

from kubeballoon.api.meta import ApiModel
from kubeballoon.cli.output import Cell, Output, Style


class Screen(io.StringIO):
    """A Screen is a standard output that is a terminal, or is not."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.terminal


class Document(ApiModel):
    """A Document stands for what a command found."""

    node_name: str


def printed(
    monkeypatch: pytest.MonkeyPatch, output_format: str | None = None, *, terminal: bool, **environment: str
) -> str:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    screen = Screen(terminal=terminal)
    monkeypatch.setattr("sys.stdout", screen)
    output = Output.to_stdout(output_format)
    if not output.print_document(Document(node_name="n")):
        output.print_table(["NODE", "STATE"], [("n", Cell("Scarce", Style.BAD)), ("longer", Cell("Ample"))])
    return screen.getvalue()


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[31mScarce\x1b[0m" in printed(monkeypatch, terminal=True)
    assert printed(monkeypatch, terminal=False) == "NODE     STATE\nn        Scarce\nlonger   Ample\n"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_declined(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    assert "\x1b" not in printed(monkeypatch, terminal=True, **environment)


@pytest.mark.parametrize(("output_format", "text"), [("json", '{\n  "nodeName": "n"\n}\n'), ("yaml", "nodeName: n\n")])
def test_programs_get_documents(monkeypatch: pytest.MonkeyPatch, output_format: str, text: str) -> None:
    assert printed(monkeypatch, output_format, terminal=True) == text
