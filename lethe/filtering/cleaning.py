"""Filtering a file of rows, from names to a result. No torch before something has to be trained."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lethe.errors import InputError, nearest
from lethe.examples import Example, digest
from lethe.filtering.decision import LEAST_TRUSTED, Mask, by_level, by_threshold
from lethe.filtering.filtered import Filtered
from lethe.filtering.forget_filter import FORGET, LEARN, Forget, Forgetting, forgetting_of
from lethe.filtering.planting import SAFE, TASK, Planting, duplicates, plant, shared
from lethe.filtering.record import write_record
from lethe.filtering.rows_file import RowsFile, read_noisy
from lethe.filtering.sift import too_long
from lethe.filtering.signals import SIGNALS, SignalName, fits, positions_of
from lethe.filtering.stages import read_stages
from lethe.filtering.task import FilterTask
from lethe.progress import Progress
from lethe.run import Position, Run, run_name
from lethe.steps import Runtime, step_key
from lethe.store import Store
from lethe.tuning.mix import Lessons
from lethe.tuning.rows import data_hash, target_of

if TYPE_CHECKING:
    from lethe.models.local import Dtype
    from lethe.tuning.settings import StageSettings

Rows = str | Path | Sequence[Example]
THRESHOLDS: Mapping[SignalName, float] = {"likelihood": 1.0, "rouge": 0.1}
"""Forgetting above which a row goes where nothing else is said: ROUGE as published."""
SET_ASIDE = 0.2
"""Share of the safe rows that are planted."""


@dataclass(frozen=True)
class Cleaning:
    """What is to be done, checked and read; nothing has been trained.

    Attributes:
        examples: the noisy rows.
        planting: the same with the planted rows behind them; `fit`: which of all these can be
            learned whole, and so make up `task.noisy`.
        level: the promised share of false rejections; None where `threshold` decides.
        force: reject by threshold also where the signal does not separate.
    """

    task: FilterTask
    signal: SignalName
    examples: tuple[Example, ...]
    file: RowsFile | None
    planting: Planting
    fit: Mask
    threshold: float | None
    level: float | None
    force: bool
    notes: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Names the result: what is trained and scored, the rule, and the file it is read from."""
        file = "" if self.file is None else sha256(self.file.path.read_bytes()).hexdigest()
        planted = {kind: places.tolist() for kind, places in self.planting.nulls.items()}
        rule = [self.threshold, self.level, self.force, self.task.seed]
        step = step_key(Forget(self.task, self.signal))
        return digest(step, rule, file, sorted(planted.items()), data_hash(self.examples))

    def carry_out(self) -> Filtered:
        """Train, score and decide what is not in the store yet; keep the run.

        Raises:
            InputError, MissingExtraError, IncompleteError: as `forget_filter`.
        """
        started = time.time()
        runtime, count = self.task.runtime, len(self.examples)
        with runtime.store.explained():
            forgetting = forgetting_of(self.task, self.signal)
        before, after = (np.full(len(self.fit), np.nan) for _ in range(2))
        before[self.fit], after[self.fit] = forgetting.before, forgetting.after
        scores = before - after
        nulls = {
            kind: scores[places][~np.isnan(scores[places])]
            for kind, places in self.planting.nulls.items()
        }
        trusted = self.planting.trusted
        judged = np.where(trusted, np.nan, scores[:count])
        if self.level is not None:
            decision = by_level(judged, nulls, self.level, seed=self.task.seed)
        else:
            assert self.threshold is not None
            decision = by_threshold(judged, nulls, self.threshold, force=self.force)
        run = self._run(forgetting, started)
        run.save(runtime.store)
        found = Filtered(
            run=run,
            examples=self.examples,
            before=before[:count],
            after=after[:count],
            too_long=~self.fit[:count],
            trusted=trusted,
            nulls=nulls,
            decision=decision,
            signal=self.signal,
            task=self.task,
            file=self.file,
            seconds=forgetting.seconds,
            notes=self.notes,
            key=self.key,
        )
        write_record(found, runtime.store)
        return found

    def _run(self, forgetting: Forgetting, started: float) -> Run:
        task, steps = self.task, forgetting.steps
        name = self.file.path.stem if self.file is not None else self.task.noisy.name
        places = [(task.checkpoint.fingerprint, task.checkpoint.name)]
        places += [(steps[stage], stage) for stage in (LEARN, FORGET)]
        methods = (None, task.first.update, task.second.update)
        return Run(
            name=run_name("filter", name, [self.key]),
            command="filter",
            settings={
                **self.settings,
                "filter": {kind: steps[kind] for kind in ("before", "after", "table")},
            },
            positions=tuple(
                Position("filter", at, method, None, task.seed, key, label)
                for at, ((key, label), method) in enumerate(zip(places, methods, strict=True))
            ),
            suites=(),
            scores={},
            started=started,
            seconds=time.time() - started,
        )


