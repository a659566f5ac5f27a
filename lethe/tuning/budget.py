"""Reading the divergence while a stage trains, and stopping it on a budget."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from lethe.errors import InputError
from lethe.tuning.aside import looked_at
from lethe.tuning.divergence import HeldOut
from lethe.tuning.processes import ALONE, Processes, whole_weights

READINGS = 10
_SHARE = 0.1
"""Of a training's own time, what readings may take where none of them can stop it."""
_BELOW = "below.safetensors"


def readings_worth(trained: int, held: int) -> int:
    """How many readings of `held` rows a training on `trained` rows bears: 2 to 10.

    A row that is read costs a forward pass, about a third of a row that is trained on.
    """
    return min(READINGS, max(2, round(3 * _SHARE * trained / held)))


def reading_steps(steps: int, readings: int = READINGS) -> set[int]:
    """The steps after which the divergence is read: evenly spread, the last included."""
    return {-(-steps * part // readings) for part in range(1, readings + 1)}


class DivergenceReader(TrainerCallback):
    """Reads KL(parent‖tuned) over a training; what it read stands in the history.

    Args:
        held: the rows to read on; None: nothing is read.
        readings: how often; with a budget always about ten times.
        budget: nats per token; a reading above it ends the training. None: never.
        folder: where the last state below the budget is kept.
        processes: those that train; all read, and go by what the main one read.
    """

    def __init__(
        self,
        held: HeldOut | None,
        *,
        steps: int,
        readings: int,
        budget: float | None,
        folder: Path,
        processes: Processes = ALONE,
    ) -> None:
        self._held, self._budget = held, budget
        self._when = reading_steps(steps, readings if budget is None else READINGS)
        self._folder = folder
        self._processes = processes
        self.seconds = 0.0
        self.stopped: dict[str, float] | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reads after its steps; asks the trainer to stop above the budget.

        Raises:
            InputError: the very first reading is above the budget, so there is no state to keep.
        """
        step, model = state.global_step, kwargs["model"]
        if self._held is None or step not in self._when:
            return
        started = time.monotonic()
        with looked_at(model):
            found = self._processes.same(self._held.reading(model))
        before = [entry for entry in state.log_history if "divergence" in entry]
        state.log_history.append({"divergence": found, "step": step})
        if self._budget is not None:
            if found <= self._budget:
                self._keep(model, step, found)
            elif not before:
                raise InputError(
                    f"KL(parent‖tuned) is {found:.4f} after the first {step} steps, above the "
                    f"budget of {self._budget:g}",
                    where="kl_budget",
                    todo="lower the learning rate, or raise the budget",
                )
            else:
                last = before[-1]
                self.stopped = {
                    "at": step,
                    "divergence": found,
                    "kept": last["step"],
                    "kept_divergence": last["divergence"],
                    "budget": self._budget,
                }
                control.should_training_stop = True
        self.seconds += time.monotonic() - started

    def restore(self, model: Any) -> None:
        """Put the last state below the budget back, where the training was stopped."""
        if self.stopped is not None:
            weights = dict(model.named_parameters())
            with torch.no_grad():
                for name, kept in load_file(self._folder / _BELOW).items():
                    weights[name].copy_(kept)
        (self._folder / _BELOW).unlink(missing_ok=True)

    def _keep(self, model: Any, step: int, found: float) -> None:
        moving = whole_weights(model, self._processes)
        if not self._processes.main:
            return
        partial = self._folder / f".{_BELOW}"
        meta = {"step": str(step), "divergence": json.dumps(found)}
        save_file(moving, partial, metadata=meta)
        partial.replace(self._folder / _BELOW)
