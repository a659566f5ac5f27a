"""Studies: what to tune on what in which order, and on what to measure it. No torch.

A study is YAML (`lethe.study_file`) or the same mapping in Python (`make_study`). Lists in a stage
are grids: every value is an arm of its own, trained and measured beside the others.
"""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lethe.errors import InputError, nearest
from lethe.examples import Split
from lethe.models.local import Dtype
from lethe.tuning import updates
from lethe.tuning.combination import check_adapter, check_combination
from lethe.tuning.intruders import Intruders
from lethe.tuning.protect import check_protect
from lethe.tuning.settings import SLOTS, StageSettings, read_settings
from lethe.tuning.slots import ChooseAlpha, MeasureSpec, SafeLoraSpec, read_after, said, spread

MOST_POSITIONS = 20_000
_NAME = re.compile(r"[\w.+-]+", re.ASCII)
_SLOTS = ("data", "protect", "mix", "after", "choose", "measure")
_SAID_ABOVE = {"seed": "seeds", "precision": "dtype"}

Share = Annotated[float, Field(ge=0, lt=1)]
Alpha = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Keep = Literal["all", "adapters", "last"]
Where = dict[tuple[str, ...], str]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Data(_Strict):
    """Examples to tune on: a suite or file, its split, and how many of it."""

    suite: str
    split: Split = "train"
    limit: int | None = Field(default=None, ge=1)


class ProtectData(Data):
    """Examples that a stage is not to disturb; of a suite, those set apart for that."""

    split: Split = "protect"


class ReplaySpec(_Strict):
    """Earlier data in the places of some rows: its share of the rows, one arm for each.

    Attributes:
        by_parent: the prompts alone are taken, and the parent answers them.
        max_new_tokens: of such an answer.
    """

    data: Data
    share: list[Share] = Field(min_length=1)
    by_parent: bool = False
    max_new_tokens: int = Field(default=64, ge=1)


class Choose(_Strict):
    """Learning rates to try, and the suite whose dev split decides; none said: the stage's own.

    The rule: best mean score on the dev split after this stage alone on the base, with the first
    seed; ties go to the lower KL(parent‖tuned), then to the lower rate.
    """

    learning_rate: list[Rate] = Field(min_length=2)
    suite: str | None = None
    split: Split = "dev"
    limit: int | None = Field(default=None, ge=1)


class StageSpec(_Strict):
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


class SharpnessSpec(_Strict):
    """Sharpness at every tuned position, on so many rows of what its last stage was taught."""

    rows: int = Field(ge=1)


class Study(_Strict):
    """A whole study. Made by `make_study`, which also checks what fields say of each other.

    Attributes:
        model: where every chain starts: a folder or hub id.
        suites: what every position of every chain is measured on.
        split, limit: of the suites.
        dtype: what models compute in, when measured and when tuned.
        worlds: each stands for `{world}` in the model, the suites and the data; the whole study is
            done in each.
        chains: lists of stages; a chain's name in such a list stands for its stages.
        orders: stages of which every order is a chain as well.
        sharpness: the loss's largest Hessian eigenvalue at every tuned position of every chain.
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
    worlds: list[int | str] = []
    stages: dict[str, StageSpec] = Field(min_length=1)
    chains: dict[str, list[str]] = {}
    orders: list[str] = Field(default=[], max_length=6)
    sharpness: SharpnessSpec | None = None
    keep: Keep = "adapters"


@dataclass(frozen=True)
class Arm:
    """A stage with one value for everything; `choose` is what its rate is still to be chosen by.

    Attributes:
        label: the stage's name, with what sets this arm apart from the stage's others.
    """

    stage: str
    label: str
    data: Data
    settings: StageSettings
    replay: Data | None = None
    share: float = 0.0
    alpha: float | None = None
    choose: Choose | None = None
    protect: tuple[Data, ...] = ()
    by_parent: int | None = None
    intruders: Intruders | None = None
    safelora: SafeLoraSpec | None = None
    choose_alpha: ChooseAlpha | None = None
    measure: MeasureSpec | None = None

    @property
    def method(self) -> str:
        """The slots in a few words, as a ledger names them."""
        words = self.settings.words
        if self.replay is not None:
            words.append(f"replay {self.share:g}{' by parent' if self.by_parent else ''}")
        if self.intruders is not None:
            words.append("intruders")
        if self.safelora is not None:
            words.append(f"safelora {self.safelora.threshold:g}")
        if self.alpha is not None:
            words.append(f"interpolate {self.alpha:g}")
        return " + ".join(words)

    def at(self, rate: float) -> "Arm":
        """The same arm with its rate chosen."""
        settings = self.settings.model_copy(update={"learning_rate": rate})
        return replace(self, settings=settings, choose=None)

    def going(self, alpha: float) -> "Arm":
        """The same arm with its way chosen."""
        return replace(self, alpha=alpha, choose_alpha=None)

    @property
    def bare(self) -> "Arm":
        """The training alone: what a learning rate is tried with."""
        nothing: dict[str, Any] = dict.fromkeys(("alpha", "choose_alpha", "measure"))
        return replace(self, **nothing, intruders=None, safelora=None)

    def seeded(self, seed: int) -> StageSettings:
        """Its settings with a seed of the study."""
        return self.settings.model_copy(update={"seed": seed})


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
            not exist or that goes in a circle.
    """
    places = _Places(where or {})
    places.check(content, Study.model_fields, ())
    if content.get("sharpness") is not None:
        places.check(content["sharpness"], SharpnessSpec.model_fields, ("sharpness",))
    whole = dict(content)
    stages = content.get("stages")
    if isinstance(stages, Mapping):
        whole["stages"] = {
            str(name): _stage(stage, ("stages", str(name)), places)
            for name, stage in stages.items()
        }
    try:
        study = Study(**whole)
    except ValidationError as error:
        raise places.explain(error) from None
    if not _NAME.fullmatch(study.name):
        raise places.error("a name is letters, digits, and . + - _", ("name",))
    for name in study.stages:
        arms_of(study, name, places)
    chains_of(study, places)
    return study


