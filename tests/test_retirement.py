"""What a worker may serve: the measure, its jitter, and the reason it is due."""

from __future__ import annotations

import random

import pytest

from fastcluster import retirement
from fastcluster.config import Config
from fastcluster.retirement import Allowance


@pytest.mark.parametrize(
    ("allowance", "requests", "age_s", "rss_bytes", "reason"),
    [
        (Allowance(), 10**9, 10.0**9, 10**15, None),
        (Allowance(requests=10), 9, 0, 0, None),
        (Allowance(requests=10), 10, 0, 0, "has begun 10 requests (--max-requests)"),
        (Allowance(lifetime_s=60), 0, 59.9, 0, None),
        (Allowance(lifetime_s=60), 0, 60, 0, "has served for 60 s (--max-worker-lifetime)"),
        (Allowance(rss_bytes=1 << 20), 0, 5, (1 << 20) - 1, None),
        (Allowance(rss_bytes=1 << 20), 0, 4.9, 3 << 20, None),
        (Allowance(rss_bytes=1 << 20), 0, 5, 3 << 20, "takes 3 MiB of memory (--max-worker-rss)"),
    ],
)
def test_when_it_is_used_up(
    allowance: Allowance, requests: int, age_s: float, rss_bytes: int, reason: str | None
) -> None:
    assert allowance.is_used_up(requests, age_s, rss_bytes) == reason


def test_every_worker_draws_its_own_measure() -> None:
    config = Config(
        max_requests=100,
        max_requests_jitter=10,
        max_worker_lifetime_s=60,
        max_worker_lifetime_jitter_s=6,
        max_worker_rss_bytes=5,
    )
    chance = random.Random(7)
    drawn = [retirement.draw(config, chance) for _ in range(200)]
    assert {allowance.requests for allowance in drawn} == set(range(100, 111))
    assert all(60 <= allowance.lifetime_s <= 66 for allowance in drawn)
    assert len({allowance.lifetime_s for allowance in drawn}) > 100
    assert {allowance.rss_bytes for allowance in drawn} == {5}


def test_jitter_alone_limits_nothing() -> None:
    config = Config(max_requests_jitter=10, max_worker_lifetime_jitter_s=10)
    assert retirement.draw(config, random.Random(7)) == Allowance()
    assert not retirement.is_limited(config)


@pytest.mark.parametrize("name", ["max_requests", "max_worker_lifetime_s", "max_worker_rss_bytes"])
def test_what_limits(name: str) -> None:
    options = {name: 1}
    assert retirement.is_limited(Config(**options))  # type: ignore[arg-type]
