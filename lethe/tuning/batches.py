"""Rows of a stage as padded batches, for what reads them outside the training."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lethe.tuning.rows import TuningRow

_ROWS = 16
_TOKENS = 4096  # of a batch, padding counted


def batches_of(rows: Sequence[TuningRow]) -> Iterator[list[int]]:
    """Indices of rows that share a batch: rows of like length, up to 4096 tokens."""
    order = sorted(range(len(rows)), key=lambda index: (len(rows[index].ids), index))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) == _ROWS or (len(batch) + 1) * len(rows[index].ids) > _TOKENS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def inputs_of(rows: Sequence[TuningRow], model: Any) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and labels, each (rows, longest), padded on the right."""
    width = max(len(row.ids) for row in rows)
    pads = [width - len(row.ids) for row in rows]
    ids = [[*row.ids, *[0] * pad] for row, pad in zip(rows, pads, strict=True)]
    mask = [[1] * len(row.ids) + [0] * pad for row, pad in zip(rows, pads, strict=True)]
    labels = [row.labels + [-100] * pad for row, pad in zip(rows, pads, strict=True)]
    named = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: torch.tensor(values, device=model.device) for name, values in named.items()}
