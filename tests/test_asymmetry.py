"""Asymmetry of orders: worlds small enough to work out by hand."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from lethe.asymmetry import asymmetries, losses, mean_asymmetry
from lethe.chains import Chains, Link, over_trainings
from lethe.likeness import transfers
from lethe.panel import SuiteFacts
from lethe.relation import rank_correlation, relations

SAFE = SuiteFacts("safe", "safety")
SKILL = SuiteFacts("skill", "knowledge")
OPTIONS = {"safe": 2, "skill": 4, "kind": 2}
N = 40


def link(name: str, *, task: str | None = None, updates: int = 10) -> Link:
    stage = name.partition("[")[0]
    return Link(stage, name, task or stage, 100, updates)


LINKS = {
    "safe > skill": (link("safe"), link("skill")),
    "skill > safe": (link("skill"), link("safe")),
}
# Right answers of N at each position: chain → suite → base, first stage, second stage.
RIGHT = {
    "safe > skill": {"safe": (20, 36, 24), "skill": (10, 10, 30)},
    "skill > safe": {"safe": (20, 20, 36), "skill": (10, 30, 25)},
}
Right = Callable[[str, str, int, int], int]


def make_rows(
    right: Right,
    *,
    chains: dict[str, tuple[Link, ...]] = LINKS,
    seeds: tuple[int, ...] = (0, 1, 2),
    worlds: tuple[str | None, ...] = (None,),
    suites: tuple[str, ...] = ("safe", "skill"),
) -> pl.DataFrame:
    """Rows in which the first `right(chain, suite, position, seed)` of N examples are right."""
    rows = []
    for chain, links in chains.items():
        for world in worlds:
            for seed in seeds:
                for position in range(len(links) + 1):
                    for suite in suites:
                        known = right(chain, suite, position, seed)
                        rows += [
                            {
                                "suite": suite,
                                "chain": chain,
                                "position": position,
                                "world": world,
                                "seed": seed,
                                "checkpoint": f"{chain}/{position}#{seed}@{world}",
                                "example": str(n),
                                "cluster": str(n // 2),
                                "groups": [{"key": "half", "value": "ab"[n % 2]}],
                                "score": float(n < known),
                                "choice": 0,
                                "option_logprobs": [0.0] * OPTIONS[suite],
                                "values": [{"key": "margin", "value": 1.0}],
                            }
                            for n in range(N)
                        ]
    return pl.DataFrame(rows, schema_overrides={"world": pl.String})


def by_table(chain: str, suite: str, position: int, seed: int) -> int:
    """As RIGHT, with one more lost for every seed."""
    return RIGHT[chain][suite][position] - (seed if position == 2 else 0)


def made(rows: pl.DataFrame, links: dict[str, tuple[Link, ...]] = LINKS) -> Chains:
    return Chains.from_rows(rows, links, [SAFE, SKILL])


def test_delta_is_the_difference_of_two_corrected_forgettings() -> None:
    (found,) = asymmetries(made(make_rows(by_table)))
    # (score − c)/(1 − c): of two options twice the score's change, of four a third more.
    safe = [(12 + seed) / N / (1 - 1 / 2) for seed in range(3)]
    skill = [(5 + seed) / N / (1 - 1 / 4) for seed in range(3)]
    each = np.subtract(safe, skill)
    assert (found.first, found.second) == ("safe", "skill")
    assert found.delta.estimate == pytest.approx(each.mean())
    assert list(found.delta.values.values()) == pytest.approx(list(each))
    assert found.raw.estimate == pytest.approx((12 - 5) / N)
    half = 4.302653 * each.std(ddof=1) / np.sqrt(3)
    assert found.delta.trainings is not None
    assert found.delta.trainings.low == pytest.approx(each.mean() - half, rel=1e-5)
    assert found.delta.of == "seeds"
    assert found.delta.items.low < each.mean() < found.delta.items.high
    assert found.delta.items.estimate == pytest.approx(each.mean())
    assert found.delta.items.clusters == 2 * N / 2
    assert found.final_scores == pytest.approx(((24 - 1) / N, (36 - 1) / N))
    assert found.final.estimate == pytest.approx((24 - 36) / N)
    assert not found.control


def test_what_the_orders_do_not_share_is_said() -> None:
    (found,) = asymmetries(made(make_rows(by_table)))
    assert found.unequal[0] == "options 2 and 4"
    longer = {
        "safe > skill": (link("safe"), link("skill", updates=20)),
        "skill > safe": (link("skill", updates=20), link("safe")),
    }
    (found,) = asymmetries(made(make_rows(by_table), longer))
    assert "updates 10 and 20" in found.unequal

    def no_gain(chain: str, suite: str, position: int, seed: int) -> int:
        return 20 if suite == "skill" else by_table(chain, suite, position, seed)

    (found,) = asymmetries(made(make_rows(no_gain)))
    assert "first-stage gain of skill not above zero" in found.unequal


def test_two_suites_of_one_axis_are_a_control() -> None:
    links = {
        "safe > kind": (link("safe"), link("kind")),
        "kind > safe": (link("kind"), link("safe")),
    }
    rows = make_rows(lambda c, s, p, seed: 20 + p, chains=links, suites=("safe", "kind"))
    chains = Chains.from_rows(rows, links, [SAFE, SuiteFacts("kind", "safety")])
    (found,) = asymmetries(chains)
    assert found.control


def test_arms_are_paired_with_themselves_only() -> None:
    slow, fast = link("safe[learning_rate=1]"), link("safe[learning_rate=2]")
    links = {
        "a": (slow, link("skill")),
        "b": (fast, link("skill")),
        "c": (link("skill"), fast),
        "d": (link("skill"), slow),
    }
    right = {"a": 30, "b": 25, "c": 5, "d": 10}
    rows = make_rows(lambda c, s, p, seed: 36 if p < 2 else right[c] - seed, chains=links)
    found = {pair.chains: pair.raw.estimate for pair in asymmetries(made(rows, links))}
    assert found == pytest.approx({("a", "d"): -20 / N, ("b", "c"): -20 / N})


def test_worlds_are_independent_and_seeds_within_them_are_not() -> None:
    rows = make_rows(by_table, worlds=("3", "4"))
    all_lost = (
        (pl.col("world") == "4")
        & (pl.col("suite") == "safe")
        & (pl.col("chain") == "safe > skill")
        & (pl.col("position") == 2)
    )
    score = pl.when(all_lost).then(0.0).otherwise(pl.col("score"))
    worse = rows.with_columns(score.alias("score"))
    (found,) = asymmetries(made(worse))
    skill = np.mean([(5 + seed) / N / 0.75 for seed in range(3)])
    by_world = [np.mean([(12 + s) / N / 0.5 for s in range(3)]) - skill, 36 / N / 0.5 - skill]
    assert (found.delta.of, len(found.delta.values)) == ("worlds", 6)
    assert found.delta.trainings is not None
    assert found.delta.trainings.n == 2
    assert found.delta.trainings.estimate == pytest.approx(np.mean(by_world))
    assert found.delta.items.clusters == 2 * N  # examples of two worlds are different ones


def test_losses_are_rows_for_every_chain_and_missing_trainings_are_counted() -> None:
    rows = make_rows(by_table)
    gone = (pl.col("checkpoint") == "safe > skill/2#1@None") & (pl.col("suite") == "safe")
    found = {loss.task: loss for loss in losses(made(rows.filter(~gone)))}
    safe = found["safe"]
    assert (safe.chain, safe.after, safe.trainings, safe.missing) == (
        "safe > skill",
        ("skill",),
        2,
        1,
    )
    assert safe.raw.estimate == pytest.approx(np.mean([12, 14]) / N)
    assert safe.gain.estimate == pytest.approx(16 / N / 0.5)
    assert (safe.learned, safe.now) == pytest.approx((36 / N, 23 / N))
    assert found["skill"].missing == 0


def test_what_a_third_stage_restores_is_less_to_have_lost() -> None:
    third = {"none": link("more", task="skill"), "5 %": link("restore", task="safe")}
    links = {name: (link("safe"), link("skill"), last) for name, last in third.items()}
    table = {"none": {"safe": (20, 36, 24, 22), "skill": (10, 10, 30, 32)}}
    table["5 %"] = {"safe": (20, 36, 24, 34), "skill": (10, 10, 30, 29)}
    rows = make_rows(lambda c, s, p, seed: table[c][s][p], chains=links, seeds=(0,))
    found = {(loss.chain, loss.task): loss.raw.estimate for loss in losses(made(rows, links))}
    assert found == pytest.approx(
        {
            ("none", "safe"): 14 / N,
            ("none", "skill"): -2 / N,
            ("5 %", "safe"): 2 / N,
            ("5 %", "skill"): 1 / N,
        }
    )


def test_balanced_suites_count_classes_alike() -> None:
    rows = make_rows(by_table, seeds=(0,)).with_columns(
        pl.col("example")
        .map_elements(
            lambda n: [{"key": "label", "value": "x" if int(n) < 30 else "y"}],
            return_dtype=pl.List(pl.Struct({"key": pl.String, "value": pl.String})),
        )
        .alias("groups")
    )
    chains = Chains.from_rows(rows, LINKS, [SuiteFacts("safe", "safety", balance="label"), SKILL])
    loss = next(one for one in losses(chains) if one.task == "safe")
    # lost are 24 … 35: 6 of the 30 of x, 6 of the 10 of y
    assert loss.raw.estimate == pytest.approx((6 / 30 + 6 / 10) / 2)
    assert loss.raw.items.estimate == pytest.approx((6 / 30 + 6 / 10) / 2)


def test_likeness_is_transfer_as_a_share_of_the_own_gain() -> None:
    def right(chain: str, suite: str, position: int, seed: int) -> int:
        if (chain, suite, position) == ("safe > skill", "skill", 1):
            return 15  # a quarter of what its own stage teaches, 10 → 30
        return RIGHT[chain][suite][position]

    found = {(one.source, one.target): one for one in transfers(made(make_rows(right)))}
    assert found["safe", "skill"].share == pytest.approx(0.25)
    assert found["skill", "safe"].share == pytest.approx(0)
    assert found["safe", "skill"].transfer.estimate == pytest.approx(5 / N / 0.75)


def test_the_mean_over_pairs_counts_each_alike() -> None:
    links = {
        **LINKS,
        "safe > kind": (link("safe"), link("kind")),
        "kind > safe": (link("kind"), link("safe")),
    }
    table = {
        **RIGHT,
        "safe > kind": {"safe": (20, 36, 34), "skill": (10, 10, 10), "kind": (20, 20, 36)},
        "kind > safe": {"safe": (20, 20, 36), "skill": (10, 10, 10), "kind": (20, 36, 35)},
    }
    rows = make_rows(
        lambda c, s, p, seed: table[c].get(s, (20, 20, 20))[p] - (seed if p == 2 else 0),
        chains=links,
        suites=("safe", "skill", "kind"),
    )
    facts = [SAFE, SKILL, SuiteFacts("kind", "proficiency")]
    chains = Chains.from_rows(rows, links, facts)
    pairs = asymmetries(chains)
    found = mean_asymmetry(chains, pairs)
    assert found is not None
    assert found.estimate == pytest.approx(np.mean([pair.delta.estimate for pair in pairs]))
    assert found.trainings is not None
    assert found.items.clusters == 3 * N / 2  # the examples of `safe` are the same in both


def test_sharpness_is_held_against_forgetting_within_a_task() -> None:
    links = {
        f"safe[learning_rate={rate}] > skill": (
            link(f"safe[learning_rate={rate}]"),
            link("skill"),
        )
        for rate in (1, 2)
    }
    rates = dict(zip(links, (1, 2), strict=True))
    rows = make_rows(lambda c, s, p, seed: 36 if p < 2 else 36 - 4 * rates[c] - seed, chains=links)
    chains = made(rows, links)
    sharp = {
        f"{chain}/1#{seed}@None": 10.0 * rate + seed
        for chain, rate in rates.items()
        for seed in range(3)
    }
    (found,) = relations(chains, losses(chains), sharp)
    assert (found.task, found.after, len(found.points)) == ("safe", ("skill",), 6)
    assert found.rho is not None
    assert found.rho.estimate == pytest.approx(1)
    (found,) = relations(chains, losses(chains), dict(list(sharp.items())[:3]))
    assert (found.rho, found.note) == (None, "fewer than four trainings")
    assert relations(chains, losses(chains), {}) == []


def test_the_rank_correlation_is_spearmans_with_bonett_and_wrights_interval() -> None:
    x, y = [1.0, 2, 3, 4, 5, 6, 7, 8], [2.0, 1, 4, 3, 6, 5, 8, 7]
    found = rank_correlation(x, y)
    rho = 1 - 6 * 8 / (8 * 63)  # eight differences of one
    assert found is not None
    assert found.estimate == pytest.approx(rho)
    half = 1.959964 * np.sqrt((1 + rho**2 / 2) / 5)
    assert found.low == pytest.approx(np.tanh(np.arctanh(rho) - half), rel=1e-6)
    assert rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert rank_correlation([1, 2, 3], [1, 2, 3]) is None


def test_trainings_that_agree_to_the_last_digit_promise_nothing() -> None:
    assert over_trainings([0.1]) is None
    assert over_trainings([0.1, 0.1, 0.1]) is None
