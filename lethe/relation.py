"""Sharpness after a first stage against what was then forgotten, within a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as distributions

from lethe.asymmetry import Loss
from lethe.chains import Chains, Unit
from lethe.stats import Interval


@dataclass(frozen=True)
class Relation:
    """Sharpness after the first stage and what was then forgotten, within a task.

    Attributes:
        rho: Spearman's rank correlation, its interval by Fisher's z with the variance of Bonett
            and Wright (2000), (1 + ρ²/2)/(n − 3); None with fewer than four points.
        points: (sharpness, forgetting) of every training.
        independent: trainings of the first stage with seeds of their own; at one seed the rates
            share the order of the data and the first values.
    """

    task: str
    after: tuple[str, ...]
    rho: Interval | None
    points: tuple[tuple[float, float], ...]
    independent: int
    note: str = ""


def relations(
    chains: Chains, found: Sequence[Loss], sharpness: Mapping[str, float]
) -> list[Relation]:
    """Sharpness after the first stage against forgetting by the end, within a task.

    Trainings of a task by all rates and seeds are points; chains are of one kind where the same
    stages follow, whatever their arms.

    Args:
        sharpness: name of a checkpoint → its largest Hessian eigenvalue.
    """
    points: dict[tuple[str, tuple[str, ...]], list[tuple[float, float, Unit]]] = {}
    for loss in found:
        if loss.position != 1:
            continue
        after = tuple(link.stage for link in chains.links[loss.chain][1:])
        for unit, value in loss.forgetting.values.items():
            sharp = sharpness.get(chains.places[loss.chain, 1][unit])
            if sharp is not None:
                points.setdefault((loss.task, after), []).append((sharp, value, unit))
    return [
        Relation(
            task=task,
            after=after,
            rho=rank_correlation([p[0] for p in held], [p[1] for p in held]),
            points=tuple((sharp, value) for sharp, value, _ in held),
            independent=len({unit for _, _, unit in held}),
            note="" if len(held) > 3 else "fewer than four trainings",
        )
        for (task, after), held in points.items()
    ]


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Interval | None:
    """Spearman's ρ with a 95 % interval; None with fewer than four points or without variation.

    Fisher's z with variance (1 + ρ²/2)/(n − 3) (Bonett and Wright 2000, Psychometrika 65).
    """
    n = len(x)
    if n < 4 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    test = distributions.spearmanr(x, y)
    rho = float(np.clip(test.statistic, -1, 1))
    inside = float(np.clip(rho, -1 + 1e-9, 1 - 1e-9))
    half = distributions.norm.ppf(0.975) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(inside) + np.array([-half, half]))
    return Interval(rho, float(low), float(high), 0.95, n, n, "fisher-z", float(test.pvalue))
