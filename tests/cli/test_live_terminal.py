"""``top -w`` in a real terminal: tmux's, of 80 columns, with a fake API server that has 1,200 VMs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import balloon
from tests.support.waiting import eventually

pytestmark = pytest.mark.tools

ENDED = "ended with"


class Terminal:
    """A Terminal runs ``top -w`` in tmux, on a server of its own."""

    def __init__(self, socket: Path, kubeconfig: Path) -> None:
        self._socket = socket
        program = f"{shlex.quote(sys.executable)} -m kubeballoon.cli.main top -w --interval=1s"
        shell = f"KUBECONFIG={shlex.quote(str(kubeconfig))} {program}; echo {ENDED} $?; stty -a; cat"
        self.tmux("-f", "/dev/null", "new-session", "-d", "-s", "t", "-x", "80", "-y", "24", shell)

    def tmux(self, *arguments: str) -> str:
        """Run tmux, and return what it prints."""
        command = ["tmux", "-S", str(self._socket), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self.tmux("send-keys", "-t", "t", *keys)

    def text(self) -> str:
        """Return what is on the screen."""
        return self.tmux("capture-pane", "-p", "-t", "t")

    def shows(self, text: str) -> str:
        """Wait until a text is on a screen that is drawn to its end, and return the screen."""
        return eventually(lambda: screen if text in (screen := self.text()) == self.text() else "", tell=self.text)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A fake API server; its kubeconfig is ``tmp_path / "kubeconfig"``."""
    command = [sys.executable, "-m", "hack.bench.fake_api_server", str(tmp_path / "kubeconfig")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "serving\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def terminal(server: subprocess.Popen[str], tmp_path: Path) -> Iterator[Terminal]:
    """``top -w`` of the fake's cluster."""
    assert server.poll() is None
    found = Terminal(tmp_path / "tmux", tmp_path / "kubeconfig")
    yield found
    found.tmux("kill-server")


def test_it_shows_nodes_and_vms_and_ends_with_q(terminal: Terminal) -> None:
    lines = terminal.shows("51 nodes, 1200 VMs").splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 80 for line in lines)
    assert "Scarce" in lines[3]
    terminal.press("Down", "Enter")
    assert "VMs of worker-" in terminal.shows("VMs of worker-").splitlines()[0]
    terminal.press("v")
    terminal.shows("Troubled")
    terminal.press("/", "team-07", "Enter")
    rows = terminal.shows("with 'team-07'").splitlines()[3:-1]
    assert all("team-07" in row for row in rows if row.strip())
    terminal.press("Enter")
    terminal.shows("what the VM was given")
    terminal.press("q")
    screen = terminal.shows(f"{ENDED} 0")
    eventually(lambda: {"echo", "icanon"} <= set(terminal.text().split()))
    assert "worker-" not in screen


def test_it_ends_with_an_interrupt(terminal: Terminal) -> None:
    terminal.shows("51 nodes")
    terminal.press("C-c")
    terminal.shows(f"{ENDED} 0")


def test_it_stays_while_the_api_server_is_gone_and_says_so(terminal: Terminal, server: subprocess.Popen[str]) -> None:
    terminal.shows("51 nodes")
    server.kill()
    assert "51 nodes" in terminal.shows("not up to date: the API server cannot be reached")
    terminal.press("q")
    terminal.shows(f"{ENDED} 0")


def test_without_a_terminal_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(
        '{"clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}], "current-context": "x",'
        '"contexts": [{"name": "x", "context": {"cluster": "c"}}]}'
    )
    done = balloon(tmp_path / "kubeconfig", "top", "-w")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "needs a terminal" in done.stderr
