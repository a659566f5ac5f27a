"""LoRA that acts only where the task's inputs stand out from protected ones."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from lethe.tuning.updates.lora import target_paths, wear_lora
from lethe.tuning.updates.registry import update

if TYPE_CHECKING:
    from lethe.tuning.calibration import Moments
    from lethe.tuning.updates.projection import Projection


def _settle(model: Any) -> None:
    from lethe.tuning.updates.projection import settle

    settle(model)


@update(learning_rate=2e-4, adapter=True, calibrated=True, after_step=_settle)
def contrast(
    model: Any,
    calibration: Any,
    *,
    rank: Annotated[int, Field(ge=1)] = 16,
    alpha: Annotated[int, Field(ge=1)] = 32,
    target_modules: str = "all-linear",
    directions: Annotated[int, Field(ge=1)] = 32,
    ridge: Annotated[float, Field(gt=0)] = 0.01,
) -> Any:
    """W + (alpha/rank)·B·A, A within the directions the task uses and protected inputs do not.

    Paper: family of SC-LoRA (arXiv 2505.23724), which starts there; here A stays there. The
        directions are the top generalised eigenvectors of (C_task, C_protect + λI).
    Cost: as `nullspace`, with fewer and smaller factors: n·`directions` floats a layer input.
    Not for: a task whose inputs are those to be protected, such as other answers to the same
        questions; the report before training shows it as selectivity near 1.

    Args:
        model: a Transformers causal language model.
        calibration: a `Calibration`: what to protect and what to learn.
        rank, alpha, target_modules: as for `lora`.
        directions: how many directions of a layer's input A may use; fewer are more selective.
        ridge: λ in units of the mean eigenvalue of C_protect; keeps directions that no one uses
            from looking selective.
    """
    from lethe.tuning.updates.projection import contrasting, project_adapter

    def make(moments: "Moments") -> "Projection":
        count = min(directions, moments.width)
        return contrasting(moments.task, moments.protect, ridge, count)

    paths = target_paths(model, target_modules)
    projections = calibration.build(model, paths, make)
    adapted = wear_lora(model, rank=rank, alpha=alpha, target_modules=target_modules)
    return project_adapter(adapted, projections)
