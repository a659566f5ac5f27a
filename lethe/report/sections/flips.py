"""What became of each example: kept, lost, gained, never right."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lethe.plain import plain
from lethe.report.charts import Charts
from lethe.report.material import Contrast, Material

TITLE = "Example by example"


def build(material: Material) -> dict[str, Any] | None:
    """For every contrast and suite: the four flips, and for graded scores rises and falls."""
    views = [
        {"id": contrast.id, "suites": [_suite(contrast, name) for name in contrast.panels]}
        for contrast in material.contrasts
        if contrast.comparison is not None
    ]
    return {"views": views} if views else None


def _suite(contrast: Contrast, name: str) -> dict[str, Any]:
    assert contrast.comparison is not None
    found = next(suite for suite in contrast.comparison.suites if suite.suite == name)
    pair = contrast.panels[name].pair(contrast.before.name, contrast.after.name)
    right = np.isin([pair.before, pair.after], (0, 1)).all(axis=0)
    change = -pair.forgotten[~right]
    return {
        "suite": name,
        "n": found.n,
        "left_out": found.missing + found.unscored,
        **plain(found.flips),
        "graded": int((~right).sum()),
        "rose": int((change > 0).sum()),
        "fell": int((change < 0).sum()),
        "same": int((change == 0).sum()),
    }


def draw(material: Material, content: Mapping[str, Any], charts: Charts) -> dict[str, Any]:
    """None: the table leads to the examples."""
    del material, content, charts
    return {}
