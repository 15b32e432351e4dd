"""Connections: kept, closed, pipelined and half-closed (RFC 9112 section 9)."""

from conformance import CLOSED, OPEN, Case, answer, case, native_only, ok, ok_head, refused

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
BAD = b"GET / HTTP/1.1\r\nHost : h\r\n\r\n"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
COUNTED = b"POST /n HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab"


def get(path: bytes) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n"


def asks(name: str, rfc: str, version: bytes, lines: bytes, then: str, says: str | None) -> Case:
    """Make a row about what Connection asks for, and what is said in return."""
    sent = b"GET /empty HTTP/" + version + b"\r\nHost: h\r\n" + lines + b"\r\n"
    return case(name, rfc, sent, answer(200, b"", connection=says), then=then, logged=0)


# fmt: off
CASES = native_only([
    # ---- Connection
    asks("HTTP/1.1 stays", "9112 9.3", b"1.1", b"", OPEN, None),
    asks("HTTP/1.1 closes", "9112 9.6", b"1.1", b"Connection: close\r\n", CLOSED, "close"),
    asks("HTTP/1.1 and keep-alive", "9112 9.3", b"1.1", b"Connection: keep-alive\r\n", OPEN, None),
    asks("HTTP/1.0 closes", "9112 9.3", b"1.0", b"", CLOSED, "close"),
    asks("HTTP/1.0 stays when asked to", "9112 9.3", b"1.0", b"Connection: keep-alive\r\n", OPEN,
         "keep-alive"),
    asks("in capitals", "9110 7.6.1", b"1.1", b"CONNECTION: CLOSE\r\n", CLOSED, "close"),
    asks("HTTP/1.0 in capitals", "9110 7.6.1", b"1.0", b"Connection: Keep-Alive\r\n", OPEN,
         "keep-alive"),
    asks("close in a list", "9110 7.6.1", b"1.1", b"Connection: a,b ,\tclose , c\r\n", CLOSED,
         "close"),
    asks("close in a second line", "9110 7.6.1", b"1.1",
         b"Connection: keep-alive\r\nConnection: close\r\n", CLOSED, "close"),
    asks("close wins", "9112 9.3", b"1.0", b"Connection: keep-alive, close\r\n", CLOSED, "close"),
    asks("not close, but like it", "9110 7.6.1", b"1.1", b"Connection: closed, xclose\r\n", OPEN,
         None),
    asks("an empty list", "9110 5.6.1", b"1.1", b"Connection: , ,\r\n", OPEN, None),
    asks("an old name means nothing", "9112 C.2.2", b"1.1", b"Proxy-Connection: close\r\n", OPEN,
         None),
    case("the last of many closes", "9112 9.6",
         get(b"/empty") + b"GET /empty HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
         answer(200, b"", connection=None), answer(200, b"", connection="close"), then=CLOSED,
         logged=0),
    case("after close nothing is read", "9112 9.6",
         b"GET /empty HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + GET,
         answer(200, b"", connection="close"), then=CLOSED, logged=0),
    case("after close nothing is judged", "9112 9.6",
         b"GET /empty HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + BAD,
         answer(200, b"", connection="close"), then=CLOSED, logged=0),
    # ---- Upgrade is declined by an answer as usual
    case("Upgrade is ignored", "9110 7.8",
         b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + GET,
         ok(method="GET"), ok(method="GET")),
    case("HTTP/2 by Upgrade is ignored", "9113 3.1",
         b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
         b"HTTP2-Settings: AAMAAABk\r\n\r\n" + GET,
         ok(), ok()),
    case("Upgrade with a body", "9110 7.8",
         b"POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n"
         b"Content-Length: 3\r\n\r\nabc" + GET,
         ok(body="abc"), ok(body="")),
    case("Upgrade with chunks", "9110 7.8",
         b"POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n"
         b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + GET,
         ok(body="abc"), ok(body="")),
    case("Upgrade without its token", "9110 7.8",
         b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n" + GET, ok(), ok()),
    # ---- pipelining
    case("three requests at once", "9112 9.3.2", get(b"/a") + get(b"/b") + get(b"/c"),
         ok(path="/a"), ok(path="/b"), ok(path="/c")),
    case("of all kinds", "9112 9.3.2",
         get(b"/a") + CHUNKED + b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n" + COUNTED + get(b"/z"),
         ok(path="/a"), ok(path="/c", body="ab"), ok_head(), ok(path="/n", body="ab"),
         ok(path="/z")),
    case("a streamed answer in between", "9112 9.3.2", get(b"/a") + get(b"/stream") + get(b"/b"),
         ok(path="/a"), answer(200, b"onetwotwotwotwotwotwo", transfer_encoding="chunked"),
         ok(path="/b")),
    case("a large answer in between", "9112 9.3.2", get(b"/a") + get(b"/large") + get(b"/b"),
         ok(path="/a"), answer(200, b"x" * 200_000), ok(path="/b")),
    case("good, then bad", "ours, rule 3", get(b"/a") + BAD, ok(path="/a"), refused(400)),
    case("good, bad, good", "ours, rule 3", get(b"/a") + BAD + get(b"/b"),
         ok(path="/a"), refused(400)),
    case("a body, then bad", "ours, rule 3", COUNTED + BAD, ok(body="ab"), refused(400)),
    case("a streamed answer, then bad", "ours, rule 3", get(b"/stream") + BAD,
         answer(200, b"onetwotwotwotwotwotwo"), refused(400)),
    case("a large answer, then bad", "ours, rule 3", get(b"/large") + BAD,
         answer(200, b"x" * 200_000), refused(400)),
    case("good, then a bad body", "ours, rule 3", get(b"/a") + CHUNKED[:-7] + b"!\r\n",
         ok(path="/a"), refused(400)),
    case("good, then another version", "9112 2.3", get(b"/a") + b"GET / HTTP/2.0\r\n\r\n",
         ok(path="/a"), refused(505)),
    case("good, then half a request", "9112 9.3.2", get(b"/a") + b"GET /b HT", ok(path="/a"),
         then="waits"),
    # ---- half-closed clients
    case("a half-closed client is answered", "9112 9.6", GET, ok(path="/"), half_closes=True),
    case("so is one with a body", "9112 9.6", COUNTED, ok(body="ab"), half_closes=True),
    case("so is one with chunks", "9112 9.6", CHUNKED, ok(body="ab"), half_closes=True),
    case("so are pipelined requests", "9112 9.6", get(b"/a") + get(b"/b"),
         ok(path="/a"), ok(path="/b"), half_closes=True),
    case("a streamed answer is whole", "9112 9.6", get(b"/stream"),
         answer(200, b"onetwotwotwotwotwotwo"), half_closes=True, logged=0),
    case("a large answer is whole", "9112 9.6", get(b"/large"),
         answer(200, b"x" * 200_000), half_closes=True, logged=0),
    case("half-closed without a word", "9112 9.6", b"", half_closes=True),
    case("half-closed in a line", "9112 8", b"GET / HT", half_closes=True),
    case("half-closed in a head", "9112 8", GET[:-2], half_closes=True),
    case("half-closed in a body", "9112 8", COUNTED[:-1], half_closes=True),
    case("half-closed in a chunk", "9112 8", CHUNKED[:-7], half_closes=True),
    case("half-closed before the last chunk", "9112 8", CHUNKED[:-5], half_closes=True),
    case("half-closed after a bad request", "9112 9.6", BAD, refused(400), half_closes=True),
    case("half-closed after good and half", "9112 8", get(b"/a") + b"GET /b", ok(path="/a"),
         half_closes=True),
    # ---- a number of requests
    case("the last request of a connection", "9112 9.6", get(b"/empty") * 3,
         answer(200, b"", connection=None), answer(200, b"", connection="close"), then=CLOSED,
         logged=0, limit_keep_alive_requests=2),
])
# fmt: on
