"""What an idle connection costs a server in user memory.

Each connection does one request, is answered, and stays open; what the server holds more
than before, divided by their number, is the figure. Kernel memory (socket buffers, epoll's
own entries) is in no process and is not counted.
"""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import client, process
from benchmarks.catalogue import ROOT, Places, ServerEntry, launch
from benchmarks.workloads import Workload

# One source address has about 28,000 ports for one target; stay well below.
PER_SOURCE = 20_000
# What is allocated once, by the first requests, is not the cost of a connection.
WARM_UP_CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Held:
    """What a server held before and with N idle connections."""

    server: str
    connections: int
    before: process.Memory
    after: process.Memory
    closed: int

    @property
    def pss_per_connection(self) -> float:
        """Bytes of proportional memory a connection."""
        return (self.after.pss_bytes - self.before.pss_bytes) / self.connections

    @property
    def rss_per_connection(self) -> float:
        """Bytes of resident memory a connection."""
        return (self.after.rss_bytes - self.before.rss_bytes) / self.connections


def measure(entry: ServerEntry, workload: Workload, n_connections: int, places: Places) -> Held:
    """Start a server, open idle connections to it, weigh it before and with them, end it.

    Needs as many open files, for this process and for the server; `machine.raise_file_limit`
    sees to it. Raises ServerFailed, WrongAnswer or OSError.
    """
    port = process.free_port()
    started = launch(entry, workload, port, places)
    request = workload.request(port)
    with process.running(
        started.command,
        port,
        environment=started.environment,
        files=started.files,
        directory=ROOT,
    ) as server:
        with ExitStack() as warm_up:
            open_idle(warm_up, port, request, workload.answer, WARM_UP_CONNECTIONS)
        before = server.memory()
        with ExitStack() as idle:
            connections = open_idle(idle, port, request, workload.answer, n_connections)
            after = server.memory()
            closed = count_closed(connections)
    return Held(entry.name, n_connections, before, after, closed)


def open_idle(
    stack: ExitStack, port: int, request: bytes, expected: bytes, n_connections: int
) -> list[socket.socket]:
    """Open connections that have been answered once; the stack closes them."""
    opened = []
    for number in range(n_connections):
        connection = stack.enter_context(client.connect(port, source_address(number)))
        try:
            client.ask(connection, request, expected)
        except client.WrongAnswer as wrong:
            where = f"connection {number + 1} of {n_connections}"
            raise client.WrongAnswer(f"{where}: {wrong}") from wrong
        opened.append(connection)
    return opened


def source_address(number: int) -> str:
    """Return the loopback address that the connection of this number comes from."""
    return f"127.0.0.{1 + number // PER_SOURCE}"


def count_closed(connections: list[socket.socket]) -> int:
    """Count the connections that the server has closed, or on which it says something more."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN | select.POLLRDHUP)
    return len(poll.poll(0))
