"""The lowest layers stay as they are."""

from typing import Annotated, Any

from pydantic import Field

from lethe.errors import InputError
from lethe.tuning.updates.registry import update


@update(learning_rate=1e-5)
def freeze(model: Any, *, layers: Annotated[int, Field(ge=1)] = 3) -> Any:
    """Every weight moves but those of the embeddings and the lowest layers.

    Paper: Spurious Forgetting (ICLR 2025), where it kept 44 % of a first task that full tuning took
        down to 11 %.
    Cost: that of `full` for the layers that move; the whole model is stored.
    Not for: a task that needs new words or a new input format; models whose head is tied to the
        embeddings keep their head as well.

    Args:
        model: a Transformers causal language model.
        layers: how many layers from the bottom stay as they are.

    Raises:
        InputError: the model has no more layers than that.
    """
    stack = _layers(model)
    if layers >= len(stack):
        raise InputError(
            f"the model has {len(stack)} layers, so with {layers} frozen none would move",
            where="layers",
            todo=f"use at most {len(stack) - 1}" if len(stack) > 1 else "use update full",
        )
    model.requires_grad_(True)
    for module in (model.get_input_embeddings(), *stack[:layers]):
        module.requires_grad_(False)
    return model


def _layers(model: Any) -> Any:
    """The list of the model's layers, lowest first."""
    import torch

    depth = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return module
    raise InputError("cannot tell the layers of this model apart", todo="use full or lora")
