"""All weights move."""

from typing import Any

from lethe.tuning.updates.registry import update


# 1e-5 is the rate of full tuning in PEFT's own comparison of methods; AdamW in float32 moves nearly
# every weight at it.
@update(learning_rate=1e-5)
def full(model: Any) -> Any:
    """Every weight of the model moves.

    Paper: none of its own; it is the baseline of all others.
    Cost: 16 bytes of memory a weight (weight, gradient, two moments, all float32); the whole model
        is stored.
    Not for: a model that barely fits, or many stages that share one base.
    """
    return model.requires_grad_(True)
