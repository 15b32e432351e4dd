"""hello for mrhttp, whose applications only it can run; the port is the argument."""

from __future__ import annotations

import asyncio
import sys

import mrhttp

# It asks for the current loop, which newer releases of uvloop no longer make by themselves.
asyncio.set_event_loop(asyncio.new_event_loop())
app = mrhttp.Application()


@app.route("/")
def hello(request: object) -> str:
    """Answer with a constant."""
    return "hello world\n"


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), cores=1)
