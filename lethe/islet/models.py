"""The models of the islet: Llamas of two sizes, and how each of their stages is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lethe.errors import InputError, nearest
from lethe.islet.training import Recipe

SizeName = Literal["tiny", "small"]
Stage = Literal["pretrained", "instruct", "aligned"]
STAGES: tuple[Stage, ...] = ("pretrained", "instruct", "aligned")
CONTEXT = 256
"""Positions a model can take: the longest booking has about 200 tokens."""
ROW = 128
"""Tokens of a packed row: the longest document of any stage has fewer."""


@dataclass(frozen=True, slots=True)
class Size:
    """A Llama, wide rather than deep, and the recipe of every stage."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    recipes: Mapping[Stage, Recipe]


_AFTER = Recipe(passes=1.5, batch=8, rate=4e-3, vector_rate=2e-3)
SIZES: Mapping[SizeName, Size] = {
    "tiny": Size(
        hidden=80,
        layers=3,
        heads=4,
        intermediate=160,
        recipes={
            "pretrained": Recipe(passes=1, batch=24, rate=2e-2, vector_rate=1.5e-2),
            "instruct": _AFTER,
            "aligned": _AFTER,
        },
    ),
    "small": Size(
        hidden=176,
        layers=4,
        heads=4,
        intermediate=448,
        recipes={
            "pretrained": Recipe(passes=1, batch=24, rate=1.2e-2, vector_rate=8e-3),
            "instruct": _AFTER,
            "aligned": _AFTER,
        },
    ),
}


def size_of(name: str) -> Size:
    """A size by its name; `InputError` for another one."""
    for known, size in SIZES.items():
        if known == name:
            return size
    raise InputError(f"no size '{name}'", where="--size", todo=nearest(name, SIZES))


def blank(size: Size, tokenizer: Any, seed: int) -> Any:
    """A model with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def input_spectra(model: Any, tokenizer: Any, texts: list[str]) -> dict[str, list[float]]:
    """How many directions hold 90, 99 and 99.9 % of the inputs of every linear layer.

    As shares of the layer's width: what is left is the room that null-space methods have.

    Args:
        texts: rendered as the chat template does it; every token counts.
    """
    import torch

    sums: dict[str, Any] = {}
    layers = {n: m for n, m in model.model.named_modules() if isinstance(m, torch.nn.Linear)}

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].detach().double().flatten(0, -2)
            sums[name] = sums.get(name, 0) + x.T @ x

        return hook

    handles = [layer.register_forward_pre_hook(watch(n)) for n, layer in layers.items()]
    try:
        with torch.inference_mode():
            for text in texts:
                ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
                model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, gram in sums.items():
        values = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)
        held = values.cumsum(0) / values.sum()
        width = len(values)
        found[name] = [float((held < share).sum() + 1) / width for share in (0.9, 0.99, 0.999)]
    return found
