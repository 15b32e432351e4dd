"""A worker's life with a fake server, and what it makes of an application.

That a real one serves, drains and leaves is the matter of test_processes.py.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastcluster import channel as channels
from fastcluster import worker
from fastcluster.asgi import AsgiHandler
from fastcluster.channel import Channel
from fastcluster.child_process import SignalPipe
from fastcluster.config import Config
from fastcluster.errors import EXIT_APP, AppLoadError
from fastcluster.native import NativeHandler
from fastcluster.worker import Life
from fastcluster.wsgi import WsgiHandler

APPS = str(Path(__file__).parent / "apps")


class FakeServer:
    """A server whose turns are what the test lets happen in them, and then its callbacks."""

    def __init__(self) -> None:
        self.turns: list[Callable[[], object]] = []
        self.waits: list[int] = []
        self.watched: dict[int, Callable[[], object]] = {}
        self.drains: list[bool] = []
        self.is_ready = False
        self.connections = 0

    @property
    def drained(self) -> bool:
        return bool(self.drains) and self.connections == 0

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        self.watched[fd] = callback

    def unwatch(self, fd: int) -> None:
        del self.watched[fd]

    def ready(self) -> None:
        self.is_ready = True

    def run(self, timeout_ms: int = -1) -> bool:
        self.waits.append(timeout_ms)
        assert self.turns, "the worker takes another turn"
        self.turns.pop(0)()
        for callback in list(self.watched.values()):
            callback()
        return True

    def drain(self, last: bool = False) -> None:
        self.drains.append(last)


class Stage:
    def __init__(self, driver: worker.DriverLike | None = None) -> None:
        self.server = FakeServer()
        self.primary, own = channels.pair()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.now = 100.0
        self.signals = SignalPipe(worker.HANDLED)
        self.life = Life(
            self.server,
            [self.listener],
            own,
            self.signals,
            graceful_s=30.0,
            log=logging.getLogger("fastcluster.test_worker"),
            clock=lambda: self.now,
            driver=driver,
        )
        self._own = own

    def lives(self, *turns: Callable[[], object]) -> None:
        self.server.turns = list(turns)
        self.life.live()
        assert self.server.turns == [], "the worker left too early"

    def heard(self) -> list[Any]:
        """Return what the worker said after it was ready."""
        messages = [message for message, _ in self.primary.receive()]
        assert messages.pop(0) == {"ready": {"pid": os.getpid()}}
        return messages

    def close(self) -> None:
        self.signals.close()
        self.primary.close()
        self._own.close()
        self.listener.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


def nothing() -> None:
    """Let a turn pass in which nothing happens."""


def test_ready_is_said_once_it_serves(stage: Stage) -> None:
    said: list[Any] = []

    def look() -> None:
        assert stage.server.is_ready
        said.extend(stage.heard())
        stage.primary.send({"drain": {"last": False}})

    stage.lives(look)
    assert said == []


@pytest.mark.parametrize("last", [False, True])
def test_the_primary_says_drain(stage: Stage, last: bool) -> None:
    stage.server.connections = 1

    def finish() -> None:
        stage.server.connections = 0

    stage.lives(
        nothing,
        lambda: stage.primary.send({"drain": {"last": last}}),
        nothing,
        finish,
    )
    assert stage.server.drains == [last]
    assert stage.heard() == []
    # The primary minds the time.
    assert set(stage.server.waits) == {-1}
    # Its own copy of a listener is closed when nobody else listens either.
    assert (stage.listener.fileno() == -1) == last


def test_sigterm_drains_and_tells_the_primary(stage: Stage) -> None:
    stage.lives(lambda: signal.raise_signal(signal.SIGTERM))
    assert stage.server.drains == [False]
    assert stage.heard() == [{"draining": {}}]
    assert stage.listener.fileno() != -1


def test_sigterm_again_changes_nothing(stage: Stage) -> None:
    stage.server.connections = 1

    def finish() -> None:
        stage.server.connections = 0

    def term() -> None:
        signal.raise_signal(signal.SIGTERM)

    stage.lives(term, term, finish)
    assert stage.server.drains == [False]
    assert stage.heard() == [{"draining": {}}]


def test_a_stop_of_all_while_it_drains_by_itself(stage: Stage) -> None:
    stage.server.connections = 1

    def stop() -> None:
        stage.primary.send({"drain": {"last": True}})

    def finish() -> None:
        stage.server.connections = 0

    stage.lives(lambda: signal.raise_signal(signal.SIGTERM), stop, finish)
    assert stage.server.drains == [False, True]
    assert stage.listener.fileno() == -1


@pytest.mark.parametrize(
    "number", [number for number in worker.HANDLED if number != signal.SIGTERM]
)
def test_other_signals_are_the_primarys(stage: Stage, number: signal.Signals) -> None:
    def check() -> None:
        assert stage.server.drains == []
        stage.primary.send({"drain": {"last": False}})

    stage.lives(lambda: signal.raise_signal(number), check)


def test_an_orphan_drains(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.lives(lambda: stage.primary.close())
    assert stage.server.drains == [True]
    assert stage.life.is_orphan
    assert stage.listener.fileno() == -1
    assert len(stage.server.watched) == 1
    assert "the primary is dead: draining" in caplog.text


def test_an_orphans_patience_ends(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.server.connections = 1

    def pass_time(seconds: float) -> Callable[[], None]:
        def turn() -> None:
            stage.now += seconds

        return turn

    stage.lives(lambda: stage.primary.close(), pass_time(10), pass_time(19), pass_time(1))
    assert stage.server.waits == [-1, 30001, 20001, 1001]
    assert "connections are cut" in caplog.text


def test_the_primary_dies_during_a_drain(stage: Stage) -> None:
    stage.server.connections = 1

    def finish() -> None:
        stage.server.connections = 0

    stage.lives(
        lambda: stage.primary.send({"drain": {"last": False}}),
        lambda: stage.primary.close(),
        finish,
    )
    assert stage.server.drains == [False, True]


def test_what_the_primary_says_besides_is_ignored(stage: Stage) -> None:
    def talk() -> None:
        messages: list[Any] = [None, [], {}, {"drain": {}}, {"drain": {"last": 1}}, {"x": 1}]
        for message in messages:
            stage.primary.send(message)

    def check() -> None:
        assert stage.server.drains == []
        stage.primary.send({"drain": {"last": False}})

    stage.lives(talk, check)


# ---- the application


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Config]]:
    """Write a module `proc_temporary` and return the Config that serves its `app`."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(text: str, **options: Any) -> Config:
        (tmp_path / "proc_temporary.py").write_text(text)
        sys.modules.pop("proc_temporary", None)
        return Config(app="proc_temporary:app", app_dir=str(tmp_path), **options)

    yield write
    sys.modules.pop("proc_temporary", None)


