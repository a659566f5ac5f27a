"""Bayes predictors of the laboratory: against closed forms, and the values that theory gives."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from lethe.lab.bayes import Bayes, bayes
from lethe.lab.distributions import Prompts, draw, stream, task_vectors
from lethe.lab.problem import Problem, Source

PAPER = Problem(dimensions=20, vectors=64, exemplars=40, noise=1.0)
SMALL = Problem(dimensions=5, vectors=16, exemplars=20, noise=0.25, spread=1.7, share=0.2)


def _drawn(problem: Problem, source: Source, count: int, seed: int) -> tuple[Prompts, Bayes]:
    vectors = task_vectors(problem, seed, dtype=torch.float64)
    prompts = draw(problem, vectors, count, source, stream(seed, "test"))
    return prompts, bayes(prompts.x, prompts.y, vectors, problem)


def _slow(
    x: np.ndarray, y: np.ndarray, vectors: np.ndarray, problem: Problem
) -> Iterator[tuple[float, float, float, float, float]]:
    """The formulas as they stand in the paper, for one prompt: a solve and a determinant each."""
    s2, t2 = problem.noise, problem.spread
    for k in range(len(x)):
        seen, labels, query = x[:k], y[:k], x[k]
        d = x.shape[1]
        w = np.linalg.solve(seen.T @ seen + s2 / t2 * np.eye(d), seen.T @ labels)
        log_cont = (
            -(labels @ labels - labels @ seen @ w) / (2 * s2)
            - 0.5 * np.linalg.slogdet(np.eye(d) + t2 / s2 * seen.T @ seen)[1]
            - k / 2 * math.log(s2)
            - k / 2 * math.log(2 * math.pi)
        )
        each = [
            -((labels - seen @ v) ** 2).sum() / (2 * s2) - k / 2 * math.log(2 * math.pi * s2)
            for v in vectors
        ]
        most = max(each)
        likelihood = [math.exp(one - most) for one in each]
        log_disc = most + math.log(sum(likelihood) / len(vectors))
        w_disc = sum(p * v for p, v in zip(likelihood, vectors, strict=True)) / sum(likelihood)
        odds = math.log(problem.share / (1 - problem.share)) + log_disc - log_cont
        g = 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0
        mixed = g * w_disc + (1 - g) * w
        yield query @ w, query @ w_disc, g, query @ mixed, log_cont


@pytest.mark.parametrize("problem", [PAPER, SMALL])
@pytest.mark.parametrize("source", ["continuous", "discrete"])
def test_one_frozen_draw_equals_the_closed_forms(problem: Problem, source: Source) -> None:
    prompts, found = _drawn(problem, source, 4, seed=3)
    vectors = task_vectors(problem, 3, dtype=torch.float64).numpy()
    ours = torch.stack(
        [
            found.ridge,
            found.discrete,
            found.posterior(problem.share),
            found.mixture(problem.share),
            found.log_continuous,
        ],
        dim=-1,
    )
    for row in range(len(prompts)):
        slow = list(_slow(prompts.x[row].numpy(), prompts.y[row].numpy(), vectors, problem))
        np.testing.assert_allclose(ours[row].numpy(), slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("source", ["continuous", "discrete"])
def test_float32_is_enough(source: Source) -> None:
    prompts, found = _drawn(PAPER, source, 300, seed=1)
    vectors = task_vectors(PAPER, 1)
    single = bayes(prompts.x.float(), prompts.y.float(), vectors, PAPER)
    for name in ("ridge", "discrete"):
        assert torch.allclose(getattr(single, name).double(), getattr(found, name), atol=2e-3)
    for share in (0.5, 0.9999):
        assert torch.allclose(single.posterior(share).double(), found.posterior(share), atol=2e-3)
        assert torch.allclose(single.mixture(share).double(), found.mixture(share), atol=4e-3)


def test_the_label_of_the_query_is_never_read() -> None:
    prompts, found = _drawn(SMALL, "mixture", 5, seed=2)
    other = prompts.y.clone()
    other[:, -1] += 100
    vectors = task_vectors(SMALL, 2, dtype=torch.float64)
    again = bayes(prompts.x, other, vectors, SMALL)
    for name in ("ridge", "discrete", "log_continuous", "log_discrete"):
        assert torch.equal(getattr(found, name), getattr(again, name))


@pytest.fixture(scope="module")
def averages() -> dict[str, float]:
    """Mean squared errors over 50 draws of the 64 vectors: `task/predictor`."""
    sums: dict[str, float] = {}
    for seed in range(50):
        for task in ("continuous", "discrete"):
            prompts, found = _drawn(PAPER, task, 120, seed)  # type: ignore[arg-type]
            said = {"ridge": found.ridge, "discrete": found.discrete}
            said |= {f"mixture {share}": found.mixture(share) for share in (0.2, 0.5, 0.8)}
            said |= {"zero": torch.zeros_like(prompts.y)}
            for name, answers in said.items():
                # The noise of the query's own label is known, so its variance stands for it.
                loss = ((answers - prompts.clean) ** 2).mean() + PAPER.noise
                sums[f"{task}/{name}"] = sums.get(f"{task}/{name}", 0.0) + float(loss) / 50
    return sums


@pytest.mark.parametrize(
    ("name", "expected", "within"),
    [
        ("continuous/zero", 21.0, 0.25),
        ("continuous/ridge", 7.715, 0.12),
        ("continuous/discrete", 24.75, 0.5),
        ("continuous/mixture 0.2", 7.73, 0.12),
        ("continuous/mixture 0.5", 7.85, 0.12),
        ("continuous/mixture 0.8", 8.04, 0.14),
        ("discrete/zero", 21.0, 0.4),
        ("discrete/ridge", 7.715, 0.12),
        ("discrete/discrete", 2.423, 0.03),
        ("discrete/mixture 0.2", 2.75, 0.15),
        ("discrete/mixture 0.5", 2.51, 0.15),
        ("discrete/mixture 0.8", 2.41, 0.15),
    ],
)
def test_means_over_draws(
    averages: dict[str, float], name: str, expected: float, within: float
) -> None:
    """N = 64, d = 20: losses that no training can beat.

    Over draws of the vectors ridge has the loss of the continuous task. That of the posterior mean
    is from another implementation on other numbers (numpy, 100 draws: 2.423, standard error .008);
    single draws lie around it by .06.
    """
    assert averages[name] == pytest.approx(expected, abs=within)


def test_ridge_on_its_own_task_has_the_exact_loss() -> None:
    """σ² + τ² E tr(I + τ²/σ² XᵀX)⁻¹, averaged over k = 0…40, is 7.715."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 40, 20))
    eye = np.eye(20)
    traces = [20.0]
    for k in range(1, 41):
        seen = x[:, :k]
        traces.append(
            np.trace(np.linalg.inv(eye + seen.transpose(0, 2, 1) @ seen), axis1=1, axis2=2).mean()
        )
    assert 1 + np.mean(traces) == pytest.approx(7.715, abs=0.03)
    prompts, found = _drawn(PAPER, "continuous", 4000, seed=0)
    by_exemplars = ((found.ridge - prompts.clean) ** 2).mean(dim=0).numpy()
    np.testing.assert_allclose(by_exemplars, traces, rtol=0.15)
    assert 1 + by_exemplars.mean() == pytest.approx(7.715, abs=0.12)


