"""The scalability law's fit against curves whose parameters are known, and the fairness index."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

# At the end, so that an installed fastcluster comes before the source tree's.
sys.path.append(str(Path(__file__).parent.parent))

from benchmarks import usl
from benchmarks.usl import Law

CORES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def points(law: Law) -> list[usl.Point]:
    return [(n, law.throughput(n)) for n in CORES]


@pytest.mark.parametrize(
    ("sigma", "kappa"),
    [(0.0, 0.0), (0.05, 0.0), (0.0, 1e-4), (0.02, 1e-4), (0.3, 0.01)],
)
def test_a_curve_without_noise_is_found_again(sigma: float, kappa: float) -> None:
    found = usl.fit(points(Law(90_000.0, sigma, kappa)))
    assert found.lambda_ == pytest.approx(90_000.0, rel=1e-6)
    assert found.sigma == pytest.approx(sigma, abs=1e-7)
    assert found.kappa == pytest.approx(kappa, abs=1e-9)


def test_the_intervals_hold_what_made_the_rounds() -> None:
    law, noise = Law(100_000.0, 0.02, 2e-4), random.Random(1)
    rounds = [
        {n: (float(n), law.throughput(n) * noise.gauss(1.0, 0.02)) for n in CORES}
        for _ in range(10)
    ]
    found = usl.fit_rounds(rounds, resamples=100)
    assert found.sigma_interval[0] < 0.02 < found.sigma_interval[1]
    assert found.kappa_interval[0] < 2e-4 < found.kappa_interval[1]
    assert found.lambda_interval[0] < 100_000.0 < found.lambda_interval[1]
    assert found.r_squared > 0.99
    assert usl.fit_rounds(rounds, resamples=100) == found


def test_gauss_newton_ends_where_no_neighbour_is_better() -> None:
    noise = random.Random(7)
    data = [(n, x * noise.gauss(1.0, 0.05)) for n, x in points(Law(1000.0, 0.05, 1e-3))]
    best = usl.fit(data)

    def squares(law: Law) -> float:
        return sum((x - law.throughput(n)) ** 2 for n, x in data)

    for change in (0.999, 1.001):
        assert squares(best) <= squares(Law(best.lambda_ * change, best.sigma, best.kappa))
        assert squares(best) <= squares(Law(best.lambda_, best.sigma * change, best.kappa))
        assert squares(best) <= squares(Law(best.lambda_, best.sigma, best.kappa * change))


def test_better_than_linear_is_no_negative_contention() -> None:
    found = usl.fit([(1, 100.0), (2, 210.0), (4, 430.0), (8, 880.0)])
    assert (found.sigma, found.kappa) == (0.0, 0.0)
    assert found.lambda_ == pytest.approx(110.0, abs=1.0)


def test_three_core_counts_are_too_few_however_often_they_were_measured() -> None:
    with pytest.raises(usl.TooFewPoints, match="3 of the 4"):
        usl.fit([(1, 10.0), (2, 19.0), (3, 28.0), (3, 29.0)])


def test_cores_that_the_load_took_a_share_of_need_not_be_whole() -> None:
    law = Law(50.0, 0.1, 0.001)
    found = usl.fit([(n, law.throughput(n)) for n in (1, 1.9, 3.7, 7.2, 13.9)])
    assert found.sigma == pytest.approx(0.1, abs=1e-6)


def test_the_peak_is_where_the_curve_turns() -> None:
    law = Law(100.0, 0.1, 0.001)
    peak = law.peak_cores()
    assert peak == pytest.approx(30.0)
    assert law.throughput(peak) > max(law.throughput(peak - 1), law.throughput(peak + 1))
    assert Law(100.0, 0.1, 0.0).peak_cores() is None


@pytest.mark.parametrize(
    ("shares", "index"),
    [([5, 5, 5, 5], 1.0), ([8, 0, 0, 0], 0.25), ([3, 1], 0.8), ([0, 0], 1.0)],
)
def test_fairness_is_jains_index(shares: list[float], index: float) -> None:
    assert usl.fairness(shares) == pytest.approx(index)


def test_the_interval_of_a_figure_holds_it() -> None:
    low, high = usl.bootstrap([1.8, 1.9, 2.0, 1.85, 1.95], lambda drawn: sum(drawn) / len(drawn))
    assert 1.8 <= low < 1.9 < high <= 2.0
