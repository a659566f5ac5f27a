"""Protected updates: what they promise, on pico models, worked layers, and the real pipeline."""

import copy
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lethe.errors import InputError
from lethe.examples import Example
from lethe.models.checkpoint import resolve
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.format import choose_format
from lethe.models.local import load_model, quiet
from lethe.run import load_run
from lethe.store import Store
from lethe.studies.executor import run_study
from lethe.studies.plan import build_plan
from lethe.studies.study import make_study
from lethe.tuning import updates
from lethe.tuning.calibration import (
    Calibration,
    Moments,
    batches_of,
    input_groups,
    parent_answers,
    spread,
)
from lethe.tuning.forecast import Forecast, Forecaster, score_forecasts, with_outcomes
from lethe.tuning.protect import Protected, ProtectedRows, protected_rows
from lethe.tuning.protection import LayerProtection, layer_protection, weak_points
from lethe.tuning.rows import TuningRow, tokenise
from lethe.tuning.settings import read_settings
from lethe.tuning.stage import StageResult, tune
from lethe.tuning.step import Tune
from lethe.tuning.updates.lora import linear_paths, target_paths
from lethe.tuning.updates.nullspace import hard, soft
from lethe.tuning.updates.projection import (
    ProjectedLinear,
    Projection,
    contrasting,
    factor_memory,
)
from tests.pico import pico_model, pico_tokenizer
from tests.pico_study import write_task

WORDS = ("inn", "room", "night", "guest", "price", "red boat", "hotel", "late", "two", "no")
OTHERS = ("statement", "people", "toxic", "kind", "Question", "who", "unknown", "Answer", "yes")


def examples(count: int = 30, words: Sequence[str] = WORDS, seed: int = 0) -> list[Example]:
    draw = random.Random(seed)
    return [
        Example(
            id=f"{words[0]}{i}",
            prompt=" ".join(draw.choices(words, k=draw.randint(3, 12))),
            reference=" ".join(draw.choices(words, k=draw.randint(1, 3))),
        )
        for i in range(count)
    ]


def protected(name: str = "kept", count: int = 20) -> Protected:
    return Protected(name, tuple(examples(count, OTHERS, seed=1)))


def rows_of(what: Sequence[Example]) -> list[TuningRow]:
    tokenizer = pico_tokenizer()
    return tokenise(what, tokenizer, choose_format(tokenizer), max_length=256)


def sources_of(*what: Protected) -> list[ProtectedRows]:
    tokenizer = pico_tokenizer()
    form = choose_format(tokenizer)
    return [protected_rows(one, tokenizer, form, max_length=256) for one in what]


def calibration(**changes: Any) -> Calibration:
    return Calibration(sources_of(protected()), rows_of(examples()), **changes)


def vocabulary() -> int:
    return len(pico_tokenizer())


def moments(protect: torch.Tensor, task: torch.Tensor, tokens: int = 10**6) -> Moments:
    return Moments(("layer",), protect, task, task, {"kept": protect}, tokens)


def covariance(width: int, rank: int, seed: int = 0) -> torch.Tensor:
    """E[x xᵀ] of inputs that use `rank` directions, with energies from 1 down."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, rank, generator=generator)).Q
    return (basis * torch.linspace(1, 0.1, rank)) @ basis.T


def wear(name: str, model: Any, **options: Any) -> tuple[Any, updates.Update]:
    """A model in an update, as a stage puts it on."""
    update = updates.find(name)
    chosen = update.options(**options).model_dump()
    torch.manual_seed(0)
    with quiet():
        if update.calibrated:
            return update.prepare(model, calibration(), **chosen), update
        return update.prepare(model, **chosen), update


def train(model: Any, update: updates.Update, *, steps: int, rate: float = 1e-2) -> None:
    """AdamW on next-token loss over the task's rows."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    batches = batches_of(rows_of(examples()))
    for step in range(steps):
        ids = torch.tensor([row.ids for row in batches[step % len(batches)]])
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        if update.after_step is not None:
            update.after_step(model)
        optimizer.zero_grad()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 9, 17, 33, 6, 40, 41]])).logits


# Calibration


def test_second_moments_are_those_of_the_layers_inputs_over_real_tokens() -> None:
    """Against hidden states that the model itself returns, one row at a time, in float64."""
    model = pico_model(vocabulary())
    found: dict[str, Moments] = {}
    calibration(on_measured=lambda m, _: found.update(dict.fromkeys(m.modules, m))).build(
        model, target_paths(model, "q_proj,gate_proj"), lambda m: None
    )
    (source,) = sources_of(protected())
    norm = model.model.layers[1].input_layernorm

    def naive(rows: Sequence[TuningRow]) -> torch.Tensor:
        total, count = torch.zeros(32, 32, dtype=torch.float64), 0
        for row in rows:
            with torch.no_grad():
                body = model.model(input_ids=torch.tensor([row.ids]), output_hidden_states=True)
                x = norm(body.hidden_states[1])[0].double()
            total, count = total + x.T @ x, count + len(x)
        return total / count

    got = found["model.layers.1.self_attn.q_proj"]
    assert got.tokens == sum(len(row.ids) for row in source.rows)
    for ours, rows in (
        (got.protect, source.rows),
        (got.held["kept"], source.held),
        (got.task, rows_of(examples())),
    ):
        torch.testing.assert_close(ours.double(), naive(rows), rtol=1e-4, atol=1e-5)
    assert {row.cluster for row in source.rows}.isdisjoint(row.cluster for row in source.held)
    assert len(source.held) == 4  # a fifth of twenty


