"""How well a stage's protection holds, layer by layer: told before training, checked after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from lethe.progress import Progress
from lethe.tuning.calibration import (
    TOKENS_A_UNIT,
    Calibration,
    Moments,
    failed_sources,
    few_tokens,
)
from lethe.tuning.divergence import HeldOut
from lethe.tuning.forecast import Forecast, Forecaster, score_forecasts, with_outcomes
from lethe.tuning.protect import ProtectedRows
from lethe.tuning.rows import TuningRow
from lethe.tuning.updates import Update
from lethe.tuning.updates.projection import Projection, factor_memory

LEAST_SELECTIVITY = 2.0
_READ = 32  # held-out protected rows of a source that the divergence is measured on


@dataclass(frozen=True)
class LayerProtection:
    """What a projection P does at one layer input.

    Attributes:
        modules: the modules that read this input.
        width: its size n; `free` of its directions, trace(P), are left to move in.
        leak: tr(P·C·P)/tr(C) over held-out protected inputs: the share of their energy that still
            reaches the adapter.
        plasticity: the same over task inputs, held out where there are any.
        tokens: protected tokens that P was made from.
        few: fewer than 128 for each of n, so that directions look free that were only not seen.
    """

    modules: tuple[str, ...]
    width: int
    free: float
    leak: float
    plasticity: float
    tokens: int
    few: bool

    @property
    def selectivity(self) -> float:
        """plasticity / leak: how much more of the task passes than of what is protected."""
        return self.plasticity / max(self.leak, 1e-12)

    @property
    def protects(self) -> bool:
        """Whether protecting here is worth what it costs."""
        return self.selectivity >= LEAST_SELECTIVITY

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "modules": list(self.modules),
            "width": self.width,
            "free": self.free,
            "leak": self.leak,
            "plasticity": self.plasticity,
            "selectivity": self.selectivity,
            "tokens": self.tokens,
        }


def layer_protection(moments: Moments, projection: Projection) -> LayerProtection:
    """What P does at this input."""
    return LayerProtection(
        moments.modules,
        moments.width,
        projection.free,
        projection.through(moments.held_out),
        projection.through(moments.task_held),
        moments.tokens,
        few_tokens(moments),
    )


class Protection:
    """The protection of one stage.

    Args:
        parent: the parent's module, before an update has touched it.
        sources: what to protect.
        train, held: the stage's own rows, and those kept from training.
    """

    def __init__(
        self,
        parent: Any,
        sources: Sequence[ProtectedRows],
        train: Sequence[TuningRow],
        held: Sequence[TuningRow],
        progress: Progress,
    ) -> None:
        self.layers: list[LayerProtection] = []
        self.notes = failed_sources(parent, sources)
        self.forecasts: list[Forecast] = []
        self.memory = 0
        self.divergences: dict[str, float] = {}
        self._sources = sources
        self._forecaster = Forecaster()
        self._progress = progress
        self._calibration = Calibration(sources, train, held, progress, self._on_measured)
        self._held = {
            source.name: HeldOut(parent, rows)
            for source in sources
            if (rows := [row for row in source.held if row.targets][:_READ])
        }

    def _on_measured(self, moments: Moments, projection: Projection) -> None:
        self.layers.append(layer_protection(moments, projection))
        self._forecaster.add(moments, projection)

    def prepare(self, update: Update, module: Any, options: Mapping[str, Any]) -> Any:
        """The module to train; what can be told before training is said."""
        model = update.prepare(module, self._calibration, **options)
        self.memory = factor_memory(model)
        self.forecasts = self._forecaster.forecasts()
        self.notes += weak_points(self.layers)
        for line in [*summary(self.layers), *told(self.forecasts), *self.notes]:
            self._progress.say(line)
        return model

    def check(self, model: Any, task: float | None) -> None:
        """After training: what happened to every source.

        Args:
            model: the trained module, in evaluation mode and without autocast.
            task: KL(parent‖tuned) on held-out answers of the task.
        """
        self.divergences = {name: held.reading(model) for name, held in self._held.items()}
        self.forecasts = with_outcomes(self.forecasts, self.divergences, task)

    def record(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        score = score_forecasts(self.forecasts)
        return {
            "sources": {
                source.name: {
                    "rows": len(source.rows),
                    "held_out": len(source.held),
                    "divergence": self.divergences.get(source.name),
                }
                for source in self._sources
            },
            "layers": [layer.to_dict() for layer in self.layers],
            "factor_bytes": self.memory,
            "forecasts": [one.to_dict() for one in self.forecasts],
            "forecast_off_by": None if score is None else score.factor,
            "notes": self.notes,
        }


def summary(layers: Sequence[LayerProtection]) -> list[str]:
    """Medians over the depth for each kind of module, as lines of at most 80 columns."""
    kinds: dict[str, list[LayerProtection]] = {}
    for layer in layers:
        kinds.setdefault(_kind(layer), []).append(layer)
    head = ("layer input", "free", "width", "leak", "plasticity", "selectivity")
    lines = ["{:24} {:>6}   {:<6} {:>8} {:>10} {:>11}".format(*head)] if kinds else []
    for kind, found in kinds.items():
        free = median(layer.free for layer in found)
        leak, plasticity, selectivity = (
            median(getattr(layer, name) for layer in found)
            for name in ("leak", "plasticity", "selectivity")
        )
        lines.append(
            f"{kind[:24]:24} {free:>6.0f} / {found[0].width:<6} {leak:>8.2g} "
            f"{plasticity:>10.2g} {selectivity:>11.1f}"
        )
    return lines


def told(forecasts: Sequence[Forecast]) -> list[str]:
    """The forecast, a line for each source."""
    return [
        f"forecast for {one.source}: {one.exposure:.2g} of the task's own change "
        f"(unprotected LoRA {one.plain:.2g})"
        for one in forecasts
    ]


def weak_points(layers: Sequence[LayerProtection]) -> list[str]:
    """Where protection does not hold, and where it cannot be trusted."""
    notes = []
    weak = [layer for layer in layers if not layer.protects]
    if weak:
        kinds = sorted({_kind(layer) for layer in weak})
        notes.append(
            f"cannot protect here: selectivity below {LEAST_SELECTIVITY:g} at {len(weak)} of "
            f"{len(layers)} layer inputs ({'; '.join(kinds)})"
        )
    few = [layer for layer in layers if layer.few]
    if few:
        widest = max(layer.width for layer in few)
        notes.append(
            f"too few protected tokens for {len(few)} of {len(layers)} layer inputs: "
            f"{few[0].tokens:,} seen, {TOKENS_A_UNIT * widest:,} wanted for width {widest}; "
            "their null space may be fake"
        )
    return notes


def _kind(layer: LayerProtection) -> str:
    return ", ".join(path.rpartition(".")[2] for path in layer.modules)
