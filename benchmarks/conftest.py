"""Lets `pytest benchmarks/` find bench_*.py, and says what it needs.

The files are not named test_*.py, so a run of the tests never takes time measurements for
tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to start without the plugin that measures."""
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError(
            "the micro-benchmarks need pytest-benchmark: pip install pytest-benchmark"
        )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect bench_*.py as modules of tests."""
    # pytest itself collects a file that was named on its command line.
    if parent.session.isinitpath(file_path):
        return None
    if file_path.name.startswith("bench_") and file_path.suffix == ".py":
        return pytest.Module.from_parent(parent, path=file_path)
    return None
