"""What holds a stage near its parent, and what is read while it trains, on pico models."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from lethe.errors import InputError
from lethe.examples import Example
from lethe.models.checkpoint import Checkpoint
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.format import choose_format
from lethe.models.local import load_model
from lethe.tuning import updates
from lethe.tuning.aside import adapter_off
from lethe.tuning.budget import reading_steps, readings_worth
from lethe.tuning.divergence import HeldOut
from lethe.tuning.mix import Lessons, Replay
from lethe.tuning.penalty import L2Penalty
from lethe.tuning.rows import TuningRow, tokenise
from lethe.tuning.settings import read_settings
from lethe.tuning.stage import StageResult, tune
from tests.pico import pico_model, pico_tokenizer

WORDS = ("inn", "room", "night", "guest", "price", "red boat", "hotel", "late", "two", "no")


def examples(count: int = 16, name: str = "new") -> list[Example]:
    return [
        Example(
            id=f"{name}{i}",
            prompt=f"{name} {' '.join(WORDS[(i * k) % 10] for k in range(1, 2 + i % 5))}",
            reference=" ".join(WORDS[(i + k) % 10] for k in range(1 + i % 4)),
        )
        for i in range(count)
    ]


@pytest.fixture
def stage(tmp_path: Path, pico: Path) -> Any:
    taken = iter(range(99))

    def call(rows: list[Example] | None = None, **settings: Any) -> StageResult:
        runs = {
            name: settings.pop(name) for name in ("replay", "save_every", "out") if name in settings
        }
        defaults = {"batch_size": 4, "max_steps": 3, "held_out": 0, "learning_rate": 1e-2}
        return tune(
            str(pico),
            examples() if rows is None else rows,
            settings=read_settings({**defaults, **settings}),
            out=runs.pop("out", tmp_path / f"out{next(taken)}"),
            partial=tmp_path / "partial",
            memory=FingerprintMemory(tmp_path / "memory.json"),
            **runs,
        )

    return call


def adapter(result: StageResult) -> dict[str, torch.Tensor]:
    return load_file(result.folder / "adapter_model.safetensors")


def rows_of(rows: list[Example]) -> list[TuningRow]:
    tokenizer = pico_tokenizer()
    return tokenise(rows, tokenizer, choose_format(tokenizer), max_length=256)


def logits_of(model: Any, row: TuningRow) -> torch.Tensor:
    """Logits at the targets, from the whole sequence's."""
    found: torch.Tensor = model(input_ids=torch.tensor([row.ids])).logits[0]
    return found[len(row.ids) - row.targets - 1 : -1]


def kl_of(parent: Any, tuned: Any, rows: list[TuningRow]) -> float:
    with torch.no_grad():
        parts = [
            kl_div(
                log_softmax(logits_of(tuned, row), -1),
                log_softmax(logits_of(parent, row), -1),
                reduction="none",
                log_target=True,
            ).sum(-1)
            for row in rows
        ]
    return float(torch.cat(parts).mean())


# The loss


@pytest.mark.parametrize("update", ["lora", "full"])
def test_a_kl_anchor_is_the_textbook_loss(stage: Any, pico: Path, update: str) -> None:
    """Two steps by hand: cross-entropy and β·w·KL(parent‖current), over the tokens of the step."""
    rows = examples(4)
    settings = {"first_tokens": 2, "first_weight": 3.0, "weight": 0.7}
    with_anchor = stage(
        rows,
        update=update,
        anchor={"kl": settings},
        max_steps=2,
        gradient_accumulation=2,
        batch_size=2,
        warmup=0.0,
    )
    parent, model = load_model(plain(pico)), load_model(plain(pico))
    torch.manual_seed(0)  # an adapter's first values
    options = {} if update == "full" else {"rank": 16, "alpha": 32, "target_modules": "all-linear"}
    model = updates.find(update).prepare(model, **options)
    model.train()
    optimiser = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-2)
    for weight in optimiser.param_groups:
        weight["weight_decay"] = 0.0
    losses, pulls = [], []
    for step in range(2):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * (1 - step / 2)
        entropy, pull, count = torch.zeros(()), torch.zeros(()), 0
        for row in rows_of(rows):
            logits = logits_of(model, row)
            targets = torch.tensor(row.ids[-row.targets :])
            entropy = entropy + cross_entropy(logits, targets, reduction="sum")
            with torch.no_grad():
                before = log_softmax(logits_of(parent, row), -1)
            weights = torch.tensor([3.0] * min(2, row.targets) + [1.0] * max(0, row.targets - 2))
            each = (before.exp() * (before - log_softmax(logits, -1))).sum(-1)
            pull = pull + 0.7 * (weights * each).sum()
            count += row.targets
        loss = (entropy + pull) / count
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(entropy.item() / count)
        pulls.append(pull.item() / count)
    assert [loss for _, loss in with_anchor.loss] == pytest.approx(losses, abs=2e-5)
    assert with_anchor.pull == pytest.approx(sum(pulls) / 2, abs=2e-5)
    assert pulls[0] == pytest.approx(0, abs=1e-6)
    assert pulls[1] > 1e-3
    kept = dict(load_model(made(with_anchor, pico)).named_parameters())
    by_hand = model.merge_and_unload() if update == "lora" else model
    for name, weight in by_hand.named_parameters():
        torch.testing.assert_close(kept[name], weight.detach(), rtol=0, atol=5e-4)


