"""Node's `child_process.fork` for Python, and below it what every fork here stands on.

    child = child_process.fork("resize.py", ["photo.jpg"])
    child.on("message", print)
    child_process.run()

`spawn(run)` forks, and the child calls `run(channel)` and leaves with the code that it
returns.  Between the two lie the things a fork forgets to do, and they are all here: the
child keeps nothing of its parent but the memory and the descriptors that it was meant to
have, a signal that comes meanwhile waits instead of getting lost, and whatever happens the
child never returns into its parent's code.  This file knows neither workers nor servers.

No PR_SET_PDEATHSIG: it would fire when the forking thread ends, and it kills instead of
telling.  A child learns of its parent's death by EOF on the channel.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import errno
import faulthandler
import inspect
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from fastcluster import stdio as streams
from fastcluster.channel import Channel, pair
from fastcluster.children import (
    Abandoned,
    ChildProcess,
    Parent,
    Signals,
    family,
    signal_number,
)
from fastcluster.errors import EXIT_OK, EXIT_UNEXPECTED
from fastcluster.link import SERIALIZATIONS, Link

# The descriptor: sys.stderr may be anything by the time that it is needed.
_STDERR = 2


class Closable(Protocol):
    """What the child closes of its parent: a socket, a channel, a selector, a file."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Child:
    """A forked process and the parent's end of its channel."""

    pid: int
    channel: Channel


def spawn(
    run: Callable[[Channel], int],
    *,
    close: Iterable[Closable] = (),
    exit_timeout_s: float = 30.0,
) -> Child:
    """Fork a child that calls `run(channel)` and exits with the code that it returns.

    The child starts with default signal handlers and **every signal blocked**: `run`
    installs its handlers and then calls `accept_signals()`, so that no signal is lost.
    It closes the objects in `close`, which are those of its parent that it must not
    keep: above all the parent's ends of other children's channels, since a channel
    reads EOF only when its last copy is closed.

    Exit hooks (`atexit`) that the child registered run when `run` has returned, then
    the threads it started are waited for, then it leaves by `os._exit`.  Hooks that were
    registered before the fork are the parent's and do not run.  If all that takes longer
    than `exit_timeout_s` seconds, the traceback of every thread goes to stderr and the
    child leaves with code 1.

    Raises RuntimeError if other threads run: a fork copies their locks, held for ever,
    but not them.  Raises OSError when the system has no process or descriptor left.
    """
    _refuse_threads()
    ours, theirs = pair()
    _flush_stdio()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(run, theirs, (ours, *close), exit_timeout_s)
    except OSError:
        ours.close()
        raise
    finally:
        # Only the parent ever comes here.
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return Child(pid, ours)


def spawn_orphan(
    run: Callable[[Channel], int],
    channel: Channel,
    *,
    close: Iterable[Closable] = (),
    exit_timeout_s: float = 30.0,
) -> int:
    """Fork a child as `spawn()` does, but one that is not ours; return its pid.

    Its parent is the nearest ancestor of ours that is a subreaper (prctl(2)), else process
    1: it is forked by a process in between, which is gone when this returns.  channel: the
    child's end of one, which stays open here.  Other threads may run, and are not there in
    the child.  Exit hooks that were registered here run in the child, which is what this
    process was made for.  Raises OSError when the system has no process or descriptor left.
    """
    reading, writing = os.pipe()
    _flush_stdio()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        between = os.fork()
        if between == 0:
            _fork_and_leave(run, channel, close, exit_timeout_s, (reading, writing))
        os.waitpid(between, 0)
        os.set_blocking(reading, False)
        with contextlib.suppress(BlockingIOError):
            if data := os.read(reading, 32):
                return int(data)
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    finally:
        # Only we ever come here: neither child returns.
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(reading)
        os.close(writing)


