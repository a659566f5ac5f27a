"""The slots of a stage: frozen layers, replay, going a part of the way; and exploding losses."""

import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from lethe.errors import InputError
from lethe.examples import Example
from lethe.models.checkpoint import Checkpoint, resolve
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.format import choose_format
from lethe.models.local import ModelPool, load_model
from lethe.progress import Progress
from lethe.steps import Runtime, run_step, step_key
from lethe.store import Store
from lethe.tuning import updates
from lethe.tuning.after import Interpolate
from lethe.tuning.methods import methods
from lethe.tuning.mix import Lessons, Replay, mixed_order
from lethe.tuning.rows import tokenise, training_order
from lethe.tuning.settings import read_settings
from lethe.tuning.stage import tune
from lethe.tuning.step import Tune, result_of
from tests.pico import pico_model, pico_tokenizer


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    memory = FingerprintMemory(tmp_path / "memory.json")
    return Runtime(Store(tmp_path / "store"), ModelPool(), memory, Progress())


def lessons(name: str = "new", count: int = 16) -> Lessons:
    rows = (Example(f"{name}{i}", f"{name} room {i}", reference="two nights") for i in range(count))
    return Lessons(name, tuple(rows))


def tuned(
    runtime: Runtime, parent: Checkpoint, replay: Replay | None = None, **settings: Any
) -> Checkpoint:
    """The checkpoint of a stage that was run."""
    defaults = {"max_steps": 3, "batch_size": 4, "held_out": 0, "learning_rate": 1e-2}
    step = Tune(parent, lessons(), read_settings({**defaults, **settings}), replay)
    run_step(step, runtime)
    return result_of(step, step_key(step), runtime.store.root, "tuned")


def facts(runtime: Runtime, made: Checkpoint) -> Any:
    found = runtime.store.get("checkpoint", made.fingerprint)
    assert found is not None
    return found.manifest["facts"]


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    with torch.inference_mode():
        return load_model(checkpoint)(input_ids=torch.tensor([[5, 9, 17, 33, 6]])).logits


# freeze


def test_frozen_layers_stay_and_all_others_move(runtime: Runtime, pico: Path) -> None:
    base = resolve(str(pico), runtime.memory)
    made = tuned(runtime, base, update="freeze", layers=1)
    before = load_file(pico / "model.safetensors")
    after = load_file(made.folder / "model.safetensors")
    for name in before:
        frozen = name == "model.embed_tokens.weight" or name.startswith("model.layers.0.")
        assert torch.equal(before[name], after[name]) == frozen, name
    assert after.keys() == before.keys()


def test_freezing_all_layers_is_refused(runtime: Runtime, pico: Path) -> None:
    base = resolve(str(pico), runtime.memory)
    with pytest.raises(InputError, match="2 layers, so with 2 frozen none would move; use at most"):
        tuned(runtime, base, update="freeze", layers=2)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
def test_the_lowest_layers_are_found(family: str) -> None:
    names = {"gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2}}
    model = pico_model(60, family=family, **names.get(family, {}))
    updates.find("freeze").prepare(model, layers=1)
    still = {
        name.split(".")[2]
        for name, weight in model.named_parameters()
        if not weight.requires_grad and name.split(".")[2].isdigit()
    }
    assert still == {"0"}


def test_updates_say_whether_they_leave_an_adapter() -> None:
    for update in updates.known():
        model = update.prepare(pico_model(60), **update.options(**small(update)).model_dump())
        assert hasattr(model, "peft_config") == update.adapter, update.name


def small(update: Any) -> dict[str, Any]:
    return {"layers": 1} if "layers" in update.options.model_fields else {}


# replay


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 200),
    st.floats(0, 0.99),
    st.integers(1, 9),
)
def test_replayed_rows_are_counted_exactly_and_spread_evenly(
    own: int, earlier: int, total: int, share: float, batch_size: int
) -> None:
    replayed = Replay(Lessons("r", ()), share).count(total)
    order = mixed_order([5] * own, [7] * earlier, total, replayed, batch_size=batch_size, seed=0)
    assert len(order) == total  # as many updates as without
    assert sum(row >= own for row in order) == replayed == min(round(share * total), total - 1)
    assert all(0 <= row < own + earlier for row in order)
    for end in range(batch_size, total, batch_size):
        assert abs(sum(row >= own for row in order[:end]) - replayed * end / total) < 1
    times = Counter(row for row in order if row >= own)
    assert not times or max(times.values()) - min(times.values()) <= 1 or len(times) < earlier
    plain = mixed_order([5] * own, [7] * earlier, total, 0, batch_size=batch_size, seed=0)
    assert plain == training_order([5] * own, total, batch_size=batch_size, seed=0)


