"""The engine: token rows in, log-likelihoods out, within the memory there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lethe.errors import InputError
from lethe.models.batch_plan import BatchPlan, TokenRow, Tree, plan_batches
from lethe.models.generation import responses
from lethe.models.likelihood import Scored, log_likelihoods
from lethe.models.option_tree import takes_trees

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lethe.examples import Decoding

BATCH_TOKENS = {"cpu": 512, "cuda": 16_384}
"""Tokens of a batch, padding counted: on a CPU more of them only leave its caches."""
BATCH_LOGITS = 2**26
"""Logits of a batch: 256 MiB in float32."""


class Engine:
    """Scores rows on one live model.

    Args:
        model: a causal language model in evaluation mode.
        max_batch_tokens: tokens of a batch, padding counted; by default what suits the device.
    """

    def __init__(self, model: Any, *, max_batch_tokens: int | None = None) -> None:
        self.model = model
        self.branching = takes_trees(model)
        self._limits = _limits(model, max_batch_tokens)
        # Tokens of a batch that memory allowed, once it has run out.
        self._fits = self._answers_fit = 0

    def plan(self, rows: Sequence[TokenRow]) -> BatchPlan:
        """The batch plan for this model."""
        max_tokens, max_scored = self._limits
        return plan_batches(
            rows, max_batch_tokens=max_tokens, max_scored=max_scored, branching=self.branching
        )

    def score(
        self, rows: Sequence[TokenRow], advance: Callable[[int], None] | None = None
    ) -> list[Scored]:
        """What the model gives to each row's continuation, in the order given.

        Args:
            advance: told how many rows are done, after each batch.
        """
        plan = self.plan(rows)
        found: dict[int, Scored] = {}
        for block in range(len(plan.blocks)):
            for trees in plan.batches(block):
                found.update(self.score_batch(trees, plan.rows))
                if advance:
                    advance(sum(len(tree.rows) for tree in trees))
        return [found[index] for index in range(len(rows))]

    def score_batch(self, trees: Sequence[Tree], rows: Sequence[TokenRow]) -> dict[int, Scored]:
        """One batch, by row index; in halves where memory runs out.

        Raises:
            InputError: not even one row fits.
        """
        width = max(len(tree.tokens) for tree in trees)
        divisible = len(trees) > 1 or len(trees[0].rows) > 1
        if self._fits and divisible and len(trees) * width > self._fits:
            return self._in_halves(trees, rows)
        try:
            scored = log_likelihoods(self.model, trees, rows)
            order = [row for tree in trees for row in tree.rows]
            return dict(zip(order, scored, strict=True))
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
        # Outside the handler, whose traceback holds the memory.
        self._fits = max(len(trees) * width // 2, 1)
        return self._in_halves(trees, rows)

    def respond(
        self, tokenizer: Any, prompts: Sequence[tuple[int, ...]], decoding: Decoding
    ) -> list[str]:
        """Greedy responses to one batch of prompts; in halves where memory runs out.

        Raises:
            InputError: not even one prompt fits.
        """
        size = len(prompts) * (max(map(len, prompts)) + decoding.max_new_tokens)
        if not (self._answers_fit and len(prompts) > 1 and size > self._answers_fit):
            try:
                return responses(self.model, tokenizer, prompts, decoding)
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
            self._answers_fit = max(size // 2, 1)
        _free_memory()
        if len(prompts) == 1:
            raise _too_large(f"a prompt of {len(prompts[0])} tokens")
        middle = len(prompts) // 2
        halves = prompts[:middle], prompts[middle:]
        return [text for half in halves for text in self.respond(tokenizer, half, decoding)]

    def _in_halves(self, trees: Sequence[Tree], rows: Sequence[TokenRow]) -> dict[int, Scored]:
        _free_memory()
        if len(trees) > 1:
            middle = len(trees) // 2
            first = self.score_batch(trees[:middle], rows)
            return first | self.score_batch(trees[middle:], rows)
        (tree,) = trees
        if len(tree.rows) == 1:
            raise _too_large(f"a row of {len(tree.tokens)} tokens")
        middle = len(tree.rows) // 2
        found: dict[int, Scored] = {}
        for members in (tree.rows[:middle], tree.rows[middle:]):
            part = plan_batches([rows[row] for row in members], max_batch_tokens=1)
            for index, one in enumerate(part.trees):
                scored = self.score_batch([one], part.rows)
                found.update({members[row]: scored[row] for row in part.trees[index].rows})
        return found


def _limits(model: Any, max_batch_tokens: int | None) -> tuple[int, int]:
    """Tokens of a batch, and how many of them may be read, for a model's vocabulary."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    tokens = max_batch_tokens or BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cuda"])
    return tokens, max(64, BATCH_LOGITS // vocabulary)


def _too_large(what: str) -> InputError:
    return InputError(
        f"{what} does not fit into the memory there is",
        todo="use --dtype bfloat16, another --device, or shorter examples",
    )


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: on a GPU an error of its own, on a CPU one that only says so."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "not enough memory" in str(error) or "can't allocate memory" in str(error)


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
