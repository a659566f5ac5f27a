"""Finding, loading and scoring models: parity with naive code, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.errors import InputError
from lethe.examples import Message
from lethe.models.batch_plan import TokenRow
from lethe.models.checkpoint import Checkpoint, resolve
from lethe.models.encode import encode
from lethe.models.engine import Engine
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.format import Format, choose_format
from lethe.models.local import ModelPool, choose_device, load_model, load_tokenizer, tokenizer_hash
from tests.pico import make_adapter, make_pico, pico_model, pico_tokenizer


@pytest.fixture
def memory(tmp_path: Path) -> FingerprintMemory:
    return FingerprintMemory(tmp_path / "fingerprints.json")


def naive(model: Any, row: TokenRow) -> float:
    """One row alone, all logits, log-softmax over the vocabulary."""
    import torch

    ids = torch.tensor([row.context + row.continuation])
    with torch.inference_mode():
        logprobs = model(ids).logits.float().log_softmax(-1)[0]
    start = len(row.context) - 1
    return sum(float(logprobs[start + i, token]) for i, token in enumerate(row.continuation))


# ---- scoring -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "cohere"])
def test_padded_batches_equal_single_rows(family: str) -> None:
    """Gemma2 caps and Cohere scales the logits after the head: the gathered rows go through it."""
    names = {"num_key_value_heads": 1, "head_dim": 16} if family == "gemma2" else {}
    model = pico_model(300, family=family, **names)
    rows = [
        TokenRow(i, 0, tuple(range(5, 8 + i)), tuple(range(20, 21 + (i * 3) % 5))) for i in range(7)
    ]
    engine = Engine(model, max_batch_tokens=40)
    engine.branching = False
    assert len(engine.plan(rows).blocks[0]) > 1
    expected = [naive(model, row) for row in rows]
    assert [one.logprob for one in engine.score(rows)] == pytest.approx(expected, abs=2e-5)


def test_bf16_differs_by_rounding_only() -> None:
    import torch

    rows = [TokenRow(0, 0, (5, 6, 7), (8, 9))]
    model = pico_model(300)
    exact = Engine(model).score(rows)[0].logprob
    rounded = Engine(model.to(torch.bfloat16)).score(rows)[0].logprob
    assert rounded == pytest.approx(exact, rel=0.05)


# ---- text to tokens ----------------------------------------------------------------------------


def harness_pair(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """The split that lm-evaluation-harness 0.4.13 documents for causal models."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    whole, before = tokenizer.encode(context + continuation), tokenizer.encode(context)
    return before, whole[len(before) :]


@given(st.text("ab the inn\n ", min_size=1, max_size=20), st.text("ab room ", min_size=1))
@settings(max_examples=80, deadline=None)
def test_context_and_option_are_split_as_the_harness_does(context: str, option: str) -> None:
    tokenizer = _TOKENIZER
    if not context.strip():
        return
    (row,) = encode(tokenizer, [(context, [option])], max_length=999).rows or (None,)
    before, after = harness_pair(tokenizer, context, option)
    if after:
        assert row is not None
        assert (list(row.context), list(row.continuation)) == (before, after)


_TOKENIZER = pico_tokenizer()


def _odd(kind: str) -> Any:
    """Tokenizers that add a space in front, as Llama 2 and GPT-2 may, or drop those at the ends."""
    from tokenizers import normalizers, pre_tokenizers

    tokenizer = pico_tokenizer()
    backend = tokenizer.backend_tokenizer
    if kind == "prefix space":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif kind == "metaspace":
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        backend.normalizer = normalizers.Sequence(steps)
    else:
        backend.normalizer = normalizers.Strip()
    return tokenizer


@pytest.mark.parametrize("kind", ["prefix space", "metaspace", "strip"])
def test_tokenizers_that_add_or_drop_spaces_are_split_as_the_harness_does(kind: str) -> None:
    tokenizer = _odd(kind)
    context = "Question: is the inn red?\nAnswer: "
    options = ["yes", " no", "a room ", "the inn  has"]
    rows = encode(tokenizer, [(context, options)], max_length=99).rows
    expected = [harness_pair(tokenizer, context, option) for option in options]
    assert [(list(row.context), list(row.continuation)) for row in rows] == expected
    assert len({row.continuation for row in rows}) == 4


def test_a_token_over_the_end_of_the_context_is_counted() -> None:
    """The whole has a token "inn", the context alone ends in another one."""
    encoded = encode(_TOKENIZER, [("the in", ["n has", " a room"])], max_length=99)
    before = _TOKENIZER.encode("the in")
    assert _TOKENIZER.encode("the inn has")[: len(before)] != before
    assert encoded.boundary_differs == 1


