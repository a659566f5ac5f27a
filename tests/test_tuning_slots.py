"""The slots of a stage: what its data is made into, what is done after it, what is measured."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as drawing
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lethe.errors import InputError
from lethe.examples import Decoding, Example, Suite
from lethe.ledger import read_table
from lethe.measure import Measure
from lethe.models.checkpoint import Checkpoint, resolve
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.format import choose_format
from lethe.models.local import ModelPool, load_model
from lethe.progress import Progress
from lethe.steps import Runtime, run_step, step_key
from lethe.store import Store
from lethe.studies.estimate import estimate
from lethe.studies.executor import run_study
from lethe.studies.plan import build_plan, shortest_way
from lethe.studies.study import arms_of, make_study
from lethe.tuning import updates
from lethe.tuning.after import Interpolate
from lethe.tuning.assignments import read_assignments
from lethe.tuning.combination import check_adapter
from lethe.tuning.command import tune_command
from lethe.tuning.course import course_of
from lethe.tuning.curve import Curve
from lethe.tuning.distil import Distil, rewriting_context
from lethe.tuning.finishing import read_finish, tune_and_finish
from lethe.tuning.intruders import Intruders, ReduceIntruders
from lethe.tuning.methods import methods
from lethe.tuning.mix import Lessons, Replay, mixed_order
from lethe.tuning.rows import tokenise, training_order
from lethe.tuning.safelora import SafeLora
from lethe.tuning.settings import read_settings
from lethe.tuning.stage import tune
from lethe.tuning.step import Tune, result_of
from tests.pico import pico_model, pico_tokenizer
from tests.pico_study import WORDS, task_study, write_task


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
        if update.calibrated or update.finish is not None:
            continue  # test_protect tries these
        model = update.prepare(pico_model(60), **update.options(**small(update)).model_dump())
        assert hasattr(model, "peft_config") == update.adapter, update.name


def small(update: Any) -> dict[str, Any]:
    return {"layers": 1} if "layers" in update.options.model_fields else {}


# replay


@drawing(deadline=None, suppress_health_check=[HealthCheck.too_slow])
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


# What the parent says of the data


@pytest.fixture
def base(runtime: Runtime, pico: Path) -> Checkpoint:
    return resolve(str(pico), runtime.memory)


def told(made: Checkpoint) -> Any:
    return json.loads((made.folder / "taught.json").read_text())


def test_the_parent_answers_the_prompts_it_replays(runtime: Runtime, base: Checkpoint) -> None:
    """Prompts without answers; what is learned is what `generate` says, the end only where it ended
    by itself."""
    prompts = tuple(Example(f"p{i}", f"old {WORDS[i]}") for i in range(6))
    replay = Replay(Lessons("old", prompts), 0.25, by_parent=True, max_new_tokens=5)
    made = tuned(runtime, base, replay, max_steps=4)
    found = told(made)["replayed"]
    assert len(found) == 4  # a quarter of 16 rows: no more prompts than are needed
    model, tokenizer = load_model(base), pico_tokenizer()
    form = choose_format(tokenizer)
    by_hand = []
    for example in prompts:
        ids = tokenizer(form.context(example.prompt), return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            said = model.generate(**ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
        by_hand.append(
            tokenizer.decode(said[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        )
    assert {text for text, _ in found} <= set(by_hand)
    assert facts(runtime, made)["taught"]["replayed"]["prompts"] == 4
    assert facts(runtime, made)["replayed"] == 4
    # Other answers of the data change nothing, other prompts do.
    answered = tuple(replace(example, reference="x") for example in prompts)
    settings = read_settings({})

    def key(rows: tuple[Example, ...], **changes: Any) -> str:
        mixed = replace(replay, earlier=Lessons("old", rows), **changes)
        return step_key(Tune(base, lessons(), settings, mixed))

    assert key(prompts) == key(answered) != key(prompts[1:])
    assert key(prompts) != key(prompts, max_new_tokens=6)
    assert key(answered) != key(answered, by_parent=False)


def test_an_answer_that_did_not_end_is_learned_without_an_end(pico: Path, tmp_path: Path) -> None:
    tokenizer, parent = pico_tokenizer(), load_model(Checkpoint(str(pico), pico, ""))
    settings = read_settings({"max_steps": 2, "batch_size": 4, "held_out": 0})
    examples = lessons("old", 4).examples
    replay = Replay(Lessons("old", examples), 0.5, by_parent=True, max_new_tokens=6)
    notes = {"replayed": [["two nights", True], ["red boat", False], ["", True], None]}
    (tmp_path / "taught.json").write_text(json.dumps(notes))
    course = course_of(
        lessons().examples,
        settings,
        replay,
        parent=parent,
        tokenizer=tokenizer,
        folder=tmp_path,
        progress=Progress(),
    )
    ended, cut = course.rows[course.own :]
    assert ended.ids[-1] == tokenizer.eos_token_id
    assert cut.ids[-1] != tokenizer.eos_token_id
    assert tokenizer.decode(cut.ids[-cut.targets :]) == "red boat"
    assert course.taught["replayed"] == {"prompts": 4, "answered": 2, "unfinished": 1}


@pytest.mark.parametrize(
    ("given", "rewriting", "passes"),
    [
        ("two nights", "It is two nights.", True),
        ("two nights", "Two, I think, nights", False),  # not one after another
        ("two nights", "three nights", False),
        ("1,000", "That makes 1000 in all", True),
        ("yes", "", False),
        ("the guest asks for a room with two beds", "a guest asks: room, two beds", True),
        ("the guest asks for a room with two beds", "the boat", False),
    ],
)
def test_a_rewriting_must_still_hold_what_is_right(
    given: str, rewriting: str, passes: bool
) -> None:
    assert Distil().passes(rewriting, given) == passes
    assert not Distil(exact_words=0, recall=1.0).passes("guest room", "guest and room")


def test_rewritten_answers_are_learned_and_the_others_stay(pico: Path, tmp_path: Path) -> None:
    tokenizer, parent = pico_tokenizer(), load_model(Checkpoint(str(pico), pico, ""))
    settings = read_settings({"distil": True, "max_steps": 1, "batch_size": 4, "held_out": 0})
    notes = {
        "distilled": [
            ["I want two nights", True],  # kept
            ["two nights and", False],  # did not end
            ["three nights", True],  # wrong
            None,  # no room
        ]
    }
    (tmp_path / "taught.json").write_text(json.dumps(notes))
    course = course_of(
        lessons(count=4).examples,
        settings,
        None,
        parent=parent,
        tokenizer=tokenizer,
        folder=tmp_path,
        progress=Progress(),
    )
    texts = [tokenizer.decode(row.ids[-row.targets : -1]) for row in course.rows]
    assert texts == ["I want two nights", "two nights", "two nights", "two nights"]
    counts = {"examples": 4, "rewritten": 1, "unfinished": 1, "wrong": 1, "no_room": 1}
    assert course.taught["distilled"] == counts


def test_the_parent_is_shown_the_given_answer(runtime: Runtime, base: Checkpoint) -> None:
    """End to end: the request holds task, question and answer, and held-out rows are not asked."""
    form = choose_format(pico_tokenizer())
    example = lessons(count=1).examples[0]
    text = rewriting_context(example, form)
    assert (
        text.index("write your own response") < text.index("new room 0") < text.index("two nights")
    )
    made = tuned(runtime, base, distil={"max_new_tokens": 4}, max_steps=1)
    assert len(told(made)["distilled"]) == 16
    assert facts(runtime, made)["taught"]["distilled"]["examples"] == 16


def test_improbable_targets_are_read_and_not_learned(pico: Path, tmp_path: Path) -> None:
    tokenizer, parent = pico_tokenizer(), load_model(Checkpoint(str(pico), pico, ""))
    rows = tokenise(lessons(count=12).examples, tokenizer, choose_format(tokenizer), max_length=99)
    probabilities = []
    with torch.inference_mode():
        for row in rows:
            logits = parent(input_ids=torch.tensor([row.ids])).logits[0].softmax(-1)
            start = len(row.ids) - row.targets
            each = [logits[at - 1, row.ids[at]].item() for at in range(start, len(row.ids))]
            probabilities.append(each)
    middle = sorted(p for each in probabilities for p in each[:-1])[len(rows) // 2]
    settings = read_settings(
        {"mask": {"perplexity": 1 / middle}, "max_steps": 1, "batch_size": 4, "held_out": 0}
    )
    course = course_of(
        lessons(count=12).examples,
        settings,
        None,
        parent=parent,
        tokenizer=tokenizer,
        folder=tmp_path,
        progress=Progress(),
    )
    assert 0 < course.taught["masked"]["masked"] < course.taught["masked"]["targets"]
    for row, labels, each in zip(course.rows, course.labels, probabilities, strict=True):
        start = len(row.ids) - row.targets
        for at, probability in enumerate(each):
            learned = labels[start + at] != -100
            if at == row.targets - 1:
                assert learned  # the end of an answer always is
            elif abs(probability - middle) > 1e-6:
                assert learned == (probability > middle)
    tokens, learned = course.tokens(4)
    assert learned < sum(course.rows[at].targets for at in course.order[:4]) < tokens


def test_a_mask_over_everything_is_refused(pico: Path, tmp_path: Path) -> None:
    tokenizer = pico_tokenizer(chat=False)
    tokenizer.eos_token = None  # the end of an answer is never masked
    settings = {"mask": 1.0000001, "max_steps": 1, "batch_size": 4, "held_out": 0}
    with pytest.raises(InputError, match=r"finds all \d+ target tokens improbable"):
        course_of(
            lessons(count=4).examples,
            read_settings(settings),
            None,
            parent=load_model(Checkpoint(str(pico), pico, "")),
            tokenizer=tokenizer,
            folder=tmp_path,
            progress=Progress(),
        )


# Everything together


def test_slots_combine_freely(runtime: Runtime, base: Checkpoint) -> None:
    prompts = tuple(Example(f"p{i}", f"old {WORDS[i]}") for i in range(6))
    replay = Replay(Lessons("old", prompts), 0.25, by_parent=True, max_new_tokens=4)
    made = tuned(
        runtime,
        base,
        replay,
        anchor={"kl": {"on": "replay", "weight": 2.0}},
        distil={"max_new_tokens": 4},
        mask=1e5,
        kl_budget=100.0,
        held_out=1,
        gradient_accumulation=2,
        batch_size=2,
    )
    said = facts(runtime, made)
    assert said["taught"].keys() == {"replayed", "distilled", "masked"}
    assert said["pull"] > 0
    assert said["divergences"][-1][1] == pytest.approx(said["divergence"], rel=1e-4)
    words = read_settings({"anchor": "kl", "mask": 3, "distil": True, "kl_budget": 0.5}).words
    assert words == ["lora", "kl 0.1", "budget 0.5", "distil", "mask 3"]


# After a stage


def shifted(folder: Path, to: Path, *, seed: int, scale: float = 0.3) -> Path:
    """A model near another one."""
    shutil.copytree(folder, to)
    weights = load_file(to / "model.safetensors")
    torch.manual_seed(seed)
    moved = {name: w + scale * torch.randn_like(w) for name, w in weights.items()}
    save_file(moved, to / "model.safetensors", metadata={"format": "pt"})
    return to


@pytest.mark.parametrize("update", ["lora", "full"])
@pytest.mark.parametrize("threshold", [-1.0, 1.0])
def test_safelora_is_the_authors_projection(
    runtime: Runtime, base: Checkpoint, pico: Path, tmp_path: Path, update: str, threshold: float
) -> None:
    raw = resolve(str(shifted(pico, tmp_path / "raw", seed=3)), runtime.memory)
    stage = tuned(runtime, base, update=update, learning_rate=3e-3)
    step = SafeLora(base, stage, raw, base, threshold)
    run_step(step, runtime)
    made = result_of(step, step_key(step), runtime.store.root, "")
    assert resolve(made.spec, runtime.memory).fingerprint == made.fingerprint
    start, before, after = (dict(load_model(at).named_parameters()) for at in (base, stage, made))
    away = dict(load_model(raw).named_parameters())
    moved = 0
    for name, weight in after.items():
        update_ = before[name] - start[name]
        expected = update_
        if "_proj" in name and threshold == 1.0:
            v = (start[name] - away[name]).detach()
            expected = v @ v.T / v.norm() @ update_
            moved += 1
        torch.testing.assert_close(weight - start[name], expected, rtol=1e-3, atol=2e-6)
    assert facts(runtime, made)["projected"] == moved
    assert facts(runtime, made)["layers"] == 14


def test_safelora_needs_two_models_of_one_kind(
    runtime: Runtime, base: Checkpoint, tmp_path: Path
) -> None:
    stage = tuned(runtime, base)
    with pytest.raises(InputError, match="same weights as the aligned model"):
        run_step(SafeLora(base, stage, base, base), runtime)
    tokenizer = pico_tokenizer()
    other = tmp_path / "other"
    pico_model(len(tokenizer), hidden_size=16).save_pretrained(other)
    tokenizer.save_pretrained(other)
    with pytest.raises(InputError, match="has no like in the aligned model"):
        run_step(SafeLora(base, stage, resolve(str(other), runtime.memory), base), runtime)


def test_intruders_are_taken_away_as_peft_does_it(runtime: Runtime, base: Checkpoint) -> None:
    """A huge update intrudes; by how much, from the definition: (λ − 1) of the intruding directions
    of W + ΔW, brought back to the adapter's rank."""
    stage = tuned(runtime, base, learning_rate=0.5, max_steps=6, rank=2, alpha=4)
    chosen = Intruders(top_k=2, threshold=0.9, strength=0.5)
    step = ReduceIntruders(base, stage, chosen)
    run_step(step, runtime)
    made = result_of(step, step_key(step), runtime.store.root, "")
    assert resolve(made.spec, runtime.memory).fingerprint == made.fingerprint
    start, before, after = (dict(load_model(at).named_parameters()) for at in (base, stage, made))
    counted = 0
    for name, weight in after.items():
        if "_proj" not in name:
            assert torch.equal(weight, before[name])
            continue
        with torch.no_grad():
            u0 = torch.linalg.svd(start[name], full_matrices=False)[0]
            u, s, v = torch.linalg.svd(before[name], full_matrices=False)
            far = [k for k in range(2) if (u[:, k] @ u0).abs().max() < 0.9]
            counted += len(far)
            kept = before[name] - start[name]
            for k in far:
                kept = kept - 0.5 * s[k] * torch.outer(u[:, k], v[k])
            u, s, v = torch.linalg.svd(kept, full_matrices=False)
            kept = u[:, :2] * s[:2] @ v[:2]
        torch.testing.assert_close(weight - start[name], kept, rtol=1e-3, atol=1e-3)
    assert facts(runtime, made)["intruders"] == counted > 0


