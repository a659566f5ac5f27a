"""What is done to the result of a stage. One step each. No torch before it runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lethe import environment
from lethe.errors import InputError
from lethe.models.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Checkpoint,
    check_unchanged,
    stage_record,
    weights_fingerprint,
)
from lethe.models.fingerprint import fingerprint
from lethe.models.local import load_model, quiet
from lethe.steps import Runtime
from lethe.store import Kind
from lethe.tuning import saving


@dataclass(frozen=True)
class Interpolate:
    """Go only a part of the way from the parent to the tuned model: θ₀ + α(θ − θ₀).

    Paper: the strongest trade-off among many in arXiv 2309.06256.
    Cost: no training, so many α cost one; each is measured anew. Adapters are scaled, whole models
        are stored again.
    Not for: choosing α on the rows it is then judged by.

    Attributes:
        parent: θ₀, what the stage started from.
        tuned: θ, what the stage gave.
        alpha: 0 is the parent, 1 the tuned model, both exactly.
    """

    kind: ClassVar[str] = "interpolate"
    object_kind: ClassVar[Kind] = "checkpoint"
    version: ClassVar[int] = 1

    parent: Checkpoint
    tuned: Checkpoint
    alpha: float

    @property
    def title(self) -> str:
        """For progress bars."""
        return f"{self.tuned.name}, α = {self.alpha:g}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """How far to go."""
        return {"alpha": self.alpha}

    @property
    def dtype(self) -> str:
        """Weights are float32."""
        return "float32"

    @property
    def data(self) -> str:
        """It reads none."""
        return ""

    @property
    def parents(self) -> Sequence[str]:
        """Both ends."""
        return (self.parent.fingerprint, self.tuned.fingerprint)

    @property
    def adapter(self) -> bool:
        """Whether its result is an adapter on the parent."""
        return self.tuned.base is not None

    def run(self, folder: Path, runtime: Runtime) -> Mapping[str, Any]:
        """Write a checkpoint like that of the stage."""
        runtime.pool.release()
        with quiet():
            if self.adapter:
                self._scale(folder)
            else:
                self._between(folder)
        write_after(folder, self.parent, self.tuned, {"alpha": self.alpha}, runtime=runtime)
        return {"alpha": self.alpha, "adapter": self.adapter}

    def _scale(self, folder: Path) -> None:
        """An adapter's update is linear in B."""
        tensors = read_factors(self.tuned, "interpolate")
        for name, tensor in tensors.items():
            if ".lora_B." in name:
                tensor.mul_(self.alpha)
        write_factors(folder, tensors, self.tuned)

    def _between(self, folder: Path) -> None:
        import torch

        start, end = load_model(self.parent), load_model(self.tuned)
        ends = dict(end.named_parameters())
        with torch.no_grad():
            for name, weight in start.named_parameters():
                # In this form both ends come out to the bit.
                weight.mul_(1 - self.alpha).add_(ends[name] * self.alpha)
        saving.save_whole(start, self.parent, folder)


def read_factors(tuned: Checkpoint, what: str) -> dict[str, Any]:
    """The tensors of a plain LoRA adapter, by their names in the file.

    Args:
        what: what is to be done to them, for the error.

    Raises:
        InputError: there are others than A and B among them.
    """
    from safetensors.torch import load_file

    tensors = load_file(tuned.folder / ADAPTER_WEIGHTS)
    foreign = [name for name in tensors if ".lora_A." not in name and ".lora_B." not in name]
    if foreign:
        raise InputError(
            f"an adapter that is more than A and B (first: {foreign[0]})",
            where=tuned.spec,
            todo=f"{what} plain LoRA or full stages",
        )
    return tensors


def write_factors(folder: Path, tensors: Mapping[str, Any], tuned: Checkpoint) -> None:
    """An adapter like `tuned` with other tensors of the same shapes."""
    from safetensors.torch import save_file

    save_file(dict(tensors), folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = json.loads((tuned.folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2))


def write_after(
    folder: Path,
    parent: Checkpoint,
    tuned: Checkpoint,
    chosen: Mapping[str, Any],
    *,
    runtime: Runtime,
    found: Mapping[str, Any] | None = None,
) -> None:
    """The record of what was done to a stage's result, once its weights lie in `folder`.

    Args:
        chosen: its settings, put beside those of the stage.
        found: what came to light.
    """
    for end in (parent, tuned):
        check_unchanged(end, runtime.memory)
    record = {
        "key": folder.name,
        "base": parent.spec,
        "base_fingerprint": parent.fingerprint,
        "base_weights": weights_fingerprint(parent.root.folder, runtime.memory),
        "settings": {**stage_record(tuned.folder).get("settings", {}), **chosen},
        "dtype": "float32",
        **environment.record(),
        "fingerprint": fingerprint(folder, runtime.memory),
        **(found or {}),
    }
    saving.write_record(folder, record, saving.read_loss(tuned.folder))
