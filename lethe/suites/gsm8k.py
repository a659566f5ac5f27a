"""GSM8K (Cobbe et al. 2021): word problems of grade-school mathematics."""

import re
from collections.abc import Iterator

from lethe.examples import Decoding, Example, digest
from lethe.suites.registry import Hub, Rows, suite

_CALCULATOR = re.compile(r"<<[^<>]*>>")  # the authors' marks for a calculator, in the answers
_NUMBER = r"(?<![\w.,])-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"


@suite(
    "gsm8k",
    axis="proficiency",
    scorer="match",
    licence="MIT",
    local=lambda _: {"train": "gsm8k/train.jsonl", "test": "gsm8k/test.jsonl"},
    hub=lambda _: {
        "train": (Hub("openai/gsm8k", "main", "train"),),
        "test": (Hub("openai/gsm8k", "main", "test"),),
    },
    decoding=Decoding(max_new_tokens=320, stop=("\nQuestion:",)),
    match="exact",
    extract=_NUMBER,
    overlapping=True,
)
def gsm8k(rows: Rows, subset: str) -> Iterator[Example]:
    """Word problems of mathematics: the last number of the answer must be the right one

    Tuning learns the whole reasoning, without the authors' marks for a calculator.
    """
    for row in rows:
        question = row["question"].strip()
        reasoning, _, number = row["answer"].rpartition("####")
        if not reasoning:
            raise ValueError("an answer without ####")
        steps = _CALCULATOR.sub("", reasoning).strip()
        yield Example(
            id=digest(question),
            prompt=f"Question: {question}\nAnswer:",
            reference=f"{steps}\n#### {number.strip()}",
            references=(number.strip(),),
        )