def test_replay_changes_the_rows_and_not_the_updates(runtime: Runtime, pico: Path) -> None:
    base = resolve(str(pico), runtime.memory)
    plain = tuned(runtime, base, epochs=2.0, max_steps=None)
    mixed = tuned(runtime, base, Replay(lessons("old", 5), 0.25), epochs=2.0, max_steps=None)
    assert facts(runtime, plain)["steps"] == facts(runtime, mixed)["steps"] == 8
    assert facts(runtime, plain)["replayed"] == 0
    assert facts(runtime, mixed)["replayed"] == 8  # a quarter of 32 rows
    assert not torch.equal(logits(plain), logits(mixed))


def test_a_stages_key_sees_what_is_replayed(pico: Path, tmp_path: Path) -> None:
    base = resolve(str(pico), FingerprintMemory(tmp_path / "none"))
    settings = read_settings({"precision": "float32"})
    mixes = [
        None,
        Replay(lessons("old"), 0.1),
        Replay(lessons("old"), 0.2),
        Replay(lessons("older"), 0.1),
    ]
    keys = {step_key(Tune(base, lessons(), settings, mix)) for mix in mixes}
    assert len(keys) == 4


def test_a_stage_of_a_study_is_that_of_the_command(
    runtime: Runtime, pico: Path, tmp_path: Path
) -> None:
    base = resolve(str(pico), runtime.memory)
    made = tuned(runtime, base)
    settings = read_settings(
        {"max_steps": 3, "batch_size": 4, "held_out": 0, "learning_rate": 1e-2}
    )
    result = tune(
        str(pico),
        lessons().examples,
        settings=settings,
        out=tmp_path / "out",
        partial=tmp_path / "partial",
        memory=runtime.memory,
    )
    assert result.key == made.fingerprint
    name = "adapter_model.safetensors"
    assert (result.folder / name).read_bytes() == (made.folder / name).read_bytes()


# interpolate


@pytest.mark.parametrize("update", ["lora", "full"])
def test_both_ends_of_the_way_are_exact(runtime: Runtime, pico: Path, update: str) -> None:
    first = tuned(runtime, resolve(str(pico), runtime.memory))  # an adapter, as a parent is
    second = tuned(runtime, first, update=update, learning_rate=3e-3)
    found = {}
    for alpha in (0.0, 0.25, 1.0):
        step = Interpolate(first, second, alpha)
        run_step(step, runtime)
        made = result_of(step, step_key(step), runtime.store.root, "")
        assert resolve(made.spec, runtime.memory).fingerprint == made.fingerprint
        found[alpha] = made
    assert torch.equal(logits(found[0.0]), logits(first))
    assert torch.equal(logits(found[1.0]), logits(second))
    assert not torch.equal(logits(first), logits(second))
    start, part, end = (
        dict(load_model(at).named_parameters()) for at in (first, found[0.25], second)
    )
    for name, weight in part.items():
        torch.testing.assert_close(weight, 0.75 * start[name] + 0.25 * end[name], rtol=0, atol=1e-6)
    whole = (found[0.25].folder / "model.safetensors").is_file()
    assert whole == (update == "full")


# A loss that explodes


def test_the_last_good_state_is_kept(pico: Path, tmp_path: Path) -> None:
    settings = {"update": "full", "learning_rate": 8.0, "warmup": 0.9, "max_steps": 200}
    with pytest.raises(InputError, match=r"at step \d+; the last good state is kept in") as caught:
        tune(
            str(pico),
            lessons().examples,
            settings=read_settings({**settings, "batch_size": 4, "held_out": 0}),
            out=tmp_path / "out",
            partial=tmp_path / "partial",
            memory=FingerprintMemory(tmp_path / "memory.json"),
            save_every=0.0,
        )
    (kept,) = (tmp_path / "partial").glob("*/checkpoint-*")
    assert str(kept) in str(caught.value)
    at = int(str(caught.value).split("at step ")[1].split(";")[0])
    assert 0 < int(kept.name.split("-")[1]) < at
    shutil.copy(pico / "config.json", kept)
    tokenizer = pico_tokenizer()
    rows = tokenise(lessons().examples, tokenizer, choose_format(tokenizer), max_length=99)
    model = load_model(Checkpoint(str(kept), kept, ""))
    with torch.inference_mode():
        ids, labels = (torch.tensor([x]) for x in (rows[0].ids, rows[0].labels))
        loss = model(input_ids=ids, labels=labels).loss.item()
    assert loss < 2 * math.log(len(tokenizer))
    assert not (tmp_path / "out").exists()


# Methods


def test_every_method_says_where_it_is_from_what_it_costs_and_when_not_to_use_it() -> None:
    found = methods()
    assert [method.name for method in found] == ["freeze", "full", "lora", "replay", "interpolate"]
    for method in found:
        assert len(method.about) > 20, method.name
        assert min(len(method.paper), len(method.cost), len(method.not_for)) > 15, method.name
        assert "Args" not in method.not_for
        assert "Attributes" not in method.not_for
    by_name = {method.name: method for method in found}
    assert by_name["lora"].paper == "LoRA (Hu et al., arXiv 2106.09685)."
    assert by_name["freeze"].settings == {"learning_rate": 1e-5, "layers": 3}
