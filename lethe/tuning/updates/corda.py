"""LoRA that starts from the components of the weights that protected inputs use least."""

from typing import Annotated, Any

from pydantic import Field

from lethe.tuning.updates.lora import target_paths, wear_lora
from lethe.tuning.updates.mica import check_rank
from lethe.tuning.updates.registry import update


@update(learning_rate=2e-4, adapter=True, calibrated=True)
def corda(
    model: Any,
    calibration: Any,
    *,
    rank: Annotated[int, Field(ge=1)] = 16,
    alpha: Annotated[int, Field(ge=1)] = 32,
    target_modules: str = "all-linear",
) -> Any:
    """W + (alpha/rank)·(B·A − B₀·A₀), B₀·A₀ what W does least for protected inputs.

    Paper: CorDA, knowledge-preserved mode (arXiv 2406.05223); PEFT's decomposition. PEFT subtracts
        B₀·A₀ from W, so that its adapter stands on a changed base; here W stays, the adapter
        carries −B₀·A₀ as frozen rows, and the function and its gradients are the same.
    Cost: a calibration one example at a time and a decomposition of every layer; a file of twice
        the rank, half of which does not move. The result is a plain PEFT adapter on the parent.
    Not for: strict protection. It starts where protected inputs have little energy and may leave.

    Args:
        model: a Transformers causal language model.
        calibration: a `Calibration`: what to protect.
        rank, alpha, target_modules: as for `lora`; the rank that is trained.

    Raises:
        InputError: a layer smaller than the rank.
    """
    import torch

    paths = target_paths(model, target_modules)
    check_rank(model, paths, rank)
    starts = least_used(model, paths, calibration, rank=rank, alpha=alpha)
    adapted = wear_lora(model, rank=2 * rank, alpha=2 * alpha, target_modules=target_modules)
    base = adapted.get_base_model()
    with torch.no_grad():
        for path, (first, last) in starts.items():
            module = base.get_submodule(path)
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            a.copy_(torch.cat([first, first]))
            b.copy_(torch.cat([last, -last], dim=1))
            moving = torch.arange(2 * rank, device=a.device) < rank
            # Adam's step at a gradient that was always zero is zero.
            a.register_hook(lambda gradient, moving=moving: gradient * moving[:, None])
            b.register_hook(lambda gradient, moving=moving: gradient * moving)
    return adapted


def least_used(
    model: Any, paths: list[str], calibration: Any, *, rank: int, alpha: int
) -> dict[str, tuple[Any, Any]]:
    """PEFT's A₀ (rank, n) and B₀ (m, rank) for every module; the model is left as it was."""
    import torch
    from peft import LoraConfig
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    from lethe.tuning.calibration import TOKENS_A_UNIT, spread

    config = LoraConfig(
        r=rank,
        target_modules=paths,  # PEFT's preparation does not know `all-linear`
        init_lora_weights="corda",
        corda_config=CordaConfig(corda_method="kpm"),
    )
    widest = max(max(model.get_submodule(path).weight.shape) for path in paths)
    rows = [
        row
        for source in calibration.sources
        for row in spread(source.rows, TOKENS_A_UNIT * widest // len(calibration.sources))
    ]
    with calibration.progress.bar("calibrating", len(rows)) as bar:

        def run() -> None:
            for row in rows:
                # PEFT's hook takes the batch for the tokens: one row at a time.
                model.base_model(input_ids=torch.tensor([row.ids], device=model.device))
                bar.advance()

        preprocess_corda(model, config, run_model=run)
    starts = {}
    for path in paths:
        module = model.get_submodule(path)
        found = module.eigens
        del module.eigens
        root = (found.S_WC / (alpha / rank)).sqrt()
        starts[path] = (found.V_WC.T * root[:, None], found.U_WC * root)
    return starts
