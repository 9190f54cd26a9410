"""The help of every command."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import pytest

from kubeballoon.cli.arguments import parser
from kubeballoon.replay import main, recommend

COLUMNS = 80
FORMER_WORDS = re.compile(r"\b(simulat\w*|taken|takes|reserved|relief|uninstall)\b", re.IGNORECASE)


def helps(command: argparse.ArgumentParser) -> Iterator[str]:
    """Every help text below a command, its own among them."""
    yield command.format_help()
    for action in command._actions:  # noqa: SLF001 - argparse has no public way to list subcommands
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - argparse has no public name for it
            for each in dict.fromkeys(action.choices.values()):  # one that has aliases is there several times
                yield from helps(each)


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The help of kubectl-balloon's commands, and of kubeballoon's that users run, for a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    kubeballoon = argparse.ArgumentParser(prog="kubeballoon")
    commands = kubeballoon.add_subparsers()
    main.add_parser(commands)
    recommend.add_parser(commands)
    return [*helps(parser()), *helps(kubeballoon)]


def test_help_fits_a_terminal_of_80_columns(texts: list[str]) -> None:
    assert len(texts) == 13
    assert [line for text in texts for line in text.splitlines() if len(line) > COLUMNS] == []


def test_help_names_no_former_command_or_word(texts: list[str]) -> None:
    assert [text for text in texts if FORMER_WORDS.search(text)] == []
