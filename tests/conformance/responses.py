"""Responses: statuses, framing, and fields that are the server's (RFC 9110, 9112 section 6)."""

from conformance import CLOSED, OPEN, Case, answer, case, native_only, ok_head


def asks(
    name: str,
    rfc: str,
    path: bytes,
    *answers,
    method: bytes = b"GET",
    version: bytes = b"1.1",
    lines: bytes = b"",
    **more,
) -> Case:
    sent = method + b" " + path + b" HTTP/" + version + b"\r\nHost: h\r\n" + lines + b"\r\n"
    more.setdefault("then", OPEN if version == b"1.1" or lines else CLOSED)
    return case(name, rfc, sent, *answers, logged=0, **more)


KEEP = b"Connection: keep-alive\r\n"

# fmt: off
CASES = native_only([
    # ---- framing
    asks("a counted body", "9112 6.2", b"/299",
         answer(299, b"unregistered", content_length="12", transfer_encoding=None)),
    asks("an empty body", "9112 6.2", b"/empty?", answer(200, b"", content_length="0")),
    asks("a streamed body", "9112 7.1", b"/stream",
         answer(200, b"onetwotwotwotwotwotwo", transfer_encoding="chunked", content_length=None)),
    asks("a streamed body with a length", "9112 6.2", b"/stream-counted",
         answer(200, b"onetwo", content_length="6", transfer_encoding=None)),
    asks("nothing streamed", "9112 6.2", b"/stream-nothing", answer(200, b"")),
    asks("a streamed body for HTTP/1.0", "9112 6.3", b"/stream",
         answer(200, b"onetwotwotwotwotwotwo", transfer_encoding=None, content_length=None,
                connection="close"), version=b"1.0"),
    asks("which cannot be kept alive", "9112 6.3", b"/stream",
         answer(200, b"onetwotwotwotwotwotwo", connection="close"), version=b"1.0", lines=KEEP,
         then=CLOSED),
    asks("counted for HTTP/1.0", "9112 6.2", b"/stream-counted",
         answer(200, b"onetwo", content_length="6", connection="close"), version=b"1.0"),
    asks("counted and kept alive", "9112 9.3", b"/stream-counted",
         answer(200, b"onetwo", connection="keep-alive"), version=b"1.0", lines=KEEP),
    asks("a large body", "9112 6.2", b"/large",
         answer(200, b"x" * 200_000, content_length="200000")),
    # ---- statuses without a body
    asks("204", "9110 15.3.5", b"/204", answer(204, b"", content_length=None)),
    asks("204 with a body", "9110 15.3.5", b"/204-body",
         answer(204, b"", content_length=None, transfer_encoding=None)),
    asks("204 with a stream", "9110 15.3.5", b"/stream-204",
         answer(204, b"", content_length=None, transfer_encoding=None)),
    asks("204 for HTTP/1.0", "9110 15.3.5", b"/204", answer(204, b"", connection="keep-alive"),
         version=b"1.0", lines=KEEP),
    asks("304 with a body", "9110 15.4.5", b"/304-body", answer(304, b"", transfer_encoding=None)),
    asks("205", "9110 15.3.6", b"/205", answer(205, b"", content_length="0")),
    # ---- HEAD
    asks("HEAD of a large body", "9110 9.3.2", b"/large", ok_head(content_length="200000"),
         method=b"HEAD"),
    asks("HEAD of a streamed body", "9110 9.3.2", b"/stream", ok_head(content_length=None),
         method=b"HEAD"),
    asks("HEAD of a length", "9110 9.3.2", b"/stream-counted", ok_head(content_length="6"),
         method=b"HEAD"),
    asks("HEAD for HTTP/1.0 is kept alive", "9110 9.3.2", b"/stream",
         ok_head(connection="keep-alive"), method=b"HEAD", version=b"1.0", lines=KEEP),
    # ---- fields
    asks("the application closes", "9112 9.6", b"/close", answer(200, b"bye", connection="close"),
         then=CLOSED),
    asks("it cannot keep open", "9112 9.3", b"/keep-alive",
         answer(200, b"x", connection="close", keep_alive=None), lines=b"Connection: close\r\n",
         then=CLOSED),
    asks("its keep-alive is dropped", "9110 7.6.1", b"/keep-alive",
         answer(200, b"x", connection=None, keep_alive=None)),
    asks("its chunked is the server's", "9112 6.1", b"/own-chunked",
         answer(200, b"whole", transfer_encoding=None, content_length="5")),
    asks("its coding is dropped", "9112 6.1", b"/own-gzip",
         answer(200, b"whole", transfer_encoding=None, content_length="5")),
    asks("latin-1", "9110 5.5", b"/latin-1", answer(200, b"ok", x="caf\xe9")),
    asks("a repeated field", "9110 5.3", b"/many", answer(200, b"ok", set_cookie="a=1, b=2")),
    asks("blanks around a value", "9112 5.1", b"/blanks", answer(200, b"ok", x="value")),
])
# fmt: on
