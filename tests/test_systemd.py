"""The service manager is a datagram socket of the test's own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_processes import APPS, DEADLINE_S, Start, start

from fastcluster.systemd import Notifier

__all__ = ["start"]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(DEADLINE_S)
        yield sock


def told(manager: socket.socket) -> dict[str, str]:
    """Return the next datagram, as the assignments in it."""
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().split("\n"))


def test_what_is_told(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.tell("ready", "2 of 2\nworkers")
    assert told(manager) == {"STATUS": "2 of 2 workers", "READY": "1"}
    notifier.tell("reloading", "reloading")
    assert {"RELOADING": "1"}.items() <= (said := told(manager)).items()
    assert int(said["MONOTONIC_USEC"]) > 0
    notifier.tell("status", "resting")
    assert told(manager) == {"STATUS": "resting"}
    notifier.close()
    notifier.tell("ready", "")


@pytest.mark.parametrize("path", ["", "/nowhere/at/all", "@nobody-listens-here"])
def test_without_a_manager_nobody_is_told(path: str) -> None:
    Notifier(path).tell("ready", "ready")


def test_the_life_of_a_server(start: Start, manager: socket.socket) -> None:
    cluster = start("--workers", "1", NOTIFY_SOCKET=manager.getsockname())
    said = told(manager)
    assert said["READY"] == "1" and "1 of 1 worker ready on http://" in said["STATUS"]
    cluster.ready(1)
    cluster.signal(signal.SIGHUP)
    assert told(manager)["RELOADING"] == "1"
    assert told(manager)["READY"] == "1"
    cluster.signal(signal.SIGTERM)
    assert told(manager)["STOPPING"] == "1"
    assert cluster.exit_code() == 0


def test_signs_of_life(manager: socket.socket) -> None:
    now_s = 10.0
    notifier = Notifier(manager.getsockname(), watchdog_s=4.0, clock=lambda: now_s)
    assert notifier.next_beat() == 10.0
    notifier.beat()
    assert told(manager) == {"WATCHDOG": "1"}
    assert notifier.next_beat() == 12.0
    notifier.beat()
    notifier.tell("status", "nothing between")
    assert told(manager) == {"STATUS": "nothing between"}
    now_s = 12.0
    notifier.beat()
    assert told(manager) == {"WATCHDOG": "1"}
    notifier.close()
    assert notifier.next_beat() is None


def test_nobody_wants_signs_of_life(manager: socket.socket) -> None:
    assert Notifier(manager.getsockname()).next_beat() is None
    assert Notifier("", watchdog_s=1.0).next_beat() is None


def test_an_idle_primary_gives_signs_of_life(start: Start, manager: socket.socket) -> None:
    start("--workers", "1", NOTIFY_SOCKET=manager.getsockname(), WATCHDOG_USEC="40000")
    said = [told(manager) for _ in range(6)]
    assert sum("WATCHDOG" in words for words in said) >= 4


# What systemd does: the socket is descriptor 3, and LISTEN_PID the process that is executed.
ACTIVATE = """
import os, sys
fd = int(sys.argv[1])
os.dup2(fd, 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "fastcluster", "serve", *sys.argv[2:]])
"""


def test_a_socket_of_the_manager_is_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", ACTIVATE, str(listener.fileno())),
                *("proc_app:app", "--app-dir", str(APPS), "--workers", "1"),
            ],
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            # Nobody has bound anything else, so the client waits in this very socket.
            with socket.create_connection(listener.getsockname(), DEADLINE_S) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert f"listening on http://127.0.0.1:{port}\n" in log
