"""wsgi_environ.pyx: sixteen environs of a hello and of a browser's head, and all around them."""

from __future__ import annotations

from typing import Any

import pytest
from harness import wire
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import apps
from benchmarks.batches import measured
from benchmarks.workloads import WORKLOADS
from fastcluster.native import NativeHandler
from fastcluster.wsgi import WsgiHandler


@pytest.mark.parametrize("name", ["hello", "browser"])
def test_environs(benchmark: BenchmarkFixture, name: str) -> None:
    seen: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        seen[:] = [environ]
        return apps.wsgi_hello(environ, start_response)

    request = WORKLOADS[name].request(8000)
    with wire(WsgiHandler, app) as server:
        client = server.connect()
        size = len(_answer(client, request))
        measured(benchmark, client, request, size)
    n_fields = len(WORKLOADS[name].fields) + 1
    assert sum(key.startswith("HTTP_") for key in seen[0]) == n_fields


@pytest.mark.parametrize("name", ["hello", "browser"])
def test_the_same_without_an_environ(benchmark: BenchmarkFixture, name: str) -> None:
    request = WORKLOADS[name].request(8000)
    with wire(NativeHandler, apps.native_hello) as server:
        client = server.connect()
        size = len(_answer(client, request))
        measured(benchmark, client, request, size)


def _answer(client: Any, request: bytes) -> bytes:
    client.send(request)
    client.wire.turn_until(lambda: client.received.endswith(apps.HELLO))
    received: bytes = client.received
    client.received = b""
    return received
