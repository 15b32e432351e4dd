"""One application served in this process alone, which counts in parts when it is told to.

`python -m benchmarks.embedded INTERFACE MODULE:NAME PORT` is what guard.py runs under
callgrind. One process: no primary whose ticks follow the clock, and no fork to follow. Native
and WSGI applications run in the server's own loop, as in a worker, and ASGI ones in
asyncio's, so that the figures depend on no release of uvloop. At SIGUSR1 it calls MARK, at
which callgrind is told to write what it has counted and to begin anew. It knows nothing of
callgrind, and it does not end by itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

import fastcluster
from fastcluster import apps, sockets
from fastcluster.adapters import handler_for
from fastcluster.config import Config
from fastcluster.server import Server

# A function of the C library that nothing else calls here.
MARK = "getpriority"


def serve(interface: str, target: str, port: int) -> None:
    """Serve in the server's own loop, without end. Raises AppLoadError and BindError."""
    config = Config(interface=interface)
    server = Server(handler_for(apps.load(target), config), config)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno())
    signal.signal(signal.SIGUSR1, lambda number, frame: None)

    def hear() -> None:
        ours.recv(16)
        mark()

    server.watch(ours.fileno(), hear)
    server.listen(sockets.listen(sockets.Address("127.0.0.1", port), config.backlog))
    server.ready()
    while True:
        server.run()


async def serve_in_asyncio(target: str, port: int) -> None:
    """Serve in asyncio's loop until the process is ended. Raises AppLoadError and BindError."""
    server = fastcluster.Server(target, host="127.0.0.1", port=port)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, mark)
    await server.serve()


def mark() -> None:
    """Call the function that callgrind watches."""
    os.getpriority(os.PRIO_PROCESS, 0)


def main(interface: str, target: str, port: str) -> None:
    """Serve as the interface is served best."""
    if interface == "asgi":
        asyncio.run(serve_in_asyncio(target, int(port)))
    else:
        serve(interface, target, int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
