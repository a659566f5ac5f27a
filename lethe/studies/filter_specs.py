"""A filter as a study writes it. No torch."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from lethe.errors import InputError, nearest
from lethe.filtering.rivals import RIVALS
from lethe.filtering.sift import Rule
from lethe.filtering.signals import SIGNALS
from lethe.filtering.stages import read_stages
from lethe.studies.places import Places
from lethe.studies.stage_specs import Data, Strict, read_data
from lethe.tuning.settings import StageSettings

_DATA = ("noisy", "safe", "trusted")


class FilterSpec(Strict):
    """What a filter reads, by what it judges, and what it throws away.

    Attributes:
        noisy: rows to be judged; safe: rows known to be safe; trusted: checked task rows.
        by: `likelihood` or `rouge` (ForgetFilter), or the name of a rival.
        threshold: suspicion above which a row goes; false_rejections: promised share of good rows
            among the rejected, for which `trusted` is needed; share: the most suspect share of the
            rows. One of them.
        set_aside: share of the safe rows that are planted among the noisy ones.
        steps: of tuning on the safe rows.
        settings: of both trainings; those under `safe` are for the second alone.
        force: reject by threshold also where the signal does not separate.
        curves: measure unsafe, safe and task rows every so many steps of both trainings.
    """

    noisy: Data
    safe: Data
    trusted: Data | None = None
    by: str = "likelihood"
    threshold: float | None = None
    false_rejections: Annotated[float, Field(gt=0, lt=1)] | None = None
    share: Annotated[float, Field(ge=0, le=1)] | None = None
    set_aside: Annotated[float, Field(ge=0, lt=1)] = 0.2
    steps: int | None = Field(default=None, ge=1)
    settings: dict[str, Any] = Field(default={})
    force: bool = False
    curves: int | None = Field(default=None, ge=1)

    @property
    def sources(self) -> dict[str, Data]:
        """What it reads, by slot."""
        found = {"noisy": self.noisy, "safe": self.safe}
        return found if self.trusted is None else {**found, "trusted": self.trusted}

    @property
    def rule(self) -> Rule:
        """How scores become rejections."""
        return Rule(self.threshold, self.false_rejections, self.share, self.force)

    def stages(self, dtype: str, seed: int, safe_rows: int) -> tuple[StageSettings, StageSettings]:
        """The settings of both trainings, with a seed of the study.

        Args:
            safe_rows: how many rows the second learns.
        """
        settings = {**self.settings, "precision": dtype}
        return read_stages(settings, steps=self.steps, safe_rows=safe_rows, seed=seed)


def read_filter(content: Any, at: tuple[str, ...], places: Places) -> dict[str, Any]:
    """A filter as written: its own keys, and the settings of its trainings among them.

    Raises:
        InputError: a key or a value that cannot be.
    """
    if not isinstance(content, Mapping):
        raise places.error("a filter is a mapping", at, todo="give noisy and safe")
    own = [name for name in FilterSpec.model_fields if name != "settings"]
    found: dict[str, Any] = {str(k): v for k, v in content.items() if k in own}
    for slot in _DATA:
        if slot in found:
            found[slot] = read_data(found[slot], (*at, slot), places)
    for name in ("threshold", "false_rejections", "share", "set_aside"):
        if isinstance(found.get(name), int) and not isinstance(found[name], bool):
            found[name] = float(found[name])
    # What is no key of a filter is a setting of its trainings; `safe` is taken by the safe rows.
    settings = {str(k): v for k, v in content.items() if k not in own}
    for key, value in settings.items():
        if isinstance(value, list):
            raise places.error(f"'{key}' is a list", (*at, key), todo="write a filter for each")
    second = settings.pop("second", None)
    if second is not None:
        settings["safe"] = second
    rules = [n for n in ("threshold", "false_rejections", "share") if found.get(n) is not None]
    if len(rules) != 1:
        todo = "give one of threshold, false_rejections, share"
        raise places.error(f"found {' and '.join(rules) or 'no rule'}", at, todo=todo)
    by = found.get("by", "likelihood")
    if by not in (names := (*SIGNALS, *RIVALS)):
        raise places.error(f"no filter '{by}'", (*at, "by"), todo=nearest(str(by), names))
    if "false_rejections" in rules and "trusted" not in found:
        raise places.error(
            "nothing can be promised without trusted rows", at, todo="add trusted: ..."
        )
    try:
        read_stages(settings, steps=found.get("steps"), where=places.of(at))
    except InputError as error:
        raise InputError(error.what, where=places.of(at), todo=error.todo) from None
    return {**found, "settings": settings}
