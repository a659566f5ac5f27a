"""`ForgettingCallback`: what a training forgets, measured while it runs."""

from __future__ import annotations

import hashlib
import math
import sys
import time
import uuid
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transformers import Trainer, TrainerCallback

from lethe.answers import Answers, answers_of
from lethe.auditing import load_suites, suite_facts
from lethe.errors import InputError, LetheError
from lethe.live import LiveMeasure, bare, left_as_found, sharded
from lethe.looks import Looks, Scores, scope_of
from lethe.models.checkpoint import Checkpoint
from lethe.models.engine import Engine
from lethe.models.format import choose_format
from lethe.models.local import LiveModel
from lethe.overhead import Overhead, step_seconds
from lethe.progress import ConsoleProgress, Progress
from lethe.rules import Rule, parse_rule, target_of
from lethe.run import Position, Run, load_run, run_name
from lethe.steps import step_key
from lethe.store import Store, write_atomically
from lethe.tuning.processes import ALONE, Processes, met

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lethe.examples import Split, Suite

RUN_NOTE = "lethe-run"
"""A file in the trainer's output folder: the name of the run, for a training that is resumed."""


class ForgettingCallback(TrainerCallback):
    """Measures suites while a `transformers.Trainer` (TRL's, or any subclass) trains.

    Every `every` steps, and after the last, the live module answers the suites. Each table goes
    to the store and the run, the changes since the start go to `trainer.log`. The training is left
    as it was: with the callback and without, the weights are the same bit for bit, unless a rule
    stops it. Under several processes the main one measures and the others wait.

    Args:
        suites: names, files or suites, as for `lethe.audit`.
        every: optimizer steps between looks.
        stop: rules (`lethe.rules`); the training stops at the first look that shows one of them.
            The bounds are a confidence sequence (`lethe.sequences`): with probability 95 % none of
            the rules is ever wrongly taken as shown, however many looks there are.
        keep_best: an axis or a suite. A look is saved as the trainer saves, and protected from
            `save_total_limit`, if it is shown to be better on it than the look kept before (at
            first, than the start), by bounds that hold over all looks and choices; 95 %.
        split, limit, data_dir, format: as for `lethe.audit`.
        tokenizer: by default the trainer's `processing_class`.
        store: where tables and the run are kept.

    Attributes:
        run: the run, as far as it has come (main process).
        stopped_by: the rule that stopped the training, or None.
        best: name of the look that is kept; the start's where none was shown to be better.
        estimated_share, share: of the training's time that measuring takes: said before the first
            step, and what it was; seconds: spent on looks after the start.

    Raises:
        InputError: unknown suites, rules or names, when it is made; a module that cannot be
            measured, when the training begins.
    """

    def __init__(
        self,
        suites: Sequence[str | Suite],
        *,
        every: int = 200,
        stop: str | Sequence[str] | None = None,
        keep_best: str | None = None,
        split: Split = "test",
        limit: int | None = None,
        data_dir: str | Path | None = None,
        format: Literal["auto", "chat", "plain"] = "auto",
        tokenizer: Any = None,
        store: Store | None = None,
        progress: Progress | None = None,
    ) -> None:
        if every < 1:
            raise InputError(f"a look every {every} steps", todo="give every=1 or more")
        self.suites = load_suites(suites, split=split, limit=limit, data_dir=data_dir)
        self.every, self.keep_best = every, keep_best
        texts = [stop] if isinstance(stop, str) else list(stop or ())
        self.rules = tuple(parse_rule(text, where="stop") for text in texts)
        scope = scope_of(self.suites)
        for rule in self.rules:
            target_of(rule, scope, where="stop")
        self._better: Rule | None = None
        if keep_best is not None:
            self._better = parse_rule(f"{keep_best} change > 0", where="keep_best")
            target_of(self._better, scope, where="keep_best")
        self._settings = {"split": split, "limit": limit}
        self._kind: Literal["auto", "chat", "plain"] = format
        self._tokenizer, self._store = tokenizer, store or Store()
        self._progress = progress
        self.run: Run | None = None
        self.stopped_by: str | None = None
        self.best = ""
        self.estimated_share = self.share = math.nan
        self._trainer: Any = None
        self._live: _Live | None = None
        self._looks: Looks | None = None
        self._looked_at = -1
        self._processes: Processes = ALONE
        self.seconds = self._look_seconds = self._began = 0.0

    # ---- what the trainer calls ----------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the start, and say what measuring will cost."""
        self._trainer = _trainer_of(self)
        self._check(args)
        self._processes = met()
        self._processes.told(lambda: self._begin(args, state, kwargs))
        self._looked_at = state.global_step if state.global_step else -1
        self._began, self.seconds = time.monotonic(), 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Look, log, and stop or save where a rule says so."""
        step = state.global_step
        if step == self._looked_at or (step % self.every and step < state.max_steps):
            return control
        self._looked_at = step
        started = time.monotonic()
        decision = self._processes.told(lambda: self._look(args, state, step))
        if decision.logs:
            self._log(control, kwargs.get("model"), decision.logs)
        if decision.save:
            control.should_save = True
            state.best_global_step = step
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{step}")
        if decision.stop:
            control.should_training_stop = True
        self.seconds += time.monotonic() - started
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say what measuring did cost."""
        total = time.monotonic() - self._began
        self.share = self.seconds / total if total > 0 else math.nan
        if state.is_world_process_zero and self._looks is not None:
            told = f"measuring took {self.share:.0%} of the training's time"
            if not math.isnan(self.estimated_share):
                told += f" (estimated {self.estimated_share:.0%})"
            self._say(told)
        self._live = self._trainer = None  # the module is the trainer's alone again
        self._processes = ALONE

    # ---- measuring -----------------------------------------------------------------------------

    def _begin(self, args: Any, state: Any, kwargs: Mapping[str, Any]) -> None:
        tokenizer = self._tokenizer or kwargs.get("processing_class")
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        if tokenizer is None:
            raise InputError(
                "the trainer has no tokenizer",
                where="ForgettingCallback",
                todo="give tokenizer=..., or the trainer processing_class=...",
            )
        model = bare(kwargs["model"])
        chosen = choose_format(tokenizer, self._kind)
        looks = max(math.ceil(state.max_steps / self.every), 1)
        self._looks = Looks(self.suites, self.rules, self._better, looks)
        with left_as_found(kwargs["model"]):
            engine = Engine(model)
            live = LiveModel(_nowhere(args), model, tokenizer, engine)
            answers = {one.name: answers_of(one, chosen, live) for one in self.suites}
            self._live = _Live(kwargs["model"], live, chosen, answers, _dtype(args, model))
            if state.global_step:
                self._resume(args, state.global_step)
            else:
                self._start(args, looks)
            self._estimate(args, state, kwargs, looks)

    def _start(self, args: Any, looks: int) -> None:
        assert self._live is not None
        once = uuid.uuid4().hex  # two trainings never share a table
        folder = Path(args.output_dir)
        self.run = Run(
            name=run_name("train", folder.name or "model", [once]),
            command="train",
            settings={
                **self._settings,
                "id": once,
                "output_dir": str(folder),
                "every": self.every,
                "looks": looks,
                "steps": {},
                "stop": [rule.text for rule in self.rules],
                "keep_best": self.keep_best,
                "format": self._live.format.name,
                "dtype": self._live.dtype,
                "stopped_by": None,
                "best": "start",
            },
            positions=(),
            suites=[suite_facts(suite) for suite in self.suites],
            scores={suite.name: {} for suite in self.suites},
            started=time.time(),
        )
        self.best = "start"
        started = time.monotonic()
        scores = self._measure(args, "start", 0)
        self._look_seconds = time.monotonic() - started
        assert self._looks is not None
        self._looks.start(scores)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / RUN_NOTE, self.run.name.encode())

    def _look(self, args: Any, state: Any, step: int) -> _Decision:
        assert self._looks is not None
        assert self.run is not None
        assert self._live is not None
        name = f"step {step}"
        try:
            with left_as_found(self._live.whole):
                found = self._looks.look(name, self._measure(args, name, step))
        except LetheError as error:  # a full disk, or a model that gives no numbers any more
            self._say(f"no look at step {step}: {error}")
            return _Decision()
        save = found.better and found.shown is None
        if save:
            self._looks.keep(name)
            self.best = name
        if found.shown is not None:
            self.stopped_by = found.shown
            self._say(f"stopping at step {step}: shown that {found.shown}")
        settings = {**self.run.settings, "best": self.best, "stopped_by": self.stopped_by}
        self.run = replace(self.run, settings=settings)
        self.run.save(self._store)
        return _Decision(found.shown is not None, save, found.logs)

    def _measure(self, args: Any, name: str, step: int) -> Scores:
        """One table for each suite, in the store and in the run."""
        assert self._live is not None
        assert self.run is not None
        live, scores, keys = self._live, {}, {}
        identity = hashlib.sha256(f"{self.run.settings['id']}:{step}".encode()).hexdigest()
        checkpoint = Checkpoint(name, Path(args.output_dir), identity, label=name)
        total = sum(len(suite.examples) for suite in self.suites)
        with self._shown.bar(name, total) as bar, self._precision():
            for suite in self.suites:
                step_of = LiveMeasure(checkpoint, suite, live.format, live.dtype)
                answers = live.answers[suite.name]

                def write(
                    folder: Path,
                    step_of: LiveMeasure = step_of,
                    answers: Answers = answers,
                    advance: Callable[[int], None] = bar.advance,
                ) -> Mapping[str, Any]:
                    return step_of.write(folder, live.live, answers, advance)

                stored, _ = self._store.get_or_make("scores", step_key(step_of), write)
                keys[suite.name] = stored.key
                scores[suite.name] = stored.folder
        place = Position("training", len(self.run.positions), None, None, args.seed, identity, name)
        self.run = replace(
            self.run,
            positions=(*self.run.positions, place),
            scores={s: {**held, identity: keys[s]} for s, held in self.run.scores.items()},
            settings={
                **self.run.settings,
                "steps": {**self.run.settings["steps"], name: step},
            },
            seconds=time.time() - self.run.started,
        )
        self.run.save(self._store)
        return Scores.read(scores, place)

    def _resume(self, args: Any, step: int) -> None:
        """Take up the run of a training that was stopped: its start, and its looks up to here."""
        assert self._looks is not None
        note = Path(args.output_dir) / RUN_NOTE
        try:
            run = load_run(note.read_text().strip(), self._store)
        except (OSError, InputError):
            raise InputError(
                "this training was begun without the callback, so its start was never measured",
                where=str(note),
                todo="train from the start, or audit what it saves",
            ) from None
        if list(run.scores) != [suite.name for suite in self.suites]:
            raise InputError(
                "the callback had other suites when this training was begun",
                where=f"run {run.name}",
                todo=f"give: {', '.join(run.scores)}",
            )
        steps = run.settings["steps"]
        places = tuple(place for place in run.positions if steps[place.name] <= step)
        settings = {**run.settings, "steps": {p.name: steps[p.name] for p in places}}
        self.run = replace(run, positions=places, settings=settings)
        self.best = "start"
        for place in places:
            tables = {}
            for suite, keys in run.scores.items():
                stored = self._store.get("scores", keys[place.checkpoint])
                if stored is None:
                    raise InputError(
                        f"'{suite}' at {place.name} is no longer in the store",
                        where=f"run {run.name}",
                        todo="train from the start",
                    )
                tables[suite] = stored.folder
            scores = Scores.read(tables, place)
            if place is places[0]:
                self._looks.start(scores)
                continue
            with suppress(InputError):  # a look that gave no numbers
                if self._looks.look(place.name, scores).better:
                    self._looks.keep(place.name)
                    self.best = place.name

    # ---- cost ----------------------------------------------------------------------------------

    def _estimate(self, args: Any, state: Any, kwargs: Mapping[str, Any], looks: int) -> None:
        """Say, before the first step, which share of the time measuring will take."""
        assert self._live is not None
        count = sum(len(suite.examples) for suite in self.suites)
        told = f"{looks} look{'s' if looks > 1 else ''} at {count:,} examples"
        loader = kwargs.get("train_dataloader")
        step = step_seconds(args, self._live.live, loader, self._precision())
        if step is None or not self._look_seconds:
            self._say(f"{told}; what share of the time they take is said at the end")
            return
        found = Overhead(self._look_seconds, looks, step, state.max_steps)
        self.estimated_share = found.share
        self._say(f"{told}, {found}")

    # ---- the trainer ---------------------------------------------------------------------------

    def _check(self, args: Any) -> None:
        """On every process: what no look can do, or what would fight over the best checkpoint."""
        from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

        if getattr(self._trainer, "is_fsdp_enabled", False) or is_deepspeed_zero3_enabled():
            raise sharded()
        if self.keep_best and args.metric_for_best_model:
            raise InputError(
                "both keep_best and the trainer's metric_for_best_model choose a checkpoint",
                where="ForgettingCallback",
                todo="give one of the two",
            )

    def _precision(self) -> Any:
        """The mixed precision the trainer trains in."""
        accelerator = getattr(self._trainer, "accelerator", None)
        return nullcontext() if accelerator is None else accelerator.autocast()

    def _log(self, control: Any, model: Any, logs: Mapping[str, float]) -> None:
        """Through `trainer.log`, to everything that listens to it."""
        if self._trainer is None:
            self._say("no trainer was found to log through")
            return
        due = control.should_log
        # In evaluation mode TRL leaves the averages it is collecting for its own log alone.
        with left_as_found(model) if model is not None else nullcontext():
            self._trainer.log(dict(logs))
        control.should_log = due  # logging takes the flag for done, and the loss is yet to come

    @property
    def _shown(self) -> Progress:
        if self._progress is None:
            self._progress = ConsoleProgress() if sys.stderr.isatty() else _Lines()
        return self._progress

    def _say(self, text: str) -> None:
        self._shown.say(f"Lethe: {text}")


@dataclass(frozen=True)
class _Decision:
    """What a look comes to, told to every process.

    Attributes:
        stop: whether the training ends here; save: whether the trainer saves here.
        logs: for the trainer's log.
    """

    stop: bool = False
    save: bool = False
    logs: Mapping[str, float] | None = None


@dataclass(frozen=True)
class _Live:
    """The live module with its suites, encoded and planned once."""

    whole: Any
    live: LiveModel
    format: Any
    answers: Mapping[str, Answers]
    dtype: Any


class _Lines(Progress):
    """Lines on stderr, no bars: the trainer has its own."""

    def say(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr)


def _trainer_of(callback: TrainerCallback) -> Any:
    """The trainer that is calling: Transformers gives callbacks no handle on it."""
    frame = sys._getframe()
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Trainer) and callback in found.callback_handler.callbacks:
            return found
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _nowhere(args: Any) -> Checkpoint:
    """A live module lies in no folder yet."""
    return Checkpoint("live", Path(args.output_dir), "")


def _dtype(args: Any, model: Any) -> str:
    if args.bf16:
        return "bfloat16"
    return "float16" if args.fp16 else str(model.dtype).removeprefix("torch.")
