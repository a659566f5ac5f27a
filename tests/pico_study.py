"""Tiny tasks as files, and studies of them on a pico model."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = ("inn", "room", "night", "guest", "price", "red boat", "hotel", "late", "two", "kind")


def write_task(folder: Path, name: str, *, rows: int = 12, splits: Sequence[str] = ()) -> str:
    """A file of questions with two options, each split with its own; returns its path."""
    draw = random.Random(name)
    path = folder / f"{name}.jsonl"
    with path.open("w") as stream:
        for split in splits or ("train", "dev", "test"):
            for number in range(rows):
                words = " ".join(draw.choices(WORDS, k=3))
                row = {
                    "id": f"{name}-{split}-{number}",
                    "prompt": f"{name} {split} {number} {words}",
                    "choices": ["yes", "no"],
                    "answer": number % 2,
                    "groups": {"half": "ab"[number % 2]},
                    "split": split,
                }
                stream.write(json.dumps(row) + "\n")
    return str(path)


def task_study(
    folder: Path, model: Path | str, names: Sequence[str], **changes: Any
) -> dict[str, Any]:
    """A study that tunes on each of the tasks and measures all of them."""
    paths = {name: write_task(folder, name) for name in names}
    stage = {"update": "lora", "rank": 2, "max_steps": 2, "batch_size": 4, "held_out": 0}
    return {
        "name": "tasks",
        "model": str(model),
        "suites": list(paths.values()),
        "format": "plain",
        "stages": {
            name: {"data": path, "learning_rate": 1e-2, **stage} for name, path in paths.items()
        },
        "chains": {">".join(names): list(names)},
        **changes,
    }
