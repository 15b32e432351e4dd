"""Starlette's hello, written as its documentation writes one."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks.apps import HELLO


async def hello(request: Request) -> PlainTextResponse:
    """Answer with a constant."""
    return PlainTextResponse(HELLO)


asgi_hello = Starlette(routes=[Route("/", hello)])
