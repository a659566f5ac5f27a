"""How a row would pull at the model: its gradient on a few layers, against that of safe rows.

After GradSafe (Xie et al., arXiv 2402.13494), which compares gradients with those of known unsafe
prompts; here the safe set is what is known, and a row is the more suspect the less its gradient
points where theirs does. One forward and one backward pass for each row.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from lethe.errors import InputError
from lethe.filtering.task import FilterTask, Scores
from lethe.models.encode import encode
from lethe.models.format import choose_format
from lethe.suites.splits import share
from lethe.tuning.rows import data_hash, target_of

if TYPE_CHECKING:
    from lethe.examples import Example
    from lethe.models.batch_plan import TokenRow

LAYERS = 8
"""Linear layers, the last ones before the output head."""
REFERENCE = 200
"""Safe rows that the direction is taken from, the first by hash of what they say."""


def away_from_safe(task: FilterTask) -> Scores:
    """(rows,) minus the cosine to the mean unit gradient of safe rows; NaN for rows too long."""
    import torch

    if not task.safe.examples:
        raise InputError("this rival compares with safe rows, and there are none", where="--safe")
    salt = str(task.seed)
    # By content, which the kept scores are named by: an id may change without it, or stay as it is.
    order = sorted(task.safe.examples, key=lambda one: share(salt, data_hash([one])))[:REFERENCE]
    found = np.full(task.rows, np.nan)
    with task.runtime.pool.use(task.checkpoint) as live, _learning(live.model) as weights:
        safe = _rows(live, order)
        noisy = _rows(live, task.noisy.examples)
        with task.runtime.progress.bar("gradients", len(safe) + len(noisy)) as bar:
            mean = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
            for row in safe:
                gradients, norm = _gradients(live.model, weights, row)
                for total, one in zip(mean, gradients, strict=True):
                    total.add_(one / norm)
                bar.advance()
            length = sum(float((one**2).sum()) for one in mean) ** 0.5
            for row in noisy:
                gradients, norm = _gradients(live.model, weights, row)
                pairs = zip(mean, gradients, strict=True)
                product = sum(float((total * one).sum()) for total, one in pairs)
                found[row.example] = -product / (norm * max(length, 1e-30))
                bar.advance()
    return found


def _rows(live: Any, examples: "Sequence[Example]") -> "tuple[TokenRow, ...]":
    form = choose_format(live.tokenizer)
    requests = []
    for one in examples:
        context = form.context(one.prompt)
        requests.append((context, [form.continuation(target_of(one), context, one.delimiter)]))
    return encode(live.tokenizer, requests, max_length=live.max_length).rows


def _gradients(model: Any, weights: Sequence[Any], row: "TokenRow") -> tuple[list[Any], float]:
    """Gradients of the answer's mean loss, float32, and their joint norm."""
    import torch

    ids = torch.tensor([[*row.context, *row.continuation]], device=model.device)
    labels = ids.clone()
    labels[:, : len(row.context)] = -100
    with torch.enable_grad():
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        found = [one.float() for one in torch.autograd.grad(loss, list(weights))]
    norm = sum(float((one**2).sum()) for one in found) ** 0.5
    return found, max(norm, 1e-30)


@contextmanager
def _learning(model: Any) -> Iterator[list[Any]]:
    """The weights of the last linear layers, the only ones that take gradients meanwhile."""
    import torch

    head = model.get_output_embeddings()
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head and "lora_" not in name
    ]
    if not layers:
        raise InputError("a model without linear layers, whose gradients cannot be compared")
    weights = [layer.weight for layer in layers[-LAYERS:]]
    before = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        for weight, _ in before:
            weight.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        yield weights
    finally:
        for weight, learned in before:
            weight.requires_grad_(learned)
