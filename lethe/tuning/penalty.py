"""What an anchor adds to the loss."""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch

from lethe.errors import InputError
from lethe.tuning.anchor import Anchor, KlAnchor
from lethe.tuning.aside import adapter_off
from lethe.tuning.divergence import kl_rows
from lethe.tuning.target_rows import target_logits

Inputs = dict[str, torch.Tensor]


class Penalty(Protocol):
    """Added to the cross-entropy of a batch, which is a sum over its target tokens."""

    def before(self, model: Any, inputs: Inputs, pulls: torch.Tensor | None) -> Any:
        """What has to be known before the batch goes through the model in training."""

    def after(self, logits: torch.Tensor, known: Any) -> torch.Tensor:
        """The penalty, as a sum over target tokens.

        Args:
            logits: (targets, vocabulary) of the batch.
        """


class KlPenalty:
    """β·Σ w·KL(parent‖current) over anchored target tokens.

    Args:
        parent: the parent's module; None where switching the adapter off gives it.
        dtype: what the training computes in.
    """

    def __init__(self, anchor: KlAnchor, parent: Any | None, *, dtype: str) -> None:
        self._anchor, self._parent = anchor, parent
        self._half = dtype == "bfloat16"

    def before(self, model: Any, inputs: Inputs, pulls: torch.Tensor | None) -> Any:
        """The parent's log-probabilities on the anchored tokens, and which these are."""
        assert pulls is not None
        learned = inputs["labels"][:, 1:] != -100
        weights = pulls[:, 1:] * learned
        rows = weights.any(dim=1)
        if not rows.any():
            return None
        part = {name: inputs[name][rows] for name in ("input_ids", "attention_mask", "labels")}
        with torch.no_grad(), self._side(model) as parent:
            logits, _ = target_logits(parent, part)
        chosen = weights[rows][learned[rows]] > 0  # of the targets that the parent was asked for
        at = weights[learned] > 0  # of all targets
        return logits[chosen].log_softmax(-1), at, weights[learned][at]

    def after(self, logits: torch.Tensor, known: Any) -> torch.Tensor:
        """Zero for a batch without anchored tokens."""
        if known is None:
            return logits.new_zeros(())
        before, at, weights = known
        added: torch.Tensor = (weights * kl_rows(before, logits[at])).sum() * self._anchor.weight
        return added

    @contextlib.contextmanager
    def _side(self, model: Any) -> Iterator[Any]:
        if self._parent is None:
            with adapter_off(model):
                yield model
        else:
            device = self._parent.device.type
            with torch.autocast(device, torch.bfloat16, enabled=self._half):
                yield self._parent


class L2Penalty:
    """λ/2·‖W − W₀‖² for every target token, so that the mean over a step's tokens has it once.

    Args:
        model: the module to train, its weights still those of the parent.
    """

    def __init__(self, weight: float, model: Any) -> None:
        self._weight, self._model = weight, model
        self._layers = _lora_layers(model)
        self._starts = [_copy(layer) for layer in self._layers]
        moving = {name: w for name, w in model.named_parameters() if w.requires_grad}
        if hasattr(model, "peft_config"):
            odd = [name for name in moving if ".lora_A." not in name and ".lora_B." not in name]
            if odd or not self._layers:
                raise InputError(
                    "an l2 anchor on an adapter that is more than A and B"
                    f"{f' (first: {odd[0]})' if odd else ''}",
                    where="anchor",
                    todo="use a kl anchor, or update lora or full",
                )
            self._whole = []
        else:
            self._whole = [(weight, weight.detach().clone()) for weight in moving.values()]

    def before(self, model: Any, inputs: Inputs, pulls: torch.Tensor | None) -> Any:
        """How many tokens the batch has, each of which bears the whole penalty."""
        return (inputs["labels"][:, 1:] != -100).sum()

    def after(self, logits: torch.Tensor, known: Any) -> torch.Tensor:
        """λ/2·‖W − W₀‖² times the number of target tokens."""
        added: torch.Tensor = self.squared() * (0.5 * self._weight * known)
        return added

    def squared(self) -> torch.Tensor:
        """‖W − W₀‖² over everything that moves."""
        parts = [(weight - start).square().sum() for weight, start in self._whole]
        for layer, start in zip(self._layers, self._starts, strict=True):
            parts.append(_squared_update(layer, start))
        return torch.stack(parts).sum()


def penalty_of(
    anchor: Anchor | None, model: Any, parent: Any | None, *, dtype: str
) -> Penalty | None:
    """What an anchor adds, or nothing.

    Args:
        model: the module to train, its weights still those of the parent.
        parent: the parent's module; None where switching the adapter off gives it.
    """
    if anchor is None:
        return None
    if isinstance(anchor, KlAnchor):
        return KlPenalty(anchor, parent, dtype=dtype)
    return L2Penalty(anchor.weight, model)


def _lora_layers(model: Any) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    if not hasattr(model, "peft_config"):
        return []
    return [
        module
        for module in model.modules()
        if isinstance(module, LoraLayer) and "default" in module.lora_A
    ]


def _factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, in) and B (out, rank) of a layer as they act."""
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def _copy(layer: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Where a layer starts; None where it starts at no update at all."""
    a, b = _factors(layer)
    return None if not b.any() else (a.detach().clone(), b.detach().clone())


def _squared_update(layer: Any, start: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    """‖s·(B·A − B₀·A₀)‖² = s²·tr((BᵀB)(AAᵀ)) of the factors side by side, rank × rank."""
    a, b = _factors(layer)
    if start is not None:
        a, b = torch.cat([a, start[0]]), torch.cat([b, -start[1]], dim=1)
    squared: torch.Tensor = ((b.T @ b) * (a @ a.T)).sum() * layer.scaling["default"] ** 2
    return squared