def _fork_and_leave(
    run: Callable[[Channel], int],
    channel: Channel,
    close: Iterable[Closable],
    exit_timeout_s: float,
    pipe: tuple[int, int],
) -> NoReturn:
    """Be the process in between: fork, tell the pid, and leave the child to its new parent."""
    code = EXIT_UNEXPECTED
    try:
        pid = os.fork()
        if pid == 0:
            for fd in pipe:
                os.close(fd)
            _be_child(run, channel, close, exit_timeout_s, keeps_hooks=True)
        os.write(pipe[1], b"%d" % pid)
        code = 0
    except OSError:
        # Nothing was told: whoever waits for the pid knows what that means.
        pass
    finally:
        os._exit(code)


def accept_signals() -> None:
    """Let the signals in that waited since the fork; called once the handlers are set."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


def leave_within(timeout_s: float) -> None:
    """End this process with code 1 if it still runs `timeout_s` seconds from now.

    Then the traceback of every thread goes to stderr, whatever those threads wait for.
    """
    faulthandler.dump_traceback_later(timeout_s, exit=True, file=_STDERR)


def reset_signals() -> None:
    """Give every signal that Python code handles its default action again.

    Ignored signals stay ignored (Python ignores SIGPIPE).  The wakeup descriptor goes
    too: it is the parent's, and a byte written to it would tell the parent of a signal
    that it never got.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


class SignalPipe:
    """Turn signals into readable bytes, so that a loop meets them like everything else.

    The handlers do nothing: the interpreter writes the signal's number to the pipe in
    the moment it comes, even while the loop waits with the GIL released.  Made in the
    main thread.  A process that is forked from this one, by whomever, is out of it: it
    gets the default handlers, and no signal of its own is told here.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        self._numbers = list(numbers)
        self._handler: Callable[[int, object], None] = _do_nothing
        self._before = {n: signal.signal(n, _do_nothing) for n in self._numbers}
        self._wakeup_before = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        pipe = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forget(pipe()))

    def fileno(self) -> int:
        """Return the descriptor that is readable when signals have come."""
        return self._read_fd

    def read(self) -> list[int]:
        """Return the numbers of the signals that have come, oldest first."""
        try:
            return list(os.read(self._read_fd, 4096))
        except BlockingIOError:
            return []

    def renew(self) -> None:
        """Install the handlers again, over those that an application may have set."""
        for number in self._numbers:
            signal.signal(number, self._handler)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)

    def tell_by_hand(self) -> None:
        """Have the handlers write to the pipe as well; a signal may then be told twice.

        For an event loop that takes the wakeup descriptor for itself while it runs, as
        uvloop does: it wakes up by that and calls the handlers.
        """
        self._handler = self._tell
        self.renew()

    def _tell(self, number: int, frame: object) -> None:
        with contextlib.suppress(OSError):  # full of signals, or closed
            os.write(self._write_fd, bytes([number]))

    def close(self) -> None:
        """Put back the handlers that were there before; may be repeated."""
        if self._read_fd < 0:
            return
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._close_pipe()

    def forget(self) -> None:
        """Leave it to the parent: called in a forked child."""
        if self._read_fd < 0:
            return
        reset_signals()
        self._close_pipe()

    def _close_pipe(self) -> None:
        os.close(self._read_fd)
        os.close(self._write_fd)
        self._read_fd = self._write_fd = -1


def _do_nothing(number: int, frame: object) -> None:
    """Be a handler: the byte in the pipe says it all."""


def _forget(pipe: SignalPipe | None) -> None:
    if pipe is not None:
        pipe.forget()


def _refuse_threads() -> None:
    this = threading.current_thread()
    others = [thread.name for thread in threading.enumerate() if thread is not this]
    if others:
        raise RuntimeError(
            f"cannot fork while other threads run ({', '.join(others)}): a child would inherit "
            "the locks they hold; start threads in the worker, or fork first"
        )


def _be_child(
    run: Callable[[Channel], int],
    channel: Channel,
    close: Iterable[Closable],
    exit_timeout_s: float,
    *,
    keeps_hooks: bool = False,
) -> NoReturn:
    code = EXIT_UNEXPECTED
    try:
        if not keeps_hooks:
            atexit._clear()
        reset_signals()
        # Python 3.11 to 3.13 do this by a hook of their own; two children that draw the
        # same numbers would be too bad to rest on that.
        random.seed()
        for thing in close:
            thing.close()
        code = _code_of(run, channel)
        leave_within(exit_timeout_s)
        _finish()
    except BaseException:
        # The last line of defence; an application's own error was reported long ago.
        traceback.print_exc()
    finally:
        _leave(code)


def _code_of(run: Callable[[Channel], int], channel: Channel) -> int:
    try:
        return run(channel)
    except SystemExit as leaving:
        # The application may call sys.exit() in its own code; the rules are Python's.
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or 0
        print(leaving.code, file=sys.stderr)
        return EXIT_UNEXPECTED


def _finish() -> None:
    """Do what an interpreter does at its end, without its end."""
    # Executors and non-daemon threads first, as the interpreter does it; hooks after.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    # The parent's hook was cleared with the others.
    logging.shutdown()


def _leave(code: int) -> NoReturn:
    try:
        _flush_stdio()
    finally:
        os._exit(code)


def _flush_stdio() -> None:
    """Empty the buffers: before a fork, lest both processes write them; before the end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            # None, a closed pipe, a closed file: there is nobody left to tell.
            continue