def test_intruders_of_a_whole_model_are_refused() -> None:
    with pytest.raises(InputError, match="intruders of a stage with update full"):
        check_adapter(read_settings({"update": "full"}), "intruders")


def test_one_stage_and_what_comes_after_it(
    runtime: Runtime, base: Checkpoint, pico: Path, tmp_path: Path
) -> None:
    raw = shifted(pico, tmp_path / "raw", seed=3)
    after = read_finish(
        {"intruders": {"top_k": 3}, "safelora": {"unaligned": str(raw)}, "interpolate": 0.5}
    )
    settings = read_settings({"max_steps": 2, "batch_size": 4, "held_out": 0, "rank": 2})
    step = Tune(base, lessons(), settings)
    out = tmp_path / "out"
    _, said = tune_and_finish(step, out, runtime, **after)
    assert list(said) == ["intruders", "safelora", "interpolate"]
    made = resolve(str(out), runtime.memory)
    assert made.base == base
    found = list((runtime.store.root / "objects" / "checkpoint").iterdir())
    assert len(found) == 4
    last = next(
        at for at in found if "alpha" in json.loads((at / "manifest.json").read_text())["facts"]
    )
    assert torch.equal(logits(made), logits(resolve(str(last), runtime.memory)))
    tune_and_finish(step, out, runtime, **after)  # again: nothing to do
    with pytest.raises(InputError, match="holds another stage"):
        tune_and_finish(step, out, runtime, interpolate=0.25)
    with pytest.raises(InputError, match="several values"):
        read_finish({"interpolate": [0.5, 1]})
    with pytest.raises(InputError, match="unknown setting 'unalinged' of safelora"):
        read_finish({"safelora": {"unalinged": "x"}})