def arms_of(study: Study, name: str, places: "_Places | None" = None) -> list[Arm]:
    """Every arm of a stage: the product of its lists."""
    places, stage = places or _Places({}), study.stages[name]
    at = ("stages", name)
    grid = {key: value for key, value in stage.settings.items() if isinstance(value, list)}
    fixed = {key: value for key, value in stage.settings.items() if key not in grid}
    if stage.choose is not None:
        if "learning_rate" in stage.settings:
            raise places.error("both learning_rate and choose", at)
        fixed["learning_rate"] = stage.choose.learning_rate[0]
    shares: list[float | None] = [None] if stage.replay is None else [*stage.replay.share]
    alphas: list[float | None] = [*stage.interpolate] or [None]
    intruding: list[Intruders | None] = [*stage.intruders] or [None]
    aligned: list[SafeLoraSpec | None] = [*stage.safelora] or [None]
    slots: dict[str, list[Any]] = {
        "share": shares,
        "alpha": alphas,
        "intruders": intruding,
        "safelora": aligned,
    }
    found = []
    for values in itertools.product(*grid.values(), *slots.values()):
        own = dict(zip(grid, values, strict=False))
        filled = dict(zip(slots, values[len(grid) :], strict=True))
        share, alpha = filled["share"], filled["alpha"]
        apart = {**own, **{k: v for k, v in filled.items() if len(slots[k]) > 1}}
        told = ",".join(f"{key}={said(value)}" for key, value in apart.items())
        chosen = read_settings({"precision": study.dtype, **fixed, **own}, where=places.of(at))
        update = updates.find(chosen.update)
        # Beside arms that protect, one that cannot is the comparison.
        protect = () if "update" in grid and not update.calibrated else tuple(stage.protect)
        check_protect(update, [data.suite for data in protect], where=places.of(at))
        check_combination(chosen, replayed=bool(stage.replay and share), where=places.of(at))
        if filled["intruders"] is not None:
            check_adapter(chosen, "intruders", where=places.of((*at, "after", "intruders")))
        found.append(
            Arm(
                stage=name,
                label=f"{name}[{told}]" if told else name,
                data=stage.data,
                settings=chosen,
                protect=protect,
                replay=stage.replay.data if stage.replay and share else None,
                share=share or 0.0,
                alpha=alpha,
                choose=stage.choose,
                by_parent=stage.replay.max_new_tokens
                if stage.replay and share and stage.replay.by_parent
                else None,
                intruders=filled["intruders"],
                safelora=filled["safelora"],
                choose_alpha=stage.choose_alpha,
                measure=stage.measure,
            )
        )
    if stage.protect and not any(arm.protect for arm in found):
        raise places.error("protect, and no update that does", at, todo="see 'lethe methods'")
    return found


