"""FastAPI's hello, written as its documentation writes one."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from benchmarks.apps import HELLO

asgi_hello = FastAPI()


@asgi_hello.get("/", response_class=PlainTextResponse)
async def hello() -> PlainTextResponse:
    """Answer with a constant."""
    return PlainTextResponse(HELLO)
