"""The words of a line: every atom, what is escaped, and formats that make no sense."""

import base64
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fastcluster import access_log
from fastcluster.access_log import Facts, read_format
from fastcluster.config import Config
from fastcluster.errors import UsageError

WHEN = 1795608000.25  # 2026-11-25 12:00:00.250 UTC


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    caches = (access_log.clf_time, access_log._iso_time)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    for cache in caches:
        cache.cache_clear()
    yield
    monkeypatch.undo()
    time.tzset()
    for cache in caches:
        cache.cache_clear()


FIELDS = {
    b"referer": b"http://a/",
    b"user-agent": b"curl/8",
    b"host": b"example.org",
    b"x-a": b"one",
    b"authorization": b"Basic " + base64.b64encode(b"ann:secret"),
}


def line(text: str, **changed: Any) -> str:
    """Return the line of a format for a request that has all the fields that it asks for."""
    read = read_format(text)
    given = FIELDS | changed.pop("given", {})
    facts = Facts(
        when=WHEN,
        client="10.0.0.1",
        method=b"GET",
        target=b"/a%20b?x=1&y=2",
        version=(1, 1),
        status=200,
        body_bytes=12,
        duration_ns=1_234_567_890,
        fields=tuple(given.get(name) for name in read.fields),
        head=b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-B: 1\r\nx-b: 2\r\n\r\n",
        request_id="",
        scheme="http",
        server=("127.0.0.1", 8000),
    )
    return read.line(facts._replace(**changed)).decode("ascii")


@pytest.mark.parametrize(
    ("atom", "text"),
    [
        ("h", "10.0.0.1"),
        ("l", "-"),
        ("u", "ann"),
        ("t", "[25/Nov/2026:12:00:00 +0000]"),
        ("r", "GET /a%20b?x=1&y=2 HTTP/1.1"),
        ("m", "GET"),
        ("U", "/a%20b"),
        ("q", "x=1&y=2"),
        ("H", "HTTP/1.1"),
        ("s", "200"),
        ("st", "200 OK"),
        ("b", "12"),
        ("B", "12"),
        ("f", "http://a/"),
        ("a", "curl/8"),
        ("T", "1"),
        ("M", "1234"),
        ("D", "1234567"),
        ("L", "1.234568"),
        ("p", f"<{os.getpid()}>"),
        ("{X-A}i", "one"),
        ("{X-None}i", "-"),
        ("{content-type}o", "text/plain"),
        ("{X-B}o", "1, 2"),
        ("{X-None}o", "-"),
        ("{authorization}i", "ann"),
        ("{REMOTE_ADDR}e", "10.0.0.1"),
        ("{HTTP_X_A}e", "one"),
        ("{SERVER_PORT}e", "8000"),
        ("{wsgi.url_scheme}e", "http"),
    ],
)
def test_every_atom(atom: str, text: str) -> None:
    assert line(f"<%({atom})s>") == f"<{text}>\n"


def test_what_is_not_there_is_a_dash() -> None:
    nothing = dict.fromkeys(FIELDS)
    assert line("%(h)s %(u)s %(f)s %(b)s %(B)s", client="", body_bytes=0, given=nothing) == (
        "- - - - 0\n"
    )


def test_the_named_formats() -> None:
    common = '10.0.0.1 - ann [25/Nov/2026:12:00:00 +0000] "GET /a%20b?x=1&y=2 HTTP/1.1" 200 12'
    assert line("common") == common + "\n"
    assert line("combined") == common + ' "http://a/" "curl/8"\n'


def test_text_around_atoms_stays_and_two_percent_signs_are_one() -> None:
    assert line(r'{"s": %(s)s, "of": "100%%"}') == '{"s": 200, "of": "100%"}\n'
    assert line(r"%(m)s\t%(s)s é") == "GET\t200 \\xc3\\xa9\n"


def test_no_client_can_forge_a_line_or_end_a_field() -> None:
    hostile = b'x" 200 1\r\n10.0.0.9 - - \x1b[2J\\\xff'
    found = line('"%(a)s" "%(r)s"', given={b"user-agent": hostile}, target=b"/\x00\x7f")
    assert found.count("\n") == 1 and found.count('"') == 4
    assert r"x\x22 200 1\x0d\x0a10.0.0.9 - - \x1b[2J\x5c\xff" in found
    assert r"GET /\x00\x7f HTTP/1.1" in found


def test_json_is_one_object_a_line_with_what_is_known() -> None:
    trace = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
    found = line("json", request_id="abc", given={b"traceparent": trace})
    assert found.endswith("}\n") and found.count("\n") == 1
    assert json.loads(found) == {
        "time": "2026-11-25T12:00:00.250+00:00",
        "client": "10.0.0.1",
        "method": "GET",
        "scheme": "http",
        "host": "example.org",
        "path": "/a%20b",
        "query": "x=1&y=2",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 12,
        "duration_s": 1.234568,
        "referer": "http://a/",
        "user_agent": "curl/8",
        "request_id": "abc",
        "trace_id": "a" * 32,
        "pid": os.getpid(),
    }


def test_json_escapes_what_a_client_sent() -> None:
    found = line("json", given={b"user-agent": b'"\n\x1b\xff'}, target=b"http://h/x?")
    assert found.isascii() and found.count("\n") == 1
    said = json.loads(found)
    assert said["user_agent"] == '"\n\x1b\\xff'
    assert said["path"] == "/x" and "query" not in said and "request_id" not in said


def test_the_path_of_an_absolute_target() -> None:
    assert line("%(U)s %(q)s", target=b"http://h:80/p/q?r") == "/p/q r\n"
    assert line("%(U)s", target=b"http://h") == "/\n"
    assert line("%(U)s", target=b"*") == "*\n"


@pytest.mark.parametrize("credentials", [None, b"Bearer x", b"Basic !!", b"Basic"])
def test_credentials_that_name_no_user(credentials: bytes | None) -> None:
    assert line("%(u)s", given={b"authorization": credentials}) == "-\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("%(x)s", "%(x)s is no atom: there are h l u t r m U q H s st b B f a T M D L p"),
        ("%(h)s %(H", "a % that begins no atom"),
        ("%(h)s 50%", "a % that begins no atom"),
        ("%({}i)s", "names nothing"),
        ("%({NOPE}e)s", "is no variable that is known here: there are REMOTE_ADDR"),
        ("plain", "it has no atom: write common, combined, json"),
        ("%(addr)s", "%(addr)s is no atom"),
    ],
)
def test_a_format_that_makes_no_sense_is_refused_at_start(text: str, complaint: str) -> None:
    assert complaint in access_log.complaint(text)
    with pytest.raises(UsageError, match=r"^--access-log-format: "):
        Config(access_log_format=text)


def test_a_format_turns_the_log_on_unless_it_is_turned_off() -> None:
    assert not Config().logs_access
    assert Config(access_log_format="json").logs_access
    assert not Config(access_log_format="json", access_log=False).logs_access
