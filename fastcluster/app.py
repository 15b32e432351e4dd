"""A small application framework in the spirit of Express, for native handlers.

    app = App()

    @app.get("/users/{id:int}")
    def show(request, response):
        response.json({"id": request.params["id"]})

    app.run(8000)                       # or: fastcluster serve module:app

The law: middleware runs first, in the order of use(), then the one route that
fits, then the mounted application that owns the path; whatever fails goes to
the error handlers, innermost application first.  An App is an ordinary native
handler, an async one if any of its functions is async (see app_async.py), which is
decided when it begins to be served.  It knows nothing of sockets and processes.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar, overload

from fastcluster import config, http, log
from fastcluster.app_exchange import HTTPError, Request, Response
from fastcluster.errors import AppLoadError, UsageError
from fastcluster.layers import DEFAULT_PORT
from fastcluster.native import is_async, required_arguments
from fastcluster.routing import Router
from fastcluster.views import Views

__all__ = ["App", "HTTPError", "Request", "Response"]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

Middleware = Callable[[Request, Response, Callable[..., object]], object]
Route = Callable[..., Any]
# A decorator of ours returns what it was given, and so a checker knows it.
Function = TypeVar("Function", bound=Callable[..., Any])
ErrorHandler = Callable[[Exception, Request, Response], object]


class Decorator(Protocol):
    """What adds a function and returns it."""

    def __call__(self, function: Function, /) -> Function: ...


class App:
    """Routes, middleware and settings; see the module's paragraph."""

    def __init__(self) -> None:
        self._router = Router()
        self._middleware: list[tuple[str, Middleware]] = []
        self._mounts: list[tuple[str, App]] = []
        self._errors: dict[int | type[Exception], ErrorHandler] = {}
        self._settings: dict[str, Any] = {"port": DEFAULT_PORT, "views": "views"}
        self._views: Views | None = None
        self._has_async = False
        self._served_sync = False  # where nothing async may be added any more

    # ---- settings

    def set(self, name: str, value: Any) -> App:
        """Set a setting and return the application.  (Express: app.set)"""
        self._settings[name] = value
        self._views = None
        return self

    def setting(self, name: str) -> Any:
        """Return a setting, None if it was never set.

        env is fastcluster.env and "view cache" is on outside of development,
        unless they were set.
        """
        if name in self._settings:
            return self._settings[name]
        if name == "env":
            return config.environment()
        if name == "view cache":
            return self.setting("env") != "development"
        return None

    def enable(self, name: str) -> App:
        """Set a setting to True."""
        return self.set(name, True)

    def disable(self, name: str) -> App:
        """Set a setting to False."""
        return self.set(name, False)

    def enabled(self, name: str) -> bool:
        """Return True if a setting is set to something true."""
        return bool(self.setting(name))

    def disabled(self, name: str) -> bool:
        """Return True if a setting is not set or set to something false."""
        return not self.enabled(name)

    # ---- routes

    @overload
    def get(self, name: str) -> Decorator: ...
    @overload
    def get(self, name: str, handler: Function) -> Function: ...
    def get(self, name: str, handler: Route | None = None) -> Any:
        """Return a setting, or add a route for GET if the name begins with "/".

        A checker of types believes in the route: for it, setting() is what returns a
        setting.  A GET route answers HEAD as well.  Like the other methods it takes the
        handler or, without one, is a decorator.  (Express: app.get)
        """
        if handler is None and not name.startswith("/"):
            return self.setting(name)
        return self._add_route(name, handler, ("GET",))

    @overload
    def post(self, pattern: str) -> Decorator: ...
    @overload
    def post(self, pattern: str, handler: Function) -> Function: ...
    def post(self, pattern: str, handler: Route | None = None) -> Any:
        """Add a route for POST; see route()."""
        return self._add_route(pattern, handler, ("POST",))

    @overload
    def put(self, pattern: str) -> Decorator: ...
    @overload
    def put(self, pattern: str, handler: Function) -> Function: ...
    def put(self, pattern: str, handler: Route | None = None) -> Any:
        """Add a route for PUT; see route()."""
        return self._add_route(pattern, handler, ("PUT",))

    @overload
    def patch(self, pattern: str) -> Decorator: ...
    @overload
    def patch(self, pattern: str, handler: Function) -> Function: ...
    def patch(self, pattern: str, handler: Route | None = None) -> Any:
        """Add a route for PATCH; see route()."""
        return self._add_route(pattern, handler, ("PATCH",))

    @overload
    def delete(self, pattern: str) -> Decorator: ...
    @overload
    def delete(self, pattern: str, handler: Function) -> Function: ...
    def delete(self, pattern: str, handler: Route | None = None) -> Any:
        """Add a route for DELETE; see route()."""
        return self._add_route(pattern, handler, ("DELETE",))

    @overload
    def route(self, pattern: str, *, methods: Iterable[str] = METHODS) -> Decorator: ...
    @overload
    def route(
        self, pattern: str, handler: Function, *, methods: Iterable[str] = METHODS
    ) -> Function: ...
    def route(
        self, pattern: str, handler: Route | None = None, *, methods: Iterable[str] = METHODS
    ) -> Any:
        """Add a route for some methods, by default for all; return the handler.

        Without a handler: return a decorator.  A handler is called with
        (request, response), or with (request) and then returns the answer; it may
        be async, also beside others that are not.  Raises UsageError for a bad
        pattern, AppLoadError for a handler that can be called in neither form, and
        for the first async one if the application is being served already.
        """
        return self._add_route(pattern, handler, methods)

    def _add_route(self, pattern: str, handler: Route | None, methods: Iterable[str]) -> Any:
        if isinstance(methods, str):
            raise UsageError(f"methods is a list: write methods=[{methods!r}]")
        if handler is None:
            return lambda function: self._add_route(pattern, function, methods)
        gives_response = required_arguments(handler) == 2
        self._note(is_async(handler), handler)
        for method in methods:
            self._router.add(method.upper(), pattern, (handler, gives_response))
        return handler

    @overload
    def use(self, added: Function, /) -> Function: ...
    @overload
    def use(self, prefix: str, added: Function, /) -> Function: ...
    def use(self, *parts: Any) -> Any:
        """Add middleware(request, response, next), or mount an App: use([prefix,] it).

        Returns what was added, so that it may decorate.  A mounted application
        owns every path below its prefix and sees the rest of it as
        request.path.  Raises UsageError for a bad prefix, AppLoadError for
        middleware that cannot be called with three arguments.
        """
        prefix = parts[0] if len(parts) == 2 else ""
        if len(parts) not in (1, 2) or not isinstance(prefix, str):
            raise UsageError('write app.use(middleware) or app.use("/prefix", middleware)')
        prefix = prefix.rstrip("/")
        if prefix and not prefix.startswith("/"):
            raise UsageError(f"a prefix begins with '/': {prefix!r} does not")
        added = parts[-1]
        if isinstance(added, App):
            self._note(added._is_async(), added)
            if self._served_sync:
                added._serve_sync()
            self._mounts.append((prefix, added))
        else:
            _check_arguments(added, 3, "middleware", "middleware(request, response, next)")
            self._note(is_async(added), added)
            self._middleware.append((prefix, added))
        return added

    def error(self, kind: int | type[Exception]) -> Decorator:
        """Decorate handler(error, request, response) for a status or a class of exceptions.

        404 and 405 come as HTTPError.  A handler for 500 hears of every
        exception that no other handler takes, after it was logged.
        """

        def add(handler: Function) -> Function:
            _check_arguments(handler, 3, "error handler", "handler(error, request, response)")
            self._note(is_async(handler), handler)
            self._errors[kind] = handler
            return handler

        return add

    # ---- serving

    def listen(
        self,
        port: int | None = None,
        host: str = "127.0.0.1",
        callback: Callable[[], object] | None = None,
        **options: Any,
    ) -> http.Server:
        """Listen and return the server, whose serve_forever() serves and calls callback().

        port: by default the setting.  options: fields of Config.  Raises what
        http.Server.listen() raises.  (Express: app.listen)
        """
        development = self.setting("env") == "development"
        options.setdefault("env", "development" if development else "production")
        server = http.create_server(self, **options)
        return server.listen(
            self.setting("port") if port is None else port, host, None, None, callback
        )

    def run(self, port: int | None = None, host: str = "127.0.0.1", **options: Any) -> None:
        """Listen and serve, in this process, until SIGTERM or SIGINT."""
        self.listen(port, host, **options).serve_forever()

    @property
    def __fastcluster_handler__(self) -> Callable[..., Any]:
        """What the server runs; whether that is async is decided for good when it asks."""
        if self._is_async():
            return self._answer_async
        self._serve_sync()
        return self._answer

    def __call__(self, request: http.Request, response: http.Response) -> Any:
        """Answer a request and return what the server is to do with it: return it, too."""
        return self.__fastcluster_handler__(request, response)

    def _answer(self, request: http.Request, response: http.Response) -> http.Response | None:
        asked, answer = Request(self, request), Response(self, response)
        try:
            self._serve(asked, answer)
        except HTTPError as error:
            if answer.headers_sent:
                raise
            error.answer(answer)
        return answer.returned

    async def _answer_async(
        self, request: http.AsyncRequest, response: http.AsyncResponse
    ) -> http.Response | None:
        # asyncio takes megabytes, which applications without it save.
        from fastcluster import app_async

        return await app_async.answer(self, request, response)

    def _is_async(self) -> bool:
        return self._has_async or any(app._is_async() for _, app in self._mounts)

    def _serve_sync(self) -> None:
        self._served_sync = True
        for _, app in self._mounts:
            app._serve_sync()

    def _note(self, adds_async: bool, what: Any) -> None:
        """Remember that something async is added; refuse it where that comes too late."""
        if adds_async and self._served_sync:
            name = getattr(what, "__qualname__", repr(what))
            raise AppLoadError(
                f"{name} is async, and the application is served already without anything async: "
                "add it before it is served"
            )
        self._has_async = self._has_async or adds_async

    def view(self, name: str, data: dict[str, Any]) -> str:
        """Return the text of a view; UsageError without Jinja2 or without such a view."""
        if self._views is None:
            self._views = Views(self.setting("views"), self.enabled("view cache"))
        return self._views.render(name, data)

    # ---- one request

    def _serve(self, request: Request, response: Response) -> None:
        try:
            _Next(self, 0, request, response)()
        except Exception as error:
            handler = self._handler_of(error)
            if handler is None or response.headers_sent:
                raise
            handler(error, request, response)

    def _handler_of(self, error: Exception) -> ErrorHandler | None:
        if isinstance(error, HTTPError) and error.status in self._errors:
            return self._errors[error.status]
        for kind in type(error).__mro__:
            if issubclass(kind, Exception) and kind in self._errors:
                return self._errors[kind]
        handler = None if isinstance(error, (HTTPError, http.BadRequest)) else self._errors.get(500)
        if handler is not None:
            logging.getLogger(log.NAME).error("the handler failed", exc_info=error)
        return handler

    def _route(self, request: Request, response: Response) -> None:
        found = self._found(request)
        if found is not None:
            handler, gives_response = found
            result = handler(request, response) if gives_response else handler(request)
            _refuse_coroutine(result)
            response.take(result, gives_response)
            return
        mounted = self._elsewhere(request, response)
        if mounted is not None:
            with self._mounted(request, response, *mounted):
                mounted[1]._serve(request, response)

    def _found(self, request: Request) -> tuple[Route, bool] | None:
        """Return the route that fits and whether it takes the response; sets request.params."""
        method, path = request.method, request.path
        match = self._router.match(method, path)
        if match is None and method == "HEAD":
            match = self._router.match("GET", path)
        if match is None:
            return None
        if match.params:
            request.params = {**request.params, **match.params}
        found: tuple[Route, bool] = match.handler
        return found

    def _elsewhere(self, request: Request, response: Response) -> tuple[str, App] | None:
        """Return who owns a path without a route, and its prefix; None: it is answered."""
        allowed = self._router.methods(request.path)
        if not allowed:
            for prefix, app in self._mounts:
                if self._is_below(request.path, prefix):
                    return prefix, app
            raise HTTPError(404)
        if request.method != "OPTIONS":
            raise HTTPError(405, headers={"Allow": ", ".join(allowed)})
        response.status(204).set_header("Allow", ", ".join([*allowed, "OPTIONS"]))
        response.end()
        return None

    @contextlib.contextmanager
    def _mounted(
        self, request: Request, response: Response, prefix: str, app: App
    ) -> Iterator[None]:
        # Whoever mounted it finds its own settings and path again afterwards.
        before = request.app, request.path, request.base_url
        request.app = response.app = app
        request.path = request.path[len(prefix) :] or "/"
        request.base_url += prefix
        try:
            yield
        finally:
            request.app, request.path, request.base_url = before
            response.app = before[0]

    @staticmethod
    def _is_below(path: str, prefix: str) -> bool:
        return not prefix or path == prefix or path.startswith(prefix + "/")


