"""Questions answered in words: NQ-open (Lee et al. 2019) and SQuAD (Rajpurkar et al. 2016)."""

from collections.abc import Iterator, Mapping
from typing import Any

from lethe.examples import Decoding, Example, digest
from lethe.suites.registry import Hub, Published, Rows, suite

_SHORT = Decoding(max_new_tokens=32, stop=("\n",))
_NQ = "google-research-datasets/nq_open"
_SQUAD = "rajpurkar/squad"


def _nq_local(subset: str) -> Mapping[Published, str]:
    if subset == "efficientqa":
        return {"all": "nq_open/NQ-open.efficientqa.*.jsonl"}
    return {"train": "nq_open/NQ-open.train.jsonl", "test": "nq_open/NQ-open.dev.jsonl"}


def _nq_hub(subset: str) -> Mapping[Published, tuple[Hub, ...]]:
    if subset == "efficientqa":
        return {}
    return {"train": (Hub(_NQ, None, "train"),), "test": (Hub(_NQ, None, "validation"),)}


@suite(
    "nq_open",
    axis="knowledge",
    scorer="match",
    licence="CC BY-SA 3.0",
    subsets=("open", "efficientqa"),
    local=_nq_local,
    hub=_nq_hub,
    metrics=("answer_f1",),
    decoding=_SHORT,
    match="exact",
    overlapping=True,
)
def nq_open(rows: Rows, subset: str) -> Iterator[Example]:
    """Questions that people typed into a search engine, answered from memory

    The answer must be one of those given, up to case, articles and punctuation.
    """
    for row in rows:
        question = row["question"].strip()
        # of EfficientQA: what its judges found right is right as well
        answers = row.get("answer_and_def_correct_predictions") or row["answer"]
        yield Example(
            id=digest(question),
            prompt=f"Question: {question}?\nAnswer:",
            reference=answers[0],
            references=tuple(dict.fromkeys(answers)),
        )


@suite(
    "squad",
    axis="proficiency",
    scorer="match",
    licence="CC BY-SA 4.0",
    local=lambda _: {"all": "xquad_en/xquad.en.json"},
    hub=lambda _: {
        "train": (Hub(_SQUAD, None, "train"),),
        "test": (Hub(_SQUAD, None, "validation"),),
    },
    metrics=("answer_em",),
    decoding=_SHORT,
    match="f1",
    overlapping=True,
)
def squad(rows: Rows, subset: str) -> Iterator[Example]:
    """Questions on a passage of Wikipedia, answered by words of it: F1, and exact match beside

    The answers of a question that is there twice on one passage are those of both.
    """
    asked: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for row in rows:
        for context, item, answers in _questions(row):
            key = (context.strip(), item["question"].strip())
            asked.setdefault(key, (item["id"], []))[1].extend(answers)
    for (context, question), (id, answers) in asked.items():
        yield Example(
            id=id,
            prompt=f"{context}\n\nQuestion: {question}\nAnswer:",
            reference=answers[0],
            references=tuple(dict.fromkeys(answers)),
            cluster=digest(context),
        )


def _questions(row: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], list[str]]]:
    """Passage, question, answers: of an article of the file, or of a row of the hub."""
    if "paragraphs" not in row:
        yield row["context"], row, list(row["answers"]["text"])
        return
    for paragraph in row["paragraphs"]:
        for item in paragraph["qas"]:
            yield paragraph["context"], item, [answer["text"] for answer in item["answers"]]
