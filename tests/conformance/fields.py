"""Field lines: names, values, blanks and line ends (RFC 9112 section 5)."""

from conformance import Case, case, ok, refused


def field(name: str, rfc: str, line: bytes, *answers, **more) -> Case:
    """Make a row with that line, its line end included, after Host."""
    return case(name, rfc, b"GET / HTTP/1.1\r\nHost: h\r\n" + line + b"\r\n", *answers, **more)


def seen(value: str | tuple[str, ...], name: str = "x"):
    return ok(header={name: value})


# fmt: off
CASES = [
    # ---- values
    field("a value", "9112 5", b"X: a\r\n", seen("a")),
    field("no blank after the colon", "9112 5", b"X:a\r\n", seen("a")),
    field("many blanks around", "9112 5.1", b"X: \t  a \t \r\n", seen("a")),
    field("an empty value", "9110 5.5", b"X:\r\n", seen("")),
    field("a value of blanks", "9110 5.5", b"X: \t \r\n", seen("")),
    field("blanks inside stay", "9110 5.5", b"X: a  b\tc\r\n", seen("a  b\tc")),
    field("a colon in a value", "9112 5", b"X: a:b: c\r\n", seen("a:b: c")),
    field("obs-text", "9110 5.5", b"X: caf\xc3\xa9 \xff\r\n", seen("caf\xc3\xa9 \xff")),
    field("the last fields' values", "9112 5", b"A: 1\r\nB: 2\r\n",
          ok(header={"a": "1", "b": "2"})),
    field("a repeated field", "9110 5.3", b"X: a\r\nY: b\r\nx: c\r\n", seen(("a", "c"))),
    field("repeated cookies", "9113 8.2.3", b"Cookie: a=1\r\nCookie: b=2\r\n",
          seen("a=1; b=2", "cookie")),
    field("a NUL in a value", "9110 5.5", b"X: a\0b\r\n", refused(400)),
    field("a control byte in a value", "9110 5.5", b"X: a\x01b\r\n", refused(400)),
    field("an ESC in a value", "9110 5.5", b"X: a\x1b[2Jb\r\n", refused(400)),
    field("a DEL in a value", "9110 5.5", b"X: a\x7fb\r\n", refused(400)),
    field("a vertical TAB in a value", "9110 5.5", b"X: a\x0bb\r\n", refused(400)),
    # ---- names
    field("all bytes of a token", "9110 5.6.2", b"!#$%&'*+-.^`|~0Az: a\r\n",
          ok(header={"!#$%&'*+-.^`|~0az": "a"})),
    field("a name in capitals", "9110 5.1", b"ACCEPT: a\r\n", seen("a", "accept")),
    field("a blank before the colon", "9112 5.1", b"X : a\r\n", refused(400)),
    field("a TAB before the colon", "9112 5.1", b"X\t: a\r\n", refused(400)),
    field("a blank in a name", "9110 5.1", b"X Y: a\r\n", refused(400)),
    field("an empty name", "9110 5.1", b": a\r\n", refused(400)),
    field("no colon", "9112 5", b"X\r\n", refused(400)),
    field("no colon, a value", "9112 5", b"X a\r\n", refused(400)),
    field("a name with a NUL", "9110 5.6.2", b"X\0: a\r\n", refused(400)),
    field("a name with a quote", "9110 5.6.2", b'X"Y: a\r\n', refused(400)),
    field("a name with a bracket", "9110 5.6.2", b"X(Y: a\r\n", refused(400)),
    field("a name with a slash", "9110 5.6.2", b"X/Y: a\r\n", refused(400)),
    field("a name beyond ASCII", "9110 5.6.2", b"X\xe9: a\r\n", refused(400)),
    field("a line of control bytes", "9110 5.6.2", b"\x7f\x01: a\r\n", refused(400)),
    # ---- blanks before a line: obs-fold, and what looks like it
    field("obs-fold", "9112 5.2", b"X: a\r\n b\r\n", refused(400)),
    field("obs-fold by a TAB", "9112 5.2", b"X: a\r\n\tb\r\n", refused(400)),
    field("an empty folded line", "9112 5.2", b"X: a\r\n \r\n", refused(400)),
    case("a blank before the first field", "9112 2.2",
         b"GET / HTTP/1.1\r\n Host: h\r\n\r\n", refused(400)),
    case("a TAB before the first field", "9112 2.2",
         b"GET / HTTP/1.1\r\n\tHost: h\r\n\r\n", refused(400)),
    case("blanks for a first field", "9112 2.2",
         b"GET / HTTP/1.1\r\n  \r\nHost: h\r\n\r\n", refused(400)),
    # ---- line ends
    field("a bare LF after a field", "9112 2.2", b"X: a\n", refused(400)),
    field("a bare CR after a field", "9112 2.2", b"X: a\rY: b\r\n", refused(400)),
    field("a bare CR before obs-text", "9112 2.2", b"X: a\r\xe9\r\n", refused(400)),
    field("two CR after a field", "9112 2.2", b"X: a\r\r\n", refused(400)),
    field("LF CR after a field", "9112 2.2", b"X: a\n\r", refused(400)),
    field("a CR that starts a value", "9112 2.2", b"X:\ra\r\n", refused(400)),
    case("a bare LF for the empty line", "9112 2.2", b"GET / HTTP/1.1\r\nHost: h\r\n\n",
         refused(400)),
    case("a bare CR for the empty line", "9112 2.2", b"GET / HTTP/1.1\r\nHost: h\r\n\rX: a\r\n\r\n",
         refused(400)),
    case("only bare LF", "9112 2.2", b"GET / HTTP/1.1\nHost: h\n\n", refused(400)),
    # ---- what follows a refusal is never a request
    field("a good request after a bad one", "9112 2.2",
          b"X : a\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n", refused(400)),
    field("a request in the value", "9112 11.1", b"X: a\r\rGET /b HTTP/1.1\r\nHost: h\r\n",
          refused(400)),
]
# fmt: on
