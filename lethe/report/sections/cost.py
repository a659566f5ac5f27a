"""What it cost: seconds of training and of measuring, on what."""

import math
from collections.abc import Mapping
from typing import Any

from lethe.report.charts import Charts
from lethe.report.material import Material
from lethe.report.sections import training

TITLE = "What it cost"


def build(material: Material) -> dict[str, Any] | None:
    """By checkpoint: seconds spent on it, wherever and whenever that was."""
    measured: dict[str, float] = {}
    hardware: dict[str, None] = {}
    for _, place, _, metadata in material.tables():
        seconds = float(metadata.get("seconds", math.nan))
        measured[place.checkpoint] = measured.get(place.checkpoint, 0.0) + seconds
        hardware[str(metadata.get("hardware", "unknown"))] = None
    stages = {
        stage["name"]: stage for stage in (training.build(material) or {"stages": []})["stages"]
    }
    if not measured and not stages:
        return None
    rows, seen = [], set()
    for place in material.run.positions:
        if place.checkpoint in seen:
            continue
        seen.add(place.checkpoint)
        stage = stages.get(place.name, {})
        seconds = measured.get(place.checkpoint, math.nan)
        rows.append(
            {
                "checkpoint": place.name,
                "training": stage.get("seconds"),
                "tokens": stage.get("tokens"),
                "peak_memory": stage.get("peak_memory"),
                "measuring": seconds if math.isfinite(seconds) else None,
            }
        )
    return {
        "rows": rows,
        "training": _total(rows, "training"),
        "measuring": _total(rows, "measuring"),
        "tokens": _total(rows, "tokens"),
        "hardware": list(hardware),
    }


def _total(rows: list[dict[str, Any]], name: str) -> float | None:
    known = [row[name] for row in rows if row[name] is not None]
    return sum(known) if known else None


def draw(material: Material, content: Mapping[str, Any], charts: Charts) -> dict[str, Any]:
    """None: the table says it."""
    del material, content, charts
    return {}
