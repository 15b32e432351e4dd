"""Workers and their seats as the primary sees them, and the table of what can happen.

Two words are kept apart.  A *slot* is a line on the scoreboard and an inbox; one living
worker has it, and each that takes it is a new generation there.  A *seat* is the claim
that one more worker shall run: it outlives workers, gives them their number (0 to n - 1),
counts their failures, and while it is renewed it holds two, the one that serves and its
successor that comes up.  This file does nothing to the world; primary.py does.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastcluster import metrics
from fastcluster.channel import Channel
from fastcluster.heartbeat import Pulse
from fastcluster.retirement import Allowance

BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 30.0


class State(enum.Enum):
    """A worker, as the primary sees it."""

    FORKED = enum.auto()
    READY = enum.auto()
    DRAINING = enum.auto()
    CONDEMNED = enum.auto()
    DEAD = enum.auto()


class Event(enum.Enum):
    """What can happen to a worker."""

    READY = enum.auto()  # it says that it serves
    DRAINS = enum.auto()  # it says that somebody told it to stop
    LOST = enum.auto()  # its channel read EOF
    SILENT = enum.auto()  # it has shown no sign of life for too long
    RETIRE = enum.auto()  # it is not wanted any more
    OVERDUE = enum.auto()  # its deadline has passed; what that means is the state's
    KILL = enum.auto()  # everybody is to go at once
    EXIT = enum.auto()  # it was reaped


# (state, event) -> (next state, method of Primary).  What has no row changes nothing, in
# whatever order the kernel reports things.
TABLE: dict[tuple[State, Event], tuple[State, str]] = {
    (State.FORKED, Event.READY): (State.READY, "_welcome"),
    (State.FORKED, Event.DRAINS): (State.DRAINING, "_let_drain"),
    (State.FORKED, Event.LOST): (State.FORKED, "_expect_exit"),
    (State.FORKED, Event.RETIRE): (State.DRAINING, "_dismiss"),
    (State.FORKED, Event.OVERDUE): (State.CONDEMNED, "_give_up_waiting"),
    (State.FORKED, Event.KILL): (State.CONDEMNED, "_kill"),
    (State.FORKED, Event.EXIT): (State.DEAD, "_bury_failed"),
    (State.READY, Event.DRAINS): (State.DRAINING, "_let_drain"),
    (State.READY, Event.LOST): (State.READY, "_expect_exit"),
    (State.READY, Event.SILENT): (State.CONDEMNED, "_abort"),
    (State.READY, Event.RETIRE): (State.DRAINING, "_drain"),
    (State.READY, Event.OVERDUE): (State.CONDEMNED, "_kill_unreachable"),
    (State.READY, Event.KILL): (State.CONDEMNED, "_kill"),
    (State.READY, Event.EXIT): (State.DEAD, "_bury_fallen"),
    (State.DRAINING, Event.RETIRE): (State.DRAINING, "_hurry"),
    (State.DRAINING, Event.OVERDUE): (State.CONDEMNED, "_kill_unfinished"),
    (State.DRAINING, Event.KILL): (State.CONDEMNED, "_kill"),
    (State.DRAINING, Event.EXIT): (State.DEAD, "_bury_drained"),
    (State.CONDEMNED, Event.OVERDUE): (State.CONDEMNED, "_kill"),
    (State.CONDEMNED, Event.KILL): (State.CONDEMNED, "_kill"),
    (State.CONDEMNED, Event.EXIT): (State.DEAD, "_bury_failed"),
}


class Board(Protocol):
    """What the primary needs of server.Board."""

    slots: int

    def take(self, index: int) -> int: ...
    def release(self, index: int) -> None: ...
    def read(self, index: int) -> dict[str, int]: ...
    def last_request(self, index: int) -> dict[str, Any] | None: ...
    def tally(self, index: int) -> dict[str, Any]: ...
    def total(self) -> dict[str, Any]: ...


@dataclass(eq=False, slots=True)
class Seat:
    """The claim that one more worker shall run."""

    number: int  # of its workers, for people and applications
    worker: Worker | None = None
    successor: Worker | None = None
    slot: int | None = None  # of its last worker: an heir finds the same inbox
    failures: int = 0  # in a row: died while it came up, or soon after
    due_s: float = 0.0  # an empty seat is not filled before this moment
    renew_s: float = 0.0  # a successor that failed is not followed before this moment
    restarts: int = 0  # workers after the first, but for those of a reload
    reloads: int = 0
    was_lost: bool = False  # its last worker went without being told to
    why: str = ""  # the last one ended, in words
    in_crash_loop: bool = False
    rests: bool = False  # it stays empty until somebody wakes it


@dataclass(eq=False, slots=True)
class Worker:
    """One worker process, from the fork until it was reaped."""

    pid: int
    channel: Channel
    slot: int
    generation: int
    serial: int  # of all forks
    seat: Seat
    deadline_s: float | None
    state: State = State.FORKED
    forked_s: float = 0.0
    ready_s: float | None = None
    failure: str | None = None  # why it could not load the application, in its own words
    status: int = 0  # as waitpid gave it
    was_killed: bool = False  # by us
    is_loaded: bool = False  # the application is, and starts up
    before: dict[str, Any] = field(default_factory=metrics.nothing)  # the slot's tally until it
    pulse: Pulse = field(default_factory=Pulse)
    allowance: Allowance = field(default_factory=Allowance)

    def __str__(self) -> str:
        return f"worker {self.seat.number} (pid {self.pid})"


# ---- words


def backoff_s(failures: int) -> float:
    """Return how long a seat waits after so many failures in a row, in seconds."""
    return float(min(BACKOFF_FIRST_S * 2 ** min(failures - 1, 20), BACKOFF_MOST_S))


def count(number: int, noun: str) -> str:
    """Return the number and its noun, in the plural where it is one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
