"""The sharpness of a minimum: the largest eigenvalue of the loss's Hessian, as a step. No torch.

Wider minima are said to forget less (Ung et al. 2024). The loss is that of tuning: mean
cross-entropy over the target positions of fixed rows, nats per token; the Hessian is taken with
respect to all weights of the whole model, adapters merged, so that every update is measured alike.
It belongs to these rows and this parametrisation: compare it within a task on one base only.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lethe import environment
from lethe.errors import InputError
from lethe.models.checkpoint import Checkpoint, check_unchanged
from lethe.models.local import load_model, load_tokenizer, memory_explained, position_limit
from lethe.steps import Runtime
from lethe.store import Kind
from lethe.tuning.mix import Lessons

if TYPE_CHECKING:
    import torch

    from lethe.tuning.rows import TuningRow

RESULT = "sharpness.json"
MOST_STEPS = 60
"""Products of the Hessian with a vector, at most."""
TOLERANCE = 1e-3
"""Of the residual bound, relative to the eigenvalue, at which the search ends."""
BATCH = 4
"""Rows whose graph is held at a time."""
_MAX_LENGTH = 1024


@dataclass(frozen=True)
class Ritz:
    """The largest Ritz value of the Hessian, with what is known of its error.

    Attributes:
        value: nats per token per squared unit of weight. Lanczos finds the algebraically largest
            eigenvalue; power iteration finds the largest in magnitude, which may be negative.
        bound: some eigenvalue lies within `value` ± `bound`: the residual norm ‖Hy − θy‖ of the
            Ritz pair, β_m·|s_m| (Parlett, The Symmetric Eigenvalue Problem, section 13.2).
        smallest: the smallest Ritz value, an upper bound of the smallest eigenvalue.
        steps: products taken; converged: whether `bound` fell below the tolerance.
    """

    value: float
    bound: float
    smallest: float
    steps: int
    converged: bool


@dataclass(frozen=True)
class Sharpness:
    """Measure the sharpness of a checkpoint on fixed rows.

    Attributes:
        lessons: what the checkpoint's last stage was taught; the first `rows` of it by hash are
            taken, so that all seeds and rates of a task are measured on the same.
    """

    kind: ClassVar[str] = "sharpness"
    object_kind: ClassVar[Kind] = "curve"
    version: ClassVar[int] = 1

    checkpoint: Checkpoint
    lessons: Lessons
    rows: int

    @property
    def title(self) -> str:
        """For progress bars."""
        return f"sharpness of {self.checkpoint.name}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """How many rows, and when the search ends."""
        return {"rows": self.rows, "most_steps": MOST_STEPS, "tolerance": TOLERANCE}

    @property
    def dtype(self) -> str:
        """Second derivatives are taken in float32."""
        return "float32"

    @property
    def data(self) -> str:
        """Hash of the data that the rows are taken from."""
        return self.lessons.hash

    @property
    def parents(self) -> Sequence[str]:
        """The checkpoint's fingerprint."""
        return (self.checkpoint.fingerprint,)

    def run(self, folder: Path, runtime: Runtime) -> Mapping[str, Any]:
        """Write the eigenvalue, its bound, and on how much it was taken."""
        from lethe.models.format import choose_format
        from lethe.suites.splits import sample
        from lethe.tuning.rows import tokenise

        runtime.pool.release()
        tokenizer = load_tokenizer(self.checkpoint)
        model = load_model(self.checkpoint, device=runtime.pool.device)
        check_unchanged(self.checkpoint, runtime.memory)
        model.set_attn_implementation("eager")  # fused attention has no second derivative
        examples = sample(self.lessons.examples, self.rows, salt="sharpness")
        limit = min(_MAX_LENGTH, position_limit(model, tokenizer))
        rows = tokenise(examples, tokenizer, choose_format(tokenizer), max_length=limit)
        with (
            memory_explained(self.title),
            runtime.progress.bar(self.title, MOST_STEPS) as bar,
        ):
            multiply, count = hessian_product(model, rows)
            found = largest_eigenvalue(
                multiply, count, device=runtime.pool.device, told=bar.advance
            )
        facts = {**asdict(found), "rows": len(rows), "targets": sum(row.targets for row in rows)}
        content = {**facts, "dtype": self.dtype, **environment.record(runtime.pool.device)}
        (folder / RESULT).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return facts


