"""A tiny HTTP client for what is counted exactly: single answers and batches of them.

It speaks only to servers under test, whose answers to one request are always of the same
length. It knows counted and chunked bodies and one WebSocket message, so that the first answer
can be judged in full; after that it counts bytes. It is not a load generator (load.py has them).
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

TIMEOUT_S = 10.0
RECEIVE_BYTES = 256 * 1024

# The key and the answer to it are the example of RFC 6455 section 1.3.
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
HANDSHAKE_ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
MASK = b"\x5a\x01\xfe\x33"


class WrongAnswer(Exception):
    """The server answered, but not what the workload asks for; the text says what."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response: its status, its body, and how many bytes it took on the wire."""

    status: int
    body: bytes
    wire_bytes: int


def read_answer(connection: socket.socket) -> Answer:
    """Read one response to its end.

    Raises WrongAnswer if it has no framing, or does not come whole.
    """
    received = _read_until(connection, b"", b"\r\n\r\n")
    head, _, rest = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:])
    }
    status = int(lines[0].split(" ")[1])
    if fields.get("transfer-encoding", "").lower() == "chunked":
        body, body_bytes = _read_chunked(connection, rest)
    elif "content-length" in fields:
        body = _read_counted(connection, rest, int(fields["content-length"]))
        body_bytes = len(body)
    else:
        raise WrongAnswer("the answer has neither Content-Length nor chunks")
    return Answer(status, body, len(head) + 4 + body_bytes)


def ask(connection: socket.socket, request: bytes, expected: bytes) -> Answer:
    """Send one request and judge its answer.

    Raises WrongAnswer unless the status is 200 and the body is the expected one.
    """
    connection.sendall(request)
    answer = read_answer(connection)
    if answer.status != 200:
        raise WrongAnswer(f"the answer has status {answer.status} where 200 is right")
    if answer.body != expected:
        raise WrongAnswer(
            f"the answer has a body of {len(answer.body)} bytes, beginning {answer.body[:40]!r}, "
            f"where {len(expected)} bytes beginning {expected[:40]!r} are right"
        )
    return answer


def ask_batches(
    connection: socket.socket, batch: bytes, answers_bytes: int, n_batches: int
) -> None:
    """Send a batch, read its answers to the last byte, and do so again.

    `answers_bytes` is what all answers to one batch take on the wire. Raises WrongAnswer if
    less than that comes, or more.
    """
    for _ in range(n_batches):
        connection.sendall(batch)
        missing = answers_bytes
        while missing > 0:
            n_received = len(_receive(connection))
            missing -= n_received
        if missing < 0:
            raise WrongAnswer(f"{-missing} bytes more than the answers have")


def check(request: bytes, expected: bytes, depth: int, port: int) -> None:
    """See that the server answers one request rightly, and a batch of `depth` whole.

    A server that answers the first request of a batch and forgets the others would look
    fast, or idle, and wrk would count no error. Raises WrongAnswer or OSError.
    """
    with connect(port) as connection:
        answer = ask(connection, request, expected)
        ask_batches(connection, request * depth, answer.wire_bytes * depth, n_batches=1)


def check_close(request: bytes, expected: bytes, port: int) -> None:
    """See that the server answers one request rightly and then closes the connection.

    Raises WrongAnswer or OSError.
    """
    with connect(port) as connection:
        ask(connection, request, expected)
        try:
            rest = connection.recv(RECEIVE_BYTES)
        except TimeoutError as error:
            raise WrongAnswer("the server did not close the connection") from error
        if rest:
            raise WrongAnswer("the server sent more where it should have closed")


def check_websocket(message: bytes, port: int) -> None:
    """See that the server takes the handshake and echoes one binary message.

    The message is shorter than 126 bytes, or shorter than 64 KiB. RFC 6455 sections 4.1 and
    5.2. Raises WrongAnswer or OSError.
    """
    with connect(port) as connection:
        connection.sendall(HANDSHAKE % port)
        received = _read_until(connection, b"", b"\r\n\r\n")
        head, _, received = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise WrongAnswer(f"the handshake was answered with {head[:40]!r}")
        if HANDSHAKE_ACCEPT not in head:
            raise WrongAnswer("the handshake was answered with a wrong Sec-WebSocket-Accept")
        connection.sendall(frame(message, client=True))
        expected = frame(message, client=False)
        while len(received) < len(expected):
            received += _receive(connection)
        if received != expected:
            raise WrongAnswer(f"a message came back as {received[:40]!r}")


def frame(message: bytes, *, client: bool) -> bytes:
    """Return a message as one binary frame, masked if a client sends it."""
    length = len(message)
    marked = length if length < 126 else 126
    head = bytes([0x82, marked | (0x80 if client else 0)])
    head += length.to_bytes(2, "big") if marked == 126 else b""
    if not client:
        return head + message
    masked = bytes(byte ^ MASK[index % 4] for index, byte in enumerate(message))
    return head + MASK + masked


def connect(port: int, source: str = "") -> socket.socket:
    """Open one connection to the server, from a source address if one is named."""
    bound_to = (source, 0) if source else None
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S, bound_to)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _receive(connection: socket.socket) -> bytes:
    try:
        received = connection.recv(RECEIVE_BYTES)
    except TimeoutError as error:
        raise WrongAnswer(f"no whole answer within {TIMEOUT_S:g} s") from error
    if not received:
        raise WrongAnswer("the server closed the connection inside an answer")
    return received


def _read_until(connection: socket.socket, received: bytes, mark: bytes) -> bytes:
    while mark not in received:
        received += _receive(connection)
    return received


def _read_counted(connection: socket.socket, received: bytes, n_bytes: int) -> bytes:
    chunks = [received]
    missing = n_bytes - len(received)
    while missing > 0:
        chunks.append(_receive(connection))
        missing -= len(chunks[-1])
    if missing < 0:
        raise WrongAnswer("the answer is longer than its Content-Length")
    return b"".join(chunks)


def _read_chunked(connection: socket.socket, received: bytes) -> tuple[bytes, int]:
    body = b""
    taken = 0
    while True:
        received = _read_until(connection, received, b"\r\n")
        line, _, received = received.partition(b"\r\n")
        size = int(line.split(b";")[0], 16)
        while len(received) < size + 2:
            received += _receive(connection)
        taken += len(line) + 2 + size + 2
        body += received[:size]
        received = received[size + 2 :]
        if size == 0:
            return body, taken
