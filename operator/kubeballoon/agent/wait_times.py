"""This module says how long the agent waits, and for what: values are seconds, and tests hand in shorter ones.

Each part of the agent gets its own value by its constructor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kubeballoon.core.backoff import Backoff


@dataclass(frozen=True, slots=True)
class NodeTiming:
    """NodeTiming is the timing of the agent's two loops.

    Attributes:
        guard_interval: between two readings of the node's memory: it can run out within a second.
        check_interval: between two checks whether the node's own figures changed enough for a report.
        settle: between two reports, so that changes of several VMs become one.
        first_settle: how long changes are collected if no report was written for a while: a guest that begins to need
            memory must not wait for others' news.
        heartbeat: after which the agent says that its last report still holds; three missing ones make a node silent.
        refresh: after which a report is written though nothing changed enough for one.
        moved_floor: between two reports if nothing is urgent, but memory has moved.
        drift_floor: between two reports if nothing but figures has drifted.
        retry: the pauses after a report that could not be written.
        labels_interval: between two readings of the Node's labels: they seldom change, and each reading of every agent
            goes to the API server.
        stuck_after: after which a loop that has not turned fails the liveness probe. A report takes up to three calls
            to the API server, with a deadline of ten seconds each: one that does not answer must not restart the agent.
    """

    guard_interval: float = 0.2
    check_interval: float = 3.0
    settle: float = 0.2
    first_settle: float = 0.05
    heartbeat: float = 60.0
    refresh: float = 600.0
    moved_floor: float = 1.0
    drift_floor: float = 5.0
    retry: Backoff = field(default=Backoff(shortest=1.0, longest=30.0))
    labels_interval: float = 60.0
    stuck_after: float = 40.0


@dataclass(frozen=True, slots=True)
class MemoryTiming:
    """MemoryTiming is the timing of the worker that moves a VM's memory.

    Attributes:
        poll: between two samples of a VM whose guest does not report.
        longest_poll: between two samples of a VM that stands still, at the most. It is sampled when its guest has
            reported, for nothing new can be seen before: so this is longer than the default period of reports.
        moving_poll: between two samples of a VM whose balloon is moving.
        report_delay: until a guest's report is there for certain: it is dated in whole seconds, rounded down.
        boot_grace: how long a guest that boots may take until its balloon driver reports for the first time.
        reconnect: the pauses between attempts to reach a VM.
    """

    poll: float = 3.0
    longest_poll: float = 12.0
    moving_poll: float = 0.2
    report_delay: float = 1.25
    boot_grace: float = 30.0
    reconnect: Backoff = field(default=Backoff(shortest=1.0, longest=10.0))


@dataclass(frozen=True, slots=True)
class GuestTiming:
    """GuestTiming is the timing of the worker that deals with a VM's guest agent and processors.

    Attributes:
        poll: between two looks at processors of which a number is requested.
        idle_poll: between two looks at processors of which none is requested.
        moving_poll: between two looks while processors come or go.
        reconnect: the pauses between attempts to reach a VM.
    """

    poll: float = 3.0
    idle_poll: float = 30.0
    moving_poll: float = 0.5
    reconnect: Backoff = field(default=Backoff(shortest=2.0, longest=30.0))


@dataclass(frozen=True, slots=True)
class ProgramTiming:
    """ProgramTiming is the timing of what concerns the program in a guest that locks memory.

    Attributes:
        poll: between two readings of the program's status; the program looks at its guest twice as often.
        moving_poll: between two readings while the program locks or frees memory.
        probe_interval: between two searches for a program in a guest that had none.
        driver_grace: how long a balloon driver may take to report for the first time, before its guest is searched for
            a program instead.
        gone_after: without a new status, after which the program counts as ended.
        merge_time: how long KSM may take until the node has back what the program locked. By default KSM scans about 20
            MiB a second (100 pages every 20 ms), and all of the node's mergeable memory in turn.
    """

    poll: float = 1.0
    moving_poll: float = 0.25
    probe_interval: float = 15.0
    driver_grace: float = 30.0
    gone_after: float = 10.0
    merge_time: float = 300.0


@dataclass(frozen=True, slots=True)
class ProcessorTiming:
    """ProcessorTiming is the timing of what concerns a VM's processors.

    Attributes:
        unplug_deadline: how long a guest's kernel may take to give a processor up; it takes a fraction of a second.
        unplug_again: after which a guest that did not give a processor up is asked again.
        agent_absent_after: without an answer of the guest agent, after which method Auto unplugs processors instead. A
            guest that boots has no guest agent for a while.
        attempts: how many requests without any effect show that a guest does not follow.
    """

    unplug_deadline: float = 8.0
    unplug_again: float = 300.0
    agent_absent_after: float = 60.0
    attempts: int = 5


@dataclass(frozen=True, slots=True)
class GuestAgentTiming:
    """GuestAgentTiming is the timing of commands to a guest agent.

    Attributes:
        retry: the pauses after a guest agent that did not answer, or a command that it refused.
        exec_poll: between two questions whether a program that was started in the guest has ended.
        exec_polls: how often that is asked; a guest on a busy node, or short of memory, starts Python in over 5 s, and
            another try would cost it more.
    """

    retry: Backoff = field(default=Backoff(shortest=5.0, longest=60.0))
    exec_poll: float = 0.2
    exec_polls: int = 75


@dataclass(frozen=True, slots=True)
class LibvirtTiming:
    """LibvirtTiming lists the deadlines of calls to libvirt.

    Attributes:
        call: for one call; it takes milliseconds.
        connect: for connecting to a daemon and finding the VM.
        agent_answer: whole seconds for a guest agent to answer; libvirt itself gives up then.
        agent_queue: how long libvirt lets a command for a guest agent wait for another client's, before it fails.
    """

    call: float = 5.0
    connect: float = 10.0
    agent_answer: int = 5
    agent_queue: float = 30.0

    @property
    def agent_command(self) -> float:
        """The deadline for a guest agent's command: longer than libvirt's own, so whoever exceeds it hangs."""
        return self.agent_queue + self.agent_answer + 5.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Timing is the timing of all parts of the agent."""

    node: NodeTiming = NodeTiming()
    memory: MemoryTiming = MemoryTiming()
    guest: GuestTiming = GuestTiming()
    program: ProgramTiming = ProgramTiming()
    processors: ProcessorTiming = ProcessorTiming()
    guest_agent: GuestAgentTiming = GuestAgentTiming()
    libvirt: LibvirtTiming = LibvirtTiming()


DEFAULT_TIMING = Timing()
"""What holds for an agent on a real node."""
