"""The worker's side of a cluster: asks the primary to bind, serves, and leaves when told.

Law: the channel's EOF means that the primary is dead, and then this process serves what it
has accepted, for as long as its servers may take at their end, and ends, whatever it does
otherwise.  It knows the servers of its own process only, and no other worker.
"""

from __future__ import annotations

import atexit
import dataclasses
import fcntl
import functools
import json
import logging
import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastcluster import child_process, http, log, program, scheduling, sockets
from fastcluster.channel import Channel
from fastcluster.children import Driver, Watch, family
from fastcluster.config import Config
from fastcluster.emitter import Emitter
from fastcluster.errors import EXIT_OK
from fastcluster.link import Handle, Link, message_of
from fastcluster.server import Server

if TYPE_CHECKING:
    import asyncio

# How often a server that is being closed is asked whether its time is over.
_DRAIN_POLL_MS = 100
# What an orphan has for its end, beside the time for what it serves.
ORPHANS_END_S = 1.0
_HANGUP = getattr(select, "POLLRDHUP", select.POLLHUP)
# How a worker that is a fresh interpreter learns what it is: its pid, the channel's descriptor,
# and its Birth as JSON.
VARIABLE = "FASTCLUSTER_WORKER_CHANNEL"


@dataclass(frozen=True, slots=True)
class Birth:
    """What the primary decides about a worker before it is forked.

    delay_s: how long it waits at first, since a predecessor did not come up.
    """

    worker_id: int
    serialization: str
    delay_s: float = 0.0
    slot: int = 0
    generation: int = 1


class OwnProcess:
    """This process, as Node's `process` in a worker."""

    def __init__(self, role: WorkerRole) -> None:
        self.pid = os.getpid()
        self.exitcode: int | None = None
        self.signal_code: str | None = None
        self._role = role

    @property
    def connected(self) -> bool:
        """Tell whether the primary can be talked to."""
        return self._role.link.connected

    def disconnect(self) -> None:
        """Close the channel without a word; the primary sees `disconnect`."""
        self._role.drop()


class OwnWorker(Emitter):
    """The worker that this process is: `cluster.worker`, with events message and disconnect.

    exited_after_disconnect is None until the worker was told to leave, or asked for it.
    """

    def __init__(self, role: WorkerRole, birth: Birth) -> None:
        super().__init__()
        self._role = role
        self.id = birth.worker_id
        self.slot = birth.slot
        self.generation = birth.generation
        self.process = OwnProcess(role)
        self.state = "online"
        self.exited_after_disconnect: bool | None = None

    def send(
        self,
        message: object,
        handle: Handle | None = None,
        callback: Callable[[], object] | None = None,
    ) -> bool:
        """Send a message, and a socket with it, to the primary.

        False: it waits, so pause; or nobody is there.  callback() is called when it was
        sent.  Raises TypeError or ValueError if it cannot be written.  (Node: process.send)
        """
        sent = self._role.link.send_message(message, handle, callback)
        if not sent:
            self._role.wake()
        return sent

    def disconnect(self) -> OwnWorker:
        """Close all servers, then the channel; the process ends if nothing else is to do."""
        if self.exited_after_disconnect is None:
            self.exited_after_disconnect = True
            self.state = "disconnecting"
            self._role.link.say({"leaving": {"now": False}})
        return self

    def ready(self) -> None:
        """Tell the primary that this worker can serve; see cluster.ready()."""
        self._role.link.say({"ready": {}})

    def kill(self) -> None:
        """End this process with code 0, as soon as the primary knows that it is meant."""
        if not self.is_connected():
            sys.exit(EXIT_OK)
        self.exited_after_disconnect = True
        self.state = "destroying"
        self._role.link.say({"leaving": {"now": True}})

    destroy = kill

    def is_connected(self) -> bool:
        """Tell whether the channel to the primary is open."""
        return self._role.link.connected

    def is_dead(self) -> bool:
        """Return False: who can ask is alive."""
        return False


