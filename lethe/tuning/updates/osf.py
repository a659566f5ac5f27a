"""Full-rank updates that stay orthogonal to the largest singular directions of the weights."""

from typing import Annotated, Any

from pydantic import Field

from lethe.errors import InputError
from lethe.tuning.updates.lora import peft_targets, target_paths
from lethe.tuning.updates.registry import update


def reproject(model: Any) -> None:
    """Take from U and V what an optimiser's step has moved towards the frozen directions.

    PEFT projects gradients, which Adam's element-wise step undoes: 44 % of the update leave the
    allowed span after five steps.
    """
    import torch
    from peft.tuners.osf.layer import OSFLayer

    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, OSFLayer):
                for name in layer.osf_svd_params:
                    _reproject(layer, name)


def _reproject(layer: Any, name: str) -> None:
    """PEFT keeps the frozen vectors, or where they follow from them, the first trainable ones."""
    weights = layer.osf_svd_params[name]
    u, v = weights["U_low"], weights["V_low"]  # (m, k) and (k, n)
    if name in layer._osf_U_high:
        frozen = layer._osf_U_high[name]
        u.sub_(frozen @ (frozen.T @ u))
    else:
        first = layer._osf_U_low_init[name]
        u.copy_(first @ (first.T @ u))
    if name in layer._osf_V_high:
        frozen = layer._osf_V_high[name]
        v.sub_((v @ frozen.T) @ frozen)
    else:
        first = layer._osf_V_low_init[name]
        v.copy_((v @ first.T) @ first)


def merged(model: Any) -> Any:
    """All weights, which is what is stored: OSF has no adapter that others can load."""
    return model.merge_and_unload(safe_merge=True)


@update(learning_rate=1e-5, after_step=reproject, finish=merged)
def osf(
    model: Any,
    *,
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    target_modules: str = "all-linear",
) -> Any:
    """The smallest singular components of W move, orthogonally to the largest, which stay.

    Paper: Orthogonal Subspace Fine-tuning (arXiv 2504.07097); PEFT's layers, with the vectors
        projected again after every step, without which Adam leaves the allowed span.
    Cost: about twice the time of LoRA and the memory of full tuning, after one singular value
        decomposition a layer; the whole model is stored.
    Not for: models that barely fit, or layers that are not `torch.nn.Linear` (GPT-2).

    Args:
        model: a Transformers causal language model.
        keep: share of each layer's singular directions, the largest ones, that stay.
        target_modules: as for `lora`.

    Raises:
        InputError: a layer type that OSF does not know.
    """
    import torch
    from peft import OSFConfig, get_peft_model

    paths = target_paths(model, target_modules)
    for path in paths:
        module = model.get_submodule(path)
        if not isinstance(module, torch.nn.Linear):
            raise InputError(
                f"osf cannot adapt a {type(module).__name__}",
                where=path,
                todo="use another update, or name target_modules without it",
            )
    targets = peft_targets(model, target_modules)
    return get_peft_model(model, OSFConfig(effective_rank=keep, target_modules=targets))
