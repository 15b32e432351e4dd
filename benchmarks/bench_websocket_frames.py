"""websocket_frames.pyx: sixteen messages in one write, and what comes back of them."""

from __future__ import annotations

import pytest
from asgi_parts import asgi_wire
from pytest_benchmark.fixture import BenchmarkFixture
from websocket_parts import Peer, binary, echo, text

from benchmarks.batches import measured

# What a frame of ours has before its payload (RFC 6455, section 5.2).
HEAD_BYTES = {128: 4, 16384: 4}


@pytest.mark.parametrize("size", HEAD_BYTES)
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_messages(benchmark: BenchmarkFixture, kind: str, size: int) -> None:
    frame = text("x" * size) if kind == "text" else binary(b"x" * size)
    with asgi_wire(echo, is_checked=False) as server:
        peer = Peer(server)
        back = measured(benchmark, peer.client, frame, HEAD_BYTES[size] + size)
    assert back.endswith(b"x" * size)
