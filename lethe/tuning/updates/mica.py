"""LoRA whose B is fixed to each layer's least used output directions."""

from typing import Annotated, Any

from pydantic import Field

from lethe.errors import InputError
from lethe.tuning.updates.lora import target_paths, wear_lora
from lethe.tuning.updates.registry import update


@update(learning_rate=2e-4, adapter=True)
def mica(
    model: Any,
    *,
    rank: Annotated[int, Field(ge=1)] = 16,
    alpha: Annotated[int, Field(ge=1)] = 32,
    target_modules: str = "all-linear",
) -> Any:
    """W + (alpha/rank)·B·A, B fixed to the left singular vectors of W's smallest singular values.

    Paper: MiCA, Minor Component Adaptation (arXiv 2604.01694); PEFT's implementation.
    Cost: less than LoRA's: A alone is trained, after one singular value decomposition a layer.
    Not for: protecting anything in particular. It sees the weights and no examples.

    Args:
        model: a Transformers causal language model.
        rank, alpha, target_modules: as for `lora`.

    Raises:
        InputError: a layer smaller than the rank.
    """
    paths = target_paths(model, target_modules)
    check_rank(model, paths, rank)
    adapted = wear_lora(
        model, rank=rank, alpha=alpha, target_modules=target_modules, init_lora_weights="mica"
    )
    # What is saved is a plain LoRA: whoever loads it need not decompose the base first.
    adapted.peft_config["default"].init_lora_weights = True
    return adapted


def check_rank(model: Any, paths: list[str], rank: int) -> None:
    """Refuse a rank that some layer does not have.

    Raises:
        InputError: the layer is named.
    """
    for path in paths:
        least = min(model.get_submodule(path).weight.shape)
        if rank > least:
            raise InputError(
                f"rank {rank} of a layer that has {least} singular values",
                where=path,
                todo=f"use rank {least} or less",
            )
