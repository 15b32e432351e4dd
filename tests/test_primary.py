"""The primary against a world of fakes: no process, no socket, no real time."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from fastcluster import errors, metrics
from fastcluster.channel import Message
from fastcluster.child_process import Child
from fastcluster.config import Config
from fastcluster.primary import (
    TABLE,
    Event,
    Primary,
    State,
    Worker,
    World,
    backoff_s,
    slots_for,
)
from fastcluster.upgrade import CannotUpgrade

GRACE_S = 30.0
STARTUP_S = 60.0
KILLED = int(signal.SIGKILL)
CODE_3 = 3 << 8


class FakeChannel:
    """The primary's end: what it sent is kept, what the worker says is put in."""

    fds = 0

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.inbound: list[Message] = []
        self.eof = False
        self.hung_up = False
        self.is_closed = False
        self.is_deaf = False

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> bool:
        if self.is_deaf:
            return False
        self.sent.append(message)
        self.fds += len(fds)
        return True

    def receive(self) -> list[tuple[Message, list[int]]]:
        said, self.inbound = self.inbound, []
        self.eof = self.hung_up
        return [(message, []) for message in said]

    def close(self) -> None:
        self.is_closed = True


class FakeBoard:
    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.taken: dict[int, int] = {}
        self.generations = [0] * slots
        self.connections = [0] * slots
        self.requests = [0] * slots
        self.heartbeats = [0] * slots
        self.states = [2] * slots
        self.running = 1
        self.request: dict[str, Any] | None = None

    def take(self, index: int) -> int:
        assert index not in self.taken, f"slot {index} is taken twice"
        self.generations[index] += 1
        self.taken[index] = self.generations[index]
        return self.generations[index]

    def release(self, index: int) -> None:
        del self.taken[index]

    def read(self, index: int) -> dict[str, int]:
        return {
            "connections": self.connections[index],
            "running": self.running,
            "state": self.states[index],
            "requests": self.requests[index],
            "heartbeat_ms": self.heartbeats[index],
            "accepted": 0,
            "handed_over": 0,
            "stall_ns": 0,
        }

    def tally(self, index: int) -> dict[str, Any]:
        # From what it is now, since nothing is counted in this one.
        return {**metrics.nothing(), "requests": self.requests[index]}

    def total(self) -> dict[str, Any]:
        return {**metrics.nothing(), "requests": sum(self.requests)}

    def last_request(self, index: int) -> dict[str, Any] | None:
        return self.request


class Stage:
    """A primary, the fakes around it, and words for what a test lets happen."""

    def __init__(self, workers: int = 2, spare: bool = True, **options: Any) -> None:
        options = {"timeout_graceful_s": GRACE_S, "timeout_startup_s": STARTUP_S, **options}
        # Workers are looked at in the tests that ask for it.
        options.setdefault("timeout_worker_s", 0)
        self.config = Config(app="app:app", workers=workers, **options)
        self.board = FakeBoard(slots_for(workers) if spare else workers)
        self.now = 1000.0
        self.killed: list[tuple[int, str]] = []
        self.dead: list[tuple[int, int]] = []
        self.spawned: list[tuple[int, int]] = []
        self.numbers: list[int] = []
        self.forwarded: list[tuple[int, list[int]]] = []
        self.inbox_has_room = True
        self.no_fork = False
        self.rss_bytes = 0
        self.oom_kills = 0
        self.is_in_foreground = False
        self.has_log_file = False
        self.is_listening = True
        self._pids = itertools.count(100)
        self.world = World(
            spawn=self._spawn,
            forward=self._forward,
            stop_listening=self._stop_listening,
            clock=lambda: self.now,
            waitpid=self._waitpid,
            rss_bytes=lambda pid: self.rss_bytes,
            oom_kills=lambda: self.oom_kills,
            is_in_foreground=lambda: self.is_in_foreground,
            reopen=lambda: (["error"], [os.dup(2)]) if self.has_log_file else ([], []),
            chance=random.Random(1),
            kill=lambda pid, number: self.killed.append((pid, signal.Signals(number).name)),
        )
        log = logging.getLogger("fastcluster.test_primary")
        self.primary = Primary(self.config, self.board, self.world, log, ["http://127.0.0.1:1"])

    def _spawn(self, number: int, slot: int, generation: int) -> Child:
        if self.no_fork:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        pid = next(self._pids)
        self.spawned.append((pid, slot))
        self.numbers.append(number)
        return Child(pid, FakeChannel())  # type: ignore[arg-type]

    def _forward(self, slot: int, heirs: list[int]) -> tuple[int, bool]:
        self.forwarded.append((slot, heirs))
        return 3, self.inbox_has_room

    def _stop_listening(self) -> None:
        self.is_listening = False

    def _waitpid(self, pid: int, options: int) -> tuple[int, int]:
        assert pid == -1
        if self.dead:
            return self.dead.pop(0)
        if self.primary.workers:
            return (0, 0)
        raise ChildProcessError

    # ---- what happens

    def says(self, worker: Worker, message: Message) -> None:
        channel(worker).inbound.append(message)
        self.primary.hear(worker)
        self.primary.settle()

    def dies(self, worker: Worker, status: int) -> None:
        """The kernel closes its channel first, and then it can be reaped."""
        channel(worker).hung_up = True
        self.dead.append((worker.pid, status))
        self.primary.reap()
        self.primary.settle()

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.primary.settle()

    def all_ready(self) -> list[Worker]:
        self.primary.start()
        for worker in self.workers():
            self.says(worker, {"ready": {}})
        return self.workers()

    # ---- what is

    def workers(self) -> list[Worker]:
        return list(self.primary.workers.values())

    def states(self) -> list[State]:
        return [worker.state for worker in self.workers()]

    def newest(self) -> Worker:
        return self.workers()[-1]


def channel(worker: Worker) -> FakeChannel:
    fake: Any = worker.channel
    assert isinstance(fake, FakeChannel)
    return fake


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.DEBUG, logger="fastcluster.test_primary")
    yield caplog


def said(log: pytest.LogCaptureFixture, words: str, level: int = 0) -> int:
    """Count the log lines with these words."""
    return sum(words in r.getMessage() and r.levelno >= level for r in log.records)


# ---- the table, cell by cell

DRAIN = {"drain": {"last": False}}

