"""A deadline for calls that know none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from .errors import DeadlineError

T = TypeVar("T")


def within(seconds: float, what: str, call: Callable[[], T]) -> T:
    """The result of a call that may never end.

    It runs on a thread of its own, which is abandoned at the deadline and does not keep the process from ending.

    Raises:
        DeadlineError: The call did not end in time.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 -- raised again, where it is awaited
            errors.append(error)

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise DeadlineError(f"{what} did not end within {seconds:g} s")
    return results[0]
