"""Fixtures that several test modules use."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import Wire


@pytest.fixture(params=[0, 4], ids=["loop", "threads"])
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., Wire]]:
    """Serve a WSGI application on the loop's thread, and once more on four threads.

    serve(app, **options) returns a Wire, which is closed after the test.
    """
    from fastcluster.wsgi import WsgiHandler

    wires: list[Wire] = []

    def start(app: Callable[..., Any], **options: Any) -> Wire:
        wires.append(Wire(WsgiHandler, app, threads=request.param, **options))
        return wires[-1]

    yield start
    for opened in wires:
        opened.close()
