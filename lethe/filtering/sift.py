"""A filter as a step of a study: noisy rows in, the places of those that are kept out. No torch.

Its two trainings are steps of their own with their own names, so a plan can count them; what the
filter asks for is found in the store.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lethe.errors import InputError
from lethe.filtering.decision import Decision, Mask, by_level, by_threshold
from lethe.filtering.forget_filter import FORGET, LEARN, forgetting_of
from lethe.filtering.planting import SAFE, TASK, Planting, plant
from lethe.filtering.rivals import find_rival
from lethe.filtering.signals import SIGNALS, fits, positions_of
from lethe.filtering.task import FilterTask, Scores, truth_of
from lethe.filtering.verdict import everything, verdict_of
from lethe.steps import Runtime, step_key
from lethe.store import Kind, Store
from lethe.tuning.mix import Lessons
from lethe.tuning.step import Tune, result_of

if TYPE_CHECKING:
    from lethe.models.checkpoint import Checkpoint
    from lethe.tuning.settings import StageSettings
    from lethe.tuning.watcher import Watcher

KEPT = "kept.json"
SCORES, TRUTH_FILE = "scores.npy", "truth.npy"
"""Suspicion of every noisy row; and, where it is known, which of them are unsafe."""


@dataclass(frozen=True)
class Rule:
    """How suspicion becomes rejection; one of the first three is said."""

    threshold: float | None = None
    false_rejections: float | None = None
    share: float | None = None
    force: bool = False

    def decide(self, scores: Scores, nulls: Mapping[str, Scores], *, seed: int) -> Decision:
        """Which rows go.

        Args:
            scores: (rows,) suspicion; NaN for rows that are not judged.
            nulls: suspicion of the planted rows, by kind.
        """
        if self.false_rejections is not None:
            return by_level(scores, nulls, self.false_rejections, seed=seed)
        if self.threshold is not None:
            return by_threshold(scores, nulls, self.threshold, force=self.force)
        assert self.share is not None
        return Decision(most_suspect(scores, self.share), np.full(len(scores), np.nan), None)


def most_suspect(scores: Scores, share: float) -> Mask:
    """(rows,) the most suspect share of the rows, the first ones of equals; unscored rows never."""
    count = min(round(share * len(scores)), int((~np.isnan(scores)).sum()))
    order = np.argsort(-np.where(np.isnan(scores), -np.inf, scores), kind="stable")
    found = np.zeros(len(scores), dtype=bool)
    found[order[:count]] = True
    return found


@dataclass(frozen=True)
class Sift:
    """Judge noisy rows, and keep some.

    Attributes:
        name: what the study calls it.
        parent: M0.
        trusted: task rows that somebody checked; empty where nothing is promised.
        by: `likelihood`, `rouge`, or a rival's name.
        first, second: settings of the two trainings.
    """

    kind: ClassVar[str] = "sift"
    object_kind: ClassVar[Kind] = "filter"
    version: ClassVar[int] = 2

    name: str
    parent: "Checkpoint"
    noisy: Lessons
    safe: Lessons
    trusted: Lessons
    by: str
    rule: Rule
    set_aside: float
    first: "StageSettings"
    second: "StageSettings"
    seed: int

    @property
    def title(self) -> str:
        """For progress bars."""
        return f"filter {self.name} by {self.by}, seed {self.seed}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The rule, the signal and both trainings."""
        return {
            "by": self.by,
            "threshold": self.rule.threshold,
            "false_rejections": self.rule.false_rejections,
            "share": self.rule.share,
            "force": self.rule.force,
            "set_aside": self.set_aside,
            "first": self.first.hashed,
            "second": self.second.hashed,
            "seed": self.seed,
        }

    @property
    def dtype(self) -> str:
        """What the trainings compute in."""
        return self.first.compute_dtype()

    @property
    def data(self) -> str:
        """Hashes of its rows, and the truth where they say it: its facts are held against that."""
        found = f"{self.noisy.hash}+{self.safe.hash}+{self.trusted.hash}"
        truth = truth_of(self.noisy.examples)
        return found if truth is None else f"{found}+{np.packbits(truth).tobytes().hex()}"

    @property
    def parents(self) -> Sequence[str]:
        """M0's fingerprint."""
        return (self.parent.fingerprint,)

    @cached_property
    def planting(self) -> Planting:
        """The noisy rows with the planted ones behind them."""
        return plant(
            self.noisy.examples,
            self.safe.examples,
            self.trusted.examples,
            set_aside=self.set_aside,
            seed=self.seed,
        )

    def check(self) -> None:
        """Refuse a promise that no planted rows could keep.

        Raises:
            InputError: no safe rows are set aside, or no trusted ones planted.
        """
        if self.rule.false_rejections is None:
            return
        for kind, todo in ((SAFE, "set_aside"), (TASK, "trusted rows apart from the safe ones")):
            if not len(self.planting.nulls.get(kind, ())):
                raise InputError(
                    f"nothing can be promised without planted {kind} rows",
                    where=f"filters.{self.name}",
                    todo=f"give {todo}, or a threshold or share in place of false_rejections",
                )

    def trainings(self, root: Path) -> tuple[Tune, ...]:
        """The trainings that its signal needs, to be done before it.

        Args:
            root: of the store that they will lie in.
        """
        if self.by not in SIGNALS and self.by != "loss_after":
            return ()
        learn = Tune(self.parent, self._taught, self.first, stage=LEARN)
        if self.by not in SIGNALS:
            return (learn,)
        learned = result_of(learn, step_key(learn), root, f"{self.parent.name}+{LEARN}")
        return (learn, Tune(learned, self._safe, self.second, stage=FORGET))

    @cached_property
    def _taught(self) -> Lessons:
        return Lessons("noisy rows", self.planting.examples)

    @cached_property
    def _safe(self) -> Lessons:
        return Lessons("safe rows", self.planting.safe)

    def run(self, folder: Path, runtime: Runtime) -> Mapping[str, Any]:
        """Score, decide, and write which rows are kept."""
        started = time.monotonic()
        planting, count = self.planting, len(self.noisy.examples)
        clock = StepClock(runtime.store)
        task = FilterTask(
            self.parent,
            self._taught,
            self._safe,
            self.first,
            self.second,
            replace(runtime, store=clock),
            Lessons("planted rows", planting.planted),
            self.seed,
        )
        fit, longest = self._fit(runtime)
        # Rows that no stage learned whole have not been forgotten: what they score means nothing.
        scores = np.where(fit, suspicion(self.by)(task), np.nan)
        nulls = {
            kind: scores[places][~np.isnan(scores[places])]
            for kind, places in planting.nulls.items()
        }
        judged = np.where(planting.trusted, np.nan, scores[:count])
        decision = self.rule.decide(judged, nulls, seed=self.seed)
        warnings = [*decision.warnings, *too_long(fit, count, longest)]
        for line in warnings:
            runtime.progress.say(f"{self.name}: {line}")
        np.save(folder / SCORES, judged)
        truth = truth_of(self.noisy.examples)
        if truth is not None:
            np.save(folder / TRUTH_FILE, truth)
        kept = np.flatnonzero(~decision.rejected).tolist()
        (folder / KEPT).write_text(json.dumps(kept), encoding="utf-8")
        return {
            "rows": count,
            "kept": len(kept),
            "warnings": warnings,
            "level": decision.level,
            "most_false": decision.most_false,
            "seconds": time.monotonic() - started,
            "filter_seconds": clock.seconds or time.monotonic() - started,
            **self._worth(judged, decision.rejected, clock.seconds),
        }

    def _fit(self, runtime: Runtime) -> tuple[Mask, int]:
        """Which of all rows, planted ones too, the first training learns, and how many tokens."""
        from lethe.models.format import choose_format

        tokenizer = runtime.pool.tokenizer(self.parent)
        longest = min(self.first.max_length, positions_of(self.parent, tokenizer))
        rows = self.planting.examples
        return fits(rows, tokenizer, choose_format(tokenizer), longest), longest

    def _worth(self, scores: Scores, rejected: Mask, seconds: float) -> dict[str, Any]:
        """What the filter is worth, where the rows say the truth."""
        truth = truth_of(self.noisy.examples)
        if truth is None:
            return {}
        clusters = [row.cluster for row in self.noisy.examples]
        found = verdict_of(
            self.by, scores, truth, rejected=rejected, clusters=clusters, seconds=seconds
        )
        return {"verdict": found.to_dict(), "everything": everything(truth).to_dict()}