def test_text_without_a_context_starts_after_the_begin_token() -> None:
    encoded = encode(_TOKENIZER, [("", ["the inn"])], max_length=99)
    (row,) = encoded.rows
    assert row.context == (_TOKENIZER.bos_token_id,)
    assert list(row.continuation) == _TOKENIZER.encode("the inn")


def test_no_second_begin_token() -> None:
    tokenizer = pico_tokenizer()
    text = f"{tokenizer.bos_token}the inn"
    (row,) = encode(tokenizer, [(text, [" has"])], max_length=99).rows
    assert row.context.count(tokenizer.bos_token_id) == 1


def test_long_and_empty_examples_are_counted_and_left_out_whole() -> None:
    requests = [("the inn", [" has", " a" * 200]), ("the inn", [" has", ""]), ("the", [" inn"])]
    encoded = encode(_TOKENIZER, requests, max_length=50)
    assert (encoded.too_long, encoded.empty) == ({0}, {1})
    assert [row.example for row in encoded.rows] == [2]


def test_a_tokenizer_without_special_tokens_cannot_score_bare_text() -> None:
    tokenizer = pico_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(InputError, match="neither a beginning- nor an end-of-sequence"):
        encode(tokenizer, [("", ["the inn"])], max_length=99)


def test_a_context_that_is_no_token_starts_after_the_begin_token() -> None:
    from tokenizers.normalizers import Replace

    tokenizer = pico_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Replace("\u200b", "")
    (row,) = encode(tokenizer, [("\u200b", ["the inn"])], max_length=99).rows
    assert row.context == (tokenizer.bos_token_id,)
    assert list(row.continuation) == tokenizer.encode("the inn")


def test_an_answer_does_not_follow_the_end_that_a_tokenizer_adds() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = pico_tokenizer()
    requests = [("the inn", [" has", " a room"]), ("", ["the inn"])]
    expected = encode(tokenizer, requests, max_length=99)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", 2)]
    )
    assert tokenizer.encode("the inn")[-1] == 2
    assert encode(tokenizer, requests, max_length=99) == expected


# ---- formats -----------------------------------------------------------------------------------


def test_chat_and_plain_rendering() -> None:
    chat = choose_format(pico_tokenizer())
    assert chat.kind == "chat"
    assert chat.context("Hi") == "<|user|>Hi<|end|><|assistant|>"
    assert chat.continuation("yes", chat.context("Hi")) == "yes"
    assert chat.context("") == ""
    plain = choose_format(pico_tokenizer(chat=False))
    assert plain.name == "plain"
    assert plain.context("Q?\nAnswer:") == "Q?\nAnswer:"
    assert plain.continuation("yes", "Q?\nAnswer:") == " yes"
    assert plain.continuation("yes", "") == "yes"
    turns = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye"))
    assert plain.context(turns) == "User: Hi\nAssistant: Hello\nUser: Bye\nAssistant:"


def test_a_template_that_writes_the_date_is_asked_the_same_every_day() -> None:
    template = "{{ strftime_now('%d %b %Y') }}|{{ messages[0]['content'] }}"
    assert Format("chat", template).context("Hi") == "26 Jul 2024|Hi"


