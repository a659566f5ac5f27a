"""The charts of one page, within a size."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from markupsafe import Markup

from lethe.report.plots import quiet_fonts
from lethe.report.theme import PAGE
from lethe.report.vector import svg_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, NARROW = 720, 340


@dataclass
class Charts:
    """Draws charts until their room is used up; the table behind a chart is always there.

    Attributes:
        room: bytes of SVG in all; drawn, left_out: charts.
    """

    room: int
    drawn: int = 0
    left_out: int = 0
    _spent: int = field(default=0, repr=False)

    def add(
        self, plot: Callable[..., "Figure"], *given: object, title: str, width: int = 360,
        **settings: object,
    ) -> Markup | None:  # fmt: skip
        """One chart, or None where there is no room left."""
        if self._spent >= self.room:
            self.left_out += 1
            return None
        with quiet_fonts():
            figure = plot(*given, theme=PAGE, width=width, **settings)
            drawn = svg_of(figure, title=title, name=f"chart{self.drawn}")
        self.drawn += 1
        self._spent += len(drawn)
        return drawn

    def both(
        self, plot: Callable[..., "Figure"], *given: object, title: str, **settings: object
    ) -> Mapping[str, Markup | None]:
        """A chart for wide screens and one for narrow ones; the page shows either."""
        return {
            name: self.add(plot, *given, title=title, width=width, **settings)
            for name, width in (("wide", WIDE), ("narrow", NARROW))
        }
