"""Chains on the islet: orders of tasks, replay in a third stage, width of minima.

Runs the shipped studies `chained`, `replay` and `sharpness` on worlds 3 to 7 (two seeds; sharpness
one seed and three rates) and keeps what they show, with intervals over worlds. Killed, the same
command goes on; models of the islet are built first where the store has none:

    python benchmarks/chained.py [--worlds 3 4 5 6 7] [--study chained replay sharpness]
    python benchmarks/chained.py --study chained-text --model FOLDER

The second asks it of real text and three seeds, of a model that knows something of it
(benchmarks/aligned.py makes one) and with the data folder in LETHE_DATA.

What was expected stands in docs/expectations.md (lines 7, 8, 12 and 16). Results:
benchmarks/results/chained-islet.json, which keeps what it has of the other studies, and
benchmarks/results/chained-text.json.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lethe import environment
from lethe.asymmetry import Loss
from lethe.chains import Effect
from lethe.hotel_shares import fieller, over
from lethe.progress import ConsoleProgress
from lethe.store import Store
from lethe.studies.chained import Chained
from lethe.studies.executor import check_complete, run_study
from lethe.studies.study_file import load_study

RESULTS = Path(__file__).parent / "results"
SEEDS = {"chained": [0, 1], "replay": [0, 1], "sharpness": [0], "chained-text": [0, 1, 2]}
TEXT = "chained-text"


def said(effect: Effect) -> dict[str, Any]:
    """An effect with its interval over worlds, or seeds of one base, and the value of each."""
    worlds: dict[str, list[float]] = {}
    for (world, seed), value in effect.values.items():
        worlds.setdefault(f"seed {seed}" if world is None else str(world), []).append(value)
    found = {"mean": round(effect.estimate, 4)}
    if effect.trainings is not None:
        found |= {"low": round(effect.trainings.low, 4), "high": round(effect.trainings.high, 4)}
    return {**found, "worlds": {w: round(float(np.mean(v)), 4) for w, v in worlds.items()}}


def orders(shown: Chained) -> dict[str, Any]:
    """Asymmetries with their controls, and what every chain gained and lost."""
    pairs = {
        f"{bare(one.first)} / {bare(one.second)}": {
            "delta": said(one.delta),
            "raw": said(one.raw),
            "final of first": [round(score, 4) for score in one.final_scores],
            "control": one.control,
            "unequal": list(one.unequal),
        }
        for one in (*shown.asymmetries, *shown.controls)
    }
    return {
        "mean delta": said(shown.mean) if shown.mean else None,
        "pairs": pairs,
        "losses": {name(one): loss(one) for one in shown.losses},
        "spreads": spreads(shown),
    }


def name(one: Loss) -> str:
    """A chain and the task it lost something of."""
    return f"{one.chain}: {bare(one.task)}"


def bare(task: str) -> str:
    """A task of every world, which results name by the first of them."""
    return task.partition("/")[0]


def loss(one: Loss) -> dict[str, Any]:
    """What was gained, and what was lost by the chain's end."""
    return {
        "gain": said(one.gain),
        "forgetting": said(one.forgetting),
        "raw": said(one.raw),
        "learned": round(one.learned, 4),
        "now": round(one.now, 4),
    }


def spreads(shown: Chained) -> list[dict[str, Any]]:
    """How far groups lie apart beyond chance after every chain; None where nothing moved."""
    return [
        {
            "chain": one.chain,
            "grouping": one.spread.grouping,
            **{
                part: None if math.isnan(value) else round(value, 4)
                for part, value in dataclasses.asdict(one.spread.component).items()
                if part in ("tau", "low", "high")
            },
        }
        for one in shown.spreads
    ]


def replayed(shown: Chained) -> dict[str, Any]:
    """Share of the lost safety that each third stage restores, and what it costs the inn."""
    of = {one.chain: one for one in shown.losses if one.position == 1}
    plain = of["claims > inn"]
    ends = {
        chain: {suite.split("/")[0]: round(score, 4) for suite, score in scores.items()}
        for chain, scores in shown.finals.items()
    }
    found: dict[str, Any] = {"losses": {name(one): loss(one) for one in shown.losses}, "ends": ends}
    units = list(plain.forgetting.values)
    for chain, one in of.items():
        if chain == "claims > inn":
            continue
        losses = [[plain.forgetting.values[unit], one.forgetting.values[unit]] for unit in units]
        worlds, _ = over(losses, units)
        lost, kept = worlds[:, 0], worlds[:, 1]
        low, high = fieller(lost - kept, lost)
        found.setdefault("restored", {})[chain] = {
            "of the mean loss": round(float((lost - kept).sum() / lost.sum()), 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "lost and still lost, by world": worlds.round(4).tolist(),
        }
    return found


def wide(shown: Chained) -> dict[str, Any]:
    """Sharpness after the first stage against what was forgotten of it."""
    return {
        "relations": [dataclasses.asdict(one) for one in shown.relations],
        "losses": {name(one): loss(one) for one in shown.losses},
    }


SHOWN = {"chained": orders, "replay": replayed, "sharpness": wide, TEXT: orders}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, nargs="+", default=[3, 4, 5, 6, 7])
    parser.add_argument("--study", nargs="+", choices=sorted(SHOWN), default=list(SHOWN)[:3])
    parser.add_argument("--model", help=f"where {TEXT} starts")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    if TEXT in asked.study and (asked.model is None or len(asked.study) > 1):
        parser.error(f"{TEXT} goes alone, and with --model")
    out: Path = asked.out or RESULTS / (
        "chained-islet.json" if asked.model is None else f"{TEXT}.json"
    )
    torch.set_num_threads(1)
    store = Store()
    for which in asked.study:
        study = load_study(which, model=asked.model)
        if which != TEXT:
            changes = {"worlds": asked.worlds, "seeds": SEEDS[which], "name": f"{which}-islet"}
            study = study.model_copy(update=changes)
        result = run_study(study, store, progress=ConsoleProgress())
        check_complete(result)
        assert result.chained is not None
        kept = json.loads(out.read_text()) if out.exists() else {}
        kept[which] = {
            "hardware": environment.processor(),
            "versions": environment.versions(),
            "worlds": asked.worlds if which != TEXT else None,
            "seeds": SEEDS[which],
            "notes": list(result.notes),
            "rates": result.run.settings.get("choices"),
            **SHOWN[which](result.chained),
        }
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(kept, indent=1, default=str) + "\n")
        print(json.dumps(kept[which], indent=1, default=str))


if __name__ == "__main__":
    main()
