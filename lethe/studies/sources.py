"""What a study reads: suites and training data, each once, and where they overlap. No torch."""

import json
import re
from contextlib import suppress
from pathlib import Path

from lethe.auditing import load_suites
from lethe.examples import Example, Split, Suite, digest
from lethe.store import write_atomically
from lethe.studies.unsafe import SCAN_VERSION, UnsafeRows, UnsafeScan
from lethe.suites import training_examples
from lethe.tuning.mix import Lessons
from lethe.tuning.protect import Protected

_CONTENT = re.compile(r"[0-9a-f]{16,}")  # a cluster named by the hash of what it is about
_Key = tuple[str, Split, int | None]


class Sources:
    """Suites and training data, each read and hashed once."""

    def __init__(self, data_dir: str | Path | None = None) -> None:
        self._data_dir = data_dir
        self._suites: dict[_Key, Suite] = {}
        self._lessons: dict[_Key, Lessons] = {}
        self._protected: dict[_Key, Protected] = {}
        self._scan: UnsafeScan | None = None
        self._asked: dict[int, tuple[set[str], set[str]]] = {}

    def suite(self, spec: str, split: Split, limit: int | None) -> Suite:
        """A suite, by what `lethe audit` takes."""
        key = (spec, split, limit)
        if key not in self._suites:
            (self._suites[key],) = load_suites(
                [spec], split=split, limit=limit, data_dir=self._data_dir
            )
        return self._suites[key]

    def lessons(self, spec: str, split: Split, limit: int | None) -> Lessons:
        """Examples to tune on."""
        key = (spec, split, limit)
        if key not in self._lessons:
            examples = training_examples(spec, split=split, limit=limit, data_dir=self._data_dir)
            self._lessons[key] = Lessons(spec, examples)
        return self._lessons[key]

    def protected(self, spec: str, split: Split, limit: int | None) -> Protected:
        """Examples whose answers a stage is not to disturb; they need none."""
        key = (spec, split, limit)
        if key not in self._protected:
            self._protected[key] = Protected(spec, self.suite(*key).examples)
        return self._protected[key]

    def unsafe(self, rows: Lessons, memory: Path) -> UnsafeRows:
        """The rows that are known to be unsafe.

        Args:
            memory: a folder where counts are kept, so that the same data is scanned once.
        """
        if self._scan is None:
            self._scan = UnsafeScan.of_data_folder(self._data_dir)
        if not self._scan.compares:
            return self._scan.scan(rows.examples)
        marks = "".join("01"[bool(example.harmful)] for example in rows.examples)
        name = digest(rows.hash, marks, self._scan.name, SCAN_VERSION)
        path = memory / f"{name}.json"
        with suppress(OSError, ValueError):
            if (held := UnsafeRows.from_dict(json.loads(path.read_text()))) is not None:
                return held
        found = self._scan.scan(rows.examples)
        with suppress(OSError):  # a store that cannot be written says so where it matters
            memory.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(found.to_dict()).encode())
        return found

    def overlap(self, rows: Lessons | Protected, suite: Suite, spec: str) -> list[str]:
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


def data_set(spec: str) -> str:
    """The data set of a spec: its name without subset and way of asking, or a file's path."""
    if "/" in spec or Path(spec).suffix:
        return spec
    return re.split(r"[:@]", spec)[0]


def _prompt(example: Example) -> str:
    prompt = example.prompt
    text = prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)
    return " ".join(text.split())
