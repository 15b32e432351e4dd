"""The control socket with a fake primary: requests, refusals, bounds and patience."""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from fastcluster import control
from fastcluster.control import (
    CLIENTS_MOST,
    HEAD_MOST_BYTES,
    PATIENCE_S,
    PAUSE_S,
    Control,
    Refused,
)
from fastcluster.renewal import Renewal, TellEnd
from fastcluster.upgrade import CannotUpgrade


class FakePrimary:
    """Remembers what it was asked for; a test ends the orders."""

    def __init__(self) -> None:
        self.did: list[Any] = []
        self.orders: list[Renewal] = []
        self.state = "serving"

    def status(self, histograms: bool = False) -> dict[str, Any]:
        more = {"histograms": True} if histograms else {}
        return {"state": self.state, "pid": 1, **more}

    def reload(self, on_end: TellEnd | None = None) -> Renewal:
        self.did.append("reload")
        self.orders.append(Renewal("reload", [], on_end))
        return self.orders[-1]

    def drain(self, number: int | None = None, on_end: TellEnd | None = None) -> Renewal:
        self.did.append(("drain", number))
        self.orders.append(Renewal("drain", [], on_end))
        return self.orders[-1]

    def upgrade(self, on_end: TellEnd | None = None) -> Renewal:
        if "upgrade" in self.did:
            raise CannotUpgrade("an upgrade is under way: wait for its end")
        self.did.append("upgrade")
        self.orders.append(Renewal("upgrade", [], on_end))
        return self.orders[-1]

    def restart(self, number: int, on_end: TellEnd | None = None) -> Renewal:
        if number > 1:
            raise LookupError(f"there is no worker {number}")
        self.did.append(("restart", number))
        self.orders.append(Renewal(f"restart of worker {number}", [], on_end))
        return self.orders[-1]

    def scale(self, wanted: int) -> None:
        if wanted > 4:
            raise ValueError("too many")
        self.did.append(("scale", wanted))

    def stop(self) -> None:
        self.did.append("stop")
        self.state = "stopping"

    def kill_all(self) -> None:
        self.did.append("kill_all")