class WorkerRole:
    """What this process does as a worker; `run` is its loop."""

    def __init__(self, channel: Channel, birth: Birth, events: Emitter) -> None:
        self.birth = birth
        self.link = Link(channel, birth.serialization)
        self.worker = OwnWorker(self, birth)
        self._events = events
        self._frames: deque[tuple[dict[str, Any], list[int]]] = deque()
        self._opened: list[http.Server] = []
        self._servers: list[http.Server] = []
        self._keys: list[tuple[http.Server | None, sockets.Address, list[Any]]] = []
        self._leaving = False
        self._ended = False
        self._hung_up = False  # the primary lives and wants nothing more of us
        self._orphaned = False
        self._waits_in_server = False
        self._driver: Driver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # while run_async() runs
        self._attached: set[http.Server] = set()  # to that loop: servers of async handlers
        self.link.wake = self.wake
        self._bell, self._bell_rope = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._bell_rope, False)

    # ---- what servers ask

    def bind(
        self, where: sockets.Address, backlog: int, permissions: int | None
    ) -> tuple[socket.socket, scheduling.Seat | None]:
        """Have the primary bind; raises OSError with the errno that it got.

        The seat says how this worker shares the socket; None: it just accepts from it.
        """
        # An address of a server that is just closing may be had again.
        taken = [
            key[4]
            for server, address, key in self._keys
            if address == where and (server is None or server.listening)
        ]
        index = next(i for i in range(len(taken) + 1) if i not in taken)
        path = where.path
        if path and not path.startswith("@"):
            path = os.path.abspath(path)
        key = [where.host, where.port, path, where.fd, index, where.ipv6_only]
        self.link.say({"listen": {"key": key, "backlog": backlog, "permissions": permissions}})
        answer, fds = self._wait_for("bound")
        if not fds:
            raise OSError(answer["errno"], answer["text"])
        self._keys.append((None, where, key))
        sock = sockets.ListeningSocket(fileno=fds[0])
        sock.setblocking(False)
        return sock, scheduling.seat_of(answer, fds[1:]) if answer else None

    def opened(self, server: http.Server) -> None:
        """Take a server that has just begun to listen into the loop."""
        if server not in self._opened:  # it may have closed and listened again meanwhile
            self._opened.append(server)
        self.wake()
        if self._keys and self._keys[-1][0] is None:
            self._keys[-1] = (server, *self._keys[-1][1:])

    def _wait_for(self, word: str) -> tuple[dict[str, Any], list[int]]:
        poll = select.poll()
        while self.link.connected:
            poll.register(self.link.channel.fileno(), _wanted(self.link))
            poll.poll()
            self.link.flush()
            arrived = list(self.link.receive())
            found = [frame for frame in arrived if word in frame[0]]
            self._frames.extend(frame for frame in arrived if word not in frame[0])
            self.wake()
            if found:
                return found[0][0][word], found[0][1]
        sys.exit(EXIT_OK)

    # ---- the loop

    def run(self) -> None:
        """Serve until the servers are closed and nobody listens for messages, or told to leave.

        Raises SystemExit when the primary has died.
        """
        while not self._ended:
            self._adopt()
            self._hear_frames()
            self._forget_closed()
            if self._is_over():
                self._end()
                self._leave_if_orphan()
                return
            if self._opened or self._frames:
                continue
            if any(server.is_async for server in self._servers):
                self._run_in_loop()
                return
            alone = not (self.link.wants_write or self._leaving or family.busy)
            if len(self._servers) == 1 and alone:
                self._turn_one(self._servers[0])
            else:
                self._turn_all()

    def _run_in_loop(self) -> None:
        """Go on in an asyncio loop, which async handlers need."""
        import asyncio

        from fastcluster.guest import CLEANUP_S, new_loop, wind_up

        if asyncio._get_running_loop() is not None:
            raise RuntimeError("an asyncio loop runs here: await cluster.run_async() instead")
        logger = logging.getLogger(log.NAME)
        name = next(server.config.loop for server in self._servers if server.is_async)
        loop = new_loop(name, logger)
        try:
            loop.run_until_complete(self.run_async())
        finally:
            wind_up(loop, logger, CLEANUP_S)

    async def run_async(self) -> None:
        """Be run() as a guest of the running asyncio loop; see cluster.run_async()."""
        # asyncio takes megabytes, which workers without it save.
        import asyncio

        if self._driver is not None:
            raise RuntimeError("cluster.run_async() runs already")
        loop = self._loop = asyncio.get_running_loop()
        self._driver = family.driver = driver = Driver(self, loop)
        try:
            driver.guarded(self._attach)
            await driver.done
        finally:
            for server in list(self._attached):
                self._detach(server)
            self._driver = family.driver = self._loop = None
            driver.end()
        if not self._ended:
            self._end()
        self._leave_if_orphan()

    def _leave_if_orphan(self) -> None:
        # The rest of the program is for a worker, and there is no cluster any more.
        if self._orphaned:
            sys.exit(EXIT_OK)

    @property
    def busy(self) -> bool:
        """Tell whether there is something to serve; for run_async()."""
        return not (self._ended or self._is_over())

    def act(self) -> None:
        """Do what is due; for run_async()."""
        while self._opened or self._frames:
            self._adopt()
            self._hear_frames()
            self._attach()
        self._forget_closed()
        family.act()

    def _attach(self) -> None:
        """Let the asyncio loop serve the servers of async handlers by itself."""
        for server in self._servers:
            if server.is_async and server not in self._attached and self._loop is not None:
                server.attach(self._loop)
                self._attached.add(server)
                self._loop.add_reader(server.turns.fileno(), self._turn_attached, server)
                self._turn_attached(server)

    def _turn_attached(self, server: http.Server) -> None:
        try:
            server.turns.turn(0)
        except BaseException as error:
            if self._driver is None:
                raise
            self._driver.fail(error)
            return
        if self._loop is not None:
            # Comes after the tasks that this turn has woken.
            self._loop.call_soon(_rest, server)
        if self._opened or self._frames or not server.listening:
            self.wake()

    def _detach(self, server: http.Server) -> None:
        if self._loop is not None and server in self._attached:
            self._loop.remove_reader(server.turns.fileno())
        self._attached.discard(server)

    def patience_s(self) -> float | None:
        """Return how long run_async() may wait, None for ever."""
        closing = any(not server.listening for server in self._servers)
        patience_s = family.patience_s()
        if not closing:
            return patience_s
        return min(_DRAIN_POLL_MS / 1000, _DRAIN_POLL_MS if patience_s is None else patience_s)

    def watched(self) -> dict[int, Watch]:
        """Return what to wait for, by descriptors."""
        found = family.watched()
        if self.link.connected:
            writes = self.link.wants_write
            found[self.link.channel.fileno()] = Watch(self.link, True, writes, self._listen)
        for server in self._servers:
            if server in self._attached:
                continue
            turns = server.turns
            found[turns.fileno()] = Watch(turns, True, False, functools.partial(_turn, turns))
        return found

    def _listen(self) -> None:
        self.link.flush()
        self._receive()

    def _adopt(self) -> None:
        opened, self._opened = self._opened, []
        for server in opened:
            if not server.listening:
                self._left(server)
                continue
            if self._leaving:
                server.close()
                self._left(server)
                continue
            server.be_driven()
            self._servers.append(server)
            self.worker.state = "listening"
            self.link.say({"listening": _described(server)})

    def _is_over(self) -> bool:
        if self._leaving and self._servers:
            return False
        if any(server.holds_worker for server in (*self._servers, *self._opened)):
            return False
        if family.busy and not self._leaving:
            return False
        waits = self.worker.has_listeners("message") or self._events.has_listeners("message")
        asked = self.worker.exited_after_disconnect is not None
        return self._leaving or not (waits or asked) or not self.link.connected

    def _turn_one(self, server: http.Server) -> None:
        """Let the one server wait for us, too, so that a request costs no Python here."""
        loop = server.turns
        fd = self.link.channel.fileno()
        loop.watch(fd, self._receive)
        loop.watch(self._bell, self._silence)
        self._waits_in_server = True
        try:
            loop.run(-1 if server.listening else _DRAIN_POLL_MS)
        finally:
            self._waits_in_server = False
            loop.unwatch(self._bell)
            loop.unwatch(fd)

    def wake(self) -> None:
        """Come back from the one server's loop: a handler has left us something to do."""
        if self._driver is not None:
            self._driver.wake()
        if self._waits_in_server:
            self._waits_in_server = False
            os.write(self._bell_rope, b"!")

    def _silence(self) -> None:
        os.read(self._bell, 1)

    def _turn_all(self) -> None:
        for server in self._servers:
            _turn(server.turns)
        poll = select.poll()
        watched = self.watched()
        for fd, watch in watched.items():
            poll.register(fd, select.POLLIN * watch.reads | select.POLLOUT * watch.writes)
        for fd, _ in poll.poll(_DRAIN_POLL_MS if self._servers or family.busy else None):
            watched[fd].call()
        family.act()

    def _forget_closed(self) -> None:
        for server in [server for server in self._servers if server.is_over()]:
            self._servers.remove(server)
            self._detach(server)
            server.shut()
            self._left(server)
        for entry in [e for e in self._keys if e[0] is not None and not e[0].holds_socket]:
            self._keys.remove(entry)
            if all(key != entry[2] for _, _, key in self._keys):
                self.link.say({"close": {"key": entry[2]}})

    def _left(self, server: http.Server) -> None:
        """Give the seat of a server back once nothing reads its inbox any more."""
        seat, server.seat = server.seat, None
        if seat is not None:
            seat.close()
            self.link.say({"left": {"group": seat.group, "seat": seat.index}})

    def _meet(self, fds: list[int], group: int, seats: list[int]) -> None:
        # One that is being closed may still serve beside its successor at the same address.
        for server in (*self._servers, *self._opened):
            if server.seat is not None and server.seat.group == group and server.has_turns:
                scheduling.meet(server.turns, seats, [os.dup(fd) for fd in fds])
        for fd in fds:
            os.close(fd)

    # ---- what the primary says

    def _receive(self) -> None:
        self._frames.extend(self.link.receive())
        if not self.link.channel.eof or self._ended or self._orphaned:
            return
        self._hear_frames()
        if self._hung_up or not self._serves:
            self._ended = True
            self.link.close()
            self._tell_disconnected()
            sys.exit(EXIT_OK)
        self._be_orphan()

    @property
    def _serves(self) -> bool:
        return any(server.listening or not server.is_over() for server in self._servers)

    def _be_orphan(self) -> None:
        """Serve what was accepted, since the primary has died, and leave."""
        self._orphaned = True
        child_process.leave_within(self._grace_s())
        self.link.close()
        self._tell_disconnected()
        self._leaving = True
        for server in self._servers:
            server.drain(last=True)

    def _grace_s(self) -> float:
        """Return how long an orphan may take, in seconds, a moment for its end included."""
        servers = (*self._servers, *self._opened)
        each = [server.config.timeout_graceful_s for server in servers]
        return max(each, default=Config().timeout_graceful_s) + ORPHANS_END_S

    def watch_primary(self) -> None:
        """Have the kernel tell by a signal when the primary dies, also a worker that is busy.

        Python code is interrupted by it anywhere; from then on a thread of faulthandler's
        watches over the end, which needs nothing of Python.
        """
        signal.signal(signal.SIGIO, self._something_at_channel)
        # It comes with every message as well, and calls of other people's go on then.
        signal.siginterrupt(signal.SIGIO, False)
        fd = self.link.channel.fileno()
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
        self._something_at_channel()  # it may have died before

    def _something_at_channel(self, number: int = 0, frame: object = None) -> None:
        if not self._ended and not self._orphaned and self.link.connected:
            poll = select.poll()
            poll.register(self.link.channel.fileno(), _HANGUP)
            if poll.poll(0):
                child_process.leave_within(self._grace_s())

    def _hear_frames(self) -> None:
        while self._frames:
            frame, fds = self._frames.popleft()
            if "user" in frame:
                message, handle = message_of(frame["user"], fds)
                self.worker.emit("message", message, handle)
                self._events.emit("message", self.worker, message, handle)
                continue
            if "peers" in frame:
                self._meet(fds, **frame["peers"])
                continue
            for fd in fds:
                os.close(fd)
            if "hung_up" in frame:
                self._hung_up = True
            if "disconnect" in frame:
                self._leave(**frame["disconnect"])

    def _leave(self, now: bool, last: bool) -> None:
        self.worker.exited_after_disconnect = True
        if now:
            self._end()
            sys.exit(EXIT_OK)
        self._leaving = True
        self.worker.state = "disconnecting"
        for server in self._servers:
            server.drain(last)

    def forget(self) -> None:
        """Close what is the worker's: called in a process that it has forked."""
        self.link.close()
        os.close(self._bell)
        os.close(self._bell_rope)
        http.drive_by(None)

    def drop(self) -> None:
        """Close the channel without a word."""
        self._hung_up = True
        self.link.hang_up()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._orphaned:
            return
        self.link.flush_within(child_process.LAST_WORDS_S)
        self.link.close()
        self._tell_disconnected()

    def _tell_disconnected(self) -> None:
        self.worker.state = "disconnected"
        self.worker.emit("disconnect")
        self._events.emit("disconnect", self.worker)


