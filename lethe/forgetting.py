"""Forgetting: of a task, of a group and of a single example; retention; the stage × suite matrix.

Everything here is a pure function of ledger rows aligned by example (`lethe.panel`). Forgetting is
score when learned − score now, so positive is forgotten; a change is its negative. Both sides are
the same examples: one that is missing or unscored at either side is left out and counted, never
filled in. Intervals keep clusters of examples together, and speak of examples alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from lethe import stats
from lethe.errors import InputError
from lethe.metrics import Statistic, bounded, means
from lethe.panel import Codes, Floats, Grouping, Pair, Panel
from lethe.stats import Interval

CEILING = 0.98
"""A base at or above this mean score leaves too little room to show a gain."""


@dataclass(frozen=True)
class Quantity:
    """A quantity that can be undefined: its interval, or None with the reason in `note`.

    A defined quantity may carry a note too: what it does not remove or cannot say.
    """

    interval: Interval | None
    note: str = ""


# ---- a task, a group, an example ---------------------------------------------------------------


def forgetting_by_task(pair: Pair) -> Interval:
    """Mean over a suite's examples of score when learned − score now.

    F_A = Acc_A(M_A) − Acc_A(M_AB) (Ung et al. 2024): M_A had learned A, M_AB was then tuned on B.
    Where the suite names a balance, the mean is the unweighted mean over its classes. In units of
    score, −1 … 1.
    """
    return mean_score(pair, pair.forgotten)


def mean_score(pair: Pair, x: Floats) -> Interval:
    """The suite's mean of x (m,), class-balanced where it names a balance, with its interval."""
    balance = usable_balance(pair)
    if balance is None:
        return bounded(stats.mean_interval(x, pair.clusters), -1, 1)
    return bounded(balanced_mean(x, balance).interval(pair.clusters), -1, 1)


def forgetting_p_value(pair: Pair) -> float:
    """Test that a suite's forgetting is zero: exact McNemar, or sign flips of cluster sums.

    A class-balanced mean is tested by its own interval: flipping signs would count the difference
    between the classes, which a shifted criterion makes large, as noise.
    """
    if usable_balance(pair) is not None:
        return forgetting_by_task(pair).p_value
    return stats.paired_test(pair.forgotten, pair.clusters)


def balanced_mean(x: Floats, balance: Grouping | None) -> Statistic:
    """The mean of x (m,), over classes of class means where there is a balance."""
    return means(x[:, None], balance).then(lambda m: m[..., 0])


def lacking(pair: Pair, rows: NDArray[np.intp]) -> list[str]:
    """The classes of the suite's balance with fewer than two clusters among the given rows."""
    balance = pair.balance
    if balance is None:
        return []
    held = np.unique(balance.codes[balance.codes >= 0])
    inside = balance.codes[rows]
    clusters = [pair.clusters[rows[inside == k]] for k in held]
    return [balance.names[k] for k, c in zip(held, clusters, strict=True) if len(np.unique(c)) < 2]


def usable_balance(pair: Pair) -> Grouping | None:
    """The suite's balance, where every class of it has at least two clusters."""
    return None if lacking(pair, np.arange(len(pair.rows))) else pair.balance


@dataclass(frozen=True)
class GroupForgetting:
    """Forgetting of one group between two checkpoints.

    Attributes:
        suite, checkpoint, grouping, group: of what, and at which checkpoint it is counted.
        before, after: mean scores over the same examples, balanced like the forgetting itself.
        forgetting: its interval, with the numbers of examples and clusters.
        p_value: exact McNemar test or sign flips of cluster sums; for class-balanced means, and
            over many checkpoints, that of the interval.
        q_value: adjusted over all groups of all suites by `with_q_values`, else NaN.
        note: why the value is not class-balanced though the suite asks for it.
    """

    suite: str
    checkpoint: str
    grouping: str
    group: str
    before: float
    after: float
    forgetting: Interval
    p_value: float
    q_value: float = float("nan")
    note: str = ""


def forgetting_by_group(pair: Pair) -> list[GroupForgetting]:
    """Mean forgetting of every group of every named grouping.

    F(g) = mean over the group's examples of score when learned − score now. Where the suite names
    a balance, classes count equally within the group as well; a group in which a class has fewer
    than two clusters is given its plain mean, and its note says so.
    """
    found = []
    for name, grouping in pair.groupings.items():
        plain = stats.intervals(pair.forgotten, grouping.codes, pair.clusters)[0]
        # Codes may end before the names do: the last groups can have no scored example.
        for group, cell in zip(grouping.names, plain, strict=False):
            if cell.n:
                forgetting, balanced = _group_forgetting(pair, name, group, cell)
                if not balanced:
                    rows = pair.mask(name, group)
                    test = stats.paired_test(pair.forgotten[rows], pair.clusters[rows])
                    forgetting = replace(forgetting, p_value=test)
                found.append(forgetting)
    return found


