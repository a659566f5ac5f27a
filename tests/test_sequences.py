"""Confidence sequences: how often they err over many looks, what they find, what they refuse."""

import numpy as np
import pytest
from scipy.special import ndtri

from lethe import stats
from lethe.errors import InputError
from lethe.sequences import Spending, budget, mean_sequence

LOOKS = 20


def looks_at(
    rng: np.random.Generator, *, n: int, drop: float, gained: float, agree: float, size: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Differences (LOOKS, n) of 0/1 scores, after − before, whose true mean is −drop at each look.

    Args:
        agree: correlation of an item's latent state between looks; size: items of a cluster, which
            share half of it.
    """
    clusters = np.repeat(np.arange(n // size), size)

    def latent() -> np.ndarray:
        own = rng.standard_normal(n)
        if size == 1:
            return own
        shared = rng.standard_normal(n // size)[clusters]
        return np.sqrt(0.5) * shared + np.sqrt(0.5) * own

    same = latent()
    z = np.stack([np.sqrt(agree) * same + np.sqrt(1 - agree) * latent() for _ in range(LOOKS)])
    lost = z < ndtri(gained + drop)
    return (z > -ndtri(gained)).astype(float) - lost, clusters


def stopped(*, runs: int, true: float, margin: float = 0.05, seed: int = 0, **how: float) -> float:
    """Share of trainings that a rule `change < −margin` stops at any of the looks."""
    rng = np.random.default_rng(seed)
    count = 0
    for _ in range(runs):
        x, clusters = looks_at(rng, drop=true, **how)  # type: ignore[arg-type]
        count += any(found.high < -margin for found in mean_sequence(x, clusters))
    return count / runs


@pytest.mark.parametrize(
    "how",
    [
        {"n": 300, "gained": 0.05, "agree": 0.0},
        {"n": 300, "gained": 0.05, "agree": 0.9},
        {"n": 120, "gained": 0.02, "agree": 0.5},
        {"n": 800, "gained": 0.05, "agree": 0.8, "size": 4},
    ],
)
def test_twenty_looks_on_the_margin_stop_at_most_one_training_in_twenty(
    how: dict[str, float],
) -> None:
    runs = 100
    # Two standard errors of the simulation above 5 %.
    assert stopped(runs=runs, true=0.05, seed=4, **how) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / runs)


def test_looking_at_plain_intervals_would_stop_far_more() -> None:
    """The simulation can see the fault that the sequences mend."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(40):
        x, _ = looks_at(rng, n=300, drop=0.05, gained=0.05, agree=0.5)
        wrong += any(stats.mean_interval(row, level=0.9).high < -0.05 for row in x)
    assert wrong >= 6


def test_a_real_drop_stops_the_training() -> None:
    assert stopped(runs=20, true=0.15, n=300, gained=0.05, agree=0.8) >= 0.9


def test_the_spent_error_stays_below_the_whole_however_many_looks() -> None:
    spent = sum(budget(look, 20) for look in range(1, 5000))
    assert spent < 0.05
    assert budget(1, 20) == budget(20, 20)
    assert budget(21, 20) > budget(22, 20) > 0


def test_looks_that_agree_cost_less_and_never_more_than_without_that_knowledge() -> None:
    rng = np.random.default_rng(1)
    same = rng.standard_normal(200)
    alike, apart = Spending(20), Spending(20)
    for look in range(1, 21):
        close = alike.next(same + 0.1 * rng.standard_normal(200))
        far = apart.next(rng.standard_normal(200))
        assert close >= budget(look, 20)
        assert far >= budget(look, 20)
        if look > 3:
            assert close > 2 * far


def test_a_limit_depends_on_the_looks_so_far_alone() -> None:
    x, clusters = looks_at(np.random.default_rng(2), n=100, drop=0.1, gained=0.05, agree=0.5)
    whole = mean_sequence(x, clusters)
    assert mean_sequence(x[:7], clusters, planned=20) == whole[:7]


def test_looks_at_which_nothing_moved_are_bounds_all_the_same() -> None:
    found = mean_sequence(np.zeros((3, 50)))
    assert all(look.low < 0 < look.high for look in found)


def test_other_items_at_a_later_look_are_refused() -> None:
    spending = Spending(5)
    spending.next(np.ones(4))
    with pytest.raises(InputError, match="5 clusters after 4"):
        spending.next(np.ones(5))
    with pytest.raises(InputError, match="look 0"):
        budget(0, 5)
