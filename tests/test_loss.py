"""Ten reloads in a row under load: every request that was sent is answered, whole and once.

The clients count.  Half of them keep their connection for as long as the server does, and
leave it when an answer says so; the others open one for every request.  None tries again:
whatever is refused, reset, cut off or late is a failure.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections import Counter

import pytest
from test_processes import DEADLINE_S, Cluster, Start, start

__all__ = ["start"]

RELOADS = 10
CLIENTS = 4


class Client(threading.Thread):
    """Sends one request after the other until it is told to stop, and counts by pid."""

    def __init__(self, port: int, keeps: bool) -> None:
        super().__init__(daemon=True)
        self.port, self.keeps = port, keeps
        self.answers: Counter[str] = Counter()
        self.connections = 0
        self.failure: str | None = None
        self.enough = threading.Event()

    def run(self) -> None:
        word = "keep-alive" if self.keeps else "close"
        self.request = f"GET / HTTP/1.1\r\nHost: test\r\nConnection: {word}\r\n\r\n".encode()
        try:
            while not self.enough.is_set():
                self.use_a_connection()
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE_S)

    def use_a_connection(self) -> None:
        with self.connect() as sock:
            self.connections += 1
            while not self.enough.is_set():
                sock.sendall(self.request)
                if not self.take_answer(sock):
                    assert sock.recv(1) == b"", "more than one answer"
                    return

    def take_answer(self, sock: socket.socket) -> bool:
        """Count one whole answer; return whether the connection goes on."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = sock.recv(65536)
            assert more, f"closed after {data!r}"
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while len(body) < length:
            more = sock.recv(65536)
            assert more, f"cut off after {body!r}"
            body += more
        assert len(body) == length, "more than one answer"
        self.answers[body.decode()] += 1
        return b"connection: close" not in head.lower()


def load(cluster: Cluster) -> list[Client]:
    clients = [Client(cluster.port, keeps) for keeps in (True, False) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    return clients


def reload(cluster: Cluster, times: int) -> None:
    for done in range(1, times + 1):
        cluster.signal(signal.SIGHUP)
        cluster.expect("reload: done", done)


@pytest.mark.parametrize("batch", ["1", "2"])
def test_ten_reloads_lose_nothing(start: Start, batch: str) -> None:
    cluster = start("--workers", "2", "--reload-batch", batch)
    cluster.ready(2)
    clients = load(cluster)
    reload(cluster, RELOADS)
    for client in clients:
        client.enough.set()
    for client in clients:
        client.join(DEADLINE_S)
    assert not any(client.is_alive() for client in clients)
    assert [client.failure for client in clients] == [None] * len(clients)
    answers = sum((client.answers for client in clients), Counter())
    # All generations had their part of the load, so it did go on meanwhile.
    assert len(answers) > RELOADS
    for client in clients:
        assert client.connections > (1 if client.keeps else RELOADS)
    assert not cluster.said("killed")
    assert not cluster.said("ERROR")


def test_workers_that_are_worn_all_the_time_lose_nothing(start: Start) -> None:

    cluster = start("--workers", "2", "--max-requests", "50", "--max-requests-jitter", "50")
    cluster.ready(2)
    clients = load(cluster)
    cluster.expect("has drained and left", 4)
    for client in clients:
        client.enough.set()
    for client in clients:
        client.join(DEADLINE_S)
    assert not any(client.is_alive() for client in clients)
    assert [client.failure for client in clients] == [None] * len(clients)
    assert not cluster.said("ERROR")
