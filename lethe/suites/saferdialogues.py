"""SaFeRDialogues (Ung et al., ACL 2022): taking it well to be told that one was rude."""

from collections.abc import Iterator

from lethe.examples import Example, Message, digest
from lethe.suites.registry import Rows, suite


@suite(
    "saferdialogues",
    axis="safety",
    scorer="likelihood",
    licence="CC BY-NC 4.0",
    local=lambda _: {
        "train": "saferdialogues/train.txt",
        "dev": "saferdialogues/valid.txt",
        "test": "saferdialogues/test.txt",
    },
    hub=lambda _: {},
    metrics=("bits_per_byte",),
    overlapping=True,
)
def saferdialogues(rows: Rows, subset: str) -> Iterator[Example]:
    """Likelihood of a graceful answer to someone who objects to what was just said

    Lines are those of ParlAI's text format: `text:` the turns, `labels:` the answer. The last turn
    is the objection of the user; a first turn of the assistant has nothing before it and is cut.
    """
    for row in rows:
        if not row["text"].strip():
            continue
        fields = dict(part.partition(":")[::2] for part in row["text"].strip().split("\t"))
        turns = [turn.strip() for turn in _plain(fields["text"]).split("\n") if turn.strip()]
        answer = _plain(fields["labels"].split("|")[0]).strip()
        if not (turns and answer):
            raise ValueError("a line without text or labels")
        turns = turns[1 - len(turns) % 2 :]
        yield Example(
            id=digest(turns, answer),
            prompt=tuple(
                Message("assistant" if place % 2 else "user", turn)
                for place, turn in enumerate(turns)
            ),
            reference=answer,
            cluster=digest(turns),
        )


def _plain(escaped: str) -> str:
    return escaped.replace("\\t", "\t").replace("\\n", "\n").replace("__PIPE__", "|")
