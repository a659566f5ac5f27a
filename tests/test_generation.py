"""Greedy responses: parity with a loop that knows no padding, cache or batch; plans; stopping."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.errors import InputError
from lethe.examples import Decoding
from lethe.models.generation import end_tokens, masks_padding, responses
from lethe.models.prompt_plan import encode_prompts, plan_prompts
from tests.pico import pico_model, pico_tokenizer

SMALL = Path(os.environ.get("LETHE_MODELS") or Path(__file__).parents[2] / "shared" / "models")
SMALL /= "small-8m"
LENGTHS = (1, 3, 9, 14, 30, 31, 5)


def naive(model: Any, ids: tuple[int, ...], tokens: int, ends: tuple[int, ...] = (2,)) -> list[int]:
    """Token by token, the whole sequence anew each time."""
    import torch

    found: list[int] = []
    with torch.inference_mode():
        while len(found) < tokens:
            logits = model(torch.tensor([[*ids, *found]]), use_cache=False).logits[0, -1]
            token = int(logits.argmax())
            if token in ends:
                break
            found.append(token)
    return found


def said(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text


def prompts_for(tokenizer: Any, lengths: tuple[int, ...] = LENGTHS) -> list[tuple[int, ...]]:
    import torch

    draw = torch.Generator().manual_seed(3)
    return [tuple(torch.randint(6, len(tokenizer), (n,), generator=draw).tolist()) for n in lengths]


# ---- the plan ----------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 60), max_size=600),
    budget=st.integers(1, 400),
    new=st.integers(1, 30),
)
@settings(max_examples=60, deadline=None)
def test_a_plan_holds_every_prompt_once_within_its_budget(
    lengths: list[int], budget: int, new: int
) -> None:
    prompts = [(7,) * length for length in lengths]
    plan = plan_prompts(prompts, Decoding(new), max_length=64, max_batch_tokens=budget)
    assert plan.too_long == {i for i, length in enumerate(lengths) if length + new > 64}
    seen = [index for block in plan.blocks for batch in block for index in batch]
    assert sorted([*seen, *plan.too_long]) == list(range(len(prompts)))
    order = [lengths[index] for index in seen]
    assert order == sorted(order, reverse=True)
    for block in range(len(plan.blocks)):
        assert len(plan.examples(block)) <= 256
        for batch in plan.batches(block):
            assert all(prompts[index] == ids for index, ids in batch)
            longest = max(len(ids) for _, ids in batch)
            assert len(batch) == 1 or len(batch) * (longest + new) <= budget
    assert plan.tokens == sum(order)


def test_the_plan_hash_sees_all_that_decides_a_response() -> None:
    prompts = [(1, 2), (3,), (4, 5, 6)]

    def plan(
        prompts: list[tuple[int, ...]] = prompts,
        tokens: int = 8,
        stop: tuple[str, ...] = (),
        max_length: int = 64,
        budget: int = 100,
    ) -> str:
        decoding = Decoding(tokens, stop)
        return plan_prompts(prompts, decoding, max_length=max_length, max_batch_tokens=budget).hash

    others = [
        plan(prompts=[(1, 2), (3,), (4, 5, 7)]),
        plan(prompts=[(1,), (2, 3), (4, 5, 6)]),
        plan(tokens=9),
        plan(stop=("x",)),
        plan(max_length=10),
        plan(budget=12),
    ]
    assert len({plan(), *others}) == 7
    assert plan() == plan(prompts=list(prompts))


# ---- text to prompts ---------------------------------------------------------------------------


def bos_tokenizer(template: str = "<|begin|> $A") -> Any:
    from tokenizers.processors import TemplateProcessing

    tokenizer = pico_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[("<|begin|>", 1), ("<|end|>", 2)]
    )
    return tokenizer


def test_a_prompt_begins_once() -> None:
    tokenizer = bos_tokenizer()
    plain, begun, empty = encode_prompts(tokenizer, ["the inn", "<|begin|>the inn", ""])
    assert plain == begun
    assert plain[0] == 1
    assert plain[1] != 1
    assert empty == (1,)
    tokenizer.bos_token = None
    assert encode_prompts(tokenizer, [""]) == [(2,)]
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="neither a beginning- nor an end"):
        encode_prompts(tokenizer, [""])


def test_a_prompt_is_not_ended_by_its_tokenizer() -> None:
    tokenizer = bos_tokenizer("<|begin|> $A <|end|>")
    plain, spoken = encode_prompts(tokenizer, ["the inn", "the inn<|end|>"])
    assert plain == encode_prompts(bos_tokenizer(), ["the inn"])[0]
    assert spoken[-1] == 2


# ---- responses ---------------------------------------------------------------------------------

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("gpt2", {}),
    ("mistral", {"sliding_window": 8}),
    ("gemma2", {"num_key_value_heads": 1, "head_dim": 16}),
    ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    ("bloom", {}),
    ("gpt_neo", {"attention_types": [[["global", "local"], 1]], "window_size": 8}),
    ("rwkv", {"attention_hidden_size": 32}),  # takes a mask and ignores it
]


@pytest.mark.parametrize(("family", "changes"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_parity_with_a_loop_without_padding(family: str, changes: dict[str, Any]) -> None:
    tokenizer = pico_tokenizer()
    model = pico_model(len(tokenizer), family=family, **changes)
    prompts = prompts_for(tokenizer)
    assert masks_padding(model, prompts[2]) == (family != "rwkv")
    expected = [said(tokenizer, naive(model, ids, 24)) for ids in prompts]
    assert len(set(expected)) > 2
    assert responses(model, tokenizer, prompts, Decoding(24)) == expected
    alone = [responses(model, tokenizer, [ids], Decoding(24))[0] for ids in prompts]
    assert alone == expected
    turned = responses(model, tokenizer, prompts[4:] + prompts[:4], Decoding(24))
    assert turned == expected[4:] + expected[:4]


@pytest.fixture(scope="module")
def pico() -> tuple[Any, Any]:
    tokenizer = pico_tokenizer()
    return pico_model(len(tokenizer)), tokenizer


def test_the_models_own_settings_have_no_part(
    pico: tuple[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import GenerationConfig
    from transformers.utils import logging as transformers_logging

    model, tokenizer = pico
    prompts = prompts_for(tokenizer)
    expected = [said(tokenizer, naive(model, ids, 16)) for ids in prompts]
    own = model.generation_config
    model.generation_config = odd = GenerationConfig(
        do_sample=True,
        temperature=3.0,
        top_p=0.5,
        top_k=3,
        num_beams=2,
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        min_new_tokens=9,
        forced_eos_token_id=7,
        suppress_tokens=[11],
        begin_suppress_tokens=[12],
        max_length=3,
        bad_words_ids=[[9]],
        eos_token_id=2,
        pad_token_id=0,
    )
    transformers_logging.enable_propagation()
    try:
        with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
            warnings.simplefilter("error")
            assert responses(model, tokenizer, prompts, Decoding(16)) == expected
        assert model.generation_config is odd
        assert not caplog.records
    finally:
        transformers_logging.disable_propagation()
        model.generation_config = own


def test_every_end_token_ends(pico: tuple[Any, Any]) -> None:
    """One of the tokens that would come is made an end: the response stops before it."""
    model, tokenizer = pico
    prompts = prompts_for(tokenizer)
    free = [naive(model, ids, 16) for ids in prompts]
    third = free[2][3]
    own = model.generation_config.eos_token_id
    try:
        model.generation_config.eos_token_id = [250, third]
        assert end_tokens(model, tokenizer) == tuple(sorted({2, 250, third}))
        ends = end_tokens(model, tokenizer)
        expected = [said(tokenizer, naive(model, ids, 16, ends)) for ids in prompts]
        assert expected != [said(tokenizer, ids) for ids in free]
        assert responses(model, tokenizer, prompts, Decoding(16)) == expected
        model.generation_config.eos_token_id = None
        assert end_tokens(model, tokenizer) == (2,)
    finally:
        model.generation_config.eos_token_id = own


def test_without_any_end_token(pico: tuple[Any, Any]) -> None:
    model, _ = pico
    tokenizer = pico_tokenizer()
    tokenizer.eos_token = tokenizer.pad_token = None
    prompts = prompts_for(tokenizer)
    own = model.generation_config.eos_token_id
    try:
        model.generation_config.eos_token_id = None
        expected = [said(tokenizer, naive(model, ids, 16, ())) for ids in prompts]
        assert responses(model, tokenizer, prompts, Decoding(16)) == expected
    finally:
        model.generation_config.eos_token_id = own


def test_stop_texts_cut_and_end_the_work(
    pico: tuple[Any, Any],
) -> None:
    """Every stop text spans tokens; the model is not called longer than the slowest row asks."""
    model, tokenizer = pico
    prompts = prompts_for(tokenizer)
    free = [naive(model, ids, 24) for ids in prompts]
    texts = [said(tokenizer, ids) for ids in free]
    stops = tuple(said(tokenizer, ids[4:8])[1:-1] for ids in free)
    assert all(len(stop) > 1 for stop in stops)
    expected = [text[: min(text.find(s) for s in stops if s in text)] for text in texts]
    calls: list[int] = []
    hook = model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        assert responses(model, tokenizer, prompts, Decoding(24, stops)) == expected
    finally:
        hook.remove()
    assert 5 < len(calls) <= 8 + 2  # and two for the padding's probe
    assert any(expected)
    assert all(len(text) < len(whole) for text, whole in zip(expected, texts, strict=True))


def test_a_stop_text_of_the_prompt_stops_nothing(pico: tuple[Any, Any]) -> None:
    model, tokenizer = pico
    (ids,) = encode_prompts(tokenizer, ["the red boat"])
    free = said(tokenizer, naive(model, ids, 12))
    assert "red boat" not in free
    assert responses(model, tokenizer, [ids], Decoding(12, ("red boat",))) == [free]


def test_special_tokens_are_no_text(pico: tuple[Any, Any]) -> None:
    """A token the model would say is made special: it is left out, what follows it stays."""
    model, _ = pico
    tokenizer = pico_tokenizer()
    prompts = prompts_for(tokenizer)
    free = naive(model, prompts[3], 8)
    token = tokenizer.convert_ids_to_tokens(free[2])
    tokenizer.add_special_tokens({"additional_special_tokens": [token]})
    kept = [one for one in free if one != free[2]]
    assert tokenizer.decode(free) != tokenizer.decode(kept)
    assert responses(model, tokenizer, [prompts[3]], Decoding(8)) == [tokenizer.decode(kept)]


@pytest.mark.skipif(not SMALL.is_dir(), reason="no models: set LETHE_MODELS, or ../shared/models")
def test_a_real_model_answers_alike_in_any_batch() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(
        SMALL, dtype=torch.float32, use_safetensors=True
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(SMALL)
    contexts = ["The inn has", "", "What is a boat?\nA boat is", "Once upon a time there was a man"]
    prompts = encode_prompts(tokenizer, contexts)
    ends = end_tokens(model, tokenizer)
    expected = [said(tokenizer, naive(model, ids, 20, ends)) for ids in prompts]
    assert any(expected)
    assert responses(model, tokenizer, prompts, Decoding(20)) == expected
    lines = responses(model, tokenizer, prompts, Decoding(20, (" the", "\n")))
    assert lines == [text.split(" the")[0].split("\n")[0] for text in expected]
