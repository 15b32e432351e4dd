"""The primary's side of a cluster: forks workers, binds for them, and tells what happens.

It stands on children.py, whose loop tells of every worker's process.  The law: a worker's
`disconnect` is emitted before its `exit`, each once, on the worker first and then on the
cluster; it is in `workers` until just before `exit`.  It serves no request.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fastcluster import child_process, http, program, sockets, stdio
from fastcluster.channel import Channel
from fastcluster.child_process import Closable
from fastcluster.children import ChildProcess, family, is_default
from fastcluster.cluster_worker import Birth, WorkerRole, execute, live
from fastcluster.emitter import Emitter
from fastcluster.errors import BindError
from fastcluster.link import SERIALIZATIONS, Handle, Link
from fastcluster.scheduling import Group, Policy, Schedule

# A worker that is forked after others died before they listened waits first.
BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 30.0

DEFAULTS: dict[str, Any] = {
    "args": None,
    "cwd": None,
    "distribute": None,
    "exec": None,
    "gid": None,
    "serialization": "json",
    "silent": False,
    "stdio": None,
    "uid": None,
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a worker listens; address_type is 4, 6, or -1 for a unix socket's path."""

    address: str
    port: int
    address_type: int
    fd: int | None


# The process of a worker, as Node calls it there.
Process = ChildProcess


class Worker(Emitter):
    """A worker as the primary sees it; events online listening message disconnect exit.

    state: none, online, listening, disconnected, dead.  exited_after_disconnect is None
    while it runs, then whether it left because it was asked to or wanted to.  slot: the
    lowest number from 0 on that no other worker has.  generation: 1, and one more after
    each reload.
    """

    def __init__(
        self, worker_id: int = 0, process: Process | None = None, state: str = "none"
    ) -> None:
        super().__init__()
        self.id = worker_id
        self.slot = 0
        self.generation = 1
        self.process = process
        self.state = state
        self.exited_after_disconnect: bool | None = None
        self.listened = False
        self._link: Link | None = None

    def send(
        self,
        message: object,
        handle: Handle | None = None,
        callback: Callable[[], object] | None = None,
    ) -> bool:
        """Send a message, and a socket or a server with it, to the worker.

        False: it waits, so pause; or the worker is not connected.  callback() is called
        when it was sent, not when it is received.  Raises TypeError or ValueError if the
        message cannot be written.  (Node: worker.send)
        """
        return self._link is not None and self._link.send_message(message, handle, callback)

    def disconnect(self) -> Worker:
        """Have the worker close its servers, serve what it has accepted, and leave."""
        return self.leave(last=False)

    def leave(self, *, last: bool, now: bool = False) -> Worker:
        """Tell the worker to leave; last: all others do, too; now: without serving."""
        if self.is_connected() and self._link is not None:
            self.exited_after_disconnect = True
            self._link.say({"disconnect": {"now": now, "last": last}})
        return self

    def kill(self, number: int = signal.SIGTERM) -> bool:
        """Send the worker's process a signal; False if it is dead."""
        return self.process is not None and self.process.kill(number)

    destroy = kill

    def is_connected(self) -> bool:
        """Tell whether the channel to the worker is open."""
        return self._link is not None and self._link.connected

    def is_dead(self) -> bool:
        """Tell whether the process has ended and was waited for."""
        return self.process is not None and self.process.ended


class _Shared:
    """A listening socket, the ids of the workers that have it, and their seats."""

    def __init__(self, sock: sockets.ListeningSocket, group: Group | None) -> None:
        self.sock = sock
        self.group = group
        self.users: set[int] = set()


