"""The chunked coding: sizes, extensions, data, trailers (RFC 9112 section 7.1)."""

from conformance import CONTINUE, WAITS, Case, case, ok, refused

HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def body(name: str, chunks: bytes, text: str, rfc: str = "9112 7.1") -> Case:
    """Make a row with chunks that are sound."""
    return case(name, rfc, HEAD + chunks, ok(body=text))


def bad(name: str, chunks: bytes, rfc: str = "9112 7.1") -> Case:
    """Make a row with chunks that are not; what follows them would be a request."""
    return case(name, rfc, HEAD + chunks + b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n", refused(400))


# fmt: off
CASES = [
    # ---- sizes
    body("no data", END, ""),
    body("two chunks", b"3\r\nabc\r\n2\r\nde\r\n" + END, "abcde"),
    body("lower-case hex", b"a\r\n0123456789\r\n" + END, "0123456789"),
    body("upper-case hex", b"A\r\n0123456789\r\n" + END, "0123456789"),
    body("two digits", b"1a\r\n" + b"x" * 26 + b"\r\n" + END, "x" * 26),
    body("leading zeros", b"0003\r\nabc\r\n" + END, "abc"),
    body("sixteen digits", b"0000000000000003\r\nabc\r\n" + END, "abc"),
    body("many zeros at the end", b"3\r\nabc\r\n0000\r\n\r\n", "abc"),
    body("CRLF as data", b"2\r\n\r\n\r\n" + END, "\r\n"),
    body("the end as data", b"5\r\n0\r\n\r\n\r\n" + END, "0\r\n\r\n"),
    bad("seventeen digits", b"00000000000000003\r\nabc\r\n" + END, "ours"),
    bad("2 to the 63rd", b"8000000000000000\r\nabc\r\n" + END, "9112 7.1"),
    bad("2 to the 64th and three", b"10000000000000003\r\nabc\r\n" + END, "9112 7.1"),
    bad("no size", b"\r\nabc\r\n" + END),
    bad("hexadecimal by 0x", b"0x3\r\nabc\r\n" + END),
    bad("a sign", b"+3\r\nabc\r\n" + END),
    bad("a negative size", b"-3\r\nabc\r\n" + END),
    bad("an underscore", b"0_3\r\nabc\r\n" + END),
    bad("a letter after f", b"g\r\nabc\r\n" + END),
    bad("a letter behind the size", b"3h\r\nabc\r\n" + END),
    bad("a blank before the size", b" 3\r\nabc\r\n" + END),
    bad("a NUL behind the size", b"3\0\r\nabc\r\n" + END),
    bad("a blank behind the size", b"3 \r\nabc\r\n" + END, "ours"),
    bad("a TAB behind the size", b"3\t\r\nabc\r\n" + END, "ours"),
    # ---- line ends
    bad("a bare LF after the size", b"3\nabc\r\n" + END),
    bad("a bare CR after the size", b"3\rabc\r\n" + END),
    bad("two CR after the size", b"3\r\r\nabc\r\n" + END),
    bad("a bare LF after the data", b"3\r\nabc\n" + END),
    bad("a bare CR after the data", b"3\r\nabc\r" + END),
    bad("LF CR after the data", b"3\r\nabc\n\r" + END),
    bad("nothing after the data", b"3\r\nabc" + END),
    bad("any two bytes after the data", b"3\r\nabcXX" + END),
    bad("data longer than the size", b"3\r\nabcd\r\n" + END),
    bad("data shorter than the size", b"4\r\nabc\r\n" + END),
    bad("a bare LF ends the body", b"3\r\nabc\r\n0\r\n\n"),
    bad("a bare CR ends the body", b"3\r\nabc\r\n0\r\n\rX"),
    bad("a bare LF after the last size", b"3\r\nabc\r\n0\n\r\n"),
    # ---- extensions
    body("an extension", b"3;a\r\nabc\r\n" + END, "abc", "9112 7.1.1"),
    body("its value", b"3;a=b\r\nabc\r\n" + END, "abc", "9112 7.1.1"),
    body("a quoted value", b'3;a="b;c \\" d"\r\nabc\r\n' + END, "abc", "9112 7.1.1"),
    body("two extensions", b"3;a=b;c\r\nabc\r\n" + END, "abc", "9112 7.1.1"),
    body("blanks around", b"3 ; a = b\r\nabc\r\n" + END, "abc", "9112 7.1.1"),
    body("one at the last chunk", b"3\r\nabc\r\n0;a=b\r\n\r\n", "abc", "9112 7.1.1"),
    body("a line of 256 bytes", b"3;" + b"a" * 253 + b"\r\nabc\r\n" + END, "abc", "ours"),
    bad("a line of 257 bytes", b"3;" + b"a" * 255 + b"\r\nabc\r\n" + END, "ours"),
    bad("an LF in an extension", b"3;a\nb\r\nabc\r\n" + END, "9112 7.1.1"),
    bad("an LF in a quoted value", b'3;a="\n"\r\nabc\r\n' + END, "9112 7.1.1"),
    bad("a CR in an extension", b"3;a\rb\r\nabc\r\n" + END, "9112 7.1.1"),
    bad("a NUL in an extension", b"3;a\0b\r\nabc\r\n" + END, "9112 7.1.1"),
    bad("extensions of 16 KiB in all", (b"1;" + b"a" * 250 + b"\r\nx\r\n") * 66 + END, "ours"),
    # ---- trailers: read, judged and dropped
    case("a trailer", "9112 7.1.2", HEAD + b"3\r\nabc\r\n0\r\nX: a\r\n\r\n",
         ok(body="abc", header={"x": None})),
    case("two trailers", "9112 7.1.2", HEAD + b"3\r\nabc\r\n0\r\nX: a\r\nY:b\r\n\r\n",
         ok(body="abc", header={"x": None, "y": None})),
    case("a trailer does not join a field", "9110 6.5.1",
         b"POST / HTTP/1.1\r\nHost: h\r\nX: head\r\nTrailer: X\r\n"
         b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n\r\n",
         ok(header={"x": "head"})),
    case("a trailer frames nothing", "9110 6.5.1",
         HEAD + b"0\r\nContent-Length: 99\r\nTransfer-Encoding: x\r\nHost: evil\r\n\r\n",
         ok(body="", host="h")),
    case("obs-text in a trailer", "9110 5.5", HEAD + b"0\r\nX: caf\xe9\r\n\r\n", ok(body="")),
    bad("a trailer without a colon", b"0\r\nX\r\n\r\n", "9112 7.1.2"),
    bad("a blank before its colon", b"0\r\nX : a\r\n\r\n", "9112 5.1"),
    bad("an empty name", b"0\r\n: a\r\n\r\n", "9110 5.1"),
    bad("a folded trailer", b"0\r\nX: a\r\n b\r\n\r\n", "9112 5.2"),
    bad("a bare LF in a trailer", b"0\r\nX: a\n\r\n", "9112 2.2"),
    bad("a bare CR in a trailer", b"0\r\nX: a\rb\r\n\r\n", "9112 2.2"),
    bad("a NUL in a trailer", b"0\r\nX: \0\r\n\r\n", "9110 5.5"),
    # ---- not whole
    case("no size yet", "9112 7.1", HEAD, then=WAITS),
    case("half a chunk", "9112 7.1", HEAD + b"5\r\nabc", then=WAITS),
    case("no last chunk", "9112 7.1", HEAD + b"3\r\nabc\r\n", then=WAITS),
    case("no end of the trailers", "9112 7.1", HEAD + b"3\r\nabc\r\n0\r\n", then=WAITS),
    case("no LF at the end", "9112 7.1", HEAD + b"3\r\nabc\r\n0\r\n\r", then=WAITS),
    # ---- together with an expectation
    case("bad chunks after 100", "9110 10.1.1",
         HEAD[:-2] + b"Expect: 100-continue\r\n\r\nzz\r\n", CONTINUE, refused(400)),
]
# fmt: on