def plain(folder: Path) -> Checkpoint:
    return Checkpoint(str(folder), folder, "")


def made(result: StageResult, base: Path) -> Checkpoint:
    whole = (result.folder / "model.safetensors").is_file()
    return Checkpoint(str(result.folder), result.folder, "", None if whole else plain(base))


@pytest.mark.parametrize("update", ["lora", "full", "freeze"])
@pytest.mark.parametrize("anchor", [{"kl": {"weight": 20.0}}, {"l2": {"weight": 3.0}}])
def test_an_anchored_stage_stays_nearer(
    stage: Any, pico: Path, update: str, anchor: dict[str, Any]
) -> None:
    named = {"layers": 1} if update == "freeze" else {}
    settings = {"update": update, "max_steps": 12, "learning_rate": 3e-3, "held_out": 3, **named}
    free, held = stage(examples(40), **settings), stage(examples(40), anchor=anchor, **settings)
    assert held.divergence < 0.7 * free.divergence
    assert held.loss[-1][1] < held.loss[0][1]  # and still learns
    assert held.pull > 0
    assert free.pull is None


def test_a_pull_of_next_to_nothing_changes_next_to_nothing(stage: Any) -> None:
    free, held = stage(), stage(anchor={"kl": {"weight": 1e-12}})
    for name, tensor in adapter(free).items():
        torch.testing.assert_close(adapter(held)[name], tensor, rtol=0, atol=1e-6)


def test_first_tokens_weigh_more(stage: Any) -> None:
    """With the whole weight on the first token, the first token stays nearest."""
    rows = [
        Example(f"e{i}", f"{WORDS[i % 10]} {i}", reference="red boat late two") for i in range(24)
    ]
    settings = {"max_steps": 15, "learning_rate": 1e-2, "batch_size": 8, "update": "lora"}
    moved = {}
    for first in (1.0, 50.0):
        anchor = {"kl": {"weight": 0.5, "first_tokens": 1, "first_weight": first}}
        result = stage(rows, anchor=anchor, **settings)
        folder = Path(
            json.loads((result.folder / "adapter_config.json").read_text())[
                "base_model_name_or_path"
            ]
        )
        parent, tuned = load_model(plain(folder)), load_model(made(result, folder))
        with torch.no_grad():
            pairs = [(logits_of(parent, r), logits_of(tuned, r)) for r in rows_of(rows)]
        each = torch.stack(
            [
                (log_softmax(a, -1).exp() * (log_softmax(a, -1) - log_softmax(b, -1))).sum(-1)
                for a, b in pairs
            ]
        ).mean(0)
        moved[first] = each
    assert moved[50.0][0] < 0.5 * moved[1.0][0]
    assert moved[50.0][0] / moved[50.0][1:].mean() < 0.5 * moved[1.0][0] / moved[1.0][1:].mean()