class _Next:
    """What middleware calls to pass on, once."""

    __slots__ = ("_app", "_at", "_called", "_request", "_response")

    def __init__(self, app: App, at: int, request: Request, response: Response) -> None:
        self._app, self._at, self._request, self._response = app, at, request, response
        self._called = False

    def __call__(self, error: Exception | None = None) -> None:
        """Run what comes next and return when it has answered; raise error instead if given."""
        if error is not None:
            raise error
        if self._called:
            raise RuntimeError("next() was called twice by the same middleware")
        self._called = True
        app, request, response = self._app, self._request, self._response
        for at in range(self._at, len(app._middleware)):
            prefix, middleware = app._middleware[at]
            if not app._is_below(request.path, prefix):
                continue
            passed_on = _Next(app, at + 1, request, response)
            _refuse_coroutine(middleware(request, response, passed_on))
            if not passed_on._called and not response.touched:
                name = getattr(middleware, "__qualname__", repr(middleware))
                raise RuntimeError(f"{name} neither answered nor called next()")
            return
        app._route(request, response)


def _refuse_coroutine(result: object) -> None:
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(
            "a handler returned a coroutine and is no async function itself: write it with "
            "async def and await there"
        )


def _check_arguments(function: Any, count: int, what: str, form: str) -> None:
    name = getattr(function, "__qualname__", repr(function))
    if not callable(function):
        raise AppLoadError(f"{name} is no {what}: write it as {form}")
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        raise AppLoadError(f"{name} is no {what}: write it as {form}") from None
    except ValueError:
        pass  # compiled code without a signature
