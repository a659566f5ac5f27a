"""`lethe tune`: from names to examples and settings, through one stage, to a run."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lethe.progress import ConsoleProgress
from lethe.run import Position, Run, run_name
from lethe.store import Store


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
        protect: suites or files that the stage is not to disturb: their `protect` splits.
    """
    from lethe import suites
    from lethe.models.checkpoint import resolve
    from lethe.models.fingerprint import FingerprintMemory
    from lethe.models.local import ModelPool
    from lethe.steps import Runtime
    from lethe.tuning import saving, updates
    from lethe.tuning.combination import check_stage
    from lethe.tuning.finishing import read_finish, tune_and_finish
    from lethe.tuning.mix import Lessons
    from lethe.tuning.protect import Protected, check_protect
    from lethe.tuning.stage import read_settings, stored_result, tune
    from lethe.tuning.step import Tune

    said = dict(settings)
    mix, after = said.pop("mix", None) or {}, said.pop("after", None)
    replay = _replay(mix, data_dir)
    finish = read_finish(after) if after else {}
    chosen = read_settings({**said, **mix_settings(mix)}, where="lethe tune")
    check_protect(updates.find(chosen.update), protect, where="lethe tune")
    check_stage(chosen, replay)
    examples = suites.training_examples(data, limit=limit, data_dir=data_dir)
    protected = [
        Protected(spec, suites.load(spec, split="protect", data_dir=data_dir).examples)
        for spec in protect
    ]
    started = time.time()
    memory = FingerprintMemory(store.root / "fingerprints.json")
    done: dict[str, Any] = {}
    with store.explained():
        if finish:
            stage = Tune(
                resolve(model, memory),
                Lessons(data, examples),
                chosen,
                replay,
                protect=tuple(protected),
            )
            runtime = Runtime(store, ModelPool(), memory, ConsoleProgress())
            training, done = tune_and_finish(stage, out, runtime, **finish)
            record = saving.read_record(training)
            assert record is not None
            result = stored_result(record, training)
        else:
            result = tune(
                model,
                examples,
                settings=chosen,
                out=out,
                partial=store.root / "partial" / "checkpoint",
                memory=memory,
                replay=replay,
                progress=ConsoleProgress(),
                protect=protected,
            )
    made = resolve(str(out), memory)
    run = Run(
        name=run_name("tune", out.name, [result.key]),
        command="tune",
        settings={
            "model": model,
            "data": data,
            "protect": list(protect),
            "out": str(out),
            **chosen.model_dump(),
            "mix": {} if replay is None else {"replay": {**mix["replay"]}},
            "after": after or {},
        },
        positions=(
            Position("tune", 1, chosen.update, None, chosen.seed, made.fingerprint, out.name),
        ),
        suites=(),
        scores={},
        started=started,
        seconds=time.time() - started,
    )
    run.save(store)
    first, last = (result.loss[0][1], result.loss[-1][1]) if result.loss else (None, None)
    facts = {
        "wrote": str(out),
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
        "stopped": _stop(result.stopped),
        **{name: _counts(counts) for name, counts in result.taught.items()},
        **{name: _counts(facts) for name, facts in done.items()},
        "run": run.name,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _kept(protection: Mapping[str, Any] | None) -> dict[str, Any]:
    """The divergence on every protected source, where it has answers to measure it on."""
    sources = {} if protection is None else protection["sources"]
    return {f"KL on {Path(name).name}": found["divergence"] for name, found in sources.items()}


def mix_settings(mix: Any) -> dict[str, Any]:
    """What of the slot `mix` is a setting of the stage itself.

    Raises:
        InputError: a name that nobody knows.
    """
    from lethe.errors import InputError, nearest

    known = ("replay", "distil", "mask")
    for name in mix if isinstance(mix, Mapping) else (str(mix),):
        if name not in known:
            raise InputError(f"unknown '{name}' in mix", todo=nearest(str(name), known))
    return {name: mix[name] for name in ("distil", "mask") if name in mix}


def _replay(mix: Any, data_dir: Path | None) -> Any:
    """The earlier data; of what the parent answers itself, only the prompts have to be there."""
    from lethe import suites
    from lethe.errors import InputError
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