# What each cell does to the world: next state, signals, messages, deadline from now.
CELLS: dict[tuple[State, Event], tuple[State, list[str], list[Message], float | None]] = {
    (State.FORKED, Event.READY): (State.READY, [], [], None),
    (State.FORKED, Event.DRAINS): (State.DRAINING, [], [], GRACE_S),
    (State.FORKED, Event.LOST): (State.FORKED, [], [], 5.0),
    (State.FORKED, Event.SILENT): (State.FORKED, [], [], STARTUP_S),
    (State.FORKED, Event.RETIRE): (State.DRAINING, ["SIGTERM"], [], GRACE_S),
    (State.FORKED, Event.OVERDUE): (State.CONDEMNED, ["SIGKILL"], [], None),
    (State.FORKED, Event.KILL): (State.CONDEMNED, ["SIGKILL"], [], None),
    (State.FORKED, Event.EXIT): (State.DEAD, [], [], STARTUP_S),
    (State.READY, Event.READY): (State.READY, [], [], None),
    (State.READY, Event.DRAINS): (State.DRAINING, [], [], GRACE_S),
    (State.READY, Event.LOST): (State.READY, [], [], 5.0),
    (State.READY, Event.SILENT): (State.CONDEMNED, ["SIGABRT"], [], 2.0),
    (State.READY, Event.RETIRE): (State.DRAINING, [], [DRAIN], GRACE_S),
    (State.READY, Event.OVERDUE): (State.CONDEMNED, ["SIGKILL"], [], None),
    (State.READY, Event.KILL): (State.CONDEMNED, ["SIGKILL"], [], None),
    (State.READY, Event.EXIT): (State.DEAD, [], [], None),
    (State.DRAINING, Event.READY): (State.DRAINING, [], [], GRACE_S),
    (State.DRAINING, Event.DRAINS): (State.DRAINING, [], [], GRACE_S),
    (State.DRAINING, Event.LOST): (State.DRAINING, [], [], GRACE_S),
    (State.DRAINING, Event.SILENT): (State.DRAINING, [], [], GRACE_S),
    (State.DRAINING, Event.RETIRE): (State.DRAINING, [], [DRAIN], GRACE_S),
    (State.DRAINING, Event.OVERDUE): (State.CONDEMNED, ["SIGKILL"], [], None),
    (State.DRAINING, Event.KILL): (State.CONDEMNED, ["SIGKILL"], [], None),
    (State.DRAINING, Event.EXIT): (State.DEAD, [], [], GRACE_S),
    (State.CONDEMNED, Event.READY): (State.CONDEMNED, [], [], None),
    (State.CONDEMNED, Event.DRAINS): (State.CONDEMNED, [], [], None),
    (State.CONDEMNED, Event.LOST): (State.CONDEMNED, [], [], None),
    (State.CONDEMNED, Event.SILENT): (State.CONDEMNED, [], [], None),
    (State.CONDEMNED, Event.RETIRE): (State.CONDEMNED, [], [], None),
    (State.CONDEMNED, Event.OVERDUE): (State.CONDEMNED, ["SIGKILL"], [], None),
    (State.CONDEMNED, Event.KILL): (State.CONDEMNED, ["SIGKILL"], [], None),
    (State.CONDEMNED, Event.EXIT): (State.DEAD, [], [], None),
}

WAY_TO: dict[State, list[Event]] = {
    State.FORKED: [],
    State.READY: [Event.READY],
    State.DRAINING: [Event.READY, Event.RETIRE],
    State.CONDEMNED: [Event.KILL],
}


def test_every_cell_is_in_the_test() -> None:
    alive = [state for state in State if state is not State.DEAD]
    assert set(CELLS) == set(itertools.product(alive, Event))
    assert set(TABLE) <= set(CELLS)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell[0].name}-{cell[1].name}")
def test_cell(cell: tuple[State, Event]) -> None:
    state, event = cell
    stage = Stage(workers=1)
    stage.primary.start()
    [worker] = stage.workers()
    for step in WAY_TO[state]:
        stage.primary._happens(worker, step)
    assert worker.state is state
    stage.killed.clear()
    channel(worker).sent.clear()

    stage.primary._happens(worker, event)

    next_state, signals, messages, deadline_s = CELLS[cell]
    assert worker.state is next_state
    assert stage.killed == [(worker.pid, name) for name in signals]
    assert channel(worker).sent == messages
    assert worker.deadline_s == (None if deadline_s is None else stage.now + deadline_s)
    assert (worker.pid in stage.primary.workers) == (next_state is not State.DEAD)
    assert channel(worker).is_closed == (next_state is State.DEAD)
    assert (worker.slot in stage.board.taken) == (next_state is not State.DEAD)


def test_the_table_names_methods() -> None:
    for _, action in TABLE.values():
        assert callable(getattr(Primary, action))


# ---- start


def test_the_first_workers_take_the_first_slots(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=3)
    stage.primary.start()
    assert [slot for _, slot in stage.spawned] == [0, 1, 2]
    assert stage.states() == [State.FORKED] * 3
    assert said(log, "primary") == 1
    assert said(log, "3 workers, application app:app") == 1
    assert said(log, "listening on") == 0


def test_listening_is_said_once_when_the_first_is_ready(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=2)
    stage.all_ready()
    assert said(log, "listening on http://127.0.0.1:1") == 1
    assert said(log, "worker 0 (pid 100) is ready") == 1
    assert said(log, "worker 1 (pid 101) is ready") == 1
    lines = [record.getMessage() for record in log.records]
    assert lines.index("listening on http://127.0.0.1:1") < lines.index(
        "worker 0 (pid 100) is ready"
    )


def test_nothing_to_wait_for_when_all_are_ready() -> None:
    stage = Stage()
    stage.all_ready()
    assert stage.primary.next_deadline() is None


def test_if_none_of_the_first_comes_up_the_reason_is_shown_once(
    log: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(workers=3)
    stage.primary.start()
    for worker in stage.workers():
        assert stage.primary.exit_code is None
        stage.says(worker, {"failed": "no module named 'nope'"})
        stage.dies(worker, CODE_3)
    assert stage.primary.exit_code == errors.EXIT_APP
    assert len(stage.spawned) == 3
    assert said(log, "no module named 'nope'") == 1
    assert said(log, "no worker came up", logging.ERROR) == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (KILLED, "was killed by SIGKILL"),
        (int(signal.SIGSEGV), "was killed by SIGSEGV (a crash in native code"),
        (1 << 8, "exited with code 1 while it started"),
        (0, "exited with code 0 while it started"),
    ],
)
def test_a_first_worker_that_dies_without_a_word(
    log: pytest.LogCaptureFixture, status: int, words: str
) -> None:
    stage = Stage(workers=1)
    stage.primary.start()
    stage.dies(stage.newest(), status)
    assert stage.primary.exit_code == errors.EXIT_APP
    assert said(log, words, logging.ERROR) == 1


def test_one_of_the_first_that_comes_up_saves_the_others() -> None:
    stage = Stage(workers=2)
    stage.primary.start()
    first, second = stage.workers()
    stage.dies(first, CODE_3)
    assert len(stage.spawned) == 2
    assert stage.primary.next_deadline() == second.deadline_s
    stage.says(second, {"ready": {}})
    assert stage.primary.exit_code is None
    stage.passes(0.1)
    assert stage.spawned[2:] == [(102, 0)]


def test_a_worker_that_does_not_get_ready_in_time(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=1)
    stage.primary.start()
    [worker] = stage.workers()
    assert stage.primary.next_deadline() == stage.now + STARTUP_S
    stage.passes(STARTUP_S - 0.1)
    assert stage.killed == []
    stage.passes(0.1)
    assert stage.killed == [(worker.pid, "SIGKILL")]
    stage.dies(worker, KILLED)
    assert stage.primary.exit_code == errors.EXIT_APP
    assert said(log, "did not load within 60 s (--timeout-startup)", logging.ERROR) == 1


def test_no_process_left_at_the_start(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=2)
    stage.no_fork = True
    stage.primary.start()
    assert stage.primary.exit_code == errors.EXIT_APP
    assert said(log, "cannot start a worker: Resource temporarily unavailable") == 2
    assert stage.board.taken == {}