def test_label_scaling_pulls_the_posterior_back() -> None:
    """d = 20, k = 5, α = 0.9999: g .631 → .275 → .113 → .024 at γ = 1, 1.5, 2, 3."""
    weights: dict[float, list[float]] = {1.0: [], 1.5: [], 2.0: [], 3.0: []}
    errors: dict[float, list[float]] = {scale: [] for scale in weights}
    for seed in range(30):
        vectors = task_vectors(PAPER, seed, dtype=torch.float64)
        problem = Problem(dimensions=20, vectors=64, exemplars=5, noise=1.0)
        prompts = draw(problem, vectors, 200, "continuous", stream(seed, "test"))
        for scale, found_weights in weights.items():
            scaled = prompts.scaled(scale)
            found = bayes(scaled.x, scaled.y, vectors, problem)
            found_weights.append(float(found.posterior(0.9999)[:, 5].mean()))
            error = (found.mixture(0.9999)[:, 5] / scale - prompts.clean[:, 5]) ** 2
            errors[scale].append(float(error.mean()) + 1)
    for scale, g, loss in (
        (1.0, 0.631, 24.61),
        (1.5, 0.275, 17.84),
        (2.0, 0.113, 16.59),
        (3.0, 0.024, 16.21),
    ):
        assert np.mean(weights[scale]) == pytest.approx(g, abs=0.03)
        assert np.mean(errors[scale]) == pytest.approx(loss, abs=1.2)


def test_prompts_come_from_where_they_say() -> None:
    problem = Problem(dimensions=3, vectors=4, exemplars=6, noise=0.5, spread=2.0, share=0.3)
    vectors = task_vectors(problem, 0)
    mixed = draw(problem, vectors, 20_000, "mixture", stream(0, "a"))
    assert float(mixed.discrete.float().mean()) == pytest.approx(0.3, abs=0.015)
    assert float((mixed.y - mixed.clean).var()) == pytest.approx(0.5, abs=0.02)
    w = torch.linalg.lstsq(mixed.x, mixed.clean[..., None]).solution[..., 0]
    nearest = torch.cdist(w, vectors).amin(dim=1)
    assert float(nearest[mixed.discrete].max()) < 1e-2
    assert float(w[~mixed.discrete].var()) == pytest.approx(2.0, abs=0.1)
    assert bool(draw(problem, vectors, 50, "discrete", stream(0, "b")).discrete.all())
    assert not bool(draw(problem, vectors, 50, "continuous", stream(0, "c")).discrete.any())


def test_a_seed_decides_and_uses_share_nothing() -> None:
    assert torch.equal(task_vectors(SMALL, 1), task_vectors(SMALL, 1))
    assert not torch.equal(task_vectors(SMALL, 1), task_vectors(SMALL, 2))
    vectors = task_vectors(SMALL, 1)
    one, same, other = (
        draw(SMALL, vectors, 4, "mixture", stream(1, use)).x for use in ("dev", "dev", "test")
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
