"""Node's `cluster` for Python: one program that is the primary and, forked, its workers.

    from fastcluster import cluster, http

    if cluster.is_primary:
        for _ in range(cluster.cpu_count()):
            cluster.fork()
    else:
        http.create_server(lambda request: "hello world\\n").listen(8000)
    cluster.run()

fork() runs the main program again from its top in the child, with is_worker true; what was
imported is shared.  This file is the face; the two sides are cluster_primary and
cluster_worker.  (Node: the cluster module)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from fastcluster.children import family
from fastcluster.cluster_primary import Address, PrimaryRole, Worker
from fastcluster.cluster_supervisor import ReloadCallback, Supervisor
from fastcluster.cluster_worker import OwnWorker, WorkerRole, adopt
from fastcluster.cpus import usable_cpus
from fastcluster.emitter import Emitter
from fastcluster.round_robin import Connection, sticky
from fastcluster.scheduling import Policy

__all__ = [
    "SCHED_BALANCED",
    "SCHED_NONE",
    "SCHED_RR",
    "Address",
    "Connection",
    "Worker",
    "broadcast",
    "cpu_count",
    "disconnect",
    "emit",
    "fork",
    "is_master",
    "is_primary",
    "is_worker",
    "off",
    "on",
    "once",
    "ready",
    "reload",
    "run",
    "run_async",
    "scale",
    "setup_primary",
    "sticky",
    "supervise",
    "worker",
]

SCHED_NONE = Policy.NONE
SCHED_RR = Policy.RR
SCHED_BALANCED = Policy.BALANCED

_events = Emitter()

# They change in a forked child: use them through the module, as cluster.is_worker.
is_primary = is_master = True
is_worker = False
worker: OwnWorker | None = None

on = _events.on
once = _events.once
off = _events.off
emit = _events.emit


def fork(env: Mapping[str, object] | None = None) -> Worker:
    """Fork a worker, in which the main program runs again from its top.

    env: variables that its environment has besides ours.  The events `setup` and `fork`
    come from run().  Called from an `exit` handler for a worker that died before it
    listened, with a code that is not 0, the new one waits first: 0.1 s, doubled each
    time up to 30 s.  Raises RuntimeError in a worker, while other threads run, and where
    there is no main program that could run again; OSError if there is no process left.
    (Node: cluster.fork)
    """
    return _primary("fork").fork(env)


def setup_primary(**settings: Any) -> None:
    """Change settings for workers that are forked from now on; they add up.

    args: the words in sys.argv after the program's name.  cwd: the worker's folder.
    distribute: under SCHED_RR, a function of a Connection and a list of workers that can
    take it, which returns one of them; `sticky` is one.  exec: the path of a script that
    the worker runs in a fresh interpreter, instead of this
    program in a fork.  serialization: "json", or "advanced" for whatever pickle can write,
    where both sides trust each other: unpickling runs code of the sender's choice.
    silent: the worker's output comes to worker.process.stdout and stderr.  stdio: for each
    descriptor from 0 on "inherit", "pipe", "ignore", a descriptor or a file; it wins over
    silent, and a pipe from 3 on is one for both directions.  uid, gid: the worker's, as
    numbers.  Raises TypeError or ValueError for anything else, PermissionError for another
    uid or gid where this process is not root.  (Node: cluster.setupPrimary)
    """
    _primary("setup_primary").setup(**settings)


def disconnect(callback: Callable[[], object] | None = None) -> None:
    """Have all workers serve what they have accepted and leave.

    callback() is called by run() once all are dead and all listening sockets are closed.
    (Node: cluster.disconnect)
    """
    _primary("disconnect").disconnect(callback)


def broadcast(message: object) -> bool:
    """Send a message to every worker; False if for one of them it waits or is lost.

    Raises TypeError or ValueError if the message cannot be written.  (Not in Node)
    """
    # All are told before any answer is looked at.
    taken = [member.send(message) for member in _primary("broadcast").workers.values()]
    return all(taken)


def supervise(
    workers: int | None = None,
    *,
    wait_ready: bool = False,
    ready_timeout_s: float = 30.0,
    kill_timeout_s: float = 60.0,
) -> None:
    """Keep that many workers, cpu_count() by default: fork them, and again when one ends.

    Whoever ends is replaced, for whatever reason, until disconnect(); one that did not come
    up with the delays of fork().  wait_ready: for reload() a worker is ready when it calls
    ready(), not when it listens; within ready_timeout_s seconds.  kill_timeout_s: how long
    a worker that scale() or reload() retires may take before SIGKILL.  Raises ValueError for
    numbers that are none, and what fork() raises.  (Not in Node)
    """
    count = cpu_count() if workers is None else workers
    _supervisor("supervise").supervise(count, wait_ready, ready_timeout_s, kill_timeout_s)


def scale(workers: int) -> None:
    """Have that many workers: fork what is missing, or retire those with the highest slots.

    Under supervise() it is the new number to keep.  Raises ValueError for a number below 0,
    RuntimeError during a reload, and what fork() raises.  (Not in Node)
    """
    _supervisor("scale").scale(workers)


def reload(callback: ReloadCallback | None = None) -> None:
    """Replace all workers, one at a time: the old one leaves when the new one is ready.

    A replacement has the slot of the old one and the next generation.  callback(error) is
    called by run(): None once all are replaced, or why not; then the workers that are there
    go on.  Modules that the primary has imported are not loaded anew, unless workers are
    fresh interpreters: setup_primary(exec=...).  Raises RuntimeError during a reload.
    (Not in Node)
    """
    _supervisor("reload").reload(callback)


def ready() -> None:
    """Tell the primary that this worker can serve: event `ready`; see supervise().

    Raises RuntimeError in the primary.  (Not in Node)
    """
    if worker is None:
        raise RuntimeError("cluster.ready is for a worker, and this is the primary")
    worker.ready()


def run() -> None:
    """Enter the loop that serves: until no worker is left or, in a worker, no server.

    In the primary all events come from here, and SIGTERM and SIGINT mean disconnect(),
    the second time SIGKILL for the workers, unless the program handles them itself.  A
    worker stays, too, while it listens for messages; at the end of its program it enters
    the loop by itself.
    """
    _role.run()


async def run_async() -> None:
    """Do what run() does as a guest of the running asyncio loop; its other tasks go on.

    In the primary: SIGTERM means disconnect() unless the program handles it; SIGINT is
    asyncio.run()'s, which cancels.  Cancelled, it leaves the loop as it was and the workers
    as they are, who leave when this process ends.  A worker that is forked meanwhile begins
    without any loop, so its program may enter one of its own.  In a worker it serves
    until its servers are closed, beside the program's tasks.  Raises RuntimeError if a
    loop runs already, and what listeners raise.  (Not in Node)
    """
    await _role.run_async()


def cpu_count() -> int:
    """Return how many CPUs this process may use, by its affinity and its cgroup's quota."""
    return usable_cpus()