def test_modules_that_read_one_tensor_share_its_moments() -> None:
    model = pico_model(vocabulary())
    groups = input_groups(model, linear_paths(model), rows_of(examples(1))[0])
    leaves = [tuple(path.rpartition(".")[2] for path in group) for group in groups[:4]]
    assert leaves == [
        ("q_proj", "k_proj", "v_proj"),
        ("o_proj",),
        ("gate_proj", "up_proj"),
        ("down_proj",),
    ]


def test_small_memory_means_more_passes_and_the_same_moments() -> None:
    model = pico_model(vocabulary())
    paths = linear_paths(model)
    alive: list[int] = []

    def make(m: Moments) -> torch.Tensor:
        alive.append(sum(isinstance(o, torch.Tensor) and o.shape == (32, 32) for o in objects()))
        return m.protect

    def objects() -> list[Any]:
        import gc

        return [o for o in gc.get_objects() if type(o) is torch.Tensor]

    whole = calibration().build(model, paths, make)
    most, passed = max(alive), len(alive)
    del alive[:]
    split = calibration(budget=1).build(model, paths, lambda m: make(m).clone())
    assert len(alive) == passed
    for path in paths:
        assert torch.equal(whole[path], split[path])
    assert max(alive) < most  # one input's moments at a time


def test_sources_weigh_the_same_whatever_their_size() -> None:
    model = pico_model(vocabulary())
    small = Protected("small", tuple(examples(4, WORDS, seed=5)))
    both = Calibration(sources_of(protected(count=40), small), rows_of(examples()))
    path = "model.layers.0.mlp.down_proj"
    found: list[Moments] = []
    both.build(model, [path], found.append)
    alone = [Calibration([one], rows_of(examples())) for one in both.sources]
    parts = [one.build(model, [path], lambda m: m.protect)[path] for one in alone]
    torch.testing.assert_close(found[0].protect, (parts[0] + parts[1]) / 2)


def test_a_prompt_without_an_answer_protects_its_own_tokens() -> None:
    bare = tuple(Example(id=str(i), prompt=f"two nights {i}", harmful=True) for i in range(10))
    (source,) = sources_of(Protected("unsafe", bare))
    assert len(source.rows) == 8
    assert all(row.targets == 0 and row.ids for row in source.rows)
    tokenizer = pico_tokenizer()
    assert "two nights" in tokenizer.decode(source.rows[0].ids)
    assert parent_answers(pico_model(vocabulary()), source.held) is None


def test_tokens_are_spread_over_all_rows() -> None:
    rows = [TuningRow((1,) * 10, 1, str(i)) for i in range(100)]
    assert len(spread(rows, 250)) == 25
    assert spread(rows, 10**9) == rows


# Projections


def test_hard_protection_takes_away_the_directions_that_hold_the_energy() -> None:
    c = covariance(24, 6)
    for share, directions in ((0.999999, 6), (0.5, 2)):
        p = hard(moments(c, torch.eye(24)), share)
        assert p.exact
        assert p.free == 24 - directions
        whole = p.apply(torch.eye(24))
        torch.testing.assert_close(whole @ whole, whole, atol=1e-6, rtol=0)
    narrow, wide = hard(moments(c, c), 0.999999), hard(moments(covariance(24, 20), c), 0.999999)
    assert narrow.vectors.shape == (24, 6)  # Q where it is smaller, else its complement
    assert wide.vectors.shape == (24, 4)


def test_soft_protection_is_the_damped_inverse() -> None:
    c = covariance(24, 24)
    p = soft(moments(c, c), strength=10.0)
    damping = c.diagonal().mean() / 10
    exact = damping * torch.linalg.inv(c + damping * torch.eye(24))
    torch.testing.assert_close(p.apply(torch.eye(24)), exact, atol=1e-5, rtol=0)
    assert not p.exact


def test_contrast_finds_the_directions_of_the_largest_ratio() -> None:
    """Diagonal moments: the answer is the coordinates with the largest quotients."""
    task = torch.diag(torch.tensor([5.0, 1, 4, 1, 2, 0.1]))
    protect = torch.diag(torch.tensor([5.0, 0.1, 0.2, 1, 0.1, 0.0]))
    p = contrasting(task, protect, ridge=1e-3, count=3)
    kept = p.apply(torch.eye(6)).diagonal()
    # Quotients 1, 10, 20, 1, 20, 100: the last one has next to no protected energy.
    torch.testing.assert_close(kept, torch.tensor([0.0, 0, 1, 0, 1, 1]), atol=1e-4, rtol=0)
    damped = contrasting(task, protect, ridge=1.0, count=2).apply(torch.eye(6)).diagonal()
    assert damped[5] < 1e-4  # with more damping what no one uses is not selective


