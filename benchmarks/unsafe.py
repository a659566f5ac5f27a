"""Filters and strategies against unsafe rows on the islet, over worlds.

    python benchmarks/unsafe.py                      # worlds 3-7, tiny; goes on where it was killed
    python benchmarks/unsafe.py --worlds 0 1 2 --out dev.json     # development
    python benchmarks/unsafe.py --size small --part shares        # model size as an axis
    python benchmarks/unsafe.py --worlds 0 --rows 24 --steps 2 --out try.json   # does it run?

Parts: `strategies` (what helps, at 25 % of toxic rows and with look-alikes), `kinds` (filters and
rivals for every kind of harm, and a safe set of the wrong kind), `shares` (1 to 75 %), `rare` (1 %
pooled over many draws), `ablations` (steps, threshold, size of the safe set); `bias`, `harmfulness`
and `mixed` (nothing done, self-correction, the filter, an oracle at 25 % of such rows). Settings
were chosen on worlds 0-2; worlds 3-7 are looked at once. Each part is a study whose steps lie in
the store.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lethe import environment
from lethe.filtering.avoided import ISLET, avoided, ends_of, over, places
from lethe.filtering.rivals import RIVALS
from lethe.filtering.strategies import (
    BOTH,
    CORRECTION,
    FILTER,
    NONE,
    ORACLE,
    STRATEGIES,
    chains_for,
)
from lethe.filtering.verdict import verdict_of
from lethe.islet import build
from lethe.plain import plain
from lethe.progress import ConsoleProgress
from lethe.run import ledger
from lethe.store import Store
from lethe.studies.executor import StudyResult, check_complete, run_study
from lethe.studies.study import make_study

RESULTS = Path(__file__).parent / "results"
PARTS = ("strategies", "kinds", "shares", "rare", "ablations", "bias", "harmfulness", "mixed")
TASKS = ("islet:inn", "islet:strings")
TUNING = {"update": "full", "learning_rate": 1e-3, "epochs": 4, "batch_size": 8}
STEPS = 100
SAFETY = {"epochs": 2}
LEVEL, THRESHOLD = 0.1, 1.0
ROWS = 400
SAFE_ROWS, TRUSTED = 1.2, 0.3  # for every noisy row
CURVE = 50  # steps between two readings of what is learned and forgotten
KINDS = ("bias", "toxicity", "harmfulness", "mixed")
SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75)
# Label-free ones; the oracle and chance stand beside them by definition.
COMPARED = tuple(name for name in RIVALS if name != "oracle")


@dataclass(frozen=True)
class Asked:
    """How large everything is.

    Attributes:
        size: of the islet's models; rows: noisy ones of a mixture; steps: of tuning on safe rows.
    """

    size: str
    worlds: Sequence[int]
    rows: int
    steps: int

    @property
    def trusted(self) -> int:
        """Task rows that somebody checked."""
        return round(TRUSTED * self.rows)

    def mixture(self, kind: str, share: float, **more: Any) -> dict[str, Any]:
        """Noisy rows of a kind of harm in every world."""
        return {
            "kind": f"islet-{kind}/{{world}}",
            "share": share,
            "tasks": [f"{name}/{{world}}" for name in TASKS],
            "rows": self.rows,
            "safe_rows": round(SAFE_ROWS * self.rows),
            "trusted": self.trusted,
            **more,
        }

    def filter(self, name: str, by: str = "likelihood", **more: Any) -> dict[str, Any]:
        """A filter on a mixture, its false rejections bounded."""
        rule = {} if {"threshold", "share"} & more.keys() else {"false_rejections": LEVEL}
        return {
            "noisy": {"mixture": name},
            "safe": {"mixture": name, "part": "safe"},
            "trusted": {"mixture": name, "part": "trusted"},
            "by": by,
            "set_aside": 0.25,
            "steps": self.steps,
            **TUNING,
            **rule,
            **more,
        }

    def rule_at(self, share: float) -> dict[str, Any]:
        """A promised level, or a threshold where so few planted rows can prove nothing."""
        return {} if share * LEVEL * (self.trusted + 1) >= 1 else {"threshold": THRESHOLD}

    def study(self, part: str, suites: Sequence[str], limit: int, **more: Any) -> dict[str, Any]:
        """What all parts have in common."""
        return {
            "name": f"unsafe-{part}-{self.size}",
            "model": f"islet:aligned-{self.size}/{{world}}",
            "worlds": list(self.worlds),
            "keep": "adapters",
            "suites": [f"islet:{name}/{{world}}" for name in suites],
            "limit": min(limit, self.rows),
            **more,
        }


def strategies(asked: Asked) -> dict[str, Any]:
    """Every strategy on toxic rows, with look-alikes among the good ones."""
    name = "toxicity 25 %"
    return asked.study(
        "strategies",
        ("claims", "harmless", "inn"),
        150,
        safety_prompt="be fair.",
        mixtures={name: asked.mixture("toxicity", 0.25, hard=0.5)},
        filters={"forget": asked.filter(name, curves=CURVE)},
        **chains_for(name, "forget", TUNING, safety=SAFETY),
    )


def harm_avoided(asked: Asked, kind: str) -> dict[str, Any]:
    """Nothing done, the filter and an oracle on another kind of unsafe rows, asked both ways."""
    suites = [one.suite.removeprefix("islet:") for one in ISLET[f"islet-{kind}"]]
    return asked.study(
        kind,
        (*suites, "inn"),
        150,
        safety_prompt="be fair.",
        mixtures={kind: asked.mixture(kind, 0.25)},
        filters={"forget": asked.filter(kind)},
        **chains_for(kind, "forget", TUNING, wanted=(NONE, CORRECTION, FILTER, BOTH, ORACLE)),
    )


def filters_only(
    part: str, asked: Asked, mixtures: Mapping[str, Mapping[str, Any]], filters: Mapping[str, Any]
) -> dict[str, Any]:
    """A study of filters. It needs a chain, which is as short as can be: one step on good rows."""
    data = {"mixture": next(iter(mixtures)), "part": "clean"}
    return asked.study(
        part,
        ("claims",),
        10,
        mixtures=dict(mixtures),
        filters=dict(filters),
        stages={"clean": {"data": data, "update": "lora", "max_steps": 1}},
        chains={"clean": ["clean"]},
    )


def kinds(asked: Asked) -> dict[str, Any]:
    """Every kind at 25 %, with and without look-alikes, all rivals; and a wrong-kind safe set."""
    mixtures = {kind: asked.mixture(kind, 0.25) for kind in KINDS}
    mixtures["toxicity, hard"] = asked.mixture("toxicity", 0.25, hard=0.5)
    mixtures["toxicity, wrong safe set"] = asked.mixture(
        "toxicity", 0.25, safe_kind="islet-harmfulness/{world}"
    )
    filters = {}
    for name in mixtures:
        filters[name] = asked.filter(name)
        if name in ("toxicity", "toxicity, hard", "bias"):
            for rival in COMPARED:
                filters[f"{name} by {rival}"] = asked.filter(name, rival)
    return filters_only("kinds", asked, mixtures, filters)


def shares(asked: Asked) -> dict[str, Any]:
    """Toxic rows from 1 to 75 %."""
    mixtures = {f"toxicity {share:.0%}": asked.mixture("toxicity", share) for share in SHARES}
    rules = dict(zip(mixtures, map(asked.rule_at, SHARES), strict=True))
    filters = {name: asked.filter(name, **rule) for name, rule in rules.items()}
    return filters_only("shares", asked, mixtures, filters)


def rare(asked: Asked) -> dict[str, Any]:
    """1 % of toxic rows, two more draws in every world."""
    mixtures = {f"draw {draw}": asked.mixture("toxicity", 0.01, draw=draw) for draw in (1, 2)}
    filters = {name: asked.filter(name, **asked.rule_at(0.01)) for name in mixtures}
    return filters_only("rare", asked, mixtures, filters)


def ablations(asked: Asked) -> dict[str, Any]:
    """Steps, threshold, and size of the safe set, at 25 % of toxic rows."""
    mixtures = {"toxicity": asked.mixture("toxicity", 0.25)}
    filters = {}
    for steps in (asked.steps // 10, 3 * asked.steps // 10, 3 * asked.steps):
        filters[f"{steps} steps"] = asked.filter("toxicity", steps=max(1, steps))
    for threshold in (0.1, 1.0, 3.0):
        rule = {"threshold": threshold, "force": True}
        filters[f"threshold {threshold:g}"] = asked.filter("toxicity", **rule)
    for part in (4, 2):
        count = asked.rows // part
        mixtures[f"{count} safe"] = asked.mixture("toxicity", 0.25, safe_rows=count)
        rule = {"threshold": THRESHOLD, "force": True}
        filters[f"{count} safe rows"] = asked.filter(f"{count} safe", **rule)
    return filters_only("ablations", asked, mixtures, filters)


def verdicts(store: Store, keys: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Filter → what it is worth in every world, and the means over worlds."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for key_name, key in sorted(keys.items()):
        name = key_name.rpartition("#")[0]
        found = store.get("filter", key)
        if found is None:
            continue
        facts = found.manifest["facts"]
        one = {**facts["verdict"], "everything": facts["everything"]["f1"]}
        one["promised"], one["warnings"] = facts["level"], facts["warnings"]
        gone = one["rejected"]
        one["false share"] = 1 - one["precision"] if gone else 0.0
        by_name.setdefault(name, []).append(one)
    return {name: summary(many) for name, many in by_name.items()}


def summary(many: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One filter over worlds."""
    names = ("f1", "best_f1", "auroc", "average_precision", "recall_at_1", "recall", "false share")
    found: dict[str, Any] = {
        name: over([np.nan if one[name] is None else one[name] for one in many])
        for name in (*names, "seconds")
    }
    found["flag everything"] = many[0]["everything"]
    found["promised"] = many[0]["promised"]
    found["within"] = sum(one["false share"] <= (one["promised"] or 1) for one in many)
    found["runs"] = len(many)
    found["warnings"] = sorted({line for one in many for line in one["warnings"]})
    return found


