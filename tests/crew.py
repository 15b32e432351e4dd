"""A crew: processes that share a listening socket, a scoreboard and inboxes.

They are made as the primary makes them, and each runs a real Server.  Tests wait
for what a worker says, never for luck, and end only the processes they started.
"""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, NoReturn

from fastcluster.config import Config
from fastcluster.native import NativeHandler
from fastcluster.request import Request
from fastcluster.server import Board, Server
from fastcluster.wsgi import WsgiHandler

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
DEADLINE_S = 20.0


def until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait until another process has made something true, with a bound."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.001)


class Worker:
    """A forked process that serves; what it is told and says goes over a socket."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self.pid, self.control = pid, control
        self.control.settimeout(DEADLINE_S)

    def say(self, word: bytes) -> None:
        self.control.send(word)

    def heard(self) -> bytes:
        return self.control.recv(1)

    def n_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def stop(self) -> None:
        """Have the kernel stop it, and wait until it has."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.control.close()

    def wait_gone(self) -> None:
        until(lambda: os.waitpid(self.pid, os.WNOHANG)[0], "its end")
        self.pid = -1


class Crew:
    """Workers on one listening socket, or several, and their scoreboard."""

    def __init__(self, n: int, *, n_listeners: int = 1, wsgi: bool = False, **options: Any) -> None:
        self.listeners = [
            socket.create_server(("127.0.0.1", 0), backlog=512) for _ in range(n_listeners)
        ]
        for listener in self.listeners:
            listener.setblocking(False)
        self.board = Board(n)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(n)]
        self.inboxes, self.outboxes = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        self.config, self.wsgi = Config(**options), wsgi
        self.workers: dict[int, Worker] = {}
        self.clients: list[socket.socket] = []
        for slot in range(n):
            self.fork(slot)

    def fork(self, slot: int) -> Worker:
        """Start a worker in a slot and wait until it takes connections."""
        self.board.take(slot)
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            # Else a client that the test closes would not be closed.
            for sock in [ours, *self.clients, *(w.control for w in self.workers.values())]:
                sock.close()
            self.live(slot, theirs)
        theirs.close()
        self.workers[slot] = Worker(pid, ours)
        assert self.workers[slot].heard() == b"r"
        self.wait_waiting(slot)
        return self.workers[slot]

    def live(self, slot: int, control: socket.socket) -> NoReturn:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            app, kind = self.application(slot, control), WsgiHandler if self.wsgi else NativeHandler
            server = Server(
                kind(app, self.config),
                self.config,
                board=self.board,
                slot=slot,
                inbox=self.inboxes[slot],
                outboxes=self.outboxes,
            )
            for listener in self.listeners:
                server.listen(listener)
            server.watch(control.fileno(), lambda: control.recv(1) and server.drain())
            server.ready()
            control.send(b"r")
            while not server.drained:
                server.turn()
            server.close()
            code = 0
        finally:
            os._exit(code)

    def application(self, slot: int, control: socket.socket) -> Any:
        def native(request: Request) -> object:
            if request.path == "/block":
                control.send(b"b")
                control.recv(1)
            return {"slot": slot, "client": list(request.client)}

        def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            start_response("200 OK", [])
            return [json.dumps({"slot": slot, "port": environ["SERVER_PORT"]}).encode()]

        return wsgi if self.wsgi else native

    def wait_waiting(self, *slots: int) -> None:
        """Wait until those workers, or all, wait in their poll."""
        for slot in slots or self.workers:
            until(lambda: self.board.read(slot)["waiting"], f"worker {slot}")  # noqa: B023

    def connect(self, listener: int = 0) -> socket.socket:
        client = socket.create_connection(self.listeners[listener].getsockname(), DEADLINE_S)
        self.clients.append(client)
        return client

    def counts(self) -> list[int]:
        return [self.board.read(slot)["connections"] for slot in range(self.board.slots)]

    def close(self) -> None:
        for worker in self.workers.values():
            if worker.pid > 0:
                worker.kill()
            worker.control.close()
        for sock in [*self.clients, *self.listeners, *self.inboxes, *self.outboxes]:
            sock.close()


def receive(client: socket.socket) -> tuple[bytes, dict[str, Any]]:
    """Receive one whole response; return its head and the JSON in its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        assert more, data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += client.recv(65536)
    assert head.startswith(b"HTTP/1.1 200 ")
    return head, json.loads(body)


def ask(client: socket.socket, path: bytes = b"/") -> dict[str, Any]:
    client.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    return receive(client)[1]
