"""Seats, slots and processes: who is to run, who does, and when the next one may try.

The law: a seat that is empty is filled when its time has come and a slot is free, a
failure costs it a growing pause, and what was handed to a worker that is gone goes to one
that lives.  Why a worker comes or goes is primary.py's affair, which builds on this.
"""

from __future__ import annotations

import logging
import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fastcluster import proc, retirement
from fastcluster.child_process import Child
from fastcluster.config import Config
from fastcluster.renewal import Renewal
from fastcluster.roster import BACKOFF_MOST_S, Board, Seat, State, Worker, backoff_s, count

# A worker that lived shorter than this is not replaced at once.
SHORT_LIFE_S = 5.0
# So many failures in a row are a crash loop, which is reported once.
CRASH_LOOP = 5
# The inbox that a parcel was put back into was full: nobody tells us when it is not.
PARCEL_RETRY_S = 0.05


class NurseryLike(Protocol):
    """What the primary needs of nursery.Nursery."""

    @property
    def is_ready(self) -> bool: ...
    def begin(self, on_end: Callable[[str | None], object]) -> None: ...
    def keep(self) -> None: ...
    def revert(self) -> None: ...
    def died(self, pid: int, status: int) -> bool: ...
    def reopen(self, names: list[str], fds: list[int]) -> None: ...


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
    rss_bytes: Callable[[int], int] = proc.rss_bytes
    cpu_s: Callable[[int], float] = proc.cpu_s
    reaped_cpu_s: Callable[[], float] = proc.reaped_cpu_s
    oom_kills: Callable[[], int | None] = proc.oom_kills
    is_in_foreground: Callable[[], bool] = proc.is_in_foreground
    # Reopens the log files -> which ones, and the descriptors to hand down.
    reopen: Callable[[], tuple[list[str], list[int]]] = lambda: ([], [])
    # Hears in one word what the cluster does, and what people may read of it.
    announce: Callable[[str, str], None] = lambda phase, status: None
    # Reads the configuration anew, from wherever it is written.  Raises FastclusterError.
    read_config: Callable[[], Config] | None = None
    # Hears what of it the workers to come live by.
    adopt: Callable[[Config], None] = lambda config: None
    # Where workers come from that need not load the application; None: each does.
    nursery: NurseryLike | None = None
    # Begins an upgrade under this order; raises CannotUpgrade.
    upgrade: Callable[[Renewal], object] = lambda order: None
    # Hears of a process that was reaped and is no worker.
    stranger_died: Callable[[int, int], object] = lambda pid, status: None
    chance: random.Random = field(default_factory=random.Random)


class Seating:
    """The seats of a cluster and the workers in them."""

    def __init__(
        self,
        config: Config,
        board: Board,
        world: World,
        log: logging.Logger,
    ) -> None:
        self.workers: dict[int, Worker] = {}  # by pid
        self._config = config
        self._board = board
        self._world = world
        self._log = log
        self._seats = [Seat(number) for number in range(config.n_workers)]
        self._ever_ready = False
        self._stopping = False
        self._serial = 0  # of the worker that was forked last
        self._restarts = 0  # of all seats, those that are gone by now, too
        self._sweep_again_s: float | None = None

    # ---- seats

    def _count_restart(self, seat: Seat) -> None:
        seat.restarts += 1
        self._restarts += 1

    def _reckon(self, seat: Seat, worker: Worker) -> None:
        """Decide when a worker that was not retired gets an heir."""
        seat.was_lost = True
        if self._lasted(worker):
            seat.failures = 0
            seat.in_crash_loop = False
            seat.due_s = self._now()
        elif self._ever_ready:
            self._back_off(seat)
        else:
            # If none of the first comes up, none ever will: wait for the others' fate.
            seat.due_s = math.inf

    def _lasted(self, worker: Worker) -> bool:
        return worker.ready_s is not None and self._now() - worker.ready_s >= SHORT_LIFE_S

    def _back_off(self, seat: Seat) -> None:
        seat.failures += 1
        delay_s = backoff_s(seat.failures)
        seat.due_s = self._now() + delay_s
        if seat.failures < 2 or self._stopping:
            return
        if seat.failures == CRASH_LOOP:
            seat.in_crash_loop = True
            self._log.error(
                "crash loop: worker %d failed %d times in a row, the last time: %s; it is tried "
                "again every %g s at most, and nothing more is said until it lasts",
                seat.number,
                seat.failures,
                seat.why,
                BACKOFF_MOST_S,
            )
            return
        self._log.log(
            logging.DEBUG if seat.in_crash_loop else logging.WARNING,
            "a worker failed %d times in a row; next try in %g s",
            seat.failures,
            delay_s,
        )

    def _fill_seats(self) -> None:
        for seat in self._seats:
            if seat.worker is None and not seat.rests and seat.due_s <= self._now():
                free = self._free_slots()
                if not free:
                    return
                seat.worker = self._raise(seat, seat.slot if seat.slot in free else free[0])

    def _raise(self, seat: Seat, slot: int) -> Worker | None:
        """Fork a worker for a seat; None, and the seat has to wait, if that fails."""
        generation = self._board.take(slot)
        before = self._board.tally(slot)
        try:
            child = self._world.spawn(seat.number, slot, generation)
        except OSError as error:
            self._board.release(slot)
            seat.why = f"cannot start a worker: {error.strerror or error}"
            self._log.error("%s", seat.why)
            if self._ever_ready:
                self._back_off(seat)
            else:
                seat.due_s = math.inf
            return None
        self._serial += 1
        if seat.was_lost:
            self._count_restart(seat)
            seat.was_lost = False
        seat.slot = slot
        worker = Worker(
            pid=child.pid,
            channel=child.channel,
            slot=slot,
            generation=generation,
            serial=self._serial,
            seat=seat,
            deadline_s=self._now() + self._config.timeout_startup_s,
            forked_s=self._now(),
            before=before,
            allowance=retirement.draw(self._config, self._world.chance),
        )
        self.workers[child.pid] = worker
        return worker

    @property
    def _can_raise(self) -> bool:
        nursery = self._world.nursery
        return nursery is None or nursery.is_ready

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

    # ---- inboxes

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
        taken, is_all = self._world.forward(slot, heirs)
        if taken:
            what = count(taken, "connection")
            self._log.info("%s handed on that waited for a worker that is gone", what)
        if not is_all:
            self._sweep_again_s = self._now() + PARCEL_RETRY_S

    def _now(self) -> float:
        return self._world.clock()