def _become(role: WorkerRole) -> None:
    """Be a worker from now on; called in the child."""
    global _role, is_primary, is_master, is_worker, worker
    _events.forget_listeners()
    _role = role
    is_primary = is_master = False
    is_worker = True
    worker = role.worker


def _be_nobodys() -> None:
    """Be a program of its own, as every child is at first; called in the child."""
    global _role, is_primary, is_master, is_worker, worker
    _events.forget_listeners()
    if isinstance(_role, WorkerRole):
        _role.forget()
    _role = _primary_role
    is_primary = is_master = True
    is_worker = False
    worker = None


_primary_role = PrimaryRole(_events, _become)
family.when_forked.append(_be_nobodys)
_role: PrimaryRole | WorkerRole = _primary_role
_the_supervisor = Supervisor(_primary_role)

# A script that a primary has executed is a worker from here on.
_adopted = adopt(_events)
if _adopted is not None:
    _become(_adopted)


def _primary(name: str) -> PrimaryRole:
    if isinstance(_role, WorkerRole):
        raise RuntimeError(
            f"cluster.{name} is for the primary, and this is worker {_role.worker.id}"
        )
    return _role


def _supervisor(name: str) -> Supervisor:
    _primary(name)
    return _the_supervisor


def __getattr__(name: str) -> Any:
    if name == "workers":
        return _primary(name).workers
    if name == "settings":
        return _primary(name).settings
    if name == "scheduling_policy":
        return _primary(name).schedule.policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Module(ModuleType):
    """This module, in which scheduling_policy can be assigned, as in Node."""

    def __setattr__(self, name: str, value: object) -> None:
        if name != "scheduling_policy":
            super().__setattr__(name, value)
        elif isinstance(_role, PrimaryRole):
            _role.schedule.policy = value
        # A worker's program comes by the same line again, and its primary has decided.


sys.modules[__name__].__class__ = _Module