def test_chat_without_a_template_is_refused() -> None:
    with pytest.raises(InputError, match="no chat template"):
        choose_format(pico_tokenizer(chat=False), "chat")


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 'turn ' + 1 }}", "can only concatenate str"),
    ],
)
def test_a_template_that_refuses_a_conversation_is_said(template: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        Format("chat", template).context("Hi")


# ---- checkpoints -------------------------------------------------------------------------------


def test_a_changed_folder_has_another_fingerprint(
    tmp_path: Path, pico: Path, memory: FingerprintMemory
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pico, copy)
    first = resolve(str(copy), memory)
    assert first.fingerprint == resolve(str(pico), memory).fingerprint
    pico_model(len(pico_tokenizer()), seed=99).save_pretrained(copy)
    changed = resolve(str(copy), memory)
    assert changed.fingerprint != first.fingerprint
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert resolve(str(copy), memory).fingerprint != changed.fingerprint


def test_the_memory_outlives_the_process_and_sees_a_same_size_change(tmp_path: Path) -> None:
    path, notes = tmp_path / "weights.safetensors", tmp_path / "memory.json"
    path.write_bytes(b"a" * 100)
    first = FingerprintMemory(notes).sha256(path)
    assert str(path.resolve()) in json.loads(notes.read_text())
    assert FingerprintMemory(notes).sha256(path) == first
    path.write_bytes(b"b" * 100)
    assert FingerprintMemory(notes).sha256(path) != first


@pytest.mark.parametrize(
    ("remove", "add", "message"),
    [
        (["model.safetensors"], {}, "no weights"),
        (["model.safetensors"], {"pytorch_model.bin": b"x"}, "only pickled weights"),
        (["config.json"], {}, "no config.json"),
        (["tokenizer.json"], {}, "no tokenizer"),
    ],
)
def test_incomplete_folders_are_refused(
    tmp_path: Path,
    pico: Path,
    memory: FingerprintMemory,
    remove: list[str],
    add: dict[str, bytes],
    message: str,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(pico, folder)
    for name in remove:
        (folder / name).unlink()
    for name, content in add.items():
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        resolve(str(folder), memory)


def test_names_that_are_nothing(memory: FingerprintMemory, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such model folder"):
        resolve("./nowhere", memory)
    with pytest.raises(InputError, match="hub cannot be reached"):
        resolve("nobody/nothing", memory)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        resolve(str(tmp_path / "file"), memory)


def test_damaged_and_partial_weights(tmp_path: Path, pico: Path, memory: FingerprintMemory) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(pico, folder)
    weights = {n: w.clone() for n, w in load_file(folder / "model.safetensors").items()}
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        load_model(resolve(str(folder), memory))
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="1 weights are not in the files"):
        load_model(resolve(str(folder), memory))


def test_no_gpu_is_said() -> None:
    import torch

    if torch.cuda.is_available():
        assert choose_device() == "cuda"
    else:
        assert choose_device() == "cpu"
        with pytest.raises(InputError, match="no GPU"):
            choose_device("cuda:0")
    with pytest.raises(InputError, match="no such device"):
        choose_device("gpu")


# ---- adapters and the pool ---------------------------------------------------------------------

ROWS = [TokenRow(0, 0, (5, 6, 7), (8, 9)), TokenRow(1, 0, (5, 6), (9, 10, 11))]


def _score(pool: ModelPool, checkpoint: Checkpoint) -> list[float]:
    with pool.use(checkpoint) as live:
        return [one.logprob for one in live.engine.score(ROWS)]


def _alone(checkpoint: Checkpoint) -> list[float]:
    """By Transformers and PEFT themselves."""
    from peft import PeftModel

    base = checkpoint.base or checkpoint
    model = load_model(base)
    if checkpoint.base is not None:
        model = PeftModel.from_pretrained(model, str(checkpoint.folder)).eval()
    return [naive(model, row) for row in ROWS]


def test_one_module_serves_a_base_and_its_adapters(
    tmp_path: Path, pico: Path, pico_tuned: Path, pico_adapter: Path, memory: FingerprintMemory
) -> None:
    base = resolve(str(pico), memory)
    adapter = resolve(str(pico_adapter), memory)
    second = resolve(str(make_adapter(tmp_path / "second", pico, seed=5)), memory, base=base)
    assert adapter.base is not None
    assert adapter.base.fingerprint == base.fingerprint
    pool = ModelPool()
    expected = {c.fingerprint: _alone(c) for c in (base, adapter, second)}
    assert expected[base.fingerprint] != expected[adapter.fingerprint]
    for checkpoint in (base, adapter, base, second, adapter, base):
        got = _score(pool, checkpoint)
        assert got == pytest.approx(expected[checkpoint.fingerprint], abs=1e-5)
    other = resolve(str(pico_tuned), memory)
    assert _score(pool, other) == pytest.approx(_alone(other), abs=1e-5)


def test_a_folder_of_whole_weights_and_an_adapter_is_refused(
    tmp_path: Path, pico: Path, pico_adapter: Path, memory: FingerprintMemory
) -> None:
    """Transformers would apply the adapter without a word."""
    folder = tmp_path / "both"
    shutil.copytree(pico, folder)
    for path in pico_adapter.glob("adapter*"):
        shutil.copyfile(path, folder / path.name)
    with pytest.raises(InputError, match="whole weights and an adapter"):
        resolve(str(folder), memory)


def test_the_end_of_a_chain_is_audited_against_its_bottom(
    tmp_path: Path, pico: Path, pico_tuned: Path, pico_adapter: Path, memory: FingerprintMemory
) -> None:
    second = make_adapter(tmp_path / "second", pico, seed=9)
    config = json.loads((second / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(pico_adapter)
    (second / "adapter_config.json").write_text(json.dumps(config))
    bottom = resolve(str(pico), memory)
    chain = resolve(str(second), memory, base=bottom)
    assert chain.base is not None
    assert chain.root.fingerprint == bottom.fingerprint
    assert chain == resolve(str(second), memory)
    with pytest.raises(InputError, match="trained on another base"):
        resolve(str(second), memory, base=resolve(str(pico_tuned), memory))


def test_an_adapter_on_an_adapter_stands_on_its_parent(
    tmp_path: Path, pico: Path, pico_adapter: Path, memory: FingerprintMemory
) -> None:
    """Switched off, the second adapter leaves base + first adapter, not the base."""
    from peft import PeftModel

    second = make_adapter(tmp_path / "second", pico, seed=9)
    config = json.loads((second / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(pico_adapter)
    (second / "adapter_config.json").write_text(json.dumps(config))
    parent, chain = resolve(str(pico_adapter), memory), resolve(str(second), memory)
    assert chain.base == parent
    merged = PeftModel.from_pretrained(
        load_model(resolve(str(pico), memory)), str(pico_adapter)
    ).merge_and_unload()
    expected = [naive(merged, row) for row in ROWS]
    both = PeftModel.from_pretrained(merged, str(second)).eval()
    pool = ModelPool()
    assert _score(pool, chain) == pytest.approx([naive(both, row) for row in ROWS], abs=1e-5)
    assert _score(pool, parent) == pytest.approx(expected, abs=1e-5)
    assert expected != pytest.approx(_alone(resolve(str(pico), memory)), abs=1e-3)


def test_an_adapter_that_changes_its_base_gets_its_own_module(
    tmp_path: Path, pico: Path, memory: FingerprintMemory
) -> None:
    """PiSSA subtracts the principal part from the base weights on loading."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pico)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa")
    get_peft_model(model, config).save_pretrained(tmp_path / "pissa")
    base = resolve(str(pico), memory)
    pissa = resolve(str(tmp_path / "pissa"), memory, base=base)
    pool = ModelPool()
    before = _score(pool, base)
    _score(pool, pissa)
    assert not pool._shares_base
    assert _score(pool, base) == before == pytest.approx(_alone(base), abs=1e-5)


def test_an_adapter_for_another_base_is_refused(
    tmp_path: Path, pico: Path, pico_tuned: Path, pico_adapter: Path, memory: FingerprintMemory
) -> None:
    other = resolve(str(pico_tuned), memory)
    with pytest.raises(InputError, match="trained on another base"):
        resolve(str(pico_adapter), memory, base=other)


def test_an_adapter_of_another_shape_is_refused(
    tmp_path: Path, pico: Path, pico_adapter: Path, memory: FingerprintMemory
) -> None:
    wide = tmp_path / "wide"
    tokenizer = pico_tokenizer()
    pico_model(len(tokenizer), hidden_size=64).save_pretrained(wide)
    tokenizer.save_pretrained(wide)
    lost = tmp_path / "lost"  # the base it names is gone, so only the shapes can tell
    shutil.copytree(pico_adapter, lost)
    config = json.loads((lost / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "gone/base"
    (lost / "adapter_config.json").write_text(json.dumps(config))
    checkpoint = resolve(str(lost), memory, base=resolve(str(wide), memory))
    with pytest.raises(InputError, match="does not fit the base"):
        _score(ModelPool(), checkpoint)


def test_an_adapter_with_foreign_names_is_refused(
    tmp_path: Path, pico: Path, pico_adapter: Path, memory: FingerprintMemory
) -> None:
    """PEFT only warns, and goes on with random weights in place of the missing ones."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "foreign"
    shutil.copytree(pico_adapter, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    renamed = {n.replace("lora_A", "lora_A.other"): w.clone() for n, w in weights.items()}
    save_file(renamed, folder / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="do not match the base"):
        _score(ModelPool(), resolve(str(folder), memory))


def test_a_pickled_adapter_is_refused(
    tmp_path: Path, pico_adapter: Path, memory: FingerprintMemory
) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(pico_adapter, folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match="only pickled weights"):
        resolve(str(folder), memory)


def test_a_tokenizer_with_more_entries_than_the_model_is_refused(
    tmp_path: Path, memory: FingerprintMemory
) -> None:
    tokenizer = pico_tokenizer()
    pico_model(len(tokenizer) - 4).save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match="its tokenizer has"):
        _score(ModelPool(), resolve(str(tmp_path / "small"), memory))


def test_tokenizer_hashes_tell_tokenizers_apart(
    tmp_path: Path, pico: Path, pico_tuned: Path, memory: FingerprintMemory
) -> None:
    same = [tokenizer_hash(load_tokenizer(resolve(str(f), memory))) for f in (pico, pico_tuned)]
    assert same[0] == same[1]
    other = make_pico(tmp_path / "other", extra_words="zebra zebra quite other words")
    assert tokenizer_hash(load_tokenizer(resolve(str(other), memory))) != same[0]