def forgetting_over_checkpoints(panel: Panel, learned: str) -> list[GroupForgetting]:
    """`forgetting_by_group` at every other checkpoint, with the intervals' own p-values.

    Args:
        panel: the suite; learned: the checkpoint at which it was learned.
    """
    others = [c for c in panel.checkpoints if c != learned]
    pairs = [panel.pair(learned, c) for c in others]
    x = panel.scores[panel.index(learned)] - panel.scores[[pair.j for pair in pairs]]
    found = []
    for name, grouping in panel.groupings.items():
        plain = stats.intervals(x, grouping.codes, panel.clusters)
        for pair, cells in zip(pairs, plain, strict=True):
            for group, cell in zip(grouping.names, cells, strict=True):
                if cell.n:
                    found.append(_group_forgetting(pair, name, group, cell)[0])
    return found


def _group_forgetting(
    pair: Pair, grouping: str, group: str, plain: Interval
) -> tuple[GroupForgetting, bool]:
    """A group's forgetting, given its plain mean, and whether it was class-balanced instead."""
    rows = np.flatnonzero(pair.mask(grouping, group))
    balance, note = _balance_within(pair, grouping, rows)
    weights = class_weights(balance, len(rows))
    forgotten = pair.forgotten[rows]
    found = plain
    if balance is not None:
        found = balanced_mean(forgotten, balance).interval(pair.clusters[rows])
    found = bounded(found, -1, 1)
    forgetting = GroupForgetting(
        suite=pair.panel.facts.name,
        checkpoint=pair.names[1],
        grouping=grouping,
        group=group,
        before=float(np.average(pair.before[rows], weights=weights)),
        after=float(np.average(pair.after[rows], weights=weights)),
        forgetting=found,
        p_value=found.p_value,
        note=note,
    )
    return forgetting, balance is not None


def _balance_within(
    pair: Pair, grouping: str, rows: NDArray[np.intp]
) -> tuple[Grouping | None, str]:
    """The balance over a group's rows, or None and why, where there is something to balance."""
    if pair.balance is None or grouping == pair.panel.facts.balance:
        return None, ""
    if short := lacking(pair, rows):
        return None, not_balanced(short)
    return pair.balance.take(rows), ""


def not_balanced(short: Sequence[str]) -> str:
    """What is said where these classes have too few clusters."""
    return f"not class-balanced: fewer than 2 clusters of {', '.join(short)}"


def _mean(x: Floats, balance: Grouping | None) -> float:
    return float(np.average(x, weights=class_weights(balance, len(x))))


def class_weights(balance: Grouping | None, n: int) -> Floats:
    """Weights (n,) under which every class counts equally; all 1 without a balance."""
    if balance is None:
        return np.ones(n)
    held, codes, sizes = np.unique(balance.codes, return_inverse=True, return_counts=True)
    classes = len(held) - int(held[0] < 0)
    return np.where(balance.codes < 0, 0.0, n / (classes * sizes[codes]))


def with_q_values(groups: Sequence[GroupForgetting]) -> list[GroupForgetting]:
    """The same groups with p-values adjusted together (Benjamini and Hochberg 1995)."""
    adjusted = stats.benjamini_hochberg([g.p_value for g in groups])
    return [replace(g, q_value=float(q)) for g, q in zip(groups, adjusted, strict=True)]


def forgetting_by_example(pair: Pair) -> pl.DataFrame:
    """One row per example: suite, example, before, after, forgotten, flip.

    `flip` is kept (right → right), lost (right → wrong), gained (wrong → right) or never
    (wrong → wrong), and null where a score is not 0 or 1.
    """
    flip = np.full(len(pair.rows), None, dtype=object)
    for name, before, after in FLIPS:
        flip[(pair.before == before) & (pair.after == after)] = name
    return pl.DataFrame(
        {
            "suite": np.full(len(pair.rows), pair.panel.facts.name),
            "example": pair.panel.examples[pair.rows],
            "before": pair.before,
            "after": pair.after,
            "forgotten": pair.forgotten,
            "flip": pl.Series(flip.tolist(), dtype=pl.String),
        }
    )


