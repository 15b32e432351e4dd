"""The two doors of the parser: both see the same heads, whole or in pieces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcluster.parser import explain, parser_name

DOORS = ["llhttp", "httptools"]

TOKEN = st.text(
    "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=12
)
# Field values: visible bytes, obs-text, blanks inside and around.
VALUE = st.binary(max_size=24).map(
    lambda raw: bytes(b for b in raw if (b >= 0x20 and b != 0x7F) or b == 0x09)
)
PLAIN_FIELD = st.tuples(TOKEN.map(lambda name: ("x-" + name).encode()), VALUE)
FRAMING_FIELD = st.sampled_from(
    [
        (b"Content-Length", b"10"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Connection", b"close"),
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Expect", b"100-continue"),
        (b"Empty", b""),
    ]
)
FIELDS = st.lists(st.one_of(PLAIN_FIELD, FRAMING_FIELD), max_size=8)
TARGET = st.sampled_from([b"/", b"/a/b?c=d", b"*", b"http://h/p?q", b"/%41;x=y", b"/" + b"a" * 300])
METHOD = st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"DELETE", b"PATCH", b"PROPFIND"])


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    line = draw(METHOD) + b" " + draw(TARGET) + draw(st.sampled_from([b" HTTP/1.1", b" HTTP/1.0"]))
    blanks = st.sampled_from([b"", b" ", b"\t", b"  "])
    lines = [line, b"Host: example.org"]
    for name, value in draw(FIELDS):
        lines.append(name + b":" + draw(blanks) + value + draw(blanks))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def both(data: bytes, cuts: list[int] | None = None) -> list[tuple[object, ...]]:
    """Explain through both doors.

    A framing that no server may accept is refused by httptools' parser already
    and by our own decision behind the llhttp door: the client sees the same 400.
    """
    found = [explain(data, door, cuts=cuts or ()) for door in DOORS]
    return [("bad",) if verdict == ("refused", 400) else verdict for verdict in found]


def test_one_of_the_doors_is_open() -> None:
    assert parser_name() in DOORS


@settings(deadline=None, max_examples=300)
@given(heads(), st.binary(max_size=20))
def test_both_doors_find_the_same_spans(head: bytes, rest: bytes) -> None:
    by_llhttp, by_httptools = both(head + rest)
    assert by_llhttp == by_httptools


@settings(deadline=None, max_examples=200)
@given(heads(), st.data())
def test_a_head_in_pieces_is_the_same_head(head: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(1, len(head)), max_size=6)))
    whole = both(head)
    assert both(head, cuts) == whole


@settings(deadline=None, max_examples=300)
@given(heads(), st.data())
def test_both_doors_judge_a_damaged_head_alike(head: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(head) - 1))
    byte = data.draw(st.sampled_from(b"\x00\x01\n\r\t :;\x7f\x80\xffA"))
    damaged = head[:at] + bytes([byte]) + head[at + 1 :]
    if damaged[:1] in (b"\r", b"\n"):
        return  # blank lines before a head are the connection's affair
    by_llhttp, by_httptools = both(damaged)
    assert by_llhttp == by_httptools


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("head", "verdict"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", "more"),
        (b"GET / HTTP/2.0\r\n\r\n", "bad"),
        (b"GET / HTTP/1.1\nHost: x\n\n", "bad"),
        (b"GET  / HTTP/1.1\r\n\r\n", "bad"),
        (b"GET / RTSP/1.0\r\n\r\n", "bad"),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", "bad"),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "bad"),
        (b"GET / HTTP/1.1\r\nA: b\x00c\r\n\r\n", "bad"),
        (b"GET / HTTP/1.1\r\n: x\r\n\r\n", "bad"),
        (b"FOO / HTTP/1.1\r\n\r\n", "bad"),
        (b"DESCRIBE / HTTP/1.1\r\n\r\n", "bad"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "bad"),
    ],
)
def test_verdicts(door: str, head: bytes, verdict: str) -> None:
    for cuts in ((), range(1, len(head))):
        assert explain(head, door, cuts=cuts)[0] == verdict


@pytest.mark.parametrize("door", DOORS)
def test_the_number_of_fields_is_bounded(door: str) -> None:
    head = b"GET / HTTP/1.0\r\n" + b"a: b\r\n" * 10 + b"\r\n"
    assert explain(head, door, max_fields=10)[0] == "done"
    assert explain(head, door, max_fields=9) == ("too many",)


@pytest.mark.parametrize("door", DOORS)
def test_blanks_around_a_value_do_not_belong_to_it(door: str) -> None:
    found = explain(b"GET / HTTP/1.0\r\nA: \t b c \t\r\nB:\r\n\r\n", door)
    assert found[5] == [(b"A", b"b c"), (b"B", b"")]
