"""An ASGI application that does with a WebSocket what its path says."""

import asyncio
import os
import sys

CHUNK = bytes(65536)


def say(text):
    print(f"application: {text}", file=sys.stderr, flush=True)


async def app(scope, receive, send):
    if scope["type"] != "websocket":
        raise NotImplementedError(scope["type"])
    assert (await receive())["type"] == "websocket.connect"
    await PATHS[scope["path"]](scope, receive, send)


async def accept(send, **more):
    await send({"type": "websocket.accept", **more})


async def echo(scope, receive, send):
    await accept(send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    say(f"disconnect {message['code']} {message['reason']}")


async def pid(scope, receive, send):
    await accept(send)
    await send({"type": "websocket.send", "text": str(os.getpid())})
    await receive()


async def choose(scope, receive, send):
    headers = [(b"X-Offered", ",".join(scope["subprotocols"]).encode()), (b"set-cookie", b"a=1")]
    await accept(send, subprotocol=scope["subprotocols"][-1], headers=headers)
    await receive()


async def deny(scope, receive, send):
    headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b"Basic")]
    await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
    for body in (b"who ", b"are you?"):
        await send({"type": "websocket.http.response.body", "body": body, "more_body": True})
    await send({"type": "websocket.http.response.body"})


async def refuse(scope, receive, send):
    await send({"type": "websocket.close"})


async def text_only(scope, receive, send):
    await accept(send)
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") is None:
            await send({"type": "websocket.close", "code": 1003, "reason": "text only"})


async def fail(scope, receive, send):
    await accept(send)
    raise ValueError("as the test wants it")


async def deaf(scope, receive, send):
    """Receive nothing until the client is gone."""
    await accept(send)
    await asyncio.sleep(600)


async def flood(scope, receive, send):
    """Send without end, and say when the client takes no more."""
    await accept(send)
    sent = 0
    while True:
        sending = asyncio.ensure_future(send({"type": "websocket.send", "bytes": CHUNK}))
        done, _ = await asyncio.wait({sending}, timeout=0.5)
        if not done:
            say(f"waits after {sent} messages")
            break
        sent += 1
    await sending
    say("goes on")


PATHS = {
    "/": echo,
    "/pid": pid,
    "/choose": choose,
    "/deny": deny,
    "/refuse": refuse,
    "/text-only": text_only,
    "/fail": fail,
    "/deaf": deaf,
    "/flood": flood,
}
