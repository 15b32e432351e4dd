"""Keeping the number of workers, and replacing them all without a gap.

The law: nobody is retired before whoever takes its place is ready, and a replacement that
does not come up changes nothing.  It uses the primary's side as a program would; it binds,
forks and reaps nothing itself.
"""

from __future__ import annotations

import logging
import signal
from collections import deque
from collections.abc import Callable

from fastcluster.cluster_primary import PrimaryRole, Worker

ReloadCallback = Callable[[Exception | None], object]


class Supervisor:
    """What keeps `target` workers of a primary alive; None as target keeps nothing."""

    def __init__(self, role: PrimaryRole) -> None:
        self.role = role
        self.target: int | None = None
        self.wait_ready = False
        self.ready_timeout_s = 30.0
        self.kill_timeout_s = 60.0
        self._reload: _Reload | None = None
        role.after_exit = self._exited
        role.when_disconnecting = self._disconnecting

    def supervise(
        self, workers: int, wait_ready: bool, ready_timeout_s: float, kill_timeout_s: float
    ) -> None:
        """Keep that many workers from now on; see cluster.supervise()."""
        if ready_timeout_s <= 0 or kill_timeout_s <= 0:
            raise ValueError("ready_timeout_s and kill_timeout_s are seconds above 0")
        self._require_calm("supervise")
        self.target = _checked(workers)
        self.wait_ready = wait_ready
        self.ready_timeout_s, self.kill_timeout_s = ready_timeout_s, kill_timeout_s
        self._have(workers)

    def scale(self, workers: int) -> None:
        """Have that many workers; see cluster.scale()."""
        _checked(workers)
        self._require_calm("scale")
        if self.target is not None:
            self.target = workers
        self._have(workers)

    def reload(self, callback: ReloadCallback | None) -> None:
        """Replace all workers, one by one; see cluster.reload()."""
        self._require_calm("reload")
        self.role.generation += 1
        self._reload = _Reload(self, callback)
        self._reload.go_on()

    def staying(self) -> list[Worker]:
        """Return the workers that nobody has asked to leave, by their slots."""
        living = self.role.workers.values()
        return sorted((w for w in living if not w.exited_after_disconnect), key=lambda w: w.slot)

    def retire(self, worker: Worker) -> None:
        """Have a worker serve what it has accepted and leave, by SIGKILL if it must be."""
        worker.disconnect()
        self.role.after(self.kill_timeout_s, lambda: worker.kill(signal.SIGKILL))

    def over(self) -> None:
        """Forget the reload that has just ended."""
        self._reload = None

    def _have(self, workers: int) -> None:
        staying = self.staying()
        for worker in staying[workers:]:
            self.retire(worker)
        for _ in range(len(staying), workers):
            self.role.fork(None)

    def _require_calm(self, name: str) -> None:
        if self._reload is not None:
            raise RuntimeError(f"cluster.{name} while a reload is under way: wait for its callback")

    def _exited(self, worker: Worker) -> None:
        if self._reload is not None:
            self._reload.exited(worker)
        if self.target is not None:
            for _ in range(len(self.staying()), self.target):
                self.role.fork(None)

    def _disconnecting(self) -> None:
        self.target = None
        if self._reload is not None:
            self._reload.fail("all workers were told to leave")


class _Reload:
    """One replacement of all workers."""

    def __init__(self, supervisor: Supervisor, callback: ReloadCallback | None) -> None:
        self._supervisor = supervisor
        self._callback = callback
        self._old = deque(supervisor.staying())
        self._new: Worker | None = None

    def go_on(self) -> None:
        """Raise the next replacement, or be done."""
        while self._old and self._old[0].id not in self._supervisor.role.workers:
            self._old.popleft()
        if not self._old:
            self._end(None)
            return
        role = self._supervisor.role
        try:
            new = self._new = role.fork(None, self._old[0].slot)
        except (OSError, RuntimeError) as error:
            self.fail(str(error))
            return
        new.once("ready", lambda: self._ready(new))
        if not self._supervisor.wait_ready:
            new.once("listening", lambda address: self._ready(new))
        timeout_s = self._supervisor.ready_timeout_s
        role.after(timeout_s, lambda: self._too_late(new, timeout_s))

    def exited(self, worker: Worker) -> None:
        """Take notice of a death: if it is the replacement's, the reload has failed."""
        if worker is self._new and worker.process is not None:
            how = worker.process.signal_code or f"code {worker.process.exitcode}"
            self.fail(f"worker {worker.id} ended with {how} before it was ready")

    def fail(self, why: str) -> None:
        """Leave everything as it is."""
        self._end(RuntimeError(f"the reload has failed: {why}"))

    def _ready(self, new: Worker) -> None:
        if new is not self._new:
            return
        self._new = None
        old = self._old.popleft()
        if old.id in self._supervisor.role.workers:
            self._supervisor.retire(old)
        self.go_on()

    def _too_late(self, new: Worker, timeout_s: float) -> None:
        if new is self._new:
            self.fail(f"worker {new.id} was not ready within {timeout_s:g} s")
            new.kill(signal.SIGKILL)

    def _end(self, error: RuntimeError | None) -> None:
        self._new = None
        self._supervisor.over()
        if self._callback is not None:
            self._callback(error)
        elif error is not None:
            logging.getLogger("fastcluster").error("%s; the old workers go on", error)


def _checked(workers: int) -> int:
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise ValueError(f"workers is a number from 0 on, not {workers!r}")
    return workers
