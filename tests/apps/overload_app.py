"""An application of both kinds whose requests take a time that the test says."""

import asyncio
import os
import time

SERVICE_S = float(os.environ.get("OVERLOAD_SERVICE_S", "0.1"))


async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    await asyncio.sleep(SERVICE_S)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"done"})


def wsgi(environ, start_response):
    time.sleep(SERVICE_S)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
