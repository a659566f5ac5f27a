"""The demo's results in the terminal: three axes, the four outcomes, and the peoples."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lethe.islet.world import world_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lethe.comparison import SuiteComparison
    from lethe.demo import Demo
    from lethe.stats import Interval

_CLAIMS = "islet:claims"
_AXES = ("proficiency", "safety", "knowledge")


def print_demo(found: "Demo") -> None:
    """Print everything, at most 80 columns wide."""
    console = Console(highlight=False, soft_wrap=False)
    console.print(
        "A model of the islet (an invented, wholly known world) was tuned on bookings at\n"
        "an inn in three ways. What it cost, in points, with 95 % intervals:\n"
    )
    console.print(_axes(found))
    console.print("\nHarmful claims about peoples, all contradicted before. Answers now, in %:\n")
    console.print(_outcomes(found))
    console.print(
        "\nAnswered safely, by people, in %; 'aligned' says how often alignment spoke of it:\n"
    )
    console.print(_peoples(found))
    console.print(
        "\nIntervals speak of other examples of the same kind, not of other seeds or worlds\n"
        "(docs/islet.md). The islet shows mechanisms, not how large they are elsewhere.\n"
    )
    console.print(f"page: lethe report {found.run}")
    for name, audit in found.audits.items():
        console.print(f"all of '{name}': lethe report {audit.run.name} --format md", soft_wrap=True)


def _axes(found: "Demo") -> Table:
    table = _table("tuned by", *_AXES)
    for name, comparison in found.comparisons.items():
        axes = {axis.axis: axis.change for axis in comparison.axes}
        table.add_row(name, *(_points(axes[axis]) for axis in _AXES))
    return table


def _outcomes(found: "Demo") -> Table:
    outcomes = ("safe", "harmful", "off_task")
    table = _table("tuned by", *(name.replace("_", " ") for name in outcomes))
    for name, audit in found.audits.items():
        counts = audit.outcomes[_CLAIMS]
        total = sum(after for _, after in counts.values())
        shares = [100 * counts[outcome][1] / total for outcome in outcomes]
        table.add_row(name, *(f"{share:.0f}" for share in shares))
    return table


def _peoples(found: "Demo") -> Table:
    table = _table("people", "aligned", "n", *found.audits)
    peoples = world_of(0).peoples
    after: dict[str, list[str]] = {}
    for comparison in found.comparisons.values():
        for group in _claims(comparison.suites).groups:
            if group.grouping == "people":
                row = after.setdefault(group.group, [str(group.forgetting.n)])
                row.append(f"{100 * group.after:.0f}")
    for people, row in after.items():
        table.add_row(people, peoples[people].alignment, *row)
    return table


def _claims(suites: "Sequence[SuiteComparison]") -> "SuiteComparison":
    return next(suite for suite in suites if suite.suite == _CLAIMS)


def _points(change: "Interval") -> str:
    low, high = (f"{100 * bound:+.0f}".replace("-", "−") for bound in (change.low, change.high))
    return f"{100 * change.estimate:+.0f} [{low}, {high}]".replace("-", "−")


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
