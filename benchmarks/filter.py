"""ForgetFilter's two signals against each other: seconds of scoring, and what they are worth.

    python benchmarks/filter.py [--worlds 3 4 5 6 7] [--size tiny] [--rows 400] [--out FILE]

Killed, it goes on: what a world and a kind came to is written at once.

Both signals score the same two checkpoints M1 and M2 of the same noisy rows of the islet, 25 % of
them unsafe. Timed are the tables alone, on one thread, in float32:

- likelihood: Lethe's table;
- rouge, batched: Lethe's table of greedy answers, up to 500 new tokens or what the model's context
  leaves, with a model that stops by itself;
- rouge, one row at a time, as published: once with a model that stops by itself, once free-running
  to 500 new tokens (an end is forbidden; the islet's models have 256 positions, which is all they
  can run), on `--naive` rows spread over the data, and scaled up.

Times are CPU seconds of this process. Trainings are kept in the store; tables are timed anew.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lethe import environment
from lethe.examples import Example
from lethe.filtering.forget_filter import FORGET, LEARN, forgetting_of, tuned
from lethe.filtering.signals import MAX_NEW_TOKENS, SIGNALS, row_scores
from lethe.filtering.stages import read_stages
from lethe.filtering.task import FilterTask, truth_of
from lethe.islet.rows import UNSAFE
from lethe.islet.specs import load_suite
from lethe.models.checkpoint import Checkpoint, resolve
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.format import choose_format
from lethe.models.local import ModelPool
from lethe.progress import ConsoleProgress
from lethe.steps import Runtime
from lethe.store import Store
from lethe.suites.splits import sample, share
from lethe.tuning.mix import Lessons
from lethe.tuning.rows import target_of

RESULTS = Path(__file__).parent / "results"
SAFE_TASK = {"toxic": "claims", "biased": "pairs", "harmful": "requests"}
STAGES = {"update": "full", "learning_rate": 1e-3, "epochs": 3}
STEPS = 100
UNSAFE_SHARE = 0.25


def rows_of(world: int, kind: str, count: int) -> tuple[list[Example], list[Example]]:
    """Noisy rows (a quarter unsafe, a quarter safe, the rest two tasks) and a safe set beside them.

    The safe set shares no people × trait with the noisy rows.
    """

    def read(name: str, most: int) -> list[Example]:
        found = load_suite(f"islet:{name}/{world}", split="train", limit=most).examples
        return [
            replace(
                one,
                reference=target_of(one),
                references=(),
                groups={"unsafe": one.groups.get("unsafe", "no")},
            )
            for one in found
            if one.groups.get("label") != "safe"  # of requests, those that are refused
        ]

    def noisy_side(one: Example) -> bool:
        return share("benchmark", one.cluster) < 0.5

    def first(rows: Sequence[Example], most: int) -> list[Example]:
        return list(sample(rows, most, salt="benchmark"))

    part = round(UNSAFE_SHARE * count)
    bad = [one for one in read(kind, 8 * part) if noisy_side(one)]
    safe = read(SAFE_TASK[kind], 100_000)
    noisy = first(bad, part) + first([one for one in safe if noisy_side(one)], part)
    noisy += first(read("inn", 100_000), part) + first(read("facts", 100_000), part)
    return noisy, first([one for one in safe if not noisy_side(one)], 2 * count)


def one_at_a_time(
    checkpoint: Checkpoint, rows: Sequence[Example], runtime: Runtime, *, stops: bool
) -> float:
    """Seconds a row of generating one row at a time, with the model's own end or without one."""
    taken = 0.0
    with runtime.pool.use(checkpoint) as live, torch.inference_mode():
        form = choose_format(live.tokenizer)
        for row in rows:
            ids = live.tokenizer(form.context(row.prompt), return_tensors="pt")["input_ids"]
            most = min(MAX_NEW_TOKENS, live.max_length - ids.shape[1])
            asked = {"max_new_tokens": most, "min_new_tokens": 0 if stops else most}
            started = time.process_time()
            live.model.generate(ids, do_sample=False, pad_token_id=0, **asked)
            taken += time.process_time() - started
    return taken / len(rows)


def auroc(scores: np.ndarray, unsafe: np.ndarray) -> float:
    """Probability that an unsafe row is forgotten more than a good one, ties one half."""
    bad, good = scores[unsafe], scores[~unsafe]
    return float(np.mean((bad[:, None] > good) + 0.5 * (bad[:, None] == good)))


