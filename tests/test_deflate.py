"""permessage-deflate: what is agreed on, the streams, and bombs."""

import resource
import zlib
from collections.abc import Iterator

import pytest
from asgi_parts import AsgiWire, asgi_wire
from hypothesis import given, settings
from hypothesis import strategies as st
from websocket_parts import (
    BINARY,
    CONTINUATION,
    DEFLATE,
    FIN,
    PING,
    RSV1,
    TEXT,
    Deflater,
    Inflater,
    Peer,
    binary,
    echo,
    frame,
    text,
)

from fastcluster.deflate import negotiate, offers_in

MIB = 1 << 20


@pytest.fixture(scope="module")
def wire() -> Iterator[AsgiWire]:
    with asgi_wire(echo) as opened:
        yield opened


# ---- offers


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", "permessage-deflate"),
        (
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=12",
        ),
        (
            "permessage-deflate;client_max_window_bits=9",
            "permessage-deflate; client_max_window_bits=9",
        ),
        (
            'permessage-deflate; client_max_window_bits="8"',
            "permessage-deflate; client_max_window_bits=8",
        ),
        (
            "permessage-deflate; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits=10",
        ),
        (
            "permessage-deflate; server_max_window_bits = 15",
            "permessage-deflate; server_max_window_bits=12",
        ),
        (
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        # The first that we can take, in the client's order.
        (
            "x-other; a=b, permessage-deflate; server_max_window_bits=8, permessage-deflate; "
            "server_max_window_bits=9, permessage-deflate",
            "permessage-deflate; server_max_window_bits=9",
        ),
        (", ,permessage-deflate ,", "permessage-deflate"),
    ],
)
def test_offers_that_are_taken(offer: str, answer: str) -> None:
    deflate = negotiate(offer)
    assert deflate is not None
    assert deflate.answer == answer.encode()
    assert 9 <= deflate.own_bits <= 12
    assert 8 <= deflate.client_bits <= 15


@pytest.mark.parametrize(
    "offer",
    [
        "",
        "foo",
        "x-webkit-deflate-frame",
        "permessage-bzip2; client_max_window_bits",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; server_max_window_bits=1e1",
        "permessage-deflate; client_max_window_bits=0",
        "permessage-deflate; client_max_window_bits=99",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; client_max_window_bits=9; client_max_window_bits=9",
        "permessage-deflate; something_new",
    ],
)
def test_offers_that_are_declined(offer: str) -> None:
    assert negotiate(offer) is None


@pytest.mark.parametrize(
    "text",
    ["a b", "a;", "a; =b", "a; b=", 'a; b="', 'a; b="c d"', "a; b=c d", "(a)", "a;;b", "=", "é"],
)
def test_malformed_offers(text: str) -> None:
    with pytest.raises(ValueError, match="Sec-WebSocket-Extensions"):
        offers_in(text)


def test_offers_are_taken_apart() -> None:
    assert offers_in(' a ,b;c;d=e ; f="g" ,, h') == [
        ("a", []),
        ("b", [("c", None), ("d", "e"), ("f", "g")]),
        ("h", []),
    ]


@given(st.text('ab;,= \t"\\é', max_size=30))
@settings(deadline=None)
def test_no_text_is_too_strange(content: str) -> None:
    try:
        offers = offers_in(content)
    except ValueError:
        return
    again = ", ".join(
        "; ".join([name, *(f"{key}={value}" if value else key for key, value in parameters)])
        for name, parameters in offers
    )
    assert offers_in(again) == offers


def test_it_can_be_switched_off() -> None:
    with asgi_wire(echo, ws_per_message_deflate=False) as opened:
        peer = Peer(opened, DEFLATE)
        assert peer.response.get("Sec-WebSocket-Extensions") is None
        peer.send(frame(TEXT, Deflater()(b"a"), FIN | RSV1))
        assert peer.closed()[0] == 1002
        peer.client.close()


# ---- streams

CONTENTS = [b"abc" * 100, b"abc" * 101, bytes(range(256)) * 4, b"q" * 70000, b"abc" * 100]


@pytest.mark.parametrize("own_bits", ["", "; server_max_window_bits=9"])
@pytest.mark.parametrize(
    "client_bits", ["", "; client_max_window_bits=8", "; client_max_window_bits"]
)
@pytest.mark.parametrize("own_reset", ["", "; server_no_context_takeover"])
@pytest.mark.parametrize("client_reset", ["", "; client_no_context_takeover"])
def test_what_was_agreed_on_is_kept(
    wire: AsgiWire, own_bits: str, client_bits: str, own_reset: str, client_reset: str
) -> None:
    peer = Peer(wire, DEFLATE + own_bits + client_bits + own_reset + client_reset)
    agreed = negotiate("permessage-deflate" + own_bits + client_bits + own_reset + client_reset)
    assert agreed is not None
    assert peer.response.get("Sec-WebSocket-Extensions") == agreed.answer.decode()
    # zlib cannot deflate with a window of 2^8, and 9 bits would be too much.
    deflate = Deflater(agreed.client_bits) if agreed.client_bits > 8 else None
    inflate = Inflater(agreed.own_bits)
    for content in CONTENTS:
        if deflate is None:
            peer.send(binary(content))
        else:
            peer.send(frame(BINARY, deflate(content), FIN | RSV1))
        answer = peer.next()
        assert answer.flags == FIN | RSV1
        assert inflate(answer.payload) == content
        if client_reset and deflate is not None:
            deflate = Deflater(agreed.client_bits)
        if own_reset:
            inflate = Inflater(agreed.own_bits)
    peer.leave()


