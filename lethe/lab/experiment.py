"""The laboratory's experiment over one or several seeds, kept in the store, and its summary.

A seed decides everything that is drawn: the fixed vectors, the weights, the prompts.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lethe.lab.deadline import Deadline
from lethe.lab.measures import over_seeds
from lethe.lab.presets import Preset
from lethe.lab.steps import CURVE, RESULTS, Measure, Pretrain, Tune
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.local import ModelPool
from lethe.progress import Progress
from lethe.run import Position, Run, run_name
from lethe.steps import Runtime, run_step, step_key
from lethe.store import Store, StoredObject

Value = Mapping[str, Any]
"""An estimate with bounds `low` and `high`, which are None where there are none."""


@dataclass(frozen=True)
class Trial:
    """What one seed gave.

    Attributes:
        parameters: weights of the transformer; seconds: of both trainings.
        pretraining, tuning: looks at a training: step, seconds, excess on both tasks, ĝ.
        results: as `lethe.lab.results.results` gives them.
    """

    seed: int
    parameters: int
    seconds: float
    pretraining: Sequence[Mapping[str, float]]
    tuning: Sequence[Mapping[str, float]]
    results: Mapping[str, Any]


@dataclass(frozen=True)
class Lab:
    """The experiment's results.

    Attributes:
        run: name of the run; cached: whether nothing had to be computed.
    """

    preset: Preset
    trials: Sequence[Trial]
    run: str
    cached: bool

    @property
    def speaks_of(self) -> str:
        """What the intervals of the summary are about."""
        return "other prompts" if len(self.trials) == 1 else "other seeds"

    def summary(self) -> dict[str, Value]:
        """The numbers in short, each with an interval over seeds, or over prompts if there is one.

        Losses are mean squared errors over 0…K exemplars; recovery and weights are read at the
        middle numbers of exemplars (`Problem.middle`).
        """
        return {name: self._joined(read) for name, read in _SUMMARY.items()}

    def mean(self, *path: str) -> list[float]:
        """A list of numbers in the results (losses by exemplars), averaged over seeds."""
        rows = []
        for trial in self.trials:
            found: Any = trial.results
            for name in path:
                found = found[name]
            rows.append(found)
        return [sum(column) / len(column) for column in zip(*rows, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "preset": asdict(self.preset),
            "run": self.run,
            "speaks_of": self.speaks_of,
            "summary": self.summary(),
            "trials": [asdict(trial) for trial in self.trials],
        }

    def _joined(self, read: Callable[[Mapping[str, Any]], Any]) -> Value:
        values = [read(trial.results) for trial in self.trials]
        if len(values) > 1:
            return over_seeds([v["estimate"] if isinstance(v, Mapping) else v for v in values])
        one = values[0]
        if isinstance(one, Mapping):
            return {name: one.get(name) for name in ("estimate", "low", "high")} | {"n": 1}
        return {"estimate": float(one), "low": None, "high": None, "n": 1}


def _conjugate(name: str) -> Callable[[Mapping[str, Any]], Any]:
    """A value at the label scale that was chosen."""
    return lambda found: found["conjugate"][name][str(found["conjugate"]["chosen"])]


_SUMMARY: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "excess after pretraining, continuous": lambda f: f["excess"]["continuous"]["base"],
    "excess after pretraining, discrete": lambda f: f["excess"]["discrete"]["base"],
    "excess of ridge, discrete": lambda f: f["excess"]["discrete"]["ridge"],
    "loss change by tuning, continuous": lambda f: f["forgetting"]["continuous"]["mean"],
    "loss change by tuning, discrete": lambda f: f["forgetting"]["discrete"]["mean"],
    "exemplars where damage peaks": lambda f: f["forgetting"]["continuous"]["peak"],
    "likelihood curve against Bayes, r": lambda f: f["likelihood"]["agreement"],
    "label scale chosen": lambda f: f["conjugate"]["chosen"],
    "recovered by label scale": _conjugate("recovery"),
    "recovered, base under it too": _conjugate("recovery_same_probe"),
    "recovered by shrinking alone": lambda f: f["conjugate"]["shrink_recovery"],
    "recovered beyond shrinking": lambda f: f["conjugate"]["beyond_shrink"],
    "task weight before": lambda f: f["implied"]["base"]["middle"]["1.0"],
    "task weight after": lambda f: f["implied"]["tuned"]["middle"]["1.0"],
    "task weight after, label scale": lambda f: f["implied"]["tuned"]["middle"][
        str(f["conjugate"]["chosen"])
    ],
}


def run_lab(
    preset: Preset,
    seeds: Sequence[int],
    store: Store,
    *,
    device: str | None = None,
    progress: Progress | None = None,
    deadline: Deadline | None = None,
) -> Lab:
    """Pretrain, tune and measure for every seed; what the store has is not run again.

    Args:
        device: cpu, cuda, cuda:1; a GPU if there is one.
        deadline: when to stop; what was done is kept.

    Raises:
        IncompleteError: the deadline passed, or the disk is full: the same call goes on.
        InputError: no such device, or the store cannot be written.
    """
    started = time.time()
    limit, said = deadline or Deadline(), progress or Progress()
    memory = FingerprintMemory(store.root / "fingerprints.json")
    runtime = Runtime(store, ModelPool(device=device), memory, said)
    trials, places, keys, cached = [], [], [], True
    for seed in seeds:
        made: list[StoredObject] = []
        for step in steps_of(preset, seed, limit):
            found, there = run_step(step, runtime)
            made.append(found)
            cached = cached and there
        trials.append(_trial(seed, *made))
        keys.append(made[-1].key)
        places += [
            Position(f"seed {seed}", at, method, None, seed, made[at].key, f"{name} (seed {seed})")
            for at, method, name in ((0, None, "pretrained"), (1, "full", "tuned"))
        ]
    run = Run(
        name=run_name("lab", preset.name, [*keys]),
        command="lab",
        settings={"preset": asdict(preset), "seeds": list(seeds), "objects": keys},
        positions=tuple(places),
        suites=(),
        scores={},
        started=started,
        seconds=time.time() - started,
    )
    run.save(store)
    return Lab(preset, trials, run.name, cached)


def steps_of(
    preset: Preset, seed: int, deadline: Deadline | None = None
) -> tuple[Pretrain, Tune, Measure]:
    """The steps of a seed, each of which reads the ones before it."""
    before = Pretrain(preset, seed, deadline or Deadline())
    after = Tune(before, before.deadline)
    return before, after, Measure(after)


def read_lab(preset: Preset, seeds: Sequence[int], run: str, store: Store) -> Lab | None:
    """The experiment as the store has it; None where a step is missing.

    Args:
        run: name of the run that its steps belong to.
    """
    trials = []
    for seed in seeds:
        made = [store.get("lab", step_key(step)) for step in steps_of(preset, seed)]
        there = [found for found in made if found is not None]
        if len(there) < len(made):
            return None
        trials.append(_trial(seed, *there))
    return Lab(preset, trials, run, cached=True)


def _trial(
    seed: int, pretrained: StoredObject, tuned: StoredObject, measured: StoredObject
) -> Trial:
    curves = [json.loads(made.file(CURVE).read_text()) for made in (pretrained, tuned)]
    return Trial(
        seed=seed,
        parameters=pretrained.manifest["facts"]["parameters"],
        seconds=sum(made.manifest["facts"]["seconds"] for made in (pretrained, tuned)),
        pretraining=curves[0],
        tuning=curves[1],
        results=json.loads(measured.file(RESULTS).read_text()),
    )
