"""Groups: who lost beyond the rest, with bounds that hold for all groups together."""

from collections.abc import Mapping
from typing import Any

from lethe.biased import detectable_drops
from lethe.comparison import SuiteComparison
from lethe.plain import plain
from lethe.report.charts import Charts
from lethe.report.material import Contrast, Material
from lethe.report.plots import forest_plot

TITLE = "Who lost more"


def build(material: Material) -> dict[str, Any] | None:
    """For every contrast, suite and grouping: its groups, their spread, and the undecidable."""
    views = [
        {
            "id": contrast.id,
            "groupings": [
                entry
                for suite in contrast.comparison.suites
                for entry in _groupings(contrast, suite)
            ],
        }
        for contrast in material.contrasts
        if contrast.comparison is not None
    ]
    return {"views": views} if any(view["groupings"] for view in views) else None


def _groupings(contrast: Contrast, suite: SuiteComparison) -> list[dict[str, Any]]:
    panel = contrast.panels[suite.suite]
    drops = {
        (drop.grouping, drop.group): drop for drop in detectable_drops(panel, contrast.before.name)
    }
    spreads = {spread.grouping: spread for spread in suite.spreads}
    found: dict[str, list[dict[str, Any]]] = {}
    for group in suite.groups:
        spread = spreads.get(group.grouping)
        drop = drops.get((group.grouping, group.group))
        bound = spread.bounds.get(group.group) if spread else None
        found.setdefault(group.grouping, []).append(
            {
                "group": group.group,
                "n": group.forgetting.n,
                "before": group.before,
                "after": group.after,
                "forgetting": plain(group.forgetting),
                "q_value": plain(group.q_value),
                "beyond": plain(bound),
                # The classes a mean is balanced over trade places when a criterion shifts.
                "undecidable": bool(
                    drop and not drop.decidable and group.grouping != panel.facts.balance
                ),
                "smallest": plain(drop.smallest) if drop else None,
                "note": group.note,
            }
        )
    return [
        {
            "suite": suite.suite,
            "grouping": grouping,
            "balance": grouping == panel.facts.balance,
            "spread": _spread(spreads.get(grouping)),
            "groups": sorted(rows, key=_order),
        }
        for grouping, rows in found.items()
    ]


def _order(row: Mapping[str, Any]) -> tuple[bool, float]:
    """Most lost beyond the rest first."""
    key = row["beyond"] or row["forgetting"]
    estimate = key["estimate"]
    return row["beyond"] is None, -(estimate if estimate is not None else 0.0)


def _spread(spread: Any) -> dict[str, Any] | None:
    if spread is None:
        return None
    names = ("width", "by_chance", "most", "least", "component")
    return {name: plain(getattr(spread, name)) for name in names}


def draw(material: Material, content: Mapping[str, Any], charts: Charts) -> dict[str, Any]:
    """By contrast, suite and grouping: a forest plot."""
    undecided = {
        (view["id"], entry["suite"], entry["grouping"]): {
            row["group"] for row in entry["groups"] if row["undecidable"]
        }
        for view in content["views"]
        for entry in view["groupings"]
    }
    found: dict[str, Any] = {}
    for contrast in material.contrasts:
        for suite in contrast.comparison.suites if contrast.comparison else ():
            for spread in suite.spreads:
                key = (contrast.id, suite.suite, spread.grouping)
                found["/".join(key)] = charts.add(
                    forest_plot,
                    spread,
                    undecided=undecided.get(key, set()),
                    title=f"{suite.suite} by {spread.grouping}: lost beyond the rest, "
                    "with simultaneous bounds; the table holds the numbers",
                )
    return found
