"""A module in the middle of its training, measured and left as it was found."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lethe import environment
from lethe.answers import Answers
from lethe.errors import InputError
from lethe.ledger import write_rows
from lethe.measure import TABLE, Measure
from lethe.models.local import LiveModel, tokenizer_hash
from lethe.scorers import unscored_row

_TABLES = ("_buffers", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


@contextmanager
def left_as_found(model: Any) -> Iterator[None]:
    """Evaluation mode within the block; afterwards nothing tells that it was there.

    Kept are the mode, the attributes and the buffers of every module (some position embeddings
    recompute theirs for long rows), its hooks, and the random states of Python, NumPy and torch.
    Weights and gradients are not written to by anything that measures.
    """
    import torch

    modules = list(model.modules())
    attributes = [dict(module.__dict__) for module in modules]
    tables = [
        {name: dict(table) for name, table in own.items() if name in _TABLES} for own in attributes
    ]
    drawn = random.getstate(), np.random.get_state()
    used = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = [torch.cuda.current_device()] if used else []
    with torch.random.fork_rng(devices=devices):
        try:
            for module in modules:
                # Not `eval()`: some modules do more than note the mode when it changes.
                module.training = False
            yield
        finally:
            for module, own, held in zip(modules, attributes, tables, strict=True):
                for name in set(module.__dict__) - set(own):
                    del module.__dict__[name]
                module.__dict__.update(own)
                for name, table in held.items():
                    module.__dict__[name].clear()
                    module.__dict__[name].update(table)
            random.setstate(drawn[0])
            np.random.set_state(drawn[1])


def bare(model: Any) -> Any:
    """The causal language model inside what a trainer holds: PEFT's injected layers stay in it.

    Raises:
        InputError: an adapter of virtual tokens, or weights that no process holds whole.
    """
    if hasattr(model, "module") and not hasattr(model, "get_output_embeddings"):
        model = model.module
    if hasattr(model, "peft_config"):
        if model.active_peft_config.is_prompt_learning:
            raise InputError(
                "an adapter of virtual tokens is no part of the model's layers",
                where="ForgettingCallback",
                todo="train LoRA or full weights, or audit the saved model",
            )
        model = model.get_base_model()
    if any(hasattr(weight, "full_tensor") for weight in model.parameters()):
        raise sharded()
    if not hasattr(model, "get_output_embeddings") or model.get_output_embeddings() is None:
        raise InputError("not a causal language model", where="ForgettingCallback")
    return model


def sharded() -> InputError:
    """Said where weights are split over processes."""
    return InputError(
        "the weights are split over processes (FSDP, ZeRO-3 or tensor parallel)",
        where="ForgettingCallback",
        todo="save checkpoints and audit them: lethe audit BASE CHECKPOINT",
    )


@dataclass(frozen=True)
class LiveMeasure(Measure):
    """Score a live module on a suite: the same rows and metadata as of a saved checkpoint."""

    def write(
        self, folder: Path, live: LiveModel, answers: Answers, advance: Callable[[int], None]
    ) -> Mapping[str, Any]:
        """Answer all examples and write the table; `advance` is told how many more are done."""
        found = {}
        for block in range(len(answers.plan.blocks)):
            for row in answers.rows(block, live, advance):
                found[row.example] = row
        for reason, indices in answers.unscored.items():
            for index in indices:
                example = self.suite.examples[index]
                found[example.id] = unscored_row(self.suite, example, reason)
        metadata = {
            **self._metadata(),
            **environment.record(str(live.model.device)),
            "plan": answers.plan.hash,
            "decoding": answers.decoding,
            "tokenizer": tokenizer_hash(live.tokenizer),
            "option_trees": live.engine.branching,
            **answers.facts,
        }
        rows = [found[example.id] for example in self.suite.examples]
        write_rows(folder / TABLE, rows, metadata)
        return answers.facts
