"""MBPP (Austin et al. 2021): short Python programs, to tune on."""

from collections.abc import Iterator

from lethe.examples import Example, digest
from lethe.suites.registry import Hub, Published, Rows, suite

_HUB = "google-research-datasets/mbpp"


@suite(
    "mbpp",
    axis="proficiency",
    scorer="likelihood",
    licence="CC BY 4.0",
    local=lambda _: {  # one file; the number of a task tells its split
        "train": "mbpp/mbpp.jsonl",
        "dev": "mbpp/mbpp.jsonl",
        "test": "mbpp/mbpp.jsonl",
    },
    hub=lambda _: {
        "train": (Hub(_HUB, "full", "prompt"), Hub(_HUB, "full", "train")),
        "dev": (Hub(_HUB, "full", "validation"),),
        "test": (Hub(_HUB, "full", "test"),),
    },
    metrics=("bits_per_byte",),
    overlapping=True,
)
def mbpp(rows: Rows, subset: str) -> Iterator[Example]:
    """Likelihood of the reference program for a task with its tests; no program is run

    It is here as tuning data. Whether a model can still program shows in programs that run, which
    is another matter than the likelihood of one of many right ones.
    """
    for row in rows:
        if rows.published not in (_split(row["task_id"]), "all"):
            continue
        text, tests = row["text"].strip(), "\n".join(row["test_list"])
        code = row["code"].replace("\r\n", "\n").strip()
        yield Example(
            id=str(row["task_id"]),
            prompt=f"{text}\nThe program must pass these tests:\n{tests}\n",
            reference=code,
            cluster=digest(text),
            delimiter="\n",
        )


def _split(task: int) -> Published:
    """The authors' split: tasks 11–510 test, 511–600 validate, the rest (prompts, too) train."""
    if 11 <= task <= 510:
        return "test"
    return "dev" if 511 <= task <= 600 else "train"
