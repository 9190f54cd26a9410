"""This module makes calls that may block for ever: one after the other for each VM, and in threads that all VMs share.

A thread is held by a queue only while it makes that queue's calls. So there are as many threads as calls hang, and a
few for all others.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import ParamSpec, TypeVar

from kubeballoon.agent.hypervisor.errors import HungError
from kubeballoon.agent.hypervisor.relay import Relay

_log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_IDLE = "idle for calls"  # the name of a thread that no queue holds
_IDLE_SECONDS = 10.0  # after which such a thread ends
_MOST_AT_ONCE = 4  # threads that are started without waiting whether one of the others becomes free
_PATIENCE = 0.05  # seconds of that waiting


class CallQueue:
    """A CallQueue makes the calls for one VM, one after the other.

    It has a thread while it makes calls. That is a daemon thread, so that a call that never returns does not delay the
    agent's exit.

    libvirt's objects are created in such calls and must be freed in them as well: freeing the last reference to a
    connection is a call to its daemon, which may hang, and the event loop must never wait for that. A result or an
    error that nobody waits for any more is therefore dropped here.
    """

    def __init__(self, name: str) -> None:
        """Name the threads that make the calls, for debuggers."""
        self.name = name
        self._waiting: deque[Callable[[], None]] = deque()
        self._held: bool = False  # whether a thread makes the calls now
        self._lock = threading.Lock()  # for the two above
        self._late: asyncio.Future[None] | None = None  # done once the call that missed its deadline has returned
        self._relays: set[Relay] = set()
        self._ended = False

    async def call(self, deadline: float, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function after the calls before it, and return what it returns.

        Raises:
            HungError: the function did not return within ``deadline`` seconds, or an earlier one still has not.
        """
        if self._late is not None and not self._late.done():
            raise HungError("an earlier call to libvirt has not returned yet")
        loop = asyncio.get_running_loop()
        returned: asyncio.Future[None] = loop.create_future()
        # The result does not travel in the future: the future would keep a reference to it in the event loop's thread.
        result: deque[R] = deque()

        def run() -> None:
            try:
                result.append(function(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 - raised again where the call is awaited
                _clear_frames(error)  # their locals refer to libvirt's objects
                _settle(loop, partial(_fail, returned, error))
            else:
                _settle(loop, partial(_succeed, returned))

        self._put(run)
        try:
            await asyncio.wait([returned], timeout=deadline)  # the thread settles it, also after this call is given up
            if not returned.done():
                self._late = returned
                raise HungError(f"libvirt did not answer within {deadline:.0f}s")
            returned.result()  # raises what the function raised
            return result.pop()
        finally:
            if not returned.done():
                returned.add_done_callback(_retrieve_error)
            # Given up, or cancelled just as the call returned: the result is freed in the thread, after the call.
            if not returned.done() or result:
                self._put(result.clear)

    def post(self, function: Callable[[], object]) -> None:
        """Call a function after the calls before it, without waiting for it."""
        self._put(partial(_log_errors, function))

    def keep(self, relay: Relay) -> None:
        """Close ``relay`` when the calls are to end: a call that waits for an answer through it then returns."""
        self._relays = {each for each in self._relays if not each.closed} | {relay}
        if self._ended:
            relay.close()

    def end(self) -> None:
        """Have no call wait for a daemon any more."""
        self._ended = True
        for relay in self._relays:
            relay.close()

    def _put(self, call: Callable[[], None]) -> None:
        with self._lock:
            self._waiting.append(call)
            held, self._held = self._held, True
        if not held:
            _THREADS.serve(self)

    def make_calls(self) -> None:
        """Make all calls that wait, in the present thread."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._held = False
                    return
                call = self._waiting.popleft()
            call()
            del call  # or what it refers to would be freed with the next one


class _Threads:
    """The _Threads make the calls of all queues.

    Where many queues have calls at the same moment, as when all guests report together, most wait for a thread: a call
    takes a millisecond or two. If it takes longer, a further thread is started, so that calls which hang hold up none.
    """

    def __init__(self) -> None:
        """Start without any thread."""
        self._lock = threading.Lock()  # for all below
        self._busy = 0  # how many threads make calls now
        self._idle: deque[SimpleQueue[CallQueue]] = deque()  # where those that wait are to find their next queue
        self._waiting: deque[CallQueue] = deque()  # for a thread

    def serve(self, calls: CallQueue) -> None:
        """Have a thread make the calls of a queue, at once or very soon."""
        with self._lock:
            if not self._idle and self._busy >= _MOST_AT_ONCE:
                self._waiting.append(calls)
                asyncio.get_running_loop().call_later(_PATIENCE, self._serve_overdue, calls)
                return
            self._busy += 1
            # From the end, so that threads which are not needed wait until they end.
            mailbox = self._idle.pop() if self._idle else None
        self._hand_over(calls, mailbox)

    def _serve_overdue(self, calls: CallQueue) -> None:
        """Start a thread for a queue if it still waits for one."""
        with self._lock:
            if calls not in self._waiting:
                return
            self._waiting.remove(calls)
            self._busy += 1
        self._hand_over(calls, None)

    def _hand_over(self, calls: CallQueue, mailbox: SimpleQueue[CallQueue] | None) -> None:
        if mailbox is None:
            threading.Thread(target=self._work, args=(calls,), name=calls.name, daemon=True).start()
        else:
            mailbox.put(calls)

    def _work(self, first: CallQueue) -> None:
        """Make the calls of one queue after the other, until no queue has needed this thread for a while."""
        mailbox: SimpleQueue[CallQueue] = SimpleQueue()
        thread = threading.current_thread()
        calls: CallQueue | None = first
        while calls is not None:
            thread.name = calls.name
            calls.make_calls()
            thread.name = _IDLE
            calls = self._next(mailbox)

    def _next(self, mailbox: SimpleQueue[CallQueue]) -> CallQueue | None:
        """Find the next queue for a thread; None if it is not needed any more."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._busy -= 1
            self._idle.append(mailbox)
        with suppress(Empty):
            return mailbox.get(timeout=_IDLE_SECONDS)
        with self._lock:
            if mailbox in self._idle:
                self._idle.remove(mailbox)
                return None
        return mailbox.get()  # a queue has taken the thread in this very moment


_THREADS = _Threads()


def _clear_frames(error: BaseException) -> None:
    """Drop what the frames of an error, and of the errors that it came from, refer to."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__


def _settle(loop: asyncio.AbstractEventLoop, settle: Callable[[], None]) -> None:
    """Settle a call's future in the event loop, from the call's thread."""
    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        _log.debug("a call returned after the end of the event loop")


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _retrieve_error(future: asyncio.Future[None]) -> None:
    """Look at the error of a call that was given up, or asyncio would log that nobody did."""
    _ = future.cancelled() or future.exception()


def _log_errors(function: Callable[[], object]) -> None:
    try:
        function()
    except Exception as error:  # noqa: BLE001 - nobody waits for it, and the calls after it must be made
        _log.debug("%s", error)
