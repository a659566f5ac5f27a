"""The arms of a stage: one value for everything, a product of its lists. No torch."""

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lethe.studies.places import Places
from lethe.studies.stage_specs import Choose, Data
from lethe.tuning import updates
from lethe.tuning.combination import check_adapter, check_combination
from lethe.tuning.intruders import Intruders
from lethe.tuning.protect import check_protect
from lethe.tuning.settings import StageSettings, read_settings
from lethe.tuning.slots import ChooseAlpha, MeasureSpec, SafeLoraSpec, said

if TYPE_CHECKING:
    from lethe.studies.study import Study


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
        if self.data.filter is not None:
            words.append(f"filter {self.data.filter}")
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

    def shortened(self, parts: int) -> "Arm":
        """The same arm, trained for one of so many equal parts of its steps."""
        epochs, steps = self.settings.epochs, self.settings.max_steps
        less = {
            "epochs": None if epochs is None else epochs / parts,
            "max_steps": None if steps is None else math.ceil(steps / parts),
        }
        return replace(self, settings=self.settings.model_copy(update=less))

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


def arms_of(study: "Study", name: str, places: Places | None = None) -> list[Arm]:
    """Every arm of a stage: the product of its lists.

    Raises:
        InputError: a setting that cannot be, or slots that cannot stand together.
    """
    places, stage = places or Places({}), study.stages[name]
    at = ("stages", name)
    grid = {key: value for key, value in stage.settings.items() if isinstance(value, list)}
    fixed = {key: value for key, value in stage.settings.items() if key not in grid}
    if stage.choose is not None:
        if "learning_rate" in stage.settings:
            raise places.error("both learning_rate and choose", at)
        fixed["learning_rate"] = stage.choose.learning_rate[0]
    for slot, spec in (("choose", stage.choose), ("after", stage.choose_alpha)):
        if spec is not None and spec.suite is None and stage.data.suite is None:
            raise places.error(
                "no suite whose dev split decides", (*at, slot), todo="add suite: ..."
            )
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
        check_protect(update, [data.name for data in protect], where=places.of(at))
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
