"""Raise, watch, retire and replace workers.

The primary is one loop over the workers' channels, a signal pipe and deadlines: no thread,
no sleep, no work in a signal handler.  What happens to a worker is TABLE; what follows for
the cluster is in the methods it names.  `Primary` is handed the world (fork, clock, wait,
kill), so tests need no processes; `run` hands it the real one.

Two words are kept apart.  A *slot* is a line on the scoreboard and an inbox; one living
worker has it, and each that takes it is a new generation there.  A *seat* is the claim
that one more worker shall run: it outlives workers, gives them their number (0 to n - 1),
counts their failures, and during a reload it holds two, the one that serves and its
successor that comes up.

It imports no application and no compiled module: the scoreboard is handed in.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastcluster import __version__, child_process, errors, sockets
from fastcluster.channel import Channel, Inbox, Message
from fastcluster.child_process import Child, SignalPipe, how_it_ended
from fastcluster.config import Config

# A worker that lived shorter than this is not replaced at once.
SHORT_LIFE_S = 5.0
BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 30.0
# So many retired workers may still drain while a reload goes on.
SPARE_SLOTS = 16
# A worker whose channel is gone is about to be reaped; if not, it is beyond our reach.
EXIT_AFTER_EOF_S = 5.0
# The inbox that a parcel was put back into was full: nobody tells us when it is not.
PARCEL_RETRY_S = 0.05
# Two signals to stop within this time are one.
SAME_WISH_S = 0.1


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
    RETIRE = enum.auto()  # it is not wanted any more
    OVERDUE = enum.auto()  # its deadline has passed; what that means is the state's
    KILL = enum.auto()  # everybody is to go at once
    EXIT = enum.auto()  # it was reaped


# (state, event) -> (next state, method of Primary).  What has no row changes nothing, in
# whatever order the kernel reports things.  A heartbeat that stops will be one more event,
# and a row (READY, SILENT) -> CONDEMNED that asks for tracebacks first.
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
    (State.READY, Event.RETIRE): (State.DRAINING, "_drain"),
    (State.READY, Event.OVERDUE): (State.CONDEMNED, "_kill_unreachable"),
    (State.READY, Event.KILL): (State.CONDEMNED, "_kill"),
    (State.READY, Event.EXIT): (State.DEAD, "_bury_fallen"),
    (State.DRAINING, Event.RETIRE): (State.DRAINING, "_hurry"),
    (State.DRAINING, Event.OVERDUE): (State.CONDEMNED, "_kill_unfinished"),
    (State.DRAINING, Event.KILL): (State.CONDEMNED, "_kill"),
    (State.DRAINING, Event.EXIT): (State.DEAD, "_bury_drained"),
    (State.CONDEMNED, Event.EXIT): (State.DEAD, "_bury_failed"),
}

# What a signal asks for: a method of Primary.
SIGNALS: dict[int, str] = {
    signal.SIGTERM: "stop",
    signal.SIGINT: "stop",
    signal.SIGQUIT: "kill_all",
    signal.SIGHUP: "reload",
    signal.SIGCHLD: "reap",
}
# Their default is to end or to stop the process, which nobody means who sends them.
SIGNALS_TO_COME = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)


class Board(Protocol):
    """What the primary needs of server.Board."""

    slots: int

    def take(self, index: int) -> int: ...
    def release(self, index: int) -> None: ...
    def read(self, index: int) -> dict[str, int]: ...


@dataclass(eq=False, slots=True)
class Seat:
    """The claim that one more worker shall run."""

    number: int  # of its workers, for people and applications
    worker: Worker | None = None
    successor: Worker | None = None
    slot: int | None = None  # of its last worker: an heir finds the same inbox
    failures: int = 0  # in a row: died while it came up, or soon after
    due_s: float = 0.0  # an empty seat is not filled before this moment


@dataclass(eq=False, slots=True)
class Worker:
    """One worker process, from the fork until it was reaped."""

    pid: int
    channel: Channel
    slot: int
    generation: int
    seat: Seat
    deadline_s: float | None
    state: State = State.FORKED
    ready_s: float | None = None
    failure: str | None = None  # why it could not load the application, in its own words
    status: int = 0  # as waitpid gave it

    def __str__(self) -> str:
        return f"worker {self.seat.number} (pid {self.pid})"


@dataclass(slots=True)
class World:
    """What the primary does to the world, so that a test can be the world."""

    spawn: Callable[[int, int, int], Child]  # (number, slot, generation) -> a forked worker
    # An inbox's content to the first heir that takes it -> (how many, whether all).
    forward: Callable[[int, list[int]], tuple[int, bool]]
    stop_listening: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    waitpid: Callable[[int, int], tuple[int, int]] = os.waitpid
    kill: Callable[[int, int], None] = os.kill


class Primary:
    """The state of a cluster and what follows from what happens to it.

    `urls` are what people are told once the first worker serves.  The owner calls
    `start()`, then the method that fits whatever happened, then `settle()`, until
    `exit_code` is not None; `next_deadline()` says how long it may wait in between.
    """

    def __init__(
        self,
        config: Config,
        board: Board,
        world: World,
        log: logging.Logger,
        urls: Sequence[str] = (),
    ) -> None:
        self.exit_code: int | None = None
        self.workers: dict[int, Worker] = {}  # by pid
        self._config = config
        self._board = board
        self._world = world
        self._log = log
        self._urls = urls
        self._seats = [Seat(number) for number in range(config.n_workers)]
        self._ever_ready = False
        self._stopping = False
        self._stopped_s = 0.0
        self._shown: str | None = None  # the last boot failure that was logged in full
        self._reloading = False
        self._to_renew: list[Seat] = []  # what is left of the reload
        self._sweep_again_s: float | None = None

    # ---- what the owner calls

    def start(self) -> None:
        """Raise the first workers."""
        self._log.info(
            "fastcluster %s: primary %d, %s, application %s",
            __version__,
            os.getpid(),
            _count(len(self._seats), "worker"),
            self._config.app,
        )
        self.settle()

    def signalled(self, number: int) -> None:
        """Do what a signal asks for."""
        name = SIGNALS.get(number)
        if name is None:
            self._log.warning("%s is not supported yet", signal.Signals(number).name)
            return
        getattr(self, name)()

    def stop(self) -> None:
        """Retire all workers; the second time, kill them."""
        if self._stopping:
            # timeout(1) and some supervisors signal the process and its group: that is
            # one wish, and nobody asks twice within a tenth of a second.
            if self._now() - self._stopped_s >= SAME_WISH_S:
                self.kill_all()
            return
        self._stopping = True
        self._stopped_s = self._now()
        self._reloading = False
        self._log.info("stopping: %s to drain", _count(len(self.workers), "worker"))
        # Ours first: the workers close theirs as they drain, and then a new client is
        # refused and goes elsewhere, instead of waiting for nobody.
        self._world.stop_listening()
        for worker in list(self.workers.values()):
            self._happens(worker, Event.RETIRE)

    def kill_all(self) -> None:
        """End all workers and the cluster at once."""
        self._stopping = True
        self._reloading = False
        self._log.info("stopping at once")
        for worker in list(self.workers.values()):
            self._happens(worker, Event.KILL)

    def reload(self) -> None:
        """Replace all workers one by one, each when its successor is READY."""
        if self._stopping:
            return
        self._reloading = True
        self._log.info("reload: new workers come up, old ones serve until they are ready")
        self._to_renew = list(self._seats)
        for seat in self._seats:
            # What failed may have been mended: that is what people reload for.
            seat.failures = 0
            seat.due_s = min(seat.due_s, self._now())

    def reap(self) -> None:
        """Collect the dead; strangers too, which a process 1 inherits."""
        while True:
            try:
                pid, status = self._world.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self.workers.get(pid)
            if worker is None:
                continue
            self.hear(worker)
            worker.status = status
            self._happens(worker, Event.EXIT)

    def hear(self, worker: Worker) -> None:
        """Read what a worker has to say."""
        for message, fds in worker.channel.receive():
            for fd in fds:
                os.close(fd)
            self._said(worker, message)
        if worker.channel.eof:
            self._happens(worker, Event.LOST)

    def settle(self) -> None:
        """Do what is due: deadlines, empty seats, the next step of a reload, the end."""
        now = self._now()
        for worker in list(self.workers.values()):
            if worker.deadline_s is not None and worker.deadline_s <= now:
                worker.deadline_s = None
                self._happens(worker, Event.OVERDUE)
        if self._sweep_again_s is not None and self._sweep_again_s <= now:
            self._sweep_again_s = None
        if not self._stopping:
            self._fill_seats()
            self._renew_next()
        self._end_if_over()

    def next_deadline(self) -> float | None:
        """Return the moment at which `settle()` has something to do, if any is known."""
        moments = [w.deadline_s for w in self.workers.values() if w.deadline_s is not None]
        if self._sweep_again_s is not None:
            moments.append(self._sweep_again_s)
        if not self._stopping and self._free_slots():
            moments += [seat.due_s for seat in self._seats if seat.worker is None]
        moments = [moment for moment in moments if moment < math.inf]
        return min(moments, default=None)

    def orphaned_inboxes(self) -> list[int]:
        """Return the slots without a worker, if there is one to forward what comes to them.

        A connection can be handed to a worker at the moment of its death.
        """
        if self._sweep_again_s is not None:
            return []
        return self._free_slots() if self._heirs() else []

    def sweep_inbox(self, slot: int) -> None:
        """Hand what a dead worker had not taken to one that lives."""
        heirs = self._heirs()
        if not heirs:
            return
        count, is_all = self._world.forward(slot, heirs)
        if count:
            what = _count(count, "connection")
            self._log.info("%s handed on that waited for a worker that is gone", what)
        if not is_all:
            self._sweep_again_s = self._now() + PARCEL_RETRY_S

    # ---- what the table names

    def _welcome(self, worker: Worker) -> None:
        worker.deadline_s = None
        worker.ready_s = self._now()
        self._shown = None
        if not self._ever_ready:
            self._ever_ready = True
            for url in self._urls:
                self._log.info("listening on %s", url)
            for seat in self._seats:
                if seat.worker is None:
                    self._back_off(seat)
        self._log.info("%s is ready", worker)
        self._succeed(worker)

    def _let_drain(self, worker: Worker) -> None:
        worker.deadline_s = self._now() + self._config.timeout_graceful_s
        self._log.info("%s was told to stop by a signal and drains", worker)
        self._vacate(worker)

    def _expect_exit(self, worker: Worker) -> None:
        soon = self._now() + EXIT_AFTER_EOF_S
        worker.deadline_s = min(worker.deadline_s or soon, soon)

    def _dismiss(self, worker: Worker) -> None:
        # It serves nobody yet.  A worker that is loading ends at once on SIGTERM; one
        # that became ready at this very moment drains.
        worker.deadline_s = self._now() + self._config.timeout_graceful_s
        self._signal(worker, signal.SIGTERM)

    def _drain(self, worker: Worker) -> None:
        worker.deadline_s = self._now() + self._config.timeout_graceful_s
        if not worker.channel.send({"drain": {"last": self._stopping}}):
            self._signal(worker, signal.SIGTERM)

    def _hurry(self, worker: Worker) -> None:
        # It drains on its own account and holds the listeners open, for which nobody
        # listens any more if the whole cluster stops.
        worker.channel.send({"drain": {"last": self._stopping}})

    def _give_up_waiting(self, worker: Worker) -> None:
        worker.failure = (
            f"the application did not load within {self._config.timeout_startup_s:g} s "
            "(--timeout-startup)"
        )
        self._kill(worker)

    def _kill_unreachable(self, worker: Worker) -> None:
        self._log.error("%s has closed its channel and does not leave: killed", worker)
        self._kill(worker)

    def _kill_unfinished(self, worker: Worker) -> None:
        held = self._board.read(worker.slot)
        self._log.error(
            "%s did not finish within %g s (--graceful-timeout): killed with %s open, "
            "%s being answered",
            worker,
            self._config.timeout_graceful_s,
            _count(held["connections"], "connection"),
            _count(held["running"], "request"),
        )
        self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        worker.deadline_s = None
        self._signal(worker, signal.SIGKILL)

    def _bury_failed(self, worker: Worker) -> None:
        if worker.ready_s is None and not self._stopping:
            self._report_failed_boot(worker)
            self._abandon_reload()
        self._bury(worker)

    def _bury_fallen(self, worker: Worker) -> None:
        held = self._board.read(worker.slot)["connections"]
        self._log.error(
            "%s %s%s",
            worker,
            how_it_ended(worker.status),
            f"; it held {_count(held, 'connection')}" if held else "",
        )
        self._bury(worker)

    def _bury_drained(self, worker: Worker) -> None:
        if worker.status == 0:
            self._log.info("%s has drained and left", worker)
        else:
            self._log.warning("%s %s while it drained", worker, how_it_ended(worker.status))
        self._bury(worker)

    # ---- one worker

    def _happens(self, worker: Worker, event: Event) -> None:
        if (worker.state, event) not in TABLE:
            return
        worker.state, action = TABLE[worker.state, event]
        getattr(self, action)(worker)

    def _said(self, worker: Worker, message: Message) -> None:
        match message:
            case {"ready": _}:
                self._happens(worker, Event.READY)
            case {"failed": str(why)}:
                worker.failure = why
            case {"draining": _}:
                self._happens(worker, Event.DRAINS)
            case _:
                self._log.debug("%s said %r", worker, message)

    def _signal(self, worker: Worker, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._world.kill(worker.pid, number)

    def _bury(self, worker: Worker) -> None:
        del self.workers[worker.pid]
        worker.channel.close()
        self._board.release(worker.slot)
        self._vacate(worker)
        self.sweep_inbox(worker.slot)

    def _report_failed_boot(self, worker: Worker) -> None:
        """Log why a worker did not come up, but the same reason in full only once."""
        why = worker.failure or f"{how_it_ended(worker.status)} while it started"
        if why == self._shown:
            self._log.debug("%s failed for the same reason", worker)
            return
        self._shown = why
        self._log.error("%s did not come up: %s", worker, why)

    # ---- seats

    def _vacate(self, worker: Worker) -> None:
        """The worker does not count any more: it is dead, or drains."""
        seat = worker.seat
        if seat.successor is worker:
            seat.successor = None
            self._abandon_reload()
        elif seat.worker is worker:
            seat.worker, seat.successor = seat.successor, None
            self._reckon(seat, worker)

    def _reckon(self, seat: Seat, worker: Worker) -> None:
        """Decide when a worker that was not retired gets an heir."""
        now = self._now()
        if worker.ready_s is not None and now - worker.ready_s >= SHORT_LIFE_S:
            seat.failures = 0
            seat.due_s = now
        elif self._ever_ready:
            self._back_off(seat)
        else:
            # If none of the first comes up, none ever will: wait for the others' fate.
            seat.due_s = math.inf

    def _back_off(self, seat: Seat) -> None:
        seat.failures += 1
        delay_s = backoff_s(seat.failures)
        seat.due_s = self._now() + delay_s
        if seat.failures > 1 and not self._stopping:
            self._log.warning(
                "a worker failed %d times in a row; next try in %g s", seat.failures, delay_s
            )

    def _fill_seats(self) -> None:
        for seat in self._seats:
            if seat.worker is None and seat.due_s <= self._now():
                free = self._free_slots()
                if not free:
                    return
                seat.worker = self._raise(seat, seat.slot if seat.slot in free else free[0])

    def _raise(self, seat: Seat, slot: int) -> Worker | None:
        """Fork a worker for a seat; None, and the seat has to wait, if that fails."""
        generation = self._board.take(slot)
        try:
            child = self._world.spawn(seat.number, slot, generation)
        except OSError as error:
            self._board.release(slot)
            self._log.error("cannot start a worker: %s", error.strerror or error)
            if self._ever_ready:
                self._back_off(seat)
            else:
                seat.due_s = math.inf
            return None
        seat.slot = slot
        worker = Worker(
            pid=child.pid,
            channel=child.channel,
            slot=slot,
            generation=generation,
            seat=seat,
            deadline_s=self._now() + self._config.timeout_startup_s,
        )
        self.workers[child.pid] = worker
        return worker

    def _free_slots(self) -> list[int]:
        taken = {worker.slot for worker in self.workers.values()}
        return [slot for slot in range(self._board.slots) if slot not in taken]

    def _heirs(self) -> list[int]:
        """Return the slots that can take connections, the least busy first."""
        for state in (State.READY, State.DRAINING):
            slots = [worker.slot for worker in self.workers.values() if worker.state is state]
            if slots:
                return sorted(slots, key=lambda slot: self._board.read(slot)["connections"])
        return []

    # ---- reload

    def _renew_next(self) -> None:
        """Raise the next successor, one at a time."""
        if not self._reloading or not self._ever_ready:
            return
        while not any(seat.successor for seat in self._seats):
            if not self._to_renew:
                self._reloading = False
                self._log.info("reload: done, all workers are new")
                return
            free = self._free_slots()
            if not free:
                return
            seat = self._to_renew.pop(0)
            if seat.worker is None:
                # Whoever fills it comes up with the new code anyway.
                continue
            seat.successor = self._raise(seat, free[0])
            if seat.successor is None:
                self._abandon_reload()
                return

    def _succeed(self, worker: Worker) -> None:
        """A worker is READY: if it is a successor, its predecessor may go."""
        seat = worker.seat
        if seat.successor is not worker:
            return
        old, seat.worker, seat.successor = seat.worker, worker, None
        seat.failures = 0
        if old is not None:
            self._happens(old, Event.RETIRE)

    def _abandon_reload(self) -> None:
        if not self._reloading:
            return
        self._reloading = False
        self._to_renew.clear()
        self._log.error("reload: given up, the old workers keep serving")

    # ---- the end

    def _end_if_over(self) -> None:
        if self.workers or self.exit_code is not None:
            return
        if self._stopping:
            self._log.info("stopped")
            self.exit_code = errors.EXIT_OK
        elif not self._ever_ready:
            self._log.error("no worker came up: giving up")
            self.exit_code = errors.EXIT_APP

    def _now(self) -> float:
        return self._world.clock()


# ---- the real world


def slots_for(workers: int) -> int:
    """Return how many slots the scoreboard needs for so many workers.

    More than workers: in a reload old ones still drain while new ones come up.  Not many
    more: a slot's inbox costs a descriptor in every worker.
    """
    return workers + min(workers, SPARE_SLOTS)


def run(
    config: Config,
    listeners: Sequence[socket.socket],
    main: Callable[..., int],
    board: Board,
) -> int:
    """Keep `config.n_workers` workers alive until a signal ends them; return the exit code.

    `listeners` listen already; they are closed when the cluster stops.  `main` is the
    life of a worker from the fork to its exit code, worker.main; `board` has
    `slots_for(config.n_workers)` slots or more.  Takes over the signals in SIGNALS until
    it returns, so it is called by the main thread, and no other thread runs.
    """
    log = logging.getLogger("fastcluster")
    with contextlib.ExitStack() as at_end:
        # Before the first fork, so that a signal during the start is kept.
        signals = SignalPipe([*SIGNALS, *SIGNALS_TO_COME])
        at_end.callback(signals.close)
        inboxes = [Inbox() for _ in range(board.slots)]
        for inbox in inboxes:
            at_end.callback(inbox.close)

        def spawn(number: int, slot: int, generation: int) -> Child:
            def live(channel: Channel) -> int:
                return main(
                    config,
                    listeners,
                    channel,
                    number=number,
                    slot=slot,
                    generation=generation,
                    board=board,
                    inbox=inboxes[slot].receiving,
                    outboxes=[inbox.sending for inbox in inboxes],
                )

            others = [worker.channel for worker in primary.workers.values()]
            foreign = [inbox.receiving for inbox in inboxes if inbox is not inboxes[slot]]
            return child_process.spawn(
                live, close=[*others, *foreign], exit_timeout_s=max(1.0, config.timeout_graceful_s)
            )

        def stop_listening() -> None:
            for listener in listeners:
                listener.close()

        world = World(
            spawn=spawn,
            forward=lambda slot, heirs: inboxes[slot].forward([inboxes[i] for i in heirs]),
            stop_listening=stop_listening,
        )
        urls = [sockets.url(listener) for listener in listeners]
        primary = Primary(config, board, world, log, urls)
        primary.start()
        while primary.exit_code is None:
            _turn(primary, signals, inboxes)
        return primary.exit_code


def _turn(primary: Primary, signals: SignalPipe, inboxes: Sequence[Inbox]) -> None:
    """Wait until something happens, and do what follows."""
    poll = select.poll()
    poll.register(signals.fileno(), select.POLLIN)
    speakers = {w.channel.fileno(): w for w in primary.workers.values() if not w.channel.eof}
    for fd, worker in speakers.items():
        poll.register(fd, select.POLLIN | (select.POLLOUT if worker.channel.wants_write else 0))
    orphaned = {inboxes[slot].receiving.fileno(): slot for slot in primary.orphaned_inboxes()}
    for fd in orphaned:
        poll.register(fd, select.POLLIN)
    deadline_s = primary.next_deadline()
    wait_ms = None if deadline_s is None else max(0.0, deadline_s - time.monotonic()) * 1000
    events = poll.poll(None if wait_ms is None else math.ceil(wait_ms))
    # Signals first: who stops the whole group has told the workers, too, and they are not
    # to be replaced.
    for number in signals.read():
        primary.signalled(number)
    for fd, what in events:
        if fd in orphaned:
            primary.sweep_inbox(orphaned[fd])
        elif fd in speakers:
            if what & select.POLLOUT:
                speakers[fd].channel.flush()
            primary.hear(speakers[fd])
    primary.settle()


# ---- words


def backoff_s(failures: int) -> float:
    """Return how long a seat waits after so many failures in a row, in seconds."""
    return float(min(BACKOFF_FIRST_S * 2 ** min(failures - 1, 20), BACKOFF_MOST_S))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
