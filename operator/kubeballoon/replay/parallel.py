"""This module runs tasks in parallel processes, and says how far they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from typing import ClassVar, Protocol, TypeVar

_PROGRESS_SECONDS = 0.5  # between two reports of progress

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)

Progress = Callable[[float], None]
"""A function that is called with the share of the work that is done, 0 to 1."""


class Task(Protocol[Result_co]):
    """A Task is what one process does; it can be sent to another process."""

    @property
    def work(self) -> float:
        """How much there is to do, in a unit that all tasks share."""

    def run(self, count_work: Callable[[float], None]) -> Result_co:
        """Do it; ``count_work`` is called with each amount of work that is done."""


class _Worker:
    """A _Worker is a process of the pool, which counts the work that it has done.

    The counter is shared memory, and the pool can hand it to a process only when the process starts.
    """

    count_work: ClassVar[Callable[[float], None]] = staticmethod(lambda _: None)

    @classmethod
    def start(cls, done: Synchronized[float]) -> None:
        """Count this process's work together with that of all others."""
        cls.count_work = partial(_add, done)

    @classmethod
    def run(cls, task: Task[Result]) -> Result:
        """Run a task in this process."""
        return task.run(cls.count_work)


def _add(done: Synchronized[float], work: float) -> None:
    with done.get_lock():
        done.value += work


def run_tasks(tasks: Sequence[Task[Result]], jobs: int, progress: Progress) -> Iterator[Result]:
    """Run tasks in ``jobs`` processes, and return their results in any order."""
    total = sum(task.work for task in tasks)
    # Spawned and not forked: a fork would copy locks that threads of libraries hold at that moment.
    context = get_context("spawn")
    done = context.Value("d", 0.0)
    if jobs == 1:

        def count_work(work: float) -> None:
            _add(done, work)
            progress(done.value / total)

        yield from [task.run(count_work) for task in tasks]
        return
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_Worker.start, initargs=(done,)) as pool:
        longest_first = sorted(tasks, key=lambda task: -task.work)  # else a long one, left to the end, would run alone
        pending = {pool.submit(_Worker.run, task) for task in longest_first}
        while pending:
            finished, pending = wait(pending, timeout=_PROGRESS_SECONDS, return_when=FIRST_COMPLETED)
            progress(done.value / total)
            yield from [future.result() for future in finished]