def test_the_context_is_taken_over(wire: AsgiWire) -> None:
    peer = Peer(wire, DEFLATE)
    content = bytes(i * i % 251 for i in range(600))
    peer.send(binary(content), binary(content))
    first, second = peer.next(), peer.next()
    assert len(second.payload) < len(first.payload) / 4
    peer.leave()


def test_short_messages_are_not_worth_it(wire: AsgiWire) -> None:
    peer = Peer(wire, DEFLATE)
    peer.send(text("a" * 100))
    assert peer.next().flags == FIN
    peer.leave()


def test_an_empty_message(wire: AsgiWire) -> None:
    peer = Peer(wire, DEFLATE)
    # RFC 7692 section 7.2.3.6.
    peer.send(frame(TEXT, b"\0", FIN | RSV1), text("next"))
    assert peer.next().payload == b""
    assert peer.next().payload == b"next"
    peer.leave()


def test_the_examples_of_the_rfc(wire: AsgiWire) -> None:
    peer = Peer(wire, DEFLATE)
    first = bytes.fromhex("f248cdc9c90700")
    examples = [
        frame(TEXT, first, FIN | RSV1),
        frame(TEXT, first[:3], RSV1) + frame(CONTINUATION, first[3:]),
        frame(TEXT, bytes.fromhex("f200110000"), FIN | RSV1),  # from the window
        frame(TEXT, bytes.fromhex("000500faff48656c6c6f00"), FIN | RSV1),  # a stored block
        frame(TEXT, bytes.fromhex("f348cdc9c9070000"), FIN | RSV1),  # a last block
        frame(TEXT, bytes.fromhex("f24805000000ffffcac9c90700"), FIN | RSV1),  # two blocks
        frame(TEXT, first, FIN | RSV1),
    ]
    for example in examples:
        peer.send(example)
        assert peer.next().payload == b"Hello", example
    peer.leave()


def test_a_message_of_several_streams(wire: AsgiWire) -> None:
    peer = Peer(wire, DEFLATE)
    stream = bytes.fromhex("f348cdc9c90700")  # a last block with Hello
    peer.send(frame(TEXT, stream * 3 + b"\0", FIN | RSV1))
    assert peer.next().payload == b"HelloHelloHello"
    peer.send(frame(TEXT, stream * 100 + b"\0", FIN | RSV1))
    assert peer.closed()[0] == 1007
    peer.client.close()


def test_behind_a_last_block_the_window_is_still_the_message(wire: AsgiWire) -> None:
    peer = Peer(wire, DEFLATE)
    whole = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = whole.compress(b"0123456789" * 20) + whole.flush()
    peer.send(frame(BINARY, data + b"\0", FIN | RSV1))
    assert peer.next().payload == b"0123456789" * 20
    # A sender that keeps its window may refer to it.
    later = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=b"0123456789" * 20)
    data = later.compress(b"0123456789" * 20) + later.flush(zlib.Z_SYNC_FLUSH)
    assert len(data) < 12
    peer.send(frame(BINARY, data[:-4], FIN | RSV1))
    assert peer.next().payload == b"0123456789" * 20
    peer.leave()


@given(st.lists(st.binary(max_size=2000), max_size=6), st.booleans())
@settings(deadline=None, max_examples=30)
def test_round_trip(contents: list[bytes], fragments: bool) -> None:
    with asgi_wire(echo) as opened:
        peer = Peer(opened, DEFLATE)
        deflate, inflate = Deflater(), Inflater()
        for content in contents:
            data = deflate(content) or b"\0"
            half = len(data) // 2
            if fragments:
                peer.send(frame(BINARY, data[:half], RSV1), frame(CONTINUATION, data[half:]))
            else:
                peer.send(frame(BINARY, data, FIN | RSV1))
        for content in contents:
            answer = peer.next()
            assert content == (inflate(answer.payload) if answer.flags & RSV1 else answer.payload)
        peer.leave()


# ---- bombs


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """128 MiB of zeros, deflated to 128 KiB."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(MIB)
    data = b"".join(stream.compress(block) for _ in range(128))
    return data + stream.flush(zlib.Z_SYNC_FLUSH)[:-4]


@pytest.mark.parametrize("pieces", [1, 50])
def test_a_bomb_does_not_go_off(wire: AsgiWire, bomb: bytes, pieces: int) -> None:
    peer = Peer(wire, DEFLATE)
    before = peak_kib()
    size = len(bomb) // pieces + 1
    parts = [bomb[at : at + size] for at in range(0, len(bomb), size)]
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        peer.send(frame(BINARY if i == 0 else CONTINUATION, part, RSV1 * (i == 0) | FIN * last))
    assert peer.closed()[0] == 1009
    # The message's 16 MiB, once more while their buffer grows, and the test's own bytes.
    assert peak_kib() - before < 64 * 1024
    peer.client.close()


def test_blocks_of_nothing_cost_nothing(wire: AsgiWire) -> None:
    peer = Peer(wire, DEFLATE)
    before = peak_kib()
    nothing = b"\0\0\0\xff\xff" * 12000
    peer.send(frame(BINARY, nothing, RSV1))
    for _ in range(100):
        peer.send(frame(CONTINUATION, nothing, 0))
    peer.send(frame(PING, b"?"))
    assert peer.next().payload == b"?"
    peer.send(frame(CONTINUATION, Deflater()(b"at last")))
    assert peer.next().payload == b"at last"
    assert peak_kib() - before < 16 * 1024
    peer.leave()
