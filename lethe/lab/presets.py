"""Sizes of the laboratory: a problem, a transformer, and how both stages are trained. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lethe.lab.problem import Problem

Family = Literal["gpt2", "llama"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder between a linear read-in and a linear read-out.

    Attributes:
        inner: width of the feed-forward layers.
        paired: whether the token of a label also holds its input. As published it does not, and a
            layer has first to learn to copy the one to the other.
    """

    family: Family
    width: int
    layers: int
    heads: int
    inner: int
    paired: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a stage is trained.

    Attributes:
        steps, batch: fresh prompts at every step.
        rate: the highest learning rate of the matrices (Muon); it rises over `warmup` of the steps
            and then falls to zero in a straight line.
        vector_rate: the same of read-in, read-out, positions, norms and biases (AdamW).
        clean: whether the target is ⟨w, x⟩, free of the label's noise: the same best predictor
            with less variance. The prompt's own labels are noisy either way.
    """

    steps: int
    batch: int
    rate: float
    vector_rate: float
    warmup: float = 0.03
    clean: bool = True


@dataclass(frozen=True, slots=True)
class Preset:
    """Everything that `--preset` stands for.

    Attributes:
        prompts: per distribution, on which results are measured; half as many choose the label
            scale and all else that is chosen.
    """

    name: str
    problem: Problem
    shape: Shape
    pretrain: Recipe
    tune: Recipe
    prompts: int = 4000


def _gpt2(width: int, layers: int, heads: int, *, paired: bool = False) -> Shape:
    return Shape("gpt2", width, layers, heads, 4 * width, paired)


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "tiny",
            Problem(dimensions=3, vectors=8, exemplars=12, noise=0.25),
            _gpt2(48, 3, 3, paired=True),
            Recipe(steps=2000, batch=96, rate=2e-2, vector_rate=7e-3),
            Recipe(steps=300, batch=32, rate=3e-3, vector_rate=1e-3),
        ),
        Preset(
            "small",
            Problem(dimensions=5, vectors=16, exemplars=20, noise=0.25),
            _gpt2(64, 5, 4, paired=True),
            Recipe(steps=5000, batch=32, rate=1.2e-2, vector_rate=4e-3),
            Recipe(steps=500, batch=32, rate=3e-3, vector_rate=1e-3),
        ),
        Preset(
            "medium",
            Problem(dimensions=10, vectors=32, exemplars=30, noise=0.5),
            _gpt2(128, 6, 8),
            Recipe(steps=12_000, batch=64, rate=6e-3, vector_rate=2e-3),
            Recipe(steps=1500, batch=64, rate=2e-3, vector_rate=1e-3),
        ),
        Preset(
            "paper",
            Problem(dimensions=20, vectors=64, exemplars=40, noise=1.0),
            _gpt2(256, 12, 8),
            Recipe(steps=60_000, batch=64, rate=3e-3, vector_rate=1e-3),
            Recipe(steps=5000, batch=64, rate=1e-3, vector_rate=5e-4),
        ),
    )
}
"""By name."""
