"""lifespan.py: applications that have a lifespan, that have none, and that break."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fastcluster import lifespan
from fastcluster.errors import AppLoadError
from fastcluster.lifespan import Lifespan

LOG = logging.getLogger("fastcluster.test_lifespan")
COMPLETE = {"type": "lifespan.startup.complete"}
DOWN = {"type": "lifespan.shutdown.complete"}

Send = Callable[[dict[str, Any]], Awaitable[None]]


class App:
    """An application whose answers are what the test gives; keeps what it was told."""

    def __init__(
        self, startup: Any = COMPLETE, shutdown: Any = DOWN, state: dict[str, Any] | None = None
    ) -> None:
        self.answers = {"lifespan.startup": startup, "lifespan.shutdown": shutdown}
        self.state = state or {}
        self.heard: list[str] = []
        self.scope: dict[str, Any] = {}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        self.scope = scope
        scope["state"].update(self.state)
        while "lifespan.shutdown" not in self.heard:
            message = await receive()
            self.heard.append(message["type"])
            answer = self.answers[message["type"]]
            if isinstance(answer, BaseException):
                raise answer
            if answer is None:
                return
            if callable(answer):
                answer = await answer()
            await send(answer)


def run(app: Any, mode: str = "auto", timeout_s: float = 5.0) -> Lifespan:
    """Start up, shut down and return the lifespan; nothing may be left in the loop."""

    async def go() -> Lifespan:
        made = Lifespan(app, mode, LOG)
        await made.startup()
        await made.shutdown(timeout_s)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return made

    return asyncio.run(go())


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_whole_lifespan(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    app = App(state={"pool": 1})
    made = run(app, mode)
    assert app.heard == ["lifespan.startup", "lifespan.shutdown"]
    assert made.state == {"pool": 1}
    assert app.scope["type"] == "lifespan"
    assert app.scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
    assert errors(caplog) == []


def test_off_does_not_call(caplog: pytest.LogCaptureFixture) -> None:
    app = App()
    assert run(app, "off").state is None
    assert app.heard == []
    assert errors(caplog) == []


def test_the_application_is_told_once_it_serves_and_once_it_does_not() -> None:
    app = App()

    async def go() -> None:
        made = Lifespan(app, "on", LOG)
        await made.startup()
        assert app.heard == ["lifespan.startup"]
        await asyncio.sleep(0)
        assert app.heard == ["lifespan.startup"]
        await made.shutdown(5)

    asyncio.run(go())
    assert app.heard == ["lifespan.startup", "lifespan.shutdown"]


async def http_only(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"


async def http_whatever(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200})


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """Return at once."""


def not_even_async(scope: Any, receive: Any, send: Any) -> None:
    """Return something that cannot be awaited."""


NONE = [http_only, http_whatever, nothing, not_even_async, App(startup=ValueError("x")), App(None)]


@pytest.mark.parametrize("app", NONE)
def test_auto_takes_an_application_that_has_none(app: Any) -> None:
    assert run(app).state is None


@pytest.mark.parametrize("app", NONE)
def test_on_does_not(app: Any) -> None:
    with pytest.raises(AppLoadError, match="lifespan"):
        run(app, "on")


def test_only_what_may_have_been_meant_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    run(http_only)
    run(nothing)
    assert errors(caplog) == []
    run(App(startup=ValueError("the database")))
    [warning] = errors(caplog)
    assert "ValueError: the database" in warning
    assert "--lifespan" in warning


def test_on_shows_where_it_failed() -> None:
    with pytest.raises(AppLoadError) as caught:
        run(App(startup=ValueError("the database")), "on")
    assert "ValueError: the database" in caught.value.detail
    assert "in __call__" in caught.value.detail
    assert "lifespan.py" not in caught.value.detail.replace("test_lifespan.py", "")


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize(
    ("text", "message", "detail"),
    [
        ("no database", "the application's startup failed: no database", ""),
        ("", "the application's startup failed: no reason given", ""),
        ("Traceback\n  x\nValueError", "the application's startup failed", "Traceback\n  x\n"),
    ],
)
def test_a_startup_that_says_that_it_failed(
    mode: str, text: str, message: str, detail: str
) -> None:
    with pytest.raises(AppLoadError) as caught:
        run(App(startup={"type": "lifespan.startup.failed", "message": text}), mode)
    assert caught.value.message == message
    assert caught.value.detail.startswith(detail)


def test_sys_exit_ends_no_loop() -> None:
    with pytest.raises(AppLoadError) as caught:
        run(App(startup=SystemExit(3)), "on")
    assert "sys.exit(3)" in caught.value.detail
    assert run(App(startup=SystemExit(3))).state is None


@pytest.mark.parametrize(
    "answer", [DOWN, {"type": "http.response.start"}, {}, None.__class__, {"type": 1}]
)
def test_a_wrong_answer_is_an_exception_of_the_application(answer: Any) -> None:
    async def wrong() -> Any:
        return answer

    with pytest.raises(AppLoadError) as caught:
        run(App(startup=wrong), "on")
    assert "RuntimeError" in caught.value.detail


def test_a_second_answer_is_wrong_too(caplog: pytest.LogCaptureFixture) -> None:
    caught: list[RuntimeError] = []

    async def app(scope: Any, receive: Any, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        for answer in (COMPLETE, {"type": "lifespan.startup.failed"}):
            try:
                await send(answer)
            except RuntimeError as error:
                caught.append(error)
        await receive()
        await send(DOWN)

    assert run(app, "on").state == {}
    assert len(caught) == 2
    assert errors(caplog) == []


def test_a_shutdown_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    run(App(shutdown={"type": "lifespan.shutdown.failed", "message": "disk full"}))
    run(App(shutdown=ValueError("x")))
    assert errors(caplog) == [
        "the application's shutdown failed: disk full",
        "the application failed in its lifespan",
    ]


def test_a_shutdown_that_returns_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    run(App(shutdown=None))
    assert errors(caplog) == []


def test_an_application_that_returns_after_its_startup(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Send) -> None:
        await receive()
        await send(COMPLETE)

    assert run(app, "on").state == {}
    assert errors(caplog) == []


def test_a_shutdown_that_takes_too_long_is_given_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifespan, "CANCEL_TIMEOUT_S", 0.01)
    cancelled: list[bool] = []

    async def hang() -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    run(App(shutdown=hang), timeout_s=0.01)
    assert cancelled == [True]
    assert len(errors(caplog)) == 1


def test_a_startup_that_is_cancelled() -> None:
    cancelled: list[bool] = []

    async def hang() -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def go() -> None:
        made = Lifespan(App(startup=hang), "on", LOG)
        startup = asyncio.create_task(made.startup())
        await asyncio.sleep(0.01)
        startup.cancel()
        await asyncio.wait({startup})
        await made.shutdown(1)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(go())
    assert cancelled == [True]


def test_startup_and_shutdown_are_one_task() -> None:
    """A context manager, a cancel scope or a TaskGroup may span the whole life."""
    tasks: list[Any] = []

    async def app(scope: Any, receive: Any, send: Send) -> None:
        async with asyncio.TaskGroup() as group:
            tasks.append(asyncio.current_task())
            await receive()
            group.create_task(asyncio.sleep(0))
            await send(COMPLETE)
            await receive()
            tasks.append(asyncio.current_task())
        await send(DOWN)

    run(app, "on")
    assert tasks[0] is tasks[1]
