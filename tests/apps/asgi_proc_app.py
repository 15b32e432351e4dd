"""An ASGI application that lets a test hold its answer back, and says what its life is.

It meets the test at FIFOs, opened in threads, so that the loop goes on meanwhile.  The
variable ASGI_STARTUP says what its startup does.
"""

import asyncio
import os
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from asgi_checker import checked

STARTUP = os.environ.get("ASGI_STARTUP", "")


def say(text):
    print(f"application: {text}", file=sys.stderr, flush=True)


@checked
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "http":
        await answer(scope, receive, send)
    else:
        raise NotImplementedError(scope["type"])


async def lifespan(scope, receive, send):
    await receive()
    if STARTUP == "failed":
        await send({"type": "lifespan.startup.failed", "message": "no database here"})
        return
    if STARTUP == "raises":
        raise ValueError("no database here")
    if STARTUP == "hangs":
        say("starts up for ever")
        try:
            await asyncio.sleep(600)
        finally:
            say("startup was cancelled")
    scope["state"]["started"] = [os.getpid()]
    say(f"started up in {os.getpid()}")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    say(f"shut down in {os.getpid()}")
    await send({"type": "lifespan.shutdown.complete"})


async def answer(scope, receive, send):
    path = scope["path"]
    body = str(os.getpid())
    if path == "/held":
        body = await held(scope["query_string"].decode())
    elif path == "/forever":
        await stream_for_ever(send)
    elif path == "/state":
        body = str(scope["state"]["started"][0])
        scope["state"]["more"] = 1
    elif path == "/loop":
        body = type(asyncio.get_running_loop()).__module__
    elif path == "/upload":
        body = await upload(receive)
    elif path == "/sys-exit":
        sys.exit(9)
    content = body.encode()
    head = [(b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": content})
    if path == "/background":
        await asyncio.sleep(0.3)
        say("background is done")


async def held(folder):
    """Say at one FIFO that the request has arrived, and wait at the other for its answer."""
    await asyncio.to_thread(write, os.path.join(folder, "arrived"), str(os.getpid()))
    return await asyncio.to_thread(read, os.path.join(folder, "answer"))


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def read(path):
    with open(path) as file:
        return file.read()


async def stream_for_ever(send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    try:
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        await asyncio.sleep(0.01)
        say("cleaned up")
        raise


async def upload(receive):
    """Count a body, and by how many bytes the resident set has grown meanwhile."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = 0
    while True:
        message = await receive()
        total += len(message["body"])
        if not message["more_body"]:
            break
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{total} {(after - before) * 1024}"
