"""This module says how long the controller waits, and for what: values are seconds, and tests hand in other ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ControllerTiming:
    """ControllerTiming is the timing of what the controller does by itself, without being told of a change.

    Attributes:
        resync: between rounds of a node while something is due there; ESX balances as often.
        rest: between rounds of a node where nothing is due and nothing changes.
        tick: between the moments at which nodes are looked for whose next round is due.
        settle: how long changes are collected, so that they share one round.
        status_interval: between updates of policies' statuses.
        figures_interval: between writes of one policy's status of which only figures and words differ: each is sent
            to every agent.
        taint_interval: between two decisions about nodes' taints, and the next attempt to write one.
        migration_interval: between two choices of migrations that would mend nodes.
        load_retry: between attempts to read all objects at the start, and between comparisons with them while kopf is
            behind. The controller is not ready until one succeeds, and more would press an overloaded API server.
        audit_interval: between comparisons with the API server's objects: each lists the names of all of them.
        delivery: how long kopf may take to deliver a change that such a comparison has found. It takes up to 15 s to
            reopen a watch that broke off.
        stalled_after: without progress, after which the kubelet restarts the controller.
        standby_check_interval: between the attempts of a replica that stands by to list every kind.
    """

    resync: float = 15.0
    rest: float = 60.0
    tick: float = 1.0
    settle: float = 0.05
    status_interval: float = 1.0
    figures_interval: float = 15.0
    taint_interval: float = 2.0
    migration_interval: float = 15.0
    load_retry: float = 3.0
    audit_interval: float = 60.0
    delivery: float = 30.0
    stalled_after: float = 60.0
    standby_check_interval: float = 15.0


DEFAULT_TIMING = ControllerTiming()
"""What holds for a controller in a cluster."""
