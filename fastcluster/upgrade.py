"""The change from one primary to the next: what is handed down, and who may go when.

The old primary starts the new one by its own command line, taken afresh, and hands it the
listening sockets over a channel.  The law: until the new one has said that its workers are
ready the old one gives nothing away, and so can go on as if nothing had been; from then on
the new one owns all that it took.  It decides nothing about workers: primary.py does.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from logging import Logger
from typing import Any

from fastcluster import child_process, config
from fastcluster.channel import Channel
from fastcluster.child_process import Child
from fastcluster.errors import EXIT_UNEXPECTED
from fastcluster.renewal import Renewal
from fastcluster.sockets import ListeningSocket

# What a new interpreter may take to start, beside the workers' own time to start up.
EXEC_S = 10.0
# The old primary hands its sockets down before it does anything else.
RECEIVE_S = 10.0
LAST_WORDS_S = 2.0
# A script's first lines, which say what runs it.
_HEAD_BYTES = 1024
# The name of the control socket among what is handed down; no address is called so.
CONTROL = "control"


class CannotUpgrade(Exception):
    """An upgrade that is not begun; says why, in words for who asked."""


# ---- the command line


@dataclass(frozen=True, slots=True)
class Command:
    """How this process was started, so that it can be started again.

    folder: the current one under the name that the shell has for it, so that a link in it
    which is moved counts.
    """

    words: tuple[str, ...]
    folder: str

    def start(self, channel: Channel) -> int:
        """Become the new primary, in a forked child; returns only if that cannot be."""
        try:
            os.chdir(self.folder)
            os.set_inheritable(channel.fileno(), True)
            environ = config.environ_of_heir(os.getppid(), channel.fileno())
            child_process.accept_signals()
            os.execve(self.words[0], self.words, environ)
        except OSError as error:
            where = error.filename or self.words[0]
            channel.send({"failed": f"cannot start {where}: {error.strerror}"})
            channel.flush_within(LAST_WORDS_S)
        return EXIT_UNEXPECTED


def command_of(words: Sequence[str], executable: str, folder: str) -> Command:
    """Return the command that starts again what the interpreter was started with.

    words: sys.orig_argv.  A script whose first line names its interpreter is started by
    that line: after an installation it may name another Python.
    """
    if len(words) > 1 and _runs_by_itself(words[1], words[0]):
        return Command(tuple(words[1:]), folder)
    first = words[0] if os.sep in words[0] else executable
    return Command((first, *words[1:]), folder)


def _runs_by_itself(script: str, interpreter: str) -> bool:
    """Tell whether the kernel has found the interpreter in the script."""
    if os.sep not in script:
        return False
    try:
        with open(script, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    # The second line, too: pip writes a path that is too long for the kernel there.
    named = b"\n".join(head.split(b"\n")[:2])
    return head.startswith(b"#!") and os.fsencode(interpreter) in named


# ---- the old primary's side


class Succession:
    """The upgrade that is under way, if one is.

    start: forks the new primary.  heirlooms: the sockets to hand down, by name.
    hand_over: gives away what the new primary takes, by these names, and the pid file if
    it has the same path, and lets the old workers drain.
    """

    def __init__(
        self,
        start: Callable[[], Child],
        heirlooms: Callable[[], Mapping[str, ListeningSocket]],
        control_name: str | None,
        hand_over: Callable[[int, Sequence[str], str | None], object],
        kill: Callable[[int, int], object],
        timeout_s: float,
        log: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._heirlooms = heirlooms
        self._control_name = control_name
        self._hand_over = hand_over
        self._kill = kill
        self._timeout_s = timeout_s
        self._log = log
        self._now = clock
        self._order: Renewal | None = None
        self._heir: Child | None = None
        self._why = ""  # it failed, in its own words
        self._deadline_s: float | None = None

    # ---- what the owner calls

    def begin(self, order: Renewal) -> None:
        """Start the new primary; the order ends when it has taken over, or has failed.

        Raises CannotUpgrade.
        """
        if self._order is not None:
            raise CannotUpgrade("an upgrade is under way: wait for its end")
        if os.getpid() == 1:
            # Its end is that of the container, whoever else lives there.
            raise CannotUpgrade("process 1 of a container cannot be replaced: start a new one")
        try:
            self._heir = self._start()
        except OSError as error:
            order.fail(f"cannot start a new primary: {error.strerror or error}")
            return
        self._order, self._why = order, ""
        self._deadline_s = self._now() + self._timeout_s + EXEC_S
        self._log.info("upgrade: a new primary (pid %d) comes up", self._heir.pid)
        self._hand_down(self._heir.channel)

    def interests(self) -> dict[int, int]:
        """Return the descriptors to poll, each with its events."""
        channel = self._channel()
        if channel is None or channel.eof:
            return {}
        wanted = select.POLLIN | (select.POLLOUT if channel.wants_write else 0)
        return {channel.fileno(): wanted}

    def channels(self) -> list[Channel]:
        """Return what a forked worker must not keep."""
        return [] if self._heir is None else [self._heir.channel]

    def happened(self, fd: int, events: int) -> None:
        """Hear what the new primary says."""
        channel = self._channel()
        if channel is None:
            return
        if events & select.POLLOUT:
            channel.flush()
        for message, fds in channel.receive():
            for surplus in fds:
                os.close(surplus)
            self._said(message)

    def died(self, pid: int, status: int) -> None:
        """Take note that a process is dead that is no worker; it may be the new primary."""
        if self._heir is None or pid != self._heir.pid:
            return
        self.happened(-1, 0)  # its last words
        if self._order is None:
            self._log.error("upgrade: the new primary (pid %d) is dead already", pid)
        else:
            ended = child_process.how_it_ended(status)
            self._fail(self._why or f"the new primary {ended} before it served; it said why itself")
        self._forget()

    def settle(self, is_stopping: bool) -> None:
        """Give up what takes too long, or what comes up for a server that stops."""
        if self._order is None or self._heir is None:
            return
        if is_stopping:
            self._fail("the server stops")
            self._signal(signal.SIGTERM)
        elif self._deadline_s is not None and self._deadline_s <= self._now():
            self._fail("the new primary did not come up in time (--timeout-startup)")
            self._signal(signal.SIGKILL)

    def next_deadline(self) -> float | None:
        """Return the moment at which `settle()` has something to do, if any is known."""
        return self._deadline_s

    def close(self) -> None:
        """Let go of the new primary; what has not been handed over by now never is."""
        if self._order is not None:
            self._fail("the server has ended")
            self._signal(signal.SIGTERM)
        self._forget()

    # ---- within

    def _channel(self) -> Channel | None:
        return None if self._heir is None else self._heir.channel

    def _hand_down(self, channel: Channel) -> None:
        """Send each socket with its name; a socket's file is the new primary's to remove."""
        for name, listener in self._heirlooms().items():
            words = {"name": name, "file": listener.file}
            if name == CONTROL:
                words["server"] = self._control_name
            channel.send({"heirloom": words}, [listener.fileno()])
        channel.send({"that is all": {}})

    def _said(self, message: Any) -> None:
        match message:
            case {"starting": {"timeout_s": float(timeout_s)}} if self._order is not None:
                self._deadline_s = self._now() + timeout_s + EXEC_S
            case {"failed": str(why)}:
                self._why = why
            case {"ready": {"takes": list(names), "pid_file": path}} if self._order is not None:
                self._succeed(names, path)
            case _:
                self._log.debug("the new primary said %r", message)

    def _succeed(self, names: Sequence[str], pid_file: str | None) -> None:
        assert self._order is not None and self._heir is not None
        order, self._order, self._deadline_s = self._order, None, None
        self._log.info("upgrade: done, primary %d takes over", self._heir.pid)
        self._hand_over(self._heir.pid, names, pid_file)
        self._heir.channel.send({"yours": {}})
        order.news = {"pid": self._heir.pid}
        order.end_if_done()

    def _fail(self, why: str) -> None:
        assert self._order is not None
        order, self._order, self._deadline_s = self._order, None, None
        self._log.error("upgrade: given up, the old primary keeps serving: %s", why)
        order.fail(why)

    def _signal(self, number: int) -> None:
        if self._heir is not None:
            with contextlib.suppress(ProcessLookupError):
                self._kill(self._heir.pid, number)

    def _forget(self) -> None:
        if self._heir is not None:
            self._heir.channel.close()
        self._heir = None


# ---- the new primary's side


class Legacy:
    """What an old primary hands down, and the talk with it until we have taken over.

    takes: the names of what we serve.  is_ours: it is all ours.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.takes: list[str] = []
        self.is_ours = False
        self.has_answered = False  # said that we are ready, or never will be
        self.control_name: str | None = None
        self._sockets: dict[str, ListeningSocket] = {}
        self._files: dict[str, tuple[str, int, int]] = {}
        self._has_all = False

    def receive(self) -> Legacy:
        """Wait until all sockets are here; one that never comes is bound anew by its user."""
        deadline = time.monotonic() + RECEIVE_S
        poll = select.poll()
        poll.register(self.channel.fileno(), select.POLLIN)
        while not self._has_all and not self.channel.eof:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                break
            self.hear()
        return self

    def take(self, name: str) -> ListeningSocket | None:
        """Return the socket of that name, which we serve from now on; None if there is none."""
        listener = self._sockets.get(name)
        if listener is not None and name not in self.takes:
            self.takes.append(name)
        return listener

    def starting(self, timeout_s: float) -> None:
        """Tell how long our workers may take to come up."""
        self.channel.send({"starting": {"timeout_s": float(timeout_s)}})

    def ready(self, pid_file: str | None) -> None:
        """Tell that we serve, with the path of our pid file."""
        self.has_answered = True
        path = None if pid_file is None else os.path.abspath(pid_file)
        self.channel.send({"ready": {"takes": self.takes, "pid_file": path}})

    def fail(self, why: str) -> None:
        """Tell that we give up; only the first word counts."""
        if self.has_answered:
            return
        self.has_answered = True
        self.channel.send({"failed": why})
        self.channel.flush_within(LAST_WORDS_S)

    def hear(self) -> None:
        """Read what the old primary says; if it is dead, all is ours as well."""
        for message, fds in self.channel.receive():
            match message:
                case {"heirloom": {"name": str(name)} as words} if fds:
                    self._keep(name, words, fds.pop(0))
                case {"that is all": _}:
                    self._has_all = True
                case {"yours": _}:
                    self.is_ours = True
            for fd in fds:
                os.close(fd)
        self.is_ours = self.is_ours or self.channel.eof

    def own(self) -> None:
        """Own the files of the sockets that we took, and close the others."""
        for name, listener in self._sockets.items():
            if name not in self.takes:
                listener.close()
            elif name in self._files:
                listener.own_file_as(*self._files[name])
        self.channel.close()

    def _keep(self, name: str, words: Mapping[str, Any], fd: int) -> None:
        listener = ListeningSocket(fileno=fd)
        listener.setblocking(False)
        self._sockets[name] = listener
        match words:
            case {"file": [str(path), int(device), int(inode)]}:
                self._files[name] = (path, device, inode)
        if name == CONTROL:
            self.control_name = words.get("server")


def received() -> Legacy | None:
    """Return what the primary that has started this process hands down; None: none has."""
    fd = config.legacy_fd()
    if fd is None:
        return None
    os.set_inheritable(fd, False)
    return Legacy(Channel(socket.socket(fileno=fd))).receive()


def heirlooms(
    addresses: Iterable[str],
    listeners: Iterable[ListeningSocket],
    control: ListeningSocket | None,
) -> dict[str, ListeningSocket]:
    """Return the sockets to hand down by name: that of each as --bind said it, and CONTROL."""
    found = dict(zip(addresses, listeners, strict=True))
    if control is not None:
        found[CONTROL] = control
    return found
