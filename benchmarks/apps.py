"""The applications that every server runs, so that only the servers differ.

Each task (hello, echo, big …) is written once for each interface, as plainly as a user would
write it. Nothing here is tuned for a server, and nothing is imported from one.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

HELLO = b"hello world\n"
BIG = b"x" * (100 * 1024)
OBJECT = {"message": "hello world", "number": 4711, "list": [1, 2, 3]}
JSON = b'{"message":"hello world","number":4711,"list":[1,2,3]}'
PIECE = b"x" * 100
N_PIECES = 10
# About one millisecond of CPython 3.11 on a processor of 2023. A fixed amount of work, so that
# a server whose core is shared does not seem to work less.
CPU_TURNS = 40_000
WAIT_S = 0.01
# Made by benchmarks/build.py; a request for /static/10KiB is for a file of that name in it.
FOLDER = os.path.join(os.path.dirname(os.path.dirname(__file__)), "build", "benchmarks", "files")

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def to_json() -> bytes:
    """Serialize the object, as every answer does anew."""
    return json.dumps(OBJECT, separators=(",", ":")).encode()


def work() -> int:
    """Do the fixed amount of work."""
    total = 0
    for number in range(CPU_TURNS):
        total += number
    return total


# ---- native


def native_hello(request: Any) -> bytes:
    """Answer with a constant."""
    return HELLO


def native_echo(request: Any) -> bytes:
    """Answer with the body of the request."""
    body: bytes = request.read()
    return body


def native_big(request: Any) -> bytes:
    """Answer with 100 KiB."""
    return BIG


def native_json(request: Any) -> Any:
    """Answer with an object, which becomes JSON."""
    return OBJECT


def native_stream(request: Any) -> Iterator[bytes]:
    """Answer in pieces."""
    for _ in range(N_PIECES):
        yield PIECE


def native_file(request: Any, response: Any) -> None:
    """Answer with a file."""
    response.send_file(FOLDER + request.path)


def native_cpu(request: Any) -> bytes:
    """Work, and answer with a constant."""
    work()
    return HELLO


async def native_wait(request: Any) -> bytes:
    """Wait, and answer with a constant."""
    await asyncio.sleep(WAIT_S)
    return HELLO


# ---- native, in Node's manner


def node_hello(request: Any, response: Any) -> None:
    """Answer with a constant, in Node's manner."""
    response.write_head(200, {"Content-Type": "text/plain", "Content-Length": str(len(HELLO))})
    response.end(HELLO)


def node_echo(request: Any, response: Any) -> None:
    """Answer with the body of the request, in Node's manner."""
    body = request.read()
    response.write_head(
        200, {"Content-Type": "application/octet-stream", "Content-Length": str(len(body))}
    )
    response.end(body)


def node_big(request: Any, response: Any) -> None:
    """Answer with 100 KiB, in Node's manner."""
    response.write_head(200, {"Content-Type": "text/plain", "Content-Length": str(len(BIG))})
    response.end(BIG)


# ---- WSGI


def wsgi_hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with a constant."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(HELLO)))])
    return [HELLO]


def wsgi_echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the body of the request."""
    body: bytes = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response(
        "200 OK",
        [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))],
    )
    return [body]


def wsgi_big(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with 100 KiB."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BIG)))])
    return [BIG]


def wsgi_json(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with an object as JSON."""
    body = to_json()
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]


