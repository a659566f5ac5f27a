"""A stage as a study writes it: what it is taught, and the slots beside its settings. No torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lethe.examples import Split
from lethe.filtering.contamination import PARTS, Part
from lethe.studies.places import Places
from lethe.tuning.intruders import Intruders
from lethe.tuning.settings import SLOTS
from lethe.tuning.slots import ChooseAlpha, MeasureSpec, SafeLoraSpec, read_after, spread

_STAGE_SLOTS = ("data", "protect", "mix", "after", "choose", "measure")
_SAID_ABOVE = {"seed": "seeds", "precision": "dtype"}
_DATA = ("suite", "mixture", "filter")

Share = Annotated[float, Field(ge=0, lt=1)]
Alpha = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]


class Strict(BaseModel):
    """What a study's mappings have in common: no unknown key, no other type, no change."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Strict):
    """Examples to tune on: of a suite or file, of a part of a mixture, or what a filter kept.

    Attributes:
        split: of the suite; limit: how many of its examples.
        part: of the mixture; piece: `k/n`, the k-th of n pieces of that part.
        prompted: the study's safety prompt stands in front of every prompt.
    """

    suite: str | None = None
    split: Split = "train"
    limit: int | None = Field(default=None, ge=1)
    mixture: str | None = None
    part: Part = "noisy"
    piece: str | None = None
    filter: str | None = None
    prompted: bool = False

    @property
    def name(self) -> str:
        """What it is called in messages."""
        if self.suite is not None:
            return self.suite
        if self.filter is not None:
            return f"filter {self.filter}"
        return f"mixture {self.mixture}, {self.part}" + (f" {self.piece}" if self.piece else "")


class ProtectData(Data):
    """Examples that a stage is not to disturb; of a suite, those set apart for that."""

    split: Split = "protect"


class ReplaySpec(Strict):
    """Earlier data in the places of some rows: its share of the rows, one arm for each.

    Attributes:
        by_parent: the prompts alone are taken, and the parent answers them.
        max_new_tokens: of such an answer.
    """

    data: Data
    share: list[Share] = Field(min_length=1)
    by_parent: bool = False
    max_new_tokens: int = Field(default=64, ge=1)


@dataclass(frozen=True)
class Round:
    """So many values are tried, each for one of `parts` equal parts of the stage's training."""

    values: int
    parts: int


class Choose(Strict):
    """Learning rates to try, and the suite whose dev split decides; none said: the stage's own.

    The rule: best mean score on the dev split after this stage alone on the base, with the first
    seed; ties go to the lower KL(parent‖tuned), then to the lower rate.

    Attributes:
        by: `grid`: every rate is tried for the whole training. `halving`: successive halving
            (Jamieson & Talwalkar 2016, arXiv 1502.07943, figure 3): every round spends one whole
            training, in equal parts on the rates that are left, and the best 1 / `factor` of them
            go on to the next. A trial is a short training with a schedule of its own.
        factor: of halving; 2 where none is said, which is the paper's.
    """

    learning_rate: list[Rate] = Field(min_length=2)
    suite: str | None = None
    split: Split = "dev"
    limit: int | None = Field(default=None, ge=1)
    # Left out where nobody says them, so that a study of an earlier version keeps its name.
    by: Literal["grid", "halving"] = Field(default="grid", exclude_if=lambda by: by == "grid")
    factor: int | None = Field(default=None, ge=2, exclude_if=lambda factor: factor is None)

    @field_validator("learning_rate")
    @classmethod
    def _each_once(cls, rates: list[float]) -> list[float]:
        if len(set(rates)) < len(rates):
            raise ValueError("a rate stands twice")
        return rates

    @model_validator(mode="after")
    def _of_halving(self) -> Self:
        if self.factor is not None and self.by != "halving":
            raise ValueError("a factor is of halving: add by: halving")
        return self

    @property
    def rounds(self) -> tuple[Round, ...]:
        """What is tried for how long, until one rate is left."""
        left = len(self.learning_rate)
        if self.by == "grid":
            return (Round(left, 1),)
        found = []
        while left > 1:
            found.append(Round(left, left))
            left = math.ceil(left / (self.factor or 2))
        return tuple(found)


