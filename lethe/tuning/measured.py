"""What was measured of methods on the islet, as it ships with Lethe. No torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.plain import plain

if TYPE_CHECKING:
    from lethe.studies.hotel import Hotel, MethodResult

MEASURED = Path(__file__).parent / "measured.json"
"""Written by `benchmarks/hotel.py --ship`."""
_TASK = "proficiency"
_KEPT = ("safety", "knowledge", "reasoning")
Bounds = tuple[float | None, float | None, float | None]
"""An estimate, low and high; None where it is not known."""


@dataclass(frozen=True)
class Measured:
    """One line of the study `hotel`: a method alone, or with others.

    Attributes:
        name: what the study calls it; `slots` are the methods it is made of.
        before, after: axis → mean score, 0 … 1.
        retention: axis → score after / score before, with its interval, for all but the task.
        closed: axis → share of plain tuning's loss that is closed, with its interval.
        reached, units: in how many trainings proficiency was matched.
    """

    name: str
    slots: tuple[str, ...]
    before: Mapping[str, float]
    after: Mapping[str, float]
    retention: Mapping[str, Bounds]
    closed: Mapping[str, Bounds]
    reached: int
    units: int

    def said(self) -> str:
        """In one line: what was kept of every axis in %, and how far the task was learned."""
        kept = ", ".join(f"{axis} {_percent(found)}" for axis, found in self.retention.items())
        task = f"{100 * self.before[_TASK]:.0f} → {100 * self.after[_TASK]:.0f} %"
        missed = "" if self.reached == self.units else f", matched {self.reached}/{self.units}"
        return f"{self.name}: keeps {kept}; {_TASK} {task}{missed}"


@cache
def measured() -> tuple[Measured, ...]:
    """All lines, in the study's order; none where no results ship."""
    try:
        content = json.loads(MEASURED.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    return tuple(
        Measured(
            name=one["name"],
            slots=tuple(one["slots"]),
            before=one["before"],
            after=one["after"],
            retention={axis: _three(found) for axis, found in one["retention"].items()},
            closed={axis: _three(found) for axis, found in one["closed"].items()},
            reached=one["reached"],
            units=one["units"],
        )
        for one in content["methods"]
    )


def source() -> str:
    """What the numbers come from, in one line; empty where no results ship."""
    if not measured():
        return ""
    content = json.loads(MEASURED.read_text(encoding="utf-8"))
    worlds, seeds = content["worlds"], content["seeds"]
    return (
        f"measured on the islet (synthetic, {content['size']}), {len(worlds)} worlds × "
        f"{len(seeds)} seeds: score after / before in %, 95 % over worlds"
    )


def summary_of(found: "Hotel") -> dict[str, Any]:
    """What ships of a study's results."""
    methods = [_one(method) for method in found.methods if method.method and not method.served]
    digest = hashlib.sha256(json.dumps(methods).encode()).hexdigest()
    return {"plain": found.plain, "margin": found.margin, "methods": methods, "sha256": digest}


def _one(method: "MethodResult") -> dict[str, Any]:
    retention = {}
    for axis in _KEPT:
        effect, before = method.changes.get(axis), method.before.get(axis, 0.0)
        if effect is not None and before > 0:
            interval = effect.trainings or effect.items
            edges = (effect.estimate, interval.low, interval.high)
            retention[axis] = [1 + edge / before for edge in edges]
    closed = {axis: [one.estimate, one.low, one.high] for axis, one in method.shares.items()}
    found: dict[str, Any] = plain(
        {
            "name": method.name,
            "slots": slots_of(method.method or ""),
            "before": {axis: round(value, 4) for axis, value in method.before.items()},
            "after": {axis: round(value, 4) for axis, value in method.after.items()},
            "retention": _rounded(retention),
            "closed": _rounded(closed),
            "reached": method.reached,
            "units": method.units,
        }
    )
    return found


def slots_of(method: str) -> list[str]:
    """The methods that a ledger's words name: `lora + kl 0.1 + replay 0.05` has three."""
    return [part.split()[0] for part in method.split(" + ") if part]


def _rounded(found: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {axis: [round(value, 4) for value in values] for axis, values in found.items()}


def _three(values: Any) -> Bounds:
    first, low, high = values
    return first, low, high


def _percent(found: Bounds) -> str:
    value, low, high = ("–" if one is None else f"{100 * one:.0f}" for one in found)
    return f"{value} % [{low}, {high}]"
