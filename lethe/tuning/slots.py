"""Slots of a stage as a study writes them: what is done after it, and what is measured meanwhile.

No torch. Lists are grids, also within a slot: `{kl: {weight: [0.1, 1]}}` is two anchors.
"""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from lethe.examples import Split
from lethe.tuning.anchor import checked_names
from lethe.tuning.intruders import Intruders

Alpha = Annotated[float, Field(ge=0, le=1)]


class _Slot(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class ChooseAlpha(_Slot):
    """How far to go, chosen on a dev split.

    The rule: of all α whose mean dev score, after this stage alone on the base with the first seed,
    is at most `within` below the best, the smallest.

    Attributes:
        choose: the α to try.
        suite: whose dev split decides; None: the stage's own.
    """

    choose: list[Alpha] = Field(min_length=2)
    within: float = Field(default=0.0, ge=0, lt=1)
    suite: str | None = None
    split: Split = "dev"
    limit: int | None = Field(default=None, ge=1)


class SafeLoraSpec(_Slot):
    """Which two models the alignment lies between, and what is projected on it.

    Attributes:
        unaligned, aligned: folders or hub ids; aligned None: where the study's chains start.
        threshold: cosines up to it are projected.
    """

    unaligned: str
    aligned: str | None = None
    threshold: float = Field(default=0.5, ge=-1, le=1)


class MeasureSpec(_Slot):
    """Suites measured while a stage trains, every so many steps."""

    every: int = Field(ge=1)
    suites: list[str] = Field(min_length=1)
    split: Split = "dev"
    limit: int | None = Field(default=None, ge=1)


def read_after(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The slot `after` as fields of a stage: interpolate, choose_alpha, intruders, safelora.

    Raises:
        InputError: a name that nobody knows.
    """
    found: dict[str, Any] = {}
    for name, value in content.items():
        if name == "interpolate":
            if isinstance(value, Mapping):
                found["choose_alpha"] = checked_names("interpolate", value, ChooseAlpha, where)
                floats = found["choose_alpha"].get("choose")
                if isinstance(floats, list):
                    found["choose_alpha"]["choose"] = [_float(one) for one in floats]
            else:
                values = value if isinstance(value, list) else [value]
                found["interpolate"] = [_float(one) for one in values]
        else:
            model = Intruders if name == "intruders" else SafeLoraSpec
            found[name] = [
                None if one in ("none", False) else _filled(name, one, model, where)
                for one in spread(value)
            ]
    return found


def spread(value: Any) -> list[Any]:
    """Every combination of the lists within a value, however deep."""
    if isinstance(value, list):
        return [one for inner in value for one in spread(inner)]
    if isinstance(value, Mapping):
        parts = [spread(inner) for inner in value.values()]
        return [dict(zip(value, chosen, strict=True)) for chosen in itertools.product(*parts)]
    return [value]


def said(value: Any) -> str:
    """A value in a label: `{kl: {weight: 1}}` is `kl(weight 1)`."""
    if isinstance(value, BaseModel):
        return said(value.model_dump(exclude_defaults=True)) or "on"
    if isinstance(value, Mapping):
        return " ".join(
            f"{name}({said(inner)})" if isinstance(inner, Mapping) else f"{name} {inner}"
            for name, inner in value.items()
        )
    return "none" if value is None else str(value)


def _filled(name: str, value: Any, model: type[BaseModel], where: str) -> dict[str, Any]:
    return {} if value in (True, None) else checked_names(name, value, model, where)


def _float(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
