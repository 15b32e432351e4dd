"""The error log and the access log.

The law: what reaches a file or a terminal is plain ASCII, escaped here or, in a
format of the user's, by access_log.py (on a terminal a level may be coloured), and
no call from the loop's thread ever waits for whoever reads the log.  This file
knows nothing of processes but the name that it is told, and of HTTP no more than
the words of one line.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import logging.config
import os
import re
import select
import stat
import threading
import time
import tomllib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastcluster.access_log import QUOTABLE, UNQUOTABLE, Facts, LineFormat, as_hex, read_format
from fastcluster.access_log import clf_time as _clf_time
from fastcluster.errors import UsageError

NAME = "fastcluster"

# So much goes into a pipe that is ready for it whole and without a wait (POSIX).
PIPE_BYTES = select.PIPE_BUF

LIMIT_BYTES = 1 << 20
FLUSH_BYTES = 1 << 16
FLUSH_AFTER_S = 0.1
REPORT_EVERY_S = 10.0
# What a line costs in memory while it waits, beside its texts.
ENTRY_BYTES = 400


# What a terminal shows a level in (ECMA-48, SGR).
COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


# ---- escaping

_UNPRINTABLE = re.compile(rb"[^\x20-\x7e]")


def escape(text: str) -> str:
    r"""Return a text on one line of printable ASCII, other bytes of its UTF-8 as ``\xNN``."""
    raw = text.encode("utf-8", "surrogateescape")
    return _UNPRINTABLE.sub(as_hex, raw).decode("ascii")


# ---- files


class LogFile:
    """A log file by name, or "-" for what this process was started with.

    Its descriptor keeps its number when the file is opened anew, so whoever writes to it
    need not know.  Raises UsageError if it cannot be opened.
    """

    def __init__(self, path: str | None, standard_fd: int) -> None:
        self.path = None if path in (None, "-") else path
        self.fd = standard_fd
        if self.path is not None:
            try:
                self.fd = self._open()
            except OSError as error:
                raise UsageError(
                    f"the log file {self.path} cannot be opened ({error.strerror}): "
                    "choose another one, or make its folder"
                ) from error

    def _open(self) -> int:
        assert self.path is not None
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(self.path, flags, 0o644)

    def reopen(self) -> bool:
        """Open the file of that name anew; False if it has no name.  Raises OSError."""
        if self.path is None:
            return False
        fd = self._open()
        self.take(fd)
        os.close(fd)
        return True

    def take(self, fd: int) -> None:
        """Write to what `fd` is open on from now on; the caller keeps and closes it."""
        os.dup2(fd, self.fd, inheritable=False)


# Forked workers have them, too; they are opened once, before the first fork.
_files = {"error": LogFile(None, 2), "access": LogFile(None, 1)}


def open_files(log_file: str | None, access_log_file: str | None) -> None:
    """Open the files that the logs go to; None or "-": stderr and stdout.  Raises UsageError."""
    _files["error"] = LogFile(log_file, 2)
    _files["access"] = LogFile(access_log_file, 1)


def error_fd() -> int:
    """Return the descriptor of the error log."""
    return _files["error"].fd


def access_fd() -> int:
    """Return the descriptor of the access log."""
    return _files["access"].fd


def reopen() -> tuple[list[str], list[int]]:
    """Open the log files anew; return which, and duplicates of their descriptors to send.

    One that cannot be opened stays as it is, and the error log says so.
    """
    names, fds = [], []
    for name, file in _files.items():
        try:
            if file.reopen():
                names.append(name)
                fds.append(os.dup(file.fd))
        except OSError as error:
            logging.getLogger(NAME).error(
                "the log file %s cannot be reopened: %s", file.path, error.strerror
            )
    return names, fds


def take_files(names: Iterable[str], fds: Iterable[int]) -> None:
    """Write to these from now on, as reopen() of the primary returned them."""
    for name, fd in zip(names, fds, strict=False):
        if name in _files:
            _files[name].take(fd)


# ---- the error log


class Formatter(logging.Formatter):
    """``2026-11-25 12:00:00.123 [pid] [worker 2] LEVEL message``, in local time.

    Further lines of a message, such as a traceback's, are indented, so that no
    text of a client can pass for a line of its own.
    """

    def __init__(self, who: str, in_colour: bool = False) -> None:
        super().__init__()
        self._who = who
        self._in_colour = in_colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text without a newline at its end."""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        head = f"{when}.{int(record.created % 1 * 1000):03d} [{record.process}] [{self._who}]"
        lines = record.getMessage().rstrip("\n").split("\n")
        if record.exc_info:
            lines += self.formatException(record.exc_info).split("\n")
        if record.stack_info:
            lines += self.formatStack(record.stack_info).split("\n")
        text = "\n    ".join(escape(line) for line in lines)
        return f"{head} {self._level(record.levelname)} {text}"

    def _level(self, name: str) -> str:
        if not self._in_colour or name not in COLOURS:
            return name
        return f"\x1b[{COLOURS[name]}m{name}\x1b[0m"


