"""Scaling: who gets which cores, how rounds become rows and curves, and real servers that count."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from require import require_module, require_program

# At the end, so that an installed fastcluster comes before the source tree's.
sys.path.append(str(Path(__file__).parent.parent))

from benchmarks import __main__ as command
from benchmarks import (
    client,
    cluster_program,
    layout,
    page,
    plots,
    process,
    report,
    scale,
    scale_report,
    usl,
)
from benchmarks.catalogue import Places
from benchmarks.layout import Layout
from benchmarks.machine import CannotMeasure
from benchmarks.workloads import WORKLOADS

PLAN = scale.Plan(rounds=2, seconds=1, warm_up_s=0, connections_per_worker=64)


def alone(core: int) -> set[int]:
    return {core}


def pairs(core: int) -> set[int]:
    """Eight cores of two hardware threads: 0 and 8, 1 and 9, …"""
    return {core % 8, core % 8 + 8}


# ---- layout.py


def test_the_load_has_what_the_workers_leave() -> None:
    cores = [0, 1, 2, 3]
    assert layout.lay_out(1, cores, alone) == Layout((0,), (1, 2, 3), "nothing")
    assert layout.lay_out(3, cores, alone) == Layout((0, 1, 2), (3,), "nothing")
    assert layout.lay_out(4, cores, alone) == Layout((0, 1, 2, 3), (0, 1, 2, 3), "cores")


def test_hardware_threads_of_the_workers_cores_are_the_last_resort() -> None:
    cores = layout.ordered(list(range(16)), pairs)
    assert cores == list(range(16))
    assert layout.ordered([0, 8, 1, 9], pairs) == [0, 1, 8, 9]
    assert layout.lay_out(6, cores, pairs) == Layout(tuple(range(6)), (6, 7, 14, 15), "nothing")
    assert layout.lay_out(8, cores, pairs) == Layout(
        tuple(range(8)), tuple(range(8, 16)), "threads"
    )
    assert layout.lay_out(16, cores, pairs).shared == "cores"


@pytest.mark.parametrize(
    ("n_cores", "counts"),
    [
        (1, [1]),
        (2, [1, 2]),
        (4, [1, 2, 3, 4]),
        (10, [1, 2, 3, 4, 6, 8, 10]),
        (64, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]),
    ],
)
def test_which_numbers_of_workers_are_measured(n_cores: int, counts: list[int]) -> None:
    assert layout.worker_counts(n_cores) == counts


def test_numbers_of_workers_may_be_given() -> None:
    assert layout.parse_counts("1-3, 8", 8) == [1, 2, 3, 8]
    with pytest.raises(CannotMeasure, match="may use 4 cores"):
        layout.parse_counts("1,8", 4)
    for wrong in ("0", "two", "3-", "", "3-1"):
        with pytest.raises(CannotMeasure):
            layout.parse_counts(wrong, 4)


# ---- scale.py


def sample(workers: int, per_s: float, number: int = 0, **changes: Any) -> scale.Sample:
    given: dict[str, Any] = {
        "policy": "balanced",
        "handler": "cpu1ms",
        "workers": workers,
        "round": number,
        "shared": "nothing",
        "cores": float(workers),
        "requests_per_s": per_s,
        "cpu_us_per_request": 1000.0,
        "server_percent": 100.0 * workers,
        "load_percent": 5.0,
        "load_is_full": False,
        "foreign_percent": 0.0,
        "p99_us": 900,
        "by_worker": (100,) * workers,
        "errors": 0,
    }
    return scale.Sample(**{**given, **changes})


def test_speed_ups_are_made_within_a_round() -> None:
    slow_and_fast = [sample(1, 100), sample(2, 190), sample(1, 200, 1), sample(2, 380, 1)]
    one, two = scale.summarise(slow_and_fast)
    assert (one.speed_up, two.speed_up) == (1.0, 1.9)
    assert two.speed_up_interval == (1.9, 1.9)
    assert two.spread_percent == pytest.approx(100 * 190 / 285)


def test_fairness_is_the_median_and_the_least_is_kept() -> None:
    rounds = [sample(2, 100, n, by_worker=by) for n, by in enumerate([(5, 5), (3, 1), (6, 6)])]
    (row,) = scale.summarise(rounds)
    assert (row.fairness, row.fairness_low) == (1.0, pytest.approx(0.8))
    assert row.speed_up is None


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"load_is_full": True}, False),
        ({"errors": 1}, False),
        ({"shared": "cores", "load_percent": 9.0}, True),
        ({"shared": "cores", "load_percent": 60.0}, False),
        ({"load_percent": 60.0}, True),
    ],
)
def test_what_a_curve_may_be_fitted_to(changes: dict[str, Any], fits: bool) -> None:
    (row,) = scale.summarise([sample(2, 100, **changes)])
    assert row.fits is fits


def test_points_that_do_not_fit_are_not_fitted() -> None:
    law = usl.Law(1000.0, 0.1, 0.0)
    samples = [sample(n, law.throughput(n), r) for n in (1, 2, 3, 4, 6) for r in range(2)]
    samples += [sample(8, 1.0, r, load_is_full=True) for r in range(2)]
    (curve,) = scale.curves(samples, scale.summarise(samples))
    assert curve.fit is not None
    assert curve.fit.law.sigma == pytest.approx(0.1, abs=1e-6)


def test_too_few_points_are_said_to_be_too_few() -> None:
    samples = [sample(1, 100), sample(2, 190, shared="cores", load_percent=80.0)]
    rows = scale.summarise(samples)
    curves = scale.curves(samples, rows)
    assert curves[0].fit is None
    text = scale_report.scaling(PLAN, rows, curves, {}, ["rr"], 2)
    assert "No contention and coherence for balanced: 1 of the 4 different core counts" in text
    assert "With 2 workers no core was left for the load" in text
    assert "rr is not in the fastcluster that was measured" in text
    assert "lets a process use 2 cores" in text


def test_what_failed_is_left_out_of_later_rounds() -> None:
    asked: list[tuple[str, int]] = []

    def measure_one(policy: scale.Policy, handler: str, number: int, where: Layout) -> scale.Sample:
        asked.append((policy.name, number))
        if policy.name == "none":
            raise process.ServerFailed("it died")
        return sample(1, 100.0, number)

    samples, failures = scale.run_rounds(
        PLAN,
        scale.choose(["balanced", "none"]),
        ["cpu1ms"],
        [layout.lay_out(1, [0, 1], alone)],
        measure_one,
        lambda line: None,
    )
    assert asked == [("balanced", 0), ("none", 0), ("balanced", 1)]
    assert len(samples) == 2
    assert failures == {"none, cpu1ms, workers: 1": "ServerFailed: it died"}


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(CannotMeasure, match="no policy is named fair; there are balanced, none"):
        scale.choose(["fair"])


def test_a_policy_is_there_if_the_cluster_has_its_name() -> None:
    needs = scale.Policy("x", "x", needs="fork")
    assert scale.is_there(needs, sys.executable)
    assert not scale.is_there(scale.Policy("y", "y", needs="NO_SUCH_NAME"), sys.executable)


def test_workers_count_once_all_are_ready() -> None:
    ready = {"state": "ready", "requests": 3}
    booting = {"state": "booting", "requests": 0}
    assert scale.requests_of({"workers": [ready, booting]}, 2) is None
    assert scale.requests_of(None, 2) is None
    assert scale.requests_of({"workers": [ready, ready]}, 2) == [3, 3]


@pytest.mark.parametrize("name", ["balanced", "none", "reuseport"])
def test_every_worker_says_what_it_has_answered(name: str) -> None:
    require_program("taskset", package="util-linux")
    (policy,) = scale.choose([name])
    core = layout.usable()[0]
    with scale.running(
        policy, WORKLOADS["hello"], Layout((core, core), (), "cores"), Places()
    ) as it:
        before = it.by_worker()
        with client.connect(it.server.port) as connection:
            request, answer = WORKLOADS["hello"].request(it.server.port), WORKLOADS["hello"].answer
            for _ in range(4):
                client.ask(connection, request, answer)
        after = it.by_worker()
    assert len(before) == 2
    assert sum(after) - sum(before) == 4


def test_a_tally_counts_from_one_on(tmp_path: Path) -> None:
    cluster_program.prepare(tmp_path / "tally", 3)
    assert cluster_program.read(tmp_path / "tally") == [0, 0, 0]
    numbers = memoryview(bytearray(16)).cast("Q")
    handler = cluster_program.counted(lambda request: b"x", numbers, 1)
    assert (handler(None), list(numbers)) == (b"x", [0, 1])


# ---- the file, the page, the pictures


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file as scale writes it, of a machine with eight cores."""
    law = usl.Law(1000.0, 0.02, 1e-3)
    counts = (1, 2, 3, 4, 6, 8)
    samples = [sample(n, law.throughput(n), r) for r in range(2) for n in counts]
    rows = scale.summarise(samples)
    data = scale_report.document(
        {"date": "2026-01-02", "usable_cores": 9},
        PLAN,
        {"fastcluster": "9.8"},
        samples,
        rows,
        scale.curves(samples, rows),
        {},
        ["rr"],
    )
    path = tmp_path / "scale.json"
    report.write(path, data)
    return path


