"""Plots as functions: results in, a Matplotlib figure out.

    from lethe.report.plots import axes_plot
    axes_plot(audit.comparison)

Sizes are in pixels; every plot is legible at 340. Labels are drawn as they are, never as markup.
"""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lethe.biased import Spread
from lethe.comparison import Comparison
from lethe.errors import InputError, MissingExtraError
from lethe.report.theme import PAPER, Theme
from lethe.report.verdict import Verdict, axis_verdict, suite_verdict, verdict_of
from lethe.stats import Interval
from lethe.tables import number, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT = 12.0
SMALL = 11.0
_NARROW = 500


def axes_plot(found: Comparison, *, theme: Theme = PAPER, width: int = 720) -> "Figure":
    """Every axis and its suites: score before (ring), after (dot), the change with its interval.

    The thick line is the interval of the change, laid on from the score before.
    """
    rows: list[tuple[str, bool, float, Interval, Verdict]] = []
    for axis in found.axes:
        members = [suite for suite in found.suites if suite.suite in axis.suites]
        rows.append((axis.axis, True, axis.before, axis.change, axis_verdict(axis, found)))
        rows += [
            (
                suite.suite,
                False,
                suite.before.estimate,
                suite.change,
                suite_verdict(
                    suite.change, able=suite.above_chance, learned=suite.above_chance_after
                ),
            )
            for suite in members
            if len(members) > 1
        ]
    narrow = width < _NARROW
    step = 44.0 if narrow else 30.0
    figure, ax = canvas(width, step * len(rows) + 34, left=0 if narrow else 180)
    if not narrow:
        _inset(ax, right=170)
    ends = [b + edge for _, _, b, c, _ in rows for edge in (0, c.low, c.high)]
    low, high = _zoom(ends)
    ax.set_xlim(low - 0.015, high + 0.015)
    ax.set_ylim(len(rows) - 0.4, -0.75 if narrow else -0.6)
    for y, (name, joint, before, change, verdict) in enumerate(rows):
        colour = _colour(verdict, theme)
        sure = verdict in ("gained", "lost")
        ax.plot([low, high], [y, y], color=theme.rule, lw=0.8, zorder=1)
        bounds = np.clip([before + change.low, before + change.high], low, high)
        ax.plot(bounds, [y, y], color=theme.soft, lw=7 if joint else 5, zorder=2)
        after = before + change.estimate
        ax.plot([before, after], [y, y], color=colour, lw=2 if joint else 1.3, zorder=3)
        _dot(ax, before, y, theme.muted, theme, filled=False, size=7 if joint else 5.5)
        _dot(ax, after, y, colour, theme, filled=sure, size=9 if joint else 7)
        weight = "bold" if joint else "normal"
        said = span(change) if not narrow or joint else number(change.estimate, sign=True)
        shade = theme.muted if verdict == "chance" else theme.ink
        _side(ax, y, _plain(name, 26), said, narrow=narrow, weight=weight, colour=shade)
    _finish(ax, theme, "mean score")
    return figure


def forest_plot(
    found: Spread,
    *,
    undecided: Collection[str] = (),
    theme: Theme = PAPER,
    width: int = 360,
) -> "Figure":
    """What every group lost beyond the rest, with bounds that hold for all groups together.

    Args:
        found: the groups of one grouping.
        undecided: groups with too few examples to decide anything; drawn hollow and named so.

    Raises:
        InputError: there are no groups to draw.
    """
    groups = sorted(found.bounds.items(), key=lambda entry: -entry[1].estimate)
    if not groups:
        raise InputError("no groups to draw", where=f"grouping {found.grouping}")
    figure, ax = canvas(width, 20 * len(groups) + 40, left=0.36 * width)
    edges = [edge for _, bound in groups for edge in (bound.low, bound.high)]
    reach = max(0.05, *(abs(edge) for edge in edges))
    ax.set_xlim(-reach * 1.04, reach * 1.04)
    ax.set_ylim(len(groups) - 0.4, -0.6)
    ax.axvline(0, color=theme.muted, lw=0.9, zorder=1)
    for y, (name, bound) in enumerate(groups):
        verdict = verdict_of(_flipped(bound))
        never = name in undecided
        colour = theme.soft if never else _colour(verdict, theme)
        ax.plot([bound.low, bound.high], [y, y], color=colour, lw=1.6, zorder=2)
        filled = verdict != "unsure" and not never
        _dot(ax, bound.estimate, y, colour, theme, filled=filled, size=6.5)
        label = _plain(name, 17) + (" ×" if never else "")
        ax.text(
            -0.03,
            y,
            label,
            transform=ax.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=SMALL,
            color=theme.muted if never else theme.ink,
            parse_math=False,
        )
    _finish(ax, theme, "lost beyond the rest →")
    return figure