@dataclass(frozen=True, kw_only=True)
class Filtering:
    """What a filter is asked for: the arguments of `forget_filter`, which explains them."""

    model: str
    noisy: Rows
    safe: Rows
    trusted: Rows | None = None
    signal: SignalName = "likelihood"
    threshold: float | None = None
    false_rejections: float = 0.1
    settings: Mapping[str, Any] | None = None
    steps: int | None = None
    set_aside: float = SET_ASIDE
    force: bool = False
    limit: int | None = None
    data_dir: str | Path | None = None
    device: str | None = None
    dtype: "Dtype" = "float32"
    seed: int = 0
    store: Store | None = None
    progress: Progress | None = None

    def stages(self, safe_rows: int | None = None) -> "tuple[StageSettings, StageSettings]":
        """The settings of both trainings (`lethe.filtering.stages.read_stages`)."""
        return read_stages(
            self.settings or {},
            steps=self.steps,
            safe_rows=safe_rows,
            seed=self.seed,
            where="lethe filter",
        )


def forget_filter(
    model: str,
    noisy: Rows,
    safe: Rows,
    *,
    trusted: Rows | None = None,
    signal: SignalName = "likelihood",
    threshold: float | None = None,
    false_rejections: float = 0.1,
    settings: Mapping[str, Any] | None = None,
    steps: int | None = None,
    set_aside: float = SET_ASIDE,
    force: bool = False,
    limit: int | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    dtype: "Dtype" = "float32",
    seed: int = 0,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Filtered:
    """Find the rows that would do harm, by what safe tuning makes a model forget.

    Two trainings and two tables of scores; all of them are steps of the store, so that a killed
    call goes on and a second one is read back.

    Args:
        model: the model to be tuned on the rows: a folder or hub id.
        noisy: the rows to be judged: a JSONL, CSV or Parquet file, or examples with references.
        safe: rows with safe answers, of the kind that unsafe rows would violate: a file, a suite
            (its train split), or examples.
        trusted: task rows that somebody has checked, 100 at least and like the good rows among the
            noisy ones; better if drawn from these. With them, and without `threshold`, the share
            of false rejections is promised (`lethe.filtering.guarantee`).
        signal: `likelihood` (nats per token) or `rouge` (as published, slower).
        threshold: forgetting above which a row goes, in the signal's unit. By default, without
            trusted rows, 1 nat per token, and 0.1 of ROUGE-1 as published.
        false_rejections: expected share of good rows among the rejected, at most.
        settings: of both trainings, as `lethe tune` takes them; those under `safe` are for the
            second alone.
        steps: of tuning on the safe rows; by default two passes over them, at most 1,000.
        set_aside: share of the safe rows that are planted among the noisy ones, by cluster.
        force: reject by threshold even where the signal does not separate anything.
        limit: at most so many safe, and so many trusted rows.
        dtype: what scores are computed in.
        seed: of both trainings, and of which safe rows are set aside.

    Raises:
        InputError: rows, a model or a setting that cannot be used; nothing is trained then.
        MissingExtraError: TRL and its companions, or rouge-score, are not installed.
        IncompleteError: the disk is full; what was finished is kept.
    """
    asked = Filtering(
        model=model,
        noisy=noisy,
        safe=safe,
        trusted=trusted,
        signal=signal,
        threshold=threshold,
        false_rejections=false_rejections,
        settings=settings,
        steps=steps,
        set_aside=set_aside,
        force=force,
        limit=limit,
        data_dir=data_dir,
        device=device,
        dtype=dtype,
        seed=seed,
        store=store,
        progress=progress,
    )
    return prepare(asked).carry_out()


def prepare(asked: Filtering) -> Cleaning:
    """Read and check everything that `forget_filter` is given; its errors."""
    from lethe.models.checkpoint import resolve
    from lethe.models.fingerprint import FingerprintMemory
    from lethe.models.format import choose_format
    from lethe.models.local import ModelPool

    level, threshold = _rule(asked)
    asked.stages()  # before any file
    file, rows = _noisy(asked.noisy)
    safe = _rows("safe", asked.safe, asked)
    trusted = () if asked.trusted is None else _rows("trusted", asked.trusted, asked)
    planting = plant(rows, safe, trusted, set_aside=asked.set_aside, seed=asked.seed)
    _check_enough(planting, level)
    first, second = asked.stages(len(planting.safe))
    store = asked.store or Store()
    memory = FingerprintMemory(store.root / "fingerprints.json")
    pool = ModelPool(device=asked.device, dtype=asked.dtype)
    runtime = Runtime(store, pool, memory, asked.progress or Progress())
    checkpoint = resolve(asked.model, memory)
    tokenizer = pool.tokenizer(checkpoint)
    positions = positions_of(checkpoint, tokenizer)
    longest = min(first.max_length, positions)
    fit = fits(planting.examples, tokenizer, choose_format(tokenizer), longest)
    taught = tuple(one for one, fine in zip(planting.examples, fit, strict=True) if fine)
    if not fit[: len(rows)].any():
        raise InputError(
            f"all {len(rows)} rows are longer than {longest} tokens",
            where=str(asked.noisy) if isinstance(asked.noisy, str | Path) else "noisy rows",
            todo="the model takes no more: give shorter rows, or another model"
            if longest == positions
            else f"--set max_length={positions} is the most that the model takes",
        )
    task = FilterTask(
        checkpoint,
        Lessons("noisy rows", taught),
        Lessons("safe rows", planting.safe),
        first,
        second,
        runtime,
        Lessons("planted rows", planting.planted),
        asked.seed,
    )
    said = {
        "model": asked.model,
        "noisy": _shown(asked.noisy),
        "safe": _shown(asked.safe),
        "trusted": None if asked.trusted is None else _shown(asked.trusted),
        "signal": asked.signal,
        "threshold": threshold,
        "false_rejections": level,
        "set_aside": asked.set_aside,
        "seed": asked.seed,
        "first": first.model_dump(),
        "second": second.model_dump(),
    }
    return Cleaning(
        task,
        asked.signal,
        rows,
        file,
        planting,
        fit,
        threshold,
        level,
        asked.force,
        tuple(_notes(rows, safe, planting, fit, longest)),
        said,
    )


def _rule(asked: Filtering) -> tuple[float | None, float | None]:
    """The level that is promised, or the threshold that decides; the other one is None."""
    signal, threshold = asked.signal, asked.threshold
    share, aside = asked.false_rejections, asked.set_aside
    if signal not in SIGNALS:
        raise InputError(f"no signal '{signal}'", where="--signal", todo=nearest(signal, SIGNALS))
    if threshold is not None and not math.isfinite(threshold):
        raise InputError(f"{threshold} is no threshold", where="--threshold", todo="give a number")
    if not 0 < share < 1:
        raise InputError(
            f"false rejections of {share:g}", where="--false-rejections", todo="between 0 and 1"
        )
    if not 0 <= aside < 1:
        raise InputError(f"{aside:g} set aside", where="--set-aside", todo="from 0 to below 1")
    if threshold is not None or asked.trusted is None:
        return None, THRESHOLDS[signal] if threshold is None else threshold
    if not aside:
        raise InputError(
            "nothing can be promised without safe rows set aside",
            where="--set-aside",
            todo="set some aside, or give --threshold",
        )
    return share, None


def _noisy(noisy: Rows) -> tuple[RowsFile | None, tuple[Example, ...]]:
    if isinstance(noisy, str | Path):
        return read_noisy(Path(noisy))
    return None, tuple(replace(one, reference=target_of(one)) for one in noisy)


def _rows(name: str, said: Rows, asked: Filtering) -> tuple[Example, ...]:
    from lethe.suites import training_examples
    from lethe.suites.splits import sample

    if isinstance(said, str | Path):
        return training_examples(str(said), limit=asked.limit, data_dir=asked.data_dir)
    rows = tuple(replace(one, reference=target_of(one)) for one in said)
    return sample(rows, asked.limit, salt=name)


def _check_enough(planting: Planting, level: float | None) -> None:
    """Refuse what cannot work; what merely decides little is said in the end."""
    if not planting.safe:
        raise InputError(
            "no safe rows to train on",
            where="--safe",
            todo="give rows with safe answers, of the kind that unsafe rows would violate",
        )
    if not planting.examples[: planting.noisy]:
        raise InputError("no noisy rows", where="--noisy")
    if level is None:
        return
    sizes = {kind: len(planting.nulls.get(kind, ())) for kind in (SAFE, TASK)}
    if sizes[TASK] < LEAST_TRUSTED:
        raise InputError(
            f"{sizes[TASK]} trusted rows, and nothing can be promised with fewer than "
            f"{LEAST_TRUSTED}",
            where="--trusted",
            todo="check more rows, or give --threshold",
        )
    if sizes[SAFE] < LEAST_TRUSTED:
        raise InputError(
            f"{sizes[SAFE]} safe rows are set aside, and nothing can be promised with fewer than "
            f"{LEAST_TRUSTED}",
            where="--safe",
            todo="give more safe rows or a larger --set-aside, or give --threshold",
        )


def _notes(
    rows: Sequence[Example],
    safe: Sequence[Example],
    planting: Planting,
    fit: Mask,
    longest: int,
) -> list[str]:
    notes = []
    if again := duplicates(rows):
        notes.append(f"{again} noisy rows say the same as one before them: they share its fate")
    notes += too_long(fit, len(rows), longest)
    if both := shared(rows, safe):
        notes.append(f"{both} noisy rows also stand among the safe ones")
    if own := int(planting.trusted.sum()):
        notes.append(f"{own} noisy rows are trusted ones: they stay")
    return notes


def _shown(said: Rows) -> str:
    return str(said) if isinstance(said, str | Path) else f"{len(said)} rows"