class Handler(logging.Handler):
    """Writes records to a descriptor, and drops rather than waits when it takes no more."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._dropped = 0
        self._is_cut = False
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; what was dropped before is counted in front of it."""
        try:
            data = self.format(record).encode("ascii") + b"\n"
        except Exception:
            self.handleError(record)
            return
        if self._dropped:
            data = b"(%d log records were dropped: nobody read them)\n%b" % (self._dropped, data)
        if self._write(b"\n" + data if self._is_cut else data):
            self._dropped = 0
        else:
            self._dropped += 1

    def _write(self, data: bytes) -> bool:
        """Write all of it and return True, or as much as can be without waiting."""
        left = memoryview(data)
        while left:
            ready = self._poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT:
                break
            try:
                left = left[os.write(self._fd, left[:PIPE_BYTES]) :]
            except OSError:
                break
        if len(left) < len(data):
            self._is_cut = bool(left)
        return not left


class _Logger(logging.Logger):
    """The server's logger, which an application's logging.config does not silence.

    logging.config disables every logger that was there before unless it is told
    not to, and an application that does so would take the server's words away.
    """

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass


def set_up(
    level: str, who: str = "primary", *, fd: int | None = None, in_colour: bool = False
) -> logging.Logger:
    """Return the server's logger, writing under the name ``who`` to a descriptor.

    fd: None for the error log's file, stderr where none was opened.  in_colour: colour
    the levels if it is a terminal.

    May be called again, as every worker does with its own name after the fork.
    level: one of config.LEVELS.
    """
    logger = logging.getLogger(NAME)
    logger.__class__ = _Logger
    fd = error_fd() if fd is None else fd
    handler = Handler(fd)
    handler.setFormatter(Formatter(who, in_colour and os.isatty(fd)))
    logger.handlers[:] = [handler]
    logger.filters[:] = [_Who(who)]
    logger.propagate = False
    logger.setLevel(level.upper())
    if _configured is not None:
        _apply(logger, *_configured)
    return logger


# ---- logging as --log-config has it

# The file, and what it says; forked workers have it, too.
_configured: tuple[str, dict[str, Any]] | None = None


class _Who(logging.Filter):
    """Gives records the name of the process, for formats that have %(who)s."""

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = who

    def filter(self, record: logging.LogRecord) -> bool:
        record.who = self._who
        return True


