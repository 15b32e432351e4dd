"""The service manager is a datagram socket of the test's own."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_processes import DEADLINE_S, Start, start

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
