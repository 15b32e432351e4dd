"""Host: there once, and a host (RFC 9112 section 3.2)."""

from conformance import Case, case, ok, refused


def host(name: str, value: bytes, *answers, rfc: str = "9112 3.2") -> Case:
    return case(name, rfc, b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n", *answers)


# fmt: off
CASES = [
    case("no Host", "9112 3.2", b"GET / HTTP/1.1\r\n\r\n", refused(400)),
    case("no Host in HTTP/1.0", "9112 3.2", b"GET /a HTTP/1.0\r\n\r\n", ok(host=""), then="closed"),
    case("two Hosts", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", refused(400)),
    case("the same Host twice", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
         refused(400)),
    case("two Hosts in HTTP/1.0", "9112 3.2", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
         refused(400)),
    case("Host in capitals", "9110 5.1", b"GET / HTTP/1.1\r\nHOST: a\r\n\r\n", ok(host="a")),
    host("an empty Host", b"", ok(host="")),
    host("only blanks", b" \t ", ok(host="")),
    host("a name", b"www.example.org", ok(host="www.example.org")),
    host("a name and a port", b"example.org:8080", ok(host="example.org:8080")),
    host("an empty port", b"example.org:", ok(), rfc="3986 3.2.3"),
    host("IPv4", b"127.0.0.1:80", ok(host="127.0.0.1:80")),
    host("IPv6", b"[2001:db8::1]", ok(host="[2001:db8::1]")),
    host("IPv6 and a port", b"[::1]:8000", ok(host="[::1]:8000")),
    host("an underscore", b"my_host", ok(host="my_host")),
    host("percent-encoding", b"a%20b", ok(host="a%20b"), rfc="3986 3.2.2"),
    host("a blank inside", b"a b", refused(400)),
    host("a list", b"a, b", refused(400)),
    host("a path", b"a/b", refused(400)),
    host("a query", b"a?b", refused(400)),
    host("a fragment", b"a#b", refused(400)),
    host("a user", b"user@a", refused(400)),
    host("a URL", b"http://a", refused(400)),
    host("a backslash", b"a\\b", refused(400)),
    host("angle brackets", b"<script>", refused(400)),
    host("a port of letters", b"a:b", refused(400), rfc="3986 3.2.3"),
    host("two ports", b"a:1:2", refused(400), rfc="3986 3.2.3"),
    host("IPv6 without brackets", b"::1", refused(400), rfc="3986 3.2.2"),
    host("a bracket that never closes", b"[::1", refused(400), rfc="3986 3.2.2"),
    host("a bracket that never opened", b"::1]", refused(400), rfc="3986 3.2.2"),
    host("something after the bracket", b"[::1]a", refused(400), rfc="3986 3.2.2"),
    host("a byte beyond ASCII", b"caf\xc3\xa9", refused(400), rfc="3986 3.2.2"),
]
# fmt: on
