"""Request targets in their four forms (RFC 9112 section 3.2)."""

from conformance import case, native_only, ok, refused

HOST = b"Host: h\r\n\r\n"


def get(target: bytes, host: bytes = HOST) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + host


# fmt: off
CASES = [
    # ---- origin-form
    case("a path", "9112 3.2.1", get(b"/a/b"), ok(path="/a/b", query="")),
    case("a path and a query", "9112 3.2.1", get(b"/a?b=c&d"), ok(path="/a", query="b=c&d")),
    case("an empty query", "9112 3.2.1", get(b"/a?"), ok(path="/a", query="")),
    case("a ? in the query", "3986 3.4", get(b"/a?b?c"), ok(path="/a", query="b?c")),
    case("two slashes", "3986 3.3", get(b"//a//b"), ok(path="//a//b")),
    case("a URL as path", "3986 3.3", get(b"/http://x/"), ok(path="/http://x/")),
    case("dots are the application's", "3986 5.2.4", get(b"/a/../b"), ok(path="/a/../b")),
    case("percent-encoding", "3986 2.1", get(b"/%41%2Fb"), ok(path="/A/b")),
    case("an encoded NUL", "3986 2.1", get(b"/a%00b"), ok(path="/a\0b")),
    case("half an encoded byte", "3986 2.1", get(b"/a%4"), ok(path="/a%4")),
    case("an encoded query stays", "3986 3.4", get(b"/a?%3D"), ok(query="%3D")),
    case("all of pchar", "3986 3.3", get(b"/-._~!$&'()*+,;=:@"), ok(path="/-._~!$&'()*+,;=:@")),
    case("what browsers send unencoded", "3986 2", get(b"/a|b?{c}\"[d]"),
         ok(path="/a|b", query='{c}"[d]')),
    case("a fragment", "9112 3.2", get(b"/a#b"), refused(400)),
    case("a fragment in the query", "9112 3.2", get(b"/a?b#c"), refused(400)),
    case("a NUL in the target", "9112 3.2", get(b"/a\0b"), refused(400)),
    case("a control byte in the target", "9112 3.2", get(b"/a\x01b"), refused(400)),
    case("a DEL in the target", "9112 3.2", get(b"/a\x7fb"), refused(400)),
    case("a TAB in the target", "9112 3.2", get(b"/a\tb"), refused(400)),
    case("a form feed in the target", "9112 3.2", get(b"/a\x0cb"), refused(400)),
    case("a CR in the target", "9112 3.2", get(b"/a\rb"), refused(400)),
    case("an LF in the target", "9112 3.2", get(b"/a\nb"), refused(400)),
    case("a relative path", "9112 3.2.1", get(b"a/b"), refused(400)),
    case("a query alone", "9112 3.2.1", get(b"?a"), refused(400)),
    # ---- absolute-form
    case("absolute", "9112 3.2.2", get(b"http://x.y/a?b"), ok(path="/a", query="b", host="x.y")),
    case("its host wins", "9112 3.2.2", get(b"http://x.y:81/", b"Host: other\r\n\r\n"),
         ok(path="/", host="x.y:81")),
    case("absolute without a path", "9112 3.2.1", get(b"http://x"), ok(path="/", host="x")),
    case("absolute with a query only", "9112 3.2.1", get(b"http://x?a=b"),
         ok(path="/", query="a=b", host="x")),
    case("https", "9112 3.2.2", get(b"https://x/a"), ok(path="/a", host="x")),
    case("its scheme in capitals", "3986 3.1", get(b"HTTP://x/a"), ok(path="/a", host="x")),
    case("IPv6", "3986 3.2.2", get(b"http://[::1]:80/a"), ok(path="/a", host="[::1]:80")),
    case("absolute, and no Host", "9112 3.2", get(b"http://x/", b"\r\n"), refused(400)),
    case("absolute and HTTP/1.0", "9112 3.2.2", b"GET http://x/a HTTP/1.0\r\n\r\n",
         ok(path="/a", host="x"), then="closed"),
    case("no host in it", "9110 4.2.1", get(b"http:///a"), refused(400)),
    case("a port but no host in it", "9110 4.2.1", get(b"http://:80/a"), refused(400)),
    case("a user in it", "9110 4.2.4", get(b"http://u@x/a"), refused(400)),
    case("a port of letters in it", "3986 3.2.3", get(b"http://x:y/a"), refused(400)),
    case("a fragment in it", "9112 3.2", get(b"http://x/a#b"), refused(400)),
    case("another scheme", "9110 7.4", get(b"ftp://x/a"), refused(400)),
    case("one slash only", "9110 4.2.1", get(b"http:/x/a"), refused(400)),
    # ---- authority-form
    case("CONNECT", "9110 9.3.6", b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", refused(501)),
    case("CONNECT, allowed", "9110 9.3.6", b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n",
         ok(method="CONNECT"), allow_connect=True),
    case("CONNECT without a port", "9110 9.3.6", b"CONNECT x HTTP/1.1\r\nHost: x\r\n\r\n",
         refused(400), allow_connect=True),
    case("CONNECT with an empty port", "9110 9.3.6", b"CONNECT x: HTTP/1.1\r\nHost: x\r\n\r\n",
         refused(400), allow_connect=True),
    case("CONNECT with a path", "9112 3.2.3", b"CONNECT /a HTTP/1.1\r\n" + HOST, refused(400)),
    case("an authority with GET", "9112 3.2.3", get(b"x:443"), refused(400)),
    # ---- asterisk-form
    # PATH_INFO has no form for it, so this is not for WSGI's echo.
    *native_only([case("OPTIONS *", "9112 3.2.4", b"OPTIONS * HTTP/1.1\r\n" + HOST,
                       ok(method="OPTIONS", path="*"))]),
    case("* with GET", "9112 3.2.4", get(b"*"), refused(400)),
    case("* and more", "9112 3.2.4", b"OPTIONS *a HTTP/1.1\r\n" + HOST, refused(400)),
]
# fmt: on
