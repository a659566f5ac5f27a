"""What each protected source stands to lose, told before training from second moments alone.

An update of a linear layer, ΔW = B·A, changes the output on inputs with second moment C by
E‖ΔW·x‖². The rows of a gradient on the task lie where the task's inputs lie, so the rows of A
spread like P·C_task·P, and with output directions taken as alike the change on a source s, for each
unit of change on the task, is

    exposure(s) = [tr(M·C_s)/tr(C_s)] / [tr(M·C_task)/tr(C_task)],   M = P·C_task·P

relative to the energy of each. Small changes of a layer's output move the KL in proportion to this
energy, so exposure is read as KL on the source for each nat of KL on the task.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lethe.tuning.calibration import Moments
    from lethe.tuning.updates.projection import Projection


@dataclass(frozen=True)
class Forecast:
    """What a source stands to lose.

    Attributes:
        exposure: expected KL(parent‖tuned) on it for each nat on the task: the geometric mean over
            the layers' inputs.
        plain: the same for LoRA without protection.
        happened: measured KL on its held-out answers for each nat on held-out task answers; None
            before training or without such answers.
    """

    source: str
    exposure: float
    plain: float
    happened: float | None = None

    @property
    def remaining(self) -> float:
        """Of what unprotected LoRA would disturb at equal change of the task, how much is left."""
        return self.exposure / self.plain

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "remaining": self.remaining}


@dataclass
class Forecaster:
    """Collects layer by layer."""

    _protected: dict[str, list[float]] = field(default_factory=dict)
    _plain: dict[str, list[float]] = field(default_factory=dict)

    def add(self, moments: "Moments", projection: "Projection") -> None:
        """One layer input."""
        rows = moments.task  # second moment of the gradient's rows
        inside = projection.apply(projection.apply(rows).T)
        for name, source in moments.held.items():
            self._plain.setdefault(name, []).append(_exposure(rows, source, moments.task_held))
            self._protected.setdefault(name, []).append(
                _exposure(inside, source, moments.task_held)
            )

    def forecasts(self) -> list[Forecast]:
        """For every source, in the order given."""
        return [
            Forecast(name, _geometric(values), _geometric(self._plain[name]))
            for name, values in self._protected.items()
        ]


@dataclass(frozen=True)
class ForecastScore:
    """Forecasts held against what happened.

    Attributes:
        count: forecasts that could be scored.
        concordant: of all pairs, the share ordered as it came; None with fewer than two.
        factor: median of how far off a forecast is, as a factor ≥ 1.
    """

    count: int
    concordant: float | None
    factor: float


def score_forecasts(forecasts: Sequence[Forecast]) -> ForecastScore | None:
    """How good forecasts were, of one stage or of many; None where nothing was measured."""
    pairs = [(one.exposure, one.happened) for one in forecasts if one.happened and one.exposure]
    if not pairs:
        return None
    off = [abs(math.log(expected / happened)) for expected, happened in pairs]
    ordered = [
        (first[0] - second[0]) * (first[1] - second[1])
        for number, first in enumerate(pairs)
        for second in pairs[number + 1 :]
    ]
    decided = [product > 0 for product in ordered if product != 0]
    share = sum(decided) / len(decided) if decided else None
    return ForecastScore(len(pairs), share, math.exp(median(off)))


def compared(one: Forecast) -> str:
    """A forecast beside plain LoRA's own, and beside what happened, in a few words."""
    happened = "" if one.happened is None else f"; came to {one.happened:.2g}"
    return f"{one.exposure:.2g} nats a nat of the task (plain LoRA {one.plain:.2g}){happened}"


def with_outcomes(
    forecasts: Sequence[Forecast], divergences: Mapping[str, float], task: float | None
) -> list[Forecast]:
    """The forecasts with what happened.

    Args:
        divergences: source → KL(parent‖tuned) on its held-out answers, nats per token.
        task: the same on held-out answers of the task.
    """
    return [
        Forecast(
            one.source,
            one.exposure,
            one.plain,
            # A model that hardly moved may round to a KL below 0.
            max(0.0, divergences[one.source]) / task
            if task is not None and task > 0 and one.source in divergences
            else None,
        )
        for one in forecasts
    ]


def _exposure(rows: Any, source: Any, task: Any) -> float:
    """Energy of a source that meets these rows, relative to the task's."""
    on_source = (rows * source).sum() / source.trace()
    on_task = (rows * task).sum() / task.trace()
    return float(on_source / on_task)


def _geometric(values: Sequence[float]) -> float:
    return math.exp(fmean(math.log(max(value, 1e-12)) for value in values))
