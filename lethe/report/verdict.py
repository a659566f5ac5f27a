"""What may be said of a change: gained, lost, unsure, or nothing since the base guesses."""

from typing import Literal

from lethe.comparison import AxisComparison, Comparison
from lethe.stats import Interval

Verdict = Literal["gained", "lost", "unsure", "chance"]

WORDS: dict[Verdict, str] = {
    "gained": "gained",
    "lost": "lost",
    "unsure": "no sure change",
    "chance": "base at chance",
}


def verdict_of(change: Interval) -> Verdict:
    """By the interval alone."""
    if change.high < 0:
        return "lost"
    return "gained" if change.low > 0 else "unsure"


def suite_verdict(change: Interval, *, able: bool, learned: bool) -> Verdict:
    """A suite's: where the base guesses, only a rise above chance says anything."""
    found = verdict_of(change)
    return found if able or (found == "gained" and learned) else "chance"


def axis_verdict(axis: AxisComparison, found: Comparison) -> Verdict:
    """An axis': as the headline says it."""
    members = [suite for suite in found.suites if suite.suite in axis.suites]
    return suite_verdict(
        axis.change,
        able=any(suite.above_chance for suite in members),
        learned=any(suite.above_chance_after for suite in members),
    )