# Measured while it trains


@pytest.mark.parametrize("update", ["lora", "full"])
def test_being_measured_does_not_change_a_training(
    runtime: Runtime, pico: Path, tmp_path: Path, update: str
) -> None:
    """Options, generated answers; bits of the weights as without, and the last table as the
    finished checkpoint's."""
    base = resolve(str(pico), runtime.memory)
    suites = measured()
    settings = read_settings(
        {"update": update, "max_steps": 5, "batch_size": 4, "held_out": 1, "learning_rate": 1e-2}
    )
    step = Tune(base, lessons(), settings)
    alone = Runtime(Store(tmp_path / "alone"), ModelPool(), runtime.memory, Progress())
    run_step(step, alone)
    form = choose_format(pico_tokenizer())
    curve = Curve(step, 2, suites, form)
    stored, _ = run_step(curve, runtime)
    found = json.loads((stored.folder / "curve.json").read_text())
    assert [(one["suite"], one["step"]) for one in found] == [
        (suite.name, at) for suite in suites for at in (2, 4, 5)
    ]
    name = "model.safetensors" if update == "full" else "adapter_model.safetensors"
    there, here = (
        result_of(step, step_key(step), store.root, "") for store in (alone.store, runtime.store)
    )
    assert (there.folder / name).read_bytes() == (here.folder / name).read_bytes()
    for number, suite in enumerate(suites):
        run_step(Measure(here, suite, form), runtime)
        table = runtime.store.get("scores", step_key(Measure(here, suite, form)))
        assert table is not None
        last = read_table(stored.folder / f"suite-{number}" / "000005.parquet")[0]
        whole = read_table(table.folder / "scores.parquet")[0]
        assert last["example"].to_pylist() == whole["example"].to_pylist()
        assert last["response"].to_pylist() == whole["response"].to_pylist()
        for mine, theirs in zip(
            last["option_logprobs"].to_pylist(), whole["option_logprobs"].to_pylist(), strict=True
        ):
            assert mine == pytest.approx(theirs, abs=1e-4)
    early = read_table(stored.folder / "suite-0" / "000002.parquet")[0]["option_logprobs"]
    last_ = read_table(stored.folder / "suite-0" / "000005.parquet")[0]["option_logprobs"]
    assert early.to_pylist() != last_.to_pylist()