def test_no_process_left_later_is_tried_again() -> None:
    stage = Stage(workers=1)
    [worker] = stage.all_ready()
    stage.passes(10)
    stage.no_fork = True
    stage.dies(worker, KILLED)
    assert stage.workers() == []
    assert stage.primary.exit_code is None
    assert stage.primary.next_deadline() == pytest.approx(stage.now + 0.1)
    stage.no_fork = False
    stage.passes(0.11)
    assert stage.states() == [State.FORKED]


# ---- replacing the dead


def test_a_worker_that_lived_is_replaced_at_once(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=2)
    first, _ = stage.all_ready()
    stage.passes(5)
    stage.board.connections[0] = 7
    stage.dies(first, KILLED)
    assert stage.states() == [State.READY, State.FORKED]
    assert stage.newest().slot == first.slot
    assert stage.newest().generation == first.generation + 1
    assert stage.numbers == [0, 1, 0]
    assert said(log, "worker 0 (pid 100) was killed by SIGKILL", logging.ERROR) == 1
    assert said(log, "out of memory?") == 1
    assert said(log, "it held 7 connections") == 1


def test_a_short_life_backs_off_and_doubles() -> None:
    stage = Stage(workers=2)
    flapping, _ = stage.all_ready()
    waits = []
    for _ in range(12):
        stage.dies(flapping, KILLED)
        due = stage.primary.next_deadline()
        assert due is not None
        waits.append(round(due - stage.now, 6))
        before = len(stage.spawned)
        stage.now = due - 0.001
        stage.primary.settle()
        assert len(stage.spawned) == before
        stage.passes(0.002)
        assert len(stage.spawned) == before + 1
        flapping = stage.newest()
        stage.says(flapping, {"ready": {}})
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]


def test_a_long_life_forgets_failures() -> None:
    stage = Stage(workers=1)
    stage.all_ready()
    for _ in range(4):
        stage.dies(stage.newest(), KILLED)
        stage.passes(30)
        stage.says(stage.newest(), {"ready": {}})
    stage.passes(6)
    stage.dies(stage.newest(), KILLED)
    assert stage.states() == [State.FORKED]


def test_backoff_is_a_seats_own() -> None:
    stage = Stage(workers=2)
    first, second = stage.all_ready()
    stage.dies(first, KILLED)
    stage.passes(0.1)
    stage.dies(stage.newest(), CODE_3)
    stage.dies(second, KILLED)
    assert stage.workers() == []
    stage.passes(0.1)
    assert [worker.slot for worker in stage.workers()] == [1]
    stage.passes(0.1)
    assert [worker.slot for worker in stage.workers()] == [1, 0]


@pytest.mark.parametrize(
    ("failures", "wait_s"), [(1, 0.1), (2, 0.2), (9, 25.6), (10, 30.0), (10_000, 30.0)]
)
def test_backoff(failures: int, wait_s: float) -> None:
    assert backoff_s(failures) == pytest.approx(wait_s)


def test_later_boot_failures_leave_the_healthy_alone(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=2)
    first, healthy = stage.all_ready()
    stage.dies(first, KILLED)
    for _ in range(8):
        stage.passes(30)
        heir = stage.newest()
        stage.says(heir, {"failed": "SyntaxError: line 3"})
        stage.dies(heir, CODE_3)
    assert healthy.state is State.READY
    assert stage.killed == []
    assert stage.primary.exit_code is None
    # When it first happened, and when it had become a crash loop.
    assert said(log, "SyntaxError: line 3") == 2
    assert said(log, "crash loop: worker 0 failed 5 times in a row", logging.ERROR) == 1
    assert said(log, "times in a row; next try", logging.WARNING) == 3
    assert said(log, "a worker failed 9 times in a row; next try in 25.6 s") == 1


def test_a_new_reason_is_shown_again(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=2)
    first, _ = stage.all_ready()
    stage.dies(first, KILLED)
    for why in ("reason one", "reason two", "reason two"):
        stage.passes(30)
        stage.says(stage.newest(), {"failed": why})
        stage.dies(stage.newest(), CODE_3)
    assert (said(log, "reason one"), said(log, "reason two")) == (1, 1)


def test_last_words_are_heard_before_the_death() -> None:
    stage = Stage(workers=1)
    stage.primary.start()
    [worker] = stage.workers()
    channel(worker).inbound.append({"ready": {}})
    stage.passes(6)
    stage.dies(worker, KILLED)
    assert worker.ready_s is not None
    assert stage.primary.exit_code is None


def test_strangers_are_reaped_and_ignored() -> None:
    stage = Stage(workers=1)
    [worker] = stage.all_ready()
    stage.dead = [(7, 0), (8, KILLED)]
    stage.primary.reap()
    assert stage.dead == []
    assert stage.workers() == [worker]


def test_eof_without_an_end_is_not_waited_for_for_ever(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=1)
    [worker] = stage.all_ready()
    channel(worker).hung_up = True
    stage.primary.hear(worker)
    stage.passes(4.9)
    assert stage.killed == []
    stage.passes(0.1)
    assert stage.killed == [(worker.pid, "SIGKILL")]
    assert said(log, "closed its channel", logging.ERROR) == 1
    stage.dies(worker, KILLED)
    assert stage.states() == [State.FORKED]


def test_nonsense_from_a_worker_is_ignored() -> None:
    stage = Stage(workers=1)
    [worker] = stage.all_ready()
    messages: list[Any] = [None, 7, [], "ready", {}, {"failed": 3}, {"ready?": 1}]
    for message in messages:
        stage.says(worker, message)
    assert stage.states() == [State.READY]


# ---- a worker that is told to stop by a signal


def test_a_worker_that_drains_by_itself_is_replaced_while_it_drains() -> None:
    stage = Stage(workers=2)
    first, _ = stage.all_ready()
    stage.passes(6)
    stage.says(first, {"draining": {}})
    assert stage.states() == [State.DRAINING, State.READY, State.FORKED]
    assert stage.newest().slot == 2
    stage.dies(first, 0)
    assert stage.states() == [State.READY, State.FORKED]
    assert len(stage.spawned) == 3


def test_a_worker_that_stops_itself_all_the_time_backs_off() -> None:
    stage = Stage(workers=1)
    [worker] = stage.all_ready()
    stage.says(worker, {"draining": {}})
    assert stage.states() == [State.DRAINING]
    stage.passes(0.1)
    assert stage.states() == [State.DRAINING, State.FORKED]


def test_without_a_free_slot_the_heir_waits_for_its_predecessors() -> None:
    stage = Stage(workers=1, spare=False)
    [worker] = stage.all_ready()
    stage.passes(6)
    stage.says(worker, {"draining": {}})
    assert stage.states() == [State.DRAINING]
    assert stage.primary.next_deadline() == stage.now + GRACE_S
    stage.dies(worker, 0)
    assert stage.states() == [State.FORKED]


# ---- stop

STOPPERS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", STOPPERS)
def test_stop_drains_all_and_is_code_0(
    log: pytest.LogCaptureFixture, number: signal.Signals
) -> None:
    stage = Stage(workers=2)
    workers = stage.all_ready()
    stage.primary.signalled(number)
    assert not stage.is_listening
    assert stage.states() == [State.DRAINING] * 2
    for worker in workers:
        assert channel(worker).sent == [{"drain": {"last": True}}]
        assert stage.primary.exit_code is None
        stage.dies(worker, 0)
    assert stage.primary.exit_code == errors.EXIT_OK
    assert stage.killed == []
    assert len(stage.spawned) == 2
    assert said(log, "stopping: 2 workers to drain") == 1
    assert said(log, "has drained and left") == 2