def use_config(path: str | None) -> None:
    """Have set_up() configure logging by a file from now on, None: by nothing but itself.

    The file is TOML, or JSON if it is called so, with what logging.config.dictConfig takes;
    version = 1 may be left out.  Raises UsageError if it cannot be read.
    """
    global _configured
    if path is None:
        _configured = None
        return
    try:
        with open(path, "rb") as file:
            said = json.load(file) if path.endswith(".json") else tomllib.load(file)
    except OSError as error:
        raise UsageError(f"--log-config: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        kind = "JSON" if path.endswith(".json") else "TOML"
        raise UsageError(f"--log-config: {path} is not a {kind} file: {error}") from error
    if not isinstance(said, dict):
        raise UsageError(f"--log-config: {path} has no table of settings")
    _configured = path, {"version": 1, **said}


def _apply(logger: logging.Logger, path: str, said: dict[str, Any]) -> None:
    """Configure logging; the server's logger keeps its own handler if nobody speaks of it."""
    try:
        logging.config.dictConfig(copy.deepcopy(said))
    except (ValueError, TypeError, AttributeError, ImportError, KeyError, OSError) as error:
        why = f"{error}: {error.__cause__}" if error.__cause__ is not None else str(error)
        raise UsageError(f"--log-config: {path} makes no sense: {why}") from error
    ours = said.get("loggers", {}).get(NAME)
    if ours is None:
        if not said.get("root", {}).get("handlers"):
            return
        logger.handlers[:] = []
        ours = {}
    logger.propagate = bool(ours.get("propagate", not ours.get("handlers")))


# ---- the access log


# When (Unix time in seconds), then what AccessLog.record() takes.
Entry = tuple[float, str, bytes, bytes, tuple[int, int], int, int, bytes | None, bytes | None]


def format_entry(entry: Entry) -> bytes:
    r"""Return a line in the combined log format, as Apache and nginx write it.

    Quotes, backslashes and all that is not printable ASCII appear as ``\xNN``.
    """
    when, client, method, target, version, status, body_bytes, referer, user_agent = entry
    texts = (client.encode("utf-8", "surrogateescape"), method, target, referer, user_agent)
    words = [b"-" if text is None else text for text in texts]
    # One look at all of them is cheaper than five, and mostly there is nothing to escape.
    if b"".join(words).translate(None, QUOTABLE):
        words = [UNQUOTABLE.sub(as_hex, word) for word in words]
    return b'%b - - [%b] "%b %b HTTP/%d.%d" %d %b "%b" "%b"\n' % (
        words[0] or b"-",
        _clf_time(int(when)),
        words[1],
        words[2],
        *version,
        status,
        b"%d" % body_bytes if body_bytes else b"-",
        words[3],
        words[4],
    )


class AccessLog:
    """Logs exchanges to a descriptor, in batches written by a thread of its own.

    The thread starts with the first record, so an access log may be made before
    a fork.  It writes 100 ms after the first record that waits, or when 64 KiB
    wait.  At most ``limit_bytes`` of memory wait; what comes beyond is counted
    and told in the error log.  Lines are never torn by those of other processes
    that write to the same pipe.
    """

    def __init__(
        self,
        fd: int = 1,
        *,
        limit_bytes: int = LIMIT_BYTES,
        clock: Callable[[], float] = time.time,
        line_format: LineFormat | None = None,
    ) -> None:
        # None: the combined format, of what record() takes.
        self.line_format = line_format
        self._fd = fd
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._last_report_s = -REPORT_EVERY_S
        self._start_anew()
        _access_logs.add(self)

    def _start_anew(self) -> None:
        """Forget all that waits; a child must not write its parent's lines again."""
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._entries: list[Entry | Facts] = []
        self._waiting_bytes = 0  # in _entries
        self._held_bytes = 0  # and in the batch that is being written
        self._dropped = 0
        self._why = ""
        self._closing = False
        self._thread: threading.Thread | None = None

    def record(
        self,
        client: str,
        method: bytes,
        target: bytes,
        http_version: tuple[int, int],
        status: int,
        body_bytes: int,
        referer: bytes | None,
        user_agent: bytes | None,
    ) -> None:
        """Log one exchange; any thread may, and none waits.

        client: the peer's address, "" for unix sockets.  body_bytes: of the
        response, as sent.
        """
        cost = ENTRY_BYTES + len(target) + len(referer or b"") + len(user_agent or b"")
        when = self._clock()
        self._take(
            (when, client, method, target, http_version, status, body_bytes, referer, user_agent),
            cost,
        )

    def record_facts(
        self,
        client: str,
        method: bytes,
        target: bytes,
        http_version: tuple[int, int],
        status: int,
        body_bytes: int,
        duration_ns: int,
        fields: tuple[bytes | None, ...],
        head: bytes,
        request_id: str,
        scheme: str,
        server: tuple[str, int],
    ) -> None:
        """Be record() for a log with a line_format; see access_log.Facts."""
        cost = ENTRY_BYTES + len(target) + len(head) + sum(len(field or b"") for field in fields)
        facts = Facts(
            self._clock(),
            client,
            method,
            target,
            http_version,
            status,
            body_bytes,
            duration_ns,
            fields,
            head,
            request_id,
            scheme,
            server,
        )
        self._take(facts, cost)

    def _take(self, entry: Entry | Facts, cost: int) -> None:
        with self._lock:
            if self._closing or self._held_bytes + cost > self._limit_bytes:
                self._dropped += 1
                self._why = "the reader of the log is too slow"
                return
            self._entries.append(entry)
            self._held_bytes += cost
            was_below = self._waiting_bytes < FLUSH_BYTES
            self._waiting_bytes += cost
            if len(self._entries) == 1 or (was_below and self._waiting_bytes >= FLUSH_BYTES):
                self._wake_writer()

    def close(self, timeout_s: float = 1.0) -> bool:
        """Write what waits; return whether all was written within ``timeout_s``.

        Further records are dropped.
        """
        with self._lock:
            self._closing = True
            self._wake.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def _wake_writer(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="access log", daemon=True)
            with contextlib.suppress(RuntimeError):
                # No thread to be had now; what waits is bounded, and 64 KiB later
                # or after the next batch this is tried again.
                thread.start()
                self._thread = thread
        self._wake.notify()

    # ---- the writer's thread

    def _run(self) -> None:
        while True:
            batch, cost = self._next_batch()
            if not batch:
                break
            self._write(batch)
            del batch
            with self._lock:
                self._held_bytes -= cost
            self._report(is_last=False)
        self._report(is_last=True)

    def _next_batch(self) -> tuple[list[Entry | Facts], int]:
        """Wait for a batch; it is empty when the log is closed."""
        with self._lock:
            self._wake.wait_for(lambda: self._closing or self._entries)
            self._wake.wait_for(
                lambda: self._closing or self._waiting_bytes >= FLUSH_BYTES, FLUSH_AFTER_S
            )
            batch, self._entries = self._entries, []
            cost, self._waiting_bytes = self._waiting_bytes, 0
        return batch, cost

    def _write(self, batch: list[Entry | Facts]) -> None:
        written = 0
        try:
            is_pipe = stat.S_ISFIFO(os.fstat(self._fd).st_mode)
            limit = PIPE_BYTES if is_pipe else FLUSH_BYTES
            for count, piece in _pieces(map(self._line, batch), limit):
                self._write_piece(piece)
                written += count
        except OSError as error:
            with self._lock:
                self._dropped += len(batch) - written
                self._why = error.strerror or str(error)

    def _line(self, entry: Entry | Facts) -> bytes:
        if not isinstance(entry, Facts):
            return format_entry(entry)
        assert self.line_format is not None
        return self.line_format.line(entry)

    def _write_piece(self, piece: bytes) -> None:
        left = memoryview(piece)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                # Somebody who shares the descriptor has made it non-blocking.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()

    def _report(self, *, is_last: bool) -> None:
        """Tell how many lines were dropped, once in a while."""
        now_s = time.monotonic()
        with self._lock:
            if not self._dropped or not (is_last or now_s - self._last_report_s >= REPORT_EVERY_S):
                return
            dropped, self._dropped = self._dropped, 0
            self._last_report_s = now_s
        logging.getLogger(NAME).warning("access log: %d lines were dropped: %s", dropped, self._why)


def open_access_log(format_text: str | None, fd: int = 1) -> AccessLog:
    """Return an access log in a format, as --access-log-format names it; None: combined.

    Raises ValueError for a format that makes no sense.
    """
    if format_text in (None, "combined"):
        return AccessLog(fd)
    return AccessLog(fd, line_format=read_format(format_text))


def _pieces(lines: Iterable[bytes], limit: int) -> Iterator[tuple[int, bytes]]:
    """Join lines to pieces of at most ``limit`` bytes where they fit, each with its count."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > limit:
            yield len(piece), b"".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield len(piece), b"".join(piece)


_access_logs: weakref.WeakSet[AccessLog] = weakref.WeakSet()


def _after_fork() -> None:
    for log in list(_access_logs):
        with contextlib.suppress(Exception):
            log._start_anew()


os.register_at_fork(after_in_child=_after_fork)
