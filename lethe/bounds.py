"""Bounds of weighted means of paired differences, from clusters of examples.

One engine for every interval on forgetting. For each cell (a group at a checkpoint, one side of a
contrast) it takes the cell's cluster totals, and bounds the cell's mean by what its items are:

- flips, differences of −1, 0 and 1: the score interval of Tango (1998), at the effective sample
  size n / design effect where items share clusters; graded changes that are mostly 0 count as
  fractions of flips;
- other differences: Student's t;
- nothing flipped: the Clopper–Pearson bound of "no cluster out of J", the rule of three.

Means of few, one-sided events are skewed, and the variance is least certain where it matters most.
So each bound has its own Student quantile, with as many degrees of freedom as there are clusters
that carry the tail on its side. The constants were set by simulation (`benchmarks/coverage.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, stdtr, stdtrit

from lethe.errors import InputError

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]
Mask = NDArray[np.bool_]

TAIL = 0.25
"""Degrees of freedom for each cluster that carries a tail."""
LEAST_DESIGN_EFFECT = 0.5
"""Clusters of two and more do not make items worth more than two independent ones."""
SAME = 1e-9
"""Relative spread under which all differences count as equal."""


def checked(x: ArrayLike, what: str = "differences") -> Floats:
    """A vector of finite floats, or an InputError that says what is wrong with it."""
    array = np.asarray(x, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(f"{what} of shape {array.shape}", todo="give one number per item")
    if not np.isfinite(array).all():
        raise InputError(
            f"{what} with {int((~np.isfinite(array)).sum())} NaN or infinite values",
            todo="leave out unscored items first",
        )
    return array


def cluster_codes(clusters: ArrayLike | None, n: int) -> Codes:
    """Codes 0 … J − 1 of cluster labels (n,); None makes every item its own cluster."""
    if clusters is None:
        return np.arange(n)
    labels = np.asarray(clusters)
    if labels.shape != (n,):
        raise InputError(f"cluster labels of shape {labels.shape}", todo=f"give {n}, one per item")
    return np.unique(labels, return_inverse=True)[1]


@dataclass(frozen=True, slots=True)
class Layout:
    """Which cell and which cluster every item belongs to, by the (cell, cluster) pairs that occur.

    Attributes:
        cell (n,), cells: each item's cell, and how many there are.
        pair (n,): each item's pair; pair_cell, pair_cluster (P,): of what it consists.
    """

    cell: Codes
    cells: int
    pair: Codes
    pair_cell: Codes
    pair_cluster: Codes

    @staticmethod
    def of(cell: Codes, cells: int, clusters: Codes) -> "Layout":
        """The layout of items with these cell and cluster codes, each (n,)."""
        count = int(clusters.max(initial=-1)) + 1
        keys, pair = np.unique(cell * count + clusters, return_inverse=True)
        return Layout(cell, cells, pair, keys // max(count, 1), keys % max(count, 1))

    def by_cell(self, values: Floats | Mask) -> Floats:
        """Sums of item values (n,) in each cell (cells,)."""
        return np.asarray(np.bincount(self.cell, values, self.cells), dtype=np.float64)

    def by_pair(self, values: Floats | Mask) -> Floats:
        """Sums of item values (n,) in each pair (P,)."""
        return np.asarray(np.bincount(self.pair, values, len(self.pair_cell)), dtype=np.float64)

    def pairs_by_cell(self, values: Floats | Mask) -> Floats:
        """Sums of pair values (P,) in each cell (cells,)."""
        return np.asarray(np.bincount(self.pair_cell, values, self.cells), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Means:
    """Weighted means of cells, and what bounds them. Every array has one entry per cell.

    Attributes:
        n, clusters: items and clusters with weight.
        estimate: the weighted mean; variance: of it, between clusters, each residual freed of its
            own leverage (HC2).
        flips: whether differences count as flips; same: whether all are equal.
        lost, gained: weighted shares of flips up and down.
        lost_in, gained_in: shares of the cell in clusters with a lost, with a gained item.
        size: independent items worth as much, for flips; even: equal clusters worth as much,
            1 / Σh² over shares h of the clusters.
        df_low, df_high: degrees of freedom of either bound.
    """

    n: Codes
    clusters: Codes
    estimate: Floats
    variance: Floats
    flips: Mask
    same: Mask
    lost: Floats
    gained: Floats
    lost_in: Floats
    gained_in: Floats
    size: Floats
    even: Floats
    df_low: Floats
    df_high: Floats

    @property
    def methods(self) -> list[str]:
        """Name of the method used for each cell."""
        tango = np.where(self.n == self.clusters, "tango", "tango-clustered")
        names = np.where(self.flips, tango, "t")
        names = np.where(self.still, "rule-of-three", names)
        return [str(m) for m in np.where(self.clusters < 2, "none", names)]

    @property
    def still(self) -> Mask:
        """Whether nothing was seen to vary, so that only the number of clusters is informative."""
        return np.asarray(self.same & (~self.flips | (self.estimate == 0)))

    def bounds(self, alpha: ArrayLike) -> tuple[Floats, Floats]:
        """Two-sided 1 − alpha bounds; alpha broadcasts against the cells."""
        a = np.asarray(alpha, dtype=np.float64)
        reach = np.maximum(1.0, np.abs(self.estimate)) * (1 - (a / 2) ** (1 / self.even))
        nothing, widest = np.asarray(np.nan), np.where(self.flips, 1.0, np.inf)
        cases = [self.n == 0, self.clusters < 2, self.flips, self.same]
        with np.errstate(invalid="ignore"):
            flips, other = self._score_bounds(a), self._student_bounds(a)
            low = [nothing, -widest, flips[0], self.estimate - reach]
            high = [nothing, widest, flips[1], self.estimate + reach]
        return np.select(cases, low, other[0]), np.select(cases, high, other[1])

    def p_values(self) -> Floats:
        """Two-sided p-values of a zero mean: below alpha exactly where the bounds exclude 0."""
        nothing, one = np.asarray(np.nan), np.asarray(1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            student = self.estimate / np.sqrt(self.variance)
            score = self.estimate * np.sqrt(self.size / (self.lost + self.gained))
            df = np.where(self.estimate > 0, self.df_low, self.df_high)
            p = 2 * stdtr(df, -np.abs(np.where(self.flips, score, student)))
            inside = 1 - np.minimum(np.abs(self.estimate), 1)
            still = np.minimum(1, 2 * inside**self.even)
        return np.select([self.n == 0, self.clusters < 2, self.still], [nothing, one, still], p)

    def _score_bounds(self, alpha: Floats) -> tuple[Floats, Floats]:
        """Tango's bounds at the effective size, within what the flipped clusters allow."""
        low = -score_bound(self.gained, self.lost, self.size, stdtrit(self.df_low, 1 - alpha / 2))
        high = score_bound(self.lost, self.gained, self.size, stdtrit(self.df_high, 1 - alpha / 2))
        most_lost = np.maximum(_share_bound(self.lost_in, self.even, alpha), self.estimate)
        most_gained = np.maximum(_share_bound(self.gained_in, self.even, alpha), -self.estimate)
        return np.maximum(low, -most_gained), np.minimum(high, most_lost)

    def _student_bounds(self, alpha: Floats) -> tuple[Floats, Floats]:
        error = np.sqrt(self.variance)
        low = self.estimate - stdtrit(self.df_low, 1 - alpha / 2) * error
        return low, self.estimate + stdtrit(self.df_high, 1 - alpha / 2) * error


