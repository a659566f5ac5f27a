"""The stage × suite matrix: what every suite scores after every stage of a chain."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from lethe.forgetting import forgetting_from_best
from lethe.plain import plain
from lethe.report.charts import Charts
from lethe.report.material import Line, Material

TITLE = "Stage by suite"
MOST_CHAINS = 40


def build(material: Material) -> dict[str, Any] | None:
    """For every chain, the mean over its seeds and worlds, with the lowest and the highest."""
    by_chain: dict[str, list[Line]] = {}
    for line in material.lines:
        by_chain.setdefault(line.chain, []).append(line)
    if not by_chain or not material.facts:
        return None
    shown = list(by_chain.items())[:MOST_CHAINS]
    worlds = {line.world for line in material.lines}
    found: dict[str, Any] = plain(
        {
            # Suites of all worlds share a column, which the first world's would name.
            "suites": [_bare(name, worlds) for name in material.facts],
            "axes": [facts.axis for facts in material.facts.values()],
            "chains": [_chain(material, name, lines) for name, lines in shown],
            "left_out": len(by_chain) - len(shown),
        }
    )
    return found


def _bare(suite: str, worlds: Collection[str | None]) -> str:
    """Without its world, where there are several."""
    names = [suite.removesuffix(f"/{world}") for world in worlds if len(worlds) > 1]
    return min(names, key=len, default=suite)


def _chain(material: Material, name: str, lines: Sequence[Line]) -> dict[str, Any]:
    most = max(len(line.places) for line in lines)
    scores = np.full((len(lines), most, len(material.facts)), np.nan)
    for k, line in enumerate(lines):
        for i, place in enumerate(line.places):
            scores[k, i] = [material.score(suite, place) for suite in material.facts]
    longest = max(lines, key=lambda line: len(line.places))
    names = stage_names(material, longest)
    rows = [
        {
            "position": i,
            "label": names[i],
            "method": longest.places[i].method,
            "cells": [_cell(scores[:, i, j]) for j in range(scores.shape[2])],
        }
        for i in range(most)
    ]
    lost: list[Any] = []
    if most > 1 and material.facts:
        lost = [_cell(column) for column in _lost(scores).T]
    return {"chain": name, "runs": len(lines), "rows": rows, "lost_from_best": lost}


def _lost(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Best score before the end − score at the end, for every line and suite."""
    base = [0] * scores.shape[2]
    return np.array([forgetting_from_best(matrix, base) for matrix in scores])


def _cell(values: np.ndarray[Any, Any]) -> dict[str, Any] | None:
    known = [float(value) for value in values if not math.isnan(value)]
    if not known:
        return None
    return {
        "mean": float(np.mean(known)),
        "low": min(known),
        "high": max(known),
        "runs": len(known),
    }


def stage_names(material: Material, line: Line) -> list[str]:
    """What the places of a line are called: the base, then its stages by the study's names."""
    if line.chain == "audit":
        return [place.name for place in line.places]
    stages = line.chain.split(" > ")
    if len(stages) != len(line.places) - 1:
        chains: Mapping[str, list[str]] = material.run.settings.get("study", {}).get("chains", {})
        stages = _flat(chains, line.chain.partition(" (")[0], 0)
    told = stages if len(stages) == len(line.places) - 1 else [""] * (len(line.places) - 1)
    return ["base", *(f"{n}. {name}".strip() for n, name in enumerate(told, start=1))]


def _flat(chains: Mapping[str, list[str]], name: str, depth: int) -> list[str]:
    """The stages of a chain, chains within it put in their places."""
    if name not in chains or depth > 20:
        return [name]
    return [stage for part in chains[name] for stage in (
        [part] if part == name else _flat(chains, part, depth + 1)
    )]  # fmt: skip


def draw(material: Material, content: Mapping[str, Any], charts: Charts) -> dict[str, Any]:
    """None: the table is the picture."""
    del material, content, charts
    return {}
