"""In-context learning before and after tuning on instructions, plainly and under prompt maps.

    python benchmarks/in_context.py islet [--worlds 3 4 5 6 7] [--split test] [--steps 30]
    python benchmarks/in_context.py tuned BASE TUNED [--suite in_context:all] [--limit N]

`islet` tunes the tiny pretrained model of each world on instructions about words in dialect 1
alone (2,000 of them, as chat), and asks it for the string tasks of that world: in dialect 1, where
half of the inputs read as such an instruction, and through the islet's dictionary in dialect 2.
The stage was chosen on world 0. `tuned` compares any two models on the benchmark of string tasks
against embedded instructions, under the spelling maps. Drops are paired by item, with intervals
over clusters.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from lethe.auditing import audit
from lethe.examples import Split
from lethe.models.fingerprint import FingerprintMemory
from lethe.probing.maps import load_map, map_suite
from lethe.progress import ConsoleProgress
from lethe.store import Store
from lethe.suites import load, training_examples
from lethe.tuning.stage import read_settings, tune

RESULTS = Path(__file__).parent / "results" / "in_context.json"
SPELLED = ("leetspeak", "pig_latin", "case", "caesar", "backwards")
RATE = 1e-3


def tuned_on_instructions(seed: int, steps: int) -> Path:
    """The tiny pretrained model of a world, tuned on its instructions in dialect 1."""
    store = Store()
    said = {"update": "full", "learning_rate": RATE, "max_steps": steps, "seed": seed}
    out = store.root / "in_context" / f"{seed}-{steps}-{RATE}"
    tune(
        f"islet:pretrained-tiny/{seed}",
        training_examples(f"islet:instructions/{seed}"),
        settings=read_settings(said, where="benchmark"),
        out=out,
        partial=store.root / "in_context" / "partial",
        memory=FingerprintMemory(store.root / "fingerprints.json"),
    )
    return out


def measure(
    base: str,
    tuned: str,
    spec: str,
    maps: tuple[str, ...],
    *,
    split: Split = "test",
    limit: int | None = None,
) -> Any:
    """Scores and drops of a suite, overall and by task and kind of input."""
    suite = load(spec, split=split, limit=limit)
    asked = [suite, *(map_suite(load_map(name), suite) for name in maps)]
    found = audit(base, tuned, asked, progress=ConsoleProgress())
    rows = []
    for one in asked:
        side = next(s for s in found.comparison.suites if s.suite == one.name)
        rows.append(
            {
                "suite": one.name,
                "n": side.n,
                "before": side.before.estimate,
                "after": side.after.estimate,
                "change": [
                    side.change.estimate,
                    side.change.low,
                    side.change.high,
                ],
                "groups": [
                    row
                    for row in found.groups(one.name).to_dicts()
                    if row["grouping"] in ("input", "task", "operation", "temptation")
                ],
            }
        )
    return {"base": base, "tuned": tuned, "rows": rows}


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    islet = verbs.add_parser("islet")
    islet.add_argument("--worlds", type=int, nargs="+", default=[3, 4, 5, 6, 7])
    islet.add_argument("--split", choices=("dev", "test"), default="test")
    islet.add_argument("--steps", type=int, default=30)
    pair = verbs.add_parser("tuned")
    pair.add_argument("base")
    pair.add_argument("tuned")
    pair.add_argument("--suite", default="in_context:all")
    pair.add_argument("--limit", type=int)
    asked = parser.parse_args()
    if asked.verb == "islet":
        for world in asked.worlds:
            tuned = str(tuned_on_instructions(world, asked.steps))
            base, spec = f"islet:pretrained-tiny/{world}", f"islet:strings/{world}"
            found = measure(base, tuned, spec, ("dialect",), split=asked.split)
            key = f"islet tiny, world {world}, {asked.split}, {asked.steps} steps"
            keep(key, found | {"tuned": "instructions in dialect 1"})
        return
    key = f"{Path(asked.base).name}, {Path(asked.tuned).name}, {asked.suite}"
    found = measure(asked.base, asked.tuned, asked.suite, SPELLED, limit=asked.limit)
    keep(key, found | {"base": Path(asked.base).name, "tuned": Path(asked.tuned).name})


def keep(key: str, found: Any) -> None:
    """Write a result beside the others, and print it."""
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(held | {key: found}, indent=1) + "\n")
    print(key)
    for row in found["rows"]:
        print(f"  {row['suite']}, n {row['n']}: {said(row['before'], row['after'])}", end=" ")
        print("[{1:+.3f}, {2:+.3f}]".format(*row["change"]), flush=True)
        for group in row["groups"]:
            if group["grouping"] == "input":
                print(f"    {group['group']}: {said(group['before'], group['after'])}")


def said(before: float, after: float) -> str:
    """A change in words."""
    return f"{before:.3f} to {after:.3f}, {after - before:+.3f}"


if __name__ == "__main__":
    main()
