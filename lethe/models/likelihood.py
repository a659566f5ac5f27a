"""Log-likelihoods of continuations: one forward pass for each batch of the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lethe.models.needed_rows import only_rows
from lethe.models.option_tree import inputs_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lethe.models.batch_plan import TokenRow, Tree


@dataclass(frozen=True, slots=True, order=True)
class Scored:
    """What a model gives to one continuation.

    Attributes:
        logprob: summed log-probability, in nats.
        greedy: whether every token of it was the most probable one.
    """

    logprob: float
    greedy: bool


def log_likelihoods(model: Any, trees: Sequence[Tree], rows: Sequence[TokenRow]) -> list[Scored]:
    """What the model gives to the continuations of a batch, tree by tree in the order of `rows`.

    The output head sees only the tokens that predict one of a continuation, each once however many
    rows share it, and the log-softmax is taken in float32 whatever the model computes in. One
    transfer from the device for a batch.

    Args:
        model: a causal language model in evaluation mode.
        trees: padded on the right to the longest of them.
        rows: the rows of the plan that the trees point to.
    """
    import torch

    inputs = inputs_of(model, trees)
    width = inputs["input_ids"].shape[1]
    needed: dict[int, int] = {}  # place in the flattened batch → row of logits
    logit_rows: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    count = 0
    for number, tree in enumerate(trees):
        for row, path in zip(tree.rows, tree.paths, strict=True):
            start = number * width
            logit_rows.extend(needed.setdefault(start + token, len(needed)) for token in path)
            targets.extend(rows[row].continuation)
            owners.extend([count] * len(path))
            count += 1
    device = model.device
    at, wanted, owner = (torch.tensor(x, device=device) for x in (logit_rows, targets, owners))
    with torch.inference_mode(), only_rows(model, torch.tensor(list(needed), device=device)):
        logits = model(**inputs, use_cache=False).logits
        logits = logits.reshape(-1, logits.shape[-1])
        chosen = logits[at, wanted].float()
        missed = chosen < logits.amax(dim=1).float()[at]
        token_logprobs = chosen - torch.logsumexp(logits.float(), dim=1)[at]
        sums = torch.zeros((2, count), dtype=torch.float64, device=device)
        sums[0].index_add_(0, owner, token_logprobs.double())
        sums[1].index_add_(0, owner, missed.double())
    logprobs, misses = sums.cpu().tolist()
    return [Scored(logprob, miss == 0) for logprob, miss in zip(logprobs, misses, strict=True)]
