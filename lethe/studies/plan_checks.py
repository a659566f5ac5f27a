"""Rows that are taught and measured as well: refused where they mislead, else counted. No torch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lethe.errors import InputError
from lethe.examples import Suite
from lethe.filtering.sift import KeptLessons
from lethe.studies.arms import Arm
from lethe.studies.sources import Sources
from lethe.tuning.mix import Lessons
from lethe.tuning.protect import Protected

Measured = Sequence[tuple[str, Suite]]
"""(spec, suite) of everything a study measures."""


def notes_on(
    arm: Arm,
    own: Lessons,
    earlier: Lessons | None,
    measured: Measured,
    *,
    sources: Sources,
    memory: Path,
) -> Iterator[str]:
    """What has to be said of an arm's rows.

    Args:
        own: what it is taught; earlier: what it replays.
        memory: where counts of unsafe rows are kept.

    Raises:
        InputError: replayed rows that are measured: forgetting would look smaller than it is.
    """
    # Of a filter's rows nobody knows yet which those will be.
    if not isinstance(own, KeptLessons) and (said := sources.unsafe(own, memory).said()):
        yield f"{arm.stage}: {said}"
    for spec, suite in measured:
        if earlier is not None and (twice := sources.overlap(earlier, suite, spec)):
            raise InputError(
                f"{len(twice)} replayed rows are also measured by '{suite.name}': {_some(twice)}",
                where=f"stages.{arm.stage}.mix.replay",
                todo="replay another split or file",
            )
        if twice := sources.overlap(own, suite, spec):
            yield f"{arm.stage}: {len(twice)} rows tuned on are also measured by {suite.name}"


def check_protected(arm: Arm, protected: Protected, measured: Measured, sources: Sources) -> None:
    """Refuse to calibrate on what is measured: protection would look better than it is."""
    for spec, suite in measured:
        if twice := sources.overlap(protected, suite, spec):
            raise InputError(
                f"{len(twice)} protected rows are also measured by '{suite.name}': {_some(twice)}",
                where=f"stages.{arm.stage}.protect",
                todo="protect another split or file",
            )


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
