"""One stage of fine-tuning: a checkpoint and examples in, a checkpoint and its record out."""

import copy
import gc
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lethe import environment
from lethe.errors import InputError, MissingExtraError
from lethe.examples import Example
from lethe.models.checkpoint import (
    Checkpoint,
    check_unchanged,
    resolve,
    weights_fingerprint,
)
from lethe.models.fingerprint import FingerprintMemory, fingerprint
from lethe.models.format import choose_format
from lethe.models.local import (
    choose_device,
    load_model,
    load_tokenizer,
    position_limit,
    quiet,
)
from lethe.progress import Progress
from lethe.store import key_of
from lethe.tuning import saving, updates
from lethe.tuning.mix import Replay, mixed_order
from lethe.tuning.rows import TuningRow, data_hash, hold_out, tokenise
from lethe.tuning.settings import StageSettings, read_settings

__all__ = ["Stage", "StageResult", "StageSettings", "read_settings", "run_stage", "tune"]

STAGE_VERSION = 2  # raise it when the weights that a stage gives change
_LIBRARIES = ("trl", "peft", "accelerate", "datasets")
_SAVE_EVERY = 60.0  # seconds; what a killed training loses at most


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Attributes:
        folder: the new checkpoint.
        key: SHA-256 of everything that decides its weights.
        cached: it was there already and nothing ran.
        examples: examples trained on.
        held_out: examples kept from training for the divergence.
        left_out: examples longer than the model or the settings allow.
        trainable: weights that could move.
        steps: optimiser steps, and of these `resumed_at` done by an earlier process.
        tokens: tokens trained on over all passes, padding apart; `target_tokens` bear the loss.
        seconds: of training, in this process.
        peak_memory: bytes, on the GPU or, without one, of the process.
        divergence: KL(parent‖tuned), mean over held-out target positions, nats per token.
        loss: (step, mean cross-entropy of its targets in nats per token).
        replayed: of the rows trained on over all passes, how many were earlier data.
    """

    folder: Path
    key: str
    cached: bool
    examples: int
    held_out: int
    left_out: int
    trainable: int
    steps: int
    resumed_at: int
    tokens: int
    target_tokens: int
    seconds: float
    peak_memory: int
    divergence: float | None
    loss: list[tuple[int, float]]
    replayed: int = 0


@dataclass(frozen=True)
class Stage:
    """What is asked for, and where it goes.

    Attributes:
        data: hash of everything it is taught.
        key: SHA-256 of everything that decides its weights.
        partial: where what it needs for going on is kept.
        out: where its result will lie.
        save_every: seconds of training between two checkpoints.
    """

    parent: Checkpoint
    examples: Sequence[Example]
    settings: StageSettings
    data: str
    key: str
    partial: Path
    out: Path
    replay: Replay | None = None
    save_every: float = _SAVE_EVERY


@dataclass(frozen=True)
class _Plan:
    """What is trained on, in which order; the first `own` rows are the stage's own."""

    rows: list[TuningRow]
    own: int
    held: list[TuningRow]
    left_out: int
    order: list[int]
    steps: int


def tune(
    model: str,
    examples: Sequence[Example],
    *,
    settings: StageSettings,
    out: Path,
    partial: Path,
    memory: FingerprintMemory,
    progress: Progress | None = None,
    save_every: float = _SAVE_EVERY,
) -> StageResult:
    """Tune a model on examples and write the result to `out`.

    A training that was killed goes on from its last checkpoint when called again and ends, on a
    CPU in float32, in the same bits.

    Args:
        model: a folder or hub id; an adapter is merged into its base first.
        examples: each with a reference (or choices and an answer) to be tuned towards.
        out: a folder that does not exist, or holds this very stage: then nothing runs.
        partial: where unfinished trainings are kept, one folder each.
        memory: known hashes of weight files.
        save_every: seconds of training between two checkpoints.

    Raises:
        InputError: the model, the examples, a setting, the folder or the machine cannot be used,
            or the loss left the finite or exploded.
        MissingExtraError: TRL and its companions are not installed.
        IncompleteError: the disk is full; the last checkpoint is kept.
    """
    if not examples:
        raise InputError("no examples to tune on")
    parent = resolve(model, memory)
    data = data_hash(examples)
    key = key_of(
        "tune",
        STAGE_VERSION,
        settings.hashed,
        dtype=settings.compute_dtype(),
        data=data,
        parents=[parent.fingerprint],
    )
    record = saving.read_record(out)
    if record is not None:
        saving.check_same(record, key, out, memory)
        return _cached(record, out)
    saving.check_writable(out)
    folder = partial / key
    with saving.private_folder(folder):
        stage = Stage(parent, examples, settings, data, key, folder, out, save_every=save_every)
        writing = saving.written_whole(out, key)
        return run_stage(stage, writing, memory, progress or Progress())