def hessian_product(
    model: Any, rows: Sequence["TuningRow"]
) -> tuple[Callable[["torch.Tensor"], "torch.Tensor"], int]:
    """The function v → Hv of the mean loss over the target positions of `rows`, and v's length.

    By differentiating ⟨∇loss, v⟩ (Pearlmutter 1994): about four forward passes for a product, and
    no Hessian. A tied weight counts once.

    Args:
        model: a causal language model in float32 and evaluation mode, with eager attention.

    Returns:
        A function of one vector (weights,) in float32, and the number of weights.
    """
    import torch

    from lethe.tuning.target_rows import target_logits

    weights = [weight.requires_grad_(True) for weight in model.parameters()]
    shapes = [weight.numel() for weight in weights]
    ordered = sorted(rows, key=lambda row: len(row.ids))
    batches = [
        _padded(ordered[start : start + BATCH], weights[0].device)
        for start in range(0, len(ordered), BATCH)
    ]
    targets = sum(row.targets for row in rows)

    def multiply(vector: "torch.Tensor") -> "torch.Tensor":
        pieces = torch.split(vector, shapes)
        parts = [p.view_as(w) for p, w in zip(pieces, weights, strict=True)]
        result = torch.zeros_like(vector)
        for batch in batches:
            logits, wanted = target_logits(model, batch)
            loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum") / targets
            slopes = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
            along = torch.stack([(s * p).sum() for s, p in zip(slopes, parts, strict=True)]).sum()
            turned = torch.autograd.grad(along, weights, materialize_grads=True)
            result += torch.cat([one.reshape(-1) for one in turned])
        return result

    return multiply, sum(shapes)


def largest_eigenvalue(
    multiply: Callable[["torch.Tensor"], "torch.Tensor"],
    count: int,
    *,
    most_steps: int = MOST_STEPS,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    device: str = "cpu",
    told: Callable[[], None] = lambda: None,
) -> Ritz:
    """The largest eigenvalue of a symmetric matrix, given its products with vectors, by Lanczos.

    Three vectors are held and no basis: orthogonality is lost only once a Ritz pair has converged,
    which copies its value and moves no other (Paige 1980).

    Args:
        multiply: v (count,) → Hv (count,).
        seed, device: of the first vector, which is drawn on the CPU.
        told: called after every product.

    Raises:
        InputError: a product is not finite.
    """
    import torch
    from scipy.linalg import eigh_tridiagonal

    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(count, generator=generator).to(device)
    vector /= vector.norm()
    before, beta = torch.zeros_like(vector), 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        product = multiply(vector)
        told()
        alpha = float(product.double() @ vector.double())
        rest = product - alpha * vector - beta * before
        rest -= (rest @ vector) * vector  # once more: rounding of the first time
        beta = float(rest.double().norm())
        diagonal.append(alpha)
        if not (abs(alpha) < float("inf") and beta < float("inf")):
            raise InputError(
                f"the loss has no finite second derivative (product {len(diagonal)})",
                todo="measure a checkpoint whose loss is finite",
            )
        values, vectors = eigh_tridiagonal(diagonal, beside)
        bound = beta * abs(float(vectors[-1, -1]))
        converged = bound <= tolerance * abs(float(values[-1]))
        if converged or len(diagonal) >= min(most_steps, count):
            steps = len(diagonal)
            return Ritz(float(values[-1]), bound, float(values[0]), steps, bool(converged))
        beside.append(beta)
        before, vector = vector, rest / beta


def _padded(rows: Sequence["TuningRow"], device: Any) -> dict[str, "torch.Tensor"]:
    """Rows of unequal length as one batch, padded on the right."""
    import torch

    width = max(len(row.ids) for row in rows)

    def stacked(lines: list[list[int]], fill: int) -> "torch.Tensor":
        padded = [line + [fill] * (width - len(line)) for line in lines]
        return torch.tensor(padded, device=device)

    return {
        "input_ids": stacked([list(row.ids) for row in rows], 0),
        "attention_mask": stacked([[1] * len(row.ids) for row in rows], 0),
        "labels": stacked([row.labels for row in rows], -100),
    }
