"""The parent, as it has to be asked before an update is put on it, and found again afterwards."""

from typing import Any

import torch

from lethe.models.checkpoint import Checkpoint
from lethe.models.local import load_model
from lethe.tuning.aside import adapter_off
from lethe.tuning.course import Course
from lethe.tuning.divergence import HeldOut


class Before:
    """What the parent says on held-out rows, and where to find it during the training.

    Args:
        parent: the parent's module, before anything was put on it.
        course: what it is to be trained on.

    Attributes:
        held: the held-out rows; None without any.
    """

    def __init__(self, parent: Any, course: Course) -> None:
        self._probe = torch.tensor([course.rows[0].ids], device=parent.device)
        self._logits = self._read(parent)
        self.held = HeldOut(parent, course.held) if course.held else None

    def module(self, model: Any, checkpoint: Checkpoint) -> Any | None:
        """A second, frozen module of the parent; None where `model` with its adapter off gives the
        parent's logits to the bit.

        Some adapters (CorDA, PiSSA, OLoRA) change what they stand on.
        """
        config = getattr(model, "active_peft_config", None)
        if config is not None and config.peft_type == "LORA":
            with adapter_off(model):
                if torch.equal(self._read(model), self._logits):
                    return None
        return load_model(checkpoint, device=str(model.device)).requires_grad_(False)

    def divergence(self, model: Any, checkpoint: Checkpoint) -> float | None:
        """KL(parent‖model) on all held-out rows; None without any."""
        if self.held is None:
            return None
        model.eval()
        parent = None if self.held.whole else self.module(model, checkpoint)
        return self.held.of_all(model, parent)

    def _read(self, model: Any) -> torch.Tensor:
        with torch.inference_mode():
            found: torch.Tensor = model(input_ids=self._probe, use_cache=False).logits
        return found