def run_stage(
    stage: Stage,
    writing: AbstractContextManager[Path],
    memory: FingerprintMemory,
    progress: Progress,
) -> StageResult:
    """Load, train, measure, and write into the folder that `writing` gives.

    Raises:
        InputError, MissingExtraError, IncompleteError: as `tune`.
    """
    _check_libraries()
    _check_processes()
    with saving.full_disk_explained(stage.partial):
        return _run(stage, writing, memory, progress)


def _run(
    stage: Stage,
    writing: AbstractContextManager[Path],
    memory: FingerprintMemory,
    progress: Progress,
) -> StageResult:
    from transformers import set_seed

    settings, device = stage.settings, choose_device()
    tokenizer = load_tokenizer(stage.parent)
    module = load_model(stage.parent, device=device)
    check_unchanged(stage.parent, memory)
    plan = _plan(stage, tokenizer, module)
    configs = copy.deepcopy((module.config, module.generation_config))
    set_seed(settings.seed)  # an adapter's first values
    with quiet():
        model = updates.find(settings.update).prepare(module, **settings.options)
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    # A checkpoint holds weights and two moments; while one is written, two before it stand.
    saving.check_space({stage.out: 4 * trainable, stage.partial: 36 * trainable})
    facts = _train(model, tokenizer, plan, stage, progress)
    module.config, module.generation_config = configs  # the trainer aligned them to the tokenizer
    adapter = hasattr(model, "peft_config")
    divergence = None
    if plan.held:
        from lethe.tuning.divergence import mean_divergence

        other = None if adapter else load_model(stage.parent, device=device)
        divergence = mean_divergence(model, other, plan.held)
    lengths = [(len(plan.rows[i].ids), plan.rows[i].targets) for i in plan.order]
    result = StageResult(
        folder=stage.out,
        key=stage.key,
        cached=False,
        examples=plan.own,
        held_out=len(plan.held),
        left_out=plan.left_out,
        trainable=trainable,
        steps=plan.steps,
        tokens=sum(length for length, _ in lengths),
        target_tokens=sum(targets for _, targets in lengths),
        peak_memory=_peak_memory(device),
        divergence=divergence,
        replayed=sum(row >= plan.own for row in plan.order),
        **facts,
    )
    with writing as folder, quiet():
        save = saving.save_adapter if adapter else saving.save_whole
        save(model, stage.parent, folder)
        record = _record(stage, memory, device, result)
        record["fingerprint"] = fingerprint(folder, memory)
        saving.write_record(folder, record, result.loss)
    return result