def how_it_ended(status: int) -> str:
    """Say what a wait status means, with a hint for those that puzzle people."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}{_HINTS.get(-code, '')}"


_HINTS: dict[int, str] = {
    signal.SIGKILL: " (somebody's kill -9, or the kernel's: out of memory?)",
    signal.SIGSEGV: " (a crash in native code; a worker's traceback is above)",
    signal.SIGBUS: " (a crash in native code; a worker's traceback is above)",
    signal.SIGABRT: " (native code gave up; what it said is above)",
}


# ---- children that programs fork

# What was sent is sent, if the other side takes it at all.
LAST_WORDS_S = 10.0

# How a fresh interpreter learns that it is such a child: its pid, the channel's descriptor,
# and the serialization, as JSON.
VARIABLE = "FASTCLUSTER_CHILD_CHANNEL"

# The process that has forked this one by fork(); it changes in a forked child.
parent: Parent | None = None


def fork(
    module: str | os.PathLike[str] | Callable[..., object],
    args: Sequence[Any] = (),
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, object] | None = None,
    exec_path: str | None = None,
    exec_argv: Sequence[str] | None = None,
    silent: bool = False,
    stdio: Sequence[Any] | None = None,
    uid: int | None = None,
    gid: int | None = None,
    detached: bool = False,
    serialization: str = "json",
    kill_signal: int | str = signal.SIGTERM,
    timeout: float | None = None,
) -> ChildProcess:
    """Start a process that this one can talk to; its events come from run().

    module: the path of a script, or the name of a module as for `python -m`, which a fresh
    interpreter runs with args as its words; or a function, which a fork of this process
    calls as module(*args), also an async one.  What the child is told it hears as
    child_process.parent.on("message"), and it ends when its code is through and nobody in
    it listens to the parent.

    cwd: its folder.  env: its whole environment instead of ours.  exec_path and exec_argv:
    another interpreter, which has fastcluster, and its flags instead of ours.  silent and
    stdio: its streams, as in cluster.setup_primary().  uid and gid: whom it runs as.
    detached: it leads a session of its own, which no terminal ends.  serialization: "json",
    or "advanced" for whatever pickle can write, where both sides trust each other.
    kill_signal: what kill() sends, and what it gets after timeout seconds.

    Raises TypeError or ValueError for options that make no sense, PermissionError for
    another uid or gid where this process is not root, RuntimeError while other threads run,
    OSError if there is no process left.  What fails in the child alone, such as a folder
    that is not there, is its event `error`.  (Node: child_process.fork)
    """
    if serialization not in SERIALIZATIONS:
        raise ValueError(f"serialization is one of {', '.join(SERIALIZATIONS)}")
    if stdio is not None:
        streams.check(stdio)
    check_identity(uid, gid)
    if callable(module) and (exec_path is not None or exec_argv is not None):
        raise ValueError("exec_path and exec_argv are for a script or a module, not a function")
    if isinstance(kill_signal, str):
        kill_signal = signal_number(kill_signal)
    if timeout is not None and timeout <= 0:
        raise ValueError("timeout is seconds above 0")

    def live(channel: Channel) -> int:
        if detached:
            os.setsid()
        if callable(module):
            return _call(channel, module, args, cwd, env, serialization)
        told = [os.getpid(), channel.fileno(), serialization]
        words = [*_words_of(module), *map(str, args)]
        environment = os.environ if env is None else {n: str(v) for n, v in env.items()}
        return execute(
            channel,
            words,
            {**environment, VARIABLE: json.dumps(told)},
            cwd=cwd,
            exec_path=exec_path,
            exec_argv=exec_argv,
        )

    child = start(
        live,
        stdio=streams.places_of(stdio, silent),
        uid=uid,
        gid=gid,
        serialization=serialization,
        kill_signal=kill_signal,
    )
    if timeout is not None:
        family.after(timeout, child.kill)
    return child


def start(
    live: Callable[[Channel], int],
    *,
    stdio: Sequence[Any] = (),
    uid: int | None = None,
    gid: int | None = None,
    serialization: str = "json",
    kill_signal: int = signal.SIGTERM,
) -> ChildProcess:
    """Fork a child that calls live(channel), and serve it: what every fork() stands on.

    The child has the streams and the user that were asked for, nothing of the other
    children of this process, and no event loop; its signals are blocked as by spawn().
    """
    pipes = streams.Stdio(stdio)
    loop = Abandoned()

    def run(channel: Channel) -> int:
        loop.close()
        channel.move_above(len(pipes.streams))
        pipes.take_over()
        become_user(uid, gid)
        # Nothing of the context of whoever has called fork().
        return contextvars.Context().run(live, channel)

    try:
        forked = spawn(run, close=(family,))
    finally:
        pipes.forget_child()
    link = Link(forked.channel, serialization)
    child = ChildProcess(forked.pid, link, pipes.streams, kill_signal)
    family.add(child)
    return child


def run() -> None:
    """Serve the children until none is left and, in a child, the parent while it is heard.

    It is the loop of cluster.run(), and serves a cluster's workers as well.  Raises
    RuntimeError if it runs already, and what listeners raise.
    """
    with signal_pipe([signal.SIGCHLD]) as pipe:
        family.run(pipe, lambda number: family.reap())


async def run_async() -> None:
    """Do what run() does, as a guest of the running asyncio loop; see cluster.run_async()."""
    await family.run_async(*without_pid_fds())


def without_pid_fds() -> tuple[list[int], Callable[[int], object]]:
    """Return the signals that an asyncio loop has to hear, and what to do then.

    None where the system has descriptors of processes: SIGCHLD may be somebody else's there.
    """
    numbers: list[int] = [] if hasattr(os, "pidfd_open") else [signal.SIGCHLD]
    return numbers, lambda number: family.reap()


@contextlib.contextmanager
def signal_pipe(numbers: Iterable[int]) -> Iterator[Signals]:
    """Have a SignalPipe for a while; nothing is heard by it outside of the main thread."""
    pipe = SignalPipe(numbers)
    try:
        yield pipe
    finally:
        pipe.close()


def execute(
    channel: Channel,
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    cwd: str | os.PathLike[str] | None = None,
    exec_path: str | None = None,
    exec_argv: Sequence[str] | None = None,
) -> int:
    """Become a fresh interpreter that runs `fastcluster run words...`.

    Returns an exit code if that cannot be; the parent was told why then.
    """
    interpreter = exec_path or sys.executable
    if exec_argv is None:
        # Such as -O and -W.
        exec_argv = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    try:
        if cwd is not None:
            os.chdir(cwd)
        os.set_inheritable(channel.fileno(), True)
        accept_signals()
        # The current folder is no place for modules, only the script's is.
        safe = ["-P"] if words[0] != "-m" else []
        command = [interpreter, *exec_argv, *safe, "-m", "fastcluster", "run", *words]
        os.execvpe(interpreter, command, dict(environment))
    except OSError as error:
        return _failed(channel, error)


def become_user(uid: int | None, gid: int | None) -> None:
    """Become another user for good; groups of root's are lost, too."""
    if (uid, gid) == (None, None):
        return
    if os.geteuid() == 0:
        # Groups of root's would let the child keep what it is meant to lose.
        os.setgroups([])
    if gid is not None:
        os.setgid(gid)
    if uid is not None:
        os.setuid(uid)


