"""One stage of fine-tuning: a checkpoint and examples in, a checkpoint and its record out."""

import copy
import gc
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe import environment
from lethe.errors import InputError
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
from lethe.tuning.combination import check_stage
from lethe.tuning.course import TAUGHT, Course, course_of
from lethe.tuning.machine import check_alone, check_libraries, check_processes, fits, peak_memory
from lethe.tuning.mix import Replay
from lethe.tuning.processes import ALONE, Processes, check_sharded, join, launched, shares
from lethe.tuning.protect import Protected, check_protect, data_with, protected_rows
from lethe.tuning.rows import data_hash
from lethe.tuning.settings import StageSettings, read_settings
from lethe.writable import check_writable

if TYPE_CHECKING:
    from lethe.tuning.training import Trained
    from lethe.tuning.watcher import Watcher

__all__ = ["Stage", "StageResult", "StageSettings", "read_settings", "run_stage", "tune"]

STAGE_VERSION = 2  # raise it when the weights that a stage gives change
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
        seconds: of training, in this process, without `reading_seconds`.
        peak_memory: bytes, on the GPU or, without one, of the process.
        divergence: KL(parent‖tuned), mean over held-out target positions, nats per token.
        loss: (step, mean cross-entropy of its targets in nats per token).
        replayed: of the rows trained on over all passes, how many were earlier data.
        divergences: (step, divergence), two to ten over the training, by its length.
        reading_seconds: spent on these.
        stopped: where and why a KL budget ended the training, and the step whose state is kept.
        pull: what the anchor added to the loss, mean over the last ten steps.
        taught: what was made of the data, in counts.
        protection: what was protected and how well (`lethe.tuning.protection`).
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
    divergences: list[tuple[int, float]] = field(default_factory=list)
    reading_seconds: float = 0.0
    stopped: dict[str, float] | None = None
    pull: float | None = None
    taught: dict[str, Any] = field(default_factory=dict)
    protection: dict[str, Any] | None = None


@dataclass(frozen=True)
class Stage:
    """What is asked for, and where it goes.

    Attributes:
        data: hash of everything it is taught.
        key: SHA-256 of everything that decides its weights.
        partial: where what it needs for going on is kept.
        out: where its result will lie.
        save_every: seconds of training between two checkpoints.
        watcher: measures the model while it trains; its weights do not depend on it.
        processes: those that train it, this one among them.
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
    protect: Sequence[Protected] = ()
    watcher: "Watcher | None" = None
    processes: Processes = ALONE


def tune(
    model: str,
    examples: Sequence[Example],
    *,
    settings: StageSettings,
    out: Path,
    partial: Path,
    memory: FingerprintMemory,
    replay: Replay | None = None,
    progress: Progress | None = None,
    save_every: float = _SAVE_EVERY,
    protect: Sequence[Protected] = (),
) -> StageResult:
    """Tune a model on examples and write the result to `out`.

    A training that was killed goes on from its last checkpoint when called again and ends, on a
    CPU in float32, in the same bits.

    Started by a launcher in several processes (`accelerate launch`, `torchrun`), every one calls
    this with the same arguments: they share the examples of every step, and the result is that of
    one process up to rounding. The main one writes, and what it did is given to all.

    Args:
        model: a folder or hub id; an adapter is merged into its base first.
        examples: each with a reference (or choices and an answer) to be tuned towards.
        out: a folder that does not exist, or holds this very stage: then nothing runs.
        partial: where unfinished trainings are kept, one folder each.
        memory: known hashes of weight files.
        replay: earlier data to mix in.
        save_every: seconds of training between two checkpoints.
        protect: what a calibrated update is not to disturb.

    Raises:
        InputError: the model, the examples, a setting, the folder or the machine cannot be used,
            or the loss left the finite or exploded.
        MissingExtraError: TRL and its companions are not installed.
        IncompleteError: the disk is full, or another process ended; the last checkpoint is kept.
        FollowedError: the main process failed, and says why.
    """
    if not examples:
        raise InputError("no examples to tune on")
    processes = _together(settings, replay)
    with processes.explained(), ExitStack() as held:
        parent = processes.main_first(lambda: resolve(model, memory))
        check_protect(updates.find(settings.update), [source.name for source in protect])
        data, said = data_with(data_hash(examples), protect), settings.hashed
        if replay is not None:
            data, said = f"{data}+{replay.hash}", {**said, **replay.settings}
        key = key_of(
            "tune",
            STAGE_VERSION,
            said,
            dtype=settings.compute_dtype(),
            data=data,
            parents=[parent.fingerprint],
        )
        folder = partial / key

        def begin() -> StageResult | None:
            record = saving.read_record(out)
            if record is not None:
                saving.check_same(record, key, out, memory)
                return stored_result(record, out)
            check_writable(out, folder=True)
            held.enter_context(saving.private_folder(folder))
            return None

        stored = processes.told(begin)
        if stored is not None:
            return stored
        stage = Stage(
            parent,
            examples,
            settings,
            data,
            key,
            folder,
            out,
            replay=replay,
            save_every=save_every,
            protect=protect,
            processes=processes,
        )
        shown = (processes.main and progress) or Progress()
        return run_stage(stage, saving.written_whole(out, key), memory, shown)


def _together(settings: StageSettings, replay: Replay | None) -> Processes:
    """The processes that a launcher started, once all that can be said before is said."""
    if not launched():
        check_stage(settings, replay)
        return ALONE
    check_libraries()
    check_processes()
    processes = join()

    def check() -> None:
        check_stage(settings, replay)
        shares(settings, processes.count)
        if processes.sharded:
            check_sharded(settings)

    with processes.explained():
        processes.main_first(check)
    return processes


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
    if stage.processes is ALONE:
        check_stage(stage.settings, stage.replay)
        check_libraries()
        check_alone()
    with saving.full_disk_explained(stage.partial):
        return _run(stage, writing, memory, progress)


def _run(
    stage: Stage,
    writing: AbstractContextManager[Path],
    memory: FingerprintMemory,
    progress: Progress,
) -> StageResult:
    from lethe.tuning.before import Before
    from lethe.tuning.training import train

    settings, device, processes = stage.settings, choose_device(), stage.processes
    tokenizer, module = processes.each(
        lambda: (load_tokenizer(stage.parent), _loaded(stage, device))
    )
    check_unchanged(stage.parent, memory)
    course = processes.told(
        lambda: course_of(
            stage.examples,
            settings,
            stage.replay,
            parent=module,
            tokenizer=tokenizer,
            folder=stage.partial,
            progress=progress,
        )
    )
    configs = copy.deepcopy((module.config, module.generation_config))

    def asked() -> tuple[Before, Any, Any]:
        before = Before(module, course)
        protection = _protection(stage, tokenizer, module, course, progress)
        return before, protection, _prepared(stage, module, protection)

    before, protection, model = processes.each(asked)
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    # A checkpoint holds weights and two moments; while one is written, two before it stand.
    extra = 0 if settings.kl_budget is None else 8 * trainable
    needs = {stage.out: 4 * trainable, stage.partial: 36 * trainable + extra}
    processes.told(lambda: saving.check_space(needs))
    trained = train(
        model, tokenizer, course, before, stage=stage, configs=configs, progress=progress
    )
    module.config, module.generation_config = configs  # the trainer aligned them to the tokenizer
    if processes.sharded or not processes.main:
        model = module = None  # held in parts, or for the main process to go on with
        gc.collect()

    def conclude() -> StageResult:
        whole = model
        if whole is None:
            whole = _prepared(stage, _loaded(stage, device), None)
        trained.settle(whole)
        divergence = before.divergence(whole, stage.parent)
        if protection is not None:
            protection.check(whole, divergence)
        result = replace(
            _result(stage, course, trained, device),
            trainable=trainable,
            divergence=divergence,
            protection=None if protection is None else protection.record(),
        )
        with writing as folder, quiet():
            _write(stage, whole, folder)
            record = _record(stage, memory, device, result)
            record["fingerprint"] = fingerprint(folder, memory)
            saving.write_record(folder, record, result.loss)
        return result

    return processes.told(conclude)


def _loaded(stage: Stage, device: str) -> Any:
    """The parent; one that is to be split, and has no room on one GPU, is left to the CPU."""
    if not stage.processes.sharded:
        return load_model(stage.parent, device=device)
    module = load_model(stage.parent)
    return module.to(device) if fits(module, device) else module


def _prepared(stage: Stage, module: Any, protection: Any | None) -> Any:
    """What the stage's update makes of the parent: the same each time."""
    from transformers import set_seed

    update = updates.find(stage.settings.update)
    set_seed(stage.settings.seed)  # an adapter's first values
    with quiet():
        if protection is None:
            return update.prepare(module, **stage.settings.options)
        return protection.prepare(update, module, stage.settings.options)


