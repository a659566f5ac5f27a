"""The laboratory as a user runs it: a pico preset through the real pipeline."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lethe.cli import app
from lethe.errors import IncompleteError, InputError
from lethe.lab import experiment, presets, training
from lethe.lab.deadline import Deadline
from lethe.lab.distributions import draw, stream, task_vectors
from lethe.lab.presets import PRESETS, Preset, Recipe, Shape
from lethe.lab.problem import Problem
from lethe.lab.steps import Pretrain, Tune, load_regressor
from lethe.lab.transformer import answers_of, make_regressor
from lethe.store import Store

PICO = Preset(
    "pico",
    Problem(dimensions=2, vectors=3, exemplars=4, noise=0.25),
    Shape("gpt2", 16, 1, 2, 32),
    Recipe(steps=40, batch=16, rate=1e-2, vector_rate=1e-2),
    Recipe(steps=16, batch=16, rate=3e-3, vector_rate=3e-3),
    prompts=200,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that holds one run."""
    return Store(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def lab(store: Store) -> experiment.Lab:
    """The pico preset on two seeds."""
    return experiment.run_lab(PICO, [0, 1], store, device="cpu")


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_transformer_reads_only_what_comes_before(family: Any, paired: bool) -> None:
    problem = PICO.problem
    model = make_regressor(replace(PICO.shape, family=family, paired=paired), problem, 0).eval()
    prompts = draw(problem, task_vectors(problem, 0), 3, "mixture", stream(0, "test"))
    answers = answers_of(model, prompts.x, prompts.y)
    assert answers.shape == (3, problem.exemplars + 1)
    later = prompts.y.clone()
    later[:, 2:] += 5
    moved = answers_of(model, prompts.x, later)
    assert torch.allclose(moved[:, :3], answers[:, :3], atol=1e-6)
    assert not torch.allclose(moved[:, 3], answers[:, 3], atol=1e-5)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_weight_is_dead(family: Any, paired: bool) -> None:
    model = make_regressor(replace(PICO.shape, family=family, paired=paired), PICO.problem, 0)
    prompts = draw(PICO.problem, task_vectors(PICO.problem, 0), 8, "mixture", stream(0, "test"))
    training.loss_of(model, prompts, clean=True).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
    optimisers = training.make_descent(model, PICO.pretrain).optimisers
    taken = [w for o in optimisers for group in o.param_groups for w in group["params"]]
    assert len(taken) == len({id(w) for w in taken}) == len(list(model.parameters()))


def test_the_papers_transformer_has_the_papers_size() -> None:
    paper = PRESETS["paper"]
    with torch.device("meta"):
        model = make_regressor(paper.shape, paper.problem, 0)
    assert sum(w.numel() for w in model.parameters()) == pytest.approx(9.5e6, rel=0.01)
    small = make_regressor(PRESETS["small"].shape, PRESETS["small"].problem, 0)
    assert 150_000 <= sum(w.numel() for w in small.parameters()) <= 450_000


def test_a_scaled_prompt_is_answered_on_the_old_scale() -> None:
    problem = PICO.problem
    model = make_regressor(PICO.shape, problem, 0).eval()
    prompts = draw(problem, task_vectors(problem, 0), 3, "mixture", stream(0, "test"))
    scaled = answers_of(model, prompts.x, prompts.y, scale=2.0)
    by_hand = answers_of(model, prompts.x, 2 * prompts.y) / 2
    assert torch.allclose(scaled, by_hand, atol=1e-6)


def test_training_brings_both_tasks_nearer_to_bayes(lab: experiment.Lab) -> None:
    for trial in lab.trials:
        first, last = trial.pretraining[0], trial.pretraining[-1]
        assert (first["step"], last["step"]) == (0, PICO.pretrain.steps)
        assert last["continuous"] < first["continuous"]
        assert last["discrete"] < first["discrete"]
        assert trial.tuning[0]["discrete"] == pytest.approx(last["discrete"], abs=1e-6)
        assert trial.tuning[-1]["step"] == PICO.tune.steps


def test_a_run_holds_everything_that_was_measured(lab: experiment.Lab) -> None:
    found = json.loads(json.dumps(lab.to_dict(), allow_nan=False))
    assert found["speaks_of"] == "other seeds"
    assert [trial["seed"] for trial in found["trials"]] == [0, 1]
    for trial in found["trials"]:
        results = trial["results"]
        places = PICO.problem.exemplars + 1
        for task in ("continuous", "discrete"):
            assert all(len(row) == places for row in results["losses"][task].values())
            assert len(results["forgetting"][task]["by_exemplars"]) == places
            change = results["forgetting"][task]["mean"]["estimate"]
            losses = {who: sum(row) / places for who, row in results["losses"][task].items()}
            assert change == pytest.approx(losses["tuned"] - losses["base"])
            assert losses["mixture"] < losses["zero"]
        assert results["conjugate"]["recovery"]["1.0"]["estimate"] == pytest.approx(0, abs=1e-9)
        assert set(results["implied"]) == {"base", "tuned"}
    for value in found["summary"].values():
        assert value["n"] == 2
        assert value["low"] <= value["estimate"] <= value["high"]


def test_seeds_differ_and_repeat(lab: experiment.Lab, store: Store, tmp_path: Path) -> None:
    ours, other = (trial.results["losses"] for trial in lab.trials)
    assert ours != other
    alone = experiment.run_lab(PICO, [1], Store(tmp_path), device="cpu")
    assert alone.trials[0].results["losses"] == other
    assert alone.speaks_of == "other prompts"


def test_the_same_call_again_computes_nothing(
    lab: experiment.Lab, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not lab.cached
    monkeypatch.setattr(training, "step", None)
    monkeypatch.setattr("lethe.lab.steps.results", None)
    again = experiment.run_lab(PICO, [0, 1], store, device="cpu")
    assert again.cached
    assert again.summary() == lab.summary()
    assert again.run == lab.run


class _After(Deadline):
    """Passes after so many steps, so that a kill needs no clock."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    @property
    def passed(self) -> bool:
        self._left -= 1
        return self._left < 0


def test_a_stopped_run_goes_on_to_the_same_weights(
    lab: experiment.Lab, store: Store, tmp_path: Path
) -> None:
    other = Store(tmp_path)
    stops = 0
    while True:
        try:
            found = experiment.run_lab(PICO, [0], other, device="cpu", deadline=_After(11))
            break
        except IncompleteError:
            stops += 1
        assert stops < 20
    assert stops >= 5
    whole, parts = (
        load_regressor(Tune(Pretrain(PICO, 0)), where).state_dict() for where in (store, other)
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    curve = [(look["step"], look["discrete"]) for look in lab.trials[0].pretraining]
    assert [(look["step"], look["discrete"]) for look in found.trials[0].pretraining] == curve
    left = list((other.root / "objects").rglob("step-*")) + list(
        (other.root / "objects").rglob("training.json")
    )
    assert not left


@pytest.mark.parametrize(
    "changed",
    [
        replace(PICO, problem=replace(PICO.problem, share=0.9)),
        replace(PICO, problem=replace(PICO.problem, noise=0.5)),
        replace(PICO, pretrain=replace(PICO.pretrain, clean=False)),
        replace(PICO, pretrain=replace(PICO.pretrain, batch=8)),
        replace(PICO, shape=replace(PICO.shape, inner=16)),
    ],
)
def test_whatever_is_set_makes_another_model(changed: Preset, store: Store) -> None:
    one, other = Pretrain(PICO, 0), Pretrain(changed, 0)
    assert one.settings != other.settings
    assert Tune(one).parents != Tune(other).parents


@pytest.fixture
def pico_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    """PICO under a name of the command line."""
    monkeypatch.setitem(presets.PRESETS, "pico", PICO)  # type: ignore[arg-type]


def test_the_command_prints_writes_and_fits(
    lab: experiment.Lab, store: Store, pico_preset: None, tmp_path: Path
) -> None:
    asked = ["lab", "--preset", "pico", "--seeds", "2", "--store", str(store.root)]
    asked += ["--device", "cpu"]
    shown = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert f"run {lab.run}" in shown.stdout
    assert "recovered by label scale" in shown.stdout
    wrote = {path.name for path in (tmp_path / "out").iterdir()}
    plots = {"losses", "forgetting", "likelihood", "conjugate", "weight", "training"}
    assert wrote == {"lab.json", *(f"{name}.svg" for name in plots)}
    assert all(path.stat().st_size > 3000 for path in (tmp_path / "out").glob("*.svg"))
    printed = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert printed == json.loads((tmp_path / "out" / "lab.json").read_text())
    assert printed["summary"] == lab.summary()


def test_bad_input_is_said_before_any_work(store: Store, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["lab", "--preset", "smal"])
    assert isinstance(found.exception, InputError)
    assert "did you mean 'small'?" in str(found.exception)
    taken = tmp_path / "file"
    taken.write_text("")
    found = CliRunner().invoke(app, ["lab", "--out", str(taken), "--store", str(tmp_path / "s")])
    assert isinstance(found.exception, InputError)
    assert not (tmp_path / "s").exists()
    with pytest.raises(InputError, match="share"):
        Problem(2, 3, 4, 0.25, share=1.0)


def test_minutes_end_a_call_that_can_go_on(pico_preset: None, tmp_path: Path) -> None:
    asked = ["lab", "--preset", "pico", "--minutes", "0", "--store", str(tmp_path)]
    found = CliRunner().invoke(app, [*asked, "--device", "cpu"])
    assert isinstance(found.exception, IncompleteError)
    assert found.exception.exit_code == 3
    assert "used up at step 0 of 40" in str(found.exception)
