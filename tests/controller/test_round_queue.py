"""The order in which nodes get their rounds."""

from __future__ import annotations

import asyncio

from kubeballoon.controller.round_queue import RoundQueue
from tests.support.waiting import soon


async def test_nodes_that_are_short_of_memory_come_first_and_others_in_the_order_in_which_they_came() -> None:
    queue = RoundQueue()
    for name, severity in (("z", 0), ("a", 0), ("tight", 1), ("critical", 3), ("scarce", 2), ("m", 0)):
        queue.add(name, severity)
    order = [await queue.next(0.0) for _ in range(6)]
    assert order == ["critical", "scarce", "tight", "z", "a", "m"]


async def test_a_node_that_falls_short_while_it_waits_gets_a_better_place_and_keeps_it() -> None:
    queue = RoundQueue()
    for name in ("a", "b", "c"):
        queue.add(name)
    queue.add("c", 2)
    queue.add("c", 0)
    assert queue.is_urgent("c")
    assert [await queue.next(0.0) for _ in range(3)] == ["c", "a", "b"]


async def test_a_node_has_one_round_at_a_time() -> None:
    queue = RoundQueue()
    queue.add("a")
    assert await queue.next(0.0) == "a"
    queue.add("a", 3)
    queue.add("b")
    assert await queue.next(0.0) == "b", "a's round has not ended"
    following = asyncio.create_task(queue.next(0.0, urgent=True))
    await asyncio.sleep(0)
    assert not following.done()
    queue.done("a")
    await soon(following.done, 10)
    assert following.result() == "a"


async def test_calm_nodes_are_not_handed_out_as_urgent() -> None:
    queue = RoundQueue()
    queue.add("calm")
    urgent = asyncio.create_task(queue.next(0.0, urgent=True))
    assert await queue.next(0.0) == "calm"
    queue.add("other")
    queue.add("short", 1)
    await soon(urgent.done, 10)
    assert urgent.result() == "short"
    assert queue.has("other")
    assert not queue.idle
    for name in ("calm", "short", await queue.next(0.0)):
        queue.done(name)
    assert queue.idle
