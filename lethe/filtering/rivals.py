"""Other ways of telling unsafe rows, put to the same rows as ForgetFilter. No torch at import.

A rival is a function (task) → suspicion with a decorator. Its direction is fixed beforehand: one
that ranks the wrong way round is reported as it is.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lethe.errors import InputError, nearest
from lethe.filtering.signals import row_scores
from lethe.filtering.task import TRUTH, FilterTask, Scores, Suspicion, truth_of
from lethe.steps import Runtime, run_step, step_key
from lethe.store import Kind
from lethe.tuning.step import Tune, result_of

SCORES = "scores.npy"


@dataclass(frozen=True)
class Rival:
    """A registered rival.

    Attributes:
        about: one line.
        paper: where it comes from.
        labelled: whether it is told the truth, or was made with labels of its own.
        stored: whether its scores are kept in the store under settings of their own.
    """

    name: str
    about: str
    paper: str
    labelled: bool
    stored: bool
    scores: Suspicion


RIVALS: dict[str, Rival] = {}
"""Every registered rival by name."""


def rival(
    name: str, *, paper: str, labelled: bool = False, stored: bool = False
) -> Callable[[Suspicion], Suspicion]:
    """Register a function (task) → (rows,) suspicion; its docstring's first line says what it is.

    Args:
        stored: its scores depend on M0, the noisy rows, the safe rows and the seed alone, and are
            kept under these.
    """

    def register(scores: Suspicion) -> Suspicion:
        about = (scores.__doc__ or "").strip().splitlines()[0]
        RIVALS[name] = Rival(name, about, paper, labelled, stored, scores)
        return scores

    return register


def find_rival(name: str) -> Suspicion:
    """The rival of this name, its scores kept in the store where they cost something.

    Raises:
        InputError: no such rival; the nearest name is given.
    """
    if name not in RIVALS:
        raise InputError(f"no rival '{name}'", where="--rival", todo=nearest(name, RIVALS))
    found = RIVALS[name]
    return stored(name, found.scores) if found.stored else found.scores


@dataclass(frozen=True)
class RivalScores:
    """A rival's suspicion of every row, kept.

    Attributes:
        name: of the rival; `options`: what else was chosen.
    """

    kind: ClassVar[str] = "rival"
    object_kind: ClassVar[Kind] = "filter"
    version: ClassVar[int] = 2

    name: str
    task: FilterTask
    scores: Suspicion = field(compare=False)
    options: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """For progress bars."""
        return f"{self.name} of {self.task.rows} rows"

    @property
    def settings(self) -> Mapping[str, Any]:
        """Which rival, and what was chosen about it."""
        return {"rival": self.name, "seed": self.task.seed, **dict(self.options)}

    @property
    def dtype(self) -> str:
        """What the model computes in."""
        return self.task.runtime.pool.dtype

    @property
    def data(self) -> str:
        """Hashes of the noisy rows and of the safe ones."""
        return f"{self.task.noisy.hash}+{self.task.safe.hash}"

    @property
    def parents(self) -> Sequence[str]:
        """M0's fingerprint."""
        return (self.task.checkpoint.fingerprint,)

    def run(self, folder: Path, runtime: Runtime) -> Mapping[str, Any]:
        """Score all rows and write them."""
        started = time.monotonic()
        found = self.scores(self.task)
        np.save(folder / SCORES, found)
        return {"seconds": time.monotonic() - started, "rows": len(found)}


def stored(name: str, scores: Suspicion, options: Mapping[str, str] | None = None) -> Suspicion:
    """The same rival with its scores kept in the store."""
    said = tuple(sorted((options or {}).items()))

    def kept(task: FilterTask) -> Scores:
        made, _ = run_step(RivalScores(name, task, scores, said), task.runtime)
        return np.asarray(np.load(made.file(SCORES), allow_pickle=False), dtype=np.float64)

    return kept


def share_of(text: str, seed: int) -> float:
    """A number in [0, 1) that a text and a seed decide."""
    from lethe.suites.splits import share

    return share(str(seed), text)


@rival("loss", paper="perplexity filters, e.g. Wenzek et al., arXiv 1911.00359")
def loss(task: FilterTask) -> Scores:
    """How little M0 expects the answer: mean negative log-probability of its tokens"""
    return -row_scores(task, task.checkpoint, "likelihood")


@rival("loss_after", paper="small-loss selection turned round, e.g. Han et al., arXiv 1804.06872")
def loss_after(task: FilterTask) -> Scores:
    """How little M1, tuned on the noisy rows, expects the answer"""
    tune = Tune(task.checkpoint, task.noisy, task.first, stage="noisy rows")
    run_step(tune, task.runtime)
    made = result_of(tune, step_key(tune), task.runtime.store.root, "M1")
    return -row_scores(task, made, "likelihood")


@rival("tfidf", paper="Elkan and Noto, KDD 2008", stored=True)
def tfidf(task: FilterTask) -> Scores:
    """How unlike the safe rows its words are: TF-IDF and logistic regression, safe against noisy"""
    from lethe.filtering.classifiers import unlike_by_words

    return unlike_by_words(task)


@rival("embedding", paper="Elkan and Noto, KDD 2008", stored=True)
def embedding(task: FilterTask) -> Scores:
    """How unlike the safe rows it is in M0's last hidden states, by the same classifier"""
    from lethe.filtering.classifiers import unlike_by_states

    return unlike_by_states(task)


@rival("gradient", paper="GradSafe, arXiv 2402.13494; LARF, arXiv 2507.18631", stored=True)
def gradient(task: FilterTask) -> Scores:
    """How far its gradient on M0's last layers points away from that of the safe rows"""
    from lethe.filtering.gradients import away_from_safe

    return away_from_safe(task)


@rival("random", paper="none")
def drawn(task: FilterTask) -> Scores:
    """Chance alone: what is left by throwing away as many rows"""
    return np.random.default_rng(task.seed).random(task.rows)


@rival("oracle", paper="none", labelled=True)
def oracle(task: FilterTask) -> Scores:
    """The truth, where the rows say it: their grouping `unsafe` is yes or no"""
    truth = truth_of(task.noisy.examples)
    if truth is None:
        raise InputError(
            "the rows do not say which are unsafe, which the oracle has to know",
            where=f"groups.{TRUTH}",
            todo='give --labels, or every row "groups": {"unsafe": "yes"} or "no"',
        )
    return truth.astype(np.float64)
