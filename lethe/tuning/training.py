"""The training of a stage: TRL's trainer over a course, read and watched while it runs."""

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from lethe.errors import InputError
from lethe.models.local import quiet
from lethe.progress import Progress
from lethe.tuning import trainer as engine
from lethe.tuning import updates
from lethe.tuning.before import Before
from lethe.tuning.budget import DivergenceReader, readings_worth
from lethe.tuning.course import Course
from lethe.tuning.penalty import penalty_of
from lethe.tuning.processes import shares, whole_weights
from lethe.tuning.watcher import Watching

if TYPE_CHECKING:
    from lethe.tuning.stage import Stage


@dataclass
class Trained:
    """A training that has come to its end, on the main process of those that did it.

    Attributes:
        facts: what `lethe.tuning.stage.StageResult` says of it, by its names.
        weights: what could move, where the module that was trained holds it in parts only.
    """

    facts: dict[str, Any]
    weights: dict[str, torch.Tensor] | None
    reader: DivergenceReader
    stage: "Stage"

    def settle(self, model: Any) -> None:
        """Make `model` what is kept: the end of the training, or its last state in the budget.

        Raises:
            InputError: weights that are not finite.
        """
        if self.weights is not None:
            at = dict(model.named_parameters())
            with torch.no_grad():
                for name, found in self.weights.items():
                    at[name].copy_(found)
        self.reader.restore(model)
        if not all(weight.isfinite().all() for weight in model.parameters()):
            what = f"some weights are not finite after step {self.facts['steps']}"
            raise _stopped(what, self.stage)


def train(
    model: Any,
    tokenizer: Any,
    course: Course,
    before: Before,
    *,
    stage: "Stage",
    configs: tuple[Any, Any],
    progress: Progress,
) -> Trained:
    """Train `model` in place, from the last checkpoint if there is one.

    Args:
        model: what the stage's update made of the parent.
        configs: the parent's own config and generation_config, which the trainer aligns to the
            tokenizer.

    Raises:
        InputError: the loss left the finite or exploded, the divergence was above the budget from
            the start, or the GPU has too little memory.
    """
    settings, processes = stage.settings, stage.processes
    reader = DivergenceReader(
        before.held,
        steps=course.steps,
        readings=readings_worth(len(course.order), max(1, len(course.held))),
        budget=settings.kl_budget,
        folder=stage.partial,
        processes=processes,
    )
    watching = [] if stage.watcher is None else [Watching(stage.watcher, course.steps, configs)]
    with quiet(), progress.bar(f"tuning {stage.parent.name}", course.steps) as bar:
        counter = engine.Counter(bar)
        try:
            readers = [counter, reader, *watching]
            trainer = _trainer(model, tokenizer, course, before, stage=stage, readers=readers)
            last = processes.told(lambda: _going_on(stage))
            started = time.monotonic()
            trainer.train(resume_from_checkpoint=last)
        except engine.LossError as bad:
            stopped = _stopped(f"{bad} at step {bad.step}", stage)
            raise processes.agreed(stopped) from None
        except InputError as error:
            raise processes.agreed(error) from None
        except torch.OutOfMemoryError:
            batch_size, _ = shares(settings, processes.count)
            raise InputError(
                f"the GPU has too little memory for batches of {batch_size}",
                todo="lower batch_size and raise gradient_accumulation by as much",
            ) from None
        seconds = time.monotonic() - started
        weights = None
        if processes.sharded:
            weights = whole_weights(trainer.model, processes, with_adapter=True)
        # Autocast is wrapped around the module's forward; what follows computes in float32.
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        history, steps = trainer.state.log_history, trainer.state.global_step
    model.zero_grad(set_to_none=True)
    del trainer
    gc.collect()  # the optimiser's moments make room for the parent
    torch.cuda.empty_cache()
    pulls = _curve(history, "anchor")[-10:]
    facts = {
        "steps": steps,
        "seconds": seconds - reader.seconds - sum(watch.seconds for watch in watching),
        "resumed_at": counter.began_at,
        "loss": _curve(history, "loss"),
        "divergences": _curve(history, "divergence"),
        "reading_seconds": reader.seconds,
        "stopped": reader.stopped,
        "pull": sum(pull for _, pull in pulls) / len(pulls) if pulls else None,
    }
    return Trained(facts, weights, reader, stage)


def _trainer(
    model: Any,
    tokenizer: Any,
    course: Course,
    before: Before,
    *,
    stage: "Stage",
    readers: list[TrainerCallback],
) -> engine.StageTrainer:
    """A trainer over the course, with the stage's anchor and everything that looks on."""
    settings, dtype, processes = stage.settings, stage.settings.compute_dtype(), stage.processes
    other = None
    if settings.anchor is not None and settings.anchor.kind == "kl":
        other = before.module(model, stage.parent)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    counter, *others = readers
    return engine.build_trainer(
        model,
        tokenizer,
        course.rows,
        course.order,
        settings=settings,
        dtype=dtype,
        steps=course.steps,
        folder=stage.partial,
        callbacks=[
            counter,
            engine.LossGuard(vocabulary, stage.partial, processes),
            engine.Checkpointer(stage.save_every, processes),
            engine.AfterStep(updates.find(settings.update).after_step),
            *others,
        ],
        labels=course.labels,
        pulls=course.pulls,
        penalty=penalty_of(settings.anchor, model, other, dtype=dtype),
        processes=processes,
    )


def _going_on(stage: "Stage") -> str | None:
    """The checkpoint to go on from; None: a training begins."""
    last = engine.last_checkpoint(stage.partial)
    if last is None:
        return None
    engine.check_resumable(last, sharded=stage.processes.sharded)
    return str(last)


def _curve(history: Sequence[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(int(entry["step"]), float(entry[name])) for entry in history if name in entry]


def _stopped(what: str, stage: "Stage") -> InputError:
    """What to say of a training that came to nothing, whose last sound state stays."""
    kept = engine.last_checkpoint(stage.partial)
    state = "nothing is kept" if kept is None else f"the last good state is kept in {kept}"
    return InputError(
        f"{what}; {state}",
        todo=f"lower the learning rate (it is {stage.settings.learning_rate:g})",
    )