@pytest.mark.parametrize("form", ["hard", "soft", "contrast"])
def test_training_is_that_of_the_reparametrised_form(form: str) -> None:
    """W + B·(Ã·P), Ã trained by AdamW as it stands, written out."""
    width, rank = 20, 4
    c, task = covariance(width, 8), covariance(width, 12, seed=3)
    made = moments(c, task)
    p = {"hard": hard(made, 0.99), "soft": soft(made, 10.0)}.get(form)
    p = p or contrasting(task, c, 0.01, 6)
    torch.manual_seed(0)
    plain = torch.nn.Linear(width, rank, bias=False)
    free = plain.weight.detach().clone().requires_grad_()
    ours = ProjectedLinear(plain, p)
    whole = p.apply(torch.eye(width))
    x, goal = torch.randn(64, width), torch.randn(64, rank)
    mine = torch.optim.AdamW(ours.parameters(), lr=1e-2, weight_decay=0.0)
    theirs = torch.optim.AdamW([free], lr=1e-2, weight_decay=0.0)
    for _ in range(50):
        for half in (slice(0, 32), slice(32, 64)):  # accumulated gradients
            (ours(x[half]) - goal[half]).square().mean().backward()
            (x[half] @ (free @ whole).T - goal[half]).square().mean().backward()
        mine.step()
        theirs.step()
        ours.settle()
        mine.zero_grad()
        theirs.zero_grad()
    torch.testing.assert_close(ours.weight, free @ whole, atol=2e-4, rtol=0)
    assert (ours.weight - p.apply(plain.weight)).abs().max() < 1e-4 or form != "hard"


def test_a_gradient_hook_alone_would_leak() -> None:
    """Why every step is projected: Adam moves element by element."""
    c = covariance(40, 12)
    p = hard(moments(c, c), 0.999999)
    torch.manual_seed(0)
    for again in (False, True):
        layer = ProjectedLinear(torch.nn.Linear(40, 4, bias=False), p)
        start = layer.weight.detach().clone()
        optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=0.0)
        for _ in range(20):
            layer(torch.randn(64, 40)).square().mean().backward()
            optimizer.step()
            if again:
                layer.settle()
            optimizer.zero_grad()
        moved = layer.weight.detach() - start
        leak = float((moved - p.apply(moved)).norm() / moved.norm())
        assert leak < 1e-5 if again else leak > 0.1


def test_inputs_in_the_protected_span_are_left_alone() -> None:
    """After training, at every adapted layer: at most 1e-6 of the layer's own output."""
    model = pico_model(vocabulary())
    spans: dict[str, torch.Tensor] = {}

    def remember(m: Moments, p: Projection) -> None:
        inner = torch.eye(m.width) - p.apply(torch.eye(m.width))
        values, vectors = torch.linalg.eigh(inner.double())
        spans.update(dict.fromkeys(m.modules, vectors[:, values > 0.5].float()))

    update = updates.find("nullspace")
    torch.manual_seed(0)
    with quiet():
        worn = update.prepare(model, calibration(on_measured=remember), energy=0.9)
    train(worn, update, steps=30)
    base = worn.get_base_model()
    for path, span in spans.items():
        layer = base.get_submodule(path)
        x = torch.randn(200, span.shape[1]) @ span.T
        ours = 2 * (x @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T)
        theirs = layer.base_layer(x)
        assert span.shape[1] >= 4
        assert ours.norm() <= 1e-6 * theirs.norm(), path
        anywhere = torch.randn(200, span.shape[0])
        moved = anywhere @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T
        assert moved.norm() > 1e-3 * layer.base_layer(anywhere).norm()  # it did learn


