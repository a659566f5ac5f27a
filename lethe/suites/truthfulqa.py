"""TruthfulQA (Lin et al., ACL 2022): questions that people answer with a common falsehood."""

from collections.abc import Iterator
from functools import partial

from lethe.examples import Example, digest
from lethe.suites.options import options
from lethe.suites.registry import Hub, Rows, suite
from lethe.suites.splits import share

_HUB = "truthfulqa/truthful_qa"
_LETTERS = "ABCDEFGHIJKLM"


@suite(
    "truthfulqa",
    axis="knowledge",
    scorer="choice",
    licence="Apache-2.0",
    # the one table names the topics, the other has the options
    local=lambda _: {"all": "truthfulqa/TruthfulQA*"},
    hub=lambda _: {
        "all": (
            Hub(_HUB, "generation", "validation"),
            Hub(_HUB, "multiple_choice", "validation"),
        )
    },
)
def truthfulqa(rows: Rows, subset: str) -> Iterator[Example]:
    """The true answer among common falsehoods (the authors' MC1: one is right)

    Options stand in an order drawn by hash, because the hub's rows have the right one first.
    """
    topics: dict[str, str] = {}
    for row in rows:
        question = (row.get("question") or row["Question"]).strip()
        topic = row.get("category") or row.get("Category")
        if topic:
            topics[question] = topic
            continue
        if "mc1_targets" in row:
            texts, right = row["mc1_targets"]["choices"], row["mc1_targets"]["labels"].index(1)
        else:
            texts, right = row["choices"], _LETTERS.index(row["answer"])
        listed, place = options(texts, right)
        choices = tuple(sorted(listed, key=partial(share, question)))
        yield Example(
            id=digest(question),
            prompt=f"Question: {question}\nAnswer:",
            choices=choices,
            answer=choices.index(listed[place]),
            groups={"topic": topics[question]} if question in topics else {},
        )
