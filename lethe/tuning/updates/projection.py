"""LoRA whose A stays in a chosen subspace of the layer's inputs, from the first step to the file.

The update is W + (alpha/rank)·B·(Ã·P) with AdamW untouched: Ã's gradient is dA·P and A moves by
Adam's step times P. That is what is done here, with A = Ã·P itself as the module's weight, so that
the weight is a plain LoRA's at every moment: what is saved in mid-training, merged or read by an
anchor needs no folding, and a killed training finds everything it needs in A. P is kept as factors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

ADAPTER = "default"  # the name PEFT gives an adapter that no one named


@dataclass(frozen=True)
class Projection:
    """A symmetric P over the inputs of a layer of width n, as factors.

    Attributes:
        vectors: (n, k), orthonormal columns.
        shares: (k,) what P takes away along each column; None where P keeps the columns alone.
    """

    vectors: torch.Tensor
    shares: torch.Tensor | None = None

    def apply(self, rows: torch.Tensor) -> torch.Tensor:
        """rows·P, for rows (…, n)."""
        inner = rows @ self.vectors
        if self.shares is None:
            return inner @ self.vectors.T
        return rows - (inner * self.shares) @ self.vectors.T

    @property
    def exact(self) -> bool:
        """P² = P: directions are taken away wholly or not at all."""
        return self.shares is None or bool((self.shares == 1).all())

    @property
    def free(self) -> float:
        """trace(P): in how many directions, of n, A may move."""
        width, count = self.vectors.shape
        return float(count) if self.shares is None else width - float(self.shares.sum())

    def through(self, moments: torch.Tensor) -> float:
        """tr(P·C·P)/tr(C): the share of the inputs' energy that reaches the adapter."""
        return float(self.apply(self.apply(moments).T).trace() / moments.trace())

    @property
    def memory(self) -> int:
        """Bytes."""
        shares = 0 if self.shares is None else self.shares.nbytes
        return self.vectors.nbytes + shares


class ProjectedLinear(torch.nn.Linear):
    """A LoRA's A, (rank, n), that cannot leave the row space of P.

    `weight` is A itself. Its gradient is projected as it arrives, and `settle` takes what the
    optimiser's step, element by element as Adam's is, has moved outside.
    """

    vectors: torch.Tensor
    shares: torch.Tensor | None

    def __init__(self, plain: torch.nn.Linear, projection: Projection) -> None:
        """Take over the weight of a fresh `lora_A`, projected."""
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        self.weight = plain.weight
        # Not saved: the file is a plain adapter. Modules that share an input share the factors.
        self.register_buffer("vectors", projection.vectors, persistent=False)
        self.register_buffer("shares", projection.shares, persistent=False)
        self._exact = projection.exact
        self._before: torch.Tensor | None = None
        with torch.no_grad():
            self.weight.copy_(self._project(self.weight))
        self.weight.register_hook(self._on_gradient)  # type: ignore[no-untyped-call]

    def _project(self, rows: torch.Tensor) -> torch.Tensor:
        return Projection(self.vectors, self.shares).apply(rows)

    def _on_gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        if not self._exact and self._before is None:
            self._before = self.weight.detach().clone()  # what the coming step starts from
        return self._project(gradient)

    @torch.no_grad()
    def settle(self) -> None:
        """Project the last step of the optimiser: A ← A + (A′ − A)·P."""
        if self._exact:  # A lies in the space already, so that all of it can be projected
            self.weight.copy_(self._project(self.weight))
        elif self._before is not None:
            self.weight.copy_(self._before + self._project(self.weight - self._before))
            self._before = None


def project_adapter(model: Any, projections: Mapping[str, Projection]) -> Any:
    """Keep every A of a fresh LoRA in its space.

    Args:
        model: a `PeftModel`.
        projections: for the path of every adapted module in the model below.
    """
    base = model.get_base_model()
    for path, projection in projections.items():
        adapters = base.get_submodule(path).lora_A
        adapters[ADAPTER] = ProjectedLinear(adapters[ADAPTER], projection)
    return model


def settle(model: Any) -> None:
    """After every step of the optimiser."""
    for module in model.modules():
        if isinstance(module, ProjectedLinear):
            module.settle()


def factor_memory(model: Any) -> int:
    """Bytes of all factors, shared ones counted once."""
    sizes = {}
    for module in model.modules():
        if isinstance(module, ProjectedLinear):
            sizes[module.vectors.data_ptr()] = Projection(module.vectors, module.shares).memory
    return sum(sizes.values())


def spectrum(moments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues of C, largest first and none negative, and its eigenvectors as columns."""
    values, vectors = torch.linalg.eigh(moments.to(_precision(moments)))
    return values.flip(0).clamp(min=0), vectors.flip(1)


def _precision(moments: torch.Tensor) -> torch.dtype:
    """Float64 decides small eigenvalues better; beyond some width it takes too long."""
    return torch.float64 if len(moments) <= 4096 and moments.device.type != "mps" else torch.float32


def contrasting(task: torch.Tensor, protect: torch.Tensor, ridge: float, count: int) -> Projection:
    """The `count` directions in which task inputs have most energy for each of protected inputs.

    Top generalised eigenvectors of (C_task, C_protect + λI), λ = ridge · mean eigenvalue of
    C_protect; an orthonormal basis of their span.
    """
    dtype = _precision(protect)
    task, protect = task.to(dtype), protect.to(dtype)
    damped = protect + ridge * protect.diagonal().mean() * torch.eye(len(protect)).to(protect)
    root = torch.linalg.cholesky(damped)
    inner = torch.linalg.solve_triangular(root, task, upper=False)
    inner = torch.linalg.solve_triangular(root, inner.T, upper=False)
    _, vectors = torch.linalg.eigh((inner + inner.T) / 2)
    top = torch.linalg.solve_triangular(root.T, vectors[:, -count:], upper=True)
    return Projection(torch.linalg.qr(top).Q.float().contiguous())
