"""Fixtures that several test modules use."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Wire


@pytest.fixture(autouse=True, scope="session")
def _runtime_folder() -> Iterator[None]:
    """Keep the control sockets of the tests' servers apart from the user's own.

    A short path, since a unix socket's has at most 107 bytes.
    """
    before = os.environ.get("XDG_RUNTIME_DIR")
    with tempfile.TemporaryDirectory(prefix="fc-", ignore_cleanup_errors=True) as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        yield
    if before is None:
        del os.environ["XDG_RUNTIME_DIR"]
    else:
        os.environ["XDG_RUNTIME_DIR"] = before


@pytest.fixture
def runtime_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the control sockets of one test."""
    with tempfile.TemporaryDirectory(prefix="fc-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.fixture(autouse=True)
def _server_logger() -> Iterator[None]:
    """Give the server's logger back as it was: log.set_up() takes it for the whole process."""
    logger = logging.getLogger("fastcluster")
    before = logger.__class__, logger.handlers[:], logger.propagate, logger.level
    yield
    logger.__class__, logger.handlers[:], logger.propagate = before[:3]
    logger.setLevel(before[3])


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Forget which environment a test has decided on, or an application that it loaded."""
    yield
    from fastcluster.surroundings import use_environment

    use_environment(None)


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
