"""apps.py: what is done once for each worker before it serves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import apps as applications
from fastcluster.apps import discover, interface_of, load


@pytest.mark.parametrize(
    ("app", "interface"),
    [
        (applications.native_hello, "native"),
        (applications.node_hello, "native"),
        (applications.wsgi_hello, "wsgi"),
    ],
    ids=["native", "node", "wsgi"],
)
def test_interface_of(
    benchmark: BenchmarkFixture, app: Callable[..., object], interface: str
) -> None:
    assert benchmark(interface_of, app) == interface


def test_load(benchmark: BenchmarkFixture) -> None:
    folder = str(Path(__file__).parent.parent)
    assert benchmark(load, "benchmarks.apps:wsgi_hello", folder) is applications.wsgi_hello


def test_discover(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    (tmp_path / "asgi.py").write_text("import os\n\napplication = object()\n")
    assert benchmark(discover, str(tmp_path)) == "asgi:application"
