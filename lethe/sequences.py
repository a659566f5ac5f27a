"""Confidence sequences: bounds of a running measurement that hold at all of its looks together.

A training is looked at again and again, each time on the same examples. What is estimated (the
change of the checkpoint of the moment) moves from look to look, and the examples do not: sequences
made for a stream of fresh observations (Howard et al. 2021, Annals of Statistics 49) do not apply.
What does is error spending (Lan and DeMets 1983, Biometrika 70): look t may err with probability
a(t), and Σ a(t) bounds the error of the whole, however many looks there are and whenever one stops.

Looks at the same examples agree with each other, so that a look seldom errs where none before it
did. Given how every cluster moved every look, the limit of look t is the one that the normal
distribution with that correlation exceeds, where no earlier limit was exceeded, with probability
a(t). It is never wider than the limit without this knowledge. Limits depend on the looks so far
alone, and do not move when more are made.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from lethe import stats
from lethe.bounds import Floats, Mask, checked, cluster_codes
from lethe.errors import InputError
from lethe.stats import Interval

PLANNED_SHARE, BEYOND_SHARE = 0.7, 0.1
"""Of the error: evenly over the planned looks, and for all looks beyond. A fifth is not spent: the
far tails of bounds from few flips are not exact (by simulation, in the tests)."""
DRAWS = 20_000
"""Of the joint distribution of the looks."""
FEWEST = 25
"""Draws that must lie beyond a limit for it to be read off them."""


def budget(look: int, planned: int, error: float = 0.05) -> float:
    """The error look number `look` (from 1) may add; the sum over all looks stays below.

    Args:
        planned: looks that are foreseen; there may be any number more.
    """
    if look < 1 or planned < 1:
        raise InputError(f"look {look} of {planned}", todo="count looks from 1")
    if look <= planned:
        return PLANNED_SHARE * error / planned
    beyond = look - planned
    return BEYOND_SHARE * error / (beyond * (beyond + 1))


@dataclass
class Spending:
    """The error that each look's own bound may have, look after look.

    Attributes:
        planned: looks that are foreseen.
        error: probability that any one-sided bound of any look is wrong.
        seed: of the draws.
    """

    planned: int
    error: float = 0.05
    seed: int = 0
    _influences: list[Floats] = field(default_factory=list, init=False, repr=False)
    _normals: list[Floats] = field(default_factory=list, init=False, repr=False)
    _crossed: Mask = field(default_factory=lambda: np.zeros(DRAWS, bool), init=False, repr=False)
    _left: float = field(default=0.0, init=False, repr=False)

    def next(self, influence: ArrayLike) -> float:
        """The error of the next look's one-sided bound, as if it were the only look.

        Args:
            influence: (J,) how far each cluster moves the look's estimate, in any unit. All looks
                have the same clusters; zeros alone say nothing of the correlation.
        """
        moved = checked(influence, "influences")
        if self._influences and moved.shape != self._influences[0].shape:
            raise InputError(
                f"{len(moved)} clusters after {len(self._influences[0])}",
                todo="look at the same examples every time",
            )
        length = float(np.linalg.norm(moved))
        self._influences.append(moved / length if length else moved)
        own = budget(len(self._influences), self.planned, self.error)
        score = self._draw()
        alive = ~self._crossed
        limit = float(-ndtri(own))
        allowed = (self._left + own) * DRAWS
        # Less than two standard errors of the draws are not taken for granted.
        count = int(allowed - 2 * np.sqrt(allowed)) if allowed > FEWEST else 0
        if count >= 1:
            limit = min(limit, float(np.partition(score[alive], -count)[-count]))
        newly = alive & (score >= limit)
        self._left = max(self._left + own - float(newly.mean()), 0.0)
        self._crossed |= newly
        return max(float(ndtr(-limit)), own)

    def _draw(self) -> Floats:
        """Draws (DRAWS,) of the newest look's estimate, given those of the looks before it."""
        rows = np.stack(self._influences)
        number = len(rows)
        self._normals.append(_normals(self.seed, number))
        correlation = rows @ rows.T
        # Looks at which nothing moved, and equal looks, keep the matrix from being definite.
        mix = 1e-6 * np.eye(number) + np.diag((rows == 0).all(axis=1).astype(np.float64))
        newest = np.linalg.cholesky(correlation + mix)[-1]
        newest /= np.linalg.norm(newest)
        drawn = np.zeros(DRAWS)
        for weight, normals in zip(newest, self._normals, strict=True):
            drawn += weight * normals
        return drawn


@lru_cache(maxsize=64)
def _normals(seed: int, number: int) -> Floats:
    """What look `number` adds to the draws: the same whenever it is asked for."""
    return np.random.default_rng((seed, number)).standard_normal(DRAWS)


def mean_sequence(
    x: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    planned: int | None = None,
    level: float = 0.95,
) -> list[Interval]:
    """Bounds of the mean difference at every look.

    With probability `level` no lower bound lies above its true mean, at any look; and so for the
    upper bounds.

    Args:
        x: differences (T, n) of the same n items at T looks.
        clusters: labels (n,), or None.
        planned: looks that were foreseen beforehand; T by default.
    """
    table = np.asarray(x, dtype=np.float64)
    if table.ndim != 2:
        raise InputError(f"differences of shape {table.shape}", todo="give (looks, items)")
    codes = cluster_codes(clusters, table.shape[1])
    spending = Spending(planned or len(table), 1 - level)
    found = []
    for row in table:
        influence = np.bincount(codes, row - row.mean()) if len(row) else np.zeros(0)
        own = spending.next(influence)
        found.append(stats.mean_interval(row, codes, level=1 - 2 * own))
    return found
