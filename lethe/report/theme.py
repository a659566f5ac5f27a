"""The colours of a plot, by what they mean."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """One accent, for what was lost; all else is ink.

    Losses also stand left of zero or are named, and what is unsure is hollow, so that nothing
    hangs on telling colours apart.
    """

    ink: str = "#1d1f21"
    muted: str = "#62676c"
    rule: str = "#d5d7d4"
    accent: str = "#b3401c"
    paper: str = "#ffffff"
    soft: str = "#b9bdbb"


PAPER = Theme()
"""For notebooks and files."""

PAGE = Theme("#010101", "#020202", "#030303", "#040404", "#050505", "#060606")
"""Names of colours that `lethe.report.vector` turns into classes of the page."""
