"""What the primary serves besides: opened by the options, handed from primary to primary."""

import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from test_processes import Cluster, Start, start
from test_upgrade import begin, gone, release, run

from fastcluster import desks
from fastcluster.config import Config
from fastcluster.errors import BindError

__all__ = ["Start", "begin", "start"]


def test_what_is_asked_for_is_opened() -> None:
    assert desks.listen(Config(), None) == []
    found = desks.listen(Config(metrics="127.0.0.1:0", dashboard="127.0.0.1:0"), None)
    assert [(name, is_dashboard) for name, _, is_dashboard in found] == [
        ("metrics 127.0.0.1:0", False),
        ("dashboard 127.0.0.1:0", True),
    ]
    for _, listener, _ in found:
        listener.close()


def test_an_address_that_is_taken_is_told_by_its_flag_and_nothing_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        free, taken = first.getsockname()[1], other.getsockname()[1]
        first.close()
        with pytest.raises(BindError, match=f"^--dashboard: .*{taken}"):
            desks.listen(Config(metrics=f"127.0.0.1:{free}", dashboard=f"127.0.0.1:{taken}"), None)
        socket.create_server(("127.0.0.1", free)).close()


def test_an_upgrade_keeps_metrics_and_dashboard_where_they_are(
    begin: Callable[..., Cluster], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release(tmp_path / "1", "one")
    monitors = ("--metrics", "127.0.0.1:0", "--dashboard", "127.0.0.1:0")
    cluster = begin(tmp_path / "1", "--workers", "1", *monitors, "--dashboard-token", "t")
    [metrics] = [found[1] for found in cluster.said(r"metrics on (\S+)")]
    [page] = [found[1] for found in cluster.said(r"dashboard on (\S+)")]

    def look() -> tuple[str, int]:
        with urllib.request.urlopen(metrics, timeout=10) as answer:
            counted = answer.read().decode()
        with urllib.request.urlopen(f"{page}?token=t", timeout=10) as answer:
            return counted, answer.status

    for _ in range(2):
        before = cluster.pid
        assert run(capsys, "upgrade")[0] == 0
        counted, status = look()
        assert counted.endswith("# EOF\n")
        assert status == 200
    assert run(capsys, "stop")[0] == 0
    gone(before)