def test_the_page_has_the_curve_and_the_aim(file: Path) -> None:
    text = page.page([page.read(file)])
    assert "| balanced | 1,000 (1,000–1,000) | 0.0200 (0.0200–0.0200) |" in text
    speed_up = usl.Law(1000.0, 0.02, 1e-3).throughput(2) / 1000.0
    assert f"of 2 workers / 1, balanced | ≥ 1.9 | {speed_up:.2f} |" in text
    assert "2 | yes |" in text


def test_what_is_read_is_what_was_written(file: Path) -> None:
    run = page.read(file)
    assert isinstance(run, page.ScaleRun)
    assert run.rows[1].workers == 2
    assert scale.curves(run.samples, run.rows) == run.curves


def test_pictures_are_drawn_from_the_file(file: Path, tmp_path: Path) -> None:
    require_module("matplotlib", package="matplotlib")
    words = ["report", str(file), "--plots", str(tmp_path / "plots")]
    ran = CliRunner().invoke(command.main, words)
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "plots" / "scale-cpu1ms.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "plots" / "scale-cpu1ms.svg").read_text()
    assert "<svg" in svg


def test_without_matplotlib_the_mend_is_named(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CannotMeasure, match=r"pip install -e .\.\[plots\]"):
        plots.check_installed()
    ran = CliRunner().invoke(command.main, ["report", str(file), "--plots", "nowhere"])
    assert ran.exit_code == 2
    assert "Traceback" not in ran.output


def test_only_what_has_a_native_application_can_be_scaled() -> None:
    require_program("wrk", package="wrk")
    ran = CliRunner().invoke(command.main, ["scale", "--handlers", "django"])
    assert (ran.exit_code, "django has no native application" in ran.output) == (2, True)