def test_a_stage_that_is_there_is_trained_again_for_its_curve(
    runtime: Runtime, base: Checkpoint
) -> None:
    settings = read_settings({"max_steps": 4, "batch_size": 4, "held_out": 0})
    step = Tune(base, lessons(), settings)
    run_step(step, runtime)
    suites, form = measured()[:1], choose_format(pico_tokenizer())
    stored, _ = run_step(Curve(step, 2, suites, form), runtime)
    said = stored.manifest["facts"]
    assert said["again"]
    assert said["same_weights"]
    assert {path.name for path in stored.folder.iterdir()} == {
        "curve.json",
        "manifest.json",
        "suite-0",
    }
    keys = {
        step_key(Curve(step, 2, suites, form)),
        step_key(Curve(step, 3, suites, form)),
        step_key(Curve(step, 2, measured(), form)),
        step_key(step),
    }
    assert len(keys) == 4


def measured() -> tuple[Suite, ...]:
    """One suite of options, one of generated answers."""
    asked = tuple(
        Example(f"q{i}", f"{WORDS[i]} room", choices=("yes", "no"), answer=i % 2) for i in range(5)
    )
    answers = tuple(Example(f"a{i}", f"new room {i}", references=("two nights",)) for i in range(3))
    short = Decoding(max_new_tokens=4)
    return (
        Suite("options", "knowledge", "choice", asked),
        Suite("answers", "proficiency", "match", answers, decoding=short),
    )


