"""How long the laboratory takes to a given excess, against the recipe of its ancestor.

Garg et al. (2022), whose recipe Kotha et al. (2024) take over: Adam at 1e-4, batch 64, float32,
noisy labels, a GPT-2 with its table of words; inputs, weights and noise drawn as its samplers do.
Its curriculum (dimensions 5 to 20, points 11 to 41, a step up every 2,000 steps) is scaled to the
problem in dimensions and points; its intervals are kept. Same problem, same vectors, same shape of
transformer, one process, one thread, one after the other.

    python benchmarks/lab.py [--preset small] [--seed 0] [--goal 0.1] [--patience 8]

Seconds are the processor's, of training steps, looks apart. A recipe has arrived when a look's
excess, (L − L_mix)/(L_zero − L_mix), is at most the goal on both tasks. An ancestor
that has not arrived after `patience` times Lethe's seconds is stopped: its ratio is then a lower
bound.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2Model

from lethe import environment
from lethe.lab.distributions import task_vectors
from lethe.lab.presets import PRESETS, Preset
from lethe.lab.problem import TASKS, Problem
from lethe.lab.results import excess_of
from lethe.lab.sample import take_sample
from lethe.lab.training import Course, make_descent, step
from lethe.lab.transformer import make_regressor

RESULT = Path(__file__).parent / "results" / "lab.json"
WATCHED = 1000
EVERY = 100
"""Steps between looks."""


class Ancestor(torch.nn.Module):
    """The ancestor's model, word table and all: answers at the tokens of the inputs."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        shape, problem = preset.shape, preset.problem
        self.read_in = torch.nn.Linear(problem.dimensions, shape.width)
        self.backbone = GPT2Model(
            GPT2Config(
                n_positions=2 * (problem.exemplars + 1),
                n_embd=shape.width,
                n_layer=shape.layers,
                n_head=shape.heads,
                n_inner=shape.inner,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                use_cache=False,
            )
        )
        self.read_out = torch.nn.Linear(shape.width, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, places, d) and (B, places) to answers (B, places)."""
        rows, places, d = x.shape
        wide = torch.cat([y[:, :, None], x.new_zeros(rows, places, d - 1)], dim=2)
        tokens = torch.stack([x, wide], dim=2).view(rows, 2 * places, d)
        hidden = self.backbone(inputs_embeds=self.read_in(tokens)).last_hidden_state
        answers: Tensor = self.read_out(hidden)[:, ::2, 0]
        return answers


def ancestral_batches(
    problem: Problem, vectors: Tensor, *, curriculum: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and noisy labels for ever, drawn on torch's global generator as the ancestor does."""
    size, d, done = 64, problem.dimensions, 0
    points = problem.exemplars + 1
    while True:
        dims, seen = d, points
        if curriculum:
            dims = min(d, max(1, round(d * 5 / 20)) + done // 2000)
            seen = min(points, max(2, round(points * 11 / 41)) + 2 * (done // 2000))
        x = torch.randn(size, seen, d)
        x[:, :, dims:] = 0
        w = torch.randn(size, d, 1) * problem.spread**0.5
        fixed = torch.rand(size) < problem.share
        w[fixed] = vectors[torch.randint(len(vectors), (int(fixed.sum()),))][:, :, None]
        y = (x @ w)[:, :, 0]
        yield x, y + torch.randn_like(y) * problem.noise**0.5
        done += 1


def train_to(
    goal: float,
    advance: Callable[[], None],
    look: Callable[[], Mapping[str, float]],
    *,
    most_seconds: float = float("inf"),
    most_steps: float = float("inf"),
) -> dict[str, Any]:
    """Advance until a look arrives, or time or steps are used up."""
    seconds, done, curve = 0.0, 0, []
    while True:
        started = time.process_time()
        for _ in range(EVERY):
            advance()
        seconds += time.process_time() - started
        done += EVERY
        found = dict(look())
        curve.append({"step": done, "seconds": seconds, **found})
        arrived = max(found.values()) <= goal
        if arrived or seconds > most_seconds or done >= most_steps:
            return {"arrived": arrived, "seconds": seconds, "steps": done, "curve": curve}


def ours(preset: Preset, seed: int, vectors: Tensor, goal: float, look: Any) -> dict[str, Any]:
    """Lethe's recipe for pretraining."""
    model = make_regressor(preset.shape, preset.problem, seed)
    descent = make_descent(model, preset.pretrain)
    course = Course("", preset.problem, vectors, "mixture", preset.pretrain, seed)
    done = iter(range(preset.pretrain.steps + EVERY))
    return train_to(
        goal,
        lambda: step(model, descent, course, next(done)),
        lambda: look(model),
        most_steps=preset.pretrain.steps,
    )


def ancestral(
    preset: Preset, seed: int, vectors: Tensor, goal: float, look: Any, **limits: Any
) -> dict[str, Any]:
    """The ancestor's recipe, with or without its curriculum."""
    curriculum, most = limits["curriculum"], limits["most_seconds"]
    torch.manual_seed(seed)
    model = Ancestor(preset)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    batches = ancestral_batches(preset.problem, vectors, curriculum=curriculum)

    def advance() -> None:
        x, y = next(batches)
        optimiser.zero_grad()
        loss = ((model(x, y) - y) ** 2).mean()
        loss.backward()
        optimiser.step()

    return train_to(goal, advance, lambda: look(model), most_seconds=most)


def main() -> None:
    """All three, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=list(PRESETS), default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--goal", type=float, default=0.1)
    parser.add_argument("--patience", type=float, default=8.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    preset = PRESETS[asked.preset]
    vectors = task_vectors(preset.problem, asked.seed)

    watched = {
        task: take_sample(preset.problem, vectors, task, WATCHED, seed=asked.seed, use="benchmark")
        for task in TASKS
    }

    def look(model: Any) -> dict[str, float]:
        return {
            task: excess_of(preset.problem, sample.asked({"model": model}), "model")
            for task, sample in watched.items()
        }

    settings = {"preset": asdict(preset), "seed": asked.seed, "goal": asked.goal}
    results: dict[str, Any] = {**settings, **environment.record(), "recipes": {}}
    recipes = results["recipes"]
    recipes["lethe"] = ours(preset, asked.seed, vectors, asked.goal, look)
    _say("lethe", recipes["lethe"])
    most = asked.patience * recipes["lethe"]["seconds"]
    for name, curriculum in (("ancestor", False), ("ancestor, curriculum", True)):
        recipes[name] = ancestral(
            preset,
            asked.seed,
            vectors,
            asked.goal,
            look,
            curriculum=curriculum,
            most_seconds=most,
        )
        _say(name, recipes[name])
    better = min(recipes[name]["seconds"] for name in recipes if name != "lethe")
    arrived = any(recipes[name]["arrived"] for name in recipes if name != "lethe")
    results["ratio"] = better / recipes["lethe"]["seconds"]
    results["ratio_is_bound"] = not arrived
    print(f"ratio {'' if arrived else 'at least '}{results['ratio']:.1f}")
    RESULT.write_text(json.dumps(results, indent=1) + "\n")


def _say(name: str, found: Mapping[str, Any]) -> None:
    last = found["curve"][-1]
    excess = ", ".join(f"{task} {last[task]:.3f}" for task in TASKS)
    word = "arrived" if found["arrived"] else "not arrived"
    print(f"{name}: {word}, {found['seconds']:.0f} s, {found['steps']} steps, {excess}", flush=True)


if __name__ == "__main__":
    main()
