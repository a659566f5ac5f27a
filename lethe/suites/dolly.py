"""Dolly (Conover et al. 2023): instructions and answers that people wrote."""

from collections.abc import Iterator, Mapping
from typing import Any

from lethe.examples import Decoding, Example, digest
from lethe.suites.registry import Hub, Rows, suite

_LOCAL = {
    "closed_qa": "dolly/dolly_1000_with_category.jsonl",
    "general": "dolly/dolly_2000_alpaca_format.json",
}


@suite(
    "dolly",
    axis="knowledge",
    scorer="match",
    licence="CC BY-SA 3.0",
    subsets=("closed_qa", "general"),
    local=lambda subset: {"all": _LOCAL[subset]},
    hub=lambda _: {"all": (Hub("databricks/databricks-dolly-15k", None, "train"),)},
    metrics=("answer_f1",),
    decoding=Decoding(max_new_tokens=96),
    match="rouge1",
)
def dolly(rows: Rows, subset: str) -> Iterator[Example]:
    """Questions on a given text, answered freely: ROUGE-1 against people's answers

    `dolly:general` is instructions of every kind, to tune on. Answers to one instruction on one
    text are references of one example; an instruction is a cluster, whatever the subset.
    """
    answered: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if subset == "closed_qa" and row["category"] != "closed_qa":
            continue
        key = (row["instruction"].strip(), _text(row, "context", "input"))
        answer = _text(row, "response", "output")
        if answer:
            answered.setdefault(key, []).append(answer)
    for (instruction, context), answers in answered.items():
        yield Example(
            id=digest(instruction, context),
            prompt=_prompt(instruction, context, "Question" if subset == "closed_qa" else "Task"),
            reference=answers[0],
            references=tuple(dict.fromkeys(answers)),
            cluster=digest(instruction),
        )


def _prompt(instruction: str, context: str, word: str) -> str:
    before = f"{context}\n\n" if context else ""
    return f"{before}{word}: {instruction}\nAnswer:"


def _text(row: Mapping[str, Any], *names: str) -> str:
    """The field by the hub's name or by that of the local copy; some rows leave it out."""
    return next((str(row[name]) for name in names if name in row), "").strip()