def test_grace_over_is_killed_and_says_what_it_held(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=2)
    slow, quick = stage.all_ready()
    stage.board.connections[slow.slot] = 3
    stage.primary.stop()
    stage.dies(quick, 0)
    stage.passes(GRACE_S - 0.1)
    assert stage.killed == []
    stage.passes(0.1)
    assert stage.killed == [(slow.pid, "SIGKILL")]
    assert (
        said(
            log,
            "worker 0 (pid 100) did not finish within 30 s (--graceful-timeout): "
            "killed with 3 connections open, 1 request being answered",
            logging.ERROR,
        )
        == 1
    )
    stage.dies(slow, KILLED)
    assert stage.primary.exit_code == errors.EXIT_OK


def test_one_wish_to_stop_may_come_as_two_signals() -> None:
    stage = Stage(workers=2)
    stage.all_ready()
    stage.primary.signalled(signal.SIGTERM)
    stage.passes(0.05)
    stage.primary.signalled(signal.SIGTERM)
    assert stage.killed == []


@pytest.mark.parametrize(("first", "second"), list(itertools.product(STOPPERS, STOPPERS)))
def test_a_second_signal_is_at_once(first: signal.Signals, second: signal.Signals) -> None:
    stage = Stage(workers=2)
    workers = stage.all_ready()
    stage.primary.signalled(first)
    stage.passes(0.2)
    stage.primary.signalled(second)
    assert stage.killed == [(worker.pid, "SIGKILL") for worker in workers]
    for worker in workers:
        stage.dies(worker, KILLED)
    assert stage.primary.exit_code == errors.EXIT_OK


def test_sigquit_is_at_once() -> None:
    stage = Stage(workers=2)
    workers = stage.all_ready()
    stage.primary.signalled(signal.SIGQUIT)
    assert stage.killed == [(worker.pid, "SIGKILL") for worker in workers]
    for worker in workers:
        stage.dies(worker, KILLED)
    assert stage.primary.exit_code == errors.EXIT_OK


def test_stop_while_the_first_workers_load() -> None:
    stage = Stage(workers=2)
    stage.primary.start()
    workers = stage.workers()
    stage.primary.stop()
    assert stage.killed == [(worker.pid, "SIGTERM") for worker in workers]
    for worker in workers:
        stage.dies(worker, 0)
    assert stage.primary.exit_code == errors.EXIT_OK


def test_who_drains_already_is_told_that_nobody_listens_any_more() -> None:
    stage = Stage(workers=1)
    [worker] = stage.all_ready()
    stage.says(worker, {"draining": {}})
    stage.passes(10)
    stage.primary.stop()
    assert channel(worker).sent == [{"drain": {"last": True}}]
    assert worker.deadline_s == stage.now - 10 + GRACE_S


def test_stop_while_an_heir_is_due_raises_nobody() -> None:
    stage = Stage(workers=1)
    [worker] = stage.all_ready()
    stage.dies(worker, KILLED)
    stage.primary.stop()
    stage.passes(100)
    assert len(stage.spawned) == 1
    assert stage.primary.exit_code == errors.EXIT_OK


def test_a_worker_that_dies_during_the_stop_is_not_replaced() -> None:
    stage = Stage(workers=2)
    first, second = stage.all_ready()
    stage.passes(6)
    stage.primary.stop()
    stage.dies(first, int(signal.SIGSEGV))
    stage.dies(second, 0)
    assert len(stage.spawned) == 2
    assert stage.primary.exit_code == errors.EXIT_OK


def test_a_worker_that_cannot_be_told_gets_the_signal() -> None:
    stage = Stage(workers=1)
    [worker] = stage.all_ready()
    channel(worker).is_deaf = True
    stage.primary.stop()
    assert stage.killed == [(worker.pid, "SIGTERM")]


# ---- what the status counts


def test_restarts_and_reloads_are_counted_apart() -> None:
    stage = Stage(workers=1)
    [first] = stage.all_ready()
    seat = first.seat
    stage.primary.reload()
    stage.primary.settle()
    stage.says(stage.newest(), {"ready": {}})
    stage.dies(first, 0)
    assert (seat.restarts, seat.reloads) == (0, 1)
    stage.passes(6)
    stage.dies(stage.newest(), KILLED)
    stage.says(stage.newest(), {"ready": {}})
    assert (seat.restarts, seat.reloads) == (1, 1)
    stage.primary.restart(0)
    stage.primary.settle()
    stage.says(stage.newest(), {"ready": {}})
    assert (seat.restarts, seat.reloads) == (2, 1)
    # Who rested has not died.
    for worker in stage.workers():
        stage.primary.drain()
        stage.dies(worker, 0)
    stage.primary.reload()
    stage.primary.settle()
    assert len(stage.workers()) == 1
    assert (seat.restarts, seat.reloads) == (2, 1)
    assert stage.primary.status()["totals"]["restarts"] == 2


def test_a_stop_at_once_says_what_it_cut_off(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=2)
    stage.all_ready()
    stage.primary.kill_all()
    assert said(log, "stopping at once: 2 requests cut off", logging.WARNING) == 1
    for worker in stage.workers():
        stage.dies(worker, KILLED)
    assert stage.primary.exit_code == errors.EXIT_OK


def test_what_did_not_end_in_time_is_named(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=1)
    stage.primary.start()
    stage.says(stage.newest(), {"loaded": {}})
    stage.passes(STARTUP_S)
    stage.dies(stage.newest(), KILLED)
    assert said(log, "did not start up (lifespan) within 60 s") == 1


# ---- preload


class FakeNursery:
    """Loads the application when the test says so."""

    def __init__(self) -> None:
        self.is_ready = False
        self.did: list[str] = []
        self.on_end: Any = None

    def begin(self, on_end: Any) -> None:
        self.did.append("begin")
        self.on_end = on_end

    def loads(self, why: str | None = None) -> None:
        self.is_ready = self.is_ready or why is None
        self.on_end(why)

    def keep(self) -> None:
        self.did.append("keep")

    def revert(self) -> None:
        self.did.append("revert")

    def died(self, pid: int, status: int) -> bool:
        return False

    def reopen(self, names: list[str], fds: list[int]) -> None:
        self.did.append(f"reopen {names}")


def preloaded(workers: int = 1) -> tuple[Stage, FakeNursery]:
    stage, nursery = Stage(workers=workers), FakeNursery()
    stage.primary._world.nursery = nursery
    return stage, nursery


def test_nobody_is_forked_before_the_application_is_loaded() -> None:
    stage, nursery = preloaded(workers=2)
    stage.primary.start()
    stage.passes(10)
    assert (stage.workers(), stage.primary.exit_code) == ([], None)
    assert stage.primary.next_deadline() is None
    nursery.loads()
    stage.primary.settle()
    assert stage.states() == [State.FORKED] * 2


def test_one_that_does_not_load_at_the_start_is_the_end(log: pytest.LogCaptureFixture) -> None:
    stage, nursery = preloaded()
    stage.primary.start()
    nursery.loads("ValueError: broken")
    stage.primary.settle()
    assert stage.primary.exit_code == errors.EXIT_APP
    assert said(log, "the application did not load: ValueError: broken") == 1


