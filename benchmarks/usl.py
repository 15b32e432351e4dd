"""The Universal Scalability Law, fitted to throughput by cores, and Jain's fairness.

    X(N) = λ N / (1 + σ (N − 1) + κ N (N − 1))

λ is what one core does, σ the contention (what is done by one at a time), κ the coherence (what
everyone has to settle with everyone). σ and κ are never negative, as the law has them: where
noise asks for that, the parameter is 0. It is arithmetic on numbers alone and knows no servers.
(N. Gunther, Guerrilla Capacity Planning, 2007; R. Jain and others, DEC-TR-301, 1984)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, product
from math import sqrt

# Three parameters go through any three points: from the fourth on, a fit says something.
POINTS_NEEDED = 4
RESAMPLES = 1000
# So that the same file gives the same intervals.
SEED = 4711
GAUSS_NEWTON_STEPS = 50

# The cores that the server had, and the answers per second.
Point = tuple[float, float]
Interval = tuple[float, float]


class TooFewPoints(Exception):
    """There are fewer different numbers of cores than a fit needs; the text says how many."""


@dataclass(frozen=True, slots=True)
class Law:
    """One fitted curve; `lambda_` in answers per second and core, σ and κ without a unit."""

    lambda_: float
    sigma: float
    kappa: float

    def throughput(self, cores: float) -> float:
        """Return X(N) in answers per second."""
        cost = 1 + self.sigma * (cores - 1) + self.kappa * cores * (cores - 1)
        return self.lambda_ * cores / cost

    def peak_cores(self) -> float | None:
        """Return the N past which more cores do less, or None where there is no such N."""
        if self.kappa <= 0 or self.sigma >= 1:
            return None
        return sqrt((1 - self.sigma) / self.kappa)


@dataclass(frozen=True, slots=True)
class Fit:
    """A law, the 95 % intervals of its parameters, and how much of the variance it explains."""

    law: Law
    lambda_interval: Interval
    sigma_interval: Interval
    kappa_interval: Interval
    r_squared: float


def fit(points: Sequence[Point]) -> Law:
    """Return the law with the least sum of squared differences in throughput.

    Raises TooFewPoints.
    """
    n_cores = len({round(cores, 6) for cores, _ in points})
    if n_cores < POINTS_NEEDED:
        raise TooFewPoints(f"{n_cores} of the {POINTS_NEEDED} different core counts a fit needs")
    # Each of σ and κ is free or 0: the best of the four that no sign forbids.
    candidates = [
        law
        for free in product((True, False), repeat=2)
        if (law := _refined(points, free)) is not None
    ]
    return min(candidates, key=lambda law: _squares(law, points))


def fit_rounds(rounds: Sequence[Mapping[int, Point]], resamples: int = RESAMPLES) -> Fit:
    """Fit the mean of the rounds, with intervals by a bootstrap over whole rounds.

    A round has a point for each number of workers. Rounds rather than points are drawn, since
    what the machine did at a time fell on all points of a round. Raises TooFewPoints.
    """
    points = means(rounds)
    law = fit(points)
    draw = random.Random(SEED)
    drawn: list[Law] = []
    for _ in range(resamples if len(rounds) > 1 else 0):
        try:
            drawn.append(fit(means(draw.choices(rounds, k=len(rounds)))))
        except TooFewPoints:  # the rounds drawn all lack a point
            continue
    laws = drawn or [law]
    return Fit(
        law,
        interval([one.lambda_ for one in laws]),
        interval([one.sigma for one in laws]),
        interval([one.kappa for one in laws]),
        _r_squared(law, points),
    )


def means(rounds: Sequence[Mapping[int, Point]]) -> list[Point]:
    """Return the mean point of each number of workers, over the rounds that have it."""
    by_workers: dict[int, list[Point]] = {}
    for one in rounds:
        for workers, point in one.items():
            by_workers.setdefault(workers, []).append(point)
    return [
        (
            sum(cores for cores, _ in found) / len(found),
            sum(per_s for _, per_s in found) / len(found),
        )
        for _, found in sorted(by_workers.items())
    ]


def interval(values: Sequence[float]) -> Interval:
    """Return the 2.5th and the 97.5th percentile."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[round(0.025 * last)], ordered[round(0.975 * last)]


def bootstrap(values: Sequence[float], figure: Callable[[Sequence[float]], float]) -> Interval:
    """Return the 95 % interval of a figure of these values, which are drawn with replacement."""
    draw = random.Random(SEED)
    return interval([figure(draw.choices(values, k=len(values))) for _ in range(RESAMPLES)])


