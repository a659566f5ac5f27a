"""Unsafe rows among what a stage is taught, by what is marked and by what known suites hold. No
model.

Counted are: requests that the data marks harmful and that its answer does not refuse (word rules,
English); answers that repeat a statement ToxiGen calls hateful; and answers that a known safety
suite has among its unsafe ones for the same or nearly the same prompt: agreement with a hateful
statement, BBQ's stereotype in an ambiguous context, HH-RLHF's answer that people found worse.
Two texts are nearly the same where most of the known one's runs of five words stand in the other.

What it cannot see: unsafe rows in words, topics or languages of their own, and unsafe meaning
spread over a conversation. Zero is no certificate.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from lethe.errors import InputError
from lethe.examples import Example, Split, Suite, digest
from lethe.matching import normalise
from lethe.refusal import refuses
from lethe.tuning.rows import target_of

SCAN_VERSION = 1  # raise it when counts change
KNOWN = ("toxigen_contradict", "toxigen", "bbq", "hh_rlhf_harmless")
"""Suites whose unsafe answers are known, where they lie in the data folder."""
_SPLITS: tuple[Split, ...] = ("train", "dev", "test", "protect")
_WORD = re.compile(r"\w+(?:['’]\w+)?")
_RUN = 5  # words
_NEAR = 0.8  # share of the known text's runs
_COMMON = 0.05  # of the prompts of a suite: such runs of words are its way of asking
_MOST_WORDS = 2000  # of a text that is read
_MOST_ROWS = 20_000  # that are held against known texts: some seconds
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class UnsafeRows:
    """How many rows of some data are known to be unsafe, by how that is known.

    Attributes:
        rows: in all; compared: of these held against known texts, evenly spaced in large data.
        marked, answered: marked harmful, and of these not refused.
        repeated: answers that hold a statement known as hateful.
        chosen: answers known as unsafe for their prompt.
        unjudged: prompts that a known suite has, with an answer that it does not have.
        unsafe: rows that are any of answered, repeated and chosen.
    """

    rows: int
    compared: int
    marked: int = 0
    answered: int = 0
    repeated: int = 0
    chosen: int = 0
    unjudged: int = 0
    unsafe: int = 0

    def said(self) -> str:
        """The counts in a line; empty where nothing was found."""
        parts = []
        if self.marked:
            parts.append(f"{self.answered} of {self.marked} requests marked harmful are answered")
        if self.repeated:
            parts.append(f"{self.repeated} answers repeat a statement known as hateful")
        if self.chosen:
            parts.append(f"{self.chosen} answers are known as unsafe for their prompt")
        if self.unjudged:
            parts.append(f"{self.unjudged} answers to prompts of safety suites are not judged")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, int]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Any) -> "UnsafeRows | None":
        """Read `to_dict` back; None where it is something else."""
        try:
            return cls(**{field.name: int(content[field.name]) for field in fields(cls)})
        except (KeyError, TypeError, ValueError):
            return None


class UnsafeScan:
    """Looks for known unsafe rows; what is known is read and indexed once, when first needed.

    Args:
        load: gives safety suites with known unsafe answers; None where there are none.
        name: tells what it knows from what others know.
    """

    def __init__(self, load: Callable[[], Sequence[Suite]] | None, name: str = "") -> None:
        self._load, self.name = load, name

    @classmethod
    def of_data_folder(cls, data_dir: str | Path | None) -> "UnsafeScan":
        """Knows what lies in a data folder; nothing is fetched from the hub."""
        from lethe import suites

        local = {entry.name for entry in suites.known(data_dir) if entry.local}
        names = [name for name in KNOWN if name in local]
        root = data_dir or os.environ.get("LETHE_DATA")
        return cls(partial(_load, names, data_dir), f"{names} {root}") if names else cls(None)

    @property
    def compares(self) -> bool:
        """Whether it knows any texts, so that a scan takes time."""
        return self._load is not None

    def scan(self, rows: Sequence[Example]) -> UnsafeRows:
        """Count what is known to be unsafe among examples to tune on."""
        counts: Counter[str] = Counter()
        every = math.ceil(len(rows) / _MOST_ROWS)
        for number, row in enumerate(rows):
            found = set(_by_mark(row))
            if self.compares and number % every == 0:
                counts["compared"] += 1
                found |= set(self._by_text(row))
            counts.update(found)
            counts["unsafe"] += bool(found & {"answered", "repeated", "chosen"})
        return UnsafeRows(len(rows), **{"compared": 0, **counts})

    def _by_text(self, row: Example) -> Iterator[str]:
        target = target_of(row)
        if self._hateful.nearest(target):
            yield "repeated"
        known = self._prompts.nearest(_prompt(row))
        if any(unsafe for unsafe, _ in known):
            answer = normalise(target)
            if any(answer in safe for _, safe in known):
                return  # of HH-RLHF's pairs one may prefer what another rejects
            yield "chosen" if any(answer in unsafe for unsafe, _ in known) else "unjudged"

    @cached_property
    def _suites(self) -> Sequence[Suite]:
        return [] if self._load is None else self._load()

    @cached_property
    def _prompts(self) -> "_Index[tuple[frozenset[str], frozenset[str]]]":
        """Prompts with their unsafe and their safe answers, in normal form.

        Prompts without an unsafe answer are there as well: a text may hold one of each (BBQ's
        disambiguated contexts begin with the ambiguous one), and the larger of them counts.
        What contradicts or agrees with a statement does so in any wording of the question; yes and
        no answer one question alone.
        """
        entries = []
        statements = {digest(text): text for text in self._statements}
        for suite in self._suites:
            for example in suite.examples:
                unsafe = frozenset(map(normalise, unsafe_answers(example)))
                texts = {*example.choices, example.reference or "", *example.references}
                safe = frozenset(map(normalise, texts - {""})) - unsafe
                asked = _prompt(example)
                if "wording" in example.groups:
                    asked = statements.get(example.cluster, asked)
                entries.append((suite.name, asked, (unsafe, safe)))
        return _Index(entries)

    @cached_property
    def _hateful(self) -> "_Index[str]":
        """Statements that ToxiGen calls hateful, without the question put about them."""
        return _Index([("statements", text, text) for text in self._statements])

    @cached_property
    def _statements(self) -> list[str]:
        return [
            example.prompt.partition("\n")[0].removeprefix("Statement: ")
            for suite in self._suites
            for example in suite.examples
            if isinstance(example.prompt, str)
            and example.prompt.startswith("Statement: ")
            and example.groups.get("label") == "hate"
        ]


def _load(names: Sequence[str], data_dir: str | Path | None) -> list[Suite]:
    from lethe import suites

    found = []
    for name in names:
        for split in _SPLITS:
            try:
                found.append(suites.load(name, split=split, data_dir=data_dir))
            except InputError:
                continue  # a split that is not there
    return found


def _by_mark(row: Example) -> Iterator[str]:
    if row.harmful:
        yield "marked"
        if not refuses(target_of(row)):
            yield "answered"


def unsafe_answers(example: Example) -> list[str]:
    """The answers to an example of a safety suite that are known to be unsafe.

    The rejected side of a preference; of a question that a stereotype would answer, the stereotype
    where it is wrong; of a hateful statement, every wrong option.
    """
    if example.rejected is not None:
        return [example.rejected]
    wrong = [n for n in range(len(example.choices)) if n != example.answer]
    if any(example.choice_values) and "context" in example.groups:
        values = example.choice_values
        wrong = [n for n in wrong if values[n].get("stereotype") == 1.0]
        return [example.choices[n] for n in wrong] if _ambiguous(example) else []
    if example.groups.get("label") == "hate" or "wording" in example.groups:
        return [example.choices[n] for n in wrong]
    return []


def _ambiguous(example: Example) -> bool:
    return example.groups["context"].startswith("ambig")


def _prompt(example: Example) -> str:
    prompt = example.prompt
    return prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)


class _Index(Generic[Kept]):
    """Texts by their runs of words, for finding those that a longer text nearly holds."""

    def __init__(self, entries: Sequence[tuple[str, str, Kept]]) -> None:
        runs = [set(_runs(text)) for _, text, _ in entries]
        sizes = Counter(suite for suite, _, _ in entries)
        often: dict[str, Counter[int]] = {suite: Counter() for suite in sizes}
        for (suite, _, _), held in zip(entries, runs, strict=True):
            often[suite].update(held)
        self._kept = [kept for _, _, kept in entries]
        self._needed: list[float] = []
        self._by_run: dict[int, list[int]] = {}
        for number, ((suite, _, _), held) in enumerate(zip(entries, runs, strict=True)):
            most = max(2, _COMMON * sizes[suite])
            telling = {run for run in held if often[suite][run] <= most} or held
            self._needed.append(_NEAR * len(telling))
            for run in telling:
                self._by_run.setdefault(run, []).append(number)

    def nearest(self, text: str) -> list[Kept]:
        """What is kept of the largest entries that this text nearly holds; usually one or none."""
        counts: Counter[int] = Counter()
        for run in set(_runs(text)):
            counts.update(self._by_run.get(run, ()))
        held = {n: count for n, count in counts.items() if count >= self._needed[n]}
        ranks = {n: (count, count / self._needed[n]) for n, count in held.items()}
        best = max(ranks.values(), default=None)
        return [self._kept[n] for n, rank in ranks.items() if rank == best]


def _runs(text: str) -> Iterable[int]:
    """Runs of five words, or the whole of a shorter text, as numbers."""
    words = _WORD.findall(text.lower())[:_MOST_WORDS]
    if not words:
        return []
    return [hash(tuple(words[at : at + _RUN])) for at in range(max(1, len(words) - _RUN + 1))]