def test_a_reload_waits_for_the_new_zygote_and_keeps_it() -> None:
    stage, nursery = preloaded()
    stage.primary.start()
    nursery.loads()
    [old] = stage.all_ready()
    ended: list[str | None] = []
    stage.primary.reload(lambda order: ended.append(order.error))
    stage.passes(1)
    assert stage.workers() == [old]
    assert stage.primary.status()["state"] == "reloading"
    nursery.loads()
    stage.primary.settle()
    stage.says(stage.newest(), {"ready": {}})
    assert old.state is State.DRAINING
    assert ended == [None]
    assert nursery.did == ["begin", "begin", "begin", "keep"]


def test_a_reload_that_fails_goes_back_to_the_zygote_before() -> None:
    stage, nursery = preloaded()
    stage.primary.start()
    nursery.loads()
    [old] = stage.all_ready()
    ended: list[str | None] = []
    for _ in range(2):
        stage.primary.reload(lambda order: ended.append(order.error))
    assert ended == ["another reload took its place"]
    nursery.loads("ImportError: no")
    stage.primary.settle()
    assert ended[1:] == ["ImportError: no"]
    assert nursery.did[-3:] == ["revert", "begin", "revert"]
    stage.primary.reload(lambda order: ended.append(order.error))
    nursery.loads()
    stage.primary.settle()
    stage.says(stage.newest(), {"failed": "no startup"})
    stage.dies(stage.newest(), CODE_3)
    assert ended[2:] == ["no startup"]
    assert nursery.did[-1] == "revert"
    assert (stage.workers(), old.state) == ([old], State.READY)


# ---- upgrade


