"""What a look of `ForgettingCallback` costs beside plain scoring of the same suites.

A seeded random Llama (width 256, 8 layers) is trained for a few steps with a look at each. A look
is everything the callback does: leaving the trainer untouched, scoring, the table in the store, the
bounds of the rules, logs. Plain scoring is `Engine.score` of the same token rows on the same
module, encoding and planning not counted on either side. CPU time of this process, one thread;
medians over looks and over repeats before and after the training. The last line is the ratio.

    python -m benchmarks.callback [--examples 600] [--looks 5]
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from lethe.answers import OptionAnswers
from lethe.callback import ForgettingCallback
from lethe.examples import Example, Suite
from lethe.models.checkpoint import Checkpoint
from lethe.models.engine import Engine
from lethe.models.format import Format
from lethe.models.local import LiveModel
from lethe.progress import Progress
from lethe.store import Store
from tests.pico import WORDS, pico_model, pico_tokenizer

RESULT = Path(__file__).parent / "results" / "callback.json"


def suite_of(name: str, count: int) -> Suite:
    """Questions of about sixty tokens with four options, in four groups."""
    draw, words = random.Random(name), WORDS.split()
    examples = tuple(
        Example(
            id=f"{name}{number}",
            prompt=f"{number} " + " ".join(draw.choices(words, k=55)),
            choices=tuple(" ".join(draw.choices(words, k=2)) + f" {at}" for at in range(4)),
            answer=number % 4,
            groups={"people": "abcd"[number % 4]},
        )
        for number in range(count)
    )
    return Suite(name, "safety" if name == "one" else "knowledge", "choice", examples)


class Timed(ForgettingCallback):
    """Notes the CPU time of every look."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.times: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> Any:
        """One look."""
        started = time.process_time()
        control = super().on_step_end(*args, **kwargs)
        self.times.append(time.process_time() - started)
        return control


def main() -> None:
    """Train, look, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=600)
    parser.add_argument("--looks", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = pico_tokenizer(chat=False)
    shape = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8}
    model = pico_model(len(tokenizer), num_attention_heads=8, num_key_value_heads=8, **shape)
    suites = [suite_of("one", asked.examples // 2), suite_of("two", asked.examples // 2)]
    ids = tokenizer(" ".join(WORDS.split() * 3))["input_ids"][:64]
    rows = [{"input_ids": ids, "labels": ids}] * 64
    engine = Engine(model)
    live = LiveModel(Checkpoint("live", Path(), ""), model, tokenizer, engine)
    encoded = [OptionAnswers.of(suite, Format("plain"), live).encoded for suite in suites]

    def plain() -> float:
        model.eval()
        started = time.process_time()
        for one in encoded:
            engine.score(one.rows)
        return time.process_time() - started

    with tempfile.TemporaryDirectory() as folder:
        callback = Timed(
            suites,
            every=1,
            stop=["safety < -0.9", "group(two) < -0.9"],
            keep_best="knowledge",
            format="plain",
            tokenizer=tokenizer,
            store=Store(Path(folder) / "store"),
            progress=Progress(),
        )
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=asked.looks,
            per_device_train_batch_size=8,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[callback])
        alone = [plain() for _ in range(3)]
        trainer.train()
        alone += [plain() for _ in range(3)]
    ratio = median(callback.times) / median(alone)
    result = {
        "examples": asked.examples,
        "looks": asked.looks,
        "option_trees": engine.branching,
        "look_over_plain_scoring": round(ratio, 3),
        "spread_of_looks": round(max(callback.times) / min(callback.times), 3),
        "spread_of_plain": round(max(alone) / min(alone), 3),
        "estimated_share": round(callback.estimated_share, 3),
        "share": round(callback.share, 3),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    print(f"a look takes {ratio:.2f} of the time of plain scoring")


if __name__ == "__main__":
    main()
