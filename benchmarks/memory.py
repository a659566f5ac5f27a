"""Memory of a training: what a plan estimates beside what it takes, for each update.

Every update trains a few steps in a process of its own, on replies of the booking agent in SGD
dialogues (LETHE_DATA, or the hub). Linux alone says what is asked of it here:

    python benchmarks/memory.py MODEL [--update full …] [--rows 40] [--batch-size 8] [--keep]

Measured is the highest resident memory (VmHWM) above what lay there once libraries and data were
loaded; the estimate is the plan's, without what it counts for libraries. A plan says at most how
much a step may take, so an estimate below the measured is a fault.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lethe import environment, suites
from lethe.models.fingerprint import FingerprintMemory
from lethe.store import Store
from lethe.studies.estimate import LIBRARIES, estimate
from lethe.studies.plan import build_plan
from lethe.studies.study import make_study
from lethe.tuning import updates

RESULT = Path(__file__).parent / "results" / "memory.json"
SUITE = "hotel_reply"
UPDATES = ("full", "lora", "nullspace", "contrast")
PROTECTED = {"suite": "dolly", "limit": 80}
STATUS = Path("/proc/self/status")


def stage_of(update: str, rows: int, batch_size: int) -> dict[str, Any]:
    """One pass over the rows, as a study says it."""
    stage: dict[str, Any] = {
        "data": {"suite": SUITE, "limit": rows},
        "update": update,
        "epochs": 1.0,
        "batch_size": batch_size,
        "held_out": 0,
    }
    return {**stage, "protect": [dict(PROTECTED)]} if updates.find(update).calibrated else stage


def estimated(model: str, stage: dict[str, Any]) -> int:
    """Bytes that a plan of this stage alone says, libraries apart.

    Raises:
        SystemExit: the model's configuration does not say its shape.
    """
    with tempfile.TemporaryDirectory() as folder:
        content = {
            "name": "memory",
            "model": model,
            "suites": ["hotel"],
            "limit": 1,
            "stages": {"one": stage},
            "chains": {"one": ["one"]},
        }
        store = Store(Path(folder))
        memory = FingerprintMemory(store.root / "hashes.json")
        found = estimate(build_plan(make_study(content), store, memory), store, memory)
    if found.peak_memory is None:
        raise SystemExit(f"{model}: the plan does not know the shape of this family")
    return found.peak_memory - LIBRARIES


def kilobytes(name: str) -> int:
    """A line of the process's own status, in bytes."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(lines[name].split()[0])


def trained(model: str, stage: dict[str, Any]) -> dict[str, int]:
    """Train in this process, and say what it took."""
    import peft  # noqa: F401
    import trl.trainer.sft_trainer  # noqa: F401

    from lethe.tuning.protect import Protected
    from lethe.tuning.stage import read_settings, tune

    asked = {name: value for name, value in stage.items() if name not in ("data", "protect")}
    protect = [
        Protected(
            one["suite"], suites.load(one["suite"], split="protect", limit=one["limit"]).examples
        )
        for one in stage.get("protect", [])
    ]
    examples = suites.training_examples(SUITE, limit=stage["data"]["limit"])
    gc.collect()
    start = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is the present
    with tempfile.TemporaryDirectory() as folder:
        result = tune(
            model,
            examples,
            settings=read_settings(asked),
            out=Path(folder) / "out",
            partial=Path(folder) / "partial",
            memory=FingerprintMemory(Path(folder) / "hashes.json"),
            protect=protect,
        )
    return {"start": start, "peak": kilobytes("VmHWM"), "steps": result.steps}


def measured(model: str, stage: dict[str, Any]) -> dict[str, int]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, model, "--alone", json.dumps(stage)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure each update, print both, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--update", choices=UPDATES, action="append")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/memory.json")
    parser.add_argument("--alone", type=json.loads, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.alone is not None:
        print(json.dumps(trained(chosen.model, chosen.alone)))
        return
    found = {}
    print("update       estimated    measured   (MiB above libraries and data)")
    for update in chosen.update or UPDATES:
        stage = stage_of(update, chosen.rows, chosen.batch_size)
        said, took = estimated(chosen.model, stage), measured(chosen.model, stage)
        above = took["peak"] - took["start"]
        found[update] = {"estimated": said, "measured": above, "ratio": said / above, **took}
        print(f"{update:10} {said / 2**20:11,.0f} {above / 2**20:11,.0f}", flush=True)
    if chosen.keep:
        settings = {"rows": chosen.rows, "batch_size": chosen.batch_size}
        content = {
            **found,
            "model": Path(chosen.model).name,
            **settings,
            **environment.record(),
        }
        RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
