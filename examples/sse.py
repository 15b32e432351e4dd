"""Server-Sent Events: a clock that every browser tab can listen to.

Run it by itself, on one core:        python examples/sse.py
or by the command, on all of them:    fastcluster serve sse:handler --app-dir examples
and listen:                           curl -N http://127.0.0.1:8000/events
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

from fastcluster import http

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx in front would keep events back
}
PAUSE_S = 1.0

PAGE = """<!doctype html><title>clock</title><h1></h1><script>
new EventSource("/events").onmessage = event =>
  document.querySelector("h1").textContent = JSON.parse(event.data).tick
</script>"""


async def events(last: int) -> AsyncIterator[str]:
    """Yield one event each second; closed by the server when the client leaves."""
    yield "retry: 1000\n\n"
    try:
        while True:
            last += 1
            yield f"id: {last}\ndata: {json.dumps({'tick': last})}\n\n"
            await asyncio.sleep(PAUSE_S)
    finally:
        print("a listener has left", flush=True)


async def handler(request: "http.AsyncRequest") -> object:
    """Give the page, or the events after the one that the browser has seen last."""
    if request.path != "/events":
        return 200, {"Content-Type": "text/html"}, PAGE
    last = request.headers.get("last-event-id", "0")
    return 200, HEADERS, events(int(last) if last.isdigit() else 0)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    server = http.create_server(handler)
    server.listen(port, callback=lambda: print(f"http://{server.address()}", flush=True))
    server.serve_forever()
