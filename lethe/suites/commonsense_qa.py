"""CommonsenseQA (Talmor et al. 2019) and CommonsenseQA 2.0 (Talmor et al. 2021)."""

from collections.abc import Iterator

from lethe.examples import Example, digest
from lethe.suites.options import options
from lethe.suites.registry import Hub, Rows, suite


@suite(
    "commonsense_qa",
    axis="knowledge",
    scorer="choice",
    licence="MIT",
    local=lambda _: {"train": "commonsense_qa/train.jsonl", "test": "commonsense_qa/val.jsonl"},
    hub=lambda _: {
        "train": (Hub("tau/commonsense_qa", None, "train"),),
        "test": (Hub("tau/commonsense_qa", None, "validation"),),
    },
    normalise="byte",
    overlapping=True,
)
def commonsense_qa(rows: Rows, subset: str) -> Iterator[Example]:
    """Everyday questions with five options that one relation of ConceptNet connects

    The answers of the official test set are not public: its validation set is the test split.
    """
    for row in rows:
        question = row["question"].strip()
        if "answerKey" in row:
            texts, right = row["choices"]["text"], row["choices"]["label"].index(row["answerKey"])
        else:
            texts, right = row["choices"], "ABCDE".index(row["answer"])
        choices, answer = options(texts, right)
        yield Example(
            id=digest(question, choices),
            prompt=f"Question: {question}\nAnswer:",
            choices=choices,
            answer=answer,
            cluster=digest(question),
        )


@suite(
    "commonsense_qa_2",
    axis="knowledge",
    scorer="choice",
    licence="CC BY 4.0",
    local=lambda _: {"train": "commonsense_qa_2/train.jsonl", "test": "commonsense_qa_2/dev.jsonl"},
    hub=lambda _: {
        "train": (Hub("tasksource/commonsense_qa_2.0", None, "train"),),
        "test": (Hub("tasksource/commonsense_qa_2.0", None, "validation"),),
    },
    metrics=("balanced_accuracy", "dprime", "criterion"),
    balance="label",
    overlapping=True,
)
def commonsense_qa_2(rows: Rows, subset: str) -> Iterator[Example]:
    """Is this right? Statements and questions that people wrote to mislead a model: yes or no

    The answers of the official test set are not public: its development set is the test split.
    """
    for row in rows:
        question, label = row["question"].strip(), row["answer"]
        yield Example(
            id=row["id"],
            prompt=f"{question}\nIs this right, yes or no?\nAnswer:",
            choices=("Yes", "No"),
            answer=("yes", "no").index(label),
            groups={"label": label},
            cluster=digest(question),
            choice_values=({"says_signal": 1.0}, {"says_signal": 0.0}),
        )
