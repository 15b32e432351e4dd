"""Both logs: what a line looks like, what is escaped, and that nobody ever waits."""

import fcntl
import logging
import logging.config
import os
import pty
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastcluster import log
from fastcluster.config import Config
from fastcluster.errors import UsageError
from fastcluster.log import AccessLog


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Log lines have the local time; here that is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    log._clf_time.cache_clear()
    yield
    monkeypatch.undo()
    time.tzset()
    log._clf_time.cache_clear()


class Pipe:
    """A pipe with a log at its one end."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def close(self) -> None:
        """Close both ends."""
        for name in ("reading", "writing"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                os.close(fd)

    def fill(self) -> int:
        """Fill the pipe; returns how many bytes it took."""
        os.set_blocking(self.writing, False)
        total = 0
        try:
            while True:
                total += os.write(self.writing, b"-" * 4096)
        except BlockingIOError:
            os.set_blocking(self.writing, True)
        return total

    def waiting(self) -> bytes:
        """Return what can be read now."""
        os.set_blocking(self.reading, False)
        found = b""
        try:
            while piece := os.read(self.reading, 65536):
                found += piece
        except BlockingIOError:
            os.set_blocking(self.reading, True)
        return found

    def rest(self) -> bytes:
        """Close the writing end and return all that is left."""
        os.close(self.writing)
        self.writing = -1
        os.set_blocking(self.reading, True)
        found = b""
        while piece := os.read(self.reading, 65536):
            found += piece
        return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def logger(pipe: Pipe) -> Iterator[logging.Logger]:
    logger = log.set_up("info", "worker 2", fd=pipe.writing)
    yield logger
    logger.handlers.clear()
    logger.propagate = True


# ---- the error log


@pytest.mark.parametrize(
    ("env", "no_color", "on_terminal", "coloured"),
    [
        ("development", "", True, True),
        ("development", "1", True, False),
        ("production", "", True, False),
        ("development", "", False, False),
    ],
)
def test_levels_are_coloured_on_a_terminal_in_development(
    monkeypatch: pytest.MonkeyPatch, env: str, no_color: str, on_terminal: bool, coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    reading, writing = pty.openpty() if on_terminal else os.pipe()
    try:
        config = Config(env=env)
        log.set_up("info", fd=writing, in_colour=config.logs_in_colour).error("a\x1b[31m")
        line = os.read(reading, 4096).strip()
    finally:
        os.close(reading)
        os.close(writing)
    level = b"\x1b[31mERROR\x1b[0m" if coloured else b"ERROR"
    assert line.endswith(b"[primary] " + level + b" a\\x1b[31m")


def a_record(message: str, *args: object, **kwargs: object) -> logging.LogRecord:
    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, message, args, None)
    record.created, record.process = 1795608000.1239, 77
    vars(record).update(kwargs)
    return record


def test_a_line_of_the_error_log() -> None:
    assert log.Formatter("worker 2").format(a_record("late by %d s", 3)) == (
        "2026-11-25 12:00:00.123 [77] [worker 2] WARNING late by 3 s"
    )


ESCAPED = [
    ("plain ~", "plain ~"),
    ("\x1b[31mred", r"\x1b[31mred"),
    ("a\rb\tc\x7f", r"a\x0db\x09c\x7f"),
    ("caf\u00e9", r"caf\xc3\xa9"),
    ("\udcff", r"\xff"),
    (r"C:\x", r"C:\x"),
]


@pytest.mark.parametrize(("text", "escaped"), ESCAPED)
def test_what_is_not_printable_is_escaped(text: str, escaped: str) -> None:
    assert log.escape(text) == escaped
    assert log.Formatter("primary").format(a_record("%s", text)).endswith(f" WARNING {escaped}")


def test_a_newline_cannot_forge_a_line() -> None:
    text = log.Formatter("primary").format(a_record("x\n2026-11-25 12:00:00.000 [1] forged\n"))
    assert text.split("\n")[1:] == ["    2026-11-25 12:00:00.000 [1] forged"]


def test_a_traceback_is_indented_and_escaped() -> None:
    try:
        raise ValueError("caf\u00e9\nforged")
    except ValueError:
        record = a_record("failed", exc_info=sys.exc_info())
    lines = log.Formatter("primary").format(record).split("\n")
    assert lines[0].endswith(" WARNING failed")
    assert lines[1] == "    Traceback (most recent call last):"
    assert lines[-2:] == [r"    ValueError: caf\xc3\xa9", "    forged"]


def test_records_reach_the_descriptor(pipe: Pipe, logger: logging.Logger) -> None:
    logger.info("one")
    logger.debug("too fine")
    logger.error("two")
    lines = pipe.rest().decode().splitlines()
    assert [line.split("] ")[-1] for line in lines] == ["INFO one", "ERROR two"]
    assert f"[{os.getpid()}] [worker 2]" in lines[0]


def test_a_second_set_up_replaces_the_first(pipe: Pipe, logger: logging.Logger) -> None:
    other = Pipe()
    assert log.set_up("debug", "worker 3", fd=other.writing) is logger
    logger.debug("here")
    assert b"[worker 3] DEBUG here\n" in other.rest()
    assert pipe.rest() == b""
    other.close()


def test_an_application_cannot_silence_the_server(pipe: Pipe, logger: logging.Logger) -> None:
    logging.config.dictConfig({"version": 1})
    logger.info("still here")
    assert b"INFO still here\n" in pipe.rest()


def test_nobody_waits_for_a_reader_of_the_error_log(pipe: Pipe, logger: logging.Logger) -> None:
    pipe.fill()
    logger.info("lost")
    logger.info("lost too")
    assert set(pipe.waiting()) == set(b"-")
    logger.info("heard")
    first, second = pipe.rest().decode().splitlines()
    assert first == "(2 log records were dropped: nobody read them)"
    assert second.endswith("INFO heard")


def test_a_record_that_was_cut_ends_before_the_next(pipe: Pipe, logger: logging.Logger) -> None:
    pipe.fill()
    os.read(pipe.reading, 4096)
    logger.info("y" * 6000)
    pipe.waiting()
    logger.info("whole")
    lines = pipe.rest().decode().split("\n")
    assert lines[0] == ""
    assert lines[1] == "(1 log records were dropped: nobody read them)"
    assert lines[2].endswith("INFO whole")


def test_a_closed_descriptor_is_survived(pipe: Pipe, logger: logging.Logger) -> None:
    pipe.close()
    logger.info("nobody hears")


# ---- the access log

WHEN = 1795608000.9
PLAIN = ("127.0.0.1", b"GET", b"/hello?x=1", (1, 1), 200, 13, None, None)

ENTRIES = [
    (PLAIN, '127.0.0.1 - - [{}] "GET /hello?x=1 HTTP/1.1" 200 13 "-" "-"'),
    (
        ("::1", b"POST", b"/", (1, 0), 404, 0, b"http://a/", b"curl/8"),
        '::1 - - [{}] "POST / HTTP/1.0" 404 - "http://a/" "curl/8"',
    ),
    (
        ("", b"GET", b'/"\\\x1b\n\xc3\xa9\x7f ', (1, 1), 200, 1, b'"', b"\x00\\"),
        r'- - - [{}] "GET /\x22\x5c\x1b\x0a\xc3\xa9\x7f  HTTP/1.1" 200 1 "\x22" "\x00\x5c"',
    ),
]


@pytest.mark.parametrize(("entry", "line"), ENTRIES)
def test_a_line_of_the_access_log(entry: tuple[object, ...], line: str) -> None:
    formatted = log.format_entry((WHEN, *entry))  # type: ignore[arg-type]
    assert formatted.decode("ascii") == line.format("25/Nov/2026:12:00:00 +0000") + "\n"


@pytest.mark.parametrize(
    ("zone", "wanted"),
    [
        ("IST-5:30", b"25/Nov/2026:17:30:00 +0530"),
        ("NST3:30", b"25/Nov/2026:08:30:00 -0330"),
    ],
)
def test_the_time_is_local(monkeypatch: pytest.MonkeyPatch, zone: str, wanted: bytes) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    assert log._clf_time(int(WHEN)) == wanted


def test_lines_are_written_without_a_call(pipe: Pipe) -> None:
    access = AccessLog(pipe.writing, clock=lambda: WHEN)
    access.record(*PLAIN)
    # Blocks until the writer's thread has woken by itself.
    assert os.read(pipe.reading, 4096) == log.format_entry((WHEN, *PLAIN))
    assert access.close(30)


def test_the_last_lines_are_written_at_the_close(pipe: Pipe) -> None:
    access = AccessLog(pipe.writing)
    for _ in range(1000):
        access.record(*PLAIN)
    reader = Reader(pipe)
    assert access.close(30)
    assert reader.lines_at_end() == 1000


class Reader:
    """Reads all of a pipe in a thread, as whoever collects a log does."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._found = bytearray()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while piece := os.read(self._pipe.reading, 65536):
            self._found += piece

    def lines_at_end(self) -> int:
        """Close the writing end; returns how many whole lines came, and nothing else."""
        os.close(self._pipe.writing)
        self._pipe.writing = -1
        self._thread.join(30)
        lines = bytes(self._found).lstrip(b"-").split(b"\n")
        assert lines.pop() == b""
        assert all(line.startswith(b"127.0.0.1 - - [") for line in lines)
        return len(lines)