FLIPS = (("kept", 1, 1), ("lost", 1, 0), ("gained", 0, 1), ("never", 0, 0))
"""Name of each flip of a 0/1 score, with its score before and after."""


@dataclass(frozen=True)
class Flips:
    """How many examples with 0/1 scores were kept, lost, gained, or never right."""

    kept: int
    lost: int
    gained: int
    never: int


def flips(pair: Pair) -> Flips:
    """Counts of the four flips; scores other than 0 and 1 are in none of them."""
    return Flips(*(int(np.sum((pair.before == b) & (pair.after == a))) for _, b, a in FLIPS))


def chance_corrected_forgetting(pair: Pair) -> Quantity:
    """Share of 1→0 flips beyond those that fresh guessing makes, over 0/1 choice examples.

    F = share(1→0) − (1 − a_pre)/(k − 1) · (1 − a_post), with a the accuracies and k the number of
    options: of the wrong share, (1 − a_pre)/(k − 1) is the share guessed right before. Guesses that
    repeat themselves flip less, so F is a lower bound. It is not clipped at zero.
    """
    if not ((pair.chance > 0).all() and np.isin([pair.before, pair.after], (0, 1)).all()):
        return Quantity(None, "needs 0/1 scores on examples with options")
    guesses = (1 - pair.before) * pair.chance / (1 - pair.chance)
    columns = np.column_stack([pair.before * (1 - pair.after), guesses, 1 - pair.after])
    balance = usable_balance(pair)
    corrected = means(columns, balance).then(lambda m: m[..., 0] - m[..., 1] * m[..., 2])
    return Quantity(corrected.interval(pair.clusters), "a lower bound: assumes fresh guesses")


# ---- retention, and what a suite cannot show ---------------------------------------------------


def retention(pair: Pair, *, chance_corrected: bool = False) -> Quantity:
    """Score after / score before; corrected: (after − chance)/(before − chance).

    Ratios of (class-balanced) means over the same examples; chance is each example's 1/options.
    Undefined where the base is not shown to be above chance: the lower bound of its mean score −
    chance is not above zero.
    """
    if not above_chance(pair, pair.before):
        return Quantity(None, "the base is not above chance")
    chance = pair.chance if chance_corrected else 0.0
    columns = np.column_stack([pair.after - chance, pair.before - chance])
    ratio = means(columns, usable_balance(pair)).then(lambda m: m[..., 0] / m[..., 1])
    return Quantity(ratio.interval(pair.clusters))


def above_chance(pair: Pair, scores: Floats) -> bool:
    """Whether the lower bound of the mean of scores (m,) is above that of chance.

    Intervals are made for differences in [−1, 1]: scores are stretched to that range, or the few
    wrong ones of a good base would count as if they could pull it below zero.
    """
    guessing = _mean(pair.chance, usable_balance(pair))
    return mean_score(pair, 2 * scores - 1).low > 2 * guessing - 1


def warnings(pair: Pair) -> list[str]:
    """What this pair cannot show: a base at chance, a base at the ceiling, a balance it lacks."""
    found = []
    base = _mean(pair.before, usable_balance(pair))
    if not above_chance(pair, pair.before):
        chance = float(pair.chance.mean())
        found.append(f"base at chance: cannot show forgetting ({base:.3f}, chance {chance:.3f})")
    if base >= CEILING:
        found.append(f"base at ceiling: cannot show gains ({base:.3f})")
    if short := lacking(pair, np.arange(len(pair.rows))):
        found.append(not_balanced(short))
    return found


@dataclass(frozen=True)
class ChangedChoices:
    """Choices that differ between two checkpoints, and how many of them lie in the noise.

    Attributes:
        n: examples with a choice at both; changed: those whose choice differs.
        in_noise: changed ones whose choice leads the runner-up by at most `band` nats
            (`values['margin']`) at one side or the other.
    """

    n: int
    changed: int
    in_noise: int
    band: float


def changed_choices(pair: Pair, band: float) -> ChangedChoices:
    """Count the changed choices, and those among them that noise of `band` nats could change."""
    choices = pair.panel.choices[:, pair.rows]
    unknown = np.full(pair.panel.scores.shape, np.nan)
    margins = pair.panel.values.get("margin", unknown)[:, pair.rows]
    chosen = (choices[pair.i] >= 0) & (choices[pair.j] >= 0)
    changed = chosen & (choices[pair.i] != choices[pair.j])
    close = (margins[pair.i] <= band) | (margins[pair.j] <= band)
    return ChangedChoices(int(chosen.sum()), int(changed.sum()), int((changed & close).sum()), band)


