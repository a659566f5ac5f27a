"""What a stage is to protect: examples of suites or files, and as token rows. No torch."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lethe.errors import InputError
from lethe.examples import Example
from lethe.models.encode import token_ids
from lethe.models.format import Format
from lethe.tuning.rows import TuningRow, tokenise
from lethe.tuning.updates import Update, known

_HELD_OUT = 0.2  # share of a source's clusters that only check the protection


@dataclass(frozen=True)
class Protected:
    """Examples of one suite or file whose answers a stage is not to disturb.

    Attributes:
        name: what the user called it.
    """

    name: str
    examples: tuple[Example, ...]

    @cached_property
    def hash(self) -> str:
        """SHA-256 over what calibration reads of them."""
        digest = hashlib.sha256()
        for example in self.examples:
            prompt = example.prompt
            asked: object = prompt
            if not isinstance(prompt, str):
                asked = [[turn.role, turn.content] for turn in prompt]
            said = [asked, _answer(example), example.cluster, example.delimiter]
            digest.update(json.dumps(said).encode())
        return digest.hexdigest()


def data_with(data: str, protect: Sequence[Protected]) -> str:
    """The hash of a stage's data and of what it protects, in its order; nothing changes nothing."""
    return "|".join([data, *(source.hash for source in protect)])


def check_protect(update: Update, names: Sequence[str], *, where: str = "") -> None:
    """Refuse an update that is told to protect and cannot, or that has to and is not told what.

    Args:
        names: of the sources.

    Raises:
        InputError: either, or two sources of one name.
    """
    if update.calibrated and not names:
        raise InputError(
            f"update '{update.name}' is not told what to protect",
            where=where,
            todo="give protect: suites or files (--protect S)",
        )
    if names and not update.calibrated:
        able = [other.name for other in known() if other.calibrated]
        raise InputError(
            f"update '{update.name}' protects nothing",
            where=where,
            todo=f"use {', '.join(able)}, or leave protect out",
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"'{twice}' stands twice in protect", where=where, todo="name it once")


@dataclass(frozen=True)
class ProtectedRows:
    """The token rows of one source.

    Attributes:
        rows: to calibrate on.
        held: of other clusters, to check the protection on.
    """

    name: str
    rows: list[TuningRow]
    held: list[TuningRow]


def protected_rows(
    source: Protected, tokenizer: Any, form: Format, *, max_length: int
) -> ProtectedRows:
    """Prompts with their answers as token rows; prompts alone where there is no answer.

    A fifth of the clusters, at least one, is held out, chosen by their hash.

    Raises:
        InputError: nothing fits, or all examples are one cluster.
    """
    with_answer = [example for example in source.examples if _answer(example)]
    asked = [example for example in source.examples if not _answer(example)]
    rows = []
    if with_answer:
        rows = tokenise(with_answer, tokenizer, form, max_length=max_length)
    contexts = [form.context(example.prompt).rstrip() for example in asked]
    ids = token_ids(tokenizer, contexts)
    for example, context in zip(asked, contexts, strict=True):
        if 0 < len(ids[context]) <= max_length:
            rows.append(TuningRow(ids[context], 0, example.cluster))
    clusters = {row.cluster for row in rows}
    if len(clusters) < 2:
        raise InputError(
            f"{len(clusters)} protected cluster{'s' if not clusters else ''} of examples that fit",
            where=source.name,
            todo="give at least two, better hundreds: some are held out to check the protection",
        )
    order = sorted(clusters, key=lambda name: hashlib.sha256(name.encode()).digest())
    held = set(order[: max(1, round(_HELD_OUT * len(order)))])
    return ProtectedRows(
        source.name,
        [row for row in rows if row.cluster not in held],
        [row for row in rows if row.cluster in held],
    )


def _answer(example: Example) -> str:
    """What the parent is taken to answer: the reference, else the right choice; else empty."""
    if example.reference and example.reference.strip():
        return example.reference
    if example.choices and example.answer is not None:
        return example.choices[example.answer]
    return ""
