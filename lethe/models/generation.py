"""Greedy responses: one call of the model's own `generate` for each batch of the plan."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from lethe.examples import Decoding


def responses(
    model: Any, tokenizer: Any, prompts: Sequence[tuple[int, ...]], decoding: Decoding
) -> list[str]:
    """What the model answers to each prompt of one batch, greedily; special tokens are left out.

    A response ends at a token that the model or its tokenizer names as the end, before the first
    stop text (which may span tokens), or after `max_new_tokens`. Nothing else the model's folder
    says about decoding (sampling, penalties, forced or suppressed tokens) has a part in it. Padding
    stands on the left and is masked, so in float32 a response does not depend on its batch, exact
    ties apart. One transfer from the device for a batch, and a small one a token where there are
    stop texts.

    Args:
        model: a causal language model in evaluation mode.
        prompts: token ids, none of them empty, each short enough to leave room for the response.
    """
    lengths = {len(prompt) for prompt in prompts}
    if len(lengths) == 1 or masks_padding(model, prompts[0]):
        return _together(model, tokenizer, prompts, decoding)
    found: dict[int, str] = {}
    for length in lengths:
        members = [index for index, prompt in enumerate(prompts) if len(prompt) == length]
        texts = _together(model, tokenizer, [prompts[index] for index in members], decoding)
        found.update(zip(members, texts, strict=True))
    return [found[index] for index in range(len(prompts))]


def masks_padding(model: Any, prompt: tuple[int, ...]) -> bool:
    """Whether padding in front of a prompt leaves what the model predicts after it as it was.

    Some recurrent models (RWKV) take a mask and ignore it. Rounding is far below a quarter of the
    logits' spread, reading the padding far above.
    """
    import inspect

    import torch

    pads = 4
    ids = torch.tensor([[*prompt[:1] * pads, *prompt[:8]]], device=model.device)
    mask = torch.ones_like(ids)
    mask[:, :pads] = 0
    named: dict[str, Any] = {}
    if "position_ids" in inspect.signature(model.forward).parameters:
        named["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        alone = model(input_ids=ids[:, pads:], use_cache=False).logits[0, -1].float()
        padded = model(input_ids=ids, attention_mask=mask, use_cache=False, **named)
        moved = (padded.logits[0, -1].float() - alone).abs().max()
    return bool(moved <= alone.std() / 4)


def _together(
    model: Any, tokenizer: Any, prompts: Sequence[tuple[int, ...]], decoding: Decoding
) -> list[str]:
    import torch
    from transformers import GenerationConfig

    width = max(map(len, prompts))
    ends = end_tokens(model, tokenizer)
    pad = _pad_token(tokenizer, ends)
    ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    settings = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        eos_token_id=list(ends) or None,
        pad_token_id=pad,
    )

    def read(rows: Sequence[Sequence[int]]) -> list[str]:
        return [_text(tokenizer, row, ends) for row in rows]

    stops = [_stopping(decoding.stop, read, width)] if decoding.stop else []
    with torch.inference_mode(), _own_settings_aside(model):
        found = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            generation_config=settings,
            stopping_criteria=stops,
        )
    return [_cut(text, decoding.stop) for text in read(found[:, width:].tolist())]


def end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a response: those of the model's settings, and its tokenizer's.

    Tuned models often keep their base's settings and end their turns by the tokenizer's token.
    """
    said = model.generation_config.eos_token_id
    own = said if isinstance(said, list | tuple) else [said]
    every = {int(token) for token in (*own, tokenizer.eos_token_id) if token is not None}
    return tuple(sorted(every))


def _pad_token(tokenizer: Any, ends: Sequence[int]) -> int:
    """Any token will do: padding is masked in front, and cut off behind the end."""
    token = tokenizer.pad_token_id
    if token is not None:
        return int(token)
    return ends[0] if ends else 0


def _text(tokenizer: Any, ids: Sequence[int], ends: Sequence[int]) -> str:
    end = next((at for at, token in enumerate(ids) if token in ends), len(ids))
    text: str = tokenizer.decode(
        ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


def _cut(text: str, stops: Sequence[str]) -> str:
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


@contextmanager
def _own_settings_aside(model: Any) -> Iterator[None]:
    """`generate` fills whatever a call leaves open from the model's own settings."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _stopping(
    stops: Sequence[str], read: Callable[[Sequence[Sequence[int]]], list[str]], width: int
) -> Any:
    """Ends a row once its response holds a stop text; the text itself is cut afterwards.

    Only the tail is decoded for every token (a token holds a byte at least); a find is confirmed on
    the whole response, since some tokenizers write the first token of a text otherwise.
    """
    import torch
    from transformers import StoppingCriteria

    tail = max(len(stop.encode()) for stop in stops) + 4

    def holds(text: str) -> bool:
        return any(stop in text for stop in stops)

    class StopTexts(StoppingCriteria):
        def __init__(self) -> None:
            self.ended: set[int] = set()

        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            rows = [row for row in range(len(input_ids)) if row not in self.ended]
            start = max(width, input_ids.shape[1] - tail)
            texts = read(input_ids[rows, start:].tolist())
            likely = [row for row, text in zip(rows, texts, strict=True) if holds(text)]
            whole = read(input_ids[likely, width:].tolist()) if likely else []
            self.ended.update(row for row, text in zip(likely, whole, strict=True) if holds(text))
            done = [row in self.ended for row in range(len(input_ids))]
            return torch.tensor(done, device=input_ids.device)

    return StopTexts()
