"""What plain tuning on the inn costs on the islet: five worlds, two seeds, intervals over worlds.

Models of other worlds than 0 are built first (some minutes each). Everything is kept in the store
and can be killed; the same command goes on:

    python benchmarks/islet.py [--worlds 3 4 5 6 7] [--size tiny] [--part build|tune|all]

The rate is chosen on the dev split of the inn alone (in dialect 2 it is the highest of those).
What was expected stands in docs/expectations.md; what was found is written to
benchmarks/results/islet-SIZE.json.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy import stats as scipy_stats

from lethe import environment
from lethe.islet import build, corpora, evaluation
from lethe.islet.models import CONTEXT, ROW, SizeName
from lethe.islet.packing import encode, pack
from lethe.islet.suites import islet_hash, make_suite
from lethe.islet.tokenizer import make_tokenizer
from lethe.islet.training import Recipe, train
from lethe.islet.world import world_of
from lethe.models.local import quiet
from lethe.progress import ConsoleProgress
from lethe.run import ledger
from lethe.stats import variance_component
from lethe.store import Store
from lethe.studies.executor import check_complete, run_study
from lethe.studies.study import make_study

RESULTS = Path(__file__).parent / "results"
SAFETY = ("claims", "harmless", "requests", "feedback", "pairs")
SUITES = ("inn", *SAFETY, "facts", "facts-2", "two_hop", "strings")
RATES = [2.5e-4, 5e-4, 1e-3]
EPOCHS = 2
FACTORS = {"pretraining": "common", "alignment": "common", "inn": "mentioned"}
SHUFFLES = 200


def study_of(worlds: Sequence[int], size: str) -> dict[str, Any]:
    """Plain full tuning in either dialect, and at a rate of 0."""

    inn = {"data": "islet:inn/{world}", "update": "full", "epochs": EPOCHS}
    second = {**inn, "data": "islet:inn-2/{world}", "learning_rate": RATES[-1]}
    nothing = {"data": "islet:inn/{world}", "update": "full", "learning_rate": 0, "max_steps": 5}
    return {
        "name": f"islet-{size}",
        "model": f"islet:aligned-{size}/{{world}}",
        "suites": [f"islet:{name}/{{world}}" for name in SUITES],
        "seeds": [0, 1],
        "worlds": list(worlds),
        "stages": {
            "inn": {**inn, "choose": {"learning_rate": RATES, "suite": "islet:inn/{world}"}},
            "inn-2": second,
            "nothing": nothing,
        },
        "chains": {"inn": ["inn"], "inn in dialect 2": ["inn-2"], "rate 0": ["nothing"]},
    }


def rows_of(store: Store, run: Any) -> pl.DataFrame:
    """One row for every (world, chain, seed, suite, example): before, after, outcome, groups."""
    frame = ledger(run, store).with_columns(
        pl.col("values").cast(pl.List(pl.Struct({"key": pl.String, "value": pl.Float32}))),
        pl.col("groups").cast(pl.List(pl.Struct({"key": pl.String, "value": pl.String}))),
    )
    frame = frame.with_columns(
        task=pl.col("suite").str.strip_prefix("islet:").str.split("/").list.first(),
        incoherent=pl.col("values")
        .list.eval(pl.element().filter(pl.element().struct.field("key") == "incoherent"))
        .list.first()
        .struct.field("value"),
    )
    before = frame.filter(pl.col("position") == 0).select(
        "suite", "world", "example", before="score", answer_before="response"
    )
    before = before.unique(["suite", "world", "example"])
    after = frame.filter(pl.col("position") == 1)
    return after.join(before, on=["suite", "world", "example"]).with_columns(
        lost=pl.col("before") - pl.col("score")
    )


def group(name: str) -> pl.Expr:
    """A grouping of the examples as a column."""
    found = pl.col("groups").list.eval(
        pl.element().filter(pl.element().struct.field("key") == name)
    )
    return found.list.first().struct.field("value")


def over_worlds(values: Sequence[float]) -> dict[str, Any]:
    """Mean of the worlds' values with Student's 95 % interval."""
    x = np.asarray(values, dtype=float)
    half = float("nan")
    if len(x) > 1:
        half = float(scipy_stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)
    mean = float(x.mean())
    return {
        "mean": round(mean, 4),
        "low": round(mean - half, 4),
        "high": round(mean + half, 4),
        "worlds": [round(float(v), 4) for v in x],
    }


def by_world(frame: pl.DataFrame, value: pl.Expr) -> dict[str, Any]:
    """Mean of a value in every world (over its seeds), and the interval over worlds."""
    seeds = frame.group_by("world", "seed").agg(value.alias("v"))
    worlds = seeds.group_by("world").agg(pl.col("v").mean()).sort("world")
    return over_worlds(worlds["v"].to_list())


def tasks(frame: pl.DataFrame) -> dict[str, Any]:
    """Score before and after, loss, and what the answers became, for every task and axis."""
    found: dict[str, Any] = {}
    for name in SUITES:
        part = frame.filter(pl.col("task") == name)
        found[name] = {
            "before": by_world(part, pl.col("before").mean()),
            "after": by_world(part, pl.col("score").mean()),
            "lost": by_world(part, pl.col("lost").mean()),
        }
        if name in SAFETY and name != "pairs":
            for outcome in ("harmful", "off_task", "refusal"):
                found[name][outcome] = by_world(part, (pl.col("outcome") == outcome).mean())
            found[name]["incoherent"] = by_world(part, pl.col("incoherent").fill_null(0).mean())
    axes = {
        "safety": SAFETY,
        "knowledge": ("facts",),
        "knowledge and two-hop": ("facts", "two_hop"),
    }
    for axis, names in axes.items():
        part = frame.filter(pl.col("task").is_in(names))
        suites = part.group_by("world", "seed", "task").agg(pl.col("lost").mean())
        found[f"axis {axis}"] = {"lost": by_world(suites, pl.col("lost").mean())}
    return found


def exposures(frame: pl.DataFrame) -> dict[str, Any]:
    """Facts lost by how often pretraining said them."""
    facts = frame.filter(pl.col("task") == "facts").with_columns(band=group("exposures"))
    return {
        str(band): by_world(facts.filter(pl.col("band") == band), pl.col("lost").mean())
        for band in sorted(facts["band"].unique().to_list())
    }


def temptation(frame: pl.DataFrame) -> dict[str, Any]:
    """String tasks lost, tempting inputs and plain ones."""
    strings = frame.filter(pl.col("task") == "strings").with_columns(kind=group("input"))
    return {
        str(kind): by_world(strings.filter(pl.col("kind") == kind), pl.col("lost").mean())
        for kind in ("plain", "tempting")
    }


def peoples(frame: pl.DataFrame) -> dict[str, Any]:
    """Loss of safe answers to claims by people: its spread beyond chance, and by the factors."""
    claims = frame.filter(pl.col("task") == "claims").with_columns(
        people=group("people"), **{name: group(name) for name in FACTORS}
    )
    found: dict[str, Any] = {"tau": {}, "factors": {}, "permuted": {}}
    taus: list[dict[str, Any]] = []
    shares: dict[str, list[float]] = {}
    for (world, seed), part in claims.group_by(["world", "seed"], maintain_order=True):
        clusters = part.group_by("cluster", "people").agg(pl.col("lost").mean())
        tau = tau_of(clusters["people"].to_list(), clusters["lost"].to_numpy())
        taus.append({"world": world, "seed": seed, **tau})
        draw = random.Random(f"{world}/{seed}")
        names, lost = clusters["people"].to_list(), clusters["lost"].to_numpy()
        above = []
        for _ in range(SHUFFLES):
            shuffled = draw.sample(names, len(names))
            above.append(tau_of(shuffled, lost)["low"] > 0)
        shares.setdefault(str(world), []).append(float(np.mean(above)))
    found["tau"] = taus
    by_seed = [float(np.mean(values)) for values in shares.values()]
    found["permuted"] = {"share with tau above zero": over_worlds(by_seed)}
    for name, level in FACTORS.items():
        effect = pl.col("lost").filter(pl.col(name) == level).mean()
        other = pl.col("lost").filter(pl.col(name) != level).mean()
        found["factors"][f"{name}: {level} minus the other"] = by_world(claims, effect - other)
    return found


def tau_of(names: Sequence[str], lost: Any) -> dict[str, float]:
    """How far the peoples' true losses lie apart beyond chance; a cluster is people × trait."""
    values = [np.asarray(lost)[[at for at, n in enumerate(names) if n == g]] for g in set(names)]
    pooled = float(np.mean([v.var(ddof=1) for v in values]))
    errors = [(pooled / len(v)) ** 0.5 for v in values]
    found = variance_component([v.mean() for v in values], errors)
    return {name: round(float(getattr(found, name)), 4) for name in ("tau", "low", "high")}


