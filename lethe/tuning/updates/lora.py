"""Low-rank adapters beside frozen weights."""

from typing import Annotated, Any

from pydantic import Field

from lethe.errors import InputError
from lethe.tuning.updates.registry import update


# 2e-4 is the rate of ForgetFilter (arXiv 2312.12736) and QLoRA (arXiv 2305.14314), whose finding
# that all linear layers must be adapted to match full tuning is why `target_modules` starts there.
@update(learning_rate=2e-4, adapter=True)
def lora(
    model: Any,
    *,
    rank: Annotated[int, Field(ge=1)] = 16,
    alpha: Annotated[int, Field(ge=1)] = 32,
    target_modules: str = "all-linear",
) -> Any:
    """W + (alpha/rank)·B·A beside frozen weights, B starting at zero.

    Paper: LoRA (Hu et al., arXiv 2106.09685).
    Cost: the memory of the frozen weights and little else; the result is a plain PEFT adapter.
    Not for: a task far from the base. It keeps more than full tuning and learns less.

    Args:
        model: a Transformers causal language model.
        rank: rows of A and columns of B.
        alpha: the update's scale is alpha / rank.
        target_modules: `all-linear` (all but the output head), or names of linear modules with
            commas between them (`q_proj,v_proj`).

    Raises:
        InputError: a named module does not exist; those that do are listed.
    """
    from peft import LoraConfig, get_peft_model

    modules: str | list[str] = target_modules
    if target_modules != "all-linear":
        asked = [name.strip() for name in target_modules.split(",")]
        modules = _check(asked, _linear_modules(model))
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=modules,
    )
    return get_peft_model(model, config)


def _check(asked: list[str], existing: list[str]) -> list[str]:
    """Names are matched from the end of a module's path, as PEFT does."""
    for name in asked:
        if not any(path == name or path.endswith(f".{name}") for path in existing):
            leaves = sorted({path.rpartition(".")[2] for path in existing})
            raise InputError(
                f"no linear module '{name}' in this model",
                where="target_modules",
                todo=f"use all-linear, or some of: {', '.join(leaves)}",
            )
    return asked


def _linear_modules(model: Any) -> list[str]:
    """Paths of all linear modules but the output head, which stays as it is."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    ]
