"""Looking at a model in mid-training without leaving a trace, and seeing its parent through it."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


@contextlib.contextmanager
def looked_at(model: Any, configs: tuple[Any, Any] | None = None) -> Iterator[None]:
    """Within the block the module is as it will be measured: evaluation mode, float32, its own
    configurations. Afterwards modes and every random generator are as they were, and gradients are
    untouched, so that the training goes on to the same bits.

    Args:
        model: the module in training.
        configs: config and generation_config of the parent, which the trainer aligns otherwise.
    """
    modes = [module for module in model.modules() if module.training]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    base = _bare(model)
    aligned = base.config, base.generation_config
    model.eval()
    if configs is not None:
        base.config, base.generation_config = configs
    try:
        with _unwrapped(model):
            yield
    finally:
        base.config, base.generation_config = aligned
        for module in modes:
            module.training = True
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)


@contextlib.contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """Within the block the module is without its adapter, in evaluation mode.

    PEFT's own way of switching off and on lets all adapters learn afterwards, also what was frozen
    on purpose; here what may move is as before.
    """
    flags = [(weight, weight.requires_grad) for weight in model.parameters()]
    modes = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with model.disable_adapter():
            yield
    finally:
        for weight, learns in flags:
            weight.requires_grad_(learns)
        for module in modes:
            module.training = True


@contextlib.contextmanager
def _unwrapped(model: Any) -> Iterator[None]:
    """Accelerate wraps autocast around a module's forward."""
    wrapped = vars(model).get("forward")
    original = vars(model).get("_original_forward")
    if wrapped is None or original is None:
        yield
        return
    model.forward = original
    try:
        yield
    finally:
        model.forward = wrapped


def _bare(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model