def test_an_anchor_on_replay_leaves_the_new_task_free(stage: Any) -> None:
    """On replay the parent is asked for replayed rows alone; the pull is theirs."""
    replay = Replay(Lessons("old", tuple(examples(6, "old"))), 0.25)
    settings = {"replay": replay, "max_steps": 10, "held_out": 0}
    own = stage(anchor={"kl": {"weight": 5.0, "on": "target"}}, **settings)
    old = stage(anchor={"kl": {"weight": 5.0, "on": "replay"}}, **settings)
    free = stage(**settings)
    assert old.loss[-1][1] < own.loss[-1][1]
    assert free.loss[-1][1] <= old.loss[-1][1] + 1e-3
    assert old.pull > 0
    names = adapter(free)
    assert any(not torch.equal(adapter(old)[name], names[name]) for name in names)


def test_the_parent_of_an_anchored_stage_may_itself_be_an_adapter(
    stage: Any, tmp_path: Path, pico: Path
) -> None:
    """The pull starts at zero: at step one the parent, adapter and all, is where it stands."""
    first = stage(max_steps=6)
    second = tune(
        str(first.folder),
        examples(8, "other"),
        settings=read_settings(
            {"anchor": "kl", "max_steps": 1, "batch_size": 4, "held_out": 0, "learning_rate": 1e-2}
        ),
        out=tmp_path / "second",
        partial=tmp_path / "partial",
        memory=FingerprintMemory(tmp_path / "memory.json"),
    )
    assert second.pull == pytest.approx(0, abs=1e-7)


def test_an_adapter_that_changes_its_base_gets_a_module_of_the_parent(pico: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from lethe.tuning.before import Before
    from lethe.tuning.course import Course

    rows = rows_of(examples(4))
    labels = [row.labels for row in rows]
    course = Course(rows, labels, None, 4, rows[:2], 0, [0, 1, 2, 3], 1)
    for kind, second in ((True, False), ("pissa", True)):
        module = load_model(plain(pico))
        before = Before(module, course)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=kind)
        model = get_peft_model(module, config)
        found = before.module(model, plain(pico))
        assert (found is not None) == second, kind
        assert before.divergence(model, plain(pico)) == pytest.approx(0, abs=1e-6)
        penalty = L2Penalty(1.0, model)  # of the update, which is none yet
        assert penalty.squared().item() == pytest.approx(0, abs=1e-6)


def test_l2_is_the_norm_of_the_update(pico: Path) -> None:
    from lethe.tuning.updates.lora import lora

    model = lora(load_model(plain(pico)), rank=3, alpha=6)
    penalty = L2Penalty(1.0, model)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.1)
    before = dict(load_model(plain(pico)).named_parameters())
    expected = sum(
        (weight - before[name]).square().sum().item()
        for name, weight in load_and_merge(model).named_parameters()
    )
    assert penalty.squared().item() == pytest.approx(expected, rel=1e-4)
    whole = load_model(plain(pico)).requires_grad_(True)
    penalty = L2Penalty(1.0, whole)
    with torch.no_grad():
        for weight in whole.parameters():
            weight.add_(0.5)
    assert penalty.squared().item() == pytest.approx(
        0.25 * sum(weight.numel() for weight in whole.parameters()), rel=1e-4
    )


def load_and_merge(model: Any) -> Any:
    import copy

    return copy.deepcopy(model).merge_and_unload()


def test_switching_an_adapter_off_leaves_no_trace(pico: Path) -> None:
    from lethe.tuning.updates.lora import lora

    model = lora(load_model(plain(pico)), rank=3, alpha=6)
    model.train()
    frozen = [weight for name, weight in model.named_parameters() if "lora_A" in name]
    for weight in frozen:
        weight.requires_grad_(False)
    learns = [weight.requires_grad for weight in model.parameters()]
    with adapter_off(model):
        assert not model.training
    assert [weight.requires_grad for weight in model.parameters()] == learns
    assert all(module.training for module in model.modules())


