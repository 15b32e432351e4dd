"""Child processes with a channel, and the one loop that serves them all.

Whether a child is a worker of a cluster or somebody's helper is not known here: a Family
hears what its members say, waits for those that have ended, and tells both as events.
The law: of a child come spawn, message…, disconnect, exit, close, in this order, each but
`message` once.  The loop is a guest in asyncio as well.  It forks nothing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fastcluster import stdio
from fastcluster.emitter import Emitter
from fastcluster.link import Handle, Link, message_of

if TYPE_CHECKING:
    import asyncio

# What asyncio's child watchers say, too, of a child that somebody else has waited for.
LOST_EXIT_CODE = 255


class Signals(Protocol):
    """What tells of signals: forked processes have a SignalPipe."""

    def fileno(self) -> int: ...
    def read(self) -> list[int]: ...


class Poll(Protocol):
    """What the loop waits with, as select.poll does it."""

    def register(self, fd: int, events: int = ..., /) -> None: ...
    def poll(self, timeout_ms: float | None = None, /) -> list[tuple[int, int]]: ...


class Watch(NamedTuple):
    """What to wait for at one descriptor, and what to call then.

    thing: whose descriptor it is, since a number may be another's a moment later.
    """

    thing: object
    reads: bool
    writes: bool
    call: Callable[[], object]


class Peer(Emitter):
    """A process at the other end of a link; events message(message, handle) and disconnect."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link = link
        self._lost = False
        # What has arrived and was not told yet, since a listener before has raised.
        self._frames: deque[tuple[dict[str, Any], list[int]]] = deque()

    @property
    def connected(self) -> bool:
        """Tell whether the channel is open."""
        return self.link.connected

    def send(
        self,
        message: object,
        handle: Handle | None = None,
        callback: Callable[[], object] | None = None,
    ) -> bool:
        """Send a message, and a socket or a server with it.

        False: it waits, so pause; or nobody is there.  callback() is called when it was sent,
        not when it is received.  handle: the receiver has a socket of its own, one that
        accepts if it was a server; ours stays open.  Raises TypeError or ValueError if the
        message cannot be written.  (Node: subprocess.send)
        """
        return self.link.send_message(message, handle, callback)

    def disconnect(self) -> None:
        """Close the channel; both sides have the event `disconnect`.  (Node: the same name)"""
        self.link.hang_up()

    def hear(self) -> bool:
        """Take what was said; returns whether there may be more."""
        if self._lost:
            return False
        self.link.flush()
        self._frames.extend(self.link.receive())
        heard = self.left_to_tell
        while self._frames:
            self._heard(*self._frames.popleft())
        if self.link.channel.eof:
            self.lose()
        return heard

    @property
    def left_to_tell(self) -> bool:
        """Tell whether hear() has something to tell that has arrived already."""
        return bool(self._frames)

    def lose(self) -> None:
        """Close our end, and tell so; may be repeated."""
        if not self._lost:
            self._lost = True
            self.link.close()
            self.emit("disconnect")

    def _heard(self, frame: dict[str, Any], fds: list[int]) -> None:
        if "user" in frame:
            self.emit("message", *message_of(frame["user"], fds))
            return
        for fd in fds:
            os.close(fd)
        self._told(frame)

    def _told(self, frame: dict[str, Any]) -> None:
        """Take a word that is not the program's."""


