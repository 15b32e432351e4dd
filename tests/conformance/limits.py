"""Sizes: what passes at the limit, and what is refused one byte above."""

from conformance import CONTINUE, Case, answer, case, native_only, ok, refused

HOST = b"Host: h\r\n"


def line_of(n_bytes: int) -> bytes:
    """Return a request whose line, its CRLF included, has that many bytes."""
    target = b"/" + b"a" * (n_bytes - len("GET / HTTP/1.1\r\n"))
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n"


def head_of(n_bytes: int, per_field: int = 200) -> bytes:
    """Return a request whose head, its last empty line included, has that many bytes."""
    head = b"GET / HTTP/1.1\r\n" + HOST
    left = n_bytes - len(head) - 2
    while left > per_field + 8:
        head += b"X: " + b"a" * (per_field - 5) + b"\r\n"
        left -= per_field
    return head + b"X: " + b"a" * (left - 5) + b"\r\n\r\n"


def field_of(n_bytes: int) -> bytes:
    """Return a request with a field, from its name to its value's end, of that many bytes."""
    return b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * (n_bytes - 3) + b"\r\n\r\n"


def fields_of(n: int) -> bytes:
    """Return a request with that many fields."""
    return b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * (n - 1) + b"\r\n"


def counted(n: int, sent: int | None = None, lines: bytes = b"") -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n" % n
    return head + lines + b"\r\n" + b"a" * (n if sent is None else sent)


def chunked(*sizes: int) -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n" % n + b"a" * n + b"\r\n" * (n > 0) for n in sizes)


def trailer_of(n_bytes: int) -> bytes:
    """Return chunks whose trailers, the last CRLF included, have that many bytes."""
    return chunked(1, 0) + b"X: " + b"a" * (n_bytes - 7) + b"\r\n\r\n"


def small(name: str, sent: bytes, *answers, rfc: str = "ours", **more) -> Case:
    """Make a row for a server with limits so small that every split can be tried."""
    return case(
        name,
        rfc,
        sent,
        *answers,
        limit_request_line_bytes=128,
        limit_request_fields=5,
        limit_request_field_bytes=128,
        limit_request_head_bytes=400,
        limit_request_body_bytes=20,
        **more,
    )


# fmt: off
CASES = [
    # ---- request line
    case("a line of 8190 bytes", "9112 3", line_of(8190), ok(path="/" + "a" * 8174)),
    case("a line of 8191 bytes", "9110 15.5.15", line_of(8191), refused(414)),
    case("a line without an end", "9110 15.5.15", b"GET /" + b"a" * 8186, refused(414)),
    case("a method without an end", "9112 3", b"G" * 8191, refused(414)),
    small("a line at the limit", line_of(128), ok(path="/" + "a" * 112)),
    small("a line above the limit", line_of(129), refused(414)),
    small("a line without an end, small", b"GET /" + b"a" * 124, refused(414)),
    small("a good request, then a long line", line_of(100) + line_of(129), ok(), refused(414)),
    # ---- fields
    case("a hundred fields", "ours", fields_of(100), ok(header={"x": ("a",) * 99})),
    case("a hundred and one fields", "6585 5", fields_of(101), refused(431)),
    small("five fields", fields_of(5), ok(header={"x": ("a",) * 4})),
    small("six fields", fields_of(6), refused(431)),
    case("a field of 8190 bytes", "ours", field_of(8190), ok(header={"x": "a" * 8187})),
    case("a field of 8191 bytes", "6585 5", field_of(8191), refused(431)),
    small("a field at the limit", field_of(128), ok(header={"x": "a" * 125})),
    small("a field above the limit", field_of(129), refused(431)),
    case("a head of 64 KiB", "ours", head_of(65536, 4000), ok(path="/")),
    case("a head of 64 KiB and a byte", "6585 5", head_of(65537, 4000), refused(431)),
    small("a head at the limit", head_of(400, 120), ok()),
    small("a head above the limit", head_of(401, 120), refused(431)),
    small("a field without an end", b"GET / HTTP/1.1\r\nX: " + b"a" * 400, refused(431)),
    small("a name without an end", b"GET / HTTP/1.1\r\n" + b"a" * 400, refused(431)),
    # ---- bodies
    small("a body at the limit", counted(20), ok(body="a" * 20)),
    small("a body above the limit", counted(21, sent=0), refused(413), rfc="9110 15.5.14"),
    small("a body above it, sent", counted(21), refused(413), rfc="9110 15.5.14"),
    small("an enormous body", counted(2**62, sent=0), refused(413), rfc="9110 15.5.14"),
    small("a large body that waits", counted(21, 0, b"Expect: 100-continue\r\n"), refused(413),
          rfc="9110 15.5.14"),
    small("a body that may come", counted(20, 20, b"Expect: 100-continue\r\n"), CONTINUE,
          ok(body="a" * 20)),
    small("chunks at the limit", chunked(10, 10, 0) + b"\r\n", ok(body="a" * 20)),
    small("chunks above the limit", chunked(10, 10, 1, 0) + b"\r\n", refused(413)),
    small("one chunk above the limit", chunked(21, 0) + b"\r\n", refused(413)),
    small("an enormous chunk", chunked(0)[:-3] + b"7fffffffffffffff\r\n" + b"a" * 30, refused(413)),
    case("trailers of 8 KiB", "ours", trailer_of(8192), ok(body="a")),
    case("trailers of more", "ours", trailer_of(8200), refused(400)),
    case("a trailer without an end", "ours", trailer_of(9000)[:-4], refused(400)),
    # ---- bodies that nobody reads, here of requests that the application never sees
    *native_only([
        case("an answer before the body", "9112 9.6",
             b"POST /empty HTTP/1.1\r\nHost: h\r\nContent-Length: 70000\r\n\r\n" + b"a" * 70000,
             answer(200, b"")),
    ]),
]
# fmt: on