class PrimaryRole:
    """What this process does as a primary; `run` is its loop."""

    def __init__(self, events: Emitter, become: Callable[[WorkerRole], None]) -> None:
        self.events = events
        self.workers: dict[int, Worker] = {}
        self.schedule = Schedule()
        self._become = become
        self._links: dict[int, Link] = {}
        self._shared: dict[tuple[Any, ...], _Shared] = {}
        self._settings: dict[str, Any] = {}
        self._when_gone: list[Callable[[], object]] = []
        self._last_id = 0
        self._failures = 0
        self._replacing_failed = False
        self._ending = False
        self._stops: set[signal.Signals] = set()
        self.generation = 1
        # What keeps the number of workers, if somebody does.
        self.after_exit: Callable[[Worker], None] | None = None
        self.when_disconnecting: Callable[[], None] | None = None
        family.when_forked.append(self._forked)
        family.poller, family.also_watched = self.schedule.poller, self.schedule.watched

    # ---- what the program asks

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return a view of what setup() has set; empty before its first call."""
        return MappingProxyType(self._settings)

    def setup(self, **settings: Any) -> None:
        """Change settings for workers that are forked later; see cluster.setup_primary()."""
        _check(settings)
        if settings.get("distribute") is not None and self.schedule.policy is not Policy.RR:
            raise ValueError(
                "distribute is for the policy in which the primary accepts: set "
                "cluster.scheduling_policy = cluster.SCHED_RR first"
            )
        self.schedule.freeze()
        defaults = {**DEFAULTS, "args": sys.argv[1:]}
        self._settings = {**defaults, **self._settings, **settings}
        # Those of this call, since others may follow before the loop tells of it.
        told = self.settings
        family.later(lambda: self.events.emit("setup", told))

    def fork(self, env: Mapping[str, object] | None, slot: int | None = None) -> Worker:
        """Fork a worker; see cluster.fork().  slot: that of the one whose place it takes."""
        self.setup()
        settings = dict(self._settings)
        if settings["exec"] is None:
            program.require_one()
        if slot is None:
            taken = {worker.slot for worker in self.workers.values()}
            slot = next(number for number in itertools.count() if number not in taken)
        birth = Birth(
            self._last_id + 1, settings["serialization"], self._delay_s(), slot, self.generation
        )
        process = child_process.start(
            lambda channel: self._be_worker(channel, birth, settings, env or {}),
            stdio=stdio.places_of(settings["stdio"], settings["silent"]),
            uid=settings["uid"],
            gid=settings["gid"],
            serialization=birth.serialization,
        )
        self._last_id = birth.worker_id
        worker = Worker(birth.worker_id, process)
        worker.slot, worker.generation = birth.slot, birth.generation
        self.take_in(worker, process)
        family.later(lambda: self.events.emit("fork", worker))
        return worker

    def take_in(self, worker: Worker, process: Process) -> None:
        """Have a worker, and hear what its process tells."""
        worker._link = process.link
        self.workers[worker.id] = worker
        self._links[worker.id] = process.link
        process.when_told = lambda frame: self._heard(worker, frame)
        process.on("message", functools.partial(self._tell, worker, "message"))
        process.on("disconnect", lambda: self._disconnected(worker))
        process.on("exit", lambda code, name: self._exited(worker))

    def _forked(self) -> None:
        """Be in a forked child: forget the workers, and close what is the parent's."""
        for thing in self._not_for_workers():
            thing.close()
        self.workers.clear()
        self._links.clear()
        self._shared.clear()

    def _not_for_workers(self) -> list[Closable]:
        mine: list[Closable] = [shared.sock for shared in self._shared.values()]
        mine.append(self.schedule)
        return mine

    def _be_worker(
        self, channel: Channel, birth: Birth, settings: dict[str, Any], env: Mapping[str, object]
    ) -> int:
        """Be the forked child; returns its exit code."""
        if settings["exec"] is not None:
            return execute(channel, birth, env, settings)
        role = WorkerRole(channel, birth, self.events)
        self._become(role)
        return live(role, env, settings["cwd"], list(settings["args"]))

    def disconnect(self, callback: Callable[[], object] | None) -> None:
        """Have all workers leave; see cluster.disconnect()."""
        if callback is not None:
            self._when_gone.append(callback)
        if self.when_disconnecting is not None:
            self.when_disconnecting()
        for worker in list(self.workers.values()):
            worker.leave(last=True)
        family.later(self._tell_gone)

    def _delay_s(self) -> float:
        if not self._replacing_failed:
            return 0.0
        return min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2.0 ** min(self._failures - 1, 16))

    # ---- the loop

    def run(self) -> None:
        """Tell what happens until no worker is left; see cluster.run()."""
        self._ending = False
        with child_process.signal_pipe([signal.SIGCHLD, *self._stop_signals()]) as pipe:
            family.run(pipe, self._signalled)

    async def run_async(self) -> None:
        """Be run() as a guest of the running asyncio loop; see cluster.run_async()."""
        self._ending = False
        numbers, _ = child_process.without_pid_fds()
        await family.run_async([*numbers, *self._stop_signals()], self._signalled)

    def _stop_signals(self) -> set[signal.Signals]:
        self._stops = {n for n in (signal.SIGTERM, signal.SIGINT) if is_default(n)}
        return self._stops

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        """Have the loop call action() once, delay_s seconds from now, if it runs then."""
        family.after(delay_s, action)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD:
            family.reap()
        elif number not in self._stops:
            return  # the pipe also hears what the program handles itself
        elif self._ending:
            for child in family.members:
                child.kill(signal.SIGKILL)
        else:
            self._ending = True
            self.disconnect(None)
            # Others than workers end when nobody talks to them any more.
            workers = [worker.process for worker in self.workers.values()]
            for child in family.members:
                if child not in workers:
                    child.disconnect()

    def _heard(self, worker: Worker, frame: dict[str, Any]) -> None:
        match frame:
            case {"online": _} if worker.state == "none":
                worker.state = "online"
                self._tell(worker, "online")
            case {"listen": question}:
                self._asked_to_listen(worker, question)
            case {
                "listening": {
                    "address": str(address),
                    "port": int(port),
                    "address_type": int(kind),
                    "fd": (None | int()) as its_fd,
                }
            }:
                worker.state = "listening"
                worker.listened = True
                self._failures = 0
                self._tell(worker, "listening", Address(address, port, kind, its_fd))
            case {"ready": _}:
                self._tell(worker, "ready")
            case {"close": {"key": key}} if _is_key(key):
                self._release(worker.id, tuple(key))
            case {"left": {"group": int(group), "seat": int(seat)}}:
                self.schedule.leave(group, worker, seat)
            case {"leaving": {"now": bool(now)}}:
                worker.leave(last=False, now=now)

    def _tell(self, worker: Worker, event: str, *arguments: object) -> None:
        worker.emit(event, *arguments)
        self.events.emit(event, worker, *arguments)

    # ---- listening

    def _asked_to_listen(self, worker: Worker, question: object) -> None:
        match question:
            case {
                "key": key,
                "backlog": int(backlog),
                "permissions": (None | int()) as permissions,
            } if _is_key(key):
                self._bind(worker, key, backlog, permissions)
            case _:
                # It waits for an answer, whatever it has asked.
                self._refuse(worker, errno.EINVAL, "this is no address to listen on")

    def _refuse(self, worker: Worker, number: int, text: str) -> None:
        self._links[worker.id].say({"bound": {"errno": number, "text": text}})

    def _bind(self, worker: Worker, key: list[Any], backlog: int, permissions: int | None) -> None:
        try:
            shared = self._shared.get(tuple(key)) or self._open(key, backlog, permissions)
            words, fds = shared.group.join(worker, self._say) if shared.group else ({}, [])
        except (OSError, BindError, OverflowError, ValueError) as error:
            # A BindError has a sentence and no number, as for a descriptor that does not
            # listen; a port above 65535 and a path with a zero byte have errors of Python's.
            number = getattr(error, "errno", None) or errno.EINVAL
            self._refuse(worker, number, getattr(error, "strerror", None) or str(error))
            opened = self._shared.get(tuple(key))
            if opened is not None and not opened.users:
                self._release(worker.id, tuple(key))
            return
        shared.users.add(worker.id)
        self._links[worker.id].say({"bound": words}, [shared.sock.fileno(), *fds])
        if shared.group is not None:
            shared.group.introduce(worker, self._say)
            family.wake()  # there may be more to wait for

    def _say(self, worker: Worker, frame: dict[str, Any], fds: list[int]) -> None:
        link = self._links.get(worker.id)
        if link is not None:
            link.say(frame, fds)

    def _open(self, key: list[Any], backlog: int, permissions: int | None) -> _Shared:
        where = sockets.Address(key[0], key[1], _shortest(key[2]), key[3], ipv6_only=key[5])
        sock = http.bind_address(where, backlog, permissions)
        try:
            group = self.schedule.open(sock, self._settings.get("distribute"))
        except OSError:
            sock.close()
            raise
        shared = self._shared[tuple(key)] = _Shared(sock, group)
        return shared

    def _release(self, worker_id: int, key: tuple[Any, ...]) -> None:
        shared = self._shared.get(key)
        if shared is None:
            return
        shared.users.discard(worker_id)
        if not shared.users:
            del self._shared[key]
            if shared.group is not None:
                self.schedule.stop(shared.group)
            shared.sock.close()

    # ---- ends

    def _disconnected(self, worker: Worker) -> None:
        self._links.pop(worker.id, None)
        for key in list(self._shared):
            self._release(worker.id, key)
        worker.state = "disconnected"
        worker.exited_after_disconnect = bool(worker.exited_after_disconnect)
        self._tell(worker, "disconnect")

    def _exited(self, worker: Worker) -> None:
        assert worker.process is not None
        # Not before: as long as it lives it may count on the board.
        self.schedule.leave_all(worker)
        family.wake()
        ended = worker.process
        never_came_up = (
            ended.exitcode != 0 and not worker.exited_after_disconnect and not worker.listened
        )
        self._failures = self._failures + 1 if never_came_up else 0
        worker.state = "dead"
        del self.workers[worker.id]
        self._replacing_failed = never_came_up
        try:
            self._tell(worker, "exit", ended.exitcode, ended.signal_code)
            if self.after_exit is not None:
                self.after_exit(worker)
        finally:
            self._replacing_failed = False
        self._tell_gone()

    def _tell_gone(self) -> None:
        if self.workers:
            return
        callbacks, self._when_gone = self._when_gone, []
        for callback in callbacks:
            callback()


