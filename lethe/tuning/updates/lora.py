"""Low-rank adapters beside frozen weights."""

from typing import Annotated, Any

from pydantic import Field

from lethe.errors import InputError
from lethe.tuning.updates.registry import update

_PRESETS = ("all-linear", "mlp", "attention")


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
    Not for: a task far from the base. It keeps more than full tuning where it learns less; at
    equal proficiency it may keep less.

    Args:
        model: a Transformers causal language model.
        rank: rows of A and columns of B.
        alpha: the update's scale is alpha / rank.
        target_modules: `all-linear` (all but the output head), `mlp` or `attention` (that part of
            them), or names of linear modules with commas between them (`q_proj,v_proj`).

    Raises:
        InputError: a named module does not exist; those that do are listed.
    """
    return wear_lora(model, rank=rank, alpha=alpha, target_modules=target_modules)


def wear_lora(model: Any, *, rank: int, alpha: int, target_modules: str, **config: Any) -> Any:
    """The model as a `PeftModel` with a fresh LoRA adapter.

    Args:
        config: more of PEFT's `LoraConfig`.
    """
    from peft import LoraConfig, get_peft_model

    made = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=peft_targets(model, target_modules),
        **config,
    )
    return get_peft_model(model, made)


def peft_targets(model: Any, asked: str) -> str | list[str]:
    """`target_modules` as PEFT takes it.

    Raises:
        InputError: there is no such module.
    """
    if asked == "all-linear":
        return asked
    existing = linear_paths(model)
    if asked not in _PRESETS:
        return _check([name.strip() for name in asked.split(",")], existing)
    part = [path for path in existing if _is_attention(path) == (asked == "attention")]
    if not part:
        raise InputError(
            f"cannot tell the {asked} of this model from the rest",
            where="target_modules",
            todo=f"name its modules: {', '.join(_leaves(existing))}",
        )
    # Short names where they say the same, as people write them.
    elsewhere = set(_leaves([path for path in existing if path not in set(part)]))
    leaves = _leaves(part)
    return part if elsewhere & set(leaves) else leaves


def target_paths(model: Any, asked: str) -> list[str]:
    """Paths of all modules that `target_modules` stands for, in the model's order."""
    targets, existing = peft_targets(model, asked), linear_paths(model)
    if isinstance(targets, str):
        return existing
    return [path for path in existing if any(_ends_with(path, name) for name in targets)]


def linear_paths(model: Any) -> list[str]:
    """Paths of all linear modules but the output head, which stays as it is."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    ]


def _check(asked: list[str], existing: list[str]) -> list[str]:
    """Names are matched from the end of a module's path, as PEFT does."""
    for name in asked:
        if not any(_ends_with(path, name) for path in existing):
            raise InputError(
                f"no linear module '{name}' in this model",
                where="target_modules",
                todo=f"use all-linear, mlp, attention, or some of: {', '.join(_leaves(existing))}",
            )
    return asked


def _ends_with(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _leaves(paths: list[str]) -> list[str]:
    return sorted({path.rpartition(".")[2] for path in paths})


def _is_attention(path: str) -> bool:
    """Every family of Transformers writes attention in the path of what belongs to it."""
    return any("attn" in part or "attention" in part for part in path.lower().split("."))
