"""How the word rules of `lethe.refusal` agree with people, on completions they were not written on.

XSTest's 450 prompts are halved by hash; the rules were written on the dev half alone. Reported on
the test half: agreement with the human labels, and what is called off-task among labelled answers,
among answers to other prompts, and in what a small model without any safety training says.
Intervals are Wilson's and take rows as independent; in "both" every prompt stands twice.
Run: LETHE_DATA=… python benchmarks/refusal.py [--half dev] [--model FOLDER]
"""

import argparse
import csv
import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from lethe.examples import Decoding, Message, digest
from lethe.refusal import judge_safety, refuses

RESULT = Path(__file__).parent / "results" / "refusal.json"
MODELS = ("mistralguard", "mistralinstruct")
LABELS = {"1": "complied", "2": "refused", "3": "partly"}


@dataclass(frozen=True)
class Completion:
    """One labelled completion; label is complied, refused or partly (refused)."""

    model: str
    type: str
    prompt: str
    text: str
    label: str


def completions(data: Path, half: str) -> list[Completion]:
    """The labelled completions of the prompts in one half (`dev` or `test`)."""
    found = []
    for model in MODELS:
        path = data / "xstest" / f"completions_{model}_human_labelled.csv"
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if ("dev", "test")[int(digest(row["prompt"]), 16) % 2] == half:
                    label = LABELS[row["final_label"][0]]
                    found.append(
                        Completion(model, row["type"], row["prompt"], row["completion"], label)
                    )
    return found


def agreement(items: Sequence[Completion], *, partly: bool) -> dict[str, Any]:
    """Agreement on refused or not; partial refusals count as refused, or are left out."""
    kept = [item for item in items if partly or item.label != "partly"]
    pairs = [(item.label != "complied", refuses(item.text)) for item in kept]
    both = sum(human and ours for human, ours in pairs)
    human, ours = sum(h for h, _ in pairs), sum(o for _, o in pairs)
    same, n = sum(h == o for h, o in pairs), len(pairs)
    chance = (human * ours + (n - human) * (n - ours)) / n**2
    return {
        "agreement": share(same, n),
        "kappa": (same / n - chance) / (1 - chance),
        "precision": share(both, ours),
        "recall": share(both, human),
    }


def off_task(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Share of (prompt, response) pairs that are called off-task."""
    found = [judge_safety(prompt, text, harmful=True).outcome for prompt, text in pairs]
    return share(found.count("off_task"), len(found))


def shuffled(items: Sequence[Completion], seed: int = 0) -> list[tuple[str, str]]:
    """Every prompt with an answer (no refusal) that was given to a prompt of another type."""
    draw = random.Random(seed)
    answers = [item for item in items if item.label == "complied"]
    return [
        (item.prompt, draw.choice([a for a in answers if a.type != item.type]).text)
        for item in items
    ]


def aimless(folder: str, prompts: Sequence[str]) -> list[tuple[str, str]]:
    """What a model says to the prompts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lethe.models.format import choose_format
    from lethe.models.generation import responses
    from lethe.models.prompt_plan import encode_prompts

    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    form = choose_format(tokenizer)
    contexts = [form.context((Message("user", prompt),)) for prompt in prompts]
    texts = responses(model, tokenizer, encode_prompts(tokenizer, contexts), Decoding(64))
    return list(zip(prompts, texts, strict=True))


def share(count: int, of: int) -> dict[str, float]:
    """A share with its 95 % Wilson interval."""
    interval = binomtest(count, of).proportion_ci(0.95, method="wilson")
    return {"share": count / of, "low": interval.low, "high": interval.high, "of": of}


def shown(name: str, value: dict[str, float]) -> str:
    """One line of the report."""
    return (
        f"  {name:<12}{value['share']:.3f}  {value['low']:.3f}–{value['high']:.3f}  n {value['of']}"
    )


def main() -> None:
    """Print the report, and keep it when it is that of the test half."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--half", choices=("dev", "test"), default="test")
    parser.add_argument("--model", help="a folder whose aimless answers are judged too")
    settings = parser.parse_args()
    items = completions(Path(os.environ["LETHE_DATA"]), settings.half)
    result: dict[str, Any] = {"half": settings.half, "refused": {}, "off_task": {}}
    for name in ("both", *MODELS):
        members = [item for item in items if name in ("both", item.model)]
        for partly in (False, True):
            key = f"{name}, partial refusals {'as refusals' if partly else 'left out'}"
            found = result["refused"][key] = agreement(members, partly=partly)
            print(f"{key}\n  {'kappa':<12}{found['kappa']:.3f}")
            for figure in ("agreement", "precision", "recall"):
                print(shown(figure, found[figure]))
    sets = {
        "labelled": [(item.prompt, item.text) for item in items],
        "shuffled": shuffled(items),
    }
    if settings.model:
        prompts = list(dict.fromkeys(item.prompt for item in items))[:100]
        sets["aimless"] = aimless(settings.model, prompts)
    print("off-task")
    for name, pairs in sets.items():
        result["off_task"][name] = off_task(pairs)
        print(shown(name, result["off_task"][name]))
    if settings.half == "test":
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
