"""What is asked of a server: the request, how it is repeated, and the only right answer.

A workload is data. Its request is written once, for the check before a measurement and for
the load alike; its answer is known in full, so that a server which does less than it is asked
is never measured. It knows no server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import apps

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


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of load.

    `app` names the application (`native_<app>`, `wsgi_<app>` … in benchmarks/apps.py) and
    `answer` is the body it gives. `connections` overrides what the command line says.
    """

    name: str
    about: str
    app: str = "hello"
    script: str = "get.lua"
    answer: bytes = apps.HELLO
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    depth: int = 1
    connections: int | None = None

    def request(self, port: int) -> bytes:
        """Return the bytes of one request, as wrk sends them."""
        lines = [f"{'POST' if self.body else 'GET'} / HTTP/1.1", f"Host: 127.0.0.1:{port}"]
        lines += [f"{name}: {value}" for name, value in self.fields.items()]
        if self.body:
            lines += ["Content-Type: application/octet-stream"]
            lines += [f"Content-Length: {len(self.body)}"]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + self.body

    @property
    def script_arguments(self) -> list[str]:
        """What the script is told after "--"."""
        return [str(len(self.body))] if self.body else []


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
            "echo1k",
            "POST of 1 KiB, the same 1 KiB back",
            app="echo",
            script="echo.lua",
            answer=b"x" * 1024,
            body=b"x" * 1024,
        ),
        Workload("big", "GET, 100 KiB back", app="big", answer=apps.BIG),
        Workload("c1", "hello on one connection", connections=1),
        Workload("c1024", "hello on 1,024 connections", connections=1024),
    )
}