def _turn(loop: Server) -> None:
    loop.turn(0)
    loop.rest()


def _rest(server: http.Server) -> None:
    if server.has_turns:
        server.turns.rest()


def live(
    role: WorkerRole, env: Mapping[str, object], cwd: str | None, args: list[str] | None
) -> int:
    """Run the main program of this forked process again as a worker; returns its exit code."""
    child_process.accept_signals()
    os.environ.update({name: str(value) for name, value in env.items()})
    if cwd is not None:
        os.chdir(cwd)
    if args is not None:
        sys.argv[1:] = args
    if not _begin(role):
        return 0
    try:
        program.run_again()
        role.run()
    finally:
        # The program may have left by sys.exit(), or by an error.
        role.link.flush_within(child_process.LAST_WORDS_S)
    return 0


def _begin(role: WorkerRole) -> bool:
    """Come online; False if the primary died before that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; the primary tells us
    role.watch_primary()
    delay_s = role.birth.delay_s
    if delay_s > 0 and not _wait(role.link, delay_s):
        return False
    role.link.say({"online": {}})
    http.drive_by(role)
    return True


# ---- a worker in a fresh interpreter


def execute(
    channel: Channel, birth: Birth, env: Mapping[str, object], settings: Mapping[str, Any]
) -> int:
    """Become a fresh interpreter that runs the script settings["exec"]; see adopt().

    Returns an exit code if that cannot be, such as for a folder that is not there.
    """
    told = [os.getpid(), channel.fileno(), dataclasses.asdict(birth)]
    texts = {name: str(value) for name, value in env.items()}
    return child_process.execute(
        channel,
        [str(settings["exec"]), *settings["args"]],
        {**os.environ, **texts, VARIABLE: json.dumps(told)},
        cwd=settings["cwd"],
    )


def adopt(events: Emitter) -> WorkerRole | None:
    """Return what this process is as a worker that was executed by a primary, if it is one.

    The variable that says so is taken away, and it names our pid, so that a program that a
    worker starts is never taken for one.
    """
    found = child_process.adopted(VARIABLE)
    if found is None:
        return None
    channel, words = found
    role = WorkerRole(channel, Birth(**words), events)
    if not _begin(role):
        sys.exit(EXIT_OK)
    atexit.register(role.link.flush_within, child_process.LAST_WORDS_S)
    return role


def _wait(link: Link, delay_s: float) -> bool:
    """Sleep; False as soon as the primary is dead."""
    poll = select.poll()
    # Only the end of the channel wakes us: what is said meanwhile is heard later.
    poll.register(link.channel.fileno(), _HANGUP)
    return not poll.poll(delay_s * 1000)


def _wanted(link: Link) -> int:
    return select.POLLIN | (select.POLLOUT if link.wants_write else 0)


def _described(server: http.Server) -> dict[str, Any]:
    where = server.address()
    kind = -1 if where.path else 6 if ":" in where.host else 4
    return {
        "address": where.path or where.host,
        "port": -1 if where.path else where.port,
        "address_type": kind,
        "fd": server.fd,
    }
