"""`lethe tune`: from names to examples and settings, through one stage, to a run."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.errors import InputError, LetheError, nearest
from lethe.progress import ConsoleProgress
from lethe.run import Position, Run, run_name
from lethe.store import Store
from lethe.tuning.forecast import Forecast, compared
from lethe.tuning.processes import ALONE, FollowedError, Processes, join, launched, leave

if TYPE_CHECKING:
    from lethe.examples import Example
    from lethe.tuning.mix import Replay
    from lethe.tuning.protect import Protected
    from lethe.tuning.settings import StageSettings
    from lethe.tuning.stage import StageResult


PROTECTED: Mapping[str, Any] = {
    "update": "full",
    "anchor": {"kl": {"weight": 1.0, "on": "replay"}},
}
"""What `--protect` does where nothing else is said.

On worlds 3 to 7 of the islet, two seeds, it closes 81 % [61, 109] of what plain tuning loses of
safety and 93 % [84, 103] of knowledge at equal proficiency; with LoRA 32 and 99 %, and two of ten
trainings do not learn as much (`benchmarks/hotel.py`).
"""
SHARE = 0.3
"""Of the rows, those of protected sources, replayed."""
_SLOTS = ("anchor", "mix", "after", "distil", "mask")


def tune_command(
    model: str,
    data: str,
    out: Path,
    settings: Mapping[str, Any],
    *,
    limit: int | None,
    data_dir: Path | None,
    store: Store,
    protect: Sequence[str] = (),
) -> dict[str, Any]:
    """Tune `model` on `data` into `out`, keep the run, and return what to tell the user.

    Args:
        settings: as the user gave them; None counts as not said. The slots `mix` and `after` stand
            among them as a study writes them.
        protect: suites or files that the stage is not to disturb: their `protect` splits. Where no
            slot is said, or an update alone that does not look at them itself, `PROTECTED` is done.
    """
    processes = _started()
    try:
        with processes.explained():
            asked = processes.main_first(
                lambda: _asked(
                    data,
                    settings,
                    limit=limit,
                    data_dir=data_dir,
                    protect=protect,
                    count=processes.count,
                )
            )
            facts = _tuned(model, out, asked, store, processes)
    except FollowedError as error:
        raise SystemExit(error.exit_code) from None  # the main process says why
    leave()
    if not processes.main:
        raise SystemExit(0)  # what there is to tell, one tells
    return facts


@dataclass(frozen=True)
class _Asked:
    """What the user asked for, read and checked."""

    data: str
    protect: "Sequence[str]"
    chosen: "StageSettings"
    examples: "Sequence[Example]"
    replay: "Replay | None"
    protected: "Sequence[Protected]"
    mix: Mapping[str, Any]
    after: Any
    finish: dict[str, Any]


def _started() -> Processes:
    """The processes that train together; one says what is wrong with how they were started."""
    if not launched():
        return ALONE
    from lethe.tuning.machine import check_libraries, check_processes

    try:
        check_libraries()
        check_processes()
    except LetheError as error:
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(error.exit_code) from None
        raise
    return join()


def _asked(
    data: str,
    settings: Mapping[str, Any],
    *,
    limit: int | None,
    data_dir: Path | None,
    protect: Sequence[str],
    count: int,
) -> _Asked:
    """What is asked for, before a model is touched."""
    from lethe import suites
    from lethe.tuning import updates
    from lethe.tuning.combination import check_stage
    from lethe.tuning.finishing import read_finish
    from lethe.tuning.protect import Protected, check_protect
    from lethe.tuning.stage import read_settings

    said = {name: value for name, value in settings.items() if value is not None}
    looks = "update" in said and updates.find(said["update"]).calibrated
    recommended = bool(protect) and not looks and not any(slot in said for slot in _SLOTS)
    if recommended:
        said = {**PROTECTED, **said}
    elif protect:
        said.setdefault("update", "contrast")
    mix, after = said.pop("mix", None) or {}, said.pop("after", None)
    replay = _replay(mix, data_dir)
    finish = read_finish(after) if after else {}
    if finish and count > 1:
        raise InputError(
            "after, in several processes", todo="tune without it, or start it without the launcher"
        )
    chosen = read_settings({**said, **mix_settings(mix)}, where="lethe tune")
    update = updates.find(chosen.update)
    calibrates = update.calibrated or not recommended
    check_protect(update, protect if calibrates else (), where="lethe tune")
    protected = [
        Protected(spec, suites.load(spec, split="protect", data_dir=data_dir).examples)
        for spec in protect
    ]
    if recommended:
        replay = replayed(protected)
    check_stage(chosen, replay)
    examples = suites.training_examples(data, limit=limit, data_dir=data_dir)
    protected = protected if calibrates else []
    return _Asked(data, protect, chosen, examples, replay, protected, mix, after, finish)


def _tuned(
    model: str, out: Path, asked: _Asked, store: Store, processes: Processes
) -> dict[str, Any]:
    """One stage, what is done after it, and its run."""
    from lethe.models.checkpoint import resolve
    from lethe.models.fingerprint import FingerprintMemory
    from lethe.models.local import ModelPool
    from lethe.steps import Runtime
    from lethe.tuning import saving
    from lethe.tuning.finishing import tune_and_finish
    from lethe.tuning.mix import Lessons
    from lethe.tuning.stage import stored_result, tune
    from lethe.tuning.step import Tune

    started = time.time()
    memory = FingerprintMemory(store.root / "fingerprints.json")
    done: dict[str, Any] = {}
    with store.explained():
        if asked.finish:
            stage = Tune(
                resolve(model, memory),
                Lessons(asked.data, tuple(asked.examples)),
                asked.chosen,
                asked.replay,
                protect=tuple(asked.protected),
            )
            runtime = Runtime(store, ModelPool(), memory, ConsoleProgress())
            training, done = tune_and_finish(stage, out, runtime, **asked.finish)
            record = saving.read_record(training)
            assert record is not None
            result = stored_result(record, training)
        else:
            result = tune(
                model,
                asked.examples,
                settings=asked.chosen,
                out=out,
                partial=store.root / "partial" / "checkpoint",
                memory=memory,
                replay=asked.replay,
                progress=ConsoleProgress(),
                protect=asked.protected,
            )

    def kept() -> str:
        made = resolve(str(out), memory)
        run = _run_of(model, out, asked, result, made=made.fingerprint, started=started)
        run.save(store)
        return run.name

    return _facts(out, asked, result, done, processes.told(kept))


def _run_of(
    model: str, out: Path, asked: _Asked, result: "StageResult", *, made: str, started: float
) -> Run:
    """The run of a stage whose checkpoint has the fingerprint `made`."""
    chosen, replay, mix = asked.chosen, asked.replay, asked.mix
    return Run(
        name=run_name("tune", out.name, [result.key]),
        command="tune",
        settings={
            "model": model,
            "data": asked.data,
            "protect": list(asked.protect),
            "out": str(out),
            **chosen.model_dump(),
            "mix": {} if replay is None else {"replay": dict(mix.get("replay") or replay.settings)},
            "after": asked.after or {},
        },
        positions=(Position("tune", 1, chosen.update, None, chosen.seed, made, out.name),),
        suites=(),
        scores={},
        started=started,
        seconds=time.time() - started,
    )


def _facts(
    out: Path, asked: _Asked, result: "StageResult", done: Mapping[str, Any], run: str
) -> dict[str, Any]:
    """What to tell the user."""
    first, last = (result.loss[0][1], result.loss[-1][1]) if result.loss else (None, None)
    facts = {
        "wrote": str(out),
        "method": " + ".join([*asked.chosen.words, *_replayed_words(asked.replay)]),
        "cached": result.cached,
        "examples": result.examples,
        "left out": result.left_out,
        "steps": result.steps,
        "target tokens": result.target_tokens,
        "seconds": result.seconds,
        "first loss": first,
        "last loss": last,
        "KL from parent": result.divergence,
        **_kept(result.protection),
        **_forecasts(result.protection),
        "stopped": _stop(result.stopped),
        **{name: _counts(counts) for name, counts in result.taught.items()},
        **{name: _counts(facts) for name, facts in done.items()},
        "run": run,
    }
    return {name: value for name, value in facts.items() if value is not None}


def replayed(protected: "Sequence[Protected]") -> "Replay":
    """Rows of what is to be kept, of every source in turn, so that none outweighs another.

    Their own answers are learned, or the parent's, where a row has none.
    """
    from lethe.tuning.mix import Lessons, Replay

    most = max(len(source.examples) for source in protected)
    rows = [
        source.examples[number % len(source.examples)]
        for number in range(most)
        for source in protected
    ]
    answers = [
        one.reference or (one.choices[one.answer] if one.answer is not None else "") for one in rows
    ]
    taught = tuple(
        replace(one, id=f"{number}#{one.id}", reference=answer or None, choices=(), answer=None)
        for number, (one, answer) in enumerate(zip(rows, answers, strict=True))
    )
    name = " + ".join(source.name for source in protected)
    return Replay(Lessons(name, taught), SHARE, by_parent=not all(answers))


def _replayed_words(replay: "Replay | None") -> list[str]:
    if replay is None or not replay.share:
        return []
    return [f"replay {replay.share:g}{' by parent' if replay.by_parent else ''}"]


def _kept(protection: Mapping[str, Any] | None) -> dict[str, Any]:
    """The divergence on every protected source, where it has answers to measure it on."""
    sources = {} if protection is None else protection["sources"]
    return {f"KL on {Path(name).name}": found["divergence"] for name, found in sources.items()}


def _forecasts(protection: Mapping[str, Any] | None) -> dict[str, str]:
    """What every source was said to lose beside what plain LoRA would, and what happened."""
    return {
        f"forecast {Path(one['source']).name}": compared(
            Forecast(one["source"], one["exposure"], one["plain"], one["happened"])
        )
        for one in (protection or {}).get("forecasts", ())
    }


def mix_settings(mix: Any) -> dict[str, Any]:
    """What of the slot `mix` is a setting of the stage itself.

    Raises:
        InputError: a name that nobody knows.
    """

    known = ("replay", "distil", "mask")
    for name in mix if isinstance(mix, Mapping) else (str(mix),):
        if name not in known:
            raise InputError(f"unknown '{name}' in mix", todo=nearest(str(name), known))
    return {name: mix[name] for name in ("distil", "mask") if name in mix}


def _replay(mix: Any, data_dir: Path | None) -> Any:
    """The earlier data; of what the parent answers itself, only the prompts have to be there."""
    from lethe import suites
    from lethe.tuning.mix import Lessons, Replay

    mix_settings(mix)
    if "replay" not in mix:
        return None
    said = dict(mix["replay"]) if isinstance(mix["replay"], Mapping) else {}
    data, share = said.pop("data", None), said.pop("share", None)
    by_parent = said.pop("by_parent", False)
    words = said.pop("max_new_tokens", Replay.max_new_tokens)
    good = isinstance(data, str) and isinstance(share, int | float) and 0 <= share < 1
    if said or not good or not isinstance(words, int) or words < 1:
        raise InputError(
            f"mix.replay = {mix['replay']!r:.60}",
            where="lethe tune",
            todo="give data and share (0 to 1), and by_parent, max_new_tokens if wanted",
        )
    assert isinstance(data, str)
    if by_parent:
        examples = suites.load(data, split="train", data_dir=data_dir).examples
    else:
        examples = suites.training_examples(data, data_dir=data_dir)
    return Replay(Lessons(data, examples), float(share), bool(by_parent), words)


def _stop(stopped: Mapping[str, float] | None) -> str | None:
    if stopped is None:
        return None
    return (
        f"at step {stopped['at']:g}: KL {stopped['divergence']:.4f} is above the budget of "
        f"{stopped['budget']:g}; kept is step {stopped['kept']:g}, "
        f"KL {stopped['kept_divergence']:.4f}"
    )


def _counts(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in counts.items())