class StageSpec(Strict):
    """One stage: its data, its update's settings (lists are grids), and the other slots."""

    data: Data
    settings: dict[str, Any] = {}
    protect: list[ProtectData] = []
    replay: ReplaySpec | None = None
    interpolate: list[Alpha] = []
    choose_alpha: ChooseAlpha | None = None
    intruders: list[Intruders | None] = []
    safelora: list[SafeLoraSpec | None] = []
    choose: Choose | None = None
    measure: MeasureSpec | None = None


def read_stage(content: Any, at: tuple[str, ...], places: Places) -> dict[str, Any]:
    """A stage as written, its slots as fields and all else as its settings.

    Raises:
        InputError: a key nobody knows, or one that is missing.
    """
    if not isinstance(content, Mapping):
        raise places.error("a stage is a mapping", at, todo="give at least its data")
    if "data" not in content:
        raise places.error("no data to tune on", at, todo="add data: SUITE_OR_FILE")
    for key, above in _SAID_ABOVE.items():
        if key in content:
            raise places.error(f"'{key}' of a stage", at, todo=f"say {above} for the whole study")
    stage: dict[str, Any] = {
        "data": read_data(content["data"], (*at, "data"), places),
        "settings": {str(k): v for k, v in content.items() if k not in _STAGE_SLOTS},
    }
    if "protect" in content:
        given = content["protect"]
        given = given if isinstance(given, list) else [given]
        stage["protect"] = [read_data(one, (*at, "protect"), places) for one in given]
    for key, value in stage["settings"].items():
        if isinstance(value, list) and not value:
            raise places.error(f"'{key}' is an empty list", (*at, key), todo="give its values")
    mix, after = content.get("mix") or {}, content.get("after") or {}
    places.check(mix, ("replay", "distil", "mask"), (*at, "mix"))
    places.check(after, ("interpolate", "intruders", "safelora"), (*at, "after"))
    stage["settings"] |= {slot: mix[slot] for slot in ("distil", "mask") if slot in mix}
    for slot in SLOTS:
        if slot in stage["settings"]:
            values = spread(stage["settings"][slot])
            stage["settings"][slot] = values if len(values) > 1 else values[0]
    stage |= read_after(after, places.of((*at, "after")))
    if "replay" in mix:
        stage["replay"] = _replay(mix["replay"], (*at, "mix", "replay"), places)
    for slot, known in (("measure", MeasureSpec), ("choose", Choose)):
        if slot in content:
            places.check(content[slot], known.model_fields, (*at, slot))
            stage[slot] = dict(content[slot])
    return stage


def read_data(content: Any, at: tuple[str, ...], places: Places) -> Any:
    """What a stage or a filter reads, as written: a bare name is a suite or file."""
    if not isinstance(content, Mapping):
        return {"suite": content}
    places.check(content, Data.model_fields, at)
    said = [name for name in _DATA if content.get(name) is not None]
    if len(said) != 1:
        found = " and ".join(said) or "none of them"
        raise places.error(f"found {found}", at, todo=f"give one of {', '.join(_DATA)}")
    for name in ("part", "piece"):
        # A study that is read back says its defaults.
        if content.get(name) not in (None, Data.model_fields[name].default) and said != ["mixture"]:
            raise places.error(
                f"a {name} of a {said[0]}", (*at, name), todo="a mixture has parts and pieces"
            )
    if "part" in content and content["part"] not in PARTS:
        raise places.error(
            f"no part '{content['part']}'", (*at, "part"), todo=f"one of {', '.join(PARTS)}"
        )
    return dict(content)


def _replay(content: Any, at: tuple[str, ...], places: Places) -> dict[str, Any]:
    places.check(content, ReplaySpec.model_fields, at)
    replay = dict(content)
    if "data" in replay:
        replay["data"] = read_data(replay["data"], (*at, "data"), places)
    if "share" in replay:
        replay["share"] = _list(replay["share"])
    return replay


def _list(value: Any) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    return [float(one) if isinstance(one, int) and one in (0, 1) else one for one in values]
