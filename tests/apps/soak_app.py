"""Says which worker answers, as a native handler and as a WSGI application.

/block?FIFO says there that it was called and holds its worker for two seconds,
/stream gives a megabyte in blocks.
"""

import os
import time


def pieces():
    for _ in range(50):
        yield b"x" * 20_000


def handler(request):
    """Answer natively."""
    if request.path == "/block":
        with open(request.query_string, "w") as fifo:
            fifo.write("blocked")
        time.sleep(2)
    if request.path == "/stream":
        return 200, pieces()
    return str(os.getpid()).encode()


def application(environ, start_response):
    """Answer by WSGI."""
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/stream":
        return pieces()
    size = len(environ["wsgi.input"].read())
    return [str(size or os.getpid()).encode()]
