"""A cluster program that serves one native application of apps.py, and says who answered.

`python -m benchmarks.cluster_program PORT WORKERS APP TALLY` is what scale.py starts for those
policies of sharing a socket that a program chooses and `fastcluster serve` does not have. The
policy is FASTCLUSTER_SCHED_POLICY's, unless FASTCLUSTER_BENCH_REUSE_PORT is set: then each worker
has a socket of its own. TALLY is a file of one number for each worker, which all of them have
mapped: 0 before it listens, then one more than the requests that it has answered. It measures
nothing.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

from benchmarks import apps
from fastcluster import cluster, http

NUMBER_BYTES = 8

Handler = Callable[[Any], Any]


def prepare(tally: Path, workers: int) -> None:
    """Make the file with a 0 for each worker. Raises OSError."""
    tally.write_bytes(bytes(NUMBER_BYTES * workers))


def read(tally: Path) -> list[int]:
    """Return what each worker has written. Raises OSError."""
    return list(memoryview(tally.read_bytes()).cast("Q"))


def counted(handler: Handler, numbers: memoryview[int], index: int) -> Handler:
    """Return the handler with one more store for each request."""
    if iscoroutinefunction(handler):
        waiting: Callable[[Any], Awaitable[Any]] = handler

        async def count_and_wait(request: Any) -> Any:
            numbers[index] += 1
            return await waiting(request)

        return count_and_wait

    def count_and_answer(request: Any) -> Any:
        numbers[index] += 1
        return handler(request)

    return count_and_answer


def serve(port: int, app: str, tally: Path) -> None:
    """Listen in a worker, and mark that it does."""
    assert cluster.worker is not None
    with open(tally, "r+b") as file:
        numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
    index = cluster.worker.id - 1
    handler = counted(getattr(apps, f"native_{app}"), numbers, index)

    def mark() -> None:
        numbers[index] = 1

    has_own_socket = bool(os.environ.get("FASTCLUSTER_BENCH_REUSE_PORT"))
    http.create_server(handler).listen(port, callback=mark, reuse_port=has_own_socket)


def main(port: str, workers: str, app: str, tally: str) -> None:
    """Fork the workers, or be one."""
    if cluster.is_primary:
        for _ in range(int(workers)):
            cluster.fork()
    else:
        serve(int(port), app, Path(tally))
    cluster.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
