"""The training of a stage: TRL's trainer over a course, read and watched while it runs."""

import gc
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from lethe.errors import InputError
from lethe.models.local import quiet
from lethe.progress import Progress
from lethe.tuning import trainer as engine
from lethe.tuning import updates
from lethe.tuning.before import Before
from lethe.tuning.budget import DivergenceReader
from lethe.tuning.course import Course
from lethe.tuning.penalty import penalty_of
from lethe.tuning.watching import Watching

if TYPE_CHECKING:
    from lethe.tuning.stage import Stage


def train(
    model: Any,
    tokenizer: Any,
    course: Course,
    before: Before,
    *,
    stage: "Stage",
    configs: tuple[Any, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Train `model` in place, from the last checkpoint if there is one.

    Args:
        model: what the stage's update made of the parent.
        configs: the parent's own config and generation_config, which the trainer aligns to the
            tokenizer.

    Returns:
        What `lethe.tuning.stage.StageResult` says of the training, by its names.

    Raises:
        InputError: the loss left the finite or exploded, the divergence was above the budget from
            the start, or the GPU has too little memory.
    """
    settings, dtype = stage.settings, stage.settings.compute_dtype()
    other = None
    if settings.anchor is not None and settings.anchor.kind == "kl":
        other = before.module(model, stage.parent)
    penalty = penalty_of(settings.anchor, model, other, dtype=dtype)
    reader = DivergenceReader(
        before.held, steps=course.steps, budget=settings.kl_budget, folder=stage.partial
    )
    watching = [] if stage.watcher is None else [Watching(stage.watcher, course.steps, configs)]
    vocabulary = model.get_input_embeddings().weight.shape[0]
    with quiet(), progress.bar(f"tuning {stage.parent.name}", course.steps) as bar:
        counter = engine.Counter(bar)
        trainer = engine.build_trainer(
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
                engine.LossGuard(vocabulary, stage.partial),
                engine.Checkpointer(stage.save_every),
                engine.AfterStep(updates.find(stage.settings.update).after_step),
                reader,
                *watching,
            ],
            labels=course.labels,
            pulls=course.pulls,
            penalty=penalty,
        )
        last = engine.last_checkpoint(stage.partial)
        started = time.monotonic()
        try:
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
        except engine.LossError as bad:
            raise _stopped(f"{bad} at step {bad.step}", stage) from None
        except torch.OutOfMemoryError:
            raise InputError(
                f"the GPU has too little memory for batches of {stage.settings.batch_size}",
                todo="lower batch_size and raise gradient_accumulation by as much",
            ) from None
        seconds = time.monotonic() - started
        # Autocast is wrapped around the module's forward; what follows computes in float32.
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        history, steps = trainer.state.log_history, trainer.state.global_step
    model.zero_grad(set_to_none=True)
    reader.restore(model)
    del trainer, penalty, other
    gc.collect()  # the optimiser's moments make room for the parent
    torch.cuda.empty_cache()
    if not all(weight.isfinite().all() for weight in model.parameters()):
        what = f"some weights are not finite after step {steps}"
        raise _stopped(what, stage)
    pulls = _curve(history, "anchor")[-10:]
    return {
        "steps": steps,
        "seconds": seconds - reader.seconds - sum(watch.seconds for watch in watching),
        "resumed_at": counter.began_at,
        "loss": _curve(history, "loss"),
        "divergences": _curve(history, "divergence"),
        "reading_seconds": reader.seconds,
        "stopped": reader.stopped,
        "pull": sum(pull for _, pull in pulls) / len(pulls) if pulls else None,
    }


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
