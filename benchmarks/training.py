"""How fast a stage trains: Lethe against TRL's SFT, as it comes and at its best settings.

Same model, same token rows, same targets, float32, one process, interleaved repeats: one pass over
replies of the booking agent in SGD dialogues (LETHE_DATA, or the hub), by LoRA or with all weights.

    python benchmarks/training.py MODEL [--update lora|full] [--rows 800] [--repeats 5] [--quick]

Counted are target tokens a second of the training loop; loading, tokenising and saving are apart on
all sides. Learning rate, schedule, batch size, updates and adapter are the same on all sides.
  defaults  SFTConfig as it comes, but for the processor, float32 and what was just named
  best      also without gradient checkpointing, and rows of like length share a batch
Packing is left out: it takes other batches, so equal updates would not be equal training. The last
line holds ratios, Lethe's tokens a second over TRL's; losses are means over the last quarter.
"""

import argparse
import gc
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from lethe import environment, suites
from lethe.errors import InputError
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.format import choose_format
from lethe.models.local import quiet
from lethe.tuning.rows import TuningRow, tokenise
from lethe.tuning.stage import read_settings, tune

RESULT = Path(__file__).parent / "results" / "training.json"
SUITE = "hotel_reply"
BATCH_SIZE = 8
RATES = {"lora": 2e-4, "full": 1e-4}
RANK, ALPHA = 16, 32
MAX_LENGTH = 512


@dataclass(frozen=True)
class Trained:
    """One training: seconds of its loop, and its loss over the last quarter of its steps."""

    seconds: float
    loss: float


@dataclass(frozen=True)
class Task:
    """What all sides train on."""

    model: str
    update: str
    examples: tuple[Any, ...]
    rows: list[TuningRow]

    @property
    def targets(self) -> int:
        """Tokens that bear the loss."""
        return sum(row.targets for row in self.rows)

    @property
    def steps(self) -> int:
        """Optimiser steps of one pass."""
        return -(-len(self.rows) // BATCH_SIZE)


def make_task(model: str, update: str, count: int) -> Task:
    """The same rows for all sides; examples that are too long are left out for all."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    form = choose_format(tokenizer)
    examples = suites.training_examples(SUITE, limit=count)
    fitting, rows = [], []
    for example in examples:
        try:
            rows += tokenise([example], tokenizer, form, max_length=MAX_LENGTH)
        except InputError:  # too long
            continue
        fitting.append(example)
    return Task(model, update, tuple(fitting), rows)


def by_lethe(task: Task, seed: int, folder: Path) -> Trained:
    """One stage, as `lethe tune` runs it."""
    said: dict[str, Any] = {"rank": RANK, "alpha": ALPHA} if task.update == "lora" else {}
    settings = read_settings(
        {
            "update": task.update,
            "learning_rate": RATES[task.update],
            "epochs": 1.0,
            "batch_size": BATCH_SIZE,
            "max_length": MAX_LENGTH,
            "warmup": 0.0,
            "held_out": 0,
            "precision": "float32",
            "seed": seed,
            **said,
        }
    )
    memory = FingerprintMemory(folder / "hashes.json")
    found = tune(
        task.model,
        task.examples,
        settings=settings,
        out=folder / "out",
        partial=folder / "partial",
        memory=memory,
    )
    assert found.target_tokens == task.targets  # the very same work
    assert found.steps == task.steps
    losses = [loss for step, loss in found.loss if step > 0.75 * task.steps]
    return Trained(found.seconds, mean(losses))


def by_trl(task: Task, seed: int, folder: Path, **settings: Any) -> Trained:
    """TRL's SFTTrainer on the same token rows."""
    model = AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(task.model)
    columns = {
        "input_ids": [list(row.ids) for row in task.rows],
        "labels": [row.labels for row in task.rows],
    }
    config = SFTConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        num_train_epochs=1,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=RATES[task.update],
        seed=seed,
        logging_steps=min(10, max(1, task.steps // 8)),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        **settings,
    )
    adapter = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
        peft_config=adapter if task.update == "lora" else None,
    )
    trainer.remove_callback(PrinterCallback)
    started = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - started
    assert trainer.state.global_step == task.steps
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Trained(seconds, mean(e["loss"] for e in logged if e["step"] > 0.75 * task.steps))


SIDES: dict[str, Callable[[Task, int, Path], Trained]] = {
    "lethe": by_lethe,
    "defaults": by_trl,
    "best": lambda task, seed, folder: by_trl(
        task,
        seed,
        folder,
        gradient_checkpointing=False,
        train_sampling_strategy="group_by_length",
        dataloader_pin_memory=False,
    ),
}


def compare(task: Task, repeats: int) -> dict[str, list[Trained]]:
    """Every side once in each repeat, the first in turn; one untimed round of few steps before."""
    warm = Task(task.model, task.update, task.examples[:16], task.rows[:16])
    found: dict[str, list[Trained]] = {name: [] for name in SIDES}
    names = list(SIDES)
    for repeat in range(-1, repeats):
        for name in names[max(repeat, 0) % 3 :] + names[: max(repeat, 0) % 3]:
            folder = Path(tempfile.mkdtemp(prefix="lethe-training-"))
            try:
                with quiet(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    trained = SIDES[name](warm if repeat < 0 else task, max(repeat, 0), folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            gc.collect()
            if repeat >= 0:
                found[name].append(trained)
                print(
                    f"{repeat} {name:8} {task.targets / trained.seconds:8.1f} target tokens/s  "
                    f"loss {trained.loss:.3f}",
                    flush=True,
                )
    return found


def summary(task: Task, found: dict[str, list[Trained]]) -> dict[str, Any]:
    """Ratios within each repeat, and whether the losses agree."""
    result: dict[str, Any] = {}
    for rival in ("defaults", "best"):
        ratios = [
            theirs.seconds / ours.seconds
            for ours, theirs in zip(found["lethe"], found[rival], strict=True)
        ]
        gaps = [
            ours.loss - theirs.loss
            for ours, theirs in zip(found["lethe"], found[rival], strict=True)
        ]
        result[rival] = {
            "ratio": median(ratios),
            "low": min(ratios),
            "high": max(ratios),
            "loss_gap": mean(gaps),
            "loss_gap_sd": stdev(gaps) if len(gaps) > 1 else None,
        }
    losses = {name: [one.loss for one in held] for name, held in found.items()}
    return {
        "rows": len(task.rows),
        "targets": task.targets,
        "tokens": sum(len(row.ids) for row in task.rows),
        "steps": task.steps,
        "losses": losses,
        **result,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--update", choices=sorted(RATES), action="append")
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few rows, once; nothing is kept")
    asked = parser.parse_args(arguments)
    disable_progress_bars()
    rows, repeats = (24, 1) if asked.quick else (asked.rows, asked.repeats)
    found: dict[str, Any] = {}
    for update in asked.update or ["lora", "full"]:
        task = make_task(asked.model, update, rows)
        print(f"{update}: {len(task.rows)} rows, {task.targets} target tokens", flush=True)
        found[update] = summary(task, compare(task, repeats))
    for update, held in found.items():
        said = ", ".join(
            f"{held[rival]['ratio']:.2f} over {rival} "
            f"({held[rival]['low']:.2f}–{held[rival]['high']:.2f}; "
            f"loss {held[rival]['loss_gap']:+.3f})"
            for rival in ("defaults", "best")
        )
        print(f"{update}: {said}")
    if not asked.quick:
        content = {
            **found,
            "model": Path(asked.model).name,
            "repeats": repeats,
            "threads": torch.get_num_threads(),
            **environment.record(),
        }
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
