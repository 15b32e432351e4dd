"""Expect: 100-continue, and what is none (RFC 9110 section 10.1.1)."""

from conformance import CONTINUE, WAITS, Case, case, ok, refused


def put(
    name: str, expect: bytes, *answers, body: bytes = b"abc", version: bytes = b"1.1", **more
) -> Case:
    head = b"PUT / HTTP/" + version + b"\r\nHost: h\r\nContent-Length: 3\r\n" + expect + b"\r\n"
    return case(name, "9110 10.1.1", head + body, *answers, **more)


# fmt: off
CASES = [
    put("100-continue", b"Expect: 100-continue\r\n", CONTINUE, ok(body="abc")),
    put("100-continue in capitals", b"EXPECT: 100-CONTINUE\r\n", CONTINUE, ok(body="abc")),
    put("the client waits for it", b"Expect: 100-continue\r\n", CONTINUE, body=b"", then=WAITS),
    put("HTTP/1.0 expects nothing", b"Expect: 100-continue\r\n", ok(body="abc"), version=b"1.0",
        then="closed"),
    case("no body to wait for", "9110 10.1.1",
         b"GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n", ok(body="")),
    case("a body of no bytes", "9110 10.1.1",
         b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n",
         ok(body="")),
    case("a chunked body", "9110 10.1.1",
         b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
         b"3\r\nabc\r\n0\r\n\r\n",
         CONTINUE, ok(body="abc")),
    case("chunked, and waits", "9110 10.1.1",
         b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
         CONTINUE, then=WAITS),
    put("an unknown expectation", b"Expect: 200-ok\r\n", refused(417)),
    put("two expectations", b"Expect: 100-continue\r\nExpect: 100-continue\r\n", refused(417)),
    put("a list of them", b"Expect: 100-continue, x\r\n", refused(417)),
    put("an empty expectation", b"Expect:\r\n", refused(417)),
    put("a worse mistake wins", b"Expect: x\r\nContent-Length: 3\r\n", refused(400)),
]
# fmt: on
