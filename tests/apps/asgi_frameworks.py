"""Starlette and FastAPI applications that use what such applications use."""

import asyncio
import contextlib
import contextvars

import anyio
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi import Request as FastRequest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    StreamingResponse,
)
from starlette.routing import Mount, Route

seen = []
variable = contextvars.ContextVar("variable", default="unset")


@contextlib.asynccontextmanager
async def lifespan(app):
    seen.append("startup")
    yield {"greeting": "hello"}
    seen.append("shutdown")


async def hello(request):
    return PlainTextResponse(request.state.greeting)


async def whole(request):
    return JSONResponse(
        {
            "body": len(await request.body()),
            "url": str(request.url),
            "path": request.url.path,
            "query": dict(request.query_params),
            "client": request.client.host,
            "agent": request.headers.get("user-agent"),
        }
    )


async def chunks(request):
    total = 0
    try:
        async for chunk in request.stream():
            total += len(chunk)
    except ClientDisconnect:
        seen.append("disconnect")
        raise
    return PlainTextResponse(str(total))


async def stream(request):
    async def generate():
        try:
            for number in range(int(request.query_params.get("n", 10))):
                yield f"{number}\n"
                await asyncio.sleep(0)
        finally:
            seen.append("stream ended")

    return StreamingResponse(generate())


async def endless(request):
    async def generate():
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.001)
        finally:
            seen.append("stream ended")

    return StreamingResponse(generate())


async def poll(request):
    while not await request.is_disconnected():
        await asyncio.sleep(0.005)
    seen.append("disconnect")
    return PlainTextResponse("too late")


async def scopes(request):
    """Cancel scopes, task groups and timeouts of anyio and asyncio, in one another."""
    notes = []
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep(10)
    notes.append(scope.cancelled_caught)
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(anyio.sleep, 0.001 * number)
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 10)
        await anyio.sleep(0)
        group.cancel_scope.cancel()
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(10)
    except TimeoutError:
        notes.append("timeout")
    notes.append(await anyio.to_thread.run_sync(lambda: "thread"))
    return JSONResponse(notes)


async def context(request):
    before = variable.get()
    variable.set(request.query_params["v"])
    await asyncio.sleep(0.001)
    return PlainTextResponse(f"{before} {variable.get()}")


def sync(request):
    return PlainTextResponse("from a thread")


async def fail(request):
    raise ValueError("own")


async def background(request):
    async def later():
        await asyncio.sleep(0.01)
        seen.append("background")

    from starlette.background import BackgroundTask

    return PlainTextResponse("sent", background=BackgroundTask(later))


async def source(request):
    return FileResponse(__file__)


class Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        response = await call_next(request)
        response.headers["x-stamp"] = request.method
        return response


routes = [
    Route("/hello", hello),
    Route("/whole", whole, methods=["GET", "POST"]),
    Route("/chunks", chunks, methods=["POST"]),
    Route("/stream", stream),
    Route("/endless", endless),
    Route("/poll", poll),
    Route("/scopes", scopes),
    Route("/context", context),
    Route("/sync", sync),
    Route("/fail", fail),
    Route("/background", background),
    Route("/source", source),
]

plain = Starlette(routes=[*routes, Mount("/mounted", routes=routes)], lifespan=lifespan)
stacked = Starlette(
    routes=routes,
    lifespan=lifespan,
    middleware=[Middleware(Stamp), Middleware(GZipMiddleware, minimum_size=100), Middleware(Stamp)],
)

api = FastAPI(lifespan=lifespan)


async def page(offset: int = 0, limit: int = 10):
    yield {"offset": offset, "limit": limit}
    seen.append("dependency closed")


@api.get("/items/{item_id}")
async def item(item_id: int, request: FastRequest, paging=Depends(page)):  # noqa: B008
    return {"id": item_id, "greeting": request.state.greeting, **paging}


@api.post("/items")
def add(item: dict, tasks: BackgroundTasks):
    tasks.add_task(seen.append, "background")
    return {"got": item}
