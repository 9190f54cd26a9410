"""call_with_deadline(): a deadline for blocking calls, such as libvirt's, that accept none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from .errors import DeadlineError

T = TypeVar("T")


def call_with_deadline(seconds: float, what: str, call: Callable[[], T]) -> T:
    """Return the result of a call that may never end.

    The call runs on a thread of its own. At the deadline the thread is abandoned; it does not keep the process alive.

    Raises:
        DeadlineError: The call did not end in time.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 -- raised again below
            errors.append(error)

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise DeadlineError(f"{what} did not end within {seconds:g} s")
    return results[0]