def _check(settings: dict[str, Any]) -> None:
    """Raise TypeError, ValueError or PermissionError for what fork() could not do."""
    unknown = sorted(set(settings) - set(DEFAULTS))
    if unknown:
        raise TypeError(f"no setting {', '.join(unknown)}: there are {', '.join(DEFAULTS)}")
    if settings.get("serialization", "json") not in SERIALIZATIONS:
        raise ValueError(f"serialization is one of {', '.join(SERIALIZATIONS)}")
    if settings.get("distribute") is not None and not callable(settings["distribute"]):
        raise TypeError(f"distribute is a function, not {settings['distribute']!r}")
    if settings.get("stdio") is not None:
        stdio.check(settings["stdio"])
    child_process.check_identity(settings.get("uid"), settings.get("gid"))


# Host, port, path, descriptor, which one of that address in a worker, and IPv6 only.
_KEY = (str | None, int, str, int, int, bool)


def _is_key(thing: object) -> bool:
    """Tell whether a worker has named an address; it may be in somebody else's hands."""
    return (
        isinstance(thing, list)
        and len(thing) == len(_KEY)
        and all(isinstance(value, kind) for value, kind in zip(thing, _KEY, strict=True))
    )


def _shortest(path: str) -> str:
    """Return the shorter form of a path, since the kernel takes about a hundred bytes."""
    if not path or path.startswith("@"):
        return path
    return min(path, os.path.relpath(path), key=len)
