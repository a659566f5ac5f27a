"""What a study reads: suites and training data, each once, and where they overlap. No torch."""

import re
from pathlib import Path

from lethe.auditing import load_suites
from lethe.examples import Example, Split, Suite
from lethe.refusal import refuses
from lethe.suites import training_examples
from lethe.tuning.mix import Lessons
from lethe.tuning.rows import target_of

_CONTENT = re.compile(r"[0-9a-f]{16,}")  # a cluster named by the hash of what it is about
_Key = tuple[str, Split, int | None]


class Sources:
    """Suites and training data, each read and hashed once."""

    def __init__(self, data_dir: str | Path | None = None) -> None:
        self._data_dir = data_dir
        self._suites: dict[_Key, Suite] = {}
        self._lessons: dict[_Key, Lessons] = {}
        self._hashes: dict[int, str] = {}  # by identity: all are kept here
        self._asked: dict[int, tuple[set[str], set[str]]] = {}

    def suite(self, spec: str, split: Split, limit: int | None) -> Suite:
        """A suite, by what `lethe audit` takes."""
        key = (spec, split, limit)
        if key not in self._suites:
            (self._suites[key],) = load_suites(
                [spec], split=split, limit=limit, data_dir=self._data_dir
            )
        return self._suites[key]

    def hash(self, suite: Suite) -> str:
        """The hash of a suite that was read here."""
        if id(suite) not in self._hashes:
            self._hashes[id(suite)] = suite.hash
        return self._hashes[id(suite)]

    def lessons(self, spec: str, split: Split, limit: int | None) -> Lessons:
        """Examples to tune on."""
        key = (spec, split, limit)
        if key not in self._lessons:
            examples = training_examples(spec, split=split, limit=limit, data_dir=self._data_dir)
            self._lessons[key] = Lessons(spec, examples)
        return self._lessons[key]

    def overlap(self, rows: Lessons, suite: Suite, spec: str) -> list[str]:
        """Ids of the rows that a suite also asks: of the same cluster, or with the same prompt.

        Names of clusters mean the same within one data set; across two, only names that are hashes
        of content are compared.

        Args:
            spec: what `suite`, which was read here, was read from.
        """
        if id(suite) not in self._asked:
            clusters = {example.cluster for example in suite.examples}
            self._asked[id(suite)] = (clusters, {_prompt(one) for one in suite.examples} - {""})
        clusters, prompts = self._asked[id(suite)]
        same = data_set(rows.name) == data_set(spec)
        return [
            row.id
            for row in rows.examples
            if (row.cluster in clusters and (same or _CONTENT.fullmatch(row.cluster)))
            or _prompt(row) in prompts
        ]


def answered(rows: Lessons) -> tuple[int, int]:
    """Of the requests that the data itself marks harmful: how many, and how many are not refused.

    Rows without the mark are not judged: no word rule tells an unsafe answer soundly.
    """
    marked = [example for example in rows.examples if example.harmful]
    return len(marked), sum(not refuses(target_of(example)) for example in marked)


def data_set(spec: str) -> str:
    """The data set of a spec: its name without subset and way of asking, or a file's path."""
    if "/" in spec or Path(spec).suffix:
        return spec
    return re.split(r"[:@]", spec)[0]


def _prompt(example: Example) -> str:
    prompt = example.prompt
    text = prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)
    return " ".join(text.split())
