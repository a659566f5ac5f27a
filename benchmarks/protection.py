"""Protected updates against LoRA: seconds a step in one run, memory, and the forecast's worth.

Needs a model folder and the suites' data (LETHE_DATA, or the hub):

    python benchmarks/protection.py MODEL [--quick]

1. Time: the same batches go through LoRA, nullspace and contrast in turn, step by step, so that
   whatever else the machine does falls on all of them alike; medians over the steps, as ratios.
2. Memory: bytes of the factors beside those of a full P for every layer input.
3. Forecast: a stage of each update on the task with three protected suites. What was forecast for
   each is held against KL(parent‖tuned) on its held-out answers for each nat on the task's.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lethe import environment, suites
from lethe.models.checkpoint import resolve
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.format import choose_format
from lethe.models.local import choose_device, load_model, load_tokenizer, quiet
from lethe.tuning import updates
from lethe.tuning.calibration import Calibration
from lethe.tuning.forecast import Forecast, score_forecasts
from lethe.tuning.protect import Protected, ProtectedRows, protected_rows
from lethe.tuning.rows import TuningRow, tokenise
from lethe.tuning.settings import read_settings
from lethe.tuning.stage import tune
from lethe.tuning.updates.projection import ProjectedLinear, factor_memory

RESULT = Path(__file__).parent / "results" / "protection.json"
TASK = "hotel"
KEPT = ("dolly", "toxigen", "bbq:Age")
COMPARED = ("lora", "nullspace", "contrast")
ROWS = 16  # of a batch


def worn(name: str, module: Any, sources: Sequence[ProtectedRows], rows: list[TuningRow]) -> Any:
    """The module in an update with its default settings."""
    update = updates.find(name)
    torch.manual_seed(0)
    with quiet():
        if update.calibrated:
            return update.prepare(module, Calibration(sources, rows))
        return update.prepare(module)


def one_step(model: Any, optimizer: Any, name: str, batch: dict[str, torch.Tensor]) -> float:
    """Seconds of a forward pass, a backward pass and a step."""
    started = time.perf_counter()
    model(**batch).loss.backward()
    optimizer.step()
    after = updates.find(name).after_step
    if after is not None:
        after(model)
    optimizer.zero_grad()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def step_times(
    base: Any, sources: Sequence[ProtectedRows], rows: list[TuningRow], steps: int
) -> dict[str, Any]:
    """Medians, as ratios to LoRA's, and the factors' memory."""
    models = {name: worn(name, copy.deepcopy(base), sources, rows) for name in COMPARED}
    optimizers = {
        name: torch.optim.AdamW(
            [weight for weight in model.parameters() if weight.requires_grad], lr=1e-4, fused=True
        )
        for name, model in models.items()
    }
    width = int(median(len(row.ids) for row in rows))
    draw = torch.Generator().manual_seed(0)
    times: dict[str, list[float]] = {name: [] for name in COMPARED}
    for step in range(steps + 3):
        ids = torch.randint(5, base.config.vocab_size, (ROWS, width), generator=draw)
        batch = dict.fromkeys(("input_ids", "labels"), ids.to(base.device))
        turn = COMPARED[step % 3 :] + COMPARED[: step % 3]
        taken = {name: one_step(models[name], optimizers[name], name, batch) for name in turn}
        if step >= 3:  # warm
            for name, seconds in taken.items():
                times[name].append(seconds)
    ratios = {
        name: median(own / lora for own, lora in zip(times[name], times["lora"], strict=True))
        for name in COMPARED
    }
    full = {m.vectors.data_ptr(): 4 * m.in_features**2 for m in projected(models["nullspace"])}
    return {
        "tokens_a_step": ROWS * width,
        "seconds_a_step_over_lora": ratios,
        "factor_bytes": {name: factor_memory(models[name]) for name in COMPARED[1:]},
        "full_projection_bytes": sum(full.values()),
    }


def projected(model: Any) -> list[ProjectedLinear]:
    """Its projected layers."""
    return [module for module in model.modules() if isinstance(module, ProjectedLinear)]


def forecasts(
    model: str, protect: Sequence[Protected], task: Any, steps: int, memory: FingerprintMemory
) -> dict[str, Any]:
    """What was forecast and what happened, for every update that protects."""
    found: dict[str, Any] = {}
    scored: list[Forecast] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in COMPARED[1:]:
            result = tune(
                model,
                task,
                settings=read_settings({"update": name, "max_steps": steps, "learning_rate": 1e-3}),
                out=Path(folder) / name,
                partial=Path(folder) / "partial",
                memory=memory,
                protect=protect,
            )
            assert result.protection is not None
            own = [
                Forecast(one["source"], one["exposure"], one["plain"], one["happened"])
                for one in result.protection["forecasts"]
            ]
            scored += own
            found[name] = {
                "loss": [result.loss[0][1], result.loss[-1][1]],
                "divergence": result.divergence,
                "forecasts": [one.to_dict() for one in own],
                "notes": result.protection["notes"],
            }
    score = score_forecasts(scored)
    if score is not None:
        found["score"] = {
            "count": score.count,
            "concordant": score.concordant,
            "off_by_factor": score.factor,
        }
    return found


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--training-steps", type=int, default=100, help="0: no forecast")
    parser.add_argument("--rows", type=int, default=120, help="protected rows of each suite")
    parser.add_argument("--quick", action="store_true", help="few steps and rows; nothing is kept")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.steps, chosen.training_steps, chosen.rows = 2, 2, 16
    with tempfile.TemporaryDirectory() as folder:
        memory = FingerprintMemory(Path(folder) / "hashes.json")
        at = resolve(chosen.model, memory)
        base, tokenizer = load_model(at, device=choose_device()), load_tokenizer(at)
        form = choose_format(tokenizer)
        task = suites.training_examples(TASK, limit=5 * chosen.rows)
        rows = tokenise(task, tokenizer, form, max_length=512)
        protect = [
            Protected(name, suites.load(name, split="protect", limit=chosen.rows).examples)
            for name in KEPT
        ]
        sources = [protected_rows(one, tokenizer, form, max_length=512) for one in protect]
        result: dict[str, Any] = {"settings": vars(chosen) | {"model": at.name}}
        result |= step_times(base, sources, rows, chosen.steps)
        print(json.dumps(result, indent=1), flush=True)
        del base
        if chosen.training_steps:
            result["forecast"] = forecasts(
                chosen.model, protect, task, chosen.training_steps, memory
            )
    print(json.dumps(result, indent=1))
    if not chosen.quick:
        content = {
            **result,
            "threads": torch.get_num_threads(),
            **environment.record(choose_device()),
        }
        RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
