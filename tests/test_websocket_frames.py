"""A client's bytes as messages: what is right, what is wrong, and how much of it.

Everything is sent whole, byte by byte, and in two pieces cut at every position.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from asgi_parts import AsgiWire, asgi_wire
from websocket_parts import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DEFLATE,
    FIN,
    PING,
    PONG,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    Deflater,
    Frame,
    Peer,
    binary,
    close,
    echo,
    frame,
    text,
)

MIB = 1 << 20


@pytest.fixture(scope="module")
def wire() -> Iterator[AsgiWire]:
    with asgi_wire(echo, ws_max_size_bytes=MIB) as opened:
        yield opened


def in_every_way(data: bytes) -> Iterator[tuple[bytes, ...]]:
    yield (data,)
    yield tuple(data[i : i + 1] for i in range(len(data)))
    for cut in range(1, len(data)):
        yield data[:cut], data[cut:]


# ---- what is right

KOSME = "κόσμε"
RIGHT: list[tuple[str, bytes, list[Frame]]] = [
    ("a text", text("hello"), [Frame(TEXT, b"hello")]),
    ("a text beyond ASCII", text(KOSME), [Frame(TEXT, KOSME.encode())]),
    ("the highest character", text("\U0010ffff"), [Frame(TEXT, b"\xf4\x8f\xbf\xbf")]),
    ("an empty text", text(""), [Frame(TEXT)]),
    ("an empty binary", binary(b""), [Frame(BINARY)]),
    ("bytes that are no text", binary(b"\xff\0\x80"), [Frame(BINARY, b"\xff\0\x80")]),
    ("125 bytes", binary(b"x" * 125), [Frame(BINARY, b"x" * 125)]),
    ("126 bytes", binary(b"y" * 126), [Frame(BINARY, b"y" * 126)]),
    ("no mask to speak of", frame(TEXT, b"abc", mask=b"\0\0\0\0"), [Frame(TEXT, b"abc")]),
    ("two messages", text("a") + binary(b"b"), [Frame(TEXT, b"a"), Frame(BINARY, b"b")]),
    (
        "three fragments",
        text("one", 0) + frame(CONTINUATION, b"two", 0) + frame(CONTINUATION, b"three"),
        [Frame(TEXT, b"onetwothree")],
    ),
    (
        "empty fragments",
        binary(b"", 0) + frame(CONTINUATION, b"", 0) + frame(CONTINUATION, b""),
        [Frame(BINARY)],
    ),
    (
        "a character over three fragments",
        frame(TEXT, b"\xf0", 0) + frame(CONTINUATION, b"\x9f\x98", 0) + frame(0, b"\x80"),
        [Frame(TEXT, b"\xf0\x9f\x98\x80")],
    ),
    (
        "a ping between fragments",
        text("a", 0) + frame(PING, b"p") + frame(CONTINUATION, b"b"),
        [Frame(PONG, b"p"), Frame(TEXT, b"ab")],
    ),
    ("a ping", frame(PING), [Frame(PONG)]),
    (
        "pings in a row",
        frame(PING, b"1") + frame(PING, b"2"),
        [Frame(PONG, b"1"), Frame(PONG, b"2")],
    ),
    ("a ping of 125 bytes", frame(PING, b"z" * 125), [Frame(PONG, b"z" * 125)]),
    ("a pong that nobody asked for", frame(PONG, b"?") + text("a"), [Frame(TEXT, b"a")]),
]


@pytest.mark.parametrize(
    ("data", "answers"), [case[1:] for case in RIGHT], ids=[case[0] for case in RIGHT]
)
def test_what_is_right_is_taken(wire: AsgiWire, data: bytes, answers: list[Frame]) -> None:
    peer = Peer(wire)
    for pieces in in_every_way(data):
        peer.send_in_pieces(*pieces)
        assert [peer.next() for _ in answers] == answers
    peer.leave()


@pytest.mark.parametrize("size", [65535, 65536, 70000, 300_000, MIB])
def test_long_messages(wire: AsgiWire, size: int) -> None:
    content = bytes(i * 7 & 0xFF for i in range(251)) * (size // 251 + 1)
    peer = Peer(wire)
    peer.send(binary(content[:size]), text("x" * size))
    assert peer.next() == Frame(BINARY, content[:size])
    assert peer.next() == Frame(TEXT, b"x" * size)
    peer.leave()


def test_many_messages_in_one_read_are_answered_in_order(wire: AsgiWire) -> None:
    peer = Peer(wire)
    peer.send(*[text(str(i)) for i in range(5000)])
    assert [peer.next().payload for _ in range(5000)] == [b"%d" % i for i in range(5000)]
    peer.leave()


# ---- what is wrong

HEAD_16 = bytes([FIN | BINARY, 0xFE])
HEAD_64 = bytes([FIN | BINARY, 0xFF])
WRONG: list[tuple[str, bytes, int]] = [
    ("no mask", frame(TEXT, b"abc", mask=None), 1002),
    ("no mask on a close", frame(CLOSE, mask=None), 1002),
    *[(f"opcode {opcode}", frame(opcode), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
    ("reserved bit 1", frame(TEXT, b"", FIN | RSV1), 1002),
    ("reserved bit 2", frame(TEXT, b"", FIN | RSV2), 1002),
    ("reserved bit 3", frame(BINARY, b"", FIN | RSV3), 1002),
    ("reserved bit 1 of a ping", frame(PING, b"", FIN | RSV1), 1002),
    ("reserved bit 1 of a close", frame(CLOSE, b"", FIN | RSV1), 1002),
    ("reserved bit of a continuation", text("a", 0) + frame(0, b"b", FIN | RSV1), 1002),
    ("a ping in pieces", frame(PING, b"a", 0), 1002),
    ("a close in pieces", frame(CLOSE, b"", 0), 1002),
    ("a ping of 126 bytes", frame(PING, b"z" * 126), 1002),
    ("a close of 126 bytes", frame(CLOSE, b"\x03\xe8" + b"z" * 124), 1002),
    ("a long length for a ping", bytes([FIN | PING, 0xFF]), 1002),
    ("a continuation of nothing", frame(CONTINUATION, b"a"), 1002),
    ("a continuation of nothing that goes on", frame(CONTINUATION, b"a", 0), 1002),
    ("a text within a text", text("a", 0) + text("b"), 1002),
    ("a binary within a text", text("a", 0) + binary(b"b"), 1002),
    ("two bytes for a length of one", HEAD_16 + b"\x00\x7d", 1002),
    ("eight bytes for a length of two", HEAD_64 + b"\0\0\0\0\0\0\xff\xff", 1002),
    ("the highest bit of a length", HEAD_64 + b"\x80\0\0\0\0\0\0\0", 1002),
    ("a lone continuation byte", frame(TEXT, b"ab\x80"), 1007),
    ("a surrogate", frame(TEXT, b"\xed\xa0\x80"), 1007),
    ("an overlong form", frame(TEXT, b"\xc0\xaf"), 1007),
    ("beyond the last character", frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    ("a cut character", frame(TEXT, b"\xce"), 1007),
    ("a cut character at the end of fragments", frame(TEXT, b"\xce", 0) + frame(0), 1007),
    ("bad bytes over two fragments", frame(TEXT, b"\xce", 0) + frame(0, b"a", 0), 1007),
    ("a close of one byte", frame(CLOSE, b"\x03"), 1002),
    ("a reason that is no text", close(1000, b"\xff"), 1007),
    *[
        (f"close code {code}", close(code), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    ],
]


@pytest.mark.parametrize(
    ("data", "code"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_what_is_wrong_is_refused(wire: AsgiWire, data: bytes, code: int) -> None:
    for pieces in in_every_way(data):
        peer = Peer(wire)
        peer.send_in_pieces(*pieces)
        assert peer.closed()[0] == code, pieces
        peer.client.close()


def test_what_is_wrong_is_refused_with_its_first_byte(wire: AsgiWire) -> None:
    for data, code in [
        (b"\x83", 1002),
        (b"\x09", 1002),
        (b"\x81\x05", 1002),
        (b"\x89\xfe", 1002),
        (frame(CONTINUATION, b"", length=10), 1002),
        (frame(TEXT, b"abc\xff", length=1000), 1007),
        (frame(TEXT, b"abc\xe0\x80", 0, length=70000), 1007),
        (frame(BINARY, b"", length=MIB + 1), 1009),
    ]:
        peer = Peer(wire)
        peer.send(data)
        assert peer.closed()[0] == code, data
        peer.client.close()


def test_nothing_behind_an_error_means_anything(wire: AsgiWire) -> None:
    peer = Peer(wire)
    peer.send(frame(TEXT, b"\xff"), text("still here?"), frame(PING, b"?"), close(1000))
    assert peer.closed()[0] == 1007
    peer.client.close()


@pytest.mark.parametrize("count", [1, 3, 100])
def test_what_came_before_an_error_is_answered_first(wire: AsgiWire, count: int) -> None:
    peer = Peer(wire)
    peer.send(*[text(str(i)) for i in range(count)], frame(7))
    frames = peer.rest()
    assert frames[:-1] == [Frame(TEXT, b"%d" % i) for i in range(count)]
    assert frames[-1].code == 1002
    peer.client.close()


# ---- how much


def test_a_message_of_the_largest_size_is_taken_in_fragments_too(wire: AsgiWire) -> None:
    peer = Peer(wire)
    quarter = b"q" * (MIB // 4)
    peer.send(binary(quarter, 0), *[frame(0, quarter, 0)] * 2, frame(0, quarter))
    assert peer.next() == Frame(BINARY, quarter * 4)
    peer.leave()


@pytest.mark.parametrize(
    "data",
    [
        frame(BINARY, b"", length=MIB + 1),
        frame(BINARY, b"", length=(1 << 63) - 1),
        binary(b"x" * MIB, 0) + frame(CONTINUATION, b"", 0, length=1),
        binary(b"x", 0) + frame(CONTINUATION, b"", length=MIB),
    ],
    ids=["one frame", "a huge frame", "a fragment more", "a fragment too long"],
)
def test_a_longer_message_is_refused_by_its_head(wire: AsgiWire, data: bytes) -> None:
    peer = Peer(wire)
    peer.send(data)
    assert peer.closed()[0] == 1009
    peer.client.close()


def test_control_frames_do_not_count(wire: AsgiWire) -> None:
    peer = Peer(wire)
    peer.send(binary(b"x" * (MIB - 1), 0), frame(PING, b"p" * 125), frame(CONTINUATION, b"x"))
    assert peer.next().opcode == PONG
    assert len(peer.next().payload) == MIB
    peer.leave()


def test_no_limit() -> None:
    async def count(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": str(len(message["bytes"]))})

    with asgi_wire(count, ws_max_size_bytes=0) as opened:
        peer = Peer(opened)
        peer.send(binary(b"x" * (17 * MIB)))
        assert peer.next() == Frame(TEXT, b"%d" % (17 * MIB))
        peer.leave()


# ---- compressed


def test_compressed_messages_in_every_way(wire: AsgiWire) -> None:
    peer = Peer(wire, DEFLATE)
    deflate = Deflater()
    for pieces in in_every_way(frame(TEXT, b"x" * 40, FIN | RSV1)):
        first = deflate(KOSME.encode() * 3)
        assert len(first) < len(pieces[0]) + 100
        data = frame(TEXT, first[:2], RSV1) + frame(PING, b"p") + frame(CONTINUATION, first[2:])
        cut = len(pieces[0]) % len(data)
        peer.send_in_pieces(data[:cut], data[cut:])
        assert peer.next() == Frame(PONG, b"p")
        assert peer.next() == Frame(TEXT, KOSME.encode() * 3)
    peer.leave()


def test_plain_and_compressed_messages_take_turns(wire: AsgiWire) -> None:
    peer = Peer(wire, DEFLATE)
    deflate = Deflater()
    for i in range(20):
        content = b"message %d" % i
        peer.send(frame(BINARY, deflate(content), FIN | RSV1), binary(content))
        assert peer.next() == peer.next() == Frame(BINARY, content)
    peer.leave()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(CONTINUATION, b"", FIN | RSV1), 1002),
        (frame(TEXT, b"\xf2H", RSV1) + frame(CONTINUATION, b"\xcd", FIN | RSV1), 1002),
        (frame(PING, b"", FIN | RSV1), 1002),
        (frame(TEXT, b"\xf2H", FIN | RSV1 | RSV2), 1002),
        (frame(BINARY, b"\x07\xff\xff", FIN | RSV1), 1007),
        (frame(TEXT, Deflater()(b"abc\xff"), FIN | RSV1), 1007),
        (frame(TEXT, Deflater()(b"abc\xce"), FIN | RSV1), 1007),
        (frame(BINARY, Deflater()(b"x" * (MIB + 1)), FIN | RSV1), 1009),
    ],
    ids=[
        "a compressed continuation of nothing",
        "a fragment with the bit",
        "a ping with the bit",
        "another bit",
        "bytes that do not inflate",
        "bad text",
        "a cut character",
        "too long",
    ],
)
def test_bad_compressed_messages(wire: AsgiWire, data: bytes, code: int) -> None:
    peer = Peer(wire, DEFLATE)
    peer.send(data)
    assert peer.closed()[0] == code
    peer.client.close()


def test_a_bad_byte_in_a_compressed_text_is_noticed_before_its_end(wire: AsgiWire) -> None:
    peer = Peer(wire, DEFLATE)
    stream = Deflater().stream
    data = stream.compress(b"\xff" * 100) + stream.flush(2)
    peer.send(frame(TEXT, data, RSV1, length=60000))
    assert peer.closed()[0] == 1007
    peer.client.close()