# What cannot be


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"anchor": {"kl": {"on": "replay"}}},
            "an anchor on replay in a stage that replays nothing",
        ),
        ({"kl_budget": 0.1, "held_out": 0}, "a KL budget without held-out rows"),
        ({"anchor": "k1"}, "no anchor 'k1'; did you mean 'kl'"),
        ({"anchor": {"kl": {"wait": 1}}}, "unknown setting 'wait' of anchor 'kl'"),
        ({"anchor": {"kl": {}, "l2": {}}}, "give one of kl, l2"),
        ({"anchor": {"kl": 3}}, "anchor 'kl': found 3, not a mapping"),
        ({"anchor": {"l2": {"weight": -1.0}}}, "anchor.l2.weight = -1.0"),
        ({"kl_budget": -1.0}, "kl_budget = -1.0"),
    ],
)
def test_what_cannot_be_is_refused(stage: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        stage(**settings)
    assert "\n" not in str(caught.value)


def test_l2_on_an_adapter_that_is_more_than_a_and_b_is_refused(pico: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], use_dora=True)
    model = get_peft_model(load_model(plain(pico)), config)
    with pytest.raises(InputError, match=r"more than A and B .*magnitude"):
        L2Penalty(1.0, model)


def test_keys_of_stages_without_an_anchor_stay() -> None:
    """A store that was filled before anchors were known is not computed again."""
    said = read_settings({"precision": "float32"}).hashed
    assert said.keys() == {
        "update", "options", "learning_rate", "epochs", "max_steps", "batch_size",
        "gradient_accumulation", "max_length", "warmup", "held_out", "seed",
    }  # fmt: skip
    found = [
        read_settings(values).hashed
        for values in (
            {},
            {"anchor": "kl"},
            {"anchor": "l2"},
            {"anchor": {"kl": {"weight": 0.2}}},
            {"anchor": {"kl": {"on": "replay"}}},
            {"kl_budget": 0.1},
            {"mask": 2.5},
            {"mask": 3},
            {"distil": True},
            {"distil": {"recall": 0.5}},
        )
    ]
    assert len({json.dumps(one, sort_keys=True) for one in found}) == len(found)
    assert read_settings({"anchor": "none"}).hashed == found[0]


# Readings and the budget


@pytest.mark.parametrize(("steps", "expected"), [(1, [1]), (3, [1, 2, 3]), (95, 10), (1000, 10)])
def test_about_ten_readings(steps: int, expected: Any) -> None:
    found = sorted(reading_steps(steps))
    assert found[-1] == steps
    assert found == expected if isinstance(expected, list) else len(found) == expected


@pytest.mark.parametrize(
    ("trained", "held", "readings"), [(10_000, 64, 10), (1000, 64, 5), (100, 10, 3), (20, 64, 2)]
)
def test_readings_take_a_tenth_of_a_training(trained: int, held: int, readings: int) -> None:
    assert readings_worth(trained, held) == readings


@pytest.mark.parametrize("update", ["lora", "full"])
def test_the_divergence_is_read_over_the_training(stage: Any, pico: Path, update: str) -> None:
    rows = examples(60)
    settings = {"update": update, "learning_rate": 3e-3, "batch_size": 4}
    result = stage(rows, max_steps=25, held_out=5, **settings)
    # 100 rows trained on, 5 read each time for a third of the cost: six readings are a tenth.
    assert [step for step, _ in result.divergences] == sorted(reading_steps(25, 6))
    assert result.divergences[0][1] < result.divergences[-1][1]
    assert result.divergence == pytest.approx(result.divergences[-1][1], rel=1e-5)
    record = json.loads((result.folder / "lethe.json").read_text())["result"]
    assert record["divergences"] == [list(pair) for pair in result.divergences]
    # The last one by hand, on rows that were not trained on.
    from lethe.tuning.rows import hold_out

    _, held = hold_out(rows_of(rows), 5)
    by_hand = kl_of(load_model(plain(pico)), load_model(made(result, pico)), held)
    assert result.divergence == pytest.approx(by_hand, rel=1e-3)


@pytest.mark.parametrize("update", ["lora", "full"])
def test_reading_leaves_no_trace(stage: Any, update: str) -> None:
    """The same rows are held out; of one run nothing is read. Weights agree to the bit."""
    from unittest.mock import patch

    rows = examples(60)
    settings = {"update": update, "max_steps": 10, "held_out": 5, "kl_budget": 1e9}
    read = stage(rows, **settings)
    with patch("lethe.tuning.budget.reading_steps", lambda steps, readings: {steps}):
        once = stage(rows, **settings)
    assert (len(read.divergences), len(once.divergences)) == (10, 1)
    name = "model.safetensors" if update == "full" else "adapter_model.safetensors"
    assert (read.folder / name).read_bytes() == (once.folder / name).read_bytes()


