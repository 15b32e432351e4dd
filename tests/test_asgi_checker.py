"""asgi_checker.py: it finds what is wrong, on either side, and nothing else."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from asgi_checker import Checker

Message = dict[str, Any]

SCOPE: Message = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.5"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/a b",
    "raw_path": b"/a%20b",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"h")],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 8000),
    "extensions": {"http.response.trailers": {}},
}
WHOLE: Message = {"type": "http.request", "body": b"", "more_body": False}
START: Message = {"type": "http.response.start", "status": 200}
BODY: Message = {"type": "http.response.body"}


def call(
    scope: Message,
    events: list[Any],
    messages: list[Any],
    refuse: Callable[[Any], Exception | None] = lambda message: None,
) -> Checker:
    """Let an application receive events, then send messages, to a server that may refuse them."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        for _ in events:
            await receive()
        for message in messages:
            with contextlib.suppress(Exception):
                await send(message)

    async def done() -> None:
        return None

    def send(message: Any) -> Any:
        error = refuse(message)
        if error is not None:
            raise error
        return done()

    async def receive() -> Message:
        message: Message = next(waiting)
        return message

    waiting = iter(events)
    checker = Checker(app)
    asyncio.run(checker(scope, receive, send))
    return checker


def test_what_is_right_is_not_reported() -> None:
    trailers = {"type": "http.response.trailers", "headers": [(b"a", b"b")]}
    for messages in ([START, BODY], [{**START, "trailers": True}, BODY, trailers]):
        checker = call(SCOPE, [WHOLE], messages)
        assert (checker.faults, checker.mistakes) == ([], [])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("asgi", {"version": "3.0"}),
        ("http_version", "3"),
        ("method", "get"),
        ("scheme", "ws"),
        ("path", b"/a b"),
        ("raw_path", b"/other"),
        ("raw_path", "/a%20b"),
        ("query_string", ""),
        ("root_path", "/x"),
        ("headers", [(b"Host", b"h")]),
        ("headers", [(b"host", b" h")]),
        ("headers", [("host", b"h")]),
        ("client", ("127.0.0.1", "1")),
        ("server", ("", 1)),
        ("extensions", {"http.response.push": {}}),
        ("state", None),
        ("more", 1),
    ],
)
def test_a_scope_that_is_wrong(key: str, value: object) -> None:
    assert len(call({**SCOPE, key: value}, [], [START, BODY]).faults) == 1
    if key in SCOPE:
        without = {name: SCOPE[name] for name in SCOPE.keys() - {key}}
        assert call(without, [], [START, BODY]).faults


@pytest.mark.parametrize(
    "events",
    [
        [None],
        [{"type": "http.response"}],
        [{"type": "http.request"}],
        [{**WHOLE, "body": "x"}],
        [{**WHOLE, "more_body": True}],
        [WHOLE, WHOLE],
        [{"type": "http.disconnect"}, WHOLE],
        [{"type": "http.disconnect", "code": 1}],
    ],
)
def test_events_that_are_wrong(events: list[Any]) -> None:
    assert call(SCOPE, events, [START, BODY]).faults


@pytest.mark.parametrize(
    "messages",
    [
        [None],
        [BODY],
        [START, START],
        [{**START, "status": "200"}],
        [{**START, "headers": [("a", b"b")]}],
        [{**START, "headers": [(b"a\r\nb", b"c")]}],
        [START, {**BODY, "body": "x"}],
        [START, BODY, BODY],
        [START, {"type": "http.response.trailers"}],
        [START, {"type": "http.response.pathsend", "path": "/x"}],
        [START, {"type": "http.response.push"}],
    ],
)
def test_a_server_that_takes_what_is_wrong(messages: list[Any]) -> None:
    assert call(SCOPE, [], messages).faults


def test_a_server_that_refuses_what_is_right() -> None:
    refused = call(SCOPE, [], [START], lambda message: RuntimeError("no"))
    assert refused.faults == ["GET /a b: http.response.start was refused with RuntimeError('no')"]
    lost = call(SCOPE, [], [START], lambda message: BrokenPipeError())
    assert (lost.faults, lost.mistakes) == ([], [])


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [START],
        [START, {**BODY, "more_body": True}],
        [{**START, "headers": [(b"X", b"y")]}, BODY],
        [START, {**BODY, "body": bytearray(b"x")}],
    ],
)
def test_an_application_that_is_careless(messages: list[Any]) -> None:
    checker = call(SCOPE, [], messages)
    assert checker.faults == []
    assert len(checker.mistakes) == 1


def test_what_is_wrong_in_a_lifespan() -> None:
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    started = {"type": "lifespan.startup.complete"}
    right = call(scope, [{"type": "lifespan.startup"}], [started])
    assert (right.faults, right.mistakes) == ([], [])
    assert call(scope, [{"type": "lifespan.shutdown"}], []).faults
    assert call({**scope, "state": None}, [], []).faults
    assert call(scope, [], [started]).faults
    assert call(scope, [{"type": "lifespan.startup"}], []).mistakes
