"""What applications get wrong, and how little of it reaches the wire."""

from conformance import CLOSED, OPEN, RESET, Answer, Case, answer, case, cut, failed, native_only


def asks(
    name: str,
    rfc: str,
    path: bytes,
    *answers,
    then: str = OPEN,
    method: bytes = b"GET",
    version: bytes = b"1.1",
    lines: bytes = b"",
) -> Case:
    """Make a row; whatever it is, it costs one line in the log."""
    sent = method + b" " + path + b" HTTP/" + version + b"\r\nHost: h\r\n" + lines + b"\r\n"
    return case(name, rfc, sent, *answers, then=then, logged=1)


# fmt: off
CASES = native_only([
    # ---- heads that would be split
    asks("a CR in a value", "9110 5.5", b"/cr", failed()),
    asks("an LF in a value", "9110 5.5", b"/lf", failed()),
    asks("a response in a value", "9110 5.5", b"/crlf", failed()),
    asks("a NUL in a value", "9110 5.5", b"/nul", failed()),
    asks("an ESC in a value", "9110 5.5", b"/esc", failed()),
    asks("a blank in a name", "9110 5.1", b"/name-space", failed()),
    asks("a colon in a name", "9110 5.1", b"/name-colon", failed()),
    asks("an LF in a name", "9110 5.1", b"/name-lf", failed()),
    asks("an empty name", "9110 5.1", b"/name-empty", failed()),
    asks("a line end in the reason", "9112 4", b"/reason", failed()),
    # ---- lengths that are none
    asks("a signed length", "9110 8.6", b"/length-sign", failed()),
    asks("a list of lengths", "9110 8.6", b"/length-list", failed()),
    asks("two lengths", "9110 8.6", b"/length-two", failed()),
    # ---- statuses that are none
    asks("status 99", "9110 15", b"/status-99", failed()),
    asks("status 1000", "9110 15", b"/status-1000", failed()),
    asks("status 0", "9110 15", b"/status-0", failed()),
    asks("status 100", "9110 15.2", b"/status-100", failed()),
    # ---- bodies that do not keep their word
    asks("longer than its length", "9112 6.2", b"/longer", answer(200, b"thr", content_length="3")),
    asks("a stream longer than its length", "9112 6.2", b"/longer-stream",
         answer(200, b"abcd", content_length="4")),
    asks("shorter than its length", "9112 6.2", b"/shorter", cut(200, b"short"), then=CLOSED),
    asks("a stream shorter than its length", "9112 6.2", b"/shorter-stream", cut(200, b"abc"),
         then=CLOSED),
    # ---- exceptions
    asks("an exception", "9110 15.6.1", b"/boom", failed()),
    asks("an exception for HEAD", "9110 15.6.1", b"/boom",
         Answer(500, body=b"", is_head=True, fields={"content-length": "26"}), method=b"HEAD"),
    asks("an exception for HTTP/1.0", "9110 15.6.1", b"/boom", failed(), version=b"1.0",
         then=CLOSED),
    asks("before the first block", "9110 15.6.1", b"/boom-first", failed()),
    asks("after the first block", "9112 8", b"/boom-later",
         cut(200, b"one", transfer_encoding="chunked"), then=CLOSED),
    asks("in a counted body", "9112 8", b"/boom-counted", cut(200, b"one", content_length="9"),
         then=CLOSED),
    asks("in a body ended by the close", "9112 8", b"/boom-later", cut(200, b"one"),
         version=b"1.0", then=RESET),
])
# fmt: on
