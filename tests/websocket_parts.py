"""A WebSocket client of raw bytes, on the wire of asgi_parts.

It builds every frame by hand, right or wrong, and takes apart what the server sends;
what a well-behaved client does, the tests leave to real ones.
"""

import base64
import logging
import socket
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from asgi_parts import AsgiWire, Message, Scope, get
from harness import Client, Response, Wire

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10

KEY = base64.b64encode(b"0123456789abcdef").decode()
# SHA-1 of that key and the protocol's GUID, worked out once with another program.
ACCEPT = "BACScCJPNqyz+UBoqMH89VmURoA="
MASK = b"\x12\x34\x56\x78"
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


def handshake(*fields: str, target: str = "/", key: str = KEY, version: str = "13") -> bytes:
    """Return a client's half of the handshake."""
    return get(
        target,
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Version: {version}",
        *fields,
    )


def frame(
    opcode: int,
    payload: bytes = b"",
    flags: int = FIN,
    *,
    mask: bytes | None = MASK,
    length: int | None = None,
) -> bytes:
    """Return a client's frame; mask None: without one; length: what its head claims."""
    length = len(payload) if length is None else length
    masked = 0 if mask is None else 0x80
    head = bytes([flags | opcode])
    if length < 126:
        head += bytes([masked | length])
    elif length < 65536:
        head += bytes([masked | 126]) + length.to_bytes(2, "big")
    else:
        head += bytes([masked | 127]) + length.to_bytes(8, "big")
    if mask is None:
        return head + payload
    repeated = mask * (len(payload) // 4 + 1)
    unmasked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated[: len(payload)], "big")
    return head + mask + unmasked.to_bytes(len(payload), "big")


def text(content: str, flags: int = FIN) -> bytes:
    return frame(TEXT, content.encode(), flags)


def binary(content: bytes, flags: int = FIN) -> bytes:
    return frame(BINARY, content, flags)


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


@dataclass(frozen=True)
class Frame:
    """A frame of the server's."""

    opcode: int
    payload: bytes = b""
    flags: int = FIN

    @property
    def code(self) -> int:
        """The close code; 1005: none."""
        assert self.opcode == CLOSE
        return int.from_bytes(self.payload[:2], "big") if self.payload else 1005


def take_frame(data: bytes) -> tuple[Frame, bytes] | None:
    """Take the first frame off what the server has sent; None: it is not whole."""
    if len(data) < 2:
        return None
    assert not data[1] & 0x80, "a server's frame has a mask"
    length, at = data[1], 2
    if length > 125:
        at = 4 if length == 126 else 10
        if len(data) < at:
            return None
        length = int.from_bytes(data[2:at], "big")
        assert length > (125 if at == 4 else 65535), "a length that is not minimal"
    if len(data) < at + length:
        return None
    return Frame(data[0] & 15, data[at : at + length], data[0] & 0xF0), data[at + length :]


class Peer:
    """A client whose WebSocket is open."""

    def __init__(self, wire: AsgiWire, *fields: str, client: Client | None = None) -> None:
        self.wire: Wire = wire
        self.client = client or wire.connect()
        # Else the second of two small pieces waits for the kernel's word of the first.
        self.client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.response: Response = self.client.request(handshake(*fields))
        assert self.response.status == 101, self.response
        self.client.received = self.response.rest
        self.frames: list[Frame] = []

    @classmethod
    def of(cls, client: Client, response: Response) -> "Peer":
        """Return the peer of a client whose handshake is done already."""
        peer = cls.__new__(cls)
        peer.wire, peer.client, peer.response, peer.frames = client.wire, client, response, []
        client.received = response.rest
        return peer

    def send(self, *frames: bytes) -> None:
        self.client.send(b"".join(frames))

    def send_in_pieces(self, *pieces: bytes) -> None:
        """Send each piece by itself, so that the server reads it by itself."""
        for piece in pieces:
            if piece:
                self.client.send(piece)
                self.wire.turn(0)

    def pull(self) -> None:
        while (found := take_frame(self.client.received)) is not None:
            self.frames.append(found[0])
            self.client.received = found[1]

    def next(self) -> Frame:
        """Turn until the next frame has come."""

        def came() -> bool:
            self.pull()
            return bool(self.frames) or self.client.eof

        self.wire.turn_until(came)
        assert self.frames, "the connection ended without another frame"
        return self.frames.pop(0)

    def rest(self) -> list[Frame]:
        """Turn until the server has ended the connection; return all frames until then."""
        self.wire.turn_until(lambda: self.client.eof)
        self.pull()
        assert self.client.received == b"", "the last frame is not whole"
        frames, self.frames = self.frames, []
        return frames

    def closed(self) -> tuple[int, bytes]:
        """Turn until the server has closed, which is all it may do; return code and reason."""
        frames = self.rest()
        assert [frame.opcode for frame in frames] == [CLOSE], frames
        return frames[0].code, frames[0].payload[2:]

    def leave(self) -> None:
        """Close as one should, and leave."""
        self.send(close(1000))
        self.closed()
        self.client.close()


# ---- applications


async def echo(scope: Scope, receive: Any, send: Any) -> None:
    """Accept, and send back all that comes."""
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def recording(seen: list[Message]) -> Callable[..., Any]:
    """Return an application that accepts and notes what it receives until the disconnect."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while not seen or seen[-1]["type"] != "websocket.disconnect":
            seen.append(await receive())

    return app


# ---- for the tests of applications


def message(content: str | bytes) -> Message:
    key = "text" if isinstance(content, str) else "bytes"
    return {"type": "websocket.send", key: content}


def skip(wire: AsgiWire, seconds: float) -> None:
    """Let the loop's clock jump, so that its timers are due."""
    clock = wire.loop.time
    wire.loop.time = lambda: clock() + seconds  # type: ignore[method-assign]


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# ---- permessage-deflate


class Deflater:
    """A client's stream of compressed messages."""

    def __init__(self, bits: int = 15) -> None:
        self.stream = zlib.compressobj(9, zlib.DEFLATED, -bits)

    def __call__(self, content: bytes) -> bytes:
        """Return the payload of the next message."""
        data = self.stream.compress(content) + self.stream.flush(zlib.Z_SYNC_FLUSH)
        assert data.endswith(b"\0\0\xff\xff")
        return data[:-4]


class Inflater:
    """The other direction."""

    def __init__(self, bits: int = 15) -> None:
        self.stream = zlib.decompressobj(-bits)

    def __call__(self, payload: bytes) -> bytes:
        return self.stream.decompress(payload + b"\0\0\xff\xff")
