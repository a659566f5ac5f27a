"""The training loop of the laboratory: fresh prompts at every step, Muon, float32.

It can be killed at any time, or told to stop after some minutes, and goes on from its last
checkpoint, in the same bits on a CPU: what a step sees follows from the seed and its number.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from lethe.descent import SAVE_EVERY, Descent, clear
from lethe.errors import IncompleteError
from lethe.lab.deadline import Deadline
from lethe.lab.distributions import Prompts, draw, stream
from lethe.lab.presets import Recipe
from lethe.lab.problem import Problem, Source
from lethe.lab.transformer import Regressor
from lethe.progress import Progress

LOOKS = 16
"""How often a training is looked at."""
_ONE_THREAD = 128

Reading = Mapping[str, float]
Look = Callable[[Regressor], Reading]


@dataclass(frozen=True)
class Course:
    """What is trained on.

    Attributes:
        vectors: (N, d), the fixed vectors, on the device of the model.
        seed: with `title`, what the prompts of every step follow from.
    """

    title: str
    problem: Problem
    vectors: Tensor
    source: Source
    recipe: Recipe
    seed: int


def train(
    model: Regressor,
    course: Course,
    partial: Path,
    *,
    look: Look,
    progress: Progress,
    deadline: Deadline,
) -> list[dict[str, float]]:
    """Train a model in place.

    Args:
        partial: a folder for checkpoints; what lies there is taken up, and removed at the end.
        look: measures the model about `LOOKS` times, before the first step and after the last one
            included.

    Returns:
        Every look, with its `step` and the `seconds` of training up to it, looks apart.

    Raises:
        IncompleteError: the deadline passed; what was done is kept.
    """
    recipe = course.recipe
    descent = make_descent(model, recipe)
    note = descent.resume(partial, asdict(recipe)) or {"step": 0, "readings": [], "seconds": 0.0}
    done, readings, seconds = int(note["step"]), list(note["readings"]), float(note["seconds"])
    every = max(1, recipe.steps // LOOKS)
    saved = time.monotonic()
    model.train()

    def keep() -> None:
        note = {
            "step": done, "readings": readings, "seconds": seconds, "recipe": asdict(recipe)
        }  # fmt: skip
        descent.save(partial, note)

    with threads(model), progress.bar(course.title, recipe.steps) as bar:
        bar.advance(done)
        while True:
            last = done == recipe.steps
            if (done % every == 0 or last) and (not readings or readings[-1]["step"] < done):
                model.eval()
                readings.append({"step": done, "seconds": seconds, **look(model)})
                model.train()
                bar.note(", ".join(f"{n} {v:.3f}" for n, v in list(readings[-1].items())[2:]))
            if last:
                break
            if deadline.passed:
                keep()
                raise IncompleteError(
                    f"the time given is used up at step {done} of {recipe.steps}",
                    where=course.title,
                    todo="give the same command again: it goes on",
                )
            started = time.monotonic()
            step(model, descent, course, done)
            seconds += time.monotonic() - started
            done += 1
            bar.advance()
            if time.monotonic() - saved > SAVE_EVERY:
                keep()
                saved = time.monotonic()
    clear(partial)
    model.eval()
    return readings


def step(model: Regressor, descent: Descent, course: Course, done: int) -> None:
    """One step of training on fresh prompts."""
    recipe = course.recipe
    generator = stream(course.seed, course.source, done, device=course.vectors.device)
    prompts = draw(course.problem, course.vectors, recipe.batch, course.source, generator)
    descent.step(loss_of(model, prompts, clean=recipe.clean), done / recipe.steps)


def loss_of(model: Regressor, prompts: Prompts, *, clean: bool) -> Tensor:
    """Mean squared error over all prompts and numbers of exemplars."""
    target = prompts.clean if clean else prompts.y
    answers: Tensor = model(prompts.x, prompts.y)
    return ((answers - target) ** 2).mean()


def make_descent(model: Regressor, recipe: Recipe) -> Descent:
    """Muon for the matrices of the layers, AdamW for all else."""
    matrices = [
        weight
        for name, weight in model.named_parameters()
        if name.startswith("backbone.") and "wpe" not in name and weight.ndim == 2
    ]
    return Descent(model, matrices, recipe)


@contextmanager
def threads(model: Regressor) -> Iterator[None]:
    """One thread for small matrices: they only lose by being shared out."""
    before = torch.get_num_threads()
    if model.read_in.out_features <= _ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
