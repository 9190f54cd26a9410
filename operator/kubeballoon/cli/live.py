"""This module is ``top -w``: a screen that follows the cluster until the user leaves it."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from kubeballoon.cli.arguments import PROGRAM, ExitStatus
from kubeballoon.cli.cluster_view import read_cluster
from kubeballoon.cli.doubly_reported import without_false_reports
from kubeballoon.cli.live_screen import ScreenState, Snapshot, draw, press, to_rich
from kubeballoon.cli.output import Output, warn
from kubeballoon.cluster.errors import ApiError, ForbiddenError
from kubeballoon.cluster.reader import ApiReader

_TICK = 0.2  # seconds after which news are drawn: a key is answered at once
_LONGEST_KEY = 64  # bytes that are read at once: a key's sequence has six at most
_SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1bOC": "right",
    b"\x1bOD": "left",
    b"\x1b[5~": "pageup",
    b"\x1b[6~": "pagedown",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
    b"\x1b": "esc",
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\x08": "backspace",
}


class Feed:
    """A Feed reads the cluster again and again, in a thread, and holds what it read last.

    Attributes:
        snapshot: what was read last; None before the first answer.
        trouble: why nothing newer could be read; empty if all is well.
    """

    def __init__(self, reader: ApiReader, interval: float) -> None:
        """Prepare; ``interval`` is the pause between two readings, seconds."""
        self.snapshot: Snapshot | None = None
        self.trouble = ""
        self._reader, self._interval = reader, interval
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start reading; the thread does not keep the program from ending."""
        threading.Thread(target=self._follow, name="reader", daemon=True).start()

    def stop(self) -> None:
        """Read no more after the present reading."""
        self._stopped.set()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            self.read()
            self._stopped.wait(self._interval)

    def read(self) -> None:
        """Read once; what fails is shown, and what was read before stays."""
        try:
            snapshot = Snapshot.of(read_cluster(self._reader))
            vms, _ = without_false_reports(self._reader, snapshot.vms)
            self.snapshot = replace(snapshot, vms=tuple(vms))
            self.trouble = ""
        except ApiError as error:
            self.trouble = f"not up to date: {error}"
            if isinstance(error, ForbiddenError):
                self._renew()
        except Exception as error:  # noqa: BLE001 - a thread that ends in silence would freeze the screen
            self.trouble = f"not up to date: {type(error).__name__}: {error}"

    def _renew(self) -> None:
        """Load the credentials again, which may have run out."""
        with suppress(ApiError):  # the next reading fails again, and says so
            self._reader.renew()


def run(options: argparse.Namespace, reader: ApiReader, _: Output) -> ExitStatus:
    """Show the screen until the user leaves it, by q or by ^C, or the terminal is gone."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        warn(f"{PROGRAM}: top -w needs a terminal; `top nodes` and `top vms` print once")
        return ExitStatus.FAILED
    try:
        from rich.console import Console  # noqa: PLC0415 - part of the extra `cli`, for this command alone
        from rich.text import Text  # noqa: PLC0415 - part of the extra `cli`
    except ModuleNotFoundError:
        warn(f"{PROGRAM}: top -w needs rich: pip install 'kubeballoon[cli]'")
        return ExitStatus.FAILED
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the terminal is put back, as after ^C
    feed, console = Feed(reader, options.interval), Console()
    feed.start()
    try:
        with _keys_at_once(), console.screen(hide_cursor=True) as screen:
            state, drawn = ScreenState(), None
            while not state.done:
                size = console.size
                now = (state, feed.snapshot, feed.trouble, size)
                if now != drawn:
                    lines = draw(state, feed.snapshot, feed.trouble, size.width, size.height)
                    screen.update(to_rich(lines, Text))
                    drawn = now
                for key in _read_keys():
                    state = press(state, key, feed.snapshot, max(1, size.height - 4))
    except (KeyboardInterrupt, EOFError):
        pass
    finally:
        feed.stop()
    return ExitStatus.DONE


@contextmanager
def _keys_at_once() -> Iterator[None]:
    """Have the terminal hand over each key at once and show none; it is as before at the end."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _read_keys() -> Iterator[str]:
    """Read the keys pressed within a moment.

    Raises:
        EOFError: the terminal is gone.
    """
    ready, _, _ = select.select([sys.stdin], [], [], _TICK)
    if not ready:
        return
    try:
        typed = os.read(sys.stdin.fileno(), _LONGEST_KEY)
    except OSError as error:
        raise EOFError from error
    if not typed:
        raise EOFError
    yield from split_keys(typed)


def split_keys(typed: bytes) -> Iterator[str]:
    """Split what a terminal sent into keys, by name or as the character; sequences that are not known are left out."""
    while typed:
        sequence = next((each for each in sorted(_SEQUENCES, key=len, reverse=True) if typed.startswith(each)), None)
        if sequence == b"\x1b" and typed[1:2] in (b"[", b"O"):
            return
        if sequence is not None:
            yield _SEQUENCES[sequence]
            typed = typed[len(sequence) :]
        else:
            yield typed[:1].decode("ascii", errors="replace")
            typed = typed[1:]
