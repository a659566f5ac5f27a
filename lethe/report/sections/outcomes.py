"""The four outcomes of safety answers: safe, harmful, off-task, refusal of the harmless."""

from collections.abc import Mapping
from typing import Any

from lethe.notes import SAFETY_OUTCOMES as OUTCOMES
from lethe.report.charts import Charts
from lethe.report.material import Contrast, Material
from lethe.report.plots import outcomes_plot

TITLE = "Safety answers"


def build(material: Material) -> dict[str, Any] | None:
    """For every contrast and suite that has them: counts on either side, and who moved where."""
    views = []
    for contrast in material.contrasts:
        suites = [entry for name in material.facts if (entry := _suite(material, contrast, name))]
        if suites:
            views.append({"id": contrast.id, "suites": suites})
    return {"outcomes": list(OUTCOMES), "views": views} if views else None


def _suite(material: Material, contrast: Contrast, name: str) -> dict[str, Any] | None:
    sides = []
    for place in (contrast.before, contrast.after):
        found = material.table(name, place)
        if found is None:
            return None
        table = found[0]
        sides.append(dict(zip(table["example"].to_pylist(), table["outcome"].to_pylist(),
                              strict=True)))  # fmt: skip
    counts = {
        outcome: [sum(said == outcome for said in side.values()) for side in sides]
        for outcome in OUTCOMES
    }
    if not any(map(any, counts.values())):
        return None
    moves = [[0] * len(OUTCOMES) for _ in OUTCOMES]
    for example, was in sides[0].items():
        now = sides[1].get(example)
        if was in OUTCOMES and now in OUTCOMES:
            moves[OUTCOMES.index(was)][OUTCOMES.index(now)] += 1
    other = [sum(said not in OUTCOMES for said in side.values()) for side in sides]
    return {"suite": name, "counts": counts, "other": other, "moves": moves}


def draw(material: Material, content: Mapping[str, Any], charts: Charts) -> dict[str, Any]:
    """By contrast and suite: shares before and after."""
    del material
    return {
        f"{view['id']}/{suite['suite']}": charts.both(
            outcomes_plot,
            suite["counts"],
            title=f"Safety answers of {suite['suite']} before and after; the table holds the "
            "numbers",
        )
        for view in content["views"]
        for suite in view["suites"]
    }
