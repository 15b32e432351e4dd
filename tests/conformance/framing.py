"""Where a body ends: Content-Length and Transfer-Encoding (RFC 9112 section 6)."""

from conformance import WAITS, Case, case, ok, refused

NEXT = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKS = b"3\r\nabc\r\n0\r\n\r\n"


def post(name: str, rfc: str, lines: bytes, body: bytes, *answers, **more) -> Case:
    head = b"POST / HTTP/1.1\r\nHost: h\r\n" + lines + b"\r\n\r\n"
    return case(name, rfc, head + body, *answers, **more)


def length(name: str, value: bytes, body: bytes = b"abcde", rfc: str = "9110 8.6") -> Case:
    """Make a row whose Content-Length is refused."""
    return post(name, rfc, b"Content-Length:" + value, body, refused(400))


def coding(name: str, lines: bytes, rfc: str = "9112 6.1") -> Case:
    """Make a row whose Transfer-Encoding is refused."""
    return post(name, rfc, lines, CHUNKS, refused(400))


# fmt: off
CASES = [
    # ---- Content-Length
    post("a counted body", "9112 6.2", b"Content-Length: 3", b"abc", ok(body="abc")),
    post("a body of no bytes", "9112 6.2", b"Content-Length: 0", b"", ok(body="")),
    post("leading zeros", "9110 8.6", b"Content-Length: 0003", b"abc", ok(body="abc")),
    post("its name in capitals", "9110 5.1", b"CONTENT-LENGTH: 3", b"abc", ok(body="abc")),
    post("blanks around the length", "9112 5.1", b"Content-Length: \t 3 \t ", b"abc",
         ok(body="abc")),
    post("all bytes there are", "9110 6.4", b"Content-Length: 256", bytes(range(256)),
         ok(body=bytes(range(256)).decode("latin-1"))),
    post("a body that looks like a request", "9112 11.2",
         b"Content-Length: %d" % len(NEXT), NEXT + NEXT,
         ok(body=NEXT.decode()), ok(path="/next")),
    post("a body not there yet", "9112 6.2", b"Content-Length: 3", b"ab", then=WAITS),
    case("a body of GET", "9110 9.3.1",
         b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
         ok(method="GET", body="abc")),
    case("a body of DELETE", "9110 9.3.5",
         b"DELETE / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
         ok(method="DELETE", body="abc")),
    case("no length, no body", "9112 6.3", b"POST / HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT,
         ok(path="/", body=""), ok(path="/next")),
    case("a counted body of HTTP/1.0", "9112 6.2",
         b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", ok(body="abc"), then="closed"),
    length("a sign", b" +5"),
    length("a negative length", b" -5"),
    length("a negative zero", b" -0"),
    length("hexadecimal", b" 0x5"),
    length("an underscore", b" 1_0"),
    length("a list", b" 5, 5"),
    length("a list of two", b" 5, 6"),
    length("a comma at the end", b" 5,"),
    length("a blank inside", b" 5 5"),
    length("a point", b" 5.0"),
    length("an exponent", b" 5e0"),
    length("letters", b" five"),
    length("no length", b""),
    length("only blanks", b" \t "),
    length("quoted", b' "5"'),
    length("a semicolon", b" 5;"),
    length("a vertical TAB", b" \x0b5"),
    length("a NUL", b" 5\0"),
    length("other digits", b" \xd9\xa5"),
    length("2 to the 63rd", b" 9223372036854775808"),
    length("2 to the 64th and five", b" 18446744073709551621"),
    length("many digits", b" " + b"9" * 100),
    length("two lengths", b" 5\r\nContent-Length: 6", rfc="9112 6.3"),
    length("the same length twice", b" 5\r\nContent-Length: 5", rfc="ours"),
    length("twice in two cases", b" 5\r\ncontent-length: 5", rfc="ours"),
    length("an empty one and a good one", b"\r\nContent-Length: 5", rfc="9112 6.3"),
    # ---- Transfer-Encoding
    post("chunked", "9112 7.1", b"Transfer-Encoding: chunked", CHUNKS, ok(body="abc")),
    post("chunked in mixed case", "9112 7", b"Transfer-Encoding: cHUNKeD", CHUNKS, ok(body="abc")),
    post("chunked, its name in capitals", "9110 5.1", b"TRANSFER-ENCODING: chunked", CHUNKS,
         ok(body="abc")),
    post("blanks around chunked", "9112 5.1", b"Transfer-Encoding:  \t chunked  ", CHUNKS,
         ok(body="abc")),
    case("chunked GET", "9110 9.3.1",
         b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
         ok(body="abc")),
    post("a request after chunks", "9112 7.1", b"Transfer-Encoding: chunked", CHUNKS + NEXT,
         ok(body="abc"), ok(path="/next")),
    coding("both", b"Content-Length: 3\r\nTransfer-Encoding: chunked", "9112 6.1"),
    coding("both, the other way round", b"Transfer-Encoding: chunked\r\nContent-Length: 3",
           "9112 6.1"),
    coding("both, and no body", b"Content-Length: 0\r\nTransfer-Encoding: chunked", "9112 6.1"),
    coding("both, and neither sound", b"Content-Length: x\r\nTransfer-Encoding: x", "9112 6.1"),
    coding("chunked twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    coding("chunked twice in a list", b"Transfer-Encoding: chunked, chunked"),
    coding("gzip, then chunked", b"Transfer-Encoding: gzip, chunked"),
    coding("gzip and chunked in two lines",
           b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked"),
    coding("chunked, then gzip", b"Transfer-Encoding: chunked, gzip"),
    coding("gzip", b"Transfer-Encoding: gzip"),
    coding("identity", b"Transfer-Encoding: identity"),
    coding("identity, then chunked", b"Transfer-Encoding: identity, chunked"),
    coding("an unknown coding", b"Transfer-Encoding: x"),
    coding("an empty coding", b"Transfer-Encoding:"),
    coding("a comma before", b"Transfer-Encoding: , chunked"),
    coding("a comma after", b"Transfer-Encoding: chunked,"),
    coding("a parameter", b"Transfer-Encoding: chunked;q=1"),
    coding("quoted chunked", b'Transfer-Encoding: "chunked"'),
    coding("a letter more", b"Transfer-Encoding: chunkedd"),
    coding("a letter before", b"Transfer-Encoding: xchunked"),
    coding("a letter less", b"Transfer-Encoding: chunke"),
    coding("a vertical TAB before chunked", b"Transfer-Encoding: \x0bchunked", "9110 5.5"),
    coding("a form feed after chunked", b"Transfer-Encoding: chunked\x0c", "9110 5.5"),
    coding("a NUL after chunked", b"Transfer-Encoding: chunked\0", "9110 5.5"),
    coding("a TAB after chunked", b"Transfer-Encoding: chunked\t", "ours"),
    coding("a no-break space", b"Transfer-Encoding: chunked\xa0"),
    coding("a blank before its colon", b"Transfer-Encoding : chunked", "9112 5.1"),
    coding("folded", b"Transfer-Encoding:\r\n chunked", "9112 5.2"),
    case("chunked HTTP/1.0", "9112 6.1",
         b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, refused(400)),
    case("chunked HTTP/1.0, kept alive", "9112 6.1",
         b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
         + CHUNKS, refused(400)),
]
# fmt: on
