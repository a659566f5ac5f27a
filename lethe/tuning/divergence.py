"""KL(parent‖tuned): how far a stage has moved the model on prompts of the new task."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from lethe.tuning.aside import adapter_off
from lethe.tuning.batches import batches_of, inputs_of
from lethe.tuning.rows import TuningRow
from lethe.tuning.target_rows import target_logits

MOST_BYTES = 2**30
"""Log-probabilities of the parent that are kept over a training."""


def kl_rows(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """KL(before‖after) of every row, in nats.

    Args:
        before: log-probabilities (rows, vocabulary).
        after: logits (rows, vocabulary).
    """
    return (before.exp() * (before - after.log_softmax(-1))).sum(-1)


class HeldOut:
    """Rows kept from training, with what the parent says on them, computed once.

    Of large vocabularies only the first rows are kept, as many as `MOST_BYTES` hold and one at
    least.

    Args:
        parent: the parent's module, in evaluation mode and float32.
        rows: held-out rows.
    """

    def __init__(self, parent: Any, rows: Sequence[TuningRow]) -> None:
        self._rows = rows
        vocabulary = parent.get_output_embeddings().weight.shape[0]
        size, kept = 0, list[TuningRow]()
        for row in rows:
            size += 4 * vocabulary * row.targets
            if kept and size > MOST_BYTES:
                break
            kept.append(row)
        self.whole = len(kept) == len(rows)
        self._kept = kept
        self._batches = list(batches_of(kept))
        with torch.inference_mode():
            self._before = [self._logits(parent, batch).log_softmax(-1).cpu() for batch in self]

    def __iter__(self) -> Any:
        return iter([[self._kept[index] for index in batch] for batch in self._batches])

    def reading(self, model: Any) -> float:
        """Mean over target positions of the full-vocabulary KL(parent‖model), nats per token.

        On reference text, not on sampled text, which is another quantity. Both sides in float32.

        Args:
            model: in evaluation mode, without autocast.
        """
        total, count = 0.0, 0
        with torch.inference_mode():
            for batch, before in zip(self, self._before, strict=True):
                after = self._logits(model, batch)
                total += kl_rows(before.to(after.device), after).double().sum().item()
                count += len(after)
        return total / count

    def of_all(self, model: Any, parent: Any | None) -> float:
        """The same over all rows, also those that are not kept.

        Args:
            parent: the parent's module; None where switching the adapter off gives it.
        """
        if self.whole:
            return self.reading(model)
        total, count = 0.0, 0
        with torch.inference_mode():
            for batch in batches_of(self._rows):
                rows = [self._rows[index] for index in batch]
                off = adapter_off(model) if parent is None else contextlib.nullcontext()
                with off:
                    before = self._logits(model if parent is None else parent, rows)
                after = self._logits(model, rows)
                total += kl_rows(before.log_softmax(-1), after).double().sum().item()
                count += len(after)
        return total / count

    @staticmethod
    def _logits(model: Any, rows: Sequence[TuningRow]) -> torch.Tensor:
        return target_logits(model, inputs_of(rows, model))[0]
