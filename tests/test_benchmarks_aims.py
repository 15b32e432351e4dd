"""The table of aims: ratios within a round, what holds, and what nobody has measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from require import require_module

# At the end, so that an installed fastcluster comes before the source tree's.
sys.path.append(str(Path(__file__).parent.parent))

from benchmarks import aims, compare, page, plots
from benchmarks.aims import ASGI, NATIVE, WSGI, Finding
from benchmarks.workloads import WORKLOADS


def sample(cpu_us: float, p99_us: int | None = 100, errors: int = 0) -> compare.Sample:
    given: dict[str, Any] = dict.fromkeys(compare.Sample.__dataclass_fields__, 0)
    return compare.Sample(
        **{**given, "cpu_us_per_request": cpu_us, "p99_us": p99_us, "errors": errors}
    )


def found(findings: list[Finding], what: str) -> Finding:
    (finding,) = [one for one in findings if one.what == what]
    return finding


def test_every_aim_is_of_a_workload_that_there_is() -> None:
    assert {aim.workload for aim in aims.AIMS} <= WORKLOADS.keys()


def test_ratios_are_made_within_a_round_and_only_there() -> None:
    samples = {
        "hello": {
            "reference": {0: sample(10.0), 1: sample(20.0)},
            NATIVE: {0: sample(11.0), 1: sample(24.0), 2: sample(99.0)},
        }
    }
    finding = found(aims.compared(samples, {}), f"hello: {NATIVE} / reference")
    assert list(finding.values) == pytest.approx([1.1, 1.2])


def test_streams_and_files_are_compared_with_peers() -> None:
    samples = {
        "stream": {
            "reference": {0: sample(1.0)},
            "uvicorn": {0: sample(50.0)},
            ASGI: {0: sample(15)},
        },
        "file10k": {"nginx": {0: sample(10.0)}, NATIVE: {0: sample(12.0)}},
    }
    findings = aims.compared(samples, {})
    assert found(findings, f"stream: {ASGI} / uvicorn").holds == "yes"
    assert found(findings, f"file10k: {NATIVE} / nginx").holds == "no"


def test_python_3_11_has_an_aim_of_its_own_for_asgi() -> None:
    what = f"hello: {ASGI} / reference"
    of_311 = aims.compared({}, {NATIVE: "fastcluster 0.1.0 (parser llhttp, CPython 3.11.7, Linux)"})
    assert found(of_311, what).wanted == "≤ 1.70"
    assert found(aims.compared({}, {NATIVE: "CPython 3.13.0"}), what).wanted == "≤ 1.50"


@pytest.mark.parametrize(
    ("values", "holds"),
    [
        ([], "not measured"),
        ([1.0, 1.0, 1.1], "yes, within the spread"),
        ([1.0, 1.0, 1.05], "yes"),
        ([1.0, 1.2, 1.3], "no, within the spread"),
        ([1.2, 1.2, 1.3], "no"),
    ],
)
def test_what_holds(values: list[float], holds: str) -> None:
    assert Finding("x", "≤ 1.10", values, 1.1).holds == holds


def test_a_speed_up_has_to_be_at_least_that() -> None:
    (finding,) = aims.scaled({"balanced": [1.95, 1.92]})
    assert finding.holds == "yes"
    (finding,) = aims.scaled({"balanced": [1.7]})
    assert finding.holds == "no"


def test_latency_is_that_of_the_best_python_peer_without_errors() -> None:
    samples = {
        "hello": {
            "reference": {0: sample(1, 10)},
            "nginx": {0: sample(1, 20)},
            "broken": {0: sample(1, 30, errors=1)},
            "bjoern": {0: sample(1, 200)},
            "uvicorn": {0: sample(1, 500)},
            WSGI: {0: sample(1, 150)},
        }
    }
    finding = found(
        aims.compared(samples, {}), f"hello: p99 of {WSGI} / the lowest of the Python peers'"
    )
    assert list(finding.values) == [0.75]


def test_what_one_run_lacks_another_one_has() -> None:
    nothing = page.aimed([])
    assert "| user memory of an idle connection: fastcluster-native-llhttp | ≤ 1024 B |" in nothing
    assert nothing.count("not measured") == len(aims.AIMS) + 3 + 1 + 1
    weighed = page.MemoryRun({}, {}, {NATIVE: 700.0, "nginx": 9.0}, 10)
    assert f"{NATIVE} | ≤ 1024 B | 700 B | 700–700 | 1 | yes |" in page.aimed([weighed])
    assert "nginx | ≤ 1024" not in page.aimed([weighed])


def test_bars_are_drawn_with_a_reference_and_without(tmp_path: Path) -> None:
    require_module("matplotlib", package="matplotlib")
    rows = {
        "hello": compare.summarise(
            {
                "reference": {0: sample(10.0), 1: sample(10.0)},
                NATIVE: {0: sample(11.0), 1: sample(9.0)},
                "hypercorn": {0: sample(310.0), 1: sample(320.0)},
            }
        ),
        "cpu1ms": compare.summarise({WSGI: {0: sample(1000.0, errors=2)}}),
        "wait10ms": [],
    }
    written = plots.comparison(rows, tmp_path)
    names = ["compare-hello", "compare-cpu1ms"]
    assert [path.name for path in written] == [f"{n}.{f}" for n in names for f in ("png", "svg")]
    assert all(path.stat().st_size > 5000 for path in written)