# ---- the stage × suite matrix ------------------------------------------------------------------


def score_matrix(panels: Mapping[str, Panel], checkpoints: Sequence[str]) -> Floats:
    """R (T + 1, S): R[i, j] is the (class-balanced) mean score on suite j at position i of a chain.

    Row 0 is the base. A suite without scores at a checkpoint gives NaN.
    """
    matrix = np.full((len(checkpoints), len(panels)), np.nan)
    for j, panel in enumerate(panels.values()):
        balance = panel.groupings.get(panel.facts.balance or "")
        for i, name in enumerate(checkpoints):
            if name not in panel.checkpoints:
                continue
            scores = panel.scores[panel.index(name)]
            rows = np.flatnonzero(np.isfinite(scores))
            if rows.size:
                matrix[i, j] = _mean(scores[rows], balance.take(rows) if balance else None)
    return matrix


def average_accuracy(matrix: ArrayLike) -> float:
    """ACC = (1/S) Σ_j R[T, j]: mean score over all suites after the last stage.

    Lopez-Paz & Ranzato (2017), equation 2. NaN where a cell it needs is missing, as for all here.
    """
    return float(_matrix(matrix)[-1].mean())


def backward_transfer(matrix: ArrayLike, learned: Sequence[int] | None = None) -> float:
    """BWT = mean over suites learned before the last stage of R[T, j] − R[learned_j, j].

    Lopez-Paz & Ranzato (2017), equation 3. Negative is forgetting.

    Args:
        matrix: R (T + 1, S), row 0 the base.
        learned: position (0 … T) at which each suite was learned; by default suite j at stage
            j + 1. 0: the base knew it.
    """
    r = _matrix(matrix)
    at = _learned(r, learned)
    earlier = np.flatnonzero(at < len(r) - 1)
    return _average(r[-1, earlier] - r[at[earlier], earlier])


def forward_transfer(matrix: ArrayLike, learned: Sequence[int] | None = None) -> float:
    """FWT = mean over suites learned after stage 1 of R[learned_j − 1, j] − R[0, j].

    Lopez-Paz & Ranzato (2017), equation 4, with the base in the place of the model at random
    initialisation: what the stages before a suite's own did for it.
    """
    r = _matrix(matrix)
    at = _learned(r, learned)
    later = np.flatnonzero(at > 1)
    return _average(r[at[later] - 1, later] - r[0, later])


def forgetting_from_learned(matrix: ArrayLike, learned: Sequence[int] | None = None) -> Floats:
    """R[learned_j, j] − R[T, j] for each suite (S,); NaN for a suite learned at the last stage.

    Its mean is −BWT (Lopez-Paz & Ranzato 2017).
    """
    r = _matrix(matrix)
    at = _learned(r, learned)
    lost = r[at, np.arange(r.shape[1])] - r[-1]
    return np.where(at < len(r) - 1, lost, np.nan)


def forgetting_from_best(matrix: ArrayLike, learned: Sequence[int] | None = None) -> Floats:
    """max over positions l < T of R[l, j] − R[T, j] for each suite (S,).

    Chaudhry et al. (2018), equation 3: the best the chain ever had against what it has now; the
    last row is not among the best, so that a gain is negative. Position 0 counts, since a base is
    already trained. Missing positions cannot be the best. NaN for a suite learned at the last
    stage.
    """
    r = _matrix(matrix)
    at = _learned(r, learned)
    best = np.where(np.isnan(r[:-1]), -np.inf, r[:-1]).max(axis=0)
    return np.where((at < len(r) - 1) & np.isfinite(best), best - r[-1], np.nan)


def _matrix(matrix: ArrayLike) -> Floats:
    r = np.asarray(matrix, dtype=float)
    if r.ndim != 2 or r.shape[0] < 2 or r.shape[1] < 1:
        raise InputError(
            f"a score matrix of shape {r.shape}",
            todo="give positions × suites, with the base and at least one stage",
        )
    return r


def _learned(r: Floats, learned: Sequence[int] | None) -> Codes:
    at = np.arange(1, r.shape[1] + 1) if learned is None else np.asarray(learned, dtype=np.int64)
    if at.shape != (r.shape[1],) or (at < 0).any() or (at >= len(r)).any():
        raise InputError(
            f"suites learned at positions {at.tolist()} of a matrix of shape {r.shape}",
            todo=f"give each suite a position from 0 to {len(r) - 1}",
        )
    return at


def _average(terms: Floats) -> float:
    return float(terms.mean()) if terms.size else float("nan")
