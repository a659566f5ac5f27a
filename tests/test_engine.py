"""The engine within the memory there is: batches shrink, and the numbers stay."""

from typing import Any

import pytest
import torch

from lethe.errors import InputError
from lethe.examples import Decoding
from lethe.models.engine import Engine
from tests.pico import pico_tokenizer
from tests.test_option_tree import family_model, rows_of


class Small(torch.nn.Module):
    """A head that runs out of memory beyond so many tokens: what a small GPU does."""

    def __init__(self, head: torch.nn.Module, most: int, error: Exception) -> None:
        super().__init__()
        self.head, self.most, self.error = head, most, error
        self.sizes: list[int] = []

    @property
    def weight(self) -> Any:
        return self.head.weight

    def forward(self, hidden: torch.Tensor) -> Any:
        self.sizes.append(hidden.shape[-2])
        if hidden.shape[-2] > self.most:
            raise self.error
        return self.head(hidden)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS)
def test_batches_shrink_when_memory_runs_out(error: Exception) -> None:
    rows = rows_of(examples=40)
    model = family_model("llama")
    exact = [one.logprob for one in Engine(model).score(rows)]
    engine = Engine(model)
    head = Small(model.lm_head, most=20, error=error)
    model.lm_head = head
    assert [one.logprob for one in engine.score(rows)] == pytest.approx(exact, abs=5e-5)
    failures = sum(size > 20 for size in head.sizes)
    assert 0 < failures < 12  # learned after the first ones, not tried again for every batch


def test_a_row_that_never_fits_is_said_in_one_line() -> None:
    model = family_model("llama")
    engine = Engine(model)
    model.lm_head = Small(model.lm_head, most=0, error=ERRORS[0])
    with pytest.raises(InputError, match="does not fit into the memory there is"):
        engine.score(rows_of())


def test_other_errors_of_the_model_come_through() -> None:
    model = family_model("llama")
    engine = Engine(model)
    model.lm_head = Small(model.lm_head, most=0, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        engine.score(rows_of())


# ---- responses -----------------------------------------------------------------------------------

PROMPTS = [tuple(range(5, 8 + length)) for length in range(12)]
DECODING = Decoding(max_new_tokens=6)


def crowded(model: Any, most: int) -> list[int]:
    """Let the model's memory hold so many prompts at once; returns the sizes that failed."""
    original, failed = model.generate, []

    def generate(*, input_ids: torch.Tensor, **settings: Any) -> Any:
        if len(input_ids) > most:
            failed.append(len(input_ids))
            raise ERRORS[0]
        return original(input_ids=input_ids, **settings)

    model.generate = generate
    return failed


def test_responses_shrink_when_memory_runs_out() -> None:
    tokenizer = pico_tokenizer()
    engine = Engine(family_model("llama", vocab_size=len(tokenizer)))
    expected = engine.respond(tokenizer, PROMPTS, DECODING)
    failed = crowded(engine.model, most=4)
    assert engine.respond(tokenizer, PROMPTS, DECODING) == expected
    assert engine.respond(tokenizer, PROMPTS, DECODING) == expected
    assert failed == [12, 6]  # and never tried again


def test_a_prompt_that_never_fits_is_said_in_one_line() -> None:
    tokenizer = pico_tokenizer()
    engine = Engine(family_model("llama", vocab_size=len(tokenizer)))
    crowded(engine.model, most=0)
    with pytest.raises(InputError, match="a prompt of 3 tokens does not fit"):
        engine.respond(tokenizer, PROMPTS[:1], DECODING)
