"""A WSGI application that lets a test hold its answer back, and breaks on demand.

It meets the test at FIFOs, whose two ends wait for each other, so neither sleeps.
While the file that PROC_BROKEN names exists, it cannot be imported.
"""

import os
import signal
import sys

BROKEN = os.environ.get("PROC_BROKEN", "")
if BROKEN and os.path.exists(BROKEN):
    with open(BROKEN) as file:
        raise RuntimeError(file.read())


def app(environ, start_response):
    path = environ["PATH_INFO"]
    body = str(os.getpid())
    if path == "/held":
        body = held(environ["QUERY_STRING"])
    elif path == "/segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif path == "/stuck-in-c":
        stuck_in_c(environ["QUERY_STRING"])
    elif path == "/fork":
        body = str(fork_and_terminate())
    elif path == "/sys-exit":
        sys.exit(9)
    content = body.encode()
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]


def held(folder):
    """Say at one FIFO that the request has arrived, and wait at the other for its answer."""
    with open(os.path.join(folder, "arrived"), "w") as file:
        file.write(str(os.getpid()))
    with open(os.path.join(folder, "answer")) as file:
        return file.read()


def stuck_in_c(folder):
    """Say that the request has arrived, and compute in C, with the GIL held, for ever."""
    with open(os.path.join(folder, "arrived"), "w") as file:
        file.write(str(os.getpid()))
    return 3 ** (10**9)


def fork_and_terminate():
    """Fork a helper as applications do, end it by SIGTERM, and return how it ended."""
    ready, say_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        # It does not outlive a test that fails.
        signal.alarm(20)
        os.write(say_ready, b"!")
        signal.pause()
        os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(say_ready)
    os.kill(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
