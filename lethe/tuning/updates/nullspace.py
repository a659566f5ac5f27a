"""LoRA that acts only where protected inputs have next to no energy."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from lethe.errors import InputError
from lethe.tuning.updates.lora import target_paths, wear_lora
from lethe.tuning.updates.registry import update

if TYPE_CHECKING:
    from lethe.tuning.calibration import Moments
    from lethe.tuning.updates.projection import Projection

_NEGLIGIBLE = 0.01  # directions that soft protection would shrink by less are left as they are


def _settle(model: Any) -> None:
    from lethe.tuning.updates.projection import settle

    settle(model)


@update(learning_rate=2e-4, adapter=True, calibrated=True, after_step=_settle)
def nullspace(
    model: Any,
    calibration: Any,
    *,
    rank: Annotated[int, Field(ge=1)] = 16,
    alpha: Annotated[int, Field(ge=1)] = 32,
    target_modules: str = "all-linear",
    form: Literal["hard", "soft"] = "hard",
    energy: Annotated[float, Field(gt=0, lt=1)] = 0.99,
    strength: Annotated[float, Field(gt=0)] = 100.0,
) -> Any:
    """W + (alpha/rank)·B·(A·P): P takes away the directions that protected inputs use.

    Paper: the family of GuardSpace; the reparametrised form keeps Adam from leaking (see
        docs/protecting.md).
    Cost: a calibration of about 128 protected tokens for each unit of the widest layer; a step as
        long as LoRA's; the factors of P in memory while it trains, n·k floats for a layer of
        width n with k protected directions. The result is a plain PEFT adapter.
    Not for: a model whose layers have no null space to speak of. The report before training says
        so: selectivity below 2 means that protecting costs as much as it saves. Safety is not
        linearly separate (arXiv 2505.14185): use it with replay or KL, not instead.

    Args:
        model: a Transformers causal language model.
        calibration: a `Calibration`: what to protect and what to learn.
        rank, alpha, target_modules: as for `lora`.
        form: `hard`, P = I − QQᵀ; `soft`, P = λ(C + λI)⁻¹.
        energy: share of the protected inputs' energy that lies in Q (hard).
        strength: the mean eigenvalue of C in units of λ (soft); more protects more.

    Raises:
        InputError: no direction is left to move in.
    """
    from lethe.tuning.updates.projection import project_adapter

    def make(moments: "Moments") -> "Projection":
        if form == "soft":
            return soft(moments, strength)
        return hard(moments, energy)

    paths = target_paths(model, target_modules)
    projections = calibration.build(model, paths, make)
    adapted = wear_lora(model, rank=rank, alpha=alpha, target_modules=target_modules)
    return project_adapter(adapted, projections)


def hard(moments: "Moments", energy: float) -> "Projection":
    """P = I − QQᵀ, Q the top eigenvectors of C that hold so much of its trace.

    Kept as whichever of Q and its complement has fewer columns.
    """
    import torch

    from lethe.tuning.updates.projection import Projection, spectrum

    values, vectors = spectrum(moments.protect)
    if not values.sum() > 0:
        raise InputError("protected inputs are all zero here", where=moments.modules[0])
    share = values.cumsum(0) / values.sum()
    count = int((share < energy).sum()) + 1
    width = moments.width
    if count >= width:
        raise InputError(
            f"energy {energy:g} protects all {width} directions, and nothing could move",
            where=moments.modules[0],
            todo="lower energy, use form soft, or leave this module out of target_modules",
        )
    if count > width - count:
        return Projection(vectors[:, count:].float().contiguous())
    kept = vectors[:, :count].float().contiguous()
    return Projection(kept, torch.ones(count, device=kept.device))


def soft(moments: "Moments", strength: float) -> "Projection":
    """P = λ(C + λI)⁻¹ = I − U·diag(s/(s + λ))·Uᵀ, without the directions it hardly shrinks."""
    from lethe.tuning.updates.projection import Projection, spectrum

    values, vectors = spectrum(moments.protect)
    shares = values / (values + values.mean() / strength)
    count = max(1, int((shares > _NEGLIGIBLE).sum()))
    return Projection(vectors[:, :count].float().contiguous(), shares[:count].float())