def test_rows_that_the_parent_cannot_be_kept_for_are_still_read_at_the_end(
    stage: Any, pico: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = examples(60)
    settings = {"max_steps": 4, "held_out": 5}
    whole = {update: stage(rows, update=update, **settings) for update in ("lora", "full")}
    monkeypatch.setattr("lethe.tuning.divergence.MOST_BYTES", 1)
    for update, before in whole.items():
        after = stage(rows, update=update, **settings)
        assert after.divergence == pytest.approx(before.divergence, rel=1e-4)
        assert after.divergences[-1][1] != pytest.approx(before.divergences[-1][1], rel=1e-4)


@pytest.mark.parametrize("update", ["lora", "full"])
def test_a_budget_stops_and_keeps_the_last_state_below_it(
    stage: Any, pico: Path, update: str
) -> None:
    rows = examples(60)
    settings = {"update": update, "max_steps": 20, "held_out": 5, "learning_rate": 3e-3}
    free = stage(rows, kl_budget=1e9, **settings)
    steps, values = zip(*free.divergences, strict=True)
    budget = (values[3] + values[4]) / 2
    assert values[3] < budget < values[4]
    held = stage(rows, kl_budget=budget, **settings)
    assert held.stopped == {
        "at": steps[4],
        "divergence": pytest.approx(values[4]),
        "kept": steps[3],
        "kept_divergence": pytest.approx(values[3]),
        "budget": budget,
    }
    assert held.steps == steps[4]
    assert held.divergence == pytest.approx(values[3])
    assert len(held.loss) == steps[4]
    assert held.tokens < free.tokens
    parent, tuned = load_model(plain(pico)), load_model(made(held, pico))
    from lethe.tuning.rows import hold_out

    _, kept = hold_out(rows_of(rows), 5)
    assert kl_of(parent, tuned, kept) == pytest.approx(values[3], rel=1e-3)
    record = json.loads((held.folder / "lethe.json").read_text())
    assert record["result"]["stopped"]["kept"] == steps[3]
    assert not list(held.folder.glob("*below*"))
    assert stage(rows, kl_budget=2 * values[-1], **settings).stopped is None


def test_a_budget_that_is_spent_at_once_is_refused(stage: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"kl_budget: .* after the first 1 steps, above .* lower"):
        stage(examples(60), kl_budget=1e-9, held_out=5)
    assert not (tmp_path / "out0").exists()


def test_a_training_that_was_broken_off_goes_on_with_its_readings(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off at the fifth reading; the readings before it, the pull and the mask stay."""
    rows = examples(60)
    settings = {
        "max_steps": 20,
        "held_out": 5,
        "learning_rate": 3e-3,
        "anchor": {"kl": {"weight": 0.2}},
        "mask": 1e6,
        "kl_budget": 1e9,
    }
    whole = stage(rows, **settings)
    reading, count = HeldOut.reading, iter(range(99))

    def breaking(held: HeldOut, model: Any) -> float:
        if next(count) == 4:
            raise KeyboardInterrupt
        return reading(held, model)

    monkeypatch.setattr(HeldOut, "reading", breaking)
    with pytest.raises(KeyboardInterrupt):
        stage(rows, save_every=0.0, **settings)
    resumed = stage(rows, **settings)
    assert resumed.resumed_at == 9
    assert resumed.divergences == whole.divergences
    assert resumed.loss == whole.loss
    assert resumed.pull == whole.pull
    assert resumed.taught == whole.taught
    name = "adapter_model.safetensors"
    assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_every_family_can_be_anchored(tmp_path: Path) -> None:
    """Also one with dropout: the parent has none."""
    tokenizer = pico_tokenizer()
    folder = tmp_path / "gpt2"
    named = {"n_embd": 32, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.5, "attn_pdrop": 0.5}
    pico_model(len(tokenizer), family="gpt2", **named).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    result = tune(
        str(folder),
        examples(30),
        settings=read_settings({"anchor": "kl", "max_steps": 3, "batch_size": 4, "held_out": 3}),
        out=tmp_path / "out",
        partial=tmp_path / "partial",
        memory=FingerprintMemory(tmp_path / "memory.json"),
    )
    assert math.isfinite(result.pull)
    assert result.divergence > 0
