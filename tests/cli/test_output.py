"""What commands print, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest

from kubeballoon.api.meta import ApiModel
from kubeballoon.cli.output import Cell, Output, Style


class Screen(io.StringIO):
    """A standard output that is a terminal or not."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        """As told."""
        return self.terminal


class View(ApiModel):
    """What a command found out."""

    node_name: str


def shown(monkeypatch: pytest.MonkeyPatch, form: str | None = None, *, terminal: bool, **environment: str) -> str:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    screen = Screen(terminal=terminal)
    monkeypatch.setattr("sys.stdout", screen)
    output = Output.of(form)
    if not output.document(View(node_name="n")):
        output.table(["NODE", "STATE"], [("n", Cell("Scarce", Style.BAD)), ("longer", Cell("Ample"))])
    return screen.getvalue()


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[31mScarce\x1b[0m" in shown(monkeypatch, terminal=True)
    assert shown(monkeypatch, terminal=False) == "NODE     STATE\nn        Scarce\nlonger   Ample\n"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_declined(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    assert "\x1b" not in shown(monkeypatch, terminal=True, **environment)


@pytest.mark.parametrize(("form", "text"), [("json", '{\n  "nodeName": "n"\n}\n'), ("yaml", "nodeName: n\n")])
def test_programs_get_documents(monkeypatch: pytest.MonkeyPatch, form: str, text: str) -> None:
    assert shown(monkeypatch, form, terminal=True) == text