def check_identity(uid: object, gid: object) -> None:
    """Raise TypeError or PermissionError for whom a child cannot become."""
    for name, wanted, mine in (("uid", uid, os.geteuid()), ("gid", gid, os.getegid())):
        if wanted is None:
            continue
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 0:
            raise TypeError(f"{name} is a number, not {wanted!r}: the modules pwd and grp know it")
        if os.geteuid() != 0 and wanted != mine:
            raise PermissionError(f"{name}={wanted} needs a primary that runs as root")


def _words_of(module: str | os.PathLike[str]) -> list[str]:
    """Return what the interpreter is told: a script's path, or -m and a module's name."""
    path = os.fspath(module)
    is_name = all(part.isidentifier() for part in path.split("."))
    return ["-m", path] if is_name and not path.endswith(".py") else [path]


def _call(
    channel: Channel,
    function: Callable[..., object],
    args: Sequence[Any],
    cwd: str | os.PathLike[str] | None,
    env: Mapping[str, object] | None,
    serialization: str,
) -> int:
    """Be a child that is a function; returns its exit code."""
    accept_signals()
    if cwd is not None:
        try:
            os.chdir(cwd)
        except OSError as error:
            return _failed(channel, error)
    if env is not None:
        os.environ.clear()
        os.environ.update({name: str(value) for name, value in env.items()})
    link = _come_online(channel, serialization)
    try:
        result = function(*args)
        if inspect.iscoroutine(result):
            import asyncio

            asyncio.run(result)
        run()
    finally:
        # The function may have left by sys.exit(), or by an error.
        link.flush_within(LAST_WORDS_S)
    return EXIT_OK


