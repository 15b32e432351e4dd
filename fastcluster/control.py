"""The control socket's side in the primary: what people and scripts ask of a running server.

HTTP/1.1 and JSON on a unix socket, one request for each connection, so that curl can do
what `fastcluster reload` does.  The law: nothing here waits, blocks or grows without
bounds; the primary's loop says what is ready, and a client that says nothing, or does not
take its answer, is cut off.  It decides nothing about workers: it asks primary.Primary.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qs

from fastcluster.renewal import Renewal, TellEnd
from fastcluster.upgrade import CannotUpgrade

HEAD_MOST_BYTES = 8192
BODY_MOST_BYTES = 4096
RECEIVE_BYTES = 16384
CLIENTS_MOST = 32
# So long a client has to send its request, and then to take its answer.
PATIENCE_S = 5.0
# After an accept that failed.
PAUSE_S = 0.1

Answer = tuple[int, Mapping[str, Any]]


class PrimaryLike(Protocol):
    """What is asked of primary.Primary."""

    def status(self, histograms: bool = False) -> dict[str, Any]: ...
    def reload(self, on_end: TellEnd | None = None) -> Renewal: ...
    def restart(self, number: int, on_end: TellEnd | None = None) -> Renewal: ...
    def drain(self, number: int | None = None, on_end: TellEnd | None = None) -> Renewal: ...
    def upgrade(self, on_end: TellEnd | None = None) -> Renewal: ...
    def scale(self, wanted: int) -> None: ...
    def stop(self) -> None: ...
    def kill_all(self) -> None: ...


class Refused(Exception):
    """A request that is answered with an error; says why, in words for its sender."""

    def __init__(self, status: int, why: str, allow: str = "") -> None:
        super().__init__(why)
        self.status = status
        self.allow = allow  # the method that there is, for 405


class Client:
    """One connection: it sends a request, may wait for what that leads to, and is answered."""

    def __init__(self, sock: socket.socket, deadline_s: float, who: str) -> None:
        self.socket = sock
        self.deadline_s: float | None = deadline_s
        self.who = who
        self.received = b""
        self.head = b""  # of its request, once that is whole
        self.unsent: bytes | None = None  # None: there is no answer yet
        self.is_waiting = False
        self.wants_end = False  # it waits for the end of the server
        self.is_closed = False
        self.is_stranger = False  # neither our user nor root

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        return self.socket.fileno()

    @property
    def interest(self) -> int:
        """What to poll for; one that waits only tells of its hang-up, which is always told."""
        if self.unsent is not None:
            return select.POLLOUT
        return 0 if self.is_waiting else select.POLLIN

    def close(self) -> None:
        """Hang up; may be repeated."""
        self.is_closed = True
        self.socket.close()


class Control:
    """The control socket and its clients.

    listener: listens, does not block, and is closed with this.  is_open: False lets clients
    wait in its queue until `open()`, for as long as another primary serves them.  The owner
    polls for what `interests()` says, calls `happened()` for what it is told, and `settle()`
    in every turn; `next_deadline()` says when that has something to do.
    """

    def __init__(
        self,
        name: str,
        listener: socket.socket,
        primary: PrimaryLike,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        *,
        is_open: bool = True,
    ) -> None:
        self.name = name
        self._is_open = is_open
        self._listener = listener
        self._primary = primary
        self._log = log
        self._now = clock
        self._clients: dict[int, Client] = {}
        self._accepts_s: float | None = None  # accepting pauses until then

    # ---- what the owner calls

    def interests(self) -> dict[int, int]:
        """Return the descriptors to poll, each with its events."""
        wanted = {fd: client.interest for fd, client in self._clients.items()}
        # Others wait in the socket's queue meanwhile.
        if self._is_open and len(self._clients) < CLIENTS_MOST and self._accepts_s is None:
            wanted[self._listener.fileno()] = select.POLLIN
        return wanted

    def open(self) -> None:
        """Serve clients from now on."""
        self._is_open = True

    def leave_to_heir(self) -> None:
        """Take no more clients: another primary serves the same socket; ours are answered."""
        self._is_open = False
        self._listener.close()

    def happened(self, fd: int, events: int) -> None:
        """Do what follows from what the poll says of one of our descriptors."""
        if fd == self._listener.fileno():
            self._accept()
            return
        client = self._clients.get(fd)
        if client is None:
            return
        if client.unsent is not None:
            self._send(client)
        elif client.is_waiting:
            self._drop(client)  # what it has asked for goes on
        else:
            self._receive(client)

    def settle(self) -> None:
        """Cut off those whose time is over."""
        now = self._now()
        if self._accepts_s is not None and self._accepts_s <= now:
            self._accepts_s = None
        for client in list(self._clients.values()):
            if client.deadline_s is not None and client.deadline_s <= now:
                self._drop(client)

    def next_deadline(self) -> float | None:
        """Return the moment at which `settle()` has something to do, if any is known."""
        moments = [self._accepts_s, *(client.deadline_s for client in self._clients.values())]
        return min((moment for moment in moments if moment is not None), default=None)

    def sockets(self) -> list[socket.socket]:
        """Return what a forked worker must not keep."""
        return [self._listener, *(client.socket for client in self._clients.values())]

    def close(self) -> None:
        """Tell those who wait that the server has ended, and hang up."""
        for client in list(self._clients.values()):
            if client.is_waiting and client.wants_end:
                self._answer(client, 200, {"stopped": True})
            elif client.is_waiting:
                self._answer(client, 503, {"error": "the server has ended"})
            self._drop(client)
        self._listener.close()

    # ---- connections

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            # It is gone already, or no descriptor is left: then it would be told in every
            # turn, and the loop would spin.
            self._accepts_s = self._now() + PAUSE_S
            return
        sock.setblocking(False)
        client = self._greet(sock)
        self._clients[client.fileno()] = client

    def _greet(self, sock: socket.socket) -> Client:
        pid, uid = peer_of(sock)
        client = Client(sock, self._now() + PATIENCE_S, f"process {pid} of user {uid}")
        client.is_stranger = uid not in (os.geteuid(), 0)
        return client

    def _receive(self, client: Client) -> None:
        try:
            data = client.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        client.received += data
        try:
            request = parse(client.received)
            if request is not None:
                client.head, client.received = client.received, b""
                self._obey(client, *request)
        except Refused as refused:
            self._answer(client, refused.status, {"error": str(refused)}, refused.allow)

    def _answer(
        self, client: Client, status: int, content: Mapping[str, Any], allow: str = ""
    ) -> None:
        if client.is_closed:
            return
        client.is_waiting = False
        client.unsent = response(status, content, allow)
        client.deadline_s = self._now() + PATIENCE_S
        self._send(client)

    def _send(self, client: Client) -> None:
        assert client.unsent is not None
        try:
            client.unsent = client.unsent[client.socket.send(client.unsent) :]
        except BlockingIOError:
            return
        except OSError:
            client.unsent = b""
        if not client.unsent:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        if not client.is_closed:
            del self._clients[client.fileno()]
            client.close()

    # ---- requests

    def _obey(self, client: Client, method: str, path: str, words: dict[str, str]) -> None:
        if client.is_stranger:
            self._log.warning("control: %s is neither our user nor root: refused", client.who)
            raise Refused(403, "this server belongs to another user")
        name = ROUTES.get(path)
        if name is None:
            known = ", ".join(ROUTES)
            raise Refused(404, f"there is no {path}: {known} are there")
        wanted = "GET" if path == "/status" else "POST"
        if method != wanted:
            raise Refused(405, f"{path} wants {wanted}, not {method}", wanted)
        if method == "POST":
            self._log.info("control: %s asks for %s", client.who, path[1:])
        getattr(self, name)(client, words)

    def _status(self, client: Client, words: dict[str, str]) -> None:
        status = self._primary.status(words.get("histograms") == "1")
        self._answer(client, 200, {"name": self.name, **status})

    def _reload(self, client: Client, words: dict[str, str]) -> None:
        self._await(client, words, self._primary.reload)

    def _upgrade(self, client: Client, words: dict[str, str]) -> None:
        self._await(client, words, self._primary.upgrade)

    def _restart(self, client: Client, words: dict[str, str]) -> None:
        number = whole_of(words, "worker")
        self._await(client, words, lambda on_end: self._primary.restart(number, on_end))

    def _drain(self, client: Client, words: dict[str, str]) -> None:
        number = whole_of(words, "worker") if "worker" in words else None
        self._await(client, words, lambda on_end: self._primary.drain(number, on_end))

    def _scale(self, client: Client, words: dict[str, str]) -> None:
        try:
            self._primary.scale(whole_of(words, "workers"))
        except ValueError as error:
            raise Refused(400, str(error)) from error
        self._status(client, words)

    def _stop(self, client: Client, words: dict[str, str]) -> None:
        if words.get("wait") == "0":
            self._answer(client, 202, {"accepted": True})
        else:
            self._wait(client)
            client.wants_end = True
        if words.get("now") == "1":
            self._primary.kill_all()
        elif self._primary.status()["state"] != "stopping":
            # Asked twice, a stop becomes a kill: that is for those who say so.
            self._primary.stop()

    def _wait(self, client: Client) -> None:
        client.is_waiting = True
        client.deadline_s = None

    def _await(
        self, client: Client, words: dict[str, str], begin: Callable[[TellEnd | None], Renewal]
    ) -> None:
        """Begin something and answer when it is over, or at once if wait=0.  Raises Refused."""
        waits = words.get("wait") != "0"
        if waits:
            self._wait(client)
        try:
            begin(
                (lambda order: self._answer(client, *outcome(order, self._primary)))
                if waits
                else None
            )
        except LookupError as error:
            client.is_waiting = False
            raise Refused(404, str(error)) from error
        except CannotUpgrade as error:
            client.is_waiting = False
            raise Refused(409, str(error)) from error
        if not waits:
            self._answer(client, 202, {"accepted": True})


ROUTES = {
    "/status": "_status",
    "/reload": "_reload",
    "/scale": "_scale",
    "/restart": "_restart",
    "/drain": "_drain",
    "/upgrade": "_upgrade",
    "/stop": "_stop",
}


def outcome(order: Renewal, primary: PrimaryLike) -> Answer:
    """Return the answer that tells how an order ended: 200, or 500 with its error."""
    if order.error is not None:
        return 500, {"error": order.error, "order": order.name}
    return 200, {"done": order.name, **(order.news or {"status": primary.status()})}


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process at the other end of a unix socket (unix(7)).

    Where the kernel does not tell, 0 and our own: the file's mode has let it in.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return 0, os.geteuid()
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, option, 12))
    return pid, uid


def whole_of(words: Mapping[str, str], name: str) -> int:
    """Return a whole number that was given as a parameter; raises Refused."""
    text = words.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refused(400, f"{name}= wants a whole number, as in ?{name}=2")
    return int(text)


# ---- HTTP (RFC 9112), as much of it as a request to us needs


def parse(data: bytes) -> tuple[str, str, dict[str, str]] | None:
    """Return method, path and parameters of a request; None while it is not whole.

    Parameters come from the query, and from a body in the form of HTML's forms.  Raises
    Refused for what is none, or too large.
    """
    head, ended, body = data.partition(b"\r\n\r\n")
    if len(head) > HEAD_MOST_BYTES:
        raise Refused(431, f"a request's head has at most {HEAD_MOST_BYTES} bytes")
    if not ended:
        return None
    line, *fields = head.decode("latin-1").split("\r\n")
    parts = line.split(" ")
    if len(parts) != 3 or not parts[1].startswith("/") or not parts[2].startswith("HTTP/1."):
        raise Refused(400, "this is no HTTP/1.1 request")
    length = _body_bytes(fields)
    if len(body) < length:
        return None
    path, _, query = parts[1].partition("?")
    try:
        given = parse_qs(f"{query}&{body[:length].decode('latin-1')}", max_num_fields=16)
    except ValueError as error:
        raise Refused(400, "there are too many parameters") from error
    return parts[0], path, {name: values[-1] for name, values in given.items()}


def _body_bytes(fields: list[str]) -> int:
    length = 0
    for field in fields:
        name, _, value = field.partition(":")
        if name.lower() == "transfer-encoding":
            raise Refused(411, "say how long the body is (Content-Length)")
        if name.lower() == "content-length":
            text = value.strip()
            if not (text.isascii() and text.isdigit()):
                raise Refused(400, "Content-Length is no number")
            length = int(text) if len(text) < 10 else BODY_MOST_BYTES + 1
    if length > BODY_MOST_BYTES:
        raise Refused(413, f"a request's body has at most {BODY_MOST_BYTES} bytes")
    return length


def response(status: int, content: Mapping[str, Any], allow: str = "") -> bytes:
    """Return a whole response in JSON, after which the connection closes."""
    body = json.dumps(content).encode() + b"\n"
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        *(["WWW-Authenticate: Bearer"] if status == 401 else []),
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *([f"Allow: {allow}"] if allow else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
