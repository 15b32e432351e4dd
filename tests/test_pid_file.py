"""The pid file: written, kept from others, left by the dead, removed at the end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from test_processes import Start, start

from fastcluster import pid_file
from fastcluster.errors import UsageError

__all__ = ["start"]


def test_without_a_name_there_is_none() -> None:
    with pid_file.held(None):
        pass


def test_it_is_there_while_the_server_is(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    path.write_text("1234567 and more that a dead process left\n")
    cluster = start("--workers", "1", "--pid-file", str(path))
    cluster.ready(1)
    assert path.read_text() == f"{cluster.pid}\n"
    second = start("--workers", "1", "--pid-file", str(path))
    assert second.exit_code() == 2
    assert second.said(rf"belongs to process {cluster.pid}, which runs")
    assert path.read_text() == f"{cluster.pid}\n"
    cluster.signal(signal.SIGTERM)
    assert cluster.exit_code() == 0
    assert not path.exists()


def test_one_that_cannot_be_written_names_the_mend(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"cannot be written .*: choose another one"),
        pid_file.held(str(tmp_path / "none" / "server.pid")),
    ):
        pass
