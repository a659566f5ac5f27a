"""The numbers rules speak of, as statistics of a ledger: bounds at any level, and influences.

At 95 % every number and its bounds are those of the audit (`lethe.comparison`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from lethe import stats
from lethe.bounds import jackknife
from lethe.errors import InputError
from lethe.forgetting import lacking, usable_balance
from lethe.metrics import Statistic, bounded, means
from lethe.panel import Codes, Floats, Grouping, Pair
from lethe.rules import RANGES, Rule, Target
from lethe.stats import Interval

FLIP_SCORES = {"kept": (1, 1), "lost": (1, 0), "gained": (0, 1), "never": (0, 0)}
"""Scores before and after that make a flip."""


@dataclass(frozen=True)
class Part:
    """One number of a rule: of an axis, a suite, or one group.

    Attributes:
        label: of a group, `GROUPING: GROUP`; else empty.
        suites: whose examples they are.
        statistic: the number as a function of sums over its n examples.
        clusters: their codes (n,), below `count`.
        plain: (n,) the values whose mean it is, where it is a mean and nothing more.
        low, high: the range it can take.
    """

    label: str
    suites: tuple[str, ...]
    statistic: Statistic
    clusters: Codes
    count: int
    plain: Floats | None
    low: float
    high: float

    @property
    def n(self) -> int:
        """Examples that count."""
        return len(self.clusters)

    def interval(self, level: float) -> Interval:
        """The number with two-sided bounds at this level."""
        if self.plain is not None:
            found = stats.mean_interval(self.plain, self.clusters, level=level)
        else:
            table, combine = self._of_means()
            found = stats.function_interval(table, combine, self.clusters, level=level)
        return bounded(found, self.low, self.high)

    def influence(self) -> Floats:
        """How far each cluster moves the number (count,); 0 where it has no example."""
        table, combine = self._of_means()
        side = jackknife(table, combine, self.clusters)
        found = np.zeros(self.count)
        found[side.cluster] = side.influence
        return found

    def _of_means(self) -> tuple[Floats, Callable[[Floats], Floats]]:
        """The same number as a function of means: a column of its own holds how many there are."""
        rows = np.full(self.n, self.n, dtype=np.float64)

        def combine(found: Floats) -> Floats:
            return self.statistic.combine(found[..., :-1] * found[..., -1:])

        return np.column_stack([self.statistic.columns, rows]), combine


def parts_of(rule: Rule, target: Target, pairs: Sequence[Pair]) -> list[Part]:
    """The numbers a rule speaks of: one, or one for each group.

    Args:
        pairs: of the target's suites, in its order.

    Raises:
        InputError: flips are asked of graded scores, or the suite has no groups.
    """
    if rule.subject == "mean":
        every = [np.arange(len(pair.rows)) for pair in pairs]
        balances = [usable_balance(pair) for pair in pairs]
        return [_part(rule, "", pairs, every, balances)]
    (pair,) = pairs
    if rule.subject == "group":
        return _groups(rule, target, pair)
    before, after = FLIP_SCORES[rule.subject]
    if not np.isin([pair.before, pair.after], (0, 1)).all():
        raise InputError(
            f"its scores are graded, so nothing is {rule.subject}",
            where=f"suite {pair.panel.facts.name}",
            todo="write a rule on its change",
        )
    x = ((pair.before == before) & (pair.after == after)).astype(np.float64)
    return [
        Part(
            label="",
            suites=target.suites,
            statistic=means(x[:, None]).then(lambda m: m[..., 0]),
            clusters=pair.clusters,
            count=_clusters(pair),
            plain=x,
            low=0.0,
            high=1.0,
        )
    ]


def _groups(rule: Rule, target: Target, pair: Pair) -> list[Part]:
    """Every group, class-balanced as the suite asks; the classes themselves only if named."""
    chosen = [target.grouping] if target.grouping else list(pair.groupings)
    if target.grouping is None and len(chosen) > 1:
        chosen = [name for name in chosen if name != pair.panel.facts.balance]
    found = []
    for name in chosen:
        grouping = pair.groupings.get(name or "")
        for group in grouping.names if grouping else ():
            rows = np.flatnonzero(grouping.mask(group)) if grouping else np.array([], np.intp)
            if rows.size:
                balance = _balance(pair, name or "", rows)
                found.append(_part(rule, f"{name}: {group}", [pair], [rows], [balance]))
    if not found:
        raise InputError(
            "it has no groups",
            where=f"suite {pair.panel.facts.name}",
            todo="write a rule on the suite itself",
        )
    return found


def _balance(pair: Pair, grouping: str, rows: NDArray[np.intp]) -> Grouping | None:
    balance = pair.balance
    if balance is None or grouping == pair.panel.facts.balance or lacking(pair, rows):
        return None
    return balance.take(rows)


def _part(
    rule: Rule,
    label: str,
    pairs: Sequence[Pair],
    rows: Sequence[NDArray[np.intp]],
    balances: Sequence[Grouping | None],
) -> Part:
    """Unweighted mean over suites of their (class-balanced) means, before and after."""
    blocks = [
        means(np.column_stack([pair.after[at], pair.before[at]]), balance)
        for pair, at, balance in zip(pairs, rows, balances, strict=True)
    ]
    ends = np.cumsum([0, *(block.columns.shape[1] for block in blocks)])

    def sides(sums: Floats) -> Floats:
        each = zip(blocks, pairwise(ends), strict=True)
        return np.asarray(np.mean([b.combine(sums[..., i:j]) for b, (i, j) in each], axis=0))

    def number(found: Floats) -> Floats:
        after, before = found[..., 0], found[..., 1]
        if rule.quantity == "retention":
            return np.asarray(after / before)
        return np.asarray(after if rule.quantity == "level" else after - before)

    clusters, start = [], 0
    for pair, at in zip(pairs, rows, strict=True):
        clusters.append(pair.clusters[at] + start)
        start += _clusters(pair)
    plain = None
    if len(pairs) == 1 and balances[0] is None and rule.quantity != "retention":
        after, before = pairs[0].after[rows[0]], pairs[0].before[rows[0]]
        plain = after if rule.quantity == "level" else after - before
    low, high = RANGES[rule.quantity]
    return Part(
        label=label,
        suites=tuple(pair.panel.facts.name for pair in pairs),
        statistic=Statistic(block_diag(*(block.columns for block in blocks)), sides).then(number),
        clusters=np.concatenate(clusters),
        count=start,
        plain=plain,
        low=low,
        high=high,
    )


def _clusters(pair: Pair) -> int:
    return int(pair.panel.clusters.max()) + 1