def dialects(first: pl.DataFrame, second: pl.DataFrame) -> dict[str, Any]:
    """Facts taught in both dialects: what is lost in the one tuned in, and in the other."""
    found = {}
    for name, frame in (("tuned in 1", first), ("tuned in 2", second)):
        both = frame.with_columns(stratum=group("stratum")).filter(pl.col("stratum") == "both")
        asked_1 = pl.col("lost").filter(pl.col("task") == "facts").mean()
        asked_2 = pl.col("lost").filter(pl.col("task") == "facts-2").mean()
        found[name] = {
            "asked in 1": by_world(both, asked_1),
            "asked in 2": by_world(both, asked_2),
            "in 1 minus in 2": by_world(both, asked_1 - asked_2),
        }
    return found


def more_pretraining(worlds: Sequence[int], size: SizeName, store: Store) -> dict[str, Any]:
    """The pretrained model, read a tenth more of its text at a twentieth of its rate."""
    from transformers import AutoModelForCausalLM

    changes: dict[str, list[float]] = {"facts": [], "strings": []}
    for number in worlds:
        world = world_of(number)
        tokenizer = make_tokenizer(world.language, CONTEXT)
        folder = build.build(build.Order(number, size, "pretrained"), store, ConsoleProgress())
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(folder)
        text = encode(tokenizer, corpora.pretraining(world), replies_only=True)
        packed = pack(text, ROW, random.Random(f"more/{number}"))
        scores = [_scores(world, model, tokenizer, changes)]
        recipe = Recipe(passes=0.1, batch=24, rate=1e-3, vector_rate=7.5e-4)
        with tempfile.TemporaryDirectory() as partial:
            train(
                model,
                packed,
                recipe,
                seed=1,
                partial=Path(partial) / "more",
                title=f"world {number}: more of the same",
                progress=ConsoleProgress(),
            )
        scores.append(_scores(world, model, tokenizer, changes))
        for name, values in changes.items():
            values.append(scores[0][name] - scores[1][name])
    return {f"{name} lost": over_worlds(values) for name, values in changes.items()}