def _come_online(channel: Channel, serialization: str) -> Link:
    global parent
    link = Link(channel, serialization)
    parent = Parent(link)
    family.adopt(parent)
    link.say({"online": {}})
    return link


def _failed(channel: Channel, error: OSError) -> int:
    where = f": {error.filename}" if error.filename else ""
    channel.send({"failed": [error.errno, f"{error.strerror}{where}"]})
    channel.flush_within(LAST_WORDS_S)
    return EXIT_UNEXPECTED


def _forget_parent() -> None:
    global parent
    parent = None


def adopted(variable: str) -> tuple[Channel, Any] | None:
    """Return the channel of a fresh interpreter that was started by execute(), if it is one.

    The variable that says so is taken away, and it names our pid, so that a program that a
    child starts is never taken for one.
    """
    told = os.environ.pop(variable, None)
    if told is None:
        return None
    try:
        pid, fd, words = json.loads(told)
    except (TypeError, ValueError):
        return None
    if pid != os.getpid():
        return None
    os.set_inheritable(fd, False)
    return Channel(socket.socket(fileno=fd)), words


def _adopt() -> None:
    found = adopted(VARIABLE)
    if found is not None and found[1] in SERIALIZATIONS:
        atexit.register(_come_online(*found).flush_within, LAST_WORDS_S)


family.when_forked.append(_forget_parent)
_adopt()
