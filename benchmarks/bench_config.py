"""config.py: what it costs to build the configuration, once a start."""

from __future__ import annotations

from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from fastcluster.config import Config

FLAGS = {"app": "shop:app", "bind": ("127.0.0.1:9000",), "workers": "4"}
ENVIRON = {"FASTCLUSTER_BACKLOG": "1024", "PATH": "/usr/bin", "LANG": "C.UTF-8"}


def test_defaults(benchmark: BenchmarkFixture) -> None:
    assert benchmark(Config).workers == 0


def test_every_source(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    file = tmp_path / "fastcluster.toml"
    file.write_text('threads = 8\ntimeout-keep-alive = "20s"\nlimit-request-body = "1M"\n')
    config = benchmark(Config.from_sources, FLAGS, ENVIRON, file)
    assert (config.workers, config.backlog, config.threads) == (4, 1024, 8)