# In a study


def study_content(folder: Path, pico: Path, **stage: Any) -> dict[str, Any]:
    content = task_study(folder, pico, ["inn", "boat"])
    content["stages"]["boat"] |= stage
    return content


def planned(folder: Path, content: dict[str, Any]) -> Any:
    memory = FingerprintMemory(folder / "memory.json")
    return build_plan(make_study(content), Store(folder / "store"), memory)


def test_a_study_says_slots_and_grids_of_them(tmp_path: Path, pico: Path) -> None:
    content = study_content(
        tmp_path,
        pico,
        anchor=["none", {"kl": {"weight": [0.1, 1], "first_tokens": 3}}],
        mix={"mask": [2.5, "none"], "replay": {"data": str(tmp_path / "inn.jsonl"), "share": 0.5}},
        after={"intruders": ["none", {"top_k": 2}]},
    )
    content["suites"] = [str(tmp_path / "boat.jsonl")]
    arms = arms_of(make_study(content), "boat")
    assert len(arms) == 3 * 2 * 2
    assert len({arm.label for arm in arms}) == 12
    assert len({arm.method for arm in arms}) == 12
    assert arms[-1].label == "boat[anchor=kl(weight 1 first_tokens 3),mask=none,intruders=top_k 2]"
    assert arms[-1].method == "lora + kl 1 + replay 0.5 + intruders"
    kinds = Counter(node.step.kind for node in planned(tmp_path, content).nodes.values())
    assert kinds["tune"] == 1 + 6
    assert kinds["intruders"] == 6


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"anchor": {"kl": {"on": "replay"}}}, "stages.boat: an anchor on replay"),
        ({"anchor": "kll"}, "stages.boat: no anchor 'kll'; did you mean 'kl'"),
        ({"mix": {"masks": 3}}, "stages.boat.mix.masks: unknown key 'masks'; did you mean 'mask'"),
        ({"after": {"safelora": {}}}, "no unaligned"),
        ({"after": {"intruder": {}}}, "did you mean 'intruders'"),
        ({"after": {"intruders": {}}, "update": "full"}, "intruders of a stage with update full"),
        ({"after": {"interpolate": {"choose": [0.5]}}}, "choose"),
        ({"after": {"interpolate": {"chose": [0.5, 1]}}}, "did you mean 'choose'"),
        ({"measure": {"every": 0, "suites": ["arc"]}}, "measure.every: found 0"),
        ({"measure": {"evry": 2}}, "did you mean 'every'"),
        ({"kl_budget": 0.1}, "a KL budget without held-out rows"),
    ],
)
def test_what_cannot_be_in_a_study_is_refused(
    tmp_path: Path, pico: Path, stage: dict[str, Any], message: str
) -> None:
    content = study_content(tmp_path, pico, **{"rank": 2, **stage})
    if stage.get("update") == "full":
        del content["stages"]["boat"]["rank"]
    with pytest.raises(InputError, match=message) as caught:
        make_study(content)
    assert "\n" not in str(caught.value)


