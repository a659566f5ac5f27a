"""The settings of a stage: checked, completed, and the same for the same training. No torch."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lethe.errors import InputError, nearest
from lethe.models.local import Dtype
from lethe.tuning import updates
from lethe.tuning.anchor import ANCHORS, KlAnchor, L2Anchor, anchor_words, checked_names, read_slot
from lethe.tuning.distil import Distil
from lethe.tuning.masking import Mask

_EPOCHS = 3.0
# Settings of later versions: left out of the key while nobody says them, so that keys stay.
_LATER = ("anchor", "kl_budget", "distil", "mask")
SLOTS = ("anchor", "distil", "mask")
"""Settings that have settings of their own."""


class StageSettings(BaseModel):
    """Everything chosen about a stage. Made by `read_settings`, which fills in what is not said.

    The rate falls linearly to zero after the warm-up, weights are float32 and the optimiser is
    AdamW without weight decay, its gradient clipped to norm 1; none of these can be chosen.

    Attributes:
        update: where the weights may move: the name of a registered update.
        options: that update's own settings.
        learning_rate: peak rate.
        epochs: passes over the training examples; None where `max_steps` decides.
        max_steps: optimiser steps; None where `epochs` decides.
        batch_size: examples that go through the model together.
        gradient_accumulation: such batches for one optimiser step.
        max_length: tokens of prompt and target together; longer examples are left out, never cut.
        warmup: share of the steps in which the rate rises from zero.
        held_out: examples kept from training to measure the divergence on, a tenth at most.
        precision: what forward and backward passes compute in; `auto` is bfloat16 on a GPU that
            has it and float32 elsewhere.
        seed: of the adapter's first values and of the order of the examples.
        anchor: what pulls back to the parent.
        kl_budget: KL(parent‖tuned) on held-out rows, in nats per token, above which the training
            stops; the last state that was read below it is what is kept.
        distil: the parent rewrites the answers.
        mask: targets that the parent finds improbable are not learned.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    update: str
    options: dict[str, bool | int | float | str]
    learning_rate: float = Field(ge=0)
    epochs: float | None = Field(gt=0)
    max_steps: int | None = Field(ge=1)
    batch_size: int = Field(default=8, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    max_length: int = Field(default=1024, ge=2)
    warmup: float = Field(default=0.03, ge=0, lt=1)
    held_out: int = Field(default=64, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**32)
    anchor: KlAnchor | L2Anchor | None = Field(default=None, discriminator="kind")
    kl_budget: float | None = Field(default=None, gt=0)
    distil: Distil | None = None
    mask: Mask | None = None

    def compute_dtype(self) -> Dtype:
        """What `precision` comes to on this machine."""
        if self.precision != "auto":
            return self.precision
        import torch

        good = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return "bfloat16" if good else "float32"

    @property
    def hashed(self) -> dict[str, Any]:
        """What the result depends on. The precision is hashed as what it came to."""
        said = self.model_dump(exclude={"precision"})
        return {k: v for k, v in said.items() if v is not None or k not in _LATER}

    @property
    def words(self) -> list[str]:
        """What sets it apart from plain tuning, as a ledger names it."""
        found = [self.update]
        if self.anchor is not None:
            found.append(anchor_words(self.anchor))
        if self.kl_budget is not None:
            found.append(f"budget {self.kl_budget:g}")
        if self.distil is not None:
            found.append("distil")
        if self.mask is not None:
            found.append(f"mask {self.mask.perplexity:g}")
        return found


def read_settings(values: Mapping[str, Any], *, where: str = "") -> StageSettings:
    """Settings from a flat mapping of names; the update's own settings stand among the others.

    Args:
        values: what was said; None counts as not said.
        where: what to name in an error (a file and line, or an option).

    Raises:
        InputError: an unknown name (the nearest is given), or a value that cannot be.
    """
    said = {name: value for name, value in values.items() if value is not None}
    update = updates.find(str(said.setdefault("update", "lora")))
    own = set(update.options.model_fields)
    general = set(StageSettings.model_fields) - {"options"}
    for name in said:
        if name not in own | general:
            raise InputError(
                f"unknown setting '{name}' of update '{update.name}'",
                where=where,
                todo=nearest(name, own | general),
            )
    if {"epochs", "max_steps"} <= said.keys():
        raise InputError("both epochs and max_steps", where=where, todo="give one of them")
    said["anchor"] = read_slot("anchor", said.get("anchor"), ANCHORS, where)
    for slot, model in (("distil", Distil), ("mask", Mask)):
        if isinstance(value := said.get(slot), bool):  # on or off, as it stands
            said[slot] = {} if value else None
        elif isinstance(value, int | float):  # a mask's only setting
            said[slot] = checked_names(slot, {"perplexity": float(value)}, model, where)
        elif slot in said and not isinstance(value, model):
            said[slot] = None if value == "none" else checked_names(slot, value, model, where)
    said.setdefault("learning_rate", update.learning_rate)
    said.setdefault("max_steps", None)
    said.setdefault("epochs", None if said["max_steps"] else _EPOCHS)
    try:
        options = update.options(**{name: said.pop(name) for name in own & said.keys()})
        return StageSettings(options=options.model_dump(), **said)
    except ValidationError as error:
        raise _explain(error, where) from None


def _explain(error: ValidationError, where: str) -> InputError:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    return InputError(f"{name} = {first['input']!r}: {first['msg'].lower()}", where=where)
