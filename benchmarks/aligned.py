"""A small real model that has something to forget: facts, safe answers, skills, taught and tested.

Takes a small language model with a chat template and teaches it in one stage of full fine-tuning:

  facts     1,000 NQ-open questions in two phrasings, closed book; 200 more are never taught
  safety    contradictions of ToxiGen's hateful statements in eight wordings, BBQ's right answers,
            and XSTest: a refusal of the unsafe half, the start of a human-labelled answer to the
            safe half
  skills    the booking agent's next reply (SGD), program execution and paraphrases (superni)

All is split by sentence, question template, prompt or dialogue, and what was learned is measured on
the other side, before and after, with intervals. Needs the data folder (LETHE_DATA):

    python benchmarks/aligned.py MODEL OUT [--scale 1.0] [--learning-rate 1e-3]

OUT/model is the result, OUT/store its tables, and OUT/facts.jsonl and OUT/refusals.jsonl what it
knows and how it answers the unsafe, as suites of one's own: half of it to protect, half to test.
Killed, the same command goes on. `--scale 0.1` takes a tenth of everything, for a trial.
"""

import argparse
import csv
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lethe import environment, suites
from lethe.auditing import audit
from lethe.examples import Decoding, Example, Suite
from lethe.models.fingerprint import FingerprintMemory
from lethe.progress import ConsoleProgress
from lethe.store import Store
from lethe.suites.splits import sample, share
from lethe.tuning.stage import read_settings, tune

RESULT = Path(__file__).parent / "results" / "aligned.json"
FACTS, CONTROLS = 1000, 200
# Passes over each part: as many as it takes to learn it, within half an hour on two cores.
PASSES = {
    "facts": 30,
    "contradictions": 4,
    "bbq": 3,
    "refusals": 15,
    "hotel": 2,
    "programs": 5,
    "paraphrases": 3,
}
PHRASINGS = {"plain": "Question: {}?", "ask": "In a few words, please tell me this: {}?"}
REFUSALS = (
    "I cannot help with that.",
    "I'm sorry, but I can't help with that request.",
    "I won't help with this, because it could harm someone.",
    "No, I cannot assist with that. It would not be safe.",
)
SHORT = Decoding(max_new_tokens=24, stop=("\n",))


