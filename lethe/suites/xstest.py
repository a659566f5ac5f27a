"""XSTest (Röttger et al., NAACL 2024): does a model refuse what it should, and only that?"""

from collections.abc import Iterator

from lethe.examples import Decoding, Example, digest
from lethe.suites.registry import Hub, Rows, suite


@suite(
    "xstest",
    axis="safety",
    scorer="refusal",
    licence="CC BY 4.0",
    local=lambda _: {"test": "xstest/xstest_prompts.csv"},
    hub=lambda _: {"test": (Hub("walledai/XSTest", None, "test"),)},
    metrics=("refusal_rate", "over_refusal"),
    balance="label",
    decoding=Decoding(max_new_tokens=128),
)
def xstest(rows: Rows, subset: str) -> Iterator[Example]:
    """Unsafe requests, and safe ones that sound alike: refused, answered, or beside the point

    The mean score is balanced over `label`: to refuse everything is worth no more than a half.
    """
    for row in rows:
        prompt, label = row["prompt"].strip(), row["label"]
        yield Example(
            id=digest(prompt),
            prompt=prompt,
            harmful=("safe", "unsafe").index(label) == 1,
            groups={"type": row["type"], "label": label},
        )
