"""Option trees: proved family by family against plain rows; every other family falls back."""

import random
from typing import Any

import pytest
import torch

from lethe.models.batch_plan import BatchPlan, TokenRow, plan_batches
from lethe.models.engine import Engine
from lethe.models.likelihood import Scored, log_likelihoods
from lethe.models.option_tree import MASK_BY_LAYER, ONE_MASK, inputs_of, takes_trees
from tests.pico import pico_model

VOCABULARY = 97
SMALL: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
CHANGES: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 512},
    "gemma3_text": {"head_dim": 16, "sliding_window": 512},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {"head_dim": 16, **SMALL},
    "mixtral": {"num_local_experts": 4},
    "falcon": {"alibi": False, "new_decoder_architecture": False, "multi_query": True},
    "phi": {"partial_rotary_factor": 0.5},
    "gptj": {"rotary_dim": 8},
    "gpt2": {"n_positions": 256},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
}
WINDOWED = ["mistral", "mixtral", "phi3", "qwen2", "gemma2", "gemma3_text", "cohere2", "starcoder2"]


def family_model(family: str, **changes: Any) -> Any:
    settings = {"vocab_size": VOCABULARY, **CHANGES.get(family, {}), **changes}
    return pico_model(settings.pop("vocab_size"), family=family, **settings)


def rows_of(seed: int = 0, examples: int = 9) -> list[TokenRow]:
    """Questions in twos and threes that begin alike, with options that share beginnings too."""
    draw = random.Random(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, VOCABULARY) for _ in range(length))

    rows = []
    header = ids(12)
    for example in range(examples):
        if example % 3 == 0:
            passage = ids(draw.randrange(1, 20))
        context = (*header, *passage, *ids(draw.randrange(1, 6)))
        stem = ids(2)
        options = [(*stem, *ids(length)) for length in (0, 1, 3)] + [ids(5), ids(1)]
        rows += [TokenRow(example, at, context, one) for at, one in enumerate(options)]
    return rows


def scored(model: Any, plan: BatchPlan) -> list[Scored]:
    found = {}
    for block in range(len(plan.blocks)):
        for trees in plan.batches(block):
            order = [row for tree in trees for row in tree.rows]
            found.update(zip(order, log_likelihoods(model, trees, plan.rows), strict=True))
    return [found[row] for row in range(len(plan.rows))]


def one_by_one(model: Any, row: TokenRow) -> float:
    """The definition: log-softmax of one unpadded sequence, read at the continuation."""
    whole = [*row.context, *row.continuation]
    with torch.inference_mode():
        logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    places = range(len(row.context), len(whole))
    return sum(float(logits[at - 1, whole[at]]) for at in places)


@pytest.mark.parametrize("family", sorted(ONE_MASK | MASK_BY_LAYER))
def test_every_listed_family_takes_trees(family: str) -> None:
    model, rows = family_model(family), rows_of()
    assert takes_trees(model)
    tree = plan_batches(rows, max_batch_tokens=400)
    assert tree.tokens < 0.5 * tree.row_tokens
    assert any(tree.branches for tree in tree.trees)
    exact = [one_by_one(model, row) for row in rows]
    assert len({round(x, 2) for x in exact}) > len(exact) / 2
    assert [one.logprob for one in scored(model, tree)] == pytest.approx(exact, abs=5e-5)


@pytest.mark.parametrize("family", WINDOWED)
def test_a_window_shorter_than_the_row_is_put_into_the_mask(family: str) -> None:
    extra = {"use_sliding_window": True, "max_window_layers": 0} if family == "qwen2" else {}
    model = family_model(family, sliding_window=7, **extra)
    wide = family_model(family, sliding_window=200, **extra)
    rows = rows_of()
    exact = [one_by_one(model, row) for row in rows]
    assert exact != pytest.approx([one_by_one(wide, row) for row in rows], abs=1e-3)
    assert takes_trees(model)
    found = scored(model, plan_batches(rows, max_batch_tokens=400))
    assert [one.logprob for one in found] == pytest.approx(exact, abs=5e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_either_attention_takes_the_mask(attention: str) -> None:
    model, rows = family_model("llama"), rows_of()
    model.set_attn_implementation(attention)
    exact = [one_by_one(model, row) for row in rows]
    assert takes_trees(model)
    found = scored(model, plan_batches(rows, max_batch_tokens=400))
    assert [one.logprob for one in found] == pytest.approx(exact, abs=5e-5)


UNLISTED: dict[str, dict[str, Any]] = {
    "gpt_neo": {
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 5,
    },
    "mpt": {"d_model": 32, "n_heads": 2, "n_layers": 2, "max_seq_len": 256},
    "bloom": {"n_head": 2, "n_layer": 2},
    "mamba": {"state_size": 4},
    "falcon": {"alibi": True, "new_decoder_architecture": False},
    "gpt_oss": {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
}


@pytest.mark.parametrize("family", sorted(UNLISTED))
def test_every_other_family_falls_back_to_plain_rows(family: str) -> None:
    model, rows = pico_model(VOCABULARY, family=family, **UNLISTED[family]), rows_of()
    engine = Engine(model)
    assert not engine.branching
    assert not any(tree.branches for tree in engine.plan(rows).trees)
    exact = [one_by_one(model, row) for row in rows]
    assert [one.logprob for one in engine.score(rows)] == pytest.approx(exact, abs=5e-5)


def test_a_listed_family_that_ignores_the_mask_fails_the_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GPT-Neo would be silently wrong, were it on the list: the probe is what finds out."""
    model = pico_model(VOCABULARY, family="gpt_neo", **UNLISTED["gpt_neo"])
    monkeypatch.setattr("lethe.models.option_tree.ONE_MASK", ONE_MASK | {"gpt_neo"})
    assert not takes_trees(model)


def test_flash_attention_takes_no_trees() -> None:
    model = family_model("llama")
    model.config._attn_implementation = "flash_attention_2"
    assert not takes_trees(model)


def test_bf16_trees_pass_the_probe_and_agree_roughly() -> None:
    model, rows = family_model("llama").to(torch.bfloat16), rows_of()
    assert takes_trees(model)
    found = scored(model, plan_batches(rows, max_batch_tokens=400))
    plain = scored(model, plan_batches(rows, max_batch_tokens=400, branching=False))
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in plain], abs=0.1)


def test_greedy_says_whether_every_token_was_the_most_probable() -> None:
    model = family_model("llama")
    context = (5, 6, 7)
    best: list[int] = []
    with torch.inference_mode():
        for _ in range(3):
            logits = model(torch.tensor([[*context, *best]])).logits[0, -1]
            best.append(int(logits.argmax()))
    other = best[-1] + 1 if best[-1] + 1 < VOCABULARY else 0
    rows = [
        TokenRow(0, 0, context, tuple(best)),
        TokenRow(0, 1, context, (*best[:2], other)),
        TokenRow(0, 2, context, tuple(best[:1])),
        TokenRow(0, 3, context, (other, *best[:1])),
    ]
    assert [one.greedy for one in Engine(model).score(rows)] == [True, False, True, False]


def test_a_batch_without_branches_needs_no_mask_of_its_own() -> None:
    model = family_model("llama")
    rows = [TokenRow(index, 0, (index + 3, 9), (4, 5)) for index in range(3)]
    plan = plan_batches(rows, max_batch_tokens=100)
    (block,) = plan.blocks
    inputs = inputs_of(model, [plan.trees[index] for batch in block for index in batch])
    assert inputs.keys() == {"input_ids", "attention_mask"}
    assert inputs["attention_mask"].ndim == 2
