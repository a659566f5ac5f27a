"""The examples a page carries: as many as its size allows, the changed ones first."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lethe.ledger import frame_of
from lethe.panel import Panel, SuiteFacts
from lethe.report.material import Material
from lethe.report.texts import Texts, prompt_of

LONGEST = {"prompt": 1500, "option": 300, "response": 1500, "id": 300, "group": 500}
"""Characters of a text that are carried; the rest is counted."""
CHANGED_SHARE = 0.7
"""Of the room, what changed examples may take before others are drawn."""
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

FindTexts = Callable[[str, Mapping[str, Any]], Texts]


@dataclass(frozen=True)
class Samples:
    """The examples of a page.

    Attributes:
        payload: plain JSON values, read by `page.js`.
        shown, whole: examples carried, and examples there are, by suite.
        reasons: suites whose texts were not found → why.
    """

    payload: dict[str, Any]
    shown: dict[str, int]
    whole: dict[str, int]
    reasons: dict[str, str]


class Sampler:
    """Reads the tables of all compared checkpoints once, and draws examples for a given room."""

    def __init__(self, material: Material, find: FindTexts) -> None:
        self._material = material
        sides = {
            place.checkpoint: place
            for contrast in material.contrasts
            for place in (contrast.before, contrast.after)
        }
        self._order = list(sides)
        self._names = [place.name for place in sides.values()]
        self._tables = [
            _Table(name, material.facts[name], members, find(name, members[0][2]))
            for (name, _), members in _by_suite(material, sides).items()
        ]

    def draw(self, room: int, *, seed: int = 0) -> Samples:
        """Examples of every suite in at most `room` bytes of JSON.

        Every suite has an equal share of the room; what one does not need goes to the others.
        Examples whose score changed in any contrast are drawn first, up to `CHANGED_SHARE` of the
        share, then any.
        """
        payload = self._head()
        left = room - len(json.dumps(payload)) - 200
        found = Samples(payload, {}, {}, {})
        # The smallest first, so that what they leave is known to the larger.
        for number, table in enumerate(sorted(self._tables, key=lambda table: table.size)):
            share = left // (len(self._tables) - number)
            kept = table.choose(share, random.Random(f"{seed}{table.name}"))
            entry = table.payload(kept, self._order)
            left -= len(_json(entry))
            payload["suites"].append(entry)
            for counts, amount in ((found.shown, len(kept)), (found.whole, len(table.ids))):
                counts[table.name] = counts.get(table.name, 0) + amount
            if table.texts.reason:
                found.reasons[table.name] = table.texts.reason
        place = {name: number for number, name in enumerate(self._material.facts)}
        payload["suites"].sort(key=lambda entry: place[entry["name"]])
        return found

    def _head(self) -> dict[str, Any]:
        contrasts = [
            {
                "id": contrast.id,
                "title": contrast.title,
                "before": self._order.index(contrast.before.checkpoint),
                "after": self._order.index(contrast.after.checkpoint),
            }
            for contrast in self._material.contrasts
        ]
        return {"version": 1, "checkpoints": self._names, "contrasts": contrasts, "suites": []}


Member = tuple[str, Any, dict[str, Any]]


def _by_suite(material: Material, sides: Mapping[str, Any]) -> dict[tuple[str, str], list[Member]]:
    """(suite, hash) → (checkpoint, rows, metadata): in another world a suite asks other things."""
    found: dict[tuple[str, str], list[Member]] = {}
    for suite, place, table, metadata in material.tables():
        if place.checkpoint in sides:
            key = suite, metadata["suite"]["hash"]
            found.setdefault(key, []).append((place.checkpoint, table, metadata))
    return found


class _Table:
    """One suite at the compared checkpoints, example by example."""

    def __init__(
        self, name: str, facts: SuiteFacts, members: Sequence[Member], texts: Texts
    ) -> None:
        self.name, self.texts, self._facts = name, texts, facts
        first = members[0][1]
        self.ids: list[str] = first["example"].to_pylist()
        frame = frame_of(first, suite=name, checkpoint="here", position=0)
        panel = Panel.from_rows(frame, facts)
        at = {example: number for number, example in enumerate(panel.examples.tolist())}
        rows = np.array([at[name.rstrip("\0")] for name in self.ids], dtype=np.int64)
        self._groups = {key: grouping.take(rows) for key, grouping in panel.groupings.items()}
        self._columns = {key: self._aligned(table) for key, table, _ in members}
        self._costs = self._cost()

    @property
    def size(self) -> int:
        """About how many bytes all examples take."""
        return int(self._costs.sum())

    def _aligned(self, table: Any) -> dict[str, list[Any]]:
        """Columns of a table in the order of the first one's examples; None where one lacks."""
        names = table["example"].to_pylist()
        columns = {
            column: table[column].to_pylist()
            for column in ("score", "choice", "outcome", "response")
        }
        if names == self.ids:
            return columns
        at = {name: row for row, name in enumerate(names)}
        rows = [at.get(name) for name in self.ids]
        return {
            column: [None if row is None else values[row] for row in rows]
            for column, values in columns.items()
        }

    def _cost(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        costs = np.full(len(self.ids), 8 + 2 * len(self._groups), np.int64)
        costs += [len(name.encode("utf-8", "replace")) + 3 for name in self.ids]
        for number, name in enumerate(self.ids):
            example = self.texts.examples.get(name)
            if example is not None:
                texts = [_cut(prompt_of(example), "prompt"), _reference(example)]
                texts += [_cut(option, "option") for option in example.choices]
                costs[number] += sum(len(_json(text)) + 1 for text in texts) + 4
        for columns in self._columns.values():
            graded = any(score not in (0, 1, None) for score in columns["score"])
            costs += 9 if graded else 3
            for number, response in enumerate(columns["response"]):
                if response is not None:
                    costs[number] += len(_json(_cut(response, "response"))) + 1
        return costs

    def _changed(self) -> list[bool]:
        scores = [columns["score"] for columns in self._columns.values()]
        return [len(set(row)) > 1 for row in zip(*scores, strict=True)]

    def choose(self, room: int, draw: random.Random) -> list[int]:
        """Places of the examples to carry, in their order."""
        places = list(range(len(self.ids)))
        if self.size + 500 <= room:
            return places
        draw.shuffle(places)
        changed = self._changed()
        kept: set[int] = set()
        spent = 0
        for wanted, most in ((True, CHANGED_SHARE * room), (False, room)):
            for place in places:
                cost = int(self._costs[place])
                if place not in kept and (changed[place] or not wanted) and spent + cost <= most:
                    kept.add(place)
                    spent += cost
        return sorted(kept)

    def payload(self, kept: Sequence[int], order: Sequence[str]) -> dict[str, Any]:
        """The chosen examples as columns."""
        examples = [self.texts.examples.get(self.ids[place]) for place in kept]
        has_texts = any(example is not None for example in examples)
        found: dict[str, Any] = {
            "name": self.name,
            "axis": self._facts.axis,
            "whole": len(self.ids),
            "texts": has_texts,
            "ids": [_cut(self.ids[place], "id") for place in kept],
            "groups": {
                key: {
                    "names": [_cut(name, "group") for name in grouping.names],
                    "codes": [int(grouping.codes[place]) for place in kept],
                }
                for key, grouping in self._groups.items()
            },
            "cells": {
                str(order.index(key)): _cells(columns, kept)
                for key, columns in self._columns.items()
            },
        }
        if has_texts:
            found["prompts"] = [_cut(prompt_of(one), "prompt") if one else "" for one in examples]
            found["references"] = [_reference(one) if one else "" for one in examples]
            if any(one and one.choices for one in examples):
                found["options"] = [
                    [_cut(option, "option") for option in one.choices] if one else []
                    for one in examples
                ]
                found["answers"] = [one.answer if one else None for one in examples]
        return found


def _cells(columns: Mapping[str, Sequence[Any]], kept: Sequence[int]) -> dict[str, Any]:
    """One checkpoint's answers; 0/1 scores and choices are one letter each, - where none is."""
    scores = [columns["score"][place] for place in kept]
    found: dict[str, Any] = {}
    if all(score in (0, 1, None) for score in scores):
        found["score"] = "".join("-" if score is None else str(int(score)) for score in scores)
    else:
        found["score"] = [None if score is None else round(score, 4) for score in scores]
    choices = [columns["choice"][place] for place in kept]
    if any(choice is not None for choice in choices):
        small = all(choice is None or choice < len(DIGITS) for choice in choices)
        found["choice"] = (
            "".join("-" if choice is None else DIGITS[choice] for choice in choices)
            if small
            else choices
        )
    outcomes = [columns["outcome"][place] for place in kept]
    names = sorted({one for one in outcomes if one not in ("correct", "wrong", None)})
    if names:
        found["outcomes"] = names
        found["outcome"] = [names.index(one) if one in names else -1 for one in outcomes]
    responses = [columns["response"][place] for place in kept]
    if any(response is not None for response in responses):
        found["response"] = [
            None if response is None else _cut(response, "response") for response in responses
        ]
    return found


def _reference(example: Any) -> str:
    """What counts as right, where it is text."""
    text = example.reference if example.reference is not None else " | ".join(example.references)
    if example.rejected is not None:
        text = f"{text}\n\nrejected: {example.rejected}"
    return _cut(text, "option")


def _cut(text: str, kind: str) -> str:
    """A text within its bound; of a prompt the end as well, where the question stands."""
    most = LONGEST[kind]
    if len(text) <= most:
        return text
    gap = f" […{len(text) - most:,} more characters…] "
    if kind != "prompt":
        return text[:most] + gap.rstrip()
    return text[: most // 3] + gap + text[-(most - most // 3) :]


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