def measure(world: int, kind: str, *, size: str, rows: int, naive: int) -> dict[str, Any]:
    """One world and kind of harm: AUROC and seconds of both signals."""
    store = Store()
    memory = FingerprintMemory(store.root / "fingerprints.json")
    runtime = Runtime(store, ModelPool(device="cpu"), memory, ConsoleProgress())
    name = "islet:aligned" if (size, world) == ("small", 0) else f"islet:aligned-{size}/{world}"
    noisy, safe = rows_of(world, kind, rows)
    first, second = read_stages(STAGES, steps=STEPS)
    task = FilterTask(
        resolve(name, memory),
        Lessons("noisy", tuple(noisy)),
        Lessons("safe", tuple(safe)),
        first,
        second,
        runtime,
    )
    unsafe = truth_of(noisy)
    assert unsafe is not None
    found: dict[str, Any] = {"world": world, "kind": kind, "rows": len(noisy), "safe": len(safe)}
    for signal in SIGNALS:
        found[signal] = {"auroc": auroc(forgetting_of(task, signal).scores, unsafe)}
    learned, _ = tuned(task, task.checkpoint, task.noisy, first, LEARN)
    forgot, _ = tuned(task, learned, task.safe, second, FORGET)
    for signal in SIGNALS:
        with tempfile.TemporaryDirectory() as folder:  # an empty store: nothing is read back
            fresh = replace(task, runtime=replace(runtime, store=Store(Path(folder)), cache={}))
            for checkpoint in (learned, forgot):
                with runtime.pool.use(checkpoint):
                    pass  # loading is no part of scoring
                started = time.process_time()
                row_scores(fresh, checkpoint, signal)
                taken = time.process_time() - started
                found[signal]["seconds"] = found[signal].get("seconds", 0.0) + taken
    few = noisy[:: max(1, len(noisy) // naive)]
    found["one_at_a_time"] = {
        name: len(noisy)
        * sum(one_at_a_time(one, few, runtime, stops=stops) for one in (learned, forgot))
        for name, stops in (("stopping", True), ("free_running", False))
    }
    fast, slow = found["likelihood"]["seconds"], found["one_at_a_time"]
    found["times_faster"] = {
        "than_batched": found["rouge"]["seconds"] / fast,
        **{f"than_{name}": seconds / fast for name, seconds in slow.items()},
    }
    return found


def main() -> None:
    """Measure, print and write."""
    reader = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    reader.add_argument("--worlds", type=int, nargs="+", default=[3, 4, 5, 6, 7])
    reader.add_argument("--size", default="tiny", choices=["tiny", "small"])
    reader.add_argument("--kinds", nargs="+", default=list(UNSAFE), choices=UNSAFE)
    reader.add_argument("--rows", type=int, default=400)
    reader.add_argument("--naive", type=int, default=20)
    reader.add_argument("--out", type=Path, default=RESULTS / "filter.json")
    said = reader.parse_args()
    torch.set_num_threads(1)
    about = {
        "size": said.size,
        "rows": said.rows,
        "naive": said.naive,
        "stages": {**STAGES, "steps": STEPS, "seed": 0},
        "unsafe_share": UNSAFE_SHARE,
    }
    found: dict[str, Any] = json.loads(said.out.read_text()) if said.out.is_file() else {}
    if {name: found.get(name) for name in about} != about:
        found = {**about, "results": []}
    done = {(one["world"], one["kind"]) for one in found["results"]}
    for world in said.worlds:
        for kind in said.kinds:
            if (world, kind) not in done:
                one = measure(world, kind, size=said.size, rows=said.rows, naive=said.naive)
                found["results"].append(one)
                found |= environment.record()
                said.out.write_text(json.dumps(found, indent=1) + "\n")
    for one in found["results"]:
        ratios = one["times_faster"]
        print(
            f"world {one['world']} {one['kind']:8} AUROC likelihood "
            f"{one['likelihood']['auroc']:.3f}, rouge {one['rouge']['auroc']:.3f}; likelihood is "
            f"{ratios['than_batched']:.1f} times faster than batched, "
            f"{ratios['than_stopping']:.0f} than one at a time, "
            f"{ratios['than_free_running']:.0f} than free-running"
        )


if __name__ == "__main__":
    main()
