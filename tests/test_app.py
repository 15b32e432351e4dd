"""app.py: routes, middleware, mounts, errors and settings; the examples as real processes."""

import contextlib
import http.client
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from require import require_module

import fastcluster
from fastcluster import config
from fastcluster.app import App, HTTPError
from fastcluster.errors import AppLoadError, UsageError

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 30


def fetch(port: int, path: str, method: str = "GET", headers: Any = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers or {})
        response: Any = connection.getresponse()
        response.body = response.read()
        return response


def ask(app: App, path: str, method: str = "GET", headers: Any = None) -> Any:
    """Serve the app in a thread for one request."""
    server = app.listen(0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        return fetch(server.address().port, path, method, headers)
    finally:
        server.close()
        thread.join(WAIT_S)


def sample() -> App:
    app = App()

    @app.get("/users/{id:int}")
    def show(request: Any, response: Any) -> None:
        response.json({"id": request.params["id"]})

    app.post("/users/{id:int}", lambda request: (201, "made"))
    return app


@pytest.mark.parametrize(
    ("method", "path", "status", "allow", "body"),
    [
        ("GET", "/users/7", 200, None, b'{"id":7}'),
        ("HEAD", "/users/7", 200, None, b""),
        ("POST", "/users/7", 201, None, b"made"),
        ("PUT", "/users/7", 405, "GET, HEAD, POST", b"Method Not Allowed\n"),
        ("OPTIONS", "/users/7", 204, "GET, HEAD, POST, OPTIONS", b""),
        ("GET", "/users/x", 404, None, b"Not Found\n"),
    ],
)
def test_methods(method: str, path: str, status: int, allow: str | None, body: bytes) -> None:
    response = ask(sample(), path, method)
    assert (response.status, response.getheader("allow"), response.body) == (status, allow, body)


def test_middleware_mounts_and_errors() -> None:
    app, sub, seen = App(), App(), []
    app.use("/sub", sub)

    @app.use
    def first(request: Any, response: Any, next: Any) -> None:
        seen.append(request.path)
        request.note = "noted"
        next()
        seen.append("after")

    app.use("/other", lambda request, response, next: seen.append("never"))
    sub.get("/x", lambda request: [request.note, request.path, request.base_url])

    @sub.error(ValueError)
    def inner(error: Exception, request: Any, response: Any) -> None:
        response.status(400).send("inner")

    @app.error(404)
    def missing(error: Exception, request: Any, response: Any) -> None:
        response.status(404).send(f"no {request.path}")

    @sub.get("/bad")
    def bad(request: Any) -> None:
        raise ValueError

    assert ask(app, "/sub/x").body == b'["noted","/x","/sub"]'
    assert seen == ["/sub/x", "after"]
    assert ask(app, "/sub/bad").body == b"inner"
    assert ask(app, "/sub/none").body == b"no /sub/none"
    assert ask(app, "/subx").status == 404


@pytest.mark.parametrize(
    ("middleware", "message"),
    [
        (lambda request, response, next: None, b"neither answered nor called next()"),
        (lambda request, response, next: next(HTTPError(403, "no")), b"no\n"),
    ],
)
def test_middleware_that_errs(middleware: Any, message: bytes) -> None:
    app = App().set("env", "development")
    app.use(middleware)
    app.get("/", lambda request: "never seen")
    assert message in ask(app, "/").body


def test_next_may_be_called_once() -> None:
    app, said = App(), []

    @app.use
    def twice(request: Any, response: Any, next: Any) -> None:
        next()
        try:
            next()
        except RuntimeError as error:
            said.append(str(error))

    app.get("/", lambda request: "once")
    assert ask(app, "/").body == b"once"
    assert said == ["next() was called twice by the same middleware"]


def test_mistakes_are_told_when_they_are_made() -> None:
    app = App()
    with pytest.raises(UsageError, match="begins with '/'"):
        app.post("users", lambda request: "")
    with pytest.raises(AppLoadError, match=r"middleware\(request, response, next\)"):
        app.use(lambda request: None)


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTCLUSTER_ENV", raising=False)
    app = App()
    assert (app.get("env"), app.get("port"), app.enabled("view cache")) == (
        "development",
        8000,
        False,
    )
    monkeypatch.setenv("FASTCLUSTER_ENV", "production")
    assert (fastcluster.env, app.enabled("view cache")) == ("production", True)
    assert app.enable("x").enabled("x") and app.disable("x").disabled("x")
    config.use_environment("development")
    try:
        assert fastcluster.env == "development"
    finally:
        config.use_environment(None)


def test_a_view(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<p>{{ name }}")
    app = App().set("views", tmp_path)
    app.get("/", lambda request, response: response.render("a.html", {"name": "<ada>"}))
    response = ask(app, "/")
    assert response.body == b"<p>&lt;ada&gt;"
    assert response.getheader("content-type") == "text/html; charset=utf-8"


@pytest.mark.parametrize(("env", "shows"), [("development", True), ("production", False)])
def test_only_development_shows_the_traceback(env: str, shows: bool) -> None:
    app = App().set("env", env)

    @app.get("/")
    def broken(request: Any) -> None:
        raise LookupError("the secret")

    response = ask(app, "/")
    assert response.status == 500
    assert (b"LookupError: the secret" in response.body) is shows


def test_a_handler_for_500_hears_of_every_exception() -> None:
    app = App()
    app.get("/", lambda request: 1 / 0)

    @app.error(500)
    def failed(error: Exception, request: Any, response: Any) -> None:
        response.status(500).send(type(error).__name__)

    response = ask(app, "/")
    assert (response.status, response.body) == (500, b"ZeroDivisionError")


# ---- the examples


@contextlib.contextmanager
def program(*command: str, **env: str) -> Any:
    """Run a program on a free port and yield (its first line with a port, the port)."""
    run = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, **env}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert run.stdout is not None
        for line in run.stdout:
            port = re.search(r"127\.0\.0\.1:(\d+)", line)
            if port:
                yield line.strip(), int(port[1])
                break
        else:
            raise AssertionError("it said no port")
    finally:
        run.terminate()
        run.communicate(timeout=WAIT_S)


def example(name: str) -> tuple[str, str]:
    return "-c", (
        "import runpy, fastcluster.http as http; listen = http.Server.listen;"
        "http.Server.listen = lambda self, port, *more: listen(self, 0, *more);"
        f"runpy.run_path('examples/{name}.py', run_name='__main__')"
    )


@pytest.mark.parametrize(("env", "cache"), [("production", b"true"), ("development", b"false")])
def test_the_environment_example(env: str, cache: bytes) -> None:
    with program(*example("environment"), FASTCLUSTER_ENV=env) as (line, port):
        assert line.startswith(f"{env} on ")
        assert fetch(port, "/").body == b'{"env":"%s","view cache":%s}' % (env.encode(), cache)


def test_the_command_decides_the_environment() -> None:
    serve = ("-m", "fastcluster", "serve", "environment:app", "--app-dir", "examples", "-w", "1")
    with program(
        *serve, "-b", "127.0.0.1:0", "--env", "production", FASTCLUSTER_ENV="development"
    ) as (_, port):
        assert b'"env":"production"' in fetch(port, "/").body


def test_the_startable_module_starts_nothing_when_it_is_imported() -> None:
    load = (
        "import sys; sys.path.insert(0, 'examples');import startable; print(startable.start_server)"
    )
    done = subprocess.run(
        [sys.executable, "-c", load], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.stdout.startswith("<function start_server")


def test_which_worker() -> None:
    with program("examples/which_worker.py", "0") as (line, port):
        assert line.startswith("worker ")
        assert re.fullmatch(rb"worker [1-9]\d*\n", fetch(port, "/").body)
        assert re.fullmatch(rb"worker [1-9]\d* has no such page\n", fetch(port, "/no").body)


def test_a_typed_application_is_strictly_typed(tmp_path: Path) -> None:
    require_module("mypy", package="mypy")
    (tmp_path / "more.py").write_text(MORE)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull),
            *("--cache-dir", ".mypy_cache"),  # or it takes a quarter of a minute
            *("examples/which_worker.py", str(tmp_path / "more.py")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    # The one error shows that a decorator loses nothing of what it decorates.
    assert re.findall(r"error: (.*)", done.stdout) == [
        'Argument 1 to "plain" has incompatible type "int"; expected "Request"  [arg-type]'
    ], done.stdout + done.stderr


MORE = """
from collections.abc import Callable

from fastcluster import App
from fastcluster.app import Request, Response

app, admin = App(), App()
app.use("/admin", admin)
app.use("/static", lambda request, response, next: next())

@app.post("/users")
@app.put("/users")
@app.patch("/users")
@app.delete("/users")
@app.route("/all", methods=["GET", "POST"])
async def show(request: Request, response: Response) -> None:
    request.user = "somebody"
    response.json({"user": request.user})

@admin.error(ZeroDivisionError)
def failed(error: ZeroDivisionError, request: Request, response: Response) -> None:
    response.status(500).send(str(error))

def plain(request: Request) -> str:
    return "x"

handler: Callable[[Request], str] = app.get("/plain", plain)
handler = app.get("/again")(plain)
handler(1)
"""
