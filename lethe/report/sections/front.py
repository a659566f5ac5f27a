"""Methods: what a chain gained against what it kept."""

import math
from collections.abc import Mapping
from typing import Any

from lethe.report.charts import Charts
from lethe.report.material import Line, Material
from lethe.report.plots import FrontPoint, front, front_plot

TITLE = "Gained against kept"
GAINED = "proficiency"


def build(material: Material) -> dict[str, Any] | None:
    """For every other axis: change of proficiency and retention, chain by chain, base to end."""
    by_chain: dict[str, list[Line]] = {}
    for line in material.lines:
        by_chain.setdefault(line.chain, []).append(line)
    if len(by_chain) < 2:
        return None
    others = [axis for axis in material.axes if axis != GAINED]
    if GAINED not in material.axes or not others:
        return {
            "fronts": [],
            "reason": f"it needs a suite on the axis '{GAINED}' and one on another "
            f"(this run has: {', '.join(material.axes)})",
        }
    return {"fronts": [_front(material, by_chain, axis) for axis in others], "reason": ""}


def _front(material: Material, by_chain: Mapping[str, list[Line]], axis: str) -> dict[str, Any]:
    points = []
    for name, lines in by_chain.items():
        pairs = [pair for line in lines if (pair := _pair(material, line, axis))]
        if pairs:
            points.append(FrontPoint(name, [g for g, _ in pairs], [k for _, k in pairs]))
    best = front(points)
    return {
        "gained": GAINED,
        "kept": axis,
        "points": [
            {
                "chain": point.name,
                "gained": list(point.gained),
                "kept": list(point.kept),
                "centre": list(point.centre),
                "on_front": point in best,
            }
            for point in points
        ],
        "unfinished": len(by_chain) - len(points),
    }


def _pair(material: Material, line: Line, axis: str) -> tuple[float, float] | None:
    """(change of proficiency, score after / score before) of a line; None where one is missing."""
    first, last = line.places[0], line.places[-1]
    gained = material.axis_score(GAINED, last) - material.axis_score(GAINED, first)
    before = material.axis_score(axis, first)
    kept = material.axis_score(axis, last) / before if before else math.nan
    return (gained, kept) if math.isfinite(gained) and math.isfinite(kept) else None


def draw(material: Material, content: Mapping[str, Any], charts: Charts) -> dict[str, Any]:
    """By axis."""
    del material
    return {
        entry["kept"]: charts.add(
            front_plot,
            [FrontPoint(p["chain"], p["gained"], p["kept"]) for p in entry["points"]],
            gained=entry["gained"],
            kept=entry["kept"],
            title=f"Change of {entry['gained']} against share of {entry['kept']} kept; the table "
            "holds the numbers",
        )
        for entry in content["fronts"]
        if entry["points"]
    }
