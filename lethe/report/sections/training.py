"""The stages: settings, loss, and how far each moved from its parent."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from lethe.errors import InputError
from lethe.plain import plain
from lethe.report.charts import Charts
from lethe.report.material import Material
from lethe.report.plots import curves_plot
from lethe.run import Position
from lethe.tuning import saving

TITLE = "How it was tuned"
MOST_POINTS = 300


def build(material: Material) -> dict[str, Any] | None:
    """Every stage whose record lies beside its weights, each checkpoint once."""
    stages, seen = [], set()
    for place in material.run.positions:
        if place.checkpoint not in seen and (found := _stage(material, place)):
            stages.append(found)
        seen.add(place.checkpoint)
    return plain({"stages": stages}) if stages else None


def _stage(material: Material, place: Position) -> dict[str, Any] | None:
    folder = folder_of(material, place)
    if folder is None:
        return None
    try:
        record = saving.read_record(folder)
        curve = saving.read_loss(folder)
    except (InputError, OSError, ValueError):
        return None
    if record is None or not {"settings", "result"} <= record.keys():  # not made by tuning
        return None
    if not _same(record, place.checkpoint):
        return None
    settings, result = record["settings"], record["result"]
    chosen = ("update", "learning_rate", "epochs", "max_steps", "batch_size", "rank", "seed")
    kept = ("examples", "steps", "tokens", "seconds", "peak_memory", "divergence", "trainable")
    return {
        "name": place.name,
        "settings": {name: settings[name] for name in chosen if settings.get(name) is not None},
        "replay": record.get("replay"),
        **{name: result.get(name) for name in kept},
        "first_loss": curve[0][1] if curve else None,
        "last_loss": curve[-1][1] if curve else None,
        "curve": _thin(curve),
    }


def folder_of(material: Material, place: Position) -> Path | None:
    """Where a checkpoint's files lie: in the store, or where they were when it was measured."""
    stored = material.store.root / "objects" / "checkpoint" / place.checkpoint
    if stored.is_dir():
        return stored
    for suite in material.run.scores:
        found = material.table(suite, place)
        if found is not None:
            folder = Path(found[1]["checkpoint"]["spec"]).expanduser()
            return folder if (folder / saving.LOSS_CURVE).is_file() else None
    return None


def _same(record: Mapping[str, Any], checkpoint: str) -> bool:
    """Whether the record is of this very checkpoint: a folder may have been written over."""
    own, base = record.get("fingerprint"), record.get("base_fingerprint")
    stacked = sha256(f"{base}+{own}".encode()).hexdigest()
    return checkpoint in (own, stacked, record.get("key"))


def _thin(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Means of equal stretches where there are more points than a chart can show."""
    if len(curve) <= MOST_POINTS:
        return curve
    size = -(-len(curve) // MOST_POINTS)
    parts = [curve[at : at + size] for at in range(0, len(curve), size)]
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]


def draw(material: Material, content: Mapping[str, Any], charts: Charts) -> dict[str, Any]:
    """By stage: its loss."""
    del material
    return {
        stage["name"]: charts.add(
            curves_plot,
            [tuple(point) for point in stage["curve"]],
            width=300,
            title=f"Loss of {stage['name']}, nats per target token, by step",
        )
        for stage in content["stages"]
        if stage["curve"]
    }