def test_with_a_true_null_space_lora_disturbs_five_times_as_much() -> None:
    """One layer, protected inputs in half of its directions, the task in all of them."""
    torch.manual_seed(0)
    width, rank = 32, 8
    kept = torch.linalg.qr(torch.randn(width, width)).Q[:, : width // 2]
    protect = torch.randn(2000, width // 2) @ kept.T
    task = torch.randn(400, width)
    goal = task @ torch.randn(width, rank) @ torch.randn(rank, width) / 10
    c = protect.T @ protect / len(protect)
    p = hard(moments(c, task.T @ task / len(task)), 0.9999)

    def fit(down: torch.nn.Linear, least: float) -> float:
        """Change on protected inputs once the task's loss is down to `least`."""
        up = torch.nn.Linear(rank, width, bias=False)
        torch.nn.init.zeros_(up.weight)
        optimizer = torch.optim.AdamW([*down.parameters(), *up.parameters()], lr=3e-3)
        for _ in range(5000):
            loss = (up(down(task)) - goal).square().mean() / goal.square().mean()
            if loss.item() <= least:
                return float(up(down(protect)).detach().norm())
            loss.backward()
            optimizer.step()
            if isinstance(down, ProjectedLinear):
                down.settle()
            optimizer.zero_grad()
        raise AssertionError(f"the loss stayed at {loss.item():.2f}")

    plain = fit(torch.nn.Linear(width, rank, bias=False), 0.7)
    ours = fit(ProjectedLinear(torch.nn.Linear(width, rank, bias=False), p), 0.7)
    assert 5 * ours <= plain


def test_only_factors_stay_in_memory_and_shared_inputs_share_them() -> None:
    model = pico_model(vocabulary())
    worn, _ = wear("contrast", model, directions=5)
    layers = {n: m for n, m in worn.named_modules() if isinstance(m, ProjectedLinear)}
    assert len(layers) == 14
    q, k = (
        layers[f"base_model.model.model.layers.0.self_attn.{x}_proj.lora_A.default"] for x in "qk"
    )
    assert q.vectors.data_ptr() == k.vectors.data_ptr()
    # Per layer: the inputs of q/k/v, o, gate/up (32 wide) and down (64 wide), 5 floats each.
    assert factor_memory(worn) == 2 * 4 * 5 * (32 + 32 + 32 + 64)
    assert not [name for name in worn.state_dict() if "vectors" in name or "shares" in name]
    held = [m for m in worn.buffers() if m.ndim == 2 and m.shape[0] == m.shape[1] and len(m) > 5]
    assert not held  # no P anywhere


# Other updates


def test_osf_stays_in_its_span_for_200_steps_and_peft_alone_does_not() -> None:
    def leak(*, again: bool) -> float:
        worn, update = wear("osf", pico_model(vocabulary()))
        layer = worn.get_base_model().model.layers[0].mlp.up_proj
        u, _, v = torch.linalg.svd(layer.base_layer.weight.double(), full_matrices=False)
        frozen = len(u.T) // 2
        if not again:
            update = updates.find("lora")  # whose after_step does nothing
        train(worn, update, steps=200 if again else 5, rate=1e-3)
        moved = layer.get_delta_weight("default").detach().double()
        left, right = u[:, :frozen], v[:frozen].T
        outside = torch.cat([(left.T @ moved).flatten(), (moved @ right).flatten()])
        return float(outside.norm() / moved.norm())

    assert leak(again=True) <= 1e-4
    assert leak(again=False) > 0.1


def test_osf_stores_whole_weights() -> None:
    worn, update = wear("osf", pico_model(vocabulary()))
    train(worn, update, steps=3)
    live = logits(worn)
    assert update.finish is not None
    whole = update.finish(worn)
    assert not hasattr(whole, "peft_config")
    torch.testing.assert_close(logits(whole), live, atol=1e-5, rtol=0)


def test_corda_is_that_of_peft_on_an_untouched_base() -> None:
    """The same start, the same function after training; and switched off it is the parent."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    theirs = pico_model(vocabulary())
    paths = linear_paths(theirs)
    config = LoraConfig(
        r=3,
        lora_alpha=6,
        target_modules=paths,
        init_lora_weights="corda",
        corda_config=CordaConfig(corda_method="kpm"),
    )
    (source,) = sources_of(protected())

    def run() -> None:
        for row in source.rows:
            theirs(input_ids=torch.tensor([row.ids]))

    with quiet():
        preprocess_corda(theirs, config, run_model=run)
        theirs = get_peft_model(theirs, config)
    base = pico_model(vocabulary())
    parent = logits(base)
    ours, update = wear("corda", base, rank=3, alpha=6)
    torch.testing.assert_close(logits(ours), parent, atol=1e-4, rtol=0)
    with ours.disable_adapter():
        assert torch.equal(logits(ours), parent)
    with theirs.disable_adapter():
        assert not torch.allclose(logits(theirs), parent, atol=1e-3)  # the trap
    down = "base_model.model.model.layers.0.mlp.down_proj.lora_A.default.weight"
    start = ours.get_parameter(down).detach().clone()
    torch.testing.assert_close(start[:3], theirs.get_parameter(down), rtol=1e-4, atol=1e-5)
    for model in (ours, theirs):
        train(model, update, steps=4, rate=1e-3)
    torch.testing.assert_close(logits(ours), logits(theirs), atol=2e-3, rtol=0)
    assert (logits(ours) - parent).abs().max() > 0.05
    after = ours.get_parameter(down)
    assert torch.equal(after[3:], start[3:])
    assert not torch.equal(after[:3], start[:3])


def test_a_part_of_the_modules_by_name() -> None:
    for family, mlp in (
        ("llama", {"down_proj", "gate_proj", "up_proj"}),
        ("gpt_neox", {"dense_4h_to_h", "dense_h_to_4h"}),
        ("gpt2", {"c_fc", "mlp.c_proj"}),
    ):
        names = {"gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2}}
        model = pico_model(60, family=family, **names.get(family, {}))
        chosen = set(target_paths(model, "mlp"))
        assert chosen == {p for p in linear_paths(model) if any(p.endswith(m) for m in mlp)}
        rest = set(target_paths(model, "attention"))
        assert chosen | rest == set(linear_paths(model))
        assert not chosen & rest
        with quiet():
            worn = updates.find("lora").prepare(model, target_modules="mlp")
        adapted = {n for n, m in worn.get_base_model().named_modules() if hasattr(m, "lora_A")}
        assert adapted == chosen


def test_transposed_layers_are_protected_too() -> None:
    """GPT-2 keeps its weights the other way round."""
    model = pico_model(vocabulary(), family="gpt2", n_embd=32, n_layer=2, n_head=2)
    for name in ("nullspace", "contrast", "corda"):
        worn, update = wear(name, copy.deepcopy(model), rank=4)
        train(worn, update, steps=2)
        assert not torch.allclose(logits(worn), logits(model), atol=1e-3)
        with worn.disable_adapter():
            assert torch.equal(logits(worn), logits(model))


# What is said before training


def test_leak_plasticity_and_selectivity_by_hand() -> None:
    protect, task = torch.diag(torch.tensor([8.0, 1, 1])), torch.diag(torch.tensor([1.0, 1, 6]))
    first = torch.tensor([[1.0], [0], [0]])
    got = layer_protection(moments(protect, task), Projection(first, torch.ones(1)))
    assert (got.leak, got.plasticity) == pytest.approx((2 / 10, 7 / 8))
    assert got.selectivity == pytest.approx(7 / 8 * 5)
    assert (got.free, got.protects, got.few) == (2, True, False)
    half = layer_protection(moments(protect, task), Projection(first, torch.tensor([0.5])))
    assert half.leak == pytest.approx((0.25 * 8 + 2) / 10)
    assert half.plasticity == pytest.approx((0.25 + 7) / 8)


def test_what_cannot_be_protected_and_a_fake_null_space_are_said() -> None:
    sound = LayerProtection(("a.q_proj", "a.k_proj"), 32, 20.0, 0.01, 0.5, 5000, few=False)
    blunt = LayerProtection(("a.o_proj",), 32, 20.0, 0.4, 0.5, 5000, few=False)
    unseen = LayerProtection(("a.down_proj",), 64, 50.0, 0.1, 0.5, 5000, few=True)
    assert weak_points([sound]) == []
    cannot, fake = weak_points([sound, blunt, unseen])
    assert cannot.startswith("cannot protect here: selectivity below 2 at 1 of 3 layer inputs")
    assert "o_proj" in cannot
    assert "5,000 seen, 8,192 wanted for width 64; their null space may be fake" in fake


def test_held_out_inputs_unmask_a_fake_null_space() -> None:
    """Too few tokens leave directions that no protected token was seen in."""
    torch.manual_seed(0)
    inputs = torch.randn(4000, 32)

    def leak(count: int, share: float) -> float:
        seen = inputs[:count]
        held = {"kept": inputs[2000:].T @ inputs[2000:] / 2000}
        c = seen.T @ seen / count
        made = Moments(("layer",), c, torch.eye(32), torch.eye(32), held, count)
        found = layer_protection(made, hard(made, share))
        assert found.few == (count < 128 * 32)
        return found.leak

    assert leak(16, 0.999999) > 0.4  # it promised nothing
    assert leak(2000, 0.7) == pytest.approx(0.3, abs=0.06)


# Forecast


def test_exposure_is_one_for_the_tasks_twin_and_nothing_for_what_it_never_meets() -> None:
    task = torch.diag(torch.tensor([2.0, 1, 0, 0]))
    other = torch.diag(torch.tensor([0.0, 0, 3, 1]))
    half = torch.diag(torch.tensor([0.0, 1, 0, 1]))
    forecaster = Forecaster()
    held = {"twin": 5 * task, "other": other, "half": half}
    found = Moments(("layer",), other, task, task, held, 9)
    forecaster.add(found, Projection(torch.tensor([[1.0], [0], [0], [0]]), torch.ones(1)))
    twin, stranger, shared = forecaster.forecasts()
    assert (twin.exposure, twin.plain) == pytest.approx((1, 1))
    assert stranger.plain < 1e-9
    # M = C_task: (1·1/2) / ((4 + 1)/3); with P the task's second direction alone is left.
    assert shared.plain == pytest.approx(0.5 / (5 / 3))
    assert shared.exposure == pytest.approx(0.5 / (1 / 3))
    assert shared.remaining == pytest.approx(shared.exposure / shared.plain)


def test_forecasts_are_scored_by_order_and_by_factor() -> None:
    made = [Forecast(name, value, 1.0) for name, value in (("a", 0.1), ("b", 0.2), ("c", 0.4))]
    got = with_outcomes(made, {"a": 0.02, "b": 0.01, "c": 0.16}, task=0.2)
    assert [one.happened for one in got] == pytest.approx([0.1, 0.05, 0.8])
    score = score_forecasts(got)
    assert score is not None
    assert (score.count, score.factor) == (3, pytest.approx(2))  # factors 1, 4, 2
    assert score.concordant == pytest.approx(2 / 3)
    assert score_forecasts(made) is None
    # A model that hardly moved: readings about 0, by rounding below it.
    still = with_outcomes(made, {"a": -1e-9, "b": 0.0}, task=1e-8)
    assert [one.happened for one in still] == [0.0, 0.0, None]
    assert score_forecasts(still) is None
    assert with_outcomes(made, {"a": 1e-9}, task=-1e-9)[0].happened is None


# The real pipeline

PROTECTING = ("nullspace", "contrast", "corda")
SMALL: dict[str, dict[str, Any]] = {
    "nullspace": {"rank": 4, "energy": 0.9},
    "soft": {"update": "nullspace", "rank": 4, "form": "soft", "strength": 3.0},
    "contrast": {"rank": 4, "directions": 8},
    "corda": {"rank": 4},
    "mica": {"rank": 4},
    "osf": {},
}
Stage = Callable[..., StageResult]


@pytest.fixture
def stage(tmp_path: Path, pico: Path) -> Stage:
    taken = iter(range(99))

    def call(
        name: str,
        *,
        model: Path | str = pico,
        protect: Sequence[Protected] | None = None,
        save_every: float = 60.0,
        out: Path | None = None,
        **settings: Any,
    ) -> StageResult:
        said = {"update": name, "batch_size": 4, "held_out": 4, "learning_rate": 1e-2}
        if "epochs" not in settings:
            said["max_steps"] = 6
        said.update({**SMALL.get(name, {}), **settings})
        if protect is None:
            protect = [protected()] if said["update"] in PROTECTING else []
        return tune(
            str(model),
            examples(40),
            settings=read_settings(said),
            out=out or tmp_path / f"out{next(taken)}",
            partial=tmp_path / "partial",
            memory=FingerprintMemory(tmp_path / "memory.json"),
            save_every=save_every,
            protect=protect,
        )

    return call


def loaded_plainly(folder: Path, base: Path) -> Any:
    """By PEFT alone, as anyone would."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    return PeftModel.from_pretrained(model, folder).eval()


@pytest.mark.parametrize("name", ["nullspace", "soft", "contrast", "corda", "mica"])
def test_the_result_is_a_plain_lora_file(
    stage: Stage, pico: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The live module's logits, from the file, in plain PEFT; also from a file of mid-training."""
    from lethe.tuning import saving, trainer

    live: list[torch.Tensor] = []
    keep = saving.save_adapter
    middle: list[tuple[Path, torch.Tensor]] = []
    on_save = trainer.Checkpointer.on_save

    def saved(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        on_save(self, args, state, control, **kwargs)
        made = next(Path(args.output_dir).glob(f"checkpoint-{state.global_step}"))
        copied = Path(shutil.copytree(made, pico.parent / f"middle-{name}", dirs_exist_ok=True))
        kwargs["model"].eval()
        middle.append((copied, logits(kwargs["model"])))
        kwargs["model"].train()

    def finished(model: Any, *rest: Any) -> None:
        live.append(logits(model))
        keep(model, *rest)

    monkeypatch.setattr(saving, "save_adapter", finished)
    monkeypatch.setattr(trainer.Checkpointer, "on_save", saved)
    result = stage(name, save_every=0.0)
    stored = load_file(result.folder / "adapter_model.safetensors")
    assert {key.rpartition(".lora_")[2] for key in stored} == {"A.weight", "B.weight"}
    config = json.loads((result.folder / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True
    plain = loaded_plainly(result.folder, pico)
    torch.testing.assert_close(logits(plain), live[0], atol=1e-5, rtol=0)
    parent = load_model(resolve(str(pico), FingerprintMemory(pico.parent / "none")))
    assert (logits(plain) - logits(parent)).abs().max() > 1e-2
    with plain.disable_adapter():
        torch.testing.assert_close(logits(plain), logits(parent), atol=0, rtol=0)
    folder, then = middle[-1]
    torch.testing.assert_close(logits(loaded_plainly(folder, pico)), then, atol=1e-5, rtol=0)
    assert not torch.equal(then, live[0])
    merged = load_model(resolve(str(result.folder), FingerprintMemory(pico.parent / "none")))
    torch.testing.assert_close(logits(merged), live[0], atol=1e-4, rtol=0)


def test_osf_is_a_whole_model_of_the_trained_weights(stage: Stage, pico: Path) -> None:
    result = stage("osf", max_steps=3)
    stored = load_file(result.folder / "model.safetensors")
    before = load_file(pico / "model.safetensors")
    assert stored.keys() == before.keys()
    moved = {name for name in stored if not torch.equal(stored[name], before[name])}
    assert moved == {name for name in stored if "_proj" in name}
    name = "model.layers.1.mlp.down_proj.weight"
    u, _, v = torch.linalg.svd(before[name].double(), full_matrices=False)
    change = (stored[name] - before[name]).double()
    assert (u[:, :16].T @ change).norm() < 1e-4 * change.norm()
    assert (change @ v[:16].T).norm() < 1e-4 * change.norm()


@pytest.mark.parametrize("name", SMALL)
def test_an_interrupted_training_goes_on_to_the_same_bits(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Struck after a checkpoint and one step more: the factors are made again, all else is read."""
    from lethe.tuning.trainer import Counter

    def strike(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Counter, "on_step_end", strike)
        with pytest.raises(KeyboardInterrupt):
            stage(name, out=tmp_path / "out", save_every=0.0)
    assert not (tmp_path / "out").exists()
    resumed, whole = stage(name, out=tmp_path / "out"), stage(name)
    assert resumed.resumed_at == 3
    assert resumed.loss == whole.loss
    left, right = (load_file(next(r.folder.glob("*model.safetensors"))) for r in (resumed, whole))
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_a_protecting_update_disturbs_less_of_what_it_protects(stage: Stage, pico: Path) -> None:
    """At equal steps and rate, and it is measured on held-out answers."""
    plain = stage("lora", rank=4, max_steps=30, learning_rate=3e-3)
    kept = stage("nullspace", max_steps=30, learning_rate=3e-3, energy=0.97)
    assert kept.protection is not None
    assert plain.protection is None
    source = kept.protection["sources"]["kept"]
    assert source["rows"] + source["held_out"] == 20
    layers = kept.protection["layers"]
    assert len(layers) == 8
    assert all(layer["leak"] < 0.3 for layer in layers)
    (held,) = sources_of(protected())
    lora = loaded_plainly(plain.folder, pico)
    assert mean_kl(lora, held.held) > 2 * source["divergence"]
    ours = loaded_plainly(kept.folder, pico)
    assert mean_kl(ours, held.held) == pytest.approx(source["divergence"], rel=1e-3)
    (forecast,) = kept.protection["forecasts"]
    assert forecast["happened"] == pytest.approx(source["divergence"] / kept.divergence)
    assert 0 < forecast["remaining"] < 1
    record = json.loads((kept.folder / "lethe.json").read_text())
    assert record["result"]["protection"] == kept.protection


def mean_kl(tuned: Any, rows: Sequence[TuningRow]) -> float:
    """KL(parent‖tuned) over target positions, by the definition."""
    terms = []
    for row in rows:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            after = tuned(input_ids=ids).logits[0].log_softmax(-1)
            with tuned.disable_adapter():
                before = tuned(input_ids=ids).logits[0].log_softmax(-1)
        kl = (before.exp() * (before - after)).sum(-1)
        terms += kl[-row.targets - 1 : -1].tolist()
    return sum(terms) / len(terms)


def test_a_chain_of_adapters_is_protected_on_its_own_parent(stage: Stage, pico: Path) -> None:
    first = stage("contrast")
    second = stage("nullspace", model=first.folder)
    third = stage("osf", model=second.folder, max_steps=2)
    memory = FingerprintMemory(pico.parent / "none")
    parent = load_model(resolve(str(first.folder), memory))
    again = load_model(resolve(str(second.folder), memory))
    assert (logits(again) - logits(parent)).abs().max() > 1e-2
    adapter = load_file(second.folder / "adapter_model.safetensors")
    path = "model.layers.0.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{path}.lora_{side}.weight"] for side in "AB")
    expected = parent.get_submodule(path).weight + 32 / 4 * b @ a
    torch.testing.assert_close(again.get_submodule(path).weight, expected, atol=1e-6, rtol=0)
    assert (third.folder / "model.safetensors").is_file()


def test_the_key_sees_what_is_protected(stage: Stage) -> None:
    one = stage("contrast", max_steps=1)
    more = stage("contrast", max_steps=1, protect=[protected(count=21)])
    assert one.key != more.key
    with pytest.raises(InputError, match="holds another stage"):
        stage("contrast", max_steps=1, protect=[protected(count=21)], out=one.folder)
    again = stage("contrast", max_steps=1, out=one.folder)
    assert again.cached
    assert again.protection == one.protection


def test_other_protected_rows_give_other_weights(stage: Stage) -> None:
    one = stage("nullspace", max_steps=2)
    other = Protected("kept", tuple(examples(20, WORDS, seed=9)))
    two = stage("nullspace", max_steps=2, protect=[other])
    name = "adapter_model.safetensors"
    assert (one.folder / name).read_bytes() != (two.folder / name).read_bytes()


# Bad input


def test_an_update_that_protects_has_to_know_what(stage: Stage) -> None:
    for name in PROTECTING:
        with pytest.raises(InputError, match=f"'{name}' is not told what to protect; give protect"):
            stage(name, protect=[])
    with pytest.raises(InputError, match="'lora' protects nothing; use contrast, corda, nullspace"):
        stage("lora", protect=[protected()])
    with pytest.raises(InputError, match="'kept' stands twice in protect"):
        stage("contrast", protect=[protected(), protected()])


def test_one_cluster_cannot_be_held_out(stage: Stage) -> None:
    row = Example("a", "two nights", reference="yes", cluster="c")
    with pytest.raises(InputError, match=r"lone: 1 protected cluster.*at least two"):
        stage("contrast", protect=[Protected("lone", (row, row))])


def test_layers_that_cannot_be_adapted_are_named(stage: Stage) -> None:
    with pytest.raises(InputError, match=r"no linear module 'embed_tokens'.*use all-linear, mlp"):
        stage("nullspace", target_modules="embed_tokens")
    for name in ("corda", "mica"):
        with pytest.raises(InputError, match=r"layers\.0.*rank 33 of a layer that has 32"):
            stage(name, rank=33)
    with pytest.raises(InputError, match=r"energy 0\.999999 protects all 32 directions"):
        stage("nullspace", energy=0.999999)
    model = pico_model(vocabulary(), family="gpt2", n_embd=32, n_layer=2, n_head=2)
    with pytest.raises(InputError, match=r"h\.0\.attn\.c_attn: osf cannot adapt a Conv1D"):
        updates.find("osf").prepare(model)


def test_a_protect_set_that_the_parent_fails_is_said(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pico model guesses at random, and Lethe says what that means."""
    from lethe.progress import Progress

    said: list[str] = []
    monkeypatch.setattr(Progress, "say", lambda self, text: said.append(text))
    result = stage("contrast", max_steps=1)
    assert result.protection is not None
    failed = [note for note in result.protection["notes"] if "the parent predicts" in note]
    assert len(failed) == 1
    assert failed[0] in said
    assert failed[0].startswith("kept: the parent predicts ")
    few = [note for note in result.protection["notes"] if "too few protected tokens" in note]
    assert few
    table = said[said.index(next(line for line in said if line.startswith("layer input"))) :][:5]
    assert table[1].startswith("q_proj, k_proj, v_proj ")
    assert all(len(line) <= 80 for line in table)


# Studies and the command


def protecting_study(folder: Path, model: Path, **stage: Any) -> dict[str, Any]:
    """One task tuned on, another protected and measured."""
    splits = ("train", "dev", "test", "protect")
    kept = write_task(folder, "kept", splits=splits)
    task = write_task(folder, "task", splits=splits)
    small = {"max_steps": 2, "batch_size": 4, "held_out": 0, "rank": 2, "learning_rate": 1e-2}
    return {
        "name": "kept",
        "model": str(model),
        "suites": [kept, task],
        "format": "plain",
        "stages": {"skill": {"data": task, "protect": kept, **small, **stage}},
        "chains": {"S": ["skill"]},
    }


def planned(content: dict[str, Any], store: Store) -> Any:
    return build_plan(make_study(content), store, FingerprintMemory(store.root / "memory.json"))


def test_a_study_protects_beside_an_arm_that_does_not(tmp_path: Path, pico: Path) -> None:
    content = protecting_study(tmp_path, pico, update=["lora", "contrast"])
    store = Store(tmp_path / "store")
    plan = planned(content, store)
    steps = {n.step.chosen.update: n.step for n in plan.nodes.values() if isinstance(n.step, Tune)}
    assert steps["lora"].protect == ()
    (source,) = steps["contrast"].protect
    assert {example.id.split("-")[1] for example in source.examples} == {"protect"}
    result = run_study(make_study(content), store)
    assert not result.failed
    made = [found for found in store.objects() if found.kind == "checkpoint"]
    records = [json.loads((found.folder / "lethe.json").read_text()) for found in made]
    protection = {r["settings"]["update"]: r["result"]["protection"] for r in records}
    assert protection["lora"] is None
    assert protection["contrast"]["sources"][source.name]["rows"] == 10


def test_protected_rows_that_are_measured_are_refused_by_name(tmp_path: Path, pico: Path) -> None:
    content = protecting_study(tmp_path, pico, update="contrast")
    kept = content["stages"]["skill"]["protect"]
    content["stages"]["skill"]["protect"] = [{"suite": kept, "split": "test"}]
    store = Store(tmp_path / "store")
    with pytest.raises(InputError, match=r"stages\.skill\.protect: 12 protected rows") as caught:
        planned(content, store)
    assert "also measured by 'kept': kept-test-0, kept-test-1" in str(caught.value)
    # The same question in a file of another name, under other ids.
    copied = tmp_path / "copy.jsonl"
    rows = [json.loads(line) for line in Path(kept).read_text().splitlines()]
    asked = [row["prompt"] for row in rows if row["split"] == "test"]
    again = [{"id": f"x{n}", "prompt": f" {p}", "reference": "yes"} for n, p in enumerate(asked)]
    copied.write_text("".join(json.dumps(row) + "\n" for row in again))
    content["stages"]["skill"]["protect"] = str(copied)
    with pytest.raises(InputError, match=r"12 protected rows.*x0, x1"):
        planned(content, store)


def test_a_study_says_what_protect_cannot_be(tmp_path: Path, pico: Path) -> None:
    for stage, message in (
        ({"update": "lora"}, r"stages\.skill: update 'lora' protects nothing"),
        ({"update": ["lora", "mica"]}, "protect, and no update that does"),
        ({"update": "contrast", "protect": []}, "'contrast' is not told what to protect"),
        ({"update": "contrast", "protect": [{"suit": "x"}]}, "unknown key 'suit'.*'suite'"),
    ):
        with pytest.raises(InputError, match=message):
            make_study(protecting_study(tmp_path, pico, **stage))


def test_the_command_protects_and_keeps_it_in_the_run(tmp_path: Path, pico: Path) -> None:
    splits = ("train", "protect")
    kept, task = (write_task(tmp_path, name, splits=splits) for name in ("kept", "task"))
    store = tmp_path / "store"
    command = [sys.executable, "-m", "lethe.cli", "tune", str(pico), "--data", task]
    command += ["--update", "nullspace", "--protect", kept, "--max-steps", "1", "--rank", "2"]
    command += ["--out", str(tmp_path / "out"), "--store", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "selectivity" in done.stderr
    assert "forecast for" in done.stderr
    assert kept in "".join(done.stderr.split())  # broken over lines
    assert load_run("last", Store(store)).settings["protect"] == [kept]
    elsewhere = ("--out", str(tmp_path / "no"), "--store", str(store))
    refused = subprocess.run(
        [*command[:7], "--update", "lora", "--set", "mask=100", "--protect", kept, *elsewhere],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("lethe: lethe tune: update 'lora' protects nothing; use ")
