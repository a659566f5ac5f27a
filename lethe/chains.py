"""The rows of a study's chains, aligned, and quantities over their trainings.

Scores are chance-corrected, (score − c)/(1 − c) with c = 1/options, unless `raw` is said, so that
tasks with two options and with four have one scale.

Every quantity has up to two intervals. `items` holds the trainings fixed and speaks of other
examples, by cluster, of scores averaged over seeds. `trainings` speaks of other seeds or, where the
study has several, of other worlds: Student's t over them, which needs two and is wide with three.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats as distributions

from lethe import stats
from lethe.errors import InputError
from lethe.forgetting import class_weights, usable_balance
from lethe.metrics import bounded
from lethe.panel import Floats, Pair, Panel, SuiteFacts
from lethe.stats import Interval

Unit = tuple[str | None, int | None]
"""A world and a seed."""
Place = tuple[str, int]
"""A chain and a position in it."""


@dataclass(frozen=True)
class Link:
    """A stage of a chain, as results name it.

    Attributes:
        stage, label: its name, and that of its arm.
        task: the suite of the study that measures what it teaches; None where there is none.
        rows, updates: examples it is taught, optimiser steps it takes, as planned.
    """

    stage: str
    label: str
    task: str | None
    rows: int
    updates: int


@dataclass(frozen=True)
class Effect:
    """A quantity over the trainings of a study.

    Attributes:
        estimate: over all examples and trainings.
        items: over other examples; trainings: over other `of` (seeds or worlds), None with one.
        values: (world, seed) → the quantity of that training alone.
    """

    estimate: float
    items: Interval
    trainings: Interval | None
    of: Literal["seeds", "worlds"]
    values: Mapping[Unit, float]


@dataclass(frozen=True)
class Chains:
    """The rows of a study's chains, aligned: one panel a suite over all chains, seeds and worlds.

    Attributes:
        links: chain → its stages.
        panels: suite → its rows; examples of different worlds are different examples.
        places: chain and position → world and seed → name of the checkpoint.
    """

    links: Mapping[str, tuple[Link, ...]]
    panels: Mapping[str, Panel]
    places: Mapping[Place, Mapping[Unit, str]]

    @classmethod
    def from_rows(
        cls,
        rows: pl.DataFrame,
        links: Mapping[str, Sequence[Link]],
        suites: Sequence[SuiteFacts],
    ) -> "Chains":
        """Align ledger rows (`lethe.run.ledger`)."""
        places: dict[Place, dict[Unit, str]] = {}
        at = rows.select("chain", "position", "world", "seed", "checkpoint").unique()
        for chain, position, world, seed, checkpoint in at.sort("checkpoint").iter_rows():
            places.setdefault((chain, position), {})[world, seed] = checkpoint
        world = pl.col("world").fill_null("") + "/"
        apart = rows.with_columns(
            (world + pl.col("example")).alias("example"),
            (world + pl.col("cluster")).alias("cluster"),
            pl.lit(None).cast(rows.schema["values"]).alias("values"),
        )
        held = set(rows["suite"].unique())
        panels = {one.name: Panel.from_rows(apart, one) for one in suites if one.name in held}
        return cls({name: tuple(links) for name, links in links.items()}, panels, places)

    def units(self, suite: str, *places: Place) -> list[Unit]:
        """Worlds and seeds in which a suite is measured at all of these places."""
        panel = self.panels.get(suite)
        if panel is None or not places:
            return []
        found = []
        for unit, _ in sorted(self.places.get(places[0], {}).items(), key=lambda one: one[1]):
            names = [self.places.get(place, {}).get(unit) for place in places]
            if all(name in panel.checkpoints for name in names):
                found.append(unit)
        return found

    def pair(self, suite: str, before: Place, after: Place, units: Sequence[Unit]) -> Pair:
        """The suite before and after, scores averaged over the seeds of each world.

        Raises:
            InputError: no example is scored in all of these trainings.
        """
        panel = self.panels[suite]
        scores = np.full((2, len(panel.examples)), np.nan)
        for world in dict.fromkeys(world for world, _ in units):
            for side, place in enumerate((before, after)):
                names = [self.places[place][unit] for unit in units if unit[0] == world]
                mean = panel.scores[[panel.index(name) for name in names]].mean(axis=0)
                scores[side] = np.where(np.isfinite(mean), mean, scores[side])
        two = replace(
            panel,
            checkpoints=("before", "after"),
            present=np.isfinite(scores),
            scores=scores,
            choices=np.full(scores.shape, -1),
            values={},
        )
        return two.pair("before", "after")

    @cached_property
    def ends(self) -> dict[str, Place]:
        """Chain → its last place."""
        return {name: (name, len(links)) for name, links in self.links.items()}


Terms = Sequence[tuple[float, Place, Place]]
"""(weight, place before, place after): weight × (score before − score after)."""


def effect(
    chains: Chains,
    suite: str,
    units: Sequence[Unit],
    terms: Terms,
    *,
    corrected: bool = True,
) -> Effect:
    """The mean over a suite of a sum of weighted differences: forgetting, gain, transfer."""
    return joint_effect(chains, units, {suite: list(terms)}, corrected=corrected)


def joint_effect(
    chains: Chains,
    units: Sequence[Unit],
    sides: Mapping[str, Terms],
    *,
    corrected: bool = True,
) -> Effect:
    """The sum of weighted mean differences on several suites, over items and over trainings."""

    def total(held: Sequence[Unit]) -> tuple[list[_Rows], float]:
        rows = [_rows(chains, suite, held, terms, corrected) for suite, terms in sides.items()]
        return rows, float(sum(one.weights @ one.values for one in rows))

    rows, estimate = total(units)
    values = {unit: total([unit])[1] for unit in units}
    starts = np.cumsum([0, *(one.clusters.max(initial=-1) + 1 for one in rows)])
    parts = np.cumsum([0, *(one.parts.max(initial=-1) + 1 for one in rows)])
    items = stats.weighted_interval(
        np.concatenate([one.values for one in rows]),
        np.concatenate([one.weights for one in rows]),
        np.concatenate([one.clusters + at for one, at in zip(rows, starts, strict=False)]),
        parts=np.concatenate([one.parts + at for one, at in zip(rows, parts, strict=False)]),
    )
    most = float(sum(np.abs(one.weights).sum() for one in rows))
    items = bounded(items, -most, most)
    worlds = list(dict.fromkeys(world for world, _ in units))
    if len(worlds) > 1:
        by_world = [
            float(np.mean([v for unit, v in values.items() if unit[0] == w])) for w in worlds
        ]
        return Effect(estimate, items, over_trainings(by_world), "worlds", values)
    return Effect(estimate, items, over_trainings(list(values.values())), "seeds", values)


@dataclass(frozen=True)
class _Rows:
    """Examples of one suite: values (m,), weights (m,), clusters and balance classes (m,).

    Values stay plain differences of scores, so that flips are bounded as flips; the correction for
    chance is in the weights, which sum to 1 without it.
    """

    values: Floats
    weights: Floats
    clusters: NDArray[np.int64]
    parts: NDArray[np.int64]


def _rows(
    chains: Chains, suite: str, units: Sequence[Unit], terms: Terms, corrected: bool
) -> _Rows:
    """Σ weight × (before − after) of every example that all terms have."""
    pairs = [chains.pair(suite, before, after, units) for _, before, after in terms]
    common = pairs[0].rows
    for pair in pairs[1:]:
        common = np.intersect1d(common, pair.rows)
    if not common.size:
        raise InputError("no example is scored in all trainings", where=f"suite {suite}")
    held = [replace(pair, rows=common) for pair in pairs]
    total = sum(w * pair.forgotten for (w, _, _), pair in zip(terms, held, strict=True))
    values = np.asarray(total, dtype=np.float64)
    weights = mean_weights(held[0])
    if corrected:
        weights = weights / (1 - held[0].chance)
    balance = usable_balance(held[0])
    parts = np.zeros(len(common), np.int64) if balance is None else balance.codes + 1
    return _Rows(values, weights, held[0].clusters, parts)


def mean_weights(pair: Pair) -> Floats:
    """Weights (m,) of the suite's mean: they sum to 1, classes alike where it is balanced."""
    return class_weights(usable_balance(pair), len(pair.rows)) / len(pair.rows)


def over_trainings(values: Sequence[float]) -> Interval | None:
    """Student's t interval of the mean of independent trainings.

    None with fewer than two, and where all agree to the last digit: that is no certainty.
    """
    n = len(values)
    if n < 2 or np.ptp(values) == 0:
        return None
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / np.sqrt(n)
    half = float(distributions.t.ppf(0.975, n - 1)) * error
    p_value = float(2 * distributions.t.sf(abs(mean) / error, n - 1))
    return Interval(mean, mean - half, mean + half, 0.95, n, n, "t", p_value)