class Parent(Peer):
    """The process that has forked this one: child_process.parent."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.pid = os.getppid()

    @property
    def holds(self) -> bool:
        """Tell whether this process stays because somebody listens to its parent."""
        listens = self.has_listeners("message") or self.has_listeners("disconnect")
        return listens and not self._lost


class ChildProcess(Peer):
    """A forked process; events spawn message disconnect exit close error.

    exitcode and signal_code: one is set once it is dead, the signal as a name.  stdio: our
    ends of its descriptors where they are pipes, else None.  spawn(): it runs.  exit(code,
    signal): it has ended.  close(code, signal): and its streams are read to their end.
    error(error): it could not be started.  (Node: ChildProcess)
    """

    def __init__(
        self,
        pid: int,
        link: Link,
        streams: Sequence[stdio.Stream | None] = (),
        kill_signal: int = signal.SIGTERM,
    ) -> None:
        super().__init__(link)
        self.pid = pid
        self.stdio = list(streams) + [None] * (3 - len(streams))
        self.exitcode: int | None = None
        self.signal_code: str | None = None
        self.killed = False
        # What a cluster's worker says beside messages.
        self.when_told: Callable[[dict[str, Any]], None] | None = None
        self._kill_signal = kill_signal
        self._status: int | None = None
        self._pid_fd = _pid_fd_of(pid)

    @property
    def stdin(self) -> stdio.Stream | None:
        """What the child reads from, if that is a pipe."""
        return self.stdio[0]

    @property
    def stdout(self) -> stdio.Stream | None:
        """What the child writes to, if that is a pipe."""
        return self.stdio[1]

    @property
    def stderr(self) -> stdio.Stream | None:
        """Where the child complains, if that is a pipe."""
        return self.stdio[2]

    @property
    def streams(self) -> list[stdio.Stream]:
        """Our ends of all pipes to it."""
        return [stream for stream in self.stdio if stream is not None]

    @property
    def ended(self) -> bool:
        """Tell whether it has ended and was waited for."""
        return (self.exitcode, self.signal_code) != (None, None)

    def kill(self, number: int | str | None = None) -> bool:
        """Send it a signal, by number or name; False if it is dead, which is harmless.

        None is what fork() was given as kill_signal, SIGTERM by default.  Raises ValueError
        for a name that there is not.  (Node: subprocess.kill)
        """
        if number is None:
            number = self._kill_signal
        elif isinstance(number, str):
            number = signal_number(number)
        if self.ended:
            return False
        os.kill(self.pid, number)
        self.killed = True
        return True

    def reap(self) -> bool:
        """Look whether it has ended; the last that it has said is told first.  True: it has."""
        if self._status is None:
            self._status = self._wait()
        if self._status is None:
            return False
        while self.hear():
            pass
        # A process that it has left behind may still hold its end open.
        self.lose()
        for stream in self.streams:
            stream.receive()
        code = os.waitstatus_to_exitcode(self._status)
        self.exitcode = code if code >= 0 else None
        self.signal_code = _name_of(-code) if code < 0 else None
        self._forget_pid_fd()
        return True

    def _wait(self) -> int | None:
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return LOST_EXIT_CODE << 8
        return status if pid else None

    def watches(self) -> Iterator[tuple[int, Watch]]:
        """Yield what to wait for but its end, by descriptors."""
        if not self._lost:
            yield from _watches_of(self)
        for stream in self.streams:
            if stream.wants_read or stream.wants_write:
                fd = stream.fileno()
                yield fd, Watch(stream, stream.wants_read, stream.wants_write, stream.turn)

    @property
    def pid_fd(self) -> int:
        """The descriptor that is readable once it has ended; -1 where the system has none."""
        return self._pid_fd

    def forget(self) -> None:
        """Close what is its parent's: called in another child."""
        self.link.close()
        for stream in self.streams:
            stream.close()
        self._forget_pid_fd()

    def _told(self, frame: dict[str, Any]) -> None:
        match frame:
            case {"online": _}:
                self.emit("spawn")
            case {"failed": [int(number), str(text)]}:
                self.emit("error", OSError(number, text))
        if self.when_told is not None:
            self.when_told(frame)

    def _forget_pid_fd(self) -> None:
        fd, self._pid_fd = self._pid_fd, -1
        if fd >= 0:
            os.close(fd)


