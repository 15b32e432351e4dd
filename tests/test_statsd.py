"""What a StatsD server is told, on a socket of the test's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from seen_parts import status, worker

from fastcluster.errors import UsageError
from fastcluster.statsd import DATAGRAM_BYTES, StatsD, packed


class FakePrimary:
    def __init__(self) -> None:
        self.now = status(worker(7, 50))

    def status(self, histograms: bool = False) -> dict[str, Any]:
        assert histograms
        return self.now


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        yield sock


def test_it_is_told_what_was_added(server: socket.socket) -> None:
    now_s, primary = [100.0], FakePrimary()
    address = f"127.0.0.1:{server.getsockname()[1]}"
    statsd = StatsD(address, "site", 10.0, primary, lambda: now_s[0])
    statsd.settle()  # there is nothing to compare with
    primary.now = status(worker(9, 4), before=52)
    now_s[0] = 109.0
    statsd.settle()
    assert statsd.next_deadline() == 110.0
    now_s[0] = 110.0
    statsd.settle()
    said = server.recv(65536).decode().splitlines()
    assert {"site.requests:6|c", "site.responses.2xx:6|c", "site.restarts:0|c"} <= set(said)
    assert {"site.workers.ready:1|g", "site.connections:3|g"} <= set(said)
    assert "site.latency_ms.p99:1.032|g" in said
    server.close()
    for _ in range(3):  # nobody listens: refused, and nobody minds
        now_s[0] += 10
        statsd.settle()
    assert statsd.interests() == {} and len(statsd.sockets()) == 1
    statsd.close()


def test_datagrams_have_a_bound() -> None:
    sent = list(packed(f"name{n}:1|c" for n in range(500)))
    assert len(sent) > 3 and max(map(len, sent)) <= DATAGRAM_BYTES
    assert b"\n".join(sent).count(b"|c") == 500 and list(packed(iter(()))) == []


@pytest.mark.parametrize("address", ["8125", "localhost:", "host:0", "host:70000", ":8125"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UsageError, match="--statsd wants HOST:PORT"):
        StatsD(address, "x", 1.0, FakePrimary())
