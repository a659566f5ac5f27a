"""The Hessian's largest eigenvalue: against dense matrices, and as a step of a study."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lethe.errors import InputError
from lethe.sharpness import RESULT, Ritz, hessian_product, largest_eigenvalue
from lethe.store import Store
from lethe.studies.executor import run_study
from lethe.studies.study import make_study
from lethe.tuning.rows import TuningRow
from tests.pico import pico_model
from tests.pico_study import task_study


def tiny_model() -> Any:
    """One layer of width 8 over 24 tokens, small enough for a dense Hessian."""
    model = pico_model(
        24,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    return model.float().eval()


def rows() -> list[TuningRow]:
    draw = np.random.default_rng(3)
    lengths = ((9, 3), (5, 2), (7, 6), (4, 1), (6, 2), (8, 4))
    return [
        TuningRow(tuple(int(i) for i in draw.integers(0, 24, size)), targets, str(number))
        for number, (size, targets) in enumerate(lengths)
    ]


def dense_hessian(model: Any, taught: list[TuningRow]) -> torch.Tensor:
    """By torch's own function of the plain loss, row by row, without padding or batches."""
    names = [name for name, _ in model.named_parameters()]
    weights = [weight.detach() for _, weight in model.named_parameters()]
    shapes = [weight.shape for weight in weights]
    sizes = [weight.numel() for weight in weights]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = [p.view(s) for p, s in zip(flat.split(sizes), shapes, strict=True)]
        total, count = torch.zeros(()), 0
        for row in taught:
            ids = torch.tensor([row.ids])
            state = dict(zip(names, parts, strict=True))
            logits = torch.func.functional_call(model, state, kwargs={"input_ids": ids}).logits[0]
            at = range(len(row.ids) - row.targets, len(row.ids))
            for position in at:
                total = total - logits[position - 1].log_softmax(-1)[row.ids[position]]
                count += 1
        return total / count

    flat = torch.cat([weight.reshape(-1) for weight in weights])
    return torch.autograd.functional.hessian(loss, flat, vectorize=False)


def test_the_eigenvalue_is_that_of_the_dense_hessian() -> None:
    model = tiny_model()
    multiply, count = hessian_product(model, rows())
    vector = torch.randn(count, generator=torch.Generator().manual_seed(1))
    dense = dense_hessian(model, rows())
    assert dense.shape == (count, count)
    torch.testing.assert_close(multiply(vector), dense @ vector, rtol=1e-3, atol=1e-4)
    exact = torch.linalg.eigvalsh(dense.double())
    found = largest_eigenvalue(multiply, count)
    assert found.converged
    assert found.value == pytest.approx(float(exact[-1]), rel=2e-3)
    assert float((exact - found.value).abs().min()) <= found.bound + 1e-5 * float(exact[-1])
    assert found.steps < count / 4


def symmetric(values: list[float]) -> Any:
    draw = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=draw))
    matrix = basis @ torch.diag(torch.tensor(values, dtype=torch.float32)) @ basis.T
    return lambda vector: matrix @ vector


def test_the_largest_is_not_the_largest_in_magnitude() -> None:
    values = [-40.0, *np.linspace(-3, 3, 98), 7.0]
    found = largest_eigenvalue(symmetric(values), 100)
    assert found.value == pytest.approx(7.0, rel=2e-3)
    assert found.smallest == pytest.approx(-40.0, rel=1e-3)


def test_a_search_cut_short_says_so_and_its_bound_holds() -> None:
    values = list(np.linspace(-1, 1, 200))
    found = largest_eigenvalue(symmetric(values), 200, most_steps=6)
    assert (found.converged, found.steps) == (False, 6)
    assert found.bound > 0
    assert min(abs(np.array(values) - found.value)) <= found.bound
    assert found.value <= 1 + 1e-6


def test_a_small_space_is_searched_whole() -> None:
    assert largest_eigenvalue(symmetric([2.0, 5.0]), 2).value == pytest.approx(5.0, rel=1e-5)
    flat = largest_eigenvalue(lambda vector: 0 * vector, 10)
    assert flat == Ritz(0.0, 0.0, 0.0, 1, True)


def test_no_finite_curvature_is_an_error() -> None:
    with pytest.raises(InputError, match="no finite second derivative"):
        largest_eigenvalue(lambda vector: vector * float("nan"), 10)


def test_a_study_measures_every_tuned_position_on_its_own_task(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a", "b"], sharpness={"rows": 3})
    store = Store(tmp_path / "store")
    result = run_study(make_study(content), store)
    assert result.failed == {}
    keys = result.run.settings["sharpness"]
    tuned = {place.checkpoint for place in result.run.positions if place.position}
    assert set(keys) == tuned
    for key in keys.values():
        stored = store.get("curve", key)
        assert stored is not None
        found = json.loads(stored.file(RESULT).read_text())
        assert found["rows"] == 3
        assert found["value"] > 0
        assert found["bound"] <= 0.01 * found["value"] or not found["converged"]
    assert run_study(make_study(content), store).done == 0
    content["sharpness"] = {"rows": 4}
    assert run_study(make_study(content), store).done == 2  # nothing is trained again
