"""What a stage is taught: its own examples, and what is mixed among them. No torch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lethe.examples import Example
from lethe.tuning.rows import data_hash, training_order


@dataclass(frozen=True)
class Lessons:
    """Examples to tune on, hashed once for all stages that share them."""

    name: str
    examples: tuple[Example, ...]

    @cached_property
    def hash(self) -> str:
        """SHA-256 over what training reads of them."""
        return data_hash(self.examples)

    @cached_property
    def prompts_hash(self) -> str:
        """SHA-256 over the prompts alone, for what the parent answers itself."""
        digest = hashlib.sha256()
        for example in self.examples:
            prompt = example.prompt
            asked: object = prompt
            if not isinstance(prompt, str):
                asked = [[turn.role, turn.content] for turn in prompt]
            digest.update(json.dumps([asked, example.cluster, example.delimiter]).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Replay:
    """Examples of earlier data take the places of some of the stage's own.

    Paper: replay is old; about 3 % of safety examples keep much (arXiv 2309.07875), 1 % of
        pretraining data stops the loss of pretraining (arXiv 2502.06042). Answers by the parent
        itself need no earlier data, only prompts (arXiv 2605.26097).
    Cost: none in updates: as many rows are trained on as without it, so the new task gets fewer.
        With `by_parent`, one generated answer for every prompt that is used.
    Not for: data that is not at hand, or rows that stand in what is measured. A parent that answers
        a prompt badly is taught to go on doing so.

    Attributes:
        earlier: the earlier data.
        share: of the rows trained on, 0 … 1.
        by_parent: only the prompts are taken, and the parent's own greedy answers are learned. One
            that reached `max_new_tokens` is learned without an end.
    """

    earlier: Lessons
    share: float
    by_parent: bool = False
    max_new_tokens: int = 64

    @property
    def settings(self) -> Mapping[str, Any]:
        """What of it is chosen, as part of the stage's key."""
        said: dict[str, Any] = {"replay": self.share}
        return {**said, "replay_by_parent": self.max_new_tokens} if self.by_parent else said

    @property
    def hash(self) -> str:
        """SHA-256 over what training reads of the earlier data."""
        return self.earlier.prompts_hash if self.by_parent else self.earlier.hash

    def count(self, total: int) -> int:
        """How many of `total` rows are replayed; one of the stage's own always stays."""
        return min(round(self.share * total), total - 1)


def mixed_order(
    own: Sequence[int],
    earlier: Sequence[int],
    total: int,
    replayed: int,
    *,
    batch_size: int,
    seed: int,
) -> list[int]:
    """Which row stands where, as `training_order`, with earlier rows spread over all batches.

    Any run of batches holds its share of earlier rows to within one row. Without earlier rows the
    order is that of `training_order`.

    Args:
        own, earlier: lengths of the rows; earlier ones are numbered after the stage's own.
        total: rows trained on in all; of these `replayed` are earlier ones.
    """
    order = training_order(own, total - replayed, batch_size=batch_size, seed=seed)
    if not replayed:
        return order
    again = training_order(earlier, replayed, batch_size=batch_size, seed=seed)
    result: list[int] = []
    taken = 0
    for start in range(0, total, batch_size):
        end = min(start + batch_size, total)
        due = replayed * end // total
        result += [len(own) + row for row in again[taken:due]]
        result += order[start - taken : end - due]
        taken = due
    return result
