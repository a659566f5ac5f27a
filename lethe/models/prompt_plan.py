"""The prompt plan: which prompts are answered together, and in which order. No torch.

As the batch plan of log-likelihoods, it is data with a hash: all checkpoints of an audit that share
a tokenizer answer under the same plan, because in bf16 another batch can turn a near tie, and a
greedy response goes its own way from there.
"""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from lethe.examples import Decoding
from lethe.models.batch_plan import BLOCK_EXAMPLES
from lethe.models.encode import first_token, token_ids

BATCH_TOKENS = 8192
"""Tokens of a batch, prompts, padding and responses counted: its cache of keys and values."""


@dataclass(frozen=True)
class PromptPlan:
    """Batches of prompts, grouped into blocks that are answered and written together.

    Attributes:
        prompts: token ids of every example's prompt.
        decoding: how they are answered.
        blocks: for each block its batches, each of them indices into `prompts`.
        too_long: examples whose prompt leaves no room for a whole response; none is cut.
    """

    prompts: tuple[tuple[int, ...], ...]
    decoding: Decoding
    blocks: tuple[tuple[tuple[int, ...], ...], ...]
    too_long: frozenset[int]

    @cached_property
    def hash(self) -> str:
        """SHA-256 over every token, the decoding and the batching."""
        digest = hashlib.sha256()
        for ids in self.prompts:
            digest.update(array("q", (len(ids), *ids)).tobytes())
        digest.update(repr((asdict(self.decoding), self.blocks, sorted(self.too_long))).encode())
        return digest.hexdigest()

    @property
    def tokens(self) -> int:
        """Tokens of the prompts that are answered."""
        answered = (at for block in range(len(self.blocks)) for at in self.examples(block))
        return sum(len(self.prompts[index]) for index in answered)

    def batches(self, block: int) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
        """The batches of one block, each a list of (example, prompt ids)."""
        for batch in self.blocks[block]:
            yield [(index, self.prompts[index]) for index in batch]

    def examples(self, block: int) -> set[int]:
        """The examples of one block."""
        return {index for batch in self.blocks[block] for index in batch}


def plan_prompts(
    prompts: Sequence[tuple[int, ...]],
    decoding: Decoding,
    *,
    max_length: int,
    max_batch_tokens: int = BATCH_TOKENS,
) -> PromptPlan:
    """Long prompts first, so that memory runs out at the start or never; padding stays small.

    Args:
        prompts: token ids of all prompts of a suite, none of them empty.
        max_length: positions the model can take, for a prompt and its response together.
        max_batch_tokens: prompts × (longest prompt + new tokens) of a batch stay within it, which
            bounds the cache of keys and values (a longer one goes alone).
    """
    room = max_length - decoding.max_new_tokens
    too_long = frozenset(index for index, ids in enumerate(prompts) if len(ids) > room)
    order = sorted(
        (index for index in range(len(prompts)) if index not in too_long),
        key=lambda index: (-len(prompts[index]), index),
    )
    blocks = []
    for start in range(0, len(order), BLOCK_EXAMPLES):
        batches: list[list[int]] = []
        for index in order[start : start + BLOCK_EXAMPLES]:
            longest = len(prompts[batches[-1][0]]) if batches else 0
            size = (len(batches[-1]) + 1) * (longest + decoding.max_new_tokens) if batches else 0
            if batches and size <= max_batch_tokens:
                batches[-1].append(index)
            else:
                batches.append([index])
        blocks.append(tuple(tuple(batch) for batch in batches))
    return PromptPlan(tuple(prompts), decoding, tuple(blocks), too_long)


def encode_prompts(tokenizer: Any, contexts: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of contexts, each distinct text once, in one batch.

    A context that writes the beginning-of-sequence token itself (a chat template) gets no second
    one; where there is nothing to encode, that token (else end-of-sequence) stands for it.

    Raises:
        InputError: a prompt is empty and the tokenizer has neither of the two tokens.
    """
    ids = token_ids(tokenizer, contexts)
    return [ids[text] or first_token(tokenizer) for text in contexts]
