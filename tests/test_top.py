"""fastcluster top: through a pseudo-terminal with a real server, and as one table without."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from seen_parts import REQUEST, status, worker
from test_processes import DEADLINE_S, Start, start

from fastcluster import cli, control_client, control_commands, top
from fastcluster.errors import ControlError, UsageError
from fastcluster.sampling import Sampler

__all__ = ["start"]
TARGET = control_client.Target("app", "/nowhere")


class Terminal:
    """`fastcluster top` in a pseudo-terminal of 120 by 30."""

    def __init__(self) -> None:
        self.output = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            words = [sys.executable, "-m", "fastcluster", "top", "--interval", "0.1"]
            os.environ.update(TERM="xterm", COLUMNS="120", LINES="30")
            os.execv(words[0], words)
        self.before = termios.tcgetattr(self.fd)

    def expect(self, *words: str, after: int = 0) -> int:
        """Wait until it has written all that; return how much it has written by then."""
        deadline = time.monotonic() + DEADLINE_S
        while not all(word in self.output[after:] for word in words):
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.fd], [], [], left)[0], self.output
            try:
                self.output += os.read(self.fd, 65536).decode("utf-8", "replace")
            except OSError as error:
                raise AssertionError(f"{words} never came, but:\n{self.output}") from error
        return len(self.output)

    def press(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def exit_code(self) -> int:
        with contextlib.suppress(OSError):
            while data := os.read(self.fd, 65536):
                self.output += data.decode("utf-8", "replace")
        _, code = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(code)

    def end(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


def test_a_terminal(start: Start, runtime_folder: Path) -> None:
    cluster = start("--workers", "1", "--max-workers", "2")
    [first] = cluster.ready(1)
    cluster.get()
    terminal = Terminal()
    try:
        at = terminal.expect("1 of 1 workers ready", str(first), "GET /", "q quit")
        terminal.press("+")
        second = cluster.ready(2)[1]
        at = terminal.expect("2 workers wanted", "2 of 2 workers ready", str(second), after=at)
        terminal.press("+")
        at = terminal.expect("not 3", after=at)  # refused, and it goes on
        terminal.press("\x1b[Bw")
        at = terminal.expect("restart of worker 1 asked for", after=at)
        third = cluster.ready(3)[2]
        at = terminal.expect(str(third), after=at)
        terminal.press("r")
        cluster.expect("reload: done")
        terminal.expect("reload asked for", after=at)
        terminal.press("q")
        assert terminal.exit_code() == 0
        assert "\x1b[?1049l" in terminal.output  # the screen as it was
    finally:
        terminal.end()


def test_a_server_that_ends_ends_it(start: Start, runtime_folder: Path) -> None:
    cluster = start("--workers", "1")
    cluster.ready(1)
    terminal = Terminal()
    try:
        terminal.expect("workers ready")
        cluster.signal(signal.SIGTERM)
        assert terminal.exit_code() == 1
        assert "fastcluster: cannot reach proc_app:app" in terminal.output
    finally:
        terminal.end()


def test_one_table_where_nobody_looks(
    start: Start, runtime_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = start("--workers", "1")
    [pid] = cluster.ready(1)
    cluster.get()
    assert cli.main(["top", "--interval", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "proc_app:app: serving, 1 of 1 workers ready, 0 restarts"
    assert lines[3].split() == list(top.HEADS)
    assert lines[4].split()[:3] == ["0", str(pid), "ready"] and "GET /" in lines[4]
    assert cli.main(["top", "--interval", "0.1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["workers"][0]["pid"] == pid


def test_without_rich_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True)
    with pytest.raises(UsageError, match=r"pip install 'fastcluster-server\[rich\]'"):
        top.run(TARGET, print, control_commands.table, every_s=1, as_json=False)


# ---- keys and words


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the server was asked for; it refuses to scale beyond two."""
    found: list[tuple[Any, ...]] = []

    def ask(target: control_client.Target, what: str, **given: int) -> dict[str, Any]:
        if what == "status":
            return status(worker(7, 50), worker(8, 10, 1))
        if given.get("workers", 0) > 2:
            raise ControlError("too many")
        found.append((what, given))
        return {}

    monkeypatch.setattr(control_client, "ask", ask)
    return found


@pytest.mark.parametrize(
    ("keys", "orders"),
    [
        ("r", [("reload", {"wait": 0})]),
        ("-", [("scale", {"workers": 1})]),
        ("---", [("scale", {"workers": 1})]),
        ("+", []),
        ("w", [("restart", {"worker": 0, "wait": 0})]),
        ("\x1b[Bw", [("restart", {"worker": 1, "wait": 0})]),
        ("jjjjkw", [("restart", {"worker": 0, "wait": 0})]),
        ("xyz\x1b", []),
    ],
)
def test_keys(asked: list[tuple[Any, ...]], keys: str, orders: list[Any]) -> None:
    view = top.Top(TARGET, 1.0)
    view._take()
    assert view.obey(keys)
    assert asked == orders
    assert not view.obey("q") and not view.obey("\x03")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (8.5e-5, "85us"), (1.234e-3, "1.23ms"), (0.25, "250ms"), (3.4, "3.4s")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert top.duration(seconds) == text


def test_sparklines() -> None:
    assert top.sparkline([]) == "" and top.sparkline([0, 0]) == "▁▁"
    assert top.sparkline([0, 50, 100]) == "▁▄█"


def test_what_a_client_sent_moves_no_cursor() -> None:
    evil = {**worker(7, 1), "request": {**REQUEST, "line": "GET /\x1b[2J\r\n"}}
    sample = Sampler().take(status(evil), 1.0)
    lay_out: Callable[..., list[str]] = control_commands.table
    assert "GET /?[2J?? for 2.0 s" in top.described(sample, lay_out)
