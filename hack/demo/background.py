"""RepeatingThread: calls a function at regular intervals in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class RepeatingThread(threading.Thread):
    """A thread that calls a function every few seconds; a context manager, which starts and stops it."""

    def __init__(self, seconds: float, function: Callable[[], bool]) -> None:
        """Call ``function`` every ``seconds`` until it returns False or the context ends."""
        super().__init__(daemon=True)
        self._seconds = seconds
        self._function = function
        self._stopped = threading.Event()
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self.join()
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        """Call the function until it returns False or raises, or the context ends; the context raises its error."""
        try:
            while self._function() and not self._stopped.wait(self._seconds):
                pass
        except Exception as error:  # noqa: BLE001 - raised by __exit__
            self._error = error