WSGI = "def app(environ, start_response): ..."
NATIVE = "def app(request): ..."
ASGI = "async def app(scope, receive, send): ..."


@pytest.mark.parametrize(
    ("text", "interface", "kind"),
    [
        (WSGI, "auto", WsgiHandler),
        (NATIVE, "auto", NativeHandler),
        ("def app(a, b): ...", "native", NativeHandler),
        ("def app(*arguments): ...", "wsgi", WsgiHandler),
        (ASGI, "auto", AsgiHandler),
        ("def app(*arguments): ...", "asgi", AsgiHandler),
    ],
)
def test_the_handler_fits_the_application(
    module: Callable[..., Config], text: str, interface: str, kind: type
) -> None:
    handler = worker.make_handler(module(text, interface=interface))
    assert type(handler) is kind


@pytest.mark.parametrize(("text", "loop"), [(WSGI, None), (NATIVE, None), (ASGI, "asyncio")])
def test_only_asgi_has_a_loop(module: Callable[..., Config], text: str, loop: str | None) -> None:
    config = module(text, loop="asyncio")
    guest = worker.make_guest(worker.make_handler(config), config, logging.getLogger())
    assert (guest is None) == (loop is None)
    if guest is not None:
        guest.close()


class FakeDriver:
    """Drives the server as guest.Guest does, but in the test's own steps."""

    def __init__(self) -> None:
        self.ends = 0

    def drive(
        self, server: FakeServer, after_turn: Callable[[], object], graceful_s: float
    ) -> None:
        assert graceful_s == 30.0
        while not self.ends:
            server.run(0)
            after_turn()

    def begin_end(self) -> None:
        self.ends += 1


def test_a_driver_takes_the_turns_and_hears_of_the_drain() -> None:
    driver = FakeDriver()
    stage = Stage(driver)
    stage.lives(
        nothing,
        lambda: stage.primary.send({"drain": {"last": False}}),
    )
    assert driver.ends == 1
    assert stage.server.drains == [False]
    assert stage.heard() == []
    stage.close()