class Family:
    """The children of this process and, if it is itself such a child, its parent."""

    def __init__(self) -> None:
        # What others have to do in the loop, and at a fork in the child.
        self.poller: Callable[[], Poll] = select.poll
        self.also_watched: Callable[[], dict[int, Callable[[], object]]] = dict
        self.when_forked: list[Callable[[], object]] = []
        self._begin()

    def _begin(self) -> None:
        self.members: list[ChildProcess] = []
        self.parent: Parent | None = None
        self._closing: list[ChildProcess] = []
        self._later: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, Callable[[], object]]] = []
        self._running = False
        self.driver: Driver | None = None

    # ---- who is there

    def add(self, child: ChildProcess) -> None:
        """Serve a child from now on."""
        child.link.wake = self.wake
        for stream in child.streams:
            stream.wake = self.wake
        self.members.append(child)
        self.wake()

    def adopt(self, parent: Parent) -> None:
        """Serve the talk with the parent of this process, too."""
        parent.link.wake = self.wake
        self.parent = parent

    @property
    def busy(self) -> bool:
        """Tell whether somebody is there to be served."""
        holds = self.parent is not None and self.parent.holds
        return bool(self.members or self._closing) or holds

    def close(self) -> None:
        """Close what is its parent's, and begin anew: called in a forked child."""
        for child in (*self.members, *self._closing):
            child.forget()
        if self.parent is not None:
            self.parent.link.close()
        if self.driver is not None:
            self.driver.forget()
        for forget in self.when_forked:
            forget()
        self._begin()

    # ---- what is to be done

    def later(self, action: Callable[[], object]) -> None:
        """Have the loop call action() as soon as it can, in order."""
        self._later.append(action)
        self.wake()

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        """Have the loop call action() once, delay_s seconds from now, if it runs then."""
        self._timers.append((time.monotonic() + delay_s, action))
        self.wake()

    def wake(self) -> None:
        """Say that there may be more to wait for; our own loop looks by itself."""
        if self.driver is not None:
            self.driver.wake()

    def watched(self) -> dict[int, Watch]:
        """Return what to wait for, by descriptors."""
        found: dict[int, Watch] = {}
        for fd, call in self.also_watched().items():
            found[fd] = Watch(self, True, False, call)
        if self.parent is not None and not self.parent._lost:
            found.update(_watches_of(self.parent))
        for child in (*self.members, *self._closing):
            found.update(child.watches())
            if child.pid_fd >= 0:
                found[child.pid_fd] = Watch(
                    child, True, False, functools.partial(self._reap, child)
                )
        return found

    def reap(self) -> None:
        """Wait for all that have ended, and tell it."""
        for child in list(self.members):
            self._reap(child)

    def _reap(self, child: ChildProcess) -> None:
        if child not in self.members or not child.reap():
            return
        self.members.remove(child)
        self._closing.append(child)
        child.emit("exit", child.exitcode, child.signal_code)

    def act(self) -> None:
        """Do what is due."""
        while self._later:
            self._later.popleft()()
        for child in [c for c in self.members if c.left_to_tell]:
            child.hear()
        now = time.monotonic()
        due = [action for moment, action in self._timers if moment <= now]
        self._timers = [timer for timer in self._timers if timer[0] > now]
        for action in due:
            action()
        for child in [c for c in self._closing if not any(s.wants_read for s in c.streams)]:
            self._closing.remove(child)
            child.emit("close", child.exitcode, child.signal_code)
        while self._later:
            self._later.popleft()()

    def patience_s(self) -> float | None:
        """Return how long the loop may wait, None for ever."""
        if not self._timers:
            return None
        return max(0.0, min(moment for moment, _ in self._timers) - time.monotonic())

    # ---- the loop

    def run(self, signals: Signals, signalled: Callable[[int], object]) -> None:
        """Serve until nobody is left; signalled(number) is called for what `signals` tells.

        Raises RuntimeError if a loop runs already, and whatever a listener raises.
        """
        with self._alone():
            self.reap()
            self.act()
            while self.busy:
                self._turn(signals, signalled)
                self.act()

    def _turn(self, signals: Signals, signalled: Callable[[int], object]) -> None:
        poll = self.poller()
        poll.register(signals.fileno(), select.POLLIN)
        watched = self.watched()
        for fd, watch in watched.items():
            poll.register(fd, select.POLLIN * watch.reads | select.POLLOUT * watch.writes)
        patience_s = self.patience_s()
        for fd, _ in poll.poll(None if patience_s is None else patience_s * 1000):
            if fd in watched:
                watched[fd].call()
        for number in signals.read():
            signalled(number)

    async def run_async(self, numbers: Sequence[int], signalled: Callable[[int], object]) -> None:
        """Be run() as a guest of the running asyncio loop; its other tasks go on.

        numbers: the signals that the loop is to tell signalled() of.  Cancelled, it leaves
        the loop as it was, and the children as they are.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        heard: list[int] = []
        with self._alone():
            self.driver = driver = Driver(self, loop)
            try:
                for number in numbers:
                    # Not in the main thread: then nobody has given its signals to us.
                    with contextlib.suppress(RuntimeError, ValueError):
                        loop.add_signal_handler(number, driver.guarded, signalled, number)
                        heard.append(number)
                driver.guarded(self.reap)
                await driver.done
            finally:
                self.driver = None
                driver.end()
                for number in heard:
                    loop.remove_signal_handler(number)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self._running:
            raise RuntimeError("the loop of cluster and child_process runs already")
        self._running = True
        try:
            yield
        finally:
            self._running = False


class Guest(Protocol):
    """What can be served by an asyncio loop: what a Driver asks."""

    @property
    def busy(self) -> bool: ...
    def act(self) -> None: ...
    def watched(self) -> dict[int, Watch]: ...
    def patience_s(self) -> float | None: ...


class Driver:
    """What takes the turns of a Guest in an asyncio loop.

    All that is watched is in one selector, made anew whenever that changes: so a descriptor
    that was closed, or closed and opened as another's, is never left in the loop.
    """

    def __init__(self, guest: Guest, loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[None] = loop.create_future()
        self._guest = guest
        self._loop = loop
        self._selector: selectors.BaseSelector | None = None
        self._watched: dict[int, tuple[object, bool, bool]] = {}
        self._woken: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Look soon; callable from the loop's thread, and from whatever runs there."""
        if self._woken is None and not self.done.done():
            self._woken = self._loop.call_soon(self.guarded, _do_nothing)

    def guarded(self, action: Callable[..., object], *arguments: object) -> None:
        """Do something, then all that is due; an error is that of run_async()."""
        if self._woken is not None:
            self._woken.cancel()
            self._woken = None
        if self.done.done():
            return
        try:
            action(*arguments)
            self._guest.act()
        except BaseException as error:
            self.fail(error)
            return
        if self.done.done():
            return
        if not self._guest.busy:
            self.done.set_result(None)
            return
        self._watch()
        self._set_timer()

    def fail(self, error: BaseException) -> None:
        """Have run_async() raise this."""
        if not self.done.done():
            self.done.set_exception(error)

    def end(self) -> None:
        """Leave the loop; may be repeated."""
        for handle in (self._woken, self._timer):
            if handle is not None:
                handle.cancel()
        self._unwatch()

    def forget(self) -> None:
        """Close what is the parent's: called in a forked child, whose loop is another."""
        if self._selector is not None:
            self._selector.close()

    def _watch(self) -> None:
        watched = self._guest.watched()
        wanted = {fd: (watch.thing, watch.reads, watch.writes) for fd, watch in watched.items()}
        if wanted == self._watched and self._selector is not None:
            return
        self._unwatch()
        self._watched = wanted
        self._selector = selectors.DefaultSelector()
        for fd, watch in watched.items():
            events = selectors.EVENT_READ * watch.reads | selectors.EVENT_WRITE * watch.writes
            self._selector.register(fd, events, watch.call)
        self._loop.add_reader(_number_of(self._selector), self.guarded, self._take)

    def _unwatch(self) -> None:
        selector, self._selector = self._selector, None
        if selector is not None:
            self._loop.remove_reader(_number_of(selector))
            selector.close()

    def _take(self) -> None:
        if self._selector is not None:
            for key, _ in self._selector.select(0):
                key.data()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        patience_s = self._guest.patience_s()
        if patience_s is not None:
            self._timer = self._loop.call_later(patience_s, self.guarded, _do_nothing)


