"""A Litestar application behind the checker: streams, bodies, WebSockets, lifespan."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from asgi_checker import checked
from litestar import Litestar, Request, WebSocket, get, post, websocket, websocket_listener
from litestar.datastructures import State
from litestar.response import Stream


async def start(app: Litestar) -> None:
    app.state.greeting = "hello"


@get("/hello", media_type="text/plain")
async def hello(state: State) -> str:
    return state.greeting


@get("/sync", media_type="text/plain", sync_to_thread=True)
def sync() -> str:
    return "from a thread"


@get("/items/{number:int}")
async def item(number: int, limit: int = 10) -> dict[str, int]:
    return {"number": number, "limit": limit}


@post("/chunks", media_type="text/plain", status_code=200)
async def chunks(request: Request) -> str:
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
    return str(total)


@get("/stream", media_type="text/plain")
async def stream() -> Stream:
    async def generate() -> AsyncIterator[str]:
        for number in range(10):
            yield f"{number}\n"
            await asyncio.sleep(0)

    return Stream(generate())


@get("/fail")
async def fail() -> None:
    raise ValueError("own")


@websocket("/ws/raw")
async def raw(socket: WebSocket) -> None:
    await socket.accept(subprotocols="second")
    async for message in socket.iter_data():
        await socket.send_text(message.upper())


@websocket_listener("/ws/json", receive_mode="text")
async def listener(data: dict[str, str]) -> dict[str, str]:
    return {"got": data["message"]}


app = Litestar(
    [hello, sync, item, chunks, stream, fail, raw, listener],
    on_startup=[start],
    request_max_body_size=None,
)
litestar = checked(app)
