"""A comparison as a notebook shows it: one sentence and one table, escaped."""

from collections.abc import Sequence

from markupsafe import Markup

from lethe.comparison import Comparison
from lethe.report.wording import visible
from lethe.tables import headline, number, span


def comparison_html(found: Comparison, notes: Sequence[str] = ()) -> str:
    """HTML that takes its look from the notebook around it."""
    rows = Markup("")
    for axis in found.axes:
        members = [suite for suite in found.suites if suite.suite in axis.suites]
        joint = len(members) > 1
        rows += _row(
            axis.axis,
            "",
            number(axis.before) if joint else "",
            number(axis.after) if joint else "",
            span(axis.change) if joint else "",
            bold=True,
        )
        for suite in members:
            rows += _row(
                suite.suite,
                str(suite.n),
                number(suite.before.estimate),
                number(suite.after.estimate),
                span(suite.change),
            )
    warnings = [f"{suite.suite}: {text}" for suite in found.suites for text in suite.warnings]
    lines = Markup("").join(
        Markup("<li>{}</li>").format(visible(line))
        for line in [*warnings, *notes, f"intervals speak of {found.speaks_of}"]
    )
    return str(
        Markup(
            "<p><b>{}</b></p><table><thead><tr><th>axis and suite</th><th>n</th><th>before</th>"
            "<th>after</th><th>change [95 %]</th></tr></thead><tbody>{}</tbody></table><ul>{}</ul>"
        ).format(visible(headline(found)), rows, lines)
    )


def _row(name: str, *cells: str, bold: bool = False) -> Markup:
    named = Markup("<b><bdi>{}</bdi></b>" if bold else "<bdi>{}</bdi>").format(visible(name))
    rest = Markup("").join(Markup("<td>{}</td>").format(cell) for cell in cells)
    return Markup("<tr><th scope=row>{}</th>{}</tr>").format(named, rest)