class Abandoned:
    """The asyncio loop that a fork leaves running in the parent; to be closed in the child.

    Made before the fork, since a child's interpreter says that no loop runs there.
    """

    def __init__(self) -> None:
        asyncio = sys.modules.get("asyncio")
        self._loop = None if asyncio is None else asyncio._get_running_loop()
        self._task = None
        if self._loop is not None:
            assert asyncio is not None
            self._task = asyncio.current_task(self._loop)

    def close(self) -> None:
        """Be without a loop, and close its selector, which is shared with the parent.

        loop.close() would take its own descriptors out of it, for the parent as well.  A
        uvloop has made new ones in the child by itself.
        """
        asyncio = sys.modules.get("asyncio")
        if asyncio is None:
            return
        if self._task is not None:
            with contextlib.suppress(RuntimeError):
                asyncio.tasks._leave_task(self._loop, self._task)
        asyncio._set_running_loop(None)
        asyncio.set_event_loop(None)
        sys.set_asyncgen_hooks(None, None)
        for name in ("_selector", "_ssock", "_csock"):
            thing = getattr(self._loop, name, None)
            if thing is not None:
                thing.close()


def is_default(number: int) -> bool:
    """Tell whether the program has left a signal to us."""
    return signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


def signal_number(name: str) -> int:
    """Return the number of a signal.  Raises ValueError if there is none of that name."""
    try:
        return int(signal.Signals[name])
    except KeyError:
        raise ValueError(f"there is no signal {name}: write it as SIGTERM") from None


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def _watches_of(peer: Peer) -> list[tuple[int, Watch]]:
    link = peer.link
    return [(link.channel.fileno(), Watch(link, True, link.wants_write, peer.hear))]


def _pid_fd_of(pid: int) -> int:
    open_pid_fd = getattr(os, "pidfd_open", None)
    if open_pid_fd is None:
        return -1
    try:
        return int(open_pid_fd(pid))
    except OSError:
        return -1  # a kernel, or a container, that has none: SIGCHLD says it as well


def _number_of(selector: selectors.BaseSelector) -> int:
    # All that an operating system with many descriptors has: epoll, kqueue, devpoll.
    return int(selector.fileno())  # type: ignore[attr-defined]


def _do_nothing() -> None:
    """Have nothing to do but what is due."""


# That of this process.
family = Family()