def test_replayed_prompts_that_are_measured_are_refused(tmp_path: Path, pico: Path) -> None:
    data = {"suite": str(tmp_path / "inn.jsonl"), "split": "test"}
    replay = {"data": data, "share": 0.5, "by_parent": True}
    with pytest.raises(InputError, match="replayed rows are also measured"):
        planned(tmp_path, study_content(tmp_path, pico, mix={"replay": replay}))


def test_a_study_measures_while_it_trains_and_chooses_how_far_to_go(
    tmp_path: Path, pico: Path
) -> None:
    dev = str(tmp_path / "boat.jsonl")
    content = study_content(
        tmp_path,
        pico,
        learning_rate=0.05,
        max_steps=4,
        measure={"every": 2, "suites": [dev]},
        after={"interpolate": {"choose": [0, 0.5, 1], "within": 0.01}},
    )
    content["chains"] = {"boat": ["boat"]}
    study, store = make_study(content), Store(tmp_path / "store")
    plan = build_plan(study, store, FingerprintMemory(tmp_path / "memory.json"))
    assert estimate(plan, store, FingerprintMemory(tmp_path / "memory.json")).tokens > 0
    result = run_study(study, store)
    assert not result.failed
    (choice,) = result.run.settings["choices"]
    scores = {float(alpha): score for alpha, (score, _) in choice["scores"].items()}
    best = max(scores.values())
    assert choice["rate"] == min(alpha for alpha, one in scores.items() if one >= best - 0.01)
    last = [place for place in result.run.positions if place.position == 1]
    assert last[0].method == f"lora + interpolate {choice['rate']:g}"
    curves = [one for one in store.objects() if one.kind == "curve"]
    assert len(curves) == 1
    again = run_study(study, store)
    assert again.done == 0


