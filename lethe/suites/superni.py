"""Families of Super-NaturalInstructions (Wang et al. 2022): a definition, an input, an output."""

from collections.abc import Iterator, Mapping

from lethe.examples import Decoding, Example, digest
from lethe.suites.registry import Published, Rows, suite


def _local(subset: str) -> Mapping[Published, str]:
    return {
        "train": f"superni_tasks/{subset}.train.jsonl",
        "test": f"superni_tasks/{subset}.eval.jsonl",
    }


@suite(
    "superni",
    axis="proficiency",
    scorer="match",
    licence="Apache-2.0",
    subsets=("pe", "qa", "para"),
    local=_local,
    hub=lambda _: {},  # there it is one table of five million rows
    decoding=Decoding(max_new_tokens=64),
    match="rouge1",
    overlapping=True,
)
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