def wsgi_stream(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer in pieces."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    for _ in range(N_PIECES):
        yield PIECE


def wsgi_file(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with a file, by the server's own means where it has them (PEP 3333)."""
    file = open(FOLDER + environ["PATH_INFO"], "rb")  # noqa: SIM115 — the server closes it
    size = os.fstat(file.fileno()).st_size
    start_response(
        "200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))]
    )
    wrapper = environ.get("wsgi.file_wrapper")
    if wrapper is not None:
        result: Iterable[bytes] = wrapper(file, 65536)
        return result
    return _blocks(file)


def wsgi_cpu(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Work, and answer with a constant."""
    work()
    return wsgi_hello(environ, start_response)


def wsgi_wait(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Wait, and answer with a constant."""
    time.sleep(WAIT_S)
    return wsgi_hello(environ, start_response)


def _blocks(file: Any) -> Iterator[bytes]:
    with file:
        while block := file.read(65536):
            yield block


# ---- ASGI


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _asgi(answer: Callable[[Scope, Receive, Send], Awaitable[None]]) -> Any:
    """Give an application its lifespan; what it is called with for a request it gets itself."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        await answer(scope, receive, send)

    return app


async def _answer(send: Send, content_type: bytes, body: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", str(len(body)).encode()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


@_asgi
async def asgi_hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a constant."""
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain"), (b"content-length", b"12")],
        }
    )
    await send({"type": "http.response.body", "body": HELLO})


@_asgi
async def asgi_echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body of the request."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await _answer(send, b"application/octet-stream", body)


@_asgi
async def asgi_big(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with 100 KiB."""
    await _answer(send, b"text/plain", BIG)


@_asgi
async def asgi_json(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an object as JSON."""
    await _answer(send, b"application/json", to_json())


@_asgi
async def asgi_stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in pieces."""
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain")],
        }
    )
    for number in range(N_PIECES):
        await send(
            {
                "type": "http.response.body",
                "body": PIECE,
                "more_body": number < N_PIECES - 1,
            }
        )


@_asgi
async def asgi_file(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a file, by the path-send extension where the server has it."""
    path = FOLDER + scope["path"]
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"application/octet-stream"),
                (b"content-length", str(os.stat(path).st_size).encode()),
            ],
        }
    )
    if "http.response.pathsend" in scope.get("extensions", {}):
        await send({"type": "http.response.pathsend", "path": path})
        return
    with open(path, "rb") as file:
        while block := file.read(65536):
            await send({"type": "http.response.body", "body": block, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@_asgi
async def asgi_cpu(scope: Scope, receive: Receive, send: Send) -> None:
    """Work, and answer with a constant."""
    work()
    await _answer(send, b"text/plain", HELLO)


@_asgi
async def asgi_wait(scope: Scope, receive: Receive, send: Send) -> None:
    """Wait, and answer with a constant."""
    await asyncio.sleep(WAIT_S)
    await _answer(send, b"text/plain", HELLO)


@_asgi
async def asgi_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Send every message back."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


# ---- RSGI, granian's own


async def rsgi_hello(scope: Any, protocol: Any) -> None:
    """Answer with a constant."""
    protocol.response_bytes(200, [("content-type", "text/plain")], HELLO)


async def rsgi_echo(scope: Any, protocol: Any) -> None:
    """Answer with the body of the request."""
    body = await protocol()
    protocol.response_bytes(200, [("content-type", "application/octet-stream")], body)


async def rsgi_big(scope: Any, protocol: Any) -> None:
    """Answer with 100 KiB."""
    protocol.response_bytes(200, [("content-type", "text/plain")], BIG)


async def rsgi_json(scope: Any, protocol: Any) -> None:
    """Answer with an object as JSON."""
    protocol.response_bytes(200, [("content-type", "application/json")], to_json())


async def rsgi_stream(scope: Any, protocol: Any) -> None:
    """Answer in pieces."""
    transport = protocol.response_stream(200, [("content-type", "text/plain")])
    for _ in range(N_PIECES):
        await transport.send_bytes(PIECE)


async def rsgi_file(scope: Any, protocol: Any) -> None:
    """Answer with a file."""
    protocol.response_file(200, [("content-type", "application/octet-stream")], FOLDER + scope.path)


async def rsgi_cpu(scope: Any, protocol: Any) -> None:
    """Work, and answer with a constant."""
    work()
    protocol.response_bytes(200, [("content-type", "text/plain")], HELLO)


async def rsgi_wait(scope: Any, protocol: Any) -> None:
    """Wait, and answer with a constant."""
    await asyncio.sleep(WAIT_S)
    protocol.response_bytes(200, [("content-type", "text/plain")], HELLO)
