"""How an App with async handlers serves a request: middleware, route, mounts, errors.

The law: async functions are awaited, and sync ones run as they are, with the whole
body of the request and a response that is written to as everywhere else.  It walks
the same lists as app.py's sync way and finds routes by the same functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeAlias

from fastcluster import http
from fastcluster.app_exchange import (
    AsyncRequestView,
    AsyncResponseView,
    HTTPError,
    SyncRequestView,
    SyncResponseView,
)
from fastcluster.native import is_async

App: TypeAlias = Any  # app.App, which imports this file when it is needed


class ClientGone(ConnectionResetError):
    """The client went while its body was awaited: nobody is left to be answered."""


async def answer(
    app: App, request: http.AsyncRequest, response: http.AsyncResponse
) -> http.Response | None:
    """Answer a request; returns what the server is to send where that was left to it."""
    asked, answered = AsyncRequestView(app, request), AsyncResponseView(app, response)
    try:
        await serve(app, asked, answered)
    except HTTPError as error:
        if answered.headers_sent:
            raise
        error.answer(answered)
    return answered.returned


async def serve(app: App, request: AsyncRequestView, response: AsyncResponseView) -> None:
    """Run an application's middleware and route; its error handlers take what fails."""
    try:
        await pass_on(app, 0, request, response)
    except ClientGone:
        raise
    except Exception as error:
        handler = app._handler_of(error)
        if handler is None or response.headers_sent:
            raise
        await call(handler, request, response, before=(error,))


async def pass_on(
    app: App, start: int, request: AsyncRequestView, response: AsyncResponseView
) -> None:
    """Run the middleware from number start on that is meant for the path, then the route."""
    for at in range(start, len(app._middleware)):
        prefix, middleware = app._middleware[at]
        if not app._is_below(request.path, prefix):
            continue
        following = Next if is_async(middleware) else SyncNext
        passed_on = following(app, at + 1, request, response)
        try:
            await call(middleware, request, response, after=(passed_on,))
        except BaseException:
            passed_on.give_up()
            raise
        await passed_on.rest()
        passed_on.check(middleware)
        return
    await route(app, request, response)


async def route(app: App, request: AsyncRequestView, response: AsyncResponseView) -> None:
    """Run the route that fits, or the mounted application that owns the path."""
    found = app._found(request)
    if found is not None:
        handler, gives_response = found
        result = await call(handler, request, response if gives_response else None)
        response.take(result, gives_response)
        return
    mounted = app._elsewhere(request, response)
    if mounted is not None:
        with app._mounted(request, response, *mounted):
            await serve(mounted[1], request, response)


async def call(
    function: Callable[..., Any],
    request: AsyncRequestView,
    response: AsyncResponseView | None,
    *,
    before: tuple[Any, ...] = (),
    after: tuple[Any, ...] = (),
) -> Any:
    """Call a user's function, async or sync, and return what it gives in the end."""
    exchange: tuple[Any, ...] = (request,) if response is None else (request, response)
    if not is_async(function):
        await gather(request)
        exchange = (SyncRequestView.of(request),)
        if response is not None:
            exchange += (SyncResponseView.of(response),)
    result = function(*before, *exchange, *after)
    # A sync function may have wrapped an async one.
    return await result if inspect.isawaitable(result) else result


async def gather(request: AsyncRequestView) -> None:
    """Wait for the whole body, which sync functions are promised."""
    try:
        await request._request.gather()
    except ConnectionResetError as error:
        raise ClientGone(*error.args) from None


class Next:
    """What async middleware awaits to pass on, once."""

    passing = "awaited next()"

    def __init__(
        self, app: App, at: int, request: AsyncRequestView, response: AsyncResponseView
    ) -> None:
        self._to = (app, at, request, response)
        self._response = response
        self._called = False
        self._ran = False

    def _begin(self, error: Exception | None) -> None:
        if error is not None:
            raise error
        if self._called:
            raise RuntimeError("next() was called twice by the same middleware")
        self._called = True

    def __call__(self, error: Exception | None = None) -> Any:
        """Run what comes next until it has answered; raise error instead if given."""
        self._begin(error)
        return self._run()

    async def _run(self) -> None:
        self._ran = True
        await pass_on(*self._to)

    async def rest(self) -> None:
        """Wait for what still runs when the middleware has returned."""

    def give_up(self) -> None:
        """End what still runs when the middleware has failed."""

    def check(self, middleware: Any) -> None:
        """Raise RuntimeError for middleware after which nobody answers."""
        name = getattr(middleware, "__qualname__", repr(middleware))
        if self._called and not self._ran:
            raise RuntimeError(f"{name} did not await next(): write `await next()`")
        if not self._called and not self._response.touched:
            raise RuntimeError(f"{name} neither answered nor {self.passing}")


class SyncNext(Next):
    """What sync middleware calls to pass on, once.

    It returns when all is answered, as in an App without async handlers, or when what
    comes next waits for the first time: the rest goes on once the middleware has
    returned, since a function that is not async cannot wait.  (Express does the same.)
    """

    passing = "called next()"
    _left: _Begun | None = None

    def __call__(self, error: Exception | None = None) -> None:
        """Run what comes next up to its first wait; raise error instead if given."""
        self._begin(error)
        coroutine = self._run()
        try:
            waits_for = coroutine.send(None)
        except StopIteration:
            return
        self._left = _Begun(coroutine, waits_for)

    async def rest(self) -> None:
        if self._left is not None:
            await self._left

    def give_up(self) -> None:
        if self._left is not None:
            self._left.coroutine.close()


class _Begun:
    """A coroutine that already waits for something; awaiting it goes on from there."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self.coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        step: Callable[[Any], Any]
        while True:
            try:
                came = yield waits_for
            except GeneratorExit:
                self.coroutine.close()
                raise
            except BaseException as error:
                step, value = self.coroutine.throw, error
            else:
                step, value = self.coroutine.send, came
            try:
                waits_for = step(value)
            except StopIteration:
                return
