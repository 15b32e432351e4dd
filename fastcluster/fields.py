"""What a request says as mappings: header fields, the query, forms and cookies.

Names may repeat in all of them, so nothing is dropped: a mapping answers with
one value a name, and get_all() and multi_items() give every one.  It is pure
text work; who sent the text, and over what, it does not know.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, overload
from urllib.parse import parse_qsl

T = TypeVar("T")
D = TypeVar("D")

FORM_FIELDS_MAX = 1000
# Encodings that web clients send.  Python has others that cost quadratic time
# (punycode, idna) or mean something else than text.
TEXT_ENCODINGS = frozenset(
    {"utf-8", "ascii", "iso8859-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be"}
)


class BadRequest(ValueError):
    """What the client sent cannot be read as what the handler asked for.

    A handler that lets it pass answers with `status` and the message, without
    a traceback in the log: it is the client's mistake.  status: 400, 413 or 415.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class MultiDict(Mapping[str, T], Generic[T]):
    """A read-only mapping whose names may have several values.

    Indexing and get() give the first value, as URLSearchParams.get does; the
    order of the names is that of their first appearance.
    """

    __slots__ = ("_pairs", "_values")

    def __init__(self, pairs: Iterable[tuple[str, T]] = ()) -> None:
        self._pairs = list(pairs)
        self._values: dict[str, list[T]] = {}
        for name, value in self._pairs:
            self._values.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> T:
        return self._values[name][0]

    @overload
    def get(self, name: str, /) -> T | None: ...
    @overload
    def get(self, name: str, /, default: T | D) -> T | D: ...
    def get(self, name: str, /, default: Any = None) -> Any:
        """Return the first value of a name, or the default."""
        values = self._values.get(name)
        return values[0] if values else default

    def get_all(self, name: str) -> list[T]:
        """Return every value of a name in order, [] for a name that is not there."""
        return list(self._values.get(name, ()))

    # As Django and Werkzeug call it.
    getlist = get_all

    def multi_items(self) -> list[tuple[str, T]]:
        """Return every (name, value) pair in the order in which they came."""
        return list(self._pairs)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._pairs!r})"


class Headers(Mapping[str, str]):
    """The fields of a request's head; names compare without regard to case.

    A repeated field's values are joined with ", " as RFC 9110 section 5.3
    allows (Cookie's with "; ").  Iteration gives lower-case names.  Text is
    latin-1, which loses no byte.
    """

    # request.pyx fills both for itself, since every look at a request pays for it.
    __slots__ = ("_joined", "_pairs")

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs = [(name.lower(), value) for name, value in pairs]
        self._joined: dict[str, str] = {}
        for name, value in self._pairs:
            before = self._joined.get(name)
            self._joined[name] = value if before is None else join_values(name, before, value)

    def __getitem__(self, name: str) -> str:
        return self._joined[name.lower()]

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, /, default: str | D) -> str | D: ...
    def get(self, name: str, /, default: Any = None) -> Any:
        """Return a field's value, all of its lines joined, or the default."""
        return self._joined.get(name.lower(), default)

    def get_all(self, name: str) -> list[str]:
        """Return the values of each line with that name, [] if there is none."""
        key = name.lower()
        if key not in self._joined:
            return []
        return [value for other, value in self._pairs if other == key]

    getlist = get_all

    def multi_items(self) -> list[tuple[str, str]]:
        """Return (lower-case name, value) of every line in the order in which they came."""
        return list(self._pairs)

    def __iter__(self) -> Iterator[str]:
        return iter(self._joined)

    def __len__(self) -> int:
        return len(self._joined)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._joined

    def __repr__(self) -> str:
        return f"Headers({self._pairs!r})"


def join_values(name: str, before: str, value: str) -> str:
    """Make one value of two lines with the same lower-case name."""
    return f"{before}; {value}" if name == "cookie" else f"{before}, {value}"


def parse_query(query: bytes) -> MultiDict[str]:
    """Parse a query as browsers write it; undecodable bytes become U+FFFD.

    Its size is bounded by that of the request line, so the number of its
    fields needs no limit of its own.
    """
    text = query.decode("utf-8", "replace")
    return MultiDict(parse_qsl(text, keep_blank_values=True))


def parse_urlencoded(body: bytes) -> MultiDict[str]:
    """Parse a form's body (application/x-www-form-urlencoded).

    Raises BadRequest (413) for more than FORM_FIELDS_MAX fields.
    """
    if body.count(b"&") >= FORM_FIELDS_MAX:
        raise BadRequest(f"a form has at most {FORM_FIELDS_MAX} fields", 413)
    return parse_query(body)


def parse_cookies(lines: Iterable[str]) -> dict[str, str]:
    """Parse Cookie fields (RFC 6265 section 5.4) leniently: a bad pair spoils no other.

    Of a repeated name the first counts: clients send the more specific path
    first.  Quotes around a value are dropped.
    """
    cookies: dict[str, str] = {}
    for line in lines:
        for pair in line.split(";"):
            name, equals, value = pair.partition("=")
            name, value = name.strip(), value.strip()
            if not equals or not name:
                continue
            if len(value) >= 2 and value[0] == value[-1] == '"':
                value = value[1:-1]
            cookies.setdefault(name, value)
    return cookies


def parse_json(body: bytes) -> Any:
    """Parse a JSON body; BadRequest for anything else, however deeply nested."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the request body is not JSON: {error}") from None


_PARAMETER = re.compile(
    r""";[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^;"]*))[ \t]*""", re.S
)


def parse_parameters(value: str) -> tuple[str, dict[str, str]]:
    """Split `text/plain; charset=utf-8` into its lower-case kind and its parameters.

    Of a repeated parameter the first counts.  In quotes only the quote and the
    backslash can be escaped, since browsers send file names with bare
    backslashes.  Raises BadRequest for what has no such form.
    """
    kind, semicolon, rest = value.partition(";")
    parameters: dict[str, str] = {}
    rest = (semicolon + rest).rstrip(" \t")
    at = 0
    while at < len(rest):
        match = _PARAMETER.match(rest, at)
        if match is None:
            if rest[at:].strip("; \t") == "":
                break
            raise BadRequest(f"malformed field value {value[:100]!r}")
        name, quoted, plain = match.groups()
        text = plain.strip() if quoted is None else re.sub(r'\\(["\\])', r"\1", quoted)
        parameters.setdefault(name.lower(), text)
        at = match.end()
    return kind.strip().lower(), parameters


def decode_text(body: bytes, content_type: str) -> str:
    """Decode a body by the charset of its Content-Type, UTF-8 if there is none."""
    charset = parse_parameters(content_type)[1].get("charset", "utf-8")
    try:
        encoding = codecs.lookup(charset).name
    except (LookupError, ValueError):
        encoding = ""
    if encoding not in TEXT_ENCODINGS:
        raise BadRequest(f"text in the charset {charset[:40]!r} is not read here", 415)
    try:
        return body.decode(encoding)
    except UnicodeDecodeError:
        raise BadRequest(f"the request body is not {encoding} text") from None
