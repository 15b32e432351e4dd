"""The page that is made of a run: what the file says stands in it, and nothing else does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

# At the end, so that an installed fastcluster comes before the source tree's.
sys.path.append(str(Path(__file__).parent.parent))

from benchmarks import __main__ as command
from benchmarks import compare, page, report

SAME = {"requests_per_s": 5e4, "requests": 10**5, "server_percent": 99.0, "load_percent": 50.0}
QUIET = {"foreign_percent": 0.0, "p50_us": 1, "p99_us": 2, "p999_us": 3}
SIZES = {"rss_bytes": 2**20, "pss_bytes": 2**20}


def sample(cpu_us: float, errors: int = 0) -> compare.Sample:
    figures: dict[str, Any] = {**SAME, **QUIET, **SIZES, "errors": errors}
    return compare.Sample(cpu_us_per_request=cpu_us, **figures)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file as compare writes it, with a workload that has no reference."""
    hello: compare.Samples = {
        "reference": {0: sample(10.0), 1: sample(10.0)},
        "fastcluster-native-llhttp": {0: sample(11.0), 1: sample(12.0)},
    }
    busy: compare.Samples = {"uvicorn": {0: sample(1043.2, errors=3)}}
    data = report.document(
        {"date": "2026-01-02", "processor": "PDP-11"},
        compare.Plan(rounds=2, seconds=3, connections=64, warm_up_s=1),
        {"fastcluster-native-llhttp": "fastcluster 9.8", "wrk": "4.1"},
        {"hello": (hello, {"bjoern": "ServerFailed: it died"}), "cpu1ms": (busy, {})},
        ["nginx"],
    )
    path = tmp_path / "run.json"
    report.write(path, data)
    return path


def test_the_page_has_machine_versions_and_absent_servers(file: Path) -> None:
    text = page.page([page.read(file)])
    assert "date: 2026-01-02, processor: PDP-11" in text
    assert "fastcluster-native-llhttp fastcluster 9.8, wrk 4.1" in text
    assert "not measured: nginx." in text
    assert "bjoern was left out. ServerFailed: it died" in text
    assert "Rounds: 2, interleaved, of 3 s each after 1 s" in text


def test_the_overview_has_ratios_and_spread_or_microseconds(file: Path) -> None:
    text = page.overview(page.read(file))
    assert "| server | hello | cpu1ms |" in text
    assert "| fastcluster-native-llhttp | 1.15 (9) |  |" in text
    assert "| uvicorn |  | 1043.2 µs (0, errors) |" in text


def test_every_workload_has_its_table(file: Path) -> None:
    text = page.page([page.read(file)])
    assert text.index("### hello:") < text.index("### cpu1ms:")
    assert "| fastcluster-native-llhttp | 11.50 | 1.15 | 1.10 | 1.20 |" in text
    assert "Errors, so do not compare: uvicorn (3)." in text


def test_the_command_prints_or_writes_the_same(file: Path, tmp_path: Path) -> None:
    output = tmp_path / "performance.md"
    printed = CliRunner().invoke(command.main, ["report", str(file)])
    written = CliRunner().invoke(command.main, ["report", str(file), "--output", str(output)])
    assert (printed.exit_code, written.exit_code) == (0, 0)
    assert output.read_text() == printed.output == page.page([page.read(file)])


def spoilt(file: Path, **changes: Any) -> str:
    return json.dumps({**json.loads(file.read_text()), **changes})


def test_a_file_of_something_else_is_one_line(file: Path) -> None:
    texts = {
        "{": "Expecting",
        "[]": "list indices",
        '{"schema": 1}': "no 'workloads' in it",
        spoilt(file, schema=99): "its schema is 99",
        spoilt(file, plan={"nope": 1}): "nope",
        spoilt(file, workloads={"nope": {}}): "no workload is named nope",
    }
    for text, why in texts.items():
        file.write_text(text)
        ran = CliRunner().invoke(command.main, ["report", str(file)])
        assert ran.exit_code == 2
        assert len(ran.output.splitlines()) == 1
        assert f"{file} is not of `compare --json`: " in ran.output
        assert why in ran.output


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    ran = CliRunner().invoke(command.main, ["report", str(tmp_path / "nothing.json")])
    assert (ran.exit_code, len(ran.output.splitlines())) == (2, 1)