def fairness(shares: Sequence[float]) -> float:
    """Return Jain's index: 1 where all have the same, 1/n where one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def _refined(points: Sequence[Point], free: Sequence[bool]) -> Law | None:
    """Fit with σ and κ free or 0: linearised, then by Gauss and Newton's steps."""
    law = _linearised(points, free)
    if law is None or law.sigma < 0 or law.kappa < 0:
        return None
    for _ in range(GAUSS_NEWTON_STEPS):
        better = _step(law, points, free)
        if better is None or _squares(better, points) >= _squares(law, points) * (1 - 1e-12):
            break
        law = better
    return law


def _linearised(points: Sequence[Point], free: Sequence[bool]) -> Law | None:
    # N / X is linear in 1/λ, σ/λ and κ/λ. A difference in X counts there as X²/N of one in
    # N / X, which is the weight that makes the two sums of squares the same nearby.
    rows = []
    for cores, per_s in points:
        weight = per_s * per_s / cores
        columns = [1.0, *compress((cores - 1, cores * (cores - 1)), free)]
        rows.append(([weight * column for column in columns], weight * cores / per_s))
    solved = _least_squares(rows)
    if solved is None or solved[0] <= 0:
        return None
    rest = iter(solved[1:])
    sigma, kappa = (next(rest) if is_free else 0.0 for is_free in free)
    return Law(1 / solved[0], sigma / solved[0], kappa / solved[0])


def _step(law: Law, points: Sequence[Point], free: Sequence[bool]) -> Law | None:
    """Return where one Gauss–Newton step leads, or None where the law does not allow it."""
    rows = []
    for cores, per_s in points:
        expected = law.throughput(cores)
        # dX/dλ = X/λ; dX/dσ = −X² (N − 1) / (λ N), and so for κ with N (N − 1).
        slope = -expected * expected / (law.lambda_ * cores)
        columns = compress((slope * (cores - 1), slope * cores * (cores - 1)), free)
        rows.append(([expected / law.lambda_, *columns], per_s - expected))
    solved = _least_squares(rows)
    if solved is None:
        return None
    rest = iter(solved[1:])
    sigma, kappa = (next(rest) if is_free else 0.0 for is_free in free)
    moved = Law(law.lambda_ + solved[0], law.sigma + sigma, law.kappa + kappa)
    return moved if moved.lambda_ > 0 and moved.sigma >= 0 and moved.kappa >= 0 else None


def _squares(law: Law, points: Sequence[Point]) -> float:
    return sum((per_s - law.throughput(cores)) ** 2 for cores, per_s in points)


def _r_squared(law: Law, points: Sequence[Point]) -> float:
    middle = sum(per_s for _, per_s in points) / len(points)
    variance = sum((per_s - middle) ** 2 for _, per_s in points)
    return 1 - _squares(law, points) / variance if variance else 1.0


def _least_squares(rows: Sequence[tuple[list[float], float]]) -> list[float] | None:
    """Solve rows of (columns, right side) by the normal equations; None if they are singular.

    Columns are brought to the same length first, since λ is a million and κ a millionth.
    """
    n = len(rows[0][0])
    lengths = [sqrt(sum(columns[i] ** 2 for columns, _ in rows)) for i in range(n)]
    if not all(lengths):
        return None
    scaled = [([c / ln for c, ln in zip(columns, lengths, strict=True)], y) for columns, y in rows]
    matrix = [
        [sum(columns[i] * columns[j] for columns, _ in scaled) for j in range(n)]
        + [sum(columns[i] * y for columns, y in scaled)]
        for i in range(n)
    ]
    solved = _eliminated(matrix)
    return None if solved is None else [x / ln for x, ln in zip(solved, lengths, strict=True)]


def _eliminated(matrix: list[list[float]]) -> list[float] | None:
    """Solve by Gauss's elimination with the largest pivot; the last column is the right side."""
    n = len(matrix)
    for column in range(n):
        pivot = max(range(column, n), key=lambda row: abs(matrix[row][column]))
        if abs(matrix[pivot][column]) < 1e-13:
            return None
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        for row in range(n):
            if row != column:
                factor = matrix[row][column] / matrix[column][column]
                matrix[row] = [
                    a - factor * b for a, b in zip(matrix[row], matrix[column], strict=True)
                ]
    return [matrix[row][n] / matrix[row][row] for row in range(n)]