def _plan(stage: Stage, tokenizer: Any, module: Any) -> _Plan:
    """Rows, the held-out among them, and the order of the whole training."""
    settings, form = stage.settings, choose_format(tokenizer)
    limit = min(settings.max_length, position_limit(module, tokenizer))
    rows = tokenise(stage.examples, tokenizer, form, max_length=limit)
    earlier = []
    if stage.replay is not None:
        earlier = tokenise(stage.replay.earlier.examples, tokenizer, form, max_length=limit)
    largest = max(max(row.ids) for row in [*rows, *earlier])
    if largest >= module.get_input_embeddings().weight.shape[0]:
        raise InputError(
            f"its tokenizer knows token {largest}, which the model has no weights for",
            where=str(tokenizer.name_or_path),
            todo="use the tokenizer the model was saved with",
        )
    train, held = hold_out(rows, settings.held_out)
    each = settings.batch_size * settings.gradient_accumulation
    if settings.max_steps is not None:
        total = settings.max_steps * each
    else:
        assert settings.epochs is not None
        total = max(1, round(settings.epochs * len(train)))
    order = mixed_order(
        [len(row.ids) for row in train],
        [len(row.ids) for row in earlier],
        total,
        0 if stage.replay is None else stage.replay.count(total),
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    left_out = len(stage.examples) - len(rows)
    return _Plan([*train, *earlier], len(train), held, left_out, order, -(-total // each))


def _train(
    model: Any, tokenizer: Any, plan: _Plan, stage: Stage, progress: Progress
) -> dict[str, Any]:
    """Train `model` in place, from the last checkpoint if there is one."""
    import torch

    from lethe.tuning import trainer as engine

    vocabulary = model.get_input_embeddings().weight.shape[0]
    with quiet(), progress.bar(f"tuning {stage.parent.name}", plan.steps) as bar:
        counter = engine.Counter(bar)
        trainer = engine.build_trainer(
            model,
            tokenizer,
            plan.rows,
            plan.order,
            settings=stage.settings,
            dtype=stage.settings.compute_dtype(),
            steps=plan.steps,
            folder=stage.partial,
            callbacks=[
                counter,
                engine.LossGuard(vocabulary, stage.partial),
                engine.Checkpointer(stage.save_every),
            ],
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
        history = trainer.state.log_history
    model.zero_grad(set_to_none=True)
    del trainer
    gc.collect()  # the optimiser's moments make room for the parent
    torch.cuda.empty_cache()
    if not all(weight.isfinite().all() for weight in model.parameters()):
        what = f"some weights are not finite after step {plan.steps}"
        raise _stopped(what, stage)
    loss = [(int(entry["step"]), float(entry["loss"])) for entry in history if "loss" in entry]
    return {"seconds": seconds, "resumed_at": counter.began_at, "loss": loss}


def _stopped(what: str, stage: Stage) -> InputError:
    """What to say of a training that came to nothing, whose last sound state stays."""
    from lethe.tuning.trainer import last_checkpoint

    kept = last_checkpoint(stage.partial)
    state = "nothing is kept" if kept is None else f"the last good state is kept in {kept}"
    return InputError(
        f"{what}; {state}",
        todo=f"lower the learning rate (it is {stage.settings.learning_rate:g})",
    )


def _record(
    stage: Stage,
    memory: FingerprintMemory,
    device: str,
    result: StageResult,
) -> dict[str, Any]:
    """What `lethe.json` says of a stage."""
    measured = asdict(result)
    for name in ("folder", "key", "cached", "loss"):
        del measured[name]
    return {
        "key": stage.key,
        "base": stage.parent.spec,
        "base_fingerprint": stage.parent.fingerprint,
        "base_weights": weights_fingerprint(stage.parent.root.folder, memory),
        "settings": stage.settings.model_dump(),
        "replay": None if stage.replay is None else stage.replay.share,
        "dtype": stage.settings.compute_dtype(),
        "data": stage.data,
        **environment.record(device),
        "result": measured,
    }


def _cached(record: dict[str, Any], out: Path) -> StageResult:
    loss = saving.read_loss(out)
    return StageResult(folder=out, key=record["key"], cached=True, loss=loss, **record["result"])


def _check_libraries() -> None:
    for name in _LIBRARIES:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, "tune")


def _check_processes() -> None:
    """A stage trains in one process on one GPU; the trainer would fail late and at length."""
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "started by a launcher in several processes, and a stage trains in one",
            todo="start it without the launcher",
        )
    if torch.cuda.device_count() > 1:
        raise InputError(
            f"{torch.cuda.device_count()} GPUs are visible, and a stage trains on one",
            todo="choose it: CUDA_VISIBLE_DEVICES=0",
        )


def _peak_memory(device: str) -> int:
    """Bytes, as the GPU's allocator or the operating system counts them."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