def too_long(fit: Mask, noisy: int, longest: int) -> list[str]:
    """What to say of rows that no stage could learn whole: the noisy ones, then the planted."""
    judged, planted = int((~fit[:noisy]).sum()), int((~fit[noisy:]).sum())
    said = [f"{judged} noisy rows are longer than {longest} tokens: kept, not judged"]
    also = [f"{planted} planted rows are longer than {longest} tokens: left out"]
    return [*(said if judged else ()), *(also if planted else ())]


def suspicion(by: str) -> Callable[[FilterTask], Scores]:
    """ForgetFilter by one of its signals, or a rival, by name."""
    for signal in SIGNALS:
        if by == signal:
            return lambda task: forgetting_of(task, signal).scores
    return find_rival(by)


class StepClock(Store):
    """A store that adds up what the steps asked of it took, whether they ran now or before."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.root)
        self._took: dict[str, float] = {}
        self._depth = 0

    @property
    def seconds(self) -> float:
        """Of every step asked for, each counted once."""
        return sum(self._took.values())

    def get_or_make(self, kind: Kind, key: str, *args: Any, **more: Any) -> Any:
        """As a store does."""
        self._depth += 1
        try:
            found = super().get_or_make(kind, key, *args, **more)
        finally:
            self._depth -= 1
        if not self._depth:  # a step that another one asks for is a part of it
            took = found[0].manifest["facts"].get("seconds") or 0.0
            self._took[key] = sum(took.values()) if isinstance(took, Mapping) else float(took)
        return found


@dataclass(frozen=True)
class KeptLessons(Lessons):
    """What a filter keeps of some rows, named by the filter's step.

    Until the filter has run it stands for all of them: that is the most it can come to, and what a
    plan counts. Only `resolved` rows are trained on.

    Attributes:
        filter: key of the filter's step.
    """

    filter: str = ""

    @cached_property
    def hash(self) -> str:
        """The filter's key: what it keeps follows from that."""
        return f"filter {self.filter}"

    def resolved(self, store: Store) -> "KeptLessons":
        """The rows that were kept.

        Raises:
            InputError: the filter has not run, or kept nothing.
        """
        found = store.get("filter", self.filter)
        if found is None:
            raise InputError("the filter's result is not in the store", where=self.name)
        places = json.loads(found.file(KEPT).read_text(encoding="utf-8"))
        if not places:
            raise InputError("the filter kept no row", where=self.name, todo="use a milder rule")
        return replace(self, examples=tuple(self.examples[place] for place in places))


@dataclass(frozen=True)
class TuneKept(Tune):
    """Tune on what a filter keeps, which is known when the filter has run."""

    def run(
        self, folder: Path, runtime: Runtime, watcher: "Watcher | None" = None
    ) -> Mapping[str, Any]:
        """As `Tune`, on the rows that were kept."""
        assert isinstance(self.lessons, KeptLessons)
        kept = self.lessons.resolved(runtime.store)
        plain = Tune(self.parent, kept, self.chosen, self.replay, self.stage, self.protect)
        return plain.run(folder, runtime, watcher)
