"""asgi_scope.pyx: sixteen scopes of a hello and of a browser's head, with all that is around."""

from __future__ import annotations

from typing import Any

import pytest
from asgi_parts import asgi_wire
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import apps
from benchmarks.batches import measured
from benchmarks.workloads import WORKLOADS


@pytest.mark.parametrize("name", ["hello", "browser"])
def test_scopes(benchmark: BenchmarkFixture, name: str) -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen[:] = [scope]
        await apps.asgi_hello(scope, receive, send)

    request = WORKLOADS[name].request(8000)
    with asgi_wire(app, is_checked=False) as server:
        client = server.connect()
        client.send(request)
        server.turn_until(lambda: client.received.endswith(apps.HELLO))
        size, client.received = len(client.received), b""
        measured(benchmark, client, request, size)
    assert len(seen[0]["headers"]) == len(WORKLOADS[name].fields) + 1