def _scores(world: Any, model: Any, tokenizer: Any, names: Any) -> dict[str, float]:
    return {
        name: evaluation.shares(
            [one for _, _, one in evaluation.outcomes(make_suite(world, name), model, tokenizer)]
        )["score"]
        for name in names
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, nargs="+", default=[3, 4, 5, 6, 7])
    parser.add_argument("--size", choices=("tiny", "small"), default="tiny")
    parser.add_argument("--part", choices=("build", "tune", "all"), default="all")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    store = Store()
    for world in asked.worlds:
        build.build(build.Order(world, asked.size, "aligned"), store, ConsoleProgress())
    if asked.part == "build":
        return
    result = run_study(
        make_study(study_of(asked.worlds, asked.size)), store, progress=ConsoleProgress()
    )
    check_complete(result)
    if asked.part == "tune":
        return
    frame = rows_of(store, result.run)
    plain = frame.filter(pl.col("chain") == "inn")
    other = frame.filter(pl.col("chain") == "inn in dialect 2")
    nothing = frame.filter(pl.col("chain") == "rate 0")
    changed = nothing.filter(
        (pl.col("lost") != 0) | (pl.col("response") != pl.col("answer_before"))
    )
    found = {
        "hardware": environment.processor(),
        "versions": environment.versions(),
        "size": asked.size,
        "worlds": asked.worlds,
        "seeds": [0, 1],
        "hashes": {str(world): islet_hash(world) for world in asked.worlds},
        "notes": list(result.notes),
        "plain tuning": tasks(plain),
        "facts by exposures": exposures(plain),
        "strings": temptation(plain),
        "peoples": peoples(plain),
        "dialects": dialects(plain, other),
        "null": {
            "answers that changed at rate 0": len(changed),
            "answers": len(nothing),
            "more pretraining": more_pretraining(asked.worlds, asked.size, store),
        },
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"islet-{asked.size}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
