"""How small models are trained from nothing: Muon for matrices, AdamW for the rest, checkpoints.

Muon (Jordan et al. 2024) moves the matrices of the layers. A killed training goes on from its last
checkpoint, in the same bits on a CPU.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lethe.store import write_atomically

SAVE_EVERY = 60.0
"""Seconds of training that a killed run loses at most."""
_STATE = "state.json"
_FILES = "step-*.safetensors"


class Rates(Protocol):
    """What a recipe says of rates: the highest of matrices and of the rest; the rise, as a share
    of the steps."""

    @property
    def rate(self) -> float:
        """Of matrices."""

    @property
    def vector_rate(self) -> float:
        """Of embeddings, norms and biases."""

    @property
    def warmup(self) -> float:
        """Share of the steps over which both rise; then they fall to zero."""


class Descent:
    """Both optimisers of a model as one.

    Args:
        matrices: those of the model's parameters that Muon moves.
        decay: of the weights of these.
    """

    def __init__(
        self, model: Any, matrices: Sequence[Any], recipe: Rates, *, decay: float = 0.0
    ) -> None:
        import torch

        taken = {id(weight) for weight in matrices}
        vectors = [weight for weight in model.parameters() if id(weight) not in taken]
        self._model, self._recipe = model, recipe
        self.optimisers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(
                matrices, lr=recipe.rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(vectors, lr=recipe.vector_rate, weight_decay=0.0, betas=(0.9, 0.98)),
        )

    def step(self, loss: Any, at: float) -> None:
        """One step down a loss.

        Args:
            at: share of the steps that are done.
        """
        import torch

        factor = schedule(at, self._recipe.warmup)
        rates = (self._recipe.rate, self._recipe.vector_rate)
        for optimiser, rate in zip(self.optimisers, rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def save(self, partial: Path, note: Mapping[str, Any]) -> None:
        """Weights and moments as safetensors; the note that names them is written last.

        Args:
            note: JSON values, `step` and `recipe` among them.
        """
        from safetensors.torch import save_file

        partial.mkdir(parents=True, exist_ok=True)
        named = self._model.named_parameters()
        tensors = {f"weight/{name}": value.detach() for name, value in named}
        for number, state in enumerate(self._moments()):
            tensors |= {f"state/{number}/{name}": value for name, value in state.items()}
        name = f"step-{note['step']}.safetensors"
        save_file(tensors, partial / name)
        write_atomically(partial / _STATE, json.dumps({**note, "file": name}).encode())
        for old in partial.glob(_FILES):
            if old.name != name:
                old.unlink()

    def resume(self, partial: Path, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
        """Take up a checkpoint of the same recipe, and give its note; None: begin anew."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            note: dict[str, Any] = json.loads((partial / _STATE).read_text())
            if note["recipe"] != dict(recipe):
                return None
            tensors = load_file(partial / note["file"])
        except (OSError, ValueError, KeyError, SafetensorError):
            return None
        with torch.no_grad():
            for name, weight in self._model.named_parameters():
                weight.copy_(tensors[f"weight/{name}"])
        device = next(self._model.parameters()).device
        for number, state in enumerate(self._moments()):
            prefix = f"state/{number}/"
            state |= {
                # AdamW counts its steps on the processor, wherever the weights are
                name.removeprefix(prefix): value if value.ndim == 0 else value.to(device)
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
        return note

    def _moments(self) -> list[dict[str, Any]]:
        """The moments of every weight, in the order of the weights; made where missing."""
        return [
            optimiser.state[weight]
            for optimiser in self.optimisers
            for group in optimiser.param_groups
            for weight in group["params"]
        ]


def schedule(at: float, warmup: float) -> float:
    """Up over the warm-up, then down in a straight line."""
    return min((at + 1e-3) / warmup, (1 - at) / (1 - warmup))


def clear(partial: Path) -> None:
    """Remove the checkpoints of a training that is done."""
    for path in (partial / _STATE, *partial.glob(_FILES)):
        path.unlink(missing_ok=True)
