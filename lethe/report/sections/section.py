"""What a section's module offers."""

from collections.abc import Mapping
from typing import Any, Protocol

from lethe.report.charts import Charts
from lethe.report.material import Material


class Section(Protocol):
    """A module under `lethe.report.sections`."""

    TITLE: str

    def build(self, material: Material) -> dict[str, Any] | None:
        """What the section holds, as plain JSON values; None where there is nothing to show."""

    def draw(
        self, material: Material, content: Mapping[str, Any], charts: Charts
    ) -> dict[str, Any]:
        """The section's charts by name."""
