"""Studies: what to tune on what in which order, and on what to measure it. No torch.

A study is YAML (`lethe.studies.study_file`) or the same mapping in Python (`make_study`). Lists in
a stage are grids: every value is an arm of its own, trained and measured beside the others.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from lethe.errors import nearest
from lethe.examples import Split
from lethe.filtering.contamination import Mixture
from lethe.lab.presets import PRESETS
from lethe.models.local import Dtype
from lethe.studies.arms import Arm, arms_of
from lethe.studies.filter_specs import FilterSpec, read_filter
from lethe.studies.places import Places, Where
from lethe.studies.probe_specs import ProbeSpec, check_probes, check_tuned
from lethe.studies.stage_specs import Data, StageSpec, Strict, read_stage

__all__ = ["Arm", "Chain", "Data", "Study", "Where", "arms_of", "chains_of", "make_study"]

MOST_POSITIONS = 20_000
_NAME = re.compile(r"[\w.+-]+", re.ASCII)

Keep = Literal["all", "adapters", "last"]


class SharpnessSpec(Strict):
    """Sharpness at every tuned position, on so many rows of what its last stage was taught."""

    rows: int = Field(ge=1)


class Study(Strict):
    """A whole study. Made by `make_study`, which also checks what fields say of each other.

    Attributes:
        model: where every chain starts: a folder or hub id.
        suites: what every position of every chain is measured on.
        split, limit: of the suites.
        dtype: what models compute in, when measured and when tuned.
        worlds: each stands for `{world}` in the model, the suites and the data; the whole study is
            done in each.
        mixtures: noisy data with a known share of unsafe rows, and what belongs to it.
        filters: each gives what it keeps of some noisy rows.
        safety_prompt: every suite is also asked with this text in front of its prompts.
        chains: lists of stages; a chain's name in such a list stands for its stages.
        orders: stages of which every order is a chain as well.
        sharpness: the loss's largest Hessian eigenvalue at every tuned position of every chain.
        probes: pairs of models of which is asked whether what was lost is hidden.
        lab: preset of in-context regression, run with every seed.
        keep: which checkpoints stay once nothing needs them: `all`; `adapters`, small as they are,
            with the last one of every chain; or the `last` alone. What a kept adapter stands on
            stays as well, and so do all tables.
    """

    name: str
    model: str
    suites: list[str] = Field(min_length=1)
    split: Split = "test"
    limit: int | None = Field(default=None, ge=1)
    format: Literal["auto", "chat", "plain"] = "auto"
    dtype: Dtype = "float32"
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(default=[0], min_length=1)
    worlds: list[int | str] = Field(default=[])
    mixtures: dict[str, Mixture] = Field(default={})
    filters: dict[str, FilterSpec] = Field(default={})
    safety_prompt: str | None = Field(default=None, min_length=1)
    stages: dict[str, StageSpec] = Field(min_length=1)
    chains: dict[str, list[str]] = Field(default={})
    orders: list[str] = Field(default=[], max_length=6)
    sharpness: SharpnessSpec | None = None
    probes: dict[str, ProbeSpec] = Field(default={})
    lab: str | None = None
    keep: Keep = "adapters"


@dataclass(frozen=True)
class Chain:
    """Stages in order, each in one of its arms."""

    name: str
    arms: tuple[Arm, ...]


def make_study(content: Mapping[str, Any], *, where: Where | None = None) -> Study:
    """A study from a mapping as YAML gives it.

    Args:
        where: file and line of every key, by its path.

    Raises:
        InputError: an unknown or missing key, a value that cannot be, a chain of stages that do
            not exist or that goes in a circle, data of a mixture or filter that does not exist.
    """
    places = Places(where or {})
    places.check(content, Study.model_fields, ())
    if content.get("sharpness") is not None:
        places.check(content["sharpness"], SharpnessSpec.model_fields, ("sharpness",))
    check_probes(content.get("probes"), places)
    whole = dict(content)
    for key, read in (("stages", read_stage), ("filters", read_filter), ("mixtures", _mixture)):
        named = content.get(key)
        if isinstance(named, Mapping):
            whole[key] = {
                str(name): read(one, (key, str(name)), places) for name, one in named.items()
            }
    try:
        study = Study(**whole)
    except ValidationError as error:
        raise places.explain(error) from None
    if not _NAME.fullmatch(study.name):
        raise places.error("a name is letters, digits, and . + - _", ("name",))
    _check_sources(study, places)
    for name in study.stages:
        arms_of(study, name, places)
    check_tuned(study.probes, [chain.name for chain in chains_of(study, places)], places)
    if study.lab is not None and study.lab not in PRESETS:
        raise places.error(f"no preset '{study.lab}'", ("lab",), todo=nearest(study.lab, PRESETS))
    return study


def _mixture(content: Any, at: tuple[str, ...], places: Places) -> dict[str, Any]:
    places.check(content, Mixture.model_fields, at)
    mixture = dict(content)
    for name in ("share", "hard"):  # YAML writes 0 and 1 without a point
        if isinstance(mixture.get(name), int) and not isinstance(mixture[name], bool):
            mixture[name] = float(mixture[name])
    return mixture


def _check_sources(study: Study, places: Places) -> None:
    """Every mixture and filter that something reads is there, and can be read there."""
    read: list[tuple[tuple[str, ...], Data]] = []
    for name, stage in study.stages.items():
        at = ("stages", name)
        read += [((*at, "data"), stage.data), *(((*at, "protect"), one) for one in stage.protect)]
        if stage.replay is not None:
            read.append(((*at, "mix", "replay", "data"), stage.replay.data))
            if stage.replay.data.filter is not None:
                raise places.error("what a filter keeps cannot be replayed", read[-1][0])
        if any(one.filter for one in stage.protect):
            raise places.error("what a filter keeps cannot be protected", (*at, "protect"))
        if study.sharpness is not None and stage.data.filter is not None:
            raise places.error(
                "sharpness is read on rows known beforehand, not on what a filter keeps",
                (*at, "data"),
                todo="leave sharpness out",
            )
    for name, spec in study.filters.items():
        for slot, data in spec.sources.items():
            read.append((("filters", name, slot), data))
            if data.filter is not None:
                raise places.error("a filter cannot read another one", ("filters", name, slot))
    for place, data in read:
        for word, names in (("mixture", study.mixtures), ("filter", study.filters)):
            asked = getattr(data, word)
            if asked is not None and asked not in names:
                known = nearest(asked, names) if names else f"add it under {word}s"
                raise places.error(f"no {word} '{asked}'", place, todo=known)
        if data.prompted and study.safety_prompt is None:
            todo = "add safety_prompt: ..."
            raise places.error("prompted, and no safety_prompt", place, todo=todo)


def chains_of(study: Study, places: Places | None = None) -> list[Chain]:
    """Every chain in every combination of its stages' arms.

    Raises:
        InputError: no chains, a name that is neither stage nor chain, a circle, unequal numbers of
            rates to choose from, or more positions than anyone meant.
    """
    places = places or Places({})
    named = {name: _flat(study, name, (), places) for name in study.chains}
    for name in study.orders:
        if name not in study.stages:
            raise places.error(f"no stage '{name}'", ("orders",), todo=nearest(name, study.stages))
    if len(set(study.orders)) < len(study.orders):
        raise places.error("a stage stands twice in orders", ("orders",), todo="name each once")
    for order in itertools.permutations(study.orders) if study.orders else ():
        named.setdefault(" > ".join(order), list(order))
    if not named:
        raise places.error("a study without chains", ("chains",), todo="give chains or orders")
    arms = {name: arms_of(study, name) for name in {n for stages in named.values() for n in stages}}
    choosing = [arm.choose for one in arms.values() for arm in one if arm.choose]
    trials = {len(choose.learning_rate) for choose in choosing}
    if len(trials) > 1:
        raise places.error(
            f"stages choose among {' and '.join(map(str, sorted(trials)))} learning rates",
            ("stages",),
            todo="give every stage as many, or comparisons favour those with more",
        )
    if len({choose.rounds for choose in choosing}) > 1:
        ways = sorted({f"{choose.by} {choose.factor or ''}".strip() for choose in choosing})
        raise places.error(
            f"stages choose their learning rates by {' and '.join(ways)}",
            ("stages",),
            todo="let all choose in one way, or comparisons favour those that spend more",
        )
    _check_size(study, named, {name: len(one) for name, one in arms.items()}, places)
    found = []
    for name, stages in named.items():
        distinct = list(dict.fromkeys(stages))
        for combination in itertools.product(*(arms[stage] for stage in distinct)):
            of = dict(zip(distinct, combination, strict=True))
            apart = [arm.label for arm in combination if arm.label != arm.stage]
            label = f"{name} ({', '.join(apart)})" if apart else name
            found.append(Chain(label, tuple(of[stage] for stage in stages)))
    return found


def _flat(study: Study, name: str, above: tuple[str, ...], places: Places) -> list[str]:
    """The stages of a chain, chains within it put in their places."""
    at = ("chains", name)
    if name in above:
        circle = " > ".join([*above[above.index(name) :], name])
        raise places.error(f"chains go in a circle: {circle}", ("chains", above[0]))
    if name in study.stages and study.chains[name] != [name]:
        raise places.error(f"'{name}' names a stage and a chain", at, todo="rename one")
    if not study.chains[name]:
        raise places.error("a chain without stages", at, todo="name its stages in order")
    stages: list[str] = []
    for part in study.chains[name]:
        if part in study.stages:
            stages.append(part)
        elif part in study.chains:
            stages += _flat(study, part, (*above, name), places)
        else:
            known = [*study.stages, *study.chains]
            raise places.error(f"no stage '{part}'", at, todo=nearest(part, known))
    return stages


def _check_size(
    study: Study, named: Mapping[str, Sequence[str]], arms: Mapping[str, int], places: Places
) -> None:
    worlds = len(study.seeds) * max(1, len(study.worlds))
    count = sum(
        worlds * (len(stages) + 1) * math.prod(arms[stage] for stage in set(stages))
        for stages in named.values()
    )
    if count > MOST_POSITIONS:
        raise places.error(
            f"{count:,} positions in all chains", ("chains",), todo="shorten some of the lists"
        )