def test_an_access_log_that_nothing_was_written_to_has_no_thread(pipe: Pipe) -> None:
    before = threading.active_count()
    access = AccessLog(pipe.writing)
    assert threading.active_count() == before
    assert access.close()
    assert pipe.rest() == b""


def test_nobody_waits_and_what_is_lost_is_counted(
    pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    pipe.fill()
    access = AccessLog(pipe.writing, limit_bytes=100_000)
    for _ in range(5000):
        access.record(*PLAIN)
    assert access._held_bytes <= 100_000
    assert access.close(0.01) is False
    reader = Reader(pipe)
    assert access.close(30)
    written = reader.lines_at_end()
    dropped = [record for record in caplog.messages if "dropped" in record]
    assert len(dropped) == 1
    found = re.fullmatch(
        r"access log: (\d+) lines were dropped: the reader of the log is too slow", dropped[0]
    )
    assert found is not None
    assert 0 < written < 5000
    assert written + int(found[1]) == 5000


def test_after_a_burst_there_is_room_again(pipe: Pipe) -> None:
    access = AccessLog(pipe.writing, limit_bytes=1000)
    for _ in range(4):
        access.record(*PLAIN)
        # One line costs less than the limit, and this waits for it to be out.
        assert os.read(pipe.reading, 4096).count(b"\n") == 1
    assert access.close(30)


def test_lines_are_not_torn_in_a_pipe(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = os.write

    def spy(fd: int, data: bytes) -> int:
        if fd == pipe.writing:
            written.append(bytes(data))
        return write(fd, data)

    monkeypatch.setattr(os, "write", spy)
    access = AccessLog(pipe.writing)
    reader = Reader(pipe)
    for _ in range(500):
        access.record(*PLAIN)
    assert access.close(30)
    assert reader.lines_at_end() == 500
    assert len(written) > 2
    assert all(len(piece) <= log.PIPE_BYTES and piece.endswith(b"\n") for piece in written)


def test_a_line_longer_than_a_piece_is_written_whole(pipe: Pipe) -> None:
    access = AccessLog(pipe.writing)
    access.record("127.0.0.1", b"GET", b"/" * 8000, (1, 1), 200, 1, None, None)
    access.record(*PLAIN)
    assert access.close(30)
    assert [len(line) > 8000 for line in pipe.rest().splitlines()] == [True, False]


def test_many_threads_may_record(pipe: Pipe) -> None:
    access = AccessLog(pipe.writing, limit_bytes=1 << 30)
    reader = Reader(pipe)

    def run() -> None:
        for _ in range(500):
            access.record(*PLAIN)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert access.close(30)
    assert reader.lines_at_end() == 2000


def test_a_non_blocking_descriptor_is_waited_for(pipe: Pipe) -> None:
    pipe.fill()
    fcntl.fcntl(pipe.writing, fcntl.F_SETFL, os.O_WRONLY | os.O_NONBLOCK)
    access = AccessLog(pipe.writing)
    access.record(*PLAIN)
    assert access.close(0.3) is False
    reader = Reader(pipe)
    assert access.close(30)
    assert reader.lines_at_end() == 1


def test_a_reader_that_is_gone_is_reported_once(
    pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    os.close(pipe.reading)
    pipe.reading = -1
    access = AccessLog(pipe.writing)
    for _ in range(10):
        access.record(*PLAIN)
    assert access.close(30)
    assert caplog.messages == ["access log: 10 lines were dropped: Broken pipe"]


def test_a_closed_log_takes_nothing(pipe: Pipe) -> None:
    access = AccessLog(pipe.writing)
    access.record(*PLAIN)
    assert access.close(30)
    access.record(*PLAIN)
    assert pipe.rest().count(b"\n") == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_writes_its_own_lines_and_not_its_parents(pipe: Pipe) -> None:
    access = AccessLog(pipe.writing, clock=lambda: WHEN)
    access.record(*PLAIN)
    assert os.read(pipe.reading, 4096)
    # Now the thread runs, and the worst moment for a fork is with a line that
    # waits and the lock held.
    with access._lock:
        access._entries.append((WHEN, *PLAIN))
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            access.record("10.0.0.9", *PLAIN[1:])
            os._exit(0 if access.close(20) else 1)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert access.close(30)
    clients = [line.split(b" ")[0] for line in pipe.rest().splitlines()]
    assert sorted(clients) == [b"10.0.0.9", b"127.0.0.1"]


# ---- files by name


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    log.open_files(None, None)


def test_without_names_the_logs_are_what_the_process_was_started_with(files: Path) -> None:
    log.open_files(None, "-")
    assert (log.error_fd(), log.access_fd()) == (2, 1)
    assert log.reopen() == ([], [])


def test_a_file_is_reopened_under_the_same_descriptor(files: Path) -> None:
    log.open_files(str(files / "e.log"), None)
    fd = log.error_fd()
    os.write(fd, b"one\n")
    (files / "e.log").rename(files / "e.1")
    os.write(fd, b"two\n")
    names, fds = log.reopen()
    os.write(fd, b"three\n")
    assert names == ["error"] and log.error_fd() == fd
    assert not os.get_inheritable(fd)
    assert (files / "e.1").read_bytes() == b"one\ntwo\n"
    assert (files / "e.log").read_bytes() == b"three\n"
    for duplicate in fds:
        os.close(duplicate)
    os.close(fd)


def test_a_worker_takes_what_it_is_handed(files: Path) -> None:
    log.open_files(str(files / "e.log"), str(files / "a.log"))
    other = os.open(files / "new.log", os.O_WRONLY | os.O_CREAT, 0o600)
    log.take_files(["access", "unknown"], [other, other])
    os.close(other)
    os.write(log.access_fd(), b"here\n")
    assert (files / "new.log").read_bytes() == b"here\n"
    os.close(log.error_fd())
    os.close(log.access_fd())


def test_a_file_that_cannot_be_opened_names_the_mend(files: Path) -> None:
    with pytest.raises(UsageError, match=r"none/e\.log cannot be opened .* make its folder"):
        log.open_files(str(files / "none" / "e.log"), None)


def test_a_file_that_cannot_be_reopened_stays(files: Path) -> None:
    folder = files / "logs"
    folder.mkdir()
    log.open_files(str(folder / "e.log"), None)
    fd = log.error_fd()
    folder.rename(files / "moved")
    assert log.reopen() == ([], [])
    os.write(fd, b"still\n")
    assert (files / "moved" / "e.log").read_bytes().endswith(b"still\n")
    os.close(fd)