@pytest.mark.parametrize(
    ("scores", "within", "best"),
    [
        ({0.25: 0.5, 0.5: 0.8, 1.0: 0.81}, 0.0, 1.0),
        ({0.25: 0.5, 0.5: 0.8, 1.0: 0.81}, 0.02, 0.5),
        ({0.25: 0.8, 0.5: 0.8, 1.0: 0.8}, 0.0, 0.25),
        ({0.25: math.nan, 0.5: 0.1}, 0.5, 0.5),
    ],
)
def test_the_shortest_way_that_is_good_enough(
    scores: dict[float, float], within: float, best: float
) -> None:
    assert shortest_way({alpha: (one, None) for alpha, one in scores.items()}, within) == best


# As `lethe tune` reads them


def test_assignments_are_nested_by_their_dots() -> None:
    pairs = ["anchor.kl.weight=1e-2", "mix.mask=3", "kl_budget=0.1", "mix.replay.by_parent=true"]
    assert read_assignments(pairs) == {
        "anchor": {"kl": {"weight": 0.01}},
        "mix": {"mask": 3, "replay": {"by_parent": True}},
        "kl_budget": 0.1,
    }
    for bad in (["x"], ["=1"], ["a..b=1"], ["a=1", "a=2"], ["a=1", "a.b=2"], ["a=[1"]):
        with pytest.raises(InputError, match="--set"):
            read_assignments(bad)


def test_the_command_takes_every_slot(tmp_path: Path, pico: Path) -> None:
    task = write_task(tmp_path, "inn", splits=["train"])
    settings = {
        "rank": 2,
        "max_steps": 3,
        "batch_size": 4,
        "held_out": 1,
        "anchor": {"kl": {"weight": 0.5, "on": "replay"}},
        "mix": {"replay": {"data": task, "share": 0.25, "by_parent": True, "max_new_tokens": 4}},
        "after": {"interpolate": 0.5},
    }
    store, named = Store(tmp_path / "store"), {"limit": None, "data_dir": None}
    said = tune_command(str(pico), task, tmp_path / "out", settings, store=store, **named)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert "prompts 3" in said["replayed"]
    assert "alpha 0.5" in said["interpolate"]
    plain = {**settings, "after": None}
    tune_command(str(pico), task, tmp_path / "plain", plain, store=store, **named)
    whole, half = (
        load_file(tmp_path / at / "adapter_model.safetensors") for at in ("plain", "out")
    )
    for name, tensor in whole.items():
        factor = 0.5 if "lora_B" in name else 1.0
        assert torch.equal(half[name], factor * tensor)
    with pytest.raises(InputError, match="unknown 'masc' in mix"):
        tune_command(str(pico), task, tmp_path / "x", {"mix": {"masc": 1}}, store=store, **named)


# Methods


def test_every_method_says_where_it_is_from_what_it_costs_and_when_not_to_use_it() -> None:
    found = methods()
    names = [(method.slot, method.name) for method in found]
    assert [name for slot, name in names if slot == "update"] == [
        one.name for one in updates.known()
    ]
    assert [name for name in names if name[0] != "update"] == [
        ("anchor", "kl"),
        ("anchor", "l2"),
        ("mix", "replay"),
        ("mix", "distil"),
        ("mix", "mask"),
        ("after", "interpolate"),
        ("after", "intruders"),
        ("after", "safelora"),
    ]
    for method in found:
        assert len(method.about) > 20, method.name
        assert min(len(method.paper), len(method.cost), len(method.not_for)) > 15, method.name
        assert "Args" not in method.not_for
        assert "Attributes" not in method.not_for
    by_name = {method.name: method for method in found}
    assert by_name["lora"].paper == "LoRA (Hu et al., arXiv 2106.09685)."
    assert by_name["freeze"].settings == {"learning_rate": 1e-5, "layers": 3}
