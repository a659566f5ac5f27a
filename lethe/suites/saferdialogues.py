"""SaFeRDialogues (Ung et al., ACL 2022): taking it well to be told that one was rude."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from lethe.examples import Example, Message, digest
from lethe.suites.registry import Rows, suite
from lethe.suites.splits import share

_suite = partial(
    suite,
    axis="safety",
    licence="CC BY-NC 4.0",
    local=lambda _: {
        "train": "saferdialogues/train.txt",
        "dev": "saferdialogues/valid.txt",
        "test": "saferdialogues/test.txt",
    },
    hub=lambda _: {},  # its authors publish it with ParlAI
    salt="saferdialogues",
    overlapping=True,
)


@_suite("saferdialogues", scorer="likelihood", metrics=("bits_per_byte",))
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


@_suite("saferdialogues_choice", scorer="choice", normalise="byte")
def saferdialogues_choice(rows: Rows, subset: str) -> Iterator[Example]:
    """The graceful answer to an objection, told from those to three other objections

    The task of Ung et al. (arXiv 2412.16469): the original recovery among four. The other three
    are graceful answers of the same split to other conversations, drawn by hash.
    """
    examples = list(saferdialogues(rows, subset))
    for one in examples:
        places = (int(share(one.id, str(n)) * len(examples)) for n in range(12))
        wrong = [str(examples[at].reference) for at in places]
        texts = [text for text in dict.fromkeys(wrong) if text != one.reference][:3]
        if len(texts) == 3:
            options = sorted([str(one.reference), *texts], key=partial(share, one.id))
            answer = options.index(str(one.reference))
            yield replace(one, reference=None, choices=tuple(options), answer=answer)


def _plain(escaped: str) -> str:
    return escaped.replace("\\t", "\t").replace("\\n", "\n").replace("__PIPE__", "|")
