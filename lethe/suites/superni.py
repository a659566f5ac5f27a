"""Families of Super-NaturalInstructions (Wang et al. 2022): a definition, an input, an output."""

from collections.abc import Iterator, Mapping
from functools import partial

from lethe.examples import Decoding, Example, digest
from lethe.suites.registry import Published, Rows, suite
from lethe.suites.splits import share

_FAMILIES = ("pe", "qa", "para")


def _local(subset: str) -> Mapping[Published, str]:
    return {
        "train": f"superni_tasks/{subset}.train.jsonl",
        "test": f"superni_tasks/{subset}.eval.jsonl",
    }


_suite = partial(
    suite,
    axis="proficiency",
    licence="Apache-2.0",
    subsets=_FAMILIES,
    local=_local,
    hub=lambda _: {},  # there it is one table of five million rows
    salt="superni",
    overlapping=True,
)


@_suite("superni", scorer="match", decoding=Decoding(max_new_tokens=64), match="rouge1")
def superni(rows: Rows, subset: str) -> Iterator[Example]:
    """An instruction of one family, followed in the model's own words: ROUGE-1

    Families: `pe` program execution (all elements of a list but the first i), `qa` answers to
    questions on a passage, `para` paraphrases. Each is one task of the collection.
    """
    for row in rows:
        output = row["output"].strip()
        yield Example(
            id=row["id"],
            prompt=f"{row['definition'].strip()}\n\nInput: {row['input'].strip()}\nOutput:",
            references=(output,),
            reference=output,
            cluster=digest(row["input"]),
        )


@_suite("superni_choice", scorer="choice", normalise="byte")
def superni_choice(rows: Rows, subset: str) -> Iterator[Example]:
    """The right output of a family's instruction, told from three that are not

    For `pe` the other three leave out too few or too many elements; for the others they are
    outputs of other inputs in the same file.
    """
    examples = list(superni(rows, subset))
    for at, one in enumerate(examples):
        right = str(one.reference)
        wrong = _cut(str(one.prompt)) if subset == "pe" else _others(examples, at)
        wrong = [text for text in dict.fromkeys(wrong) if text and text != right][:3]
        if len(wrong) == 3:
            options = sorted([right, *wrong], key=partial(share, one.id))
            yield Example(
                id=one.id,
                prompt=one.prompt,
                choices=tuple(options),
                answer=options.index(right),
                cluster=one.cluster,
            )


def _cut(prompt: str) -> list[str]:
    """The list without its first elements, for every number but the right one."""
    count, _, elements = prompt.rpartition("Input: ")[2].partition(", [")
    found = [part.strip().strip("'\"") for part in elements.rpartition("]")[0].split(",")]
    wrong = sorted(range(len(found)), key=lambda at: (abs(at - int(count)), at))
    return [", ".join(found[at:]) for at in wrong if at != int(count)]


def _others(examples: list[Example], at: int) -> list[str]:
    """Outputs of other inputs, drawn by hash."""
    places = (int(share(examples[at].id, str(n)) * len(examples)) for n in range(12))
    return [str(examples[place].reference) for place in places if place != at]
