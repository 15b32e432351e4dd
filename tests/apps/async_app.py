"""An async native handler that waits, says when it waits, and when it is cancelled."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any


async def app(request: Any) -> Any:
    if request.path == "/sse":
        return 200, {"Content-Type": "text/event-stream"}, events()
    if request.path == "/wait":
        print("a handler waits", flush=True)
        try:
            await asyncio.sleep(float(request.query["s"]))
        finally:
            print("a handler has ended", flush=True)
    return await request.read() or b"hello"


async def events() -> AsyncIterator[str]:
    n = 0
    while True:
        yield f"id: {n}\n\n"
        n += 1
        await asyncio.sleep(0.01)