class Desk:
    """A control with a clock of the test's own, driven as the primary's loop drives it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.primary = FakePrimary()
        self.listener = socket.socket(socket.AF_UNIX)
        # An abstract address that the kernel chooses.
        self.listener.bind("")
        self.listener.listen(64)
        self.listener.setblocking(False)
        self.address = self.listener.getsockname()
        log = logging.getLogger("fastcluster")
        self.control = Control("app", self.listener, self.primary, log, lambda: self.now_s)
        self.clients: list[socket.socket] = []

    def turn(self) -> None:
        """Take turns until nothing is ready."""
        while True:
            poll = select.poll()
            for fd, events in self.control.interests().items():
                poll.register(fd, events)
            ready = poll.poll(0)
            for fd, events in ready:
                self.control.happened(fd, events)
            self.control.settle()
            if not ready:
                return

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(self.address)
        self.clients.append(client)
        return client

    def send(self, data: bytes) -> socket.socket:
        client = self.connect()
        client.sendall(data)
        self.turn()
        return client

    def ask(self, line: str, body: str = "") -> tuple[int, dict[str, Any]]:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        return answer(self.send(f"{line} HTTP/1.1\r\nHost: x\r\n{length}\r\n{body}".encode()))

    def has_answered(self, client: socket.socket) -> bool:
        self.turn()
        return bool(select.select([client], [], [], 0)[0])


def answer(client: socket.socket) -> tuple[int, dict[str, Any]]:
    """Read to the end, which comes with each answer."""
    data = b""
    while more := client.recv(65536):
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    return int(head.split()[1]), json.loads(body)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.control.close()
    for client in desk.clients:
        client.close()


def test_status(desk: Desk) -> None:
    assert desk.ask("GET /status") == (200, {"name": "app", "state": "serving", "pid": 1})
    assert desk.control.next_deadline() is None
    assert desk.ask("GET /status?histograms=1")[1]["histograms"] is True


@pytest.mark.parametrize(("line", "body"), [("?workers=3", ""), ("", "workers=3")])
def test_scale(desk: Desk, line: str, body: str) -> None:
    status, content = desk.ask(f"POST /scale{line}", body)
    assert (status, content["name"]) == (200, "app")
    assert desk.primary.did == [("scale", 3)]


def test_a_reload_is_answered_when_it_is_over(desk: Desk) -> None:
    client = desk.send(b"POST /reload HTTP/1.1\r\n\r\n")
    assert not desk.has_answered(client)
    desk.now_s += 1000
    assert not desk.has_answered(client)
    desk.primary.orders[0].end_if_done()
    status, content = answer(client)
    assert (status, content["done"]) == (200, "reload")


def test_a_reload_that_fails_says_why(desk: Desk) -> None:
    client = desk.send(b"POST /reload HTTP/1.1\r\n\r\n")
    desk.primary.orders[0].fail("ImportError: no\nTraceback")
    assert answer(client) == (500, {"error": "ImportError: no\nTraceback", "order": "reload"})


def test_a_drain_of_all_and_of_one(desk: Desk) -> None:
    clients = [desk.send(f"POST /drain{q} HTTP/1.1\r\n\r\n".encode()) for q in ("", "?worker=3")]
    assert desk.primary.did == [("drain", None), ("drain", 3)]
    for client, order in zip(clients, desk.primary.orders, strict=True):
        assert not desk.has_answered(client)
        order.end_if_done()
        assert answer(client)[1]["done"] == "drain"


def test_a_second_upgrade_is_refused_and_clients_go_to_the_heir(desk: Desk) -> None:
    client = desk.send(b"POST /upgrade HTTP/1.1\r\n\r\n")
    assert not desk.has_answered(client)
    status, content = desk.ask("POST /upgrade")
    assert (status, "under way" in content["error"]) == (409, True)
    # The old primary closes its copy of the socket, and answers whom it has.
    desk.control.leave_to_heir()
    desk.turn()
    assert not desk.has_answered(client)
    desk.primary.orders[0].end_if_done()
    assert answer(client)[0] == 200


def test_who_leaves_while_it_waits_is_forgotten(desk: Desk) -> None:
    client = desk.send(b"POST /reload HTTP/1.1\r\n\r\n")
    client.close()
    desk.turn()
    assert desk.control.sockets() == [desk.listener]
    desk.primary.orders[0].end_if_done()


def test_a_half_closed_client_is_answered(desk: Desk) -> None:
    client = desk.connect()
    client.sendall(b"POST /restart?worker=1 HTTP/1.1\r\n\r\n")
    client.shutdown(socket.SHUT_WR)
    desk.turn()
    assert desk.primary.did == [("restart", 1)]
    desk.primary.orders[0].end_if_done()
    assert answer(client)[0] == 200


def test_nobody_need_wait(desk: Desk) -> None:
    for path in ("/reload?wait=0", "/restart?worker=0&wait=0", "/stop?wait=0"):
        assert desk.ask(f"POST {path}") == (202, {"accepted": True})
    assert desk.primary.did == ["reload", ("restart", 0), "stop"]


def test_a_stop_is_answered_at_the_end(desk: Desk) -> None:
    first = desk.send(b"POST /stop HTTP/1.1\r\n\r\n")
    second = desk.send(b"POST /stop HTTP/1.1\r\n\r\n")
    assert desk.primary.did == ["stop"]  # the second would kill
    reload = desk.send(b"POST /reload HTTP/1.1\r\n\r\n")
    desk.control.close()
    assert answer(first) == answer(second) == (200, {"stopped": True})
    assert answer(reload) == (503, {"error": "the server has ended"})


def test_a_stop_at_once(desk: Desk) -> None:
    desk.send(b"POST /stop?now=1 HTTP/1.1\r\n\r\n")
    assert desk.primary.did == ["kill_all"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET /reload HTTP/1.1\r\n\r\n", 405),
        (b"POST /status HTTP/1.1\r\n\r\n", 405),
        (b"POST /scale HTTP/1.1\r\n\r\n", 400),
        (b"POST /scale?workers=-1 HTTP/1.1\r\n\r\n", 400),
        (b"POST /scale?workers=5 HTTP/1.1\r\n\r\n", 400),
        (b"POST /restart?worker=7 HTTP/1.1\r\n\r\n", 404),
        (b"nonsense\r\n\r\n", 400),
        (b"GET status HTTP/1.1\r\n\r\n", 400),
        (b"GET /status HTTP/2\r\n\r\n", 400),
        (b"\xff\xfe\r\n\r\n", 400),
        (b"POST /scale HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /scale HTTP/1.1\r\nContent-Length: 4097\r\n\r\n", 413),
        (b"POST /scale HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /scale HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST /scale?" + b"a=1&" * 17 + b" HTTP/1.1\r\n\r\n", 400),
        (b"G" * (HEAD_MOST_BYTES + 1), 431),
    ],
)
def test_what_is_refused(desk: Desk, request_: bytes, status: int) -> None:
    got, content = answer(desk.send(request_))
    assert got == status
    assert content["error"]
    assert desk.primary.did == []
    assert desk.control.sockets() == [desk.listener]


def test_405_names_the_method(desk: Desk) -> None:
    client = desk.send(b"GET /reload HTTP/1.1\r\n\r\n")
    assert b"\r\nAllow: POST\r\n" in client.recv(65536)


def test_a_request_may_come_byte_by_byte() -> None:
    whole = b"POST /scale HTTP/1.1\r\nContent-Length: 9\r\n\r\nworkers=3"
    assert [control.parse(whole[:n]) for n in range(len(whole))] == [None] * len(whole)
    assert control.parse(whole) == ("POST", "/scale", {"workers": "3"})


def test_who_says_nothing_is_cut_off(desk: Desk) -> None:
    silent = desk.connect()
    desk.turn()
    assert desk.control.next_deadline() == desk.now_s + PATIENCE_S
    desk.now_s += PATIENCE_S / 2
    assert not desk.has_answered(silent)
    # Nor does a byte now and then buy time.
    silent.sendall(b"G")
    desk.turn()
    desk.now_s += PATIENCE_S / 2
    desk.turn()
    assert silent.recv(1) == b""


def test_more_clients_than_are_served_wait_their_turn(desk: Desk) -> None:
    for _ in range(CLIENTS_MOST):
        desk.connect()
    desk.turn()
    assert len(desk.control.sockets()) == 1 + CLIENTS_MOST
    late = desk.send(b"GET /status HTTP/1.1\r\n\r\n")
    assert not desk.has_answered(late)
    desk.now_s += PATIENCE_S
    desk.turn()  # cuts off the silent
    desk.turn()
    assert answer(late)[0] == 200


def test_without_descriptors_the_loop_does_not_spin(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoneLeft:
        def fileno(self) -> int:
            return desk.listener.fileno()

        def accept(self) -> None:
            raise OSError(errno.EMFILE, "no descriptor left")

    client = desk.connect()
    client.sendall(b"GET /status HTTP/1.1\r\n\r\n")
    with monkeypatch.context() as patch:
        patch.setattr(desk.control, "_listener", NoneLeft())
        desk.turn()
        assert desk.control.interests() == {}
        assert desk.control.next_deadline() == desk.now_s + PAUSE_S
    desk.now_s += PAUSE_S
    desk.turn()
    desk.turn()
    assert answer(client)[0] == 200


def test_who_takes_no_answer_is_cut_off(desk: Desk) -> None:
    desk.primary.status = lambda histograms=False: {"much": "x" * 8_000_000}  # type: ignore[method-assign]
    desk.send(b"GET /status HTTP/1.1\r\n\r\n")
    assert len(desk.control.sockets()) == 2
    desk.now_s += PATIENCE_S
    desk.turn()
    assert desk.control.sockets() == [desk.listener]


def test_a_large_answer_arrives_whole(desk: Desk) -> None:
    desk.primary.status = lambda histograms=False: {"much": "x" * 1_000_000}  # type: ignore[method-assign]
    client = desk.send(b"GET /status HTTP/1.1\r\n\r\n")
    data = b""
    while more := client.recv(65536):
        data += more
        desk.turn()
    assert data.count(b"x") == 1_000_000


@pytest.mark.parametrize(("uid", "status"), [(0, 200), (os.geteuid(), 200), (4711, 403)])
def test_only_our_user_and_root_are_served(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, uid: int, status: int
) -> None:
    monkeypatch.setattr(control, "peer_of", lambda sock: (1, uid))
    assert desk.ask("GET /status")[0] == status


def test_the_kernel_says_who_it_is() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert control.peer_of(ours) == (os.getpid(), os.geteuid())


def test_whole_numbers() -> None:
    assert control.whole_of({"n": "12"}, "n") == 12
    for text in ("", "1.5", "-1", "²", "9" * 10):
        with pytest.raises(Refused, match="wants a whole number"):
            control.whole_of({"n": text}, "n")