def test_an_upgrade_is_refused_before_anybody_serves_and_at_a_stop(
    log: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(workers=1)
    stage.primary.start()
    stage.primary.signalled(signal.SIGUSR2)
    assert said(log, "upgrade: refused: no worker serves yet", logging.WARNING) == 1
    stage.says(stage.newest(), {"ready": {}})
    stage.primary.stop()
    with pytest.raises(CannotUpgrade, match="the server stops"):
        stage.primary.upgrade()


def test_who_leaves_drains_as_in_a_reload() -> None:
    stage = Stage(workers=2)
    workers = stage.all_ready()
    assert stage.primary.is_up
    stage.primary.leave()
    # The last one waits for the others to begin, and takes what they leave.
    assert [channel(worker).sent for worker in workers] == [[DRAIN], []]
    stage.primary.settle()
    assert channel(workers[1]).sent == []
    assert stage.primary.next_deadline() == pytest.approx(stage.now, abs=0.1)
    stage.board.states[0] = 3
    stage.primary.settle()
    assert stage.forwarded == [(0, [1]), (2, [1]), (3, [1])]
    assert [channel(worker).sent for worker in workers] == [[DRAIN], [DRAIN]]
    assert stage.states() == [State.DRAINING] * 2
    # One signal to stop both primaries changes nothing, a second one ends ours at once.
    stage.passes(1)
    stage.primary.stop()
    assert stage.killed == []
    stage.passes(1)
    stage.primary.stop()
    assert [name for _, name in stage.killed] == ["SIGKILL"] * 2
    for worker in workers:
        stage.dies(worker, KILLED)
    assert stage.primary.exit_code == errors.EXIT_OK


def test_a_new_primary_whose_worker_fails_leaves_with_its_reason() -> None:
    stage = Stage(workers=2)
    stage.primary.start()
    first, second = stage.workers()
    stage.says(first, {"ready": {}})
    assert not stage.primary.is_up
    stage.says(second, {"failed": "ValueError: broken"})
    stage.dies(second, CODE_3)
    assert stage.primary.boot_failure == "ValueError: broken"
    stage.primary.leave(errors.EXIT_APP)
    stage.dies(first, 0)
    assert stage.primary.exit_code == errors.EXIT_APP


# ---- inboxes


def test_what_a_dead_worker_had_not_taken_goes_to_the_least_busy(
    log: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(workers=3)
    first, _, _ = stage.all_ready()
    stage.board.connections = [9, 5, 2, 0, 0, 0]
    stage.dies(first, KILLED)
    assert stage.forwarded == [(0, [2, 1])]
    assert said(log, "3 connections handed on that waited for a worker that is gone") == 1


def test_alone_the_successor_inherits() -> None:
    stage = Stage(workers=1)
    [worker] = stage.all_ready()
    stage.passes(6)
    stage.dies(worker, KILLED)
    assert stage.forwarded == []
    assert stage.newest().slot == worker.slot


def test_inboxes_without_a_worker_are_watched_while_somebody_can_take() -> None:
    stage = Stage(workers=2)
    stage.primary.start()
    assert stage.primary.orphaned_inboxes() == []
    for worker in stage.workers():
        stage.says(worker, {"ready": {}})
    assert stage.primary.orphaned_inboxes() == [2, 3]
    stage.dies(stage.workers()[0], KILLED)
    assert stage.primary.orphaned_inboxes() == [0, 2, 3]


def test_draining_workers_take_when_nobody_else_can() -> None:
    stage = Stage(workers=2)
    first, _ = stage.all_ready()
    stage.primary.stop()
    stage.dies(first, 0)
    assert stage.forwarded == [(0, [1])]


def test_full_inboxes_are_tried_again_a_little_later() -> None:
    stage = Stage(workers=2)
    first, _ = stage.all_ready()
    stage.passes(6)
    stage.inbox_has_room = False
    stage.dies(first, KILLED)
    assert stage.primary.orphaned_inboxes() == []
    due = stage.primary.next_deadline()
    assert due is not None and 0 < due - stage.now < 0.1
    stage.passes(due - stage.now)
    assert stage.primary.orphaned_inboxes() == [2, 3]


@pytest.mark.parametrize(("workers", "slots"), [(1, 2), (4, 8), (16, 32), (64, 80)])
def test_slots(workers: int, slots: int) -> None:
    assert slots_for(workers) == slots


# ---- reload: the new one is READY before the old one drains


def test_a_reload_replaces_one_after_the_other(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=2)
    one, two = stage.all_ready()
    stage.passes(60)
    stage.primary.signalled(signal.SIGHUP)
    stage.primary.settle()
    assert stage.states() == [State.READY, State.READY, State.FORKED]
    stage.passes(10)
    assert len(stage.spawned) == 3
    new = stage.newest()
    stage.says(new, {"ready": {}})
    assert (one.state, two.state, new.state) == (State.DRAINING, State.READY, State.READY)
    assert channel(one).sent == [DRAIN]
    assert stage.is_listening
    assert stage.newest().state is State.FORKED
    stage.says(stage.newest(), {"ready": {}})
    assert two.state is State.DRAINING
    stage.dies(one, 0)
    stage.dies(two, 0)
    assert stage.states() == [State.READY] * 2
    assert stage.numbers == [0, 1, 0, 1]
    assert said(log, "reload: done") == 1
    assert stage.primary.next_deadline() is None


def test_a_reload_that_does_not_come_up_leaves_the_old(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=2)
    stage.all_ready()
    stage.primary.reload()
    stage.primary.settle()
    new = stage.newest()
    stage.says(new, {"failed": "SyntaxError: line 3"})
    stage.dies(new, CODE_3)
    stage.passes(100)
    assert stage.states() == [State.READY] * 2
    assert len(stage.spawned) == 3
    assert said(log, "SyntaxError: line 3", logging.ERROR) == 1
    assert said(log, "reload: given up, the old workers keep serving", logging.ERROR) == 1
    assert said(log, "reload: done") == 0


def test_a_reload_that_takes_too_long_leaves_the_old(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=1)
    [old] = stage.all_ready()
    stage.primary.reload()
    stage.primary.settle()
    new = stage.newest()
    stage.passes(STARTUP_S)
    assert stage.killed == [(new.pid, "SIGKILL")]
    stage.dies(new, KILLED)
    assert stage.workers() == [old]
    assert said(log, "reload: given up") == 1


def test_a_worker_that_dies_while_its_successor_comes_up() -> None:
    stage = Stage(workers=1)
    [old] = stage.all_ready()
    stage.passes(60)
    stage.primary.reload()
    stage.primary.settle()
    new = stage.newest()
    stage.dies(old, KILLED)
    assert stage.workers() == [new]
    stage.says(new, {"ready": {}})
    stage.passes(100)
    assert stage.states() == [State.READY]
    assert len(stage.spawned) == 2


def test_both_die_in_a_reload_and_the_seat_is_filled_again() -> None:
    stage = Stage(workers=1)
    [old] = stage.all_ready()
    stage.passes(60)
    stage.primary.reload()
    stage.primary.settle()
    new = stage.newest()
    stage.dies(old, KILLED)
    stage.dies(new, CODE_3)
    assert stage.workers() == []
    stage.passes(0.1)
    assert stage.states() == [State.FORKED]
    stage.says(stage.newest(), {"ready": {}})
    assert stage.states() == [State.READY]


def test_a_reload_asked_for_during_the_start_is_kept() -> None:
    stage = Stage(workers=1)
    stage.primary.start()
    [worker] = stage.workers()
    stage.primary.reload()
    stage.primary.settle()
    assert len(stage.spawned) == 1
    stage.says(worker, {"ready": {}})
    assert stage.states() == [State.READY, State.FORKED]


def test_a_reload_tries_the_failed_at_once() -> None:
    stage = Stage(workers=2)
    first, _ = stage.all_ready()
    stage.dies(first, KILLED)
    for _ in range(8):
        stage.passes(30)
        stage.dies(stage.newest(), CODE_3)
    assert len(stage.workers()) == 1
    stage.primary.reload()
    stage.primary.settle()
    assert stage.states() == [State.READY, State.FORKED, State.FORKED]


def test_a_reload_waits_for_a_slot_when_the_old_drain_long() -> None:
    stage = Stage(workers=20)
    stage.all_ready()
    stage.primary.reload()
    stage.primary.settle()
    for _ in range(16):
        stage.says(stage.newest(), {"ready": {}})
    assert stage.states().count(State.DRAINING) == 16
    assert len(stage.workers()) == 36
    due = stage.primary.next_deadline()
    assert due == stage.now + GRACE_S
    stage.dies(stage.workers()[0], 0)
    assert stage.newest().state is State.FORKED


def test_stop_during_a_reload_retires_the_successor_too() -> None:
    stage = Stage(workers=2)
    stage.all_ready()
    stage.primary.reload()
    stage.primary.settle()
    new = stage.newest()
    stage.primary.stop()
    assert stage.killed == [(new.pid, "SIGTERM")]
    for worker in stage.workers():
        stage.dies(worker, 0)
    assert stage.primary.exit_code == errors.EXIT_OK
    assert len(stage.spawned) == 3


def test_a_reload_renews_a_batch_at_a_time() -> None:
    stage = Stage(workers=5, reload_batch=2)
    old = stage.all_ready()
    stage.primary.reload()
    stage.primary.settle()
    assert stage.states().count(State.FORKED) == 2
    stage.says(stage.newest(), {"ready": {}})
    assert stage.states().count(State.FORKED) == 2
    assert [worker.state for worker in old].count(State.DRAINING) == 1


def test_a_reload_that_fails_sends_the_other_successors_away() -> None:
    stage = Stage(workers=3, reload_batch=2)
    stage.all_ready()
    stage.primary.reload()
    stage.primary.settle()
    first, second = stage.workers()[3:]
    stage.says(first, {"failed": "SyntaxError"})
    stage.dies(first, CODE_3)
    assert stage.killed == [(second.pid, "SIGTERM")]
    stage.dies(second, 0)
    stage.passes(100)
    assert stage.states() == [State.READY] * 3
    assert len(stage.spawned) == 5


def test_who_gave_the_order_hears_how_it_ended() -> None:
    stage = Stage(workers=1)
    stage.all_ready()
    ended: list[str | None] = []
    stage.primary.reload(lambda order: ended.append(order.error))
    stage.primary.settle()
    stage.says(stage.newest(), {"failed": "SyntaxError: line 3"})
    stage.dies(stage.newest(), CODE_3)
    stage.primary.reload(lambda order: ended.append(order.error))
    stage.primary.settle()
    assert ended == ["SyntaxError: line 3"]
    stage.says(stage.newest(), {"ready": {}})
    assert ended == ["SyntaxError: line 3", None]


def test_a_second_reload_takes_the_place_of_the_first() -> None:
    stage = Stage(workers=2)
    stage.all_ready()
    ended: list[str | None] = []
    stage.primary.reload(lambda order: ended.append(order.error))
    stage.primary.settle()
    stage.primary.reload()
    assert ended == ["another reload took its place"]
    for _ in range(3):
        stage.says(stage.newest(), {"ready": {}})
        for worker in stage.workers():
            if worker.state is State.DRAINING:
                stage.dies(worker, 0)
    fresh = [worker for worker in stage.workers() if worker.state is State.READY]
    assert sorted(worker.pid for worker in fresh) == [103, 104]


def test_one_worker_is_restarted() -> None:
    stage = Stage(workers=2)
    _, two = stage.all_ready()
    stage.primary.restart(1)
    stage.primary.settle()
    stage.says(stage.newest(), {"ready": {}})
    assert two.state is State.DRAINING
    assert stage.numbers == [0, 1, 1]
    with pytest.raises(LookupError, match="no worker 7"):
        stage.primary.restart(7)


def test_who_starts_over_retires_all_at_once_and_raises_new_ones() -> None:
    stage = Stage(workers=2)
    old = stage.all_ready()
    failed: list[str | None] = []
    stage.primary.reload(lambda order: failed.append(order.error))
    stage.primary.settle()
    coming = stage.newest()
    stage.primary.start_over("app.py changed")
    stage.primary.settle()
    assert failed == ["app.py changed"]
    assert [channel(worker).sent for worker in old] == [[DRAIN], [DRAIN]]
    assert (coming.pid, "SIGTERM") in stage.killed
    stage.dies(coming, 0)
    new = stage.workers()[2:]
    assert [worker.state for worker in new] == [State.FORKED] * 2
    # Saved again before they came up: those are of no use either.
    stage.primary.start_over("app.py changed")
    for worker in [*old, *new]:
        stage.dies(worker, 0)
    assert {pid for pid, name in stage.killed if name == "SIGTERM"} >= {w.pid for w in new}
    assert stage.states() == [State.FORKED] * 2
    for worker in stage.workers():
        stage.says(worker, {"ready": {}})
    stage.primary.stop()
    stage.primary.start_over("app.py changed")
    stage.primary.settle()
    assert len(stage.spawned) == 7


# ---- a new configuration


def test_a_reload_takes_over_what_is_written_now(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=2)
    old = stage.all_ready()
    new = dataclasses.replace(stage.config, workers=3, threads=8, bind=("a:1",))
    adopted: list[Config] = []
    stage.world.read_config = lambda: new
    stage.world.adopt = adopted.append
    stage.primary.reload()
    stage.primary.settle()
    assert said(log, "reload: --workers from 2 to 3; --threads from 0 to 8")
    assert said(log, "reload: --bind cannot change while the server runs", logging.WARNING)
    assert (adopted[0].workers, adopted[0].threads) == (3, 8)
    assert adopted[0].bind == stage.config.bind
    assert len(stage.spawned) == 4
    for worker in stage.workers()[2:]:
        stage.says(worker, {"ready": {}})
    assert old[0].state is State.DRAINING
    stage.dies(old[0], 0)
    stage.says(stage.newest(), {"ready": {}})
    assert old[1].state is State.DRAINING


def test_who_has_scaled_by_hand_keeps_it_in_a_reload() -> None:
    stage = Stage(workers=2)
    stage.all_ready()
    stage.world.read_config = lambda: stage.config
    stage.primary.scale(1)
    stage.primary.reload()
    stage.primary.settle()
    assert stage.primary.status()["wanted"] == 1


def test_a_configuration_that_makes_no_sense_fails_the_reload(
    log: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(workers=1)
    [one] = stage.all_ready()

    def read() -> Config:
        raise errors.UsageError("fastcluster.toml has 'threds', which is no option")

    stage.world.read_config = read
    ended: list[str | None] = []
    stage.primary.reload(lambda order: ended.append(order.error))
    stage.primary.settle()
    assert ended == ["fastcluster.toml has 'threds', which is no option"]
    assert said(log, "the configuration cannot be used, all stays: fastcluster.toml has 'threds'")
    assert stage.workers() == [one]
    assert channel(one).sent == []


# ---- more and fewer workers


def test_ttin_and_ttou_raise_and_retire_one() -> None:
    stage = Stage(workers=1)
    [one] = stage.all_ready()
    stage.primary.signalled(signal.SIGTTIN)
    stage.primary.settle()
    assert stage.numbers == [0, 1]
    two = stage.newest()
    stage.says(two, {"ready": {}})
    stage.primary.signalled(signal.SIGTTOU)
    stage.primary.settle()
    assert (one.state, two.state) == (State.READY, State.DRAINING)
    stage.dies(two, 0)
    stage.passes(100)
    assert stage.workers() == [one]
    stage.primary.signalled(signal.SIGTTOU)
    assert one.state is State.READY


def test_there_are_no_more_workers_than_most(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=1, max_workers=1)
    stage.all_ready()
    stage.primary.signalled(signal.SIGTTIN)
    stage.primary.settle()
    assert len(stage.spawned) == 1
    assert said(log, "1 workers are the most (--max-workers)", logging.WARNING) == 1
    with pytest.raises(ValueError, match="from 1 to 1 workers can be had"):
        stage.primary.scale(2)


def test_a_seat_that_is_taken_away_in_a_reload_holds_nothing_up(
    log: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(workers=2)
    stage.all_ready()
    stage.primary.reload()
    stage.primary.settle()
    stage.says(stage.newest(), {"ready": {}})
    successor = stage.newest()
    stage.primary.scale(1)
    stage.primary.settle()
    assert (successor.pid, "SIGTERM") in stage.killed
    assert said(log, "reload: done") == 1


def test_winch_rests_and_hup_wakes() -> None:
    stage = Stage(workers=2)
    old = stage.all_ready()
    stage.primary.signalled(signal.SIGWINCH)
    for worker in old:
        assert channel(worker).sent == [DRAIN]
        stage.dies(worker, 0)
    stage.passes(100)
    assert stage.workers() == []
    assert stage.primary.exit_code is None
    assert stage.is_listening
    assert stage.primary.next_deadline() is None
    ended: list[str | None] = []
    stage.primary.reload(lambda order: ended.append(order.error))
    stage.primary.settle()
    assert stage.states() == [State.FORKED] * 2
    assert ended == []
    for worker in stage.workers():
        stage.says(worker, {"ready": {}})
    assert ended == [None]
    assert len(stage.spawned) == 4


def test_ttin_wakes_as_many_as_there_were() -> None:
    stage = Stage(workers=2)
    for worker in stage.all_ready():
        stage.primary.rest()
        stage.dies(worker, 0)
    stage.primary.signalled(signal.SIGTTIN)
    stage.primary.settle()
    assert stage.states() == [State.FORKED] * 2


def test_winch_of_a_terminal_that_is_resized_means_nothing() -> None:
    stage = Stage(workers=1)
    [worker] = stage.all_ready()
    stage.is_in_foreground = True
    stage.primary.signalled(signal.SIGWINCH)
    assert worker.state is State.READY


def test_a_drain_is_over_when_the_workers_are_gone() -> None:
    stage = Stage(workers=2)
    first, second = stage.all_ready()
    ended: list[str | None] = []
    stage.is_in_foreground = True  # which is for the signal alone
    stage.primary.drain(1, lambda order: ended.append(order.error))
    assert channel(second).sent == [DRAIN]
    assert first.state is State.READY
    assert stage.primary.status()["resting"] == [1]
    assert stage.primary.status()["state"] == "serving"
    stage.passes(5)
    assert ended == []
    stage.dies(second, 0)
    assert ended == [None]
    stage.passes(60)
    assert stage.workers() == [first]  # nobody takes its place
    with pytest.raises(LookupError, match="no worker 2"):
        stage.primary.drain(2)
    # Only whom a restart is meant for wakes.
    stage.primary.drain(0)
    stage.dies(first, 0)
    assert stage.primary.status()["state"] == "resting"
    stage.primary.restart(1, lambda order: ended.append(order.error))
    stage.primary.settle()
    assert [worker.seat.number for worker in stage.workers()] == [1]
    assert len(ended) == 1
    stage.says(stage.newest(), {"ready": {}})
    assert ended == [None, None]


def test_a_reload_of_resting_workers_waits_for_seats_without_a_slot() -> None:
    stage = Stage(workers=1, spare=False)
    [old] = stage.all_ready()
    stage.primary.drain()
    ended: list[str | None] = []
    stage.primary.reload(lambda order: ended.append(order.error))
    stage.primary.settle()
    assert (ended, stage.workers()) == ([], [old])  # the slot is taken as long as it drains
    stage.dies(old, 0)
    assert ended == []
    stage.says(stage.newest(), {"failed": "no"})
    stage.dies(stage.newest(), CODE_3)
    assert ended == ["no"]


def test_a_stop_while_all_rest_ends_it() -> None:
    stage = Stage(workers=1)
    [worker] = stage.all_ready()
    stage.primary.rest()
    stage.dies(worker, 0)
    stage.primary.stop()
    stage.primary.settle()
    assert stage.primary.exit_code == errors.EXIT_OK


def test_usr1_hands_the_new_files_to_all_workers(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=2)
    workers = stage.all_ready()
    stage.primary.signalled(signal.SIGUSR1)
    assert said(log, "no log file was reopened") == 1
    stage.has_log_file = True
    stage.primary.signalled(signal.SIGUSR1)
    for worker in workers:
        assert channel(worker).sent == [{"reopen": ["error"]}]
        assert channel(worker).fds == 1


# ---- workers that have served enough, and those that are stuck


def test_a_worker_is_replaced_after_its_requests(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=2, max_requests=100)
    worn, _ = stage.all_ready()
    stage.passes(0.5)
    assert len(stage.spawned) == 2
    stage.board.requests[worn.slot] = 100
    due = stage.primary.next_deadline()
    assert due == stage.now + 0.5
    stage.passes(0.5)
    assert stage.states() == [State.READY, State.READY, State.FORKED]
    stage.passes(0.5)
    assert len(stage.spawned) == 3
    stage.says(stage.newest(), {"ready": {}})
    assert worn.state is State.DRAINING
    assert said(log, "has begun 100 requests (--max-requests): its successor comes up") == 1


def test_a_worker_is_replaced_at_its_age() -> None:
    stage = Stage(workers=1, max_worker_lifetime_s=60)
    [worn] = stage.all_ready()
    stage.passes(59)
    assert len(stage.spawned) == 1
    stage.passes(1)
    stage.says(stage.newest(), {"ready": {}})
    assert worn.state is State.DRAINING


def test_a_worker_is_replaced_when_it_has_grown() -> None:
    stage = Stage(workers=1, max_worker_rss_bytes=1 << 20)
    stage.all_ready()
    stage.rss_bytes = 2 << 20
    stage.passes(4)
    assert len(stage.spawned) == 1
    stage.passes(1)
    assert len(stage.spawned) == 2


def test_a_replacement_that_does_not_come_up_is_tried_again_later() -> None:
    stage = Stage(workers=1, max_requests=1)
    [worn] = stage.all_ready()
    stage.passes(10)
    stage.board.requests[worn.slot] = 1
    stage.passes(0.5)
    stage.dies(stage.newest(), CODE_3)
    assert worn.state is State.READY
    stage.passes(0.5)
    assert len(stage.spawned) == 3
    stage.says(stage.newest(), {"ready": {}})
    assert worn.state is State.DRAINING


def test_a_silent_worker_is_asked_and_then_killed(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=1, timeout_worker_s=8)
    [worker] = stage.all_ready()
    stage.board.request = {"line": "GET /stuck", "client": "10.0.0.1:5", "age_s": 8.0}
    for _ in range(4):
        stage.board.heartbeats[0] += 1
        stage.passes(2)
    stage.passes(2)
    assert channel(worker).sent == []
    stage.passes(2)
    assert channel(worker).sent == [{"beat": {}}]
    stage.passes(2)
    assert stage.killed == []
    stage.passes(2)
    assert stage.killed == [(worker.pid, "SIGABRT")]
    assert (
        said(
            log,
            "has shown no sign of life for 8 s (--worker-timeout) while it served GET /stuck "
            "from 10.0.0.1:5 for 8.0 s: killed",
            logging.ERROR,
        )
        == 1
    )
    stage.passes(2)
    assert stage.killed[1:] == [(worker.pid, "SIGKILL")]
    stage.dies(worker, KILLED)
    assert stage.states() == [State.FORKED]


def test_an_idle_worker_answers_and_lives() -> None:
    stage = Stage(workers=1, timeout_worker_s=8)
    [worker] = stage.all_ready()
    for _ in range(20):
        stage.passes(2)
        if channel(worker).sent:
            channel(worker).sent.clear()
            stage.board.heartbeats[0] += 1
    assert stage.killed == []


def test_a_machine_that_slept_kills_nobody() -> None:
    stage = Stage(workers=2, timeout_worker_s=8)
    stage.all_ready()
    stage.passes(3600)
    assert stage.killed == []


def test_the_kernels_killing_is_named_with_the_request(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=2)
    first, second = stage.all_ready()
    stage.board.request = {"line": "GET /big", "client": "", "age_s": 1.25}
    stage.oom_kills = 1
    stage.dies(first, KILLED)
    assert said(log, "killed by the kernel: out of memory (SIGKILL) while it served GET /big") == 1
    stage.dies(second, KILLED)
    assert said(log, "somebody's kill -9") == 1


def test_a_crash_loop_is_reported_once(log: pytest.LogCaptureFixture) -> None:
    stage = Stage(workers=1)
    stage.all_ready()
    for _ in range(10):
        stage.dies(stage.newest(), int(signal.SIGSEGV))
        stage.passes(30)
        stage.says(stage.newest(), {"ready": {}})
    assert said(log, "crash loop: worker 0 failed 5 times in a row", logging.ERROR) == 1
    assert said(log, "was killed by SIGSEGV", logging.ERROR) == 6
    stage.passes(6)
    stage.dies(stage.newest(), KILLED)
    assert said(log, "was killed by SIGKILL", logging.ERROR) == 1


def test_status_says_what_there_is() -> None:
    stage = Stage(workers=2)
    stage.all_ready()
    status = stage.primary.status()
    assert (status["state"], status["wanted"], status["most"]) == ("serving", 2, 16)
    assert [w["state"] for w in status["workers"]] == ["ready", "ready"]
    stage.primary.reload()
    assert stage.primary.status()["state"] == "reloading"
    stage.primary.stop()
    assert stage.primary.status()["state"] == "stopping"


# ---- a stop that is announced before it begins


def test_workers_are_told_of_a_stop_and_serve_until_the_delay_is_over() -> None:
    stage = Stage(shutdown_delay_s=5.0)
    workers = stage.all_ready()
    stage.primary.stop()
    stage.primary.settle()
    assert [channel(worker).sent[-1] for worker in workers] == [{"leave": {}}] * 2
    assert stage.states() == [State.READY] * 2 and stage.is_listening
    assert stage.primary.next_deadline() == stage.now + 5.0
    stage.passes(4.9)
    assert stage.states() == [State.READY] * 2 and stage.is_listening
    stage.passes(0.1)
    assert stage.states() == [State.DRAINING] * 2 and not stage.is_listening
    assert channel(workers[0]).sent[-1] == {"drain": {"last": True}}


def test_a_second_wish_to_stop_ends_the_delay() -> None:
    stage = Stage(shutdown_delay_s=5.0)
    stage.all_ready()
    stage.primary.stop()
    stage.now += 1
    stage.primary.stop()
    assert stage.states() == [State.CONDEMNED] * 2
    stage.passes(10)
    assert stage.states() == [State.CONDEMNED] * 2


def test_nobody_is_waited_for_if_nobody_serves_yet() -> None:
    stage = Stage(shutdown_delay_s=5.0)
    stage.primary.start()
    stage.primary.stop()
    assert stage.states() == [State.DRAINING] * 2 and not stage.is_listening


def test_a_worker_that_comes_up_in_the_delay_hears_of_it() -> None:
    stage = Stage(shutdown_delay_s=5.0)
    stage.primary.start()
    first, second = stage.workers()
    stage.says(first, {"ready": {}})
    stage.primary.stop()
    channel(second).sent.clear()
    stage.says(second, {"ready": {}})
    assert channel(second).sent == [{"leave": {}}]


def test_a_worker_that_dies_in_the_delay_does_not_keep_the_cluster() -> None:
    stage = Stage(workers=1, shutdown_delay_s=5.0)
    (worker,) = stage.all_ready()
    stage.primary.stop()
    stage.dies(worker, 9)
    assert stage.primary.exit_code == 0
