"""When a worker has served long enough: by requests, by age, by memory.

Every worker draws its own measure when it is forked, so that workers which started
together do not leave together.  This file decides that one is due and says why; that its
successor comes up first is the primary's affair.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from fastcluster.config import Config

# How often is looked.
LOOK_EVERY_S = 0.5
# What an application takes from the start is no growth: a limit below it would only
# replace workers without end, so memory counts from this age on.
RSS_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one worker may serve; 0: as much as it likes."""

    requests: int = 0
    lifetime_s: float = 0.0
    rss_bytes: int = 0

    def is_used_up(self, requests: int, age_s: float, rss_bytes: int) -> str | None:
        """Return why the worker is due, None while it is not."""
        if self.requests and requests >= self.requests:
            return f"has begun {requests} requests (--max-requests)"
        if self.lifetime_s and age_s >= self.lifetime_s:
            return f"has served for {age_s:.0f} s (--max-worker-lifetime)"
        if self.rss_bytes and rss_bytes >= self.rss_bytes and age_s >= RSS_AFTER_S:
            return f"takes {rss_bytes >> 20} MiB of memory (--max-worker-rss)"
        return None


def draw(config: Config, chance: random.Random) -> Allowance:
    """Return what a new worker may serve: the configured measure and a part of the jitter."""
    return Allowance(
        requests=config.max_requests and config.max_requests + _part(config, chance),
        lifetime_s=config.max_worker_lifetime_s
        and config.max_worker_lifetime_s + chance.uniform(0, config.max_worker_lifetime_jitter_s),
        rss_bytes=config.max_worker_rss_bytes,
    )


def _part(config: Config, chance: random.Random) -> int:
    return chance.randint(0, config.max_requests_jitter)


def is_limited(config: Config) -> bool:
    """Tell whether workers are to be looked at at all."""
    return bool(config.max_requests or config.max_worker_lifetime_s or config.max_worker_rss_bytes)
