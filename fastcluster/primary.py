"""Raise, watch, retire and replace workers.

The primary is one loop over the workers' channels, a signal pipe and deadlines: no thread,
no sleep, no work in a signal handler.  What can happen to a worker is roster.TABLE; what
follows for the cluster is in the methods it names.  `Primary` is handed the world (fork,
clock, wait, kill), so tests need no processes; supervisor.py hands it the real one.

It imports no application and no compiled module: the scoreboard is handed in.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
from collections.abc import Sequence
from typing import Any

from fastcluster import __version__, errors, heartbeat, reconfiguration, reports, retirement
from fastcluster.channel import Message
from fastcluster.child_process import how_it_ended
from fastcluster.config import Config
from fastcluster.heartbeat import Verdict
from fastcluster.renewal import Renewal, Renewals, TellEnd
from fastcluster.roster import TABLE, Board, Event, Seat, State, Worker, backoff_s, count
from fastcluster.seating import Seating, World
from fastcluster.upgrade import CannotUpgrade

# So many retired workers may still drain while a reload goes on.
SPARE_SLOTS = 16
# A worker whose channel is gone is about to be reaped; if not, it is beyond our reach.
EXIT_AFTER_EOF_S = 5.0
# So long a stuck worker may take to write its tracebacks and end.
ABORT_S = 2.0
# So often, and so long at most, one looks whether all workers but the last have begun to
# drain; one that computes meanwhile hands nothing over either.
REAR_LOOK_S = 0.005
REAR_MOST_S = 1.0
# FC_SLOT_READY of board.h: others may hand connections to this worker.
SLOT_READY = 2
# Two signals to stop within this time are one.
SAME_WISH_S = 0.1

# What a signal asks for: a method of Primary.
SIGNALS: dict[int, str] = {
    signal.SIGTERM: "stop",
    signal.SIGINT: "stop",
    signal.SIGQUIT: "kill_all",
    signal.SIGHUP: "reload",
    signal.SIGTTIN: "raise_one",
    signal.SIGTTOU: "retire_one",
    signal.SIGUSR1: "reopen_logs",
    signal.SIGUSR2: "upgrade",
    signal.SIGWINCH: "rest",
    signal.SIGCHLD: "reap",
}


class Primary(Seating):
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
        super().__init__(config, board, world, log)
        self.exit_code: int | None = None
        self.began_s = world.clock()
        self._urls = urls
        self._stopped_s = 0.0
        self._drain_s: float | None = None  # when a stop that was asked for begins
        self._shown: str | None = None  # the last boot failure that was logged in full
        self._rear: Worker | None = None  # drains when the others do
        self._rear_s = 0.0  # it does so then at the latest
        self._loads = False  # the first zygote does, and nobody can serve before
        self._reloads: Renewal | None = None  # the reload that waits for its zygote
        self._drains: list[tuple[Renewal, list[Worker]]] = []  # and whose end each waits for
        self._code = errors.EXIT_OK  # what a stop ends with
        self._serves_on = False  # another primary does: ours drain as in a reload
        self._was_told = False  # to stop, while we leave anyway
        self.boot_failure: str | None = None  # why a worker did not come up, the last one
        self._renewals = Renewals(config.reload_batch)
        self._looks_s = _looks_every_s(config)  # 0: workers are never looked at
        self._looked_s = world.clock()
        self._oom_kills = world.oom_kills()

    # ---- what the owner calls

    def start(self) -> None:
        """Raise the first workers."""
        self._log.info(
            "fastcluster %s: primary %d, %s, application %s",
            __version__,
            os.getpid(),
            count(len(self._seats), "worker"),
            self._config.app,
        )
        if self._world.nursery is not None:
            self._loads = True
            self._world.nursery.begin(self._loaded_first)
        self.settle()

    def signalled(self, number: int) -> None:
        """Do what a signal asks for."""
        try:
            getattr(self, SIGNALS[number])()
        except CannotUpgrade as error:
            self._log.warning("upgrade: refused: %s", error)

    def stop(self) -> None:
        """Retire all workers; the second time, kill them."""
        if self._serves_on and not self._was_told:
            # Who stops a whole service signals both primaries once; ours drain anyway.
            self._was_told = True
            self._stopped_s = self._now()
            return
        if self._stopping:
            # timeout(1) and some supervisors signal the process and its group: that is
            # one wish, and nobody asks twice within a tenth of a second.
            if self._now() - self._stopped_s >= SAME_WISH_S:
                self.kill_all()
            return
        self._begin_to_stop()
        delay_s = self._config.shutdown_delay_s
        if not delay_s or not any(w.state is State.READY for w in self.workers.values()):
            self._drain_all()
            return
        self._log.info(
            "stopping in %g s (--shutdown-delay): %s until then, and readiness fails",
            delay_s,
            "the workers serve" if len(self.workers) > 1 else "the worker serves",
        )
        self._drain_s = self._now() + delay_s
        for worker in self.workers.values():
            worker.channel.send({"leave": {}})

    def _drain_all(self) -> None:
        self._drain_s = None
        self._log.info("stopping: %s to drain", count(len(self.workers), "worker"))
        # Ours first: the workers close theirs as they drain, and then a new client is
        # refused and goes elsewhere, instead of waiting for nobody.
        self._world.stop_listening()
        for worker in list(self.workers.values()):
            self._happens(worker, Event.RETIRE)

    def kill_all(self) -> None:
        """End all workers and the cluster at once."""
        self._begin_to_stop()
        self._drain_s = None
        running = sum(self._board.read(w.slot)["running"] for w in self.workers.values())
        if running > 0:
            self._log.warning("stopping at once: %s cut off", count(running, "request"))
        else:
            self._log.info("stopping at once")
        for worker in list(self.workers.values()):
            self._happens(worker, Event.KILL)

    def leave(self, exit_code: int = errors.EXIT_OK) -> None:
        """Retire all workers while those of another primary serve on the same sockets.

        exit_code: what the process ends with.
        """
        if self._stopping:
            return
        self._begin_to_stop()
        self._code, self._serves_on = exit_code, True
        self._log.info("leaving: %s to drain", count(len(self.workers), "worker"))
        ready = [worker for worker in self.workers.values() if worker.state is State.READY]
        self._rear = ready[-1] if len(ready) > 1 else None
        self._rear_s = self._now() + REAR_MOST_S
        for worker in list(self.workers.values()):
            if worker is not self._rear:
                self._happens(worker, Event.RETIRE)

    def upgrade(self, on_end: TellEnd | None = None) -> Renewal:
        """Have a new primary take over; on_end: called when it has, or has failed to.

        Raises CannotUpgrade where that is not begun.
        """
        if self._stopping:
            raise CannotUpgrade("the server stops")
        if not self._ever_ready:
            raise CannotUpgrade("no worker serves yet")
        order = Renewal("upgrade", [], on_end)
        self._world.upgrade(order)
        return order

    def announce(self) -> None:
        """Tell the service manager how things are, who did not hear us before."""
        self._world.announce("ready", self._summary())

    @property
    def is_stopping(self) -> bool:
        """Tell whether the server was told to stop, or leaves."""
        return self._stopping

    def _let_rear_follow(self) -> None:
        """Retire the last worker once no other may hand a connection over.

        One can be on its way to a worker that leaves at this very moment.  In a reload
        others stay to whom it is handed on; here the last one takes what the others left.
        """
        rear, others = self._rear, [w for w in self.workers.values() if w is not self._rear]
        if rear is None:
            return
        serve = any(self._board.read(worker.slot)["state"] == SLOT_READY for worker in others)
        if serve and self._now() < self._rear_s:
            return
        for slot in range(self._board.slots):
            if slot != rear.slot:
                self.sweep_inbox(slot)
        self._rear = None
        self._happens(rear, Event.RETIRE)

    @property
    def is_up(self) -> bool:
        """Tell whether all workers serve that are wanted."""
        return all(s.worker is not None and s.worker.state is State.READY for s in self._seats)

    def reload(self, on_end: TellEnd | None = None) -> Renewal:
        """Replace all workers, each when its successor is READY; one that runs gives way.

        on_end: called when it is over, which may be at once.
        """
        error = "the server stops" if self._stopping else self._read_config()
        nursery = self._world.nursery

        def end(order: Renewal) -> None:
            if nursery is not None:
                (nursery.keep if order.is_done else nursery.revert)()
            if on_end is not None:
                on_end(order)

        order = Renewal("reload", self._seats, end, since=self._serial)
        if error is not None:
            order.fail(error)
            return order
        self._give_up("another reload took its place")
        self._log.info("reload: new workers come up, old ones serve until they are ready")
        self._world.announce("reloading", "reloading")
        if nursery is not None:
            self._reloads = order
            nursery.begin(lambda why: self._loaded(order, why))
            return order
        # What failed may have been mended: that is what people reload for.
        self._wake()
        self._renewals.add(order)
        return order

    def start_over(self, why: str) -> None:
        """Retire all workers at once and raise new ones, for whom requests wait.

        What --reload does when the code has changed: nobody is to see the old code again.
        """
        if self._stopping:
            return
        self._give_up(why)
        self._log.info("%s: the workers start anew", why)
        self._read_config()
        for seat in self._seats:
            self._unseat(seat)
        self._wake()

    def _loaded_first(self, why: str | None) -> None:
        self._loads = False
        if why is not None:
            self._log.error("the application did not load: %s", why)
            self.boot_failure = why

    def _loaded(self, order: Renewal, why: str | None) -> None:
        """Renew the workers by what a new zygote has loaded, or leave them as they are."""
        self._reloads = None
        if order.is_over:
            return
        if why is not None:
            self._log.error("the application did not load: %s", why)
            self._log.error("reload: given up, the old workers keep serving")
            order.fail(why)
            self._world.announce("ready", self._summary())
            return
        # Whoever was forked meanwhile is an old one.
        order.waiting, order.since = list(self._seats), self._serial
        self._wake()
        self._renewals.add(order)

    def restart(self, number: int, on_end: TellEnd | None = None) -> Renewal:
        """Replace one worker when its successor is READY.

        Raises LookupError if there is no worker of that number.
        """
        seat = next((seat for seat in self._seats if seat.number == number), None)
        if seat is None or self._stopping:
            raise LookupError(f"there is no worker {number}")
        order = Renewal(f"restart of worker {number}", [seat], on_end, since=self._serial)
        self._log.info("%s: its successor comes up first", order.name)
        self._wake([seat])
        self._renewals.add(order)
        return order

    def scale(self, wanted: int) -> None:
        """Have so many workers from now on.  Raises ValueError if that is too few or too many."""
        if not 1 <= wanted <= self._config.most_workers:
            raise ValueError(
                f"from 1 to {self._config.most_workers} workers can be had (--max-workers), "
                f"not {wanted}"
            )
        if self._stopping:
            return
        if wanted != len(self._seats):
            self._log.info("scale: from %d to %s", len(self._seats), count(wanted, "worker"))
        self._wake()
        while len(self._seats) < wanted:
            taken = {seat.number for seat in self._seats}
            self._seats.append(Seat(min(set(range(wanted)) - taken)))
        while len(self._seats) > wanted:
            self._unseat(self._seats.pop())
        self._world.announce("status", self._summary())

    def raise_one(self) -> None:
        """Have one worker more, if there may be one; wakes up who rests."""
        if any(seat.rests for seat in self._seats):
            self._wake()
        elif len(self._seats) < self._config.most_workers:
            self.scale(len(self._seats) + 1)
        else:
            self._log.warning("scale: %d workers are the most (--max-workers)", len(self._seats))

    def retire_one(self) -> None:
        """Have one worker less; the last one stays."""
        if len(self._seats) > 1:
            self.scale(len(self._seats) - 1)

    def rest(self) -> None:
        """Do what SIGWINCH asks for: drain().

        A terminal sends the same signal when its window is resized, which nobody means.
        """
        if self._stopping or self._rests:
            return
        if self._world.is_in_foreground():
            self._log.debug("SIGWINCH is the terminal's as long as we are in its foreground")
            return
        self.drain()

    def drain(self, number: int | None = None, on_end: TellEnd | None = None) -> Renewal:
        """Retire all workers, or one, and keep the listeners, until a reload or a raise wakes us.

        number: of the worker, None for all.  on_end: called once they are gone.  Raises
        LookupError if there is no worker of that number.
        """
        seats = [seat for seat in self._seats if number in (None, seat.number)]
        if not seats or self._stopping:
            raise LookupError(f"there is no worker {number}" if seats == [] else "the server stops")
        order = Renewal("drain" if number is None else f"drain of worker {number}", [], on_end)
        if number is None:
            self._give_up("the workers were told to rest")
        leaving = [w for seat in seats for w in (seat.worker, seat.successor) if w is not None]
        self._log.info("resting: %s to drain; HUP or TTIN wakes", count(len(leaving), "worker"))
        for seat in seats:
            seat.rests = True
            self._unseat(seat)
        self._drains.append((order, leaving))
        words = "resting: connections wait" if self._rests else self._summary()
        self._world.announce("status", words)
        return order

    def reopen_logs(self) -> None:
        """Open the log files anew, here and in the workers, after somebody moved them away."""
        names, fds = self._world.reopen()
        if not names:
            self._log.info("no log file was reopened: none is open by name (--log-file)")
            return
        for worker in self.workers.values():
            worker.channel.send({"reopen": names}, fds)
        if self._world.nursery is not None:
            self._world.nursery.reopen(names, fds)
        for fd in fds:
            os.close(fd)
        self._log.info("log files reopened")

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
                self._bury_stranger(pid, status)
                continue
            self.hear(worker)
            worker.status = status
            self._happens(worker, Event.EXIT)

    def _bury_stranger(self, pid: int, status: int) -> None:
        nursery = self._world.nursery
        if nursery is None or not nursery.died(pid, status):
            self._world.stranger_died(pid, status)

    def hear(self, worker: Worker) -> None:
        """Read what a worker has to say."""
        for message, fds in worker.channel.receive():
            for fd in fds:
                os.close(fd)
            self._said(worker, message)
        if worker.channel.eof:
            self._happens(worker, Event.LOST)

    def settle(self) -> None:
        """Do what is due: deadlines, looks, empty seats, the next step of a reload, the end."""
        now = self._now()
        for worker in list(self.workers.values()):
            if worker.deadline_s is not None and worker.deadline_s <= now:
                worker.deadline_s = None
                self._happens(worker, Event.OVERDUE)
        if self._drain_s is not None and self._drain_s <= now:
            self._drain_all()
        if self._sweep_again_s is not None and self._sweep_again_s <= now:
            self._sweep_again_s = None
        if self._looks_s and now - self._looked_s >= self._looks_s:
            self._look(now)
        if not self._stopping and self._can_raise:
            self._fill_seats()
            self._renew_next()
        self._let_rear_follow()
        self._end_drains()
        self._end_if_over()

    def next_deadline(self) -> float | None:
        """Return the moment at which `settle()` has something to do, if any is known."""
        moments = [w.deadline_s for w in self.workers.values() if w.deadline_s is not None]
        if self._sweep_again_s is not None:
            moments.append(self._sweep_again_s)
        if self._rear is not None:
            moments.append(self._now() + REAR_LOOK_S)
        if self._drain_s is not None:
            moments.append(self._drain_s)
        if self._looks_s and any(w.state is State.READY for w in self.workers.values()):
            moments.append(self._looked_s + self._looks_s)
        if not self._stopping and self._can_raise and self._free_slots():
            moments += [s.due_s for s in self._seats if s.worker is None and not s.rests]
            moments += [seat.renew_s for seat in self._seats if self._waits_for_renewal(seat)]
        moments = [moment for moment in moments if moment < math.inf]
        return min(moments, default=None)

    def status(self, histograms: bool = False) -> dict[str, Any]:
        """Return what there is to know, in values that JSON has; durations in seconds.

        histograms: with the latencies that were counted, bucket by bucket.
        """
        now = self._now()
        workers = [
            reports.status_of(
                worker,
                self._board,
                now,
                self._world.rss_bytes(worker.pid),
                self._world.cpu_s(worker.pid),
                histograms=histograms,
            )
            for worker in sorted(self.workers.values(), key=lambda w: (w.seat.number, w.pid))
        ]
        cpu_s = self._world.reaped_cpu_s() + sum(worker["cpu_s"] for worker in workers)
        return {
            "pid": os.getpid(),
            "version": __version__,
            "app": self._config.app,
            "urls": list(self._urls),
            "state": self._phase(),
            "age_s": round(now - self.began_s, 3),
            "wanted": len(self._seats),
            "most": self._config.most_workers,
            "resting": [seat.number for seat in self._seats if seat.rests],
            "totals": {
                **reports.totals_of(self._board.total(), workers, histograms=histograms),
                "cpu_s": round(cpu_s, 3),
                "restarts": self._restarts,
            },
            "workers": workers,
        }

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
        if self._drain_s is not None:
            worker.channel.send({"leave": {}})
        self._succeed(worker)
        if not self._renewals and not self._stopping:
            self._world.announce("ready", self._summary())

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
        if not worker.channel.send({"drain": {"last": self._is_last}}):
            self._signal(worker, signal.SIGTERM)

    def _hurry(self, worker: Worker) -> None:
        # It drains on its own account and holds the listeners open, for which nobody
        # listens any more if the whole cluster stops.
        worker.channel.send({"drain": {"last": self._is_last}})

    def _abort(self, worker: Worker) -> None:
        self._log.error(
            "%s has shown no sign of life for %g s (--worker-timeout)%s: killed; "
            "its threads, as it writes them itself:",
            worker,
            worker.pulse.quiet_s,
            reports.doing(self._board, worker.slot),
        )
        worker.seat.why = "was stuck"
        worker.was_killed = True
        # Its own handler in C, which needs no lock of the interpreter, writes the
        # traceback of every thread and lets it die of the signal then.
        self._signal(worker, signal.SIGABRT)
        worker.deadline_s = self._now() + ABORT_S

    def _give_up_waiting(self, worker: Worker) -> None:
        what = "start up (lifespan)" if worker.is_loaded else "load"
        worker.failure = (
            f"the application did not {what} within {self._config.timeout_startup_s:g} s "
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
            "%s being answered%s",
            worker,
            self._config.timeout_graceful_s,
            count(held["connections"], "connection"),
            count(held["running"], "request"),
            reports.doing(self._board, worker.slot),
        )
        self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        worker.deadline_s = None
        worker.was_killed = True
        self._signal(worker, signal.SIGKILL)

    def _bury_failed(self, worker: Worker) -> None:
        if worker.ready_s is None and not self._stopping:
            self._report_failed_boot(worker)
        self._bury(worker)

    def _bury_fallen(self, worker: Worker) -> None:
        why = reports.epitaph(worker, self._board, self._new_oom_kills())
        worker.seat.why = why
        is_known = worker.seat.in_crash_loop and not self._lasted(worker)
        level = logging.DEBUG if is_known else logging.ERROR
        self._log.log(level, "%s %s", worker, why)
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
            case {"loaded": _}:
                worker.is_loaded = True
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
        worker.seat.why = self.boot_failure = why
        if why == self._shown:
            self._log.debug("%s failed for the same reason", worker)
            return
        self._shown = why
        self._log.error("%s did not come up: %s", worker, why)

    def _new_oom_kills(self) -> int:
        before, self._oom_kills = self._oom_kills, self._world.oom_kills()
        return 0 if before is None or self._oom_kills is None else self._oom_kills - before

    def _look(self, now: float) -> None:
        """Ask the scoreboard who is stuck, and who has served enough."""
        # What we slept through with the whole machine is nobody's silence.
        passed_s = min(now - self._looked_s, 2 * self._looks_s)
        self._looked_s = now
        for worker in list(self.workers.values()):
            if worker.state is State.READY:
                self._look_at(worker, now, passed_s)

    def _look_at(self, worker: Worker, now: float, passed_s: float) -> None:
        slot = self._board.read(worker.slot)
        timeout_s = self._config.timeout_worker_s
        if timeout_s:
            sign = (slot["heartbeat_ms"], slot["requests"])
            verdict = worker.pulse.look(sign, passed_s, timeout_s)
            if verdict is Verdict.ASK:
                worker.channel.send({"beat": {}})
            elif verdict is Verdict.SILENT:
                self._happens(worker, Event.SILENT)
                return
        seat = worker.seat
        if seat.worker is not worker or self._renewals.holds(seat):
            return
        limited = worker.allowance.rss_bytes
        rss_bytes = self._world.rss_bytes(worker.pid) if limited else 0
        age_s = now - (worker.ready_s or now)
        why = worker.allowance.is_used_up(slot["requests"], age_s, rss_bytes)
        if why is not None:
            self._log.info("%s %s: its successor comes up", worker, why)
            self._renewals.add(
                Renewal(f"replacement of worker {seat.number}", [seat], since=self._serial)
            )

    # ---- seats

    def _vacate(self, worker: Worker) -> None:
        """The worker does not count any more: it is dead, or drains."""
        seat = worker.seat
        if seat.successor is worker:
            seat.successor = None
            self._lose_successor(seat)
        elif seat.worker is worker:
            seat.worker, seat.successor = seat.successor, None
            self._reckon(seat, worker)
            if seat.worker is None:
                self._lose_successor(seat)

    def _unseat(self, seat: Seat) -> None:
        """Retire whoever is in the seat, which is not to blame for anything."""
        workers = [worker for worker in (seat.worker, seat.successor) if worker is not None]
        seat.worker = seat.successor = None
        self._renewals.forget(seat)
        for worker in workers:
            self._happens(worker, Event.RETIRE)

    def _wake(self, seats: Sequence[Seat] | None = None) -> None:
        """Fill these seats at once, None: all; whoever rested or failed is wanted again."""
        for seat in self._seats if seats is None else seats:
            seat.rests = False
            seat.failures = 0
            seat.in_crash_loop = False
            seat.renew_s = 0.0
            seat.due_s = min(seat.due_s, self._now())

    # ---- a new configuration

    def _read_config(self) -> str | None:
        """Have the workers to come live by what is written now; return what is wrong with it."""
        if self._world.read_config is None:
            return None
        old = self._config
        try:
            read = self._world.read_config()
        except errors.FastclusterError as error:
            self._log.error("reload: the configuration cannot be used, all stays: %s", error)
            return str(error)
        self._config, changes, stays = reconfiguration.adopt(old, read)
        self._world.adopt(self._config)
        if stays:
            self._log.warning(
                "reload: %s cannot change while the server runs: start it again", ", ".join(stays)
            )
        if changes:
            self._log.info("reload: %s", "; ".join(changes))
        self._renewals.have_batch(self._config.reload_batch)
        self._looks_s = _looks_every_s(self._config)
        if old.n_workers != self._config.n_workers:
            # Who has scaled by hand keeps that, as long as nobody writes another number.
            self.scale(self._config.n_workers)
        return None

    # ---- renewals

    def _waits_for_renewal(self, seat: Seat) -> bool:
        return seat.renew_s > self._now() and self._renewals.holds(seat)

    def _renew_next(self) -> None:
        """Raise successors, as many at a time as --reload-batch says."""
        if not self._renewals or not self._ever_ready:
            return
        while True:
            free = self._free_slots()
            found = self._renewals.next(self._seats, self._now(), has_room=bool(free))
            if found is None:
                break
            _, seat = found
            seat.successor = self._raise(seat, free[0])
            if seat.successor is None:
                self._lose_successor(seat)
        for order in self._renewals.sweep():
            self._log.info("%s: done%s", order.name, _ALL_NEW if order.name == "reload" else "")
        if not self._renewals:
            self._world.announce("ready", self._summary())

    def _succeed(self, worker: Worker) -> None:
        """A worker is READY: if it is a successor, its predecessor may go."""
        seat = worker.seat
        if seat.successor not in (None, worker):
            return
        order = self._renewals.of(seat)
        if order is not None:
            order.underway.remove(seat)
        if seat.successor is None:
            return
        old, seat.worker, seat.successor = seat.worker, worker, None
        seat.failures = 0
        if order is not None and order.name == "reload":
            seat.reloads += 1
        else:
            self._count_restart(seat)
        if old is not None:
            self._happens(old, Event.RETIRE)

    def _lose_successor(self, seat: Seat) -> None:
        """A successor did not come up: its order ends, and the old worker keeps serving."""
        order = self._renewals.of(seat)
        if order is None:
            return
        if seat.worker is not None:
            seat.failures += 1
            seat.renew_s = self._now() + backoff_s(seat.failures)
        self._log.error("%s: given up, the old workers keep serving", order.name)
        self._dismiss_successors(order.fail(seat.why or "its successor did not come up"))

    def _give_up(self, error: str) -> None:
        loading, self._reloads = self._reloads, None
        if loading is not None:
            loading.fail(error)
        for seat in self._renewals.fail_all(error):
            seat.renew_s = 0.0

    def _dismiss_successors(self, seats: Sequence[Seat]) -> None:
        for seat in seats:
            successor, seat.successor = seat.successor, None
            if successor is not None:
                self._happens(successor, Event.RETIRE)

    # ---- the end

    @property
    def _is_last(self) -> bool:
        """Whether nobody listens any more when our workers have drained."""
        return self._stopping and not self._serves_on

    def _begin_to_stop(self) -> None:
        self._stopping = True
        self._stopped_s = self._now()
        self._give_up("the server stops")
        self._world.announce("stopping", "stopping")

    def _end_drains(self) -> None:
        for order, leaving in self._drains:
            if not any(worker.pid in self.workers for worker in leaving):
                order.end_if_done()
        self._drains = [drain for drain in self._drains if not drain[0].is_over]

    def _end_if_over(self) -> None:
        if self.workers or self.exit_code is not None:
            return
        if self._stopping:
            self._log.info("stopped")
            self.exit_code = self._code
        elif not (self._ever_ready or self._loads or any(seat.rests for seat in self._seats)):
            self._log.error("no worker came up: giving up")
            self.exit_code = errors.EXIT_APP

    # ---- words

    @property
    def _rests(self) -> bool:
        """Whether all workers were told to rest."""
        return not self._stopping and all(seat.rests for seat in self._seats)

    def _phase(self) -> str:
        if self._stopping:
            return "stopping"
        if self._rests:
            return "resting"
        if self._reloads or self._renewals.named("reload"):
            return "reloading"
        return "serving" if self._ever_ready else "starting"

    def _summary(self) -> str:
        ready = sum(worker.state is State.READY for worker in self.workers.values())
        where = f" on {', '.join(self._urls)}" if self._urls else ""
        return f"{ready} of {count(len(self._seats), 'worker')} ready{where}"


_ALL_NEW = ", all workers are new"


def _looks_every_s(config: Config) -> float:
    """Return how often the scoreboard is asked about the workers, 0 for never."""
    intervals = []
    if config.timeout_worker_s:
        intervals.append(heartbeat.look_every_s(config.timeout_worker_s))
    if retirement.is_limited(config):
        intervals.append(retirement.LOOK_EVERY_S)
    return min(intervals, default=0.0)


def slots_for(workers: int) -> int:
    """Return how many slots the scoreboard needs for so many workers.

    More than workers: in a reload old ones still drain while new ones come up.  Not many
    more: a slot's inbox costs a descriptor in every worker.
    """
    return workers + min(workers, SPARE_SLOTS)
