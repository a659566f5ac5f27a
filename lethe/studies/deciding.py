"""Choosing a stage's learning rate, or how far to go: what was tried, and which is taken. No torch.

Both are the same: every value is tried with this stage alone, and a rule reads the trials.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lethe.forgetting import score_matrix
from lethe.ledger import frame_of
from lethe.panel import Panel, SuiteFacts
from lethe.run import read_scores
from lethe.studies.keeping import dropped_manifest
from lethe.studies.stage_specs import Round

if TYPE_CHECKING:
    from lethe.examples import Suite
    from lethe.models.checkpoint import Checkpoint
    from lethe.store import Store
    from lethe.studies.arms import Arm
    from lethe.studies.stage_specs import Choose
    from lethe.tuning.slots import ChooseAlpha

Trials = Mapping[float, tuple[float, float | None]]
"""Value → (mean dev score, KL from the parent)."""


@dataclass(frozen=True)
class Tried:
    """What came of one round of trials.

    Attributes:
        values: what was tried, each for one of `parts` equal parts of the training.
        scores: of the trials that ended; failed: values whose training or measuring failed.
    """

    values: tuple[float, ...]
    parts: int
    scores: Trials
    failed: tuple[float, ...]

    @property
    def ended(self) -> bool:
        """Whether no trial is open."""
        return len(self.scores) + len(self.failed) == len(self.values)


@dataclass(frozen=True)
class Choice:
    """The learning rate of an arm in a world: what was tried, and what came of it.

    Attributes:
        scores: rate → (mean dev score, KL from the parent), for the trials that ended; of several
            rounds, in the last that it came to.
        failed: rates whose training or measuring failed.
        rate: None while trials are open, or where all failed.
        rounds: of successive halving.
    """

    arm: str
    world: str | None
    scores: Trials
    failed: tuple[float, ...]
    rate: float | None
    rounds: tuple[Tried, ...] = ()

    @property
    def failed_labels(self) -> set[str]:
        """What the checkpoints of failed trials are called."""
        rounds = self.rounds or (Tried((), 1, {}, self.failed),)
        return {
            trial_label(self.arm, rate, tried.parts) for tried in rounds for rate in tried.failed
        }


def trial_label(name: str, value: float, parts: int) -> str:
    """What a trial's checkpoint is called."""
    return f"{name} at {value:g}" + (f" for 1/{parts}" if parts > 1 else "")


def said_rounds(rounds: Sequence[Round]) -> str:
    """In words, what rounds of trials cost each arm."""
    told = ", then ".join(f"{one.values} for 1/{one.parts} of their training" for one in rounds)
    return f"{told}; {len(rounds)} whole training{'s' if len(rounds) > 1 else ''} for each arm"


@dataclass(frozen=True)
class Question:
    """What there is to choose: the values, what a trial of each is, and what is taken.

    Attributes:
        name: of the choice.
        rounds: what is tried, one after the other.
        spec: says which suite decides.
        trial: value, parts → the arm to try; chosen: value → the arm that is used.
        rule: trials that ended → their values, the best first; or only the one that is taken.
    """

    name: str
    values: tuple[float, ...]
    rounds: tuple[Round, ...]
    spec: "Choose | ChooseAlpha"
    trial: "Callable[[float, int], Arm]"
    chosen: "Callable[[float], Arm]"
    rule: Callable[[Trials], Sequence[float]]

    def going_on(self, tried: Tried) -> tuple[float, ...]:
        """Values that go on to the next round, in the order given; after the last, the best."""
        number = [one.parts for one in self.rounds].index(tried.parts) + 1
        room = self.rounds[number].values if number < len(self.rounds) else 1
        best = self.rule(tried.scores)[:room] if tried.scores else ()
        return tuple(value for value in self.values if value in best)

    def choice(self, world: str | None, rounds: Sequence[Tried], best: float | None) -> Choice:
        """What the trials so far come to."""
        scores = {value: score for tried in rounds for value, score in tried.scores.items()}
        failed = tuple(value for tried in rounds for value in tried.failed)
        several = tuple(rounds) if len(self.rounds) > 1 or rounds[0].parts > 1 else ()
        return Choice(self.name, world, scores, failed, best, several)


def rate_question(arm: "Arm") -> Question | None:
    """Which learning rate; None where it is said."""
    if arm.choose is None:
        return None
    return Question(
        arm.label,
        tuple(arm.choose.learning_rate),
        arm.choose.rounds,
        arm.choose,
        lambda rate, parts: arm.at(rate).bare if parts == 1 else arm.at(rate).bare.shortened(parts),
        arm.at,
        best_rates,
    )


def alpha_question(arm: "Arm") -> Question | None:
    """How far to go; None where that is said."""
    choose = arm.choose_alpha
    if choose is None:
        return None
    return Question(
        f"{arm.label} α",
        tuple(choose.choose),
        (Round(len(choose.choose), 1),),
        choose,
        lambda alpha, _: replace(arm.going(alpha), measure=None),
        arm.going,
        lambda scores: (shortest_way(scores, choose.within),),
    )


def trial_of(
    key: str, made: "Checkpoint", suite: "Suite", store: "Store"
) -> tuple[float, float | None]:
    """Mean dev score, class-balanced where the suite is, and KL(parent‖tuned)."""
    table, _ = read_scores(key, store)
    rows = frame_of(table, suite=suite.name, checkpoint="trial", position=1)
    panel = Panel.from_rows(rows, SuiteFacts(suite.name, suite.axis, balance=suite.balance))
    stored = store.get("checkpoint", made.fingerprint)
    gone = dropped_manifest(store, made.fingerprint)
    manifest = gone if stored is None else stored.manifest
    divergence: Any = None if manifest is None else manifest["facts"].get("divergence")
    return float(score_matrix({suite.name: panel}, ["trial"])[0, 0]), divergence


def shortest_way(scores: Trials, within: float) -> float:
    """The smallest α whose score is at most `within` below the best; unknown scores are last."""
    known = {alpha: score for alpha, (score, _) in scores.items() if not math.isnan(score)}
    if not known:
        return min(scores)
    best = max(known.values())
    return min(alpha for alpha, score in known.items() if score >= best - within)


def best_rate(scores: Trials) -> float:
    """The first of `best_rates`."""
    return best_rates(scores)[0]


def best_rates(scores: Trials) -> list[float]:
    """The rule: best score, then lower KL, then lower rate; an unknown KL or score is last."""

    def rank(rate: float) -> tuple[float, float, float]:
        score, divergence = scores[rate]
        return (
            math.inf if math.isnan(score) else -score,
            math.inf if divergence is None else divergence,
            rate,
        )

    return sorted(scores, key=rank)
