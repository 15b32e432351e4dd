"""Rates between two looks, across workers that come and go."""

from __future__ import annotations

import pytest
from seen_parts import status, worker

from fastcluster.sampling import Sampler


def test_the_first_look_has_no_rates() -> None:
    sample = Sampler().take(status(worker(7, 50)), 100.0)
    assert sample["requests_per_s"] == 0 and sample["latency_s"]["p50"] is None
    assert (sample["ready"], sample["wanted"], sample["connections"]) == (1, 2, 3)
    assert sample["workers"][0]["requests"] == 50


def test_rates_are_of_the_time_between() -> None:
    sampler = Sampler()
    sampler.take(status(worker(7, 50), worker(8, 10, 1)), 100.0)
    sample = sampler.take(status(worker(7, 90), worker(8, 10, 1)), 102.0)
    assert (sample["requests_per_s"], sample["bytes_out_per_s"]) == (20.0, 2000.0)
    assert sample["statuses_per_s"]["2xx"] == 20.0
    assert sample["cpu"] == pytest.approx(0.2)
    assert sum(sample["bands"]) == 40
    assert sample["latency_s"]["p99"] == pytest.approx(1e-3, rel=0.05)
    busy, idle = sample["workers"]
    assert (busy["requests_per_s"], idle["requests_per_s"]) == (20.0, 0.0)
    assert idle["latency_s"]["p99"] is None


def test_a_worker_that_is_replaced_takes_no_total_back() -> None:
    sampler = Sampler()
    sampler.take(status(worker(7, 50)), 100.0)
    sample = sampler.take(status(worker(9, 4), before=52), 101.0)
    assert sample["requests_per_s"] == 6.0
    assert sample["workers"][0]["requests_per_s"] == 4.0


def test_another_primary_begins_anew() -> None:
    sampler = Sampler()
    sampler.take(status(worker(7, 50)), 100.0)
    assert sampler.take(status(worker(9, 4), pid=2), 101.0)["requests_per_s"] == 0