def pooled(store: Store, keys: Mapping[str, str]) -> dict[str, Any]:
    """All rows of many runs together: what 1 % of a few hundred rows can tell."""
    ranks, truth, clusters = [], [], []
    for number, key in enumerate(sorted(keys.values())):
        found = store.get("filter", key)
        if found is None:
            continue
        scores = np.load(found.file("scores.npy"), allow_pickle=False)
        marks = np.load(found.file("truth.npy"), allow_pickle=False)
        # Runs differ in scale: a row's place among its own run's good rows is what they share.
        good = np.sort(scores[~marks & ~np.isnan(scores)])
        rank = np.searchsorted(good, scores, side="right") / len(good)
        ranks.append(np.where(np.isnan(scores), np.nan, rank))
        truth.append(marks)
        clusters += [f"{number}/{row}" for row in range(len(marks))]
    if not ranks:
        return {}
    scores, marks = np.concatenate(ranks), np.concatenate(truth)
    return {"runs": len(ranks), **verdict_of("pooled", scores, marks, clusters=clusters).to_dict()}


def measured(part: str, asked: Asked, store: Store) -> tuple[dict[str, Any], StudyResult]:
    """What one part comes to, as far as its steps came to their end."""
    started = time.process_time()
    makers = {f.__name__: f for f in (strategies, kinds, shares, rare, ablations)}
    content = makers[part](asked) if part in makers else harm_avoided(asked, part)
    result = run_study(make_study(content), store, progress=ConsoleProgress())
    keys: Mapping[str, str] = result.run.settings["filters"]
    found: dict[str, Any] = {"filters": verdicts(store, keys), "notes": result.notes}
    if part == "strategies" or part not in makers:
        harms = ISLET["islet-toxicity" if part in makers else f"islet-{part}"]
        rows, ends = ledger(result.run, store), ends_of(result.run)
        placed = places(rows, harms, TASKS[:1], STRATEGIES, ends=ends)
        found["avoided"] = avoided(placed)
        found["places"] = [vars(place) for place in placed]
    if part == "rare":
        found["pooled"] = pooled(store, keys)
    found["failed"] = result.failed
    found["core_minutes"] = round((time.process_time() - started) / 60, 2)
    return found, result


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, nargs="+", default=[3, 4, 5, 6, 7])
    parser.add_argument("--size", choices=("tiny", "small"), default="tiny")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--rows", type=int, default=ROWS, help="noisy rows of a mixture")
    parser.add_argument("--steps", type=int, default=STEPS, help="of tuning on safe rows")
    parser.add_argument("--out", type=Path, default=RESULTS / "unsafe-islet.json")
    said = parser.parse_args()
    torch.set_num_threads(1)
    asked = Asked(said.size, said.worlds, said.rows, said.steps)
    store = Store()
    for world in asked.worlds:
        build.build(build.Order(world, asked.size, "aligned"), store, ConsoleProgress())
    about = {
        "size": asked.size,
        "worlds": list(asked.worlds),
        "settings": {"tuning": TUNING, "steps": asked.steps, "level": LEVEL, "rows": asked.rows},
    }
    found: dict[str, Any] = json.loads(said.out.read_text()) if said.out.is_file() else {}
    if {name: found.get(name) for name in about} != about:
        found = dict(about)
    found |= {"hardware": environment.processor(), "versions": environment.versions()}
    for part in said.part:
        found[part], result = measured(part, asked, store)
        said.out.parent.mkdir(parents=True, exist_ok=True)
        said.out.write_text(json.dumps(plain(found), indent=1) + "\n")
        check_complete(result)  # what there is, is written
    print(json.dumps(plain(found), indent=1))


if __name__ == "__main__":
    main()