def summarise(
    layout: Layout, x: Floats, weights: Floats, centre: Floats | None = None
) -> tuple[Means, Floats]:
    """Weighted means of x (n,) in every cell, and the influence (P,) of every pair on its cell's.

    Args:
        layout: cells and clusters of the items.
        x: differences (n,), anything finite where the weight is 0.
        weights: (n,) at least 0; they count relative to the cell's sum.
        centre: (n,) what x is expected to be; by default its cell's weighted mean.
    """
    total = layout.by_cell(weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        w = weights / total[layout.cell]
        estimate = layout.by_cell(weights * x) / total
        residual = x - (estimate[layout.cell] if centre is None else centre)
        share = layout.by_pair(w)
        influence = np.where(share < 1, layout.by_pair(w * residual) / np.sqrt(1 - share), 0.0)
        kish = total**2 / layout.by_cell(weights**2)
        even = np.where(total > 0, 1 / layout.pairs_by_cell(share**2), np.nan)
        spread = layout.by_cell(w * (x - estimate[layout.cell]) ** 2)
        same = spread <= SAME**2 * layout.by_cell(w * x**2)
        least = LEAST_DESIGN_EFFECT * layout.by_cell(w * residual**2) / (kish - 1)
        variance = np.where(same, 0, np.maximum(layout.pairs_by_cell(influence**2), least))
        effect = np.where(same, kish / even, variance * (kish - 1) / spread)
        lost, gained = (layout.by_cell(w * np.maximum(side, 0)) for side in (x, -x))
        size = (lost + gained - estimate**2) * kish / (kish - 1) / variance
        flips = _are_flips(layout, x, w)
        # 1 where all changes are of one size.
        alike = (lost + gained) ** 2 / layout.by_cell(w * x**2) / layout.by_cell(w * (x != 0))
        df_low, df_high = (
            np.where(flips, df / _uncertain(effect / alike, kish / even, df), df)
            for df in _tail_df(layout, influence)
        )
        allowed = _allowed_df(layout, share)
    lost_in, gained_in = (
        layout.pairs_by_cell(share * (layout.by_pair((weights > 0) & (side > 0)) > 0))
        for side in (x, -x)
    )
    return Means(
        n=layout.by_cell(weights > 0).astype(np.intp),
        clusters=layout.pairs_by_cell(share > 0).astype(np.intp),
        estimate=estimate,
        variance=variance,
        flips=flips,
        same=same,
        lost=lost,
        gained=gained,
        lost_in=lost_in,
        gained_in=gained_in,
        size=np.where(same, even, size),
        even=even,
        df_low=np.maximum(np.where(same, allowed, np.fmin(df_low, allowed)), 1.0),
        df_high=np.maximum(np.where(same, allowed, np.fmin(df_high, allowed)), 1.0),
    ), influence


def _are_flips(layout: Layout, x: Floats, w: Floats) -> Mask:
    """Whether a cell's differences are −1, 0 and 1, or fractions of it and mostly 0.

    A change by less than 1 counts as that fraction of a flip.
    """
    size = np.abs(x) * (w > 0)
    whole = layout.by_cell((size != 0) & (size != 1)) == 0
    sparse = (layout.by_cell(size > 1) == 0) & (layout.by_cell(w * (size == 0)) >= 0.5)
    return np.asarray(whole | sparse)


def _tail_df(layout: Layout, influence: Floats) -> list[Floats]:
    """Degrees of freedom that the lower and the upper tail carry.

    By Σu³ over influences on one side and Σu² over all: k equal events among many quiet clusters
    give k·TAIL, J normal clusters 1.6·J·TAIL.
    """
    between = layout.pairs_by_cell(influence**2)
    tails = (layout.pairs_by_cell(np.maximum(u, 0) ** 3) for u in (-influence, influence))
    with np.errstate(divide="ignore", invalid="ignore"):
        return [np.where(between > 0, TAIL * between**3 / tail**2, 0.0) for tail in tails]


def _allowed_df(layout: Layout, share: Floats) -> Floats:
    """Degrees of freedom that shares of clusters allow.

    A cluster's variance goes with its size where its items are independent, with the square of
    its size where they agree. The power between is right enough for either.
    """
    return layout.pairs_by_cell(share**1.5) ** 2 / layout.pairs_by_cell(share**3) - 1


def _uncertain(effect: Floats, most: Floats, df: Floats) -> Floats:
    """Share of a score interval's variance that is estimated, not given by the count of flips.

    It is what clusters, and changes of unequal size, add. The fewer clusters carry a tail, the
    less is known of `effect`: the more it is taken for `most`, the largest that clusters make it.
    """
    seen = np.maximum(1 - 1 / effect, 0)
    return np.asarray(seen + np.maximum(1 - 1 / most - seen, 0) / np.maximum(df, 1))


@dataclass(frozen=True, slots=True)
class Side:
    """One cell, what it counts for, and its influences (P,) with the clusters they come from."""

    scale: float
    means: Means
    influence: Floats
    cluster: Codes


def jackknife(table: Floats, combine: Callable[[Floats], ArrayLike], clusters: Codes) -> Side:
    """A smooth function of the means of features (n, p), by leaving out each cluster in turn.

    Where the function is not finite, the side is empty; where it is not without some cluster, that
    cluster is all there is to a part of it. Where no cluster moves it, the rule of three counts
    the clusters of the rarest feature.
    """
    held, cluster = np.unique(clusters, return_inverse=True)
    sums = np.stack([np.bincount(cluster, column, len(held)) for column in table.T], axis=1)
    share = np.bincount(cluster) / max(len(table), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = np.asarray(combine(table.mean(axis=0)), dtype=np.float64).reshape(1)
        others = (table.sum(axis=0) - sums) / (len(table) * (1 - share))[:, None]
        influence = (estimate - np.asarray(combine(others))) * np.sqrt(1 - share)
    known = bool(np.isfinite(influence).all())
    influence = influence if known else np.zeros(len(held))
    layout = Layout.of(np.zeros(len(held), dtype=np.intp), 1, np.arange(len(held)))
    variance = layout.pairs_by_cell(influence**2)
    same = variance <= SAME**2 * np.maximum(1.0, estimate**2)
    present = np.count_nonzero(sums, axis=0)
    fewest = float(present[present > 0].min(initial=len(held)))
    even, nothing = 1 / layout.pairs_by_cell(share**2), np.zeros(1)
    df_low, df_high = (
        np.maximum(np.minimum(df, even - 1), 1.0) for df in _tail_df(layout, influence)
    )
    means = Means(
        n=np.array([len(table) if np.isfinite(estimate).all() else 0]),
        clusters=np.array([len(held) if known else 1]),
        estimate=estimate,
        variance=variance,
        flips=np.array([False]),
        same=same,
        lost=nothing,
        gained=nothing,
        lost_in=nothing,
        gained_in=nothing,
        size=even,
        even=np.where(same, fewest, even),
        df_low=df_low,
        df_high=df_high,
    )
    return Side(1.0, means, influence, held)


LOG_ALPHA = np.linspace(np.log(1e-12), 0.0, 200)


def mover(sides: Sequence[Side], alpha: float) -> tuple[float, float, float]:
    """Low, high and p-value of the scaled sum of sides.

    By the method of variance estimates recovery (Zou and Donner 2008, Statistics in Medicine 27),
    with the correlations that come from shared clusters, and common degrees of freedom.
    """
    covariance = _covariance(sides)
    errors = np.sqrt(np.maximum(np.diag(covariance), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.nan_to_num(covariance / np.outer(errors, errors))
    np.fill_diagonal(correlation, 1.0)
    means = _welch(sides, errors**2)
    found = [m.bounds(np.append(np.exp(LOG_ALPHA), alpha)) for m in means]
    below, above = (
        np.stack(
            [s.scale * np.abs(f[k] - s.means.estimate) for s, f in zip(sides, found, strict=True)]
        )
        for k in (0, 1)
    )
    estimate = sum(float(s.scale * s.means.estimate[0]) for s in sides)
    low, high = estimate - _reach(below, correlation), estimate + _reach(above, correlation)
    p = _inverted(low[:-1], high[:-1])
    within = low[-1] <= 0 <= high[-1]
    p = max(p, alpha) if within else min(p, float(np.nextafter(alpha, 0)))
    return float(low[-1]), float(high[-1]), p


def _covariance(sides: Sequence[Side]) -> Floats:
    """Covariances (k, k) of the scaled sides, from the clusters they share."""
    clusters = np.unique(np.concatenate([side.cluster for side in sides]))
    own = np.zeros((len(sides), len(clusters)))
    for row, side in zip(own, sides, strict=True):
        row[np.searchsorted(clusters, side.cluster)] = side.scale * side.influence
    return np.asarray(own @ own.T)


def _welch(sides: Sequence[Side], parts: Floats) -> list[Means]:
    """The cells of all sides with the degrees of freedom of their sum, for variances `parts`.

    Between Welch's, Σ² / Σ part² / df, and the mean that only weighs by part: with few clusters
    the parts are themselves uncertain, and Welch's are too many.
    """
    means = [side.means for side in sides]
    if not parts.sum() > 0:
        return means
    clusters = len(np.unique(np.concatenate([side.cluster for side in sides])))
    low, high = (
        np.array([min(parts.sum() ** 1.5 / np.sum(parts**1.5 / np.concatenate(df)), clusters - 1)])
        for df in ([m.df_low for m in means], [m.df_high for m in means])
    )
    return [replace(m, df_low=low, df_high=high) for m in means]


def _reach(reaches: Floats, correlation: Floats) -> Floats:
    """How far a sum may lie from its estimate, for parts (k, a) that may lie so far from theirs."""
    known = np.isfinite(reaches).all(axis=0)
    r = np.where(known, reaches, 0.0)
    squares = np.einsum("ia,ij,ja->a", r, correlation, r)
    return np.sqrt(np.where(known, np.maximum(squares, 0), np.inf))


def _inverted(low: Floats, high: Floats) -> float:
    """The alpha at which zero comes to lie on a bound, between bounds at exp(LOG_ALPHA)."""
    inside = int(np.sum((low <= 0) & (high >= 0)))
    if inside in (0, len(LOG_ALPHA)):
        return float(np.exp(LOG_ALPHA[0 if inside == 0 else -1]))
    around = slice(inside - 1, inside + 1)
    crossing = (low if low[inside] > 0 else -high)[around]
    return float(np.exp(np.interp(0.0, crossing, LOG_ALPHA[around])))


def score_bound(lost: Floats, gained: Floats, size: Floats, quantile: Floats) -> Floats:
    """Upper bound of Tango's score interval for lost − gained shares of paired flips.

    Tango (1998), Statistics in Medicine 17, equations 15–17: the largest d for which
    (lost − gained − d)² ≤ quantile² (2q + d(1 − d)) / size, with q the gained share most likely
    under d. By bisection; all arguments broadcast.
    """
    estimate = lost - gained
    low, high = np.broadcast_arrays(estimate, estimate * 0 + quantile * 0 + 1)
    low, high = low.copy(), high.copy()
    for _ in range(32):
        d = (low + high) / 2
        slope = lost + gained - (2 - estimate) * d
        q = (slope + np.sqrt(np.maximum(slope**2 + 8 * gained * d * (1 - d), 0))) / 4
        inside = (estimate - d) ** 2 * size <= quantile**2 * (2 * q + d * (1 - d))
        low, high = np.where(inside, d, low), np.where(inside, high, d)
    return np.asarray((low + high) / 2)


def _share_bound(share: Floats, size: Floats, alpha: Floats) -> Floats:
    """Upper Clopper–Pearson bound for a share of `size` (not necessarily whole) clusters."""
    failures = np.maximum(size * (1 - share), 0)
    inside = failures > SAME * size
    bound = betaincinv(size * share + 1, np.where(inside, failures, 1.0), 1 - alpha / 2)
    return np.where(inside, bound, 1.0)