def chains_of(study: Study, places: "_Places | None" = None) -> list[Chain]:
    """Every chain in every combination of its stages' arms.

    Raises:
        InputError: no chains, a name that is neither stage nor chain, a circle, unequal numbers of
            rates to choose from, or more positions than anyone meant.
    """
    places = places or _Places({})
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
    trials = {len(arm.choose.learning_rate) for one in arms.values() for arm in one if arm.choose}
    if len(trials) > 1:
        raise places.error(
            f"stages choose among {' and '.join(map(str, sorted(trials)))} learning rates",
            ("stages",),
            todo="give every stage as many, or comparisons favour those with more",
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


def _flat(study: Study, name: str, above: tuple[str, ...], places: "_Places") -> list[str]:
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
    study: Study, named: Mapping[str, Sequence[str]], arms: Mapping[str, int], places: "_Places"
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


def _stage(content: Any, at: tuple[str, ...], places: "_Places") -> dict[str, Any]:
    """A stage as written, its slots as fields and all else as its settings."""
    if not isinstance(content, Mapping):
        raise places.error("a stage is a mapping", at, todo="give at least its data")
    if "data" not in content:
        raise places.error("no data to tune on", at, todo="add data: SUITE_OR_FILE")
    for key, above in _SAID_ABOVE.items():
        if key in content:
            raise places.error(f"'{key}' of a stage", at, todo=f"say {above} for the whole study")
    stage: dict[str, Any] = {
        "data": _data(content["data"], (*at, "data"), places),
        "settings": {str(k): v for k, v in content.items() if k not in _SLOTS},
    }
    if "protect" in content:
        given = content["protect"]
        given = given if isinstance(given, list) else [given]
        stage["protect"] = [_data(one, (*at, "protect"), places) for one in given]
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
    if "measure" in content:
        places.check(content["measure"], MeasureSpec.model_fields, (*at, "measure"))
        stage["measure"] = dict(content["measure"])
    if "choose" in content:
        places.check(content["choose"], Choose.model_fields, (*at, "choose"))
        stage["choose"] = dict(content["choose"])
    return stage


def _replay(content: Any, at: tuple[str, ...], places: "_Places") -> dict[str, Any]:
    places.check(content, ReplaySpec.model_fields, at)
    replay = dict(content)
    if "data" in replay:
        replay["data"] = _data(replay["data"], (*at, "data"), places)
    if "share" in replay:
        replay["share"] = _list(replay["share"])
    return replay


def _data(content: Any, at: tuple[str, ...], places: "_Places") -> Any:
    if not isinstance(content, Mapping):
        return {"suite": content}
    places.check(content, Data.model_fields, at)
    return dict(content)


def _list(value: Any) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    return [float(one) if isinstance(one, int) and one in (0, 1) else one for one in values]


class _Places:
    """Where things stand in a file, for errors."""

    def __init__(self, where: Where) -> None:
        self._where = where

    def of(self, path: Sequence[str]) -> str:
        """File and line of the nearest key that is known, and the path."""
        for end in range(len(path), -1, -1):
            if found := self._where.get(tuple(path[:end])):
                return f"{found}: {'.'.join(path)}" if path else found
        return ".".join(path) or "study"

    def error(self, what: str, path: Sequence[str], *, todo: str = "") -> InputError:
        """What is wrong at a path."""
        return InputError(what, where=self.of(path), todo=todo)

    def check(self, content: Any, known: Iterable[str], path: tuple[str, ...]) -> None:
        """Refuse what is no mapping, and keys that nobody knows."""
        if not isinstance(content, Mapping):
            raise self.error(f"found {content!r:.60}, not a mapping", path)
        for key in content:
            if key not in (names := list(known)):
                raise self.error(
                    f"unknown key '{key}'", (*path, str(key)), todo=nearest(str(key), names)
                )

    def explain(self, error: ValidationError) -> InputError:
        """The first thing that pydantic found."""
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        if first["type"] == "missing":
            return self.error(f"no {path[-1]}", path[:-1], todo=f"add {path[-1]}: ...")
        return self.error(f"found {first['input']!r:.60}; {first['msg'].lower()}", path)