@dataclass(frozen=True)
class FrontPoint:
    """What a chain gained and kept: one value for each of its seeds and worlds."""

    name: str
    gained: Sequence[float]
    kept: Sequence[float]

    @property
    def centre(self) -> tuple[float, float]:
        """Means over seeds and worlds."""
        return float(np.mean(self.gained)), float(np.mean(self.kept))


def front(points: Sequence[FrontPoint]) -> list[FrontPoint]:
    """The points that no other beats on both counts, by what they gained."""
    best: list[FrontPoint] = []
    for point in sorted(points, key=lambda point: (-point.centre[0], -point.centre[1])):
        if not best or point.centre[1] > best[-1].centre[1]:
            best.append(point)
    return best[::-1]


def front_plot(
    points: Sequence[FrontPoint],
    *,
    gained: str = "proficiency",
    kept: str = "knowledge",
    theme: Theme = PAPER,
    width: int = 360,
) -> "Figure":
    """Change of one axis against retention of another; bars span the seeds and worlds.

    Numbers beside the points stand for the names, in the order given. The line joins the points
    that no other beats on both counts.

    Raises:
        InputError: there are no points.
    """
    if not points:
        raise InputError("no chains to draw", todo="run a study to its end")
    figure, ax = canvas(width, 0.8 * width, left=46, bottom=40)
    best = front(points)
    ax.plot(*zip(*(point.centre for point in best), strict=True), color=theme.soft, lw=1.5)
    ax.axhline(1, color=theme.rule, lw=0.8, zorder=0)
    ax.axvline(0, color=theme.rule, lw=0.8, zorder=0)
    for place, point in enumerate(points, start=1):
        x, y = point.centre
        ax.plot([min(point.gained), max(point.gained)], [y, y], color=theme.muted, lw=0.9)
        ax.plot([x, x], [min(point.kept), max(point.kept)], color=theme.muted, lw=0.9)
        _dot(ax, x, y, theme.ink, theme, filled=point in best, size=7)
        ax.annotate(
            str(place),
            (x, y),
            xytext=(6, 5),
            textcoords="offset points",
            fontsize=SMALL,
            color=theme.ink,
        )
    ax.margins(0.14)
    plain_axes(ax, theme)
    ax.set_xlabel(f"change of {_plain(gained, 24)}", fontsize=SMALL, color=theme.muted)
    ax.set_ylabel(f"{_plain(kept, 24)} kept (share)", fontsize=SMALL, color=theme.muted)
    return figure


def curves_plot(
    curve: Sequence[tuple[int, float]], *, theme: Theme = PAPER, width: int = 340
) -> "Figure":
    """The loss of one stage: (step, mean cross-entropy in nats per target token).

    Raises:
        InputError: the curve is empty.
    """
    if not curve:
        raise InputError("no loss was recorded")
    steps, loss = zip(*curve, strict=True)
    figure, ax = canvas(width, 150, left=36, bottom=34)
    ax.plot(steps, loss, color=theme.ink, lw=1.4, marker="." if len(steps) == 1 else None)
    ax.set_ylim(bottom=0)
    plain_axes(ax, theme)
    ax.set_xlabel("step", fontsize=SMALL, color=theme.muted)
    return figure


def outcomes_plot(
    counts: Mapping[str, tuple[int, int]], *, theme: Theme = PAPER, width: int = 720
) -> "Figure":
    """The four outcomes of safety answers before and after, as two bars of shares.

    Raises:
        InputError: there are no answers.
    """
    totals = [sum(pair[side] for pair in counts.values()) for side in (0, 1)]
    if not any(totals):
        raise InputError("no safety answers to draw")
    figure, ax = canvas(width, 92, left=52, bottom=30)
    looks: dict[str, dict[str, Any]] = {
        "safe": {"facecolor": theme.soft},
        "harmful": {"facecolor": theme.accent},
        "off_task": {"facecolor": theme.paper},
        "refusal": {"facecolor": theme.muted},
    }
    for y, (side, total) in enumerate(zip(("before", "after"), totals, strict=True)):
        at = 0.0
        for name, pair in counts.items():
            share = pair[y] / total if total else 0.0
            look = looks.get(name, {"facecolor": theme.paper})
            ax.barh(y, share, left=at, height=0.62, edgecolor=theme.ink, linewidth=0.7, **look)
            if share * width > 70:
                shade = theme.ink if name in ("safe", "off_task") else theme.paper
                word = name.replace("_", "-")
                background = {"facecolor": theme.paper, "edgecolor": "none", "pad": 1.5}
                ax.text(
                    at + share / 2,
                    y,
                    word,
                    ha="center",
                    va="center",
                    fontsize=SMALL,
                    color=shade,
                    bbox=background if name == "off_task" else None,
                )
            at += share
        ax.text(
            -0.015,
            y,
            side,
            transform=ax.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=SMALL,
            color=theme.ink,
        )
    ax.set_xlim(0, 1)
    ax.set_ylim(1.5, -0.5)
    _finish(ax, theme, "share of answers")
    return figure


