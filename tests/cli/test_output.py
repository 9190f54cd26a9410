"""The formats in which commands print, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest

from kubeballoon.api.meta import ApiModel
from kubeballoon.cli.output import Output, warn
from kubeballoon.cli.table import Cell, Style


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


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\nroot ok\u202egnp\x00"
"""What clears a terminal, names its window, colours it, begins a line of its own, and turns the text around."""
HARMLESS = "]0;owned[2J31m  root okgnp"


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
    assert printed(monkeypatch, terminal=False) == "NODE    STATE\nn       Scarce\nlonger  Ample\n"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_declined(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    assert "\x1b" not in printed(monkeypatch, terminal=True, **environment)


@pytest.mark.parametrize(("output_format", "text"), [("json", '{\n  "nodeName": "n"\n}\n'), ("yaml", "nodeName: n\n")])
def test_programs_get_documents(monkeypatch: pytest.MonkeyPatch, output_format: str, text: str) -> None:
    assert printed(monkeypatch, output_format, terminal=True) == text


@pytest.mark.parametrize("output_format", [None, "json", "yaml"])
def test_nothing_that_is_not_printable_reaches_a_terminal(
    monkeypatch: pytest.MonkeyPatch, output_format: str | None
) -> None:
    screen = Screen(terminal=True)
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("NO_COLOR", "1")
    output = Output.to_stdout(output_format)
    if not output.print_document(Document(node_name=HOSTILE)):
        output.print_table(["NODE", "STATE"], [(HOSTILE, Cell(HOSTILE, Style.BAD))])
        output.print_line(HOSTILE, Cell(HOSTILE, Style.STRONG))
        output.print_bullets(HOSTILE, [HOSTILE])
        assert screen.getvalue().count(HARMLESS) == 6
    assert all(line.isprintable() for line in screen.getvalue().split("\n"))


def test_colours_stay_around_text_that_was_stripped(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(terminal=True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", screen)
    Output.to_stdout(None).print_line(Cell(HOSTILE, Style.BAD))
    assert screen.getvalue() == f"\x1b[31m{HARMLESS}\x1b[0m\n"


def test_warnings_and_errors_are_stripped_too(capsys: pytest.CaptureFixture[str]) -> None:
    warn(HOSTILE)
    assert capsys.readouterr().err == f"{HARMLESS}\n"
