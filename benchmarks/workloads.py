"""What is asked of a server: the request, how it is repeated, and the only right answer.

A workload is data. Its request is written once, for the check before a measurement and for
the load alike; its answer is known in full, so that a server which does less than it is asked
is never measured. It knows no server, only the interfaces that an application can have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import apps, client

SCRIPTS = Path(__file__).parent / "wrk"

# With Host, which comes first in every request, there are twelve.
BROWSER_FIELDS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.8,de;q=0.5,fr;q=0.3",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Referer": "https://www.example.org/articles/2026/how-servers-are-measured",
    "Cookie": "session=3f9d6c1be0a84d57b2c9; theme=dark; consent=necessary; "
    "csrftoken=kq8sJ2vXw0ZrT5",
    "Cache-Control": "max-age=0",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
}


# Written under build/ before they are asked for; what they hold does not matter.
FILES = {"10KiB": b"x" * 10 * 1024, "1MiB": b"x" * 1024 * 1024}

# What can answer with a constant, and what runs an application of ours.
ALL = ("reference", "native", "node", "wsgi", "asgi", "rsgi", "nodejs", "nginx", "own")
PROGRAMS = ("native", "wsgi", "asgi", "rsgi", "nodejs")
PYTHON_PROGRAMS = ("native", "wsgi", "asgi", "rsgi")


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of load.

    `app` names the application (`native_<app>`, `wsgi_<app>` … in `module`) and `answer` is
    the body it gives. `interfaces` are those that have such an application. `connections`
    overrides what the command line says. `closes`: each request has a connection of its own.
    `message_bytes`: the load is WebSocket messages of that size, and no requests.
    """

    name: str
    about: str
    app: str = "hello"
    module: str = "benchmarks.apps"
    interfaces: tuple[str, ...] = ALL
    script: str = "get.lua"
    target: str = "/"
    answer: bytes = apps.HELLO
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    depth: int = 1
    connections: int | None = None
    closes: bool = False
    message_bytes: int = 0

    def request(self, port: int) -> bytes:
        """Return the bytes of one request, as wrk sends them."""
        method = "POST" if self.body else "GET"
        lines = [f"{method} {self.target} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
        lines += [f"{name}: {value}" for name, value in self.fields.items()]
        if self.body:
            lines += ["Content-Type: application/octet-stream"]
            lines += [f"Content-Length: {len(self.body)}"]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + self.body

    @property
    def script_arguments(self) -> list[str]:
        """What the script is told after "--"."""
        return [str(len(self.body))] if self.body else []

    def check(self, port: int) -> None:
        """See that the server on this port does all that is asked, once.

        Raises WrongAnswer or OSError.
        """
        if self.message_bytes:
            client.check_websocket(b"x" * self.message_bytes, port)
        elif self.closes:
            client.check_close(self.request(port), self.answer, port)
        else:
            client.check(self.request(port), self.answer, self.depth, port)


def _echo(name: str, size: str, n_bytes: int) -> Workload:
    return Workload(
        name,
        f"POST of {size}, the same {size} back",
        app="echo",
        interfaces=("reference", "node", *PROGRAMS),
        script="echo.lua",
        answer=b"x" * n_bytes,
        body=b"x" * n_bytes,
    )


def _file(name: str, size: str) -> Workload:
    return Workload(
        name,
        f"GET of a file of {size}",
        app="file",
        interfaces=("reference", "static", "nginx", *PROGRAMS),
        target=f"/static/{size.replace(' ', '')}",
        answer=FILES[size.replace(" ", "")],
    )


def _framework(name: str, title: str, interface: str, target: str = "/") -> Workload:
    return Workload(
        name,
        f"{title}: its own hello, 12 bytes back",
        module=f"benchmarks.framework_{name.partition('-')[0]}",
        interfaces=("reference", interface),
        target=target,
    )


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("hello", "GET with the Host field alone, 12 bytes back"),
        Workload(
            "browser",
            "GET with a browser's twelve fields, 12 bytes back",
            fields=BROWSER_FIELDS,
        ),
        Workload("pipeline", "hello, 16 requests in one write", script="pipeline.lua", depth=16),
        Workload(
            "json",
            "GET, an object of three members as JSON back",
            app="json",
            interfaces=("reference", *PROGRAMS),
            answer=apps.JSON,
        ),
        _echo("echo1k", "1 KiB", 1024),
        _echo("echo64k", "64 KiB", 64 * 1024),
        Workload(
            "big",
            "GET, 100 KiB back",
            app="big",
            interfaces=("reference", "node", *PROGRAMS),
            answer=apps.BIG,
        ),
        _file("file10k", "10 KiB"),
        _file("file1m", "1 MiB"),
        Workload(
            "close",
            "hello, a new connection for each request",
            fields={"Connection": "close"},
            closes=True,
        ),
        Workload("c1", "hello on one connection", connections=1),
        Workload("c1024", "hello on 1,024 connections", connections=1024),
        Workload("c10000", "hello on 10,000 connections", connections=10_000),
        Workload(
            "stream",
            "GET, ten pieces of 100 bytes back, each written by itself",
            app="stream",
            interfaces=("reference", *PROGRAMS),
            answer=apps.PIECE * apps.N_PIECES,
        ),
        Workload(
            "websocket",
            "WebSocket messages of 128 bytes, the same back",
            app="websocket",
            interfaces=("asgi",),
            message_bytes=128,
        ),
        Workload(
            "cpu1ms",
            "hello after about 1 ms of Python, a fixed amount of work",
            app="cpu",
            interfaces=PYTHON_PROGRAMS,
        ),
        Workload(
            "wait10ms",
            "hello after waiting for 10 ms",
            app="wait",
            interfaces=PROGRAMS,
        ),
        _framework("flask", "Flask", "wsgi"),
        _framework("django", "Django, WSGI", "wsgi"),
        _framework("django-asgi", "Django, ASGI, async view", "asgi", target="/asgi"),
        _framework("starlette", "Starlette", "asgi"),
        _framework("fastapi", "FastAPI", "asgi"),
    )
}