def _result(stage: Stage, course: Course, trained: "Trained", device: str) -> StageResult:
    """What was done, without what came of it."""
    settings, facts = stage.settings, trained.facts
    done = course.order[: facts["steps"] * settings.batch_size * settings.gradient_accumulation]
    tokens, target_tokens = course.tokens(len(done))
    return StageResult(
        folder=stage.out,
        key=stage.key,
        cached=False,
        examples=course.own,
        held_out=len(course.held),
        left_out=course.left_out,
        trainable=0,
        tokens=tokens,
        target_tokens=target_tokens,
        peak_memory=peak_memory(device),
        divergence=None,
        replayed=sum(row >= course.own for row in done),
        taught=course.taught,
        **facts,
    )


def _write(stage: Stage, model: Any, folder: Path) -> None:
    """The weights, and what the parent was asked to say."""
    update = updates.find(stage.settings.update)
    if update.finish is not None:
        model = update.finish(model)
    save = saving.save_adapter if update.adapter else saving.save_whole
    save(model, stage.parent, folder)
    if (stage.partial / TAUGHT).is_file() and folder != stage.partial:
        shutil.copyfile(stage.partial / TAUGHT, folder / TAUGHT)


def _protection(
    stage: Stage, tokenizer: Any, module: Any, course: Course, progress: Progress
) -> Any | None:
    """What a calibrated update reads before it trains; None where nothing is protected."""
    if not stage.protect:
        return None
    from lethe.tuning.protection import Protection

    form = choose_format(tokenizer)
    limit = min(stage.settings.max_length, position_limit(module, tokenizer))
    sources = [
        protected_rows(source, tokenizer, form, max_length=limit) for source in stage.protect
    ]
    return Protection(module, sources, course.rows[: course.own], course.held, progress)


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
        "replay": None if stage.replay is None else dict(stage.replay.settings),
        "dtype": stage.settings.compute_dtype(),
        "data": stage.data,
        **environment.record(device),
        "result": measured,
    }


def stored_result(record: dict[str, Any], out: Path) -> StageResult:
    """What a stage did whose record lies in a folder."""
    loss = saving.read_loss(out)
    said = dict(record["result"])
    said["divergences"] = [(step, found) for step, found in said.get("divergences", ())]
    return StageResult(folder=out, key=record["key"], cached=True, loss=loss, **said)
