"""Every suite before and after, with its metrics."""

from collections.abc import Mapping
from typing import Any

from lethe.comparison import SuiteComparison
from lethe.forgetting import changed_choices
from lethe.notes import NOISE_BAND
from lethe.plain import plain
from lethe.report.charts import Charts
from lethe.report.material import Contrast, Material
from lethe.report.verdict import WORDS, suite_verdict

TITLE = "Suite by suite"


def build(material: Material) -> dict[str, Any] | None:
    """For every contrast, a row for each suite."""
    views = [
        {
            "id": contrast.id,
            "suites": [_suite(material, contrast, suite) for suite in contrast.comparison.suites],
        }
        for contrast in material.contrasts
        if contrast.comparison is not None
    ]
    return {"views": views} if views else None


def _suite(material: Material, contrast: Contrast, found: SuiteComparison) -> dict[str, Any]:
    table = material.table(found.suite, contrast.before)
    assert table is not None
    pair = contrast.panels[found.suite].pair(contrast.before.name, contrast.after.name)
    verdict = suite_verdict(found.change, able=found.above_chance, learned=found.above_chance_after)
    names = (
        "suite",
        "axis",
        "n",
        "missing",
        "unscored",
        "before",
        "after",
        "change",
        "p_value",
        "q_value",
        "retention",
        "chance_corrected_retention",
        "chance_corrected_forgetting",
        "metrics",
    )
    return {
        **{name: plain(getattr(found, name)) for name in names},
        "verdict": WORDS[verdict],
        "noise": plain(changed_choices(pair, NOISE_BAND[table[1]["dtype"]])),
    }


def draw(material: Material, content: Mapping[str, Any], charts: Charts) -> dict[str, Any]:
    """None: the table says it."""
    del material, content, charts
    return {}