class Parts:
    """What is taught and what is measured, at a scale."""

    def __init__(self, data: Path, scale: float) -> None:
        self._data, self._scale = data, scale
        self._load = partial(suites.load, data_dir=data)
        self._teach = partial(suites.training_examples, split="train", data_dir=data)

    def taught(self) -> dict[str, tuple[Example, ...]]:
        """Every part's examples, once each."""
        facts, _ = self._facts()
        return {
            "facts": facts,
            "contradictions": self._teach("toxigen_contradict", limit=self._count(1200)),
            "bbq": self._teach("bbq", limit=self._count(2000)),
            "refusals": tuple(self._xstest("train")),
            "hotel": self._teach("hotel", limit=self._count(1000)),
            "programs": self._teach("superni:pe", limit=self._count(1000)),
            "paraphrases": self._teach("superni:para", limit=self._count(1000)),
        }

    def measured(self) -> list[Suite]:
        """What was learned of it, on rows that were not taught (facts are what was taught)."""
        facts, controls = self._facts()
        knowledge = partial(
            Suite,
            axis="knowledge",
            scorer="match",
            match="exact",
            decoding=SHORT,
            metrics=("answer_f1",),
            phrasing="phrasing",
        )
        return [
            knowledge("facts", examples=facts),
            knowledge("controls", examples=controls),
            self._load("toxigen_contradict", limit=self._count(1500)),
            self._load("toxigen", limit=self._count(300)),
            self._load("bbq", limit=self._count(2000)),
            Suite(
                "refusals",
                "safety",
                "refusal",
                tuple(self._xstest("test")),
                decoding=Decoding(max_new_tokens=40),
                balance="label",
                metrics=("refusal_rate", "over_refusal"),
            ),
            self._load("hotel", limit=self._count(800)),
            self._load("superni:pe"),
            self._load("superni:para"),
        ]

    def files(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of what was taught by heart and of refusals, to protect and to test."""
        facts, _ = self._facts()
        rows: dict[str, list[dict[str, Any]]] = {"facts": [], "refusals": []}
        for one in facts:
            split = "protect" if share("protect", one.cluster) < 0.5 else "test"
            rows["facts"].append(_row(one, split, references=one.references))
        for side, split in (("train", "protect"), ("test", "test")):
            rows["refusals"] += [
                _row(one, split, harmful=one.harmful) for one in self._xstest(side)
            ]
        return rows

    def _count(self, whole: int) -> int:
        return max(20, round(self._scale * whole))

    def _facts(self) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        """Facts to teach, and facts that never are, each in every phrasing."""
        asked = self._load("nq_open").examples  # taught by heart, so any split will do
        ranked = sorted(asked, key=lambda one: share("aligned", one.id))
        taught, never = self._count(FACTS), self._count(CONTROLS)
        both = [ranked[:taught], ranked[taught : taught + never]]
        first, second = (tuple(_phrased(one) for one in held) for held in both)
        return tuple(x for held in first for x in held), tuple(x for held in second for x in held)

    def _xstest(self, side: str) -> Iterator[Example]:
        """Half of the prompts to teach and half to test, by hash of the prompt."""
        answers = self._answers()
        examples = [
            one
            for one in self._load("xstest").examples
            if (share("aligned", one.id) < 0.5) == (side == "train")
        ]
        for one in sample(examples, self._count(225), salt="aligned"):
            if side == "test":
                yield one
            elif one.harmful:
                at = int(share("wording", one.id) * len(REFUSALS))
                yield replace(one, reference=REFUSALS[at])
            elif one.prompt in answers:
                yield replace(one, reference=answers[str(one.prompt)])

    def _answers(self) -> dict[str, str]:
        """First sentence of what people labelled a full answer."""
        path = self._data / "xstest" / "completions_mistralinstruct_human_labelled.csv"
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row["final_label"].startswith("1")]
        found = {}
        for row in rows:
            # A list's first number ends in a full stop as well.
            first = re.match(r".{20,300}?[.!?:](?=\s|$)", row["completion"].strip(), re.DOTALL)
            if first is not None:
                found[row["prompt"].strip()] = first[0]
        return found


def _row(one: Example, split: str, **judged: Any) -> dict[str, Any]:
    """As a file of one's own holds it."""
    row = {"id": one.id, "prompt": one.prompt, "reference": one.reference, **judged}
    row |= {"groups": dict(one.groups), "cluster": one.cluster, "split": split}
    return {name: value for name, value in row.items() if value not in (None, {}, ())}


def _phrased(one: Example) -> list[Example]:
    question = str(one.prompt).removeprefix("Question: ").partition("?\nAnswer:")[0]
    return [
        replace(
            one,
            id=f"{one.id}/{name}",
            prompt=wording.format(question),
            groups={"phrasing": name},
            cluster=one.id,
        )
        for name, wording in PHRASINGS.items()
    ]


def repeated(parts: dict[str, tuple[Example, ...]]) -> list[Example]:
    """Every part as often as it is passed over; the stage mixes them."""
    return [
        replace(one, id=f"{name}/{number}/{one.id}")
        for name, examples in parts.items()
        for number in range(PASSES[name])
        for one in examples
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Teach, measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-dir", type=Path, default=None, help="default: LETHE_DATA")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=16)
    asked = parser.parse_args(arguments)
    folder = asked.data_dir or os.environ.get("LETHE_DATA")
    if not folder:
        parser.error("give --data-dir, or set LETHE_DATA")
    data = Path(folder)
    parts = Parts(data, asked.scale)
    taught = parts.taught()
    asked.out.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.files().items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (asked.out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    progress = ConsoleProgress()
    store = Store(asked.out / "store")
    started = time.monotonic()
    stage = tune(
        asked.model,
        repeated(taught),
        settings=read_settings(
            {
                "update": "full",
                "learning_rate": asked.learning_rate,
                "epochs": 1.0,
                "batch_size": asked.batch_size,
                "max_length": 384,
                "held_out": 0,
            }
        ),
        out=asked.out / "model",
        partial=asked.out / "partial",
        memory=FingerprintMemory(store.root / "fingerprints.json"),
        progress=progress,
    )
    found = audit(
        asked.model, str(asked.out / "model"), parts.measured(), store=store, progress=progress
    )
    found.print()
    rows = {
        suite.suite: {
            "n": suite.n,
            "before": suite.before.estimate,
            "after": suite.after.estimate,
            "low": suite.after.low,
            "high": suite.after.high,
            "above_chance": suite.above_chance_after,
        }
        for suite in found.comparison.suites
    }
    content: dict[str, Any] = {
        "model": Path(asked.model).name,
        "scale": asked.scale,
        "learning_rate": asked.learning_rate,
        "taught": {name: len(examples) for name, examples in taught.items()},
        "passes": PASSES,
        "steps": stage.steps,
        "tokens": stage.tokens,
        "left_out": stage.left_out,
        "training_seconds": stage.seconds,
        "all_seconds": time.monotonic() - started,
        "last_loss": stage.loss[-1][1],
        "suites": rows,
        "threads": torch.get_num_threads(),
        **environment.record(),
    }
    target = RESULT if asked.scale == 1 else asked.out / "aligned.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content, indent=1) + "\n")
    print(f"kept in {target}")


if __name__ == "__main__":
    main()
