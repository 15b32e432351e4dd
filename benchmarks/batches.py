"""A batch of requests or messages through a server in this process, for parts without a Python.

One write brings the whole batch, so that the socket's share of the time is small. Whoever measures
a part compares two such figures that differ in it. It stands on the tests' own harness.
"""

from __future__ import annotations

from typing import Any

BATCH = 16
MOST_TURNS = 100_000


def exchange(client: Any, data: bytes, answer_bytes: int) -> bytes:
    """Send the bytes, let the server turn until so many have come back, and return those."""
    client.send(data)
    # No turn waits: a loop's shortest wait is a millisecond.
    for _ in range(MOST_TURNS):
        client.wire.turn(0)
        if len(client.received) >= answer_bytes or client.eof:
            break
    received: bytes = client.received
    client.received = b""
    assert len(received) == answer_bytes, received[-300:]
    return received


def measured(benchmark: Any, client: Any, data: bytes, answer_bytes: int) -> bytes:
    """Measure BATCH times the same bytes, each of which brings so many bytes back."""
    result: bytes = benchmark(exchange, client, data * BATCH, answer_bytes * BATCH)
    return result