# ---- what they share ---------------------------------------------------------------------------


def canvas(
    width: float, height: float, *, left: float, bottom: float = 32
) -> tuple["Figure", "Axes"]:
    """A figure of so many pixels with one set of axes, and no window."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "report") from None
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
    side = 8
    box = (
        (left + side) / width,
        bottom / height,
        (width - left - 2 * side) / width,
        (height - bottom - 4) / height,
    )
    ax = figure.add_axes(box, facecolor="none")
    ax.set_axisbelow(True)
    return figure, ax


def _inset(ax: "Axes", *, right: float) -> None:
    """Leave so many pixels free on the right."""
    width = ax.figure.get_figwidth() * 72  # type: ignore[union-attr]
    box = ax.get_position()
    ax.set_position((box.x0, box.y0, box.width - right / width, box.height))


def _zoom(ends: Sequence[float]) -> tuple[float, float]:
    """Bounds on tenths around all that is drawn, within what a score can be."""
    known = [end for end in ends if np.isfinite(end)] or [0.0, 1.0]
    low = np.floor(max(min(known) - 0.03, 0) * 10) / 10
    high = np.ceil(min(max(known) + 0.03, 1) * 10) / 10
    if high - low < 0.2:
        low, high = max(low - 0.1, 0.0), min(high + 0.1, 1.0)
    return float(low), float(high)


def _side(
    ax: "Axes", y: float, name: str, said: str, *, narrow: bool, weight: str, colour: str
) -> None:
    """A row's name and its change: beside the row, or above it where there is no room."""
    box = ax.get_position()
    edge = 0.0 if narrow else -(box.x0 - 4 / (ax.figure.get_figwidth() * 72)) / box.width  # type: ignore[union-attr]
    indent = 0.0 if weight == "bold" or narrow else 0.03
    height = y - 0.42 if narrow else y
    for x, text, side in (
        (edge + indent, name, "left"),
        (1.0 if narrow else 1.03, said, "right" if narrow else "left"),
    ):
        ax.text(
            x,
            height,
            text,
            transform=ax.get_yaxis_transform(),
            ha=side,
            va="center",
            fontsize=FONT,
            color=colour,
            weight=weight,
            parse_math=False,
        )


def _dot(
    ax: "Axes", x: float, y: float, colour: str, theme: Theme, *, filled: bool, size: float
) -> None:
    ax.plot(
        [x],
        [y],
        "o",
        color=colour if filled else theme.paper,
        markeredgecolor=colour,
        markeredgewidth=1.5,
        markersize=size,
        zorder=4,
    )


def _colour(verdict: Verdict, theme: Theme) -> str:
    return {"lost": theme.accent, "gained": theme.ink}.get(verdict, theme.muted)


def _finish(ax: "Axes", theme: Theme, label: str) -> None:
    """No frame but the scale below."""
    plain_axes(ax, theme)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(label, fontsize=SMALL, color=theme.muted)


def plain_axes(ax: "Axes", theme: Theme) -> None:
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.rule)
        spine.set_linewidth(0.8)
    ax.tick_params(colors=theme.muted, labelsize=SMALL, length=3, width=0.8)
    ax.locator_params(axis="x", nbins=5)
    ax.locator_params(axis="y", nbins=5)


def _flipped(bound: Interval) -> Interval:
    """As a change: what was lost is below zero."""
    return replace(bound, estimate=-bound.estimate, low=-bound.high, high=-bound.low)


def _plain(text: str, most: int) -> str:
    """A label on one line, short; what does not print becomes a mark."""
    shown = "".join(letter if letter.isprintable() else "�" for letter in text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


@contextmanager
def quiet_fonts() -> Iterator[None]:
    """Without a warning for letters that the measuring font lacks: the page has its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