def told(send: Callable[[Channel], object]) -> bool:
    primary, own = channels.pair()
    send(primary)
    try:
        return worker._is_told_to_leave(own)
    finally:
        primary.close()
        own.close()


def test_what_tells_a_worker_to_leave_before_it_serves() -> None:
    assert told(lambda primary: primary.close())
    assert told(lambda primary: primary.send({"drain": {"last": True}}))
    assert not told(lambda primary: primary.send({"other": 1}))
    assert not told(lambda primary: primary.send(None))


def test_no_application_is_one_sentence() -> None:
    with pytest.raises(AppLoadError, match="module:name"):
        worker.make_handler(Config())


def report_of(config: Config) -> str:
    """Let a worker fail as main() does and return what the primary hears."""
    primary, own = channels.pair()
    try:
        worker.make_handler(config)
    except BaseException as error:
        assert worker.report(own, error) == EXIT_APP
    [(message, _)] = primary.receive()
    primary.close()
    own.close()
    text = message["failed"]
    assert isinstance(text, str)
    return text


def test_an_error_of_the_application_comes_with_its_frames_alone(
    module: Callable[..., Config],
) -> None:
    report = report_of(module("def deep():\n    return 1 / 0\n\ndeep()\n"))
    assert "ZeroDivisionError: division by zero" in report
    assert report.count('File "') == 2
    assert report.count("proc_temporary.py") == 2
    assert "fastcluster" not in report.replace(APPS, "")


def test_a_mistake_is_one_line(module: Callable[..., Config]) -> None:
    report = report_of(module("other = 1"))
    assert "\n" not in report
    assert "has no 'app'" in report


def test_an_error_of_ours_comes_whole() -> None:
    try:
        raise RuntimeError("our own mistake")
    except RuntimeError as error:
        text = worker.describe(error)
    assert text.startswith("internal error\nTraceback")
    assert "our own mistake" in text


def test_a_report_is_bounded_and_keeps_both_ends(module: Callable[..., Config]) -> None:
    report = report_of(module("raise ValueError('begin ' + 'x' * 1_000_000 + ' end')"))
    assert len(report) <= worker.REPORT_CHARS + 10
    assert "begin" in report
    assert report.endswith("end")


def test_a_primary_that_does_not_listen_is_not_waited_for(
    module: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "REPORT_TIMEOUT_S", 0.01)
    primary, own = channels.pair()
    fill(own)
    assert worker.report(own, RuntimeError("x")) == EXIT_APP
    primary.close()
    own.close()


def fill(channel: Channel) -> None:
    while not channel.wants_write:
        channel.send("x" * 10_000)


# ---- what the primary asks of a worker that serves


def test_a_beat_is_heard_and_needs_no_answer(stage: Stage) -> None:
    stage.lives(
        lambda: stage.primary.send({"beat": {}}),
        lambda: stage.primary.send({"drain": {"last": False}}),
    )
    assert stage.heard() == []


def test_reopened_logs_are_taken_and_their_descriptors_closed(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[list[str], int]] = []
    monkeypatch.setattr(
        worker, "take_files", lambda names, fds: taken.append((names, os.fstat(fds[0]).st_ino))
    )
    path = tmp_path / "new.log"
    path.touch()
    fd = os.open(path, os.O_WRONLY)
    before = len(os.listdir("/proc/self/fd"))
    stage.lives(
        lambda: stage.primary.send({"reopen": ["error"]}, [fd]),
        lambda: stage.primary.send({"drain": {"last": False}}),
    )
    assert taken == [(["error"], path.stat().st_ino)]
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)


@pytest.mark.parametrize(
    ("loop", "complaint"),
    [
        ("nope:x", "--loop nope:x: No module named 'nope'"),
        ("asyncio:nope", "--loop asyncio:nope: module 'asyncio' has no attribute 'nope'"),
        ("asyncio:__name__", "--loop asyncio:__name__: str makes no loop: name a factory"),
        ("asyncio:new_event_loop", None),
        ("auto", None),
    ],
)
def test_a_loop_that_there_is_not_is_told_also_where_none_is_needed(
    loop: str, complaint: str | None
) -> None:
    config = Config(app="proc_app:app", app_dir=str(APPS), loop=loop)
    handler = worker.make_handler(config)
    if complaint is None:
        assert worker.make_guest(handler, config, logging.getLogger()) is None
        return
    with pytest.raises(AppLoadError) as caught:
        worker.make_guest(handler, config, logging.getLogger())
    assert caught.value.message == complaint
