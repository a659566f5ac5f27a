"""Running studies: whole, killed, failing, choosing; on pico models through the real pipeline."""

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from lethe import cli
from lethe.auditing import audit
from lethe.clean import plan_clean
from lethe.errors import IncompleteError, InputError
from lethe.forgetting import forgetting_by_group, forgetting_by_task, score_matrix
from lethe.models.checkpoint import check_unchanged, resolve
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.local import ModelPool, attach_adapter, load_model
from lethe.panel import Panel, SuiteFacts
from lethe.progress import Progress
from lethe.run import ledger, load_run
from lethe.steps import Runtime
from lethe.store import Store
from lethe.studies.deciding import best_rates
from lethe.studies.executor import (
    LocalExecutor,
    Outcome,
    StudyResult,
    check_complete,
    run_study,
)
from lethe.studies.plan import build_plan
from lethe.studies.study import make_study
from lethe.tuning.step import Tune
from tests.pico_study import task_study

KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import lethe.studies.executor, lethe.tuning.trainer, lethe.tuning.divergence, peft
from lethe.store import Store
from lethe.studies.study_file import load_study

study, draw, struck = load_study(sys.argv[1]), random.Random(), 0

def child(root):
    process = os.fork()
    if not process:
        lethe.studies.executor.run_study(study, Store(Path(root)))
        os._exit(0)
    return process

def whole(root):
    assert os.waitpid(child(root), 0)[1] == 0

for _ in range(int(sys.argv[4])):
    process = child(sys.argv[2])
    time.sleep(draw.uniform(0.05, 0.5))
    os.kill(process, signal.SIGKILL)
    struck += os.WIFSIGNALED(os.waitpid(process, 0)[1])
whole(sys.argv[2])
whole(sys.argv[3])
print(struck)
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, pico: Path) -> tuple[StudyResult, Store]:
    """Three tasks in three orders, two of which begin alike; run once for all that only look."""
    folder = tmp_path_factory.mktemp("tasks")
    store = Store(folder / "store")
    names = ["a", "b", "c"]
    chains = {" > ".join(order): list(order) for order in ("abc", "acb", "cba")}
    content = task_study(folder, pico, names, chains=chains)
    return run_study(make_study(content), store), store


def test_shared_beginnings_are_trained_once_and_nothing_runs_twice(
    tasks: tuple[StudyResult, Store],
) -> None:
    result, store = tasks
    trained = list((store.root / "objects" / "checkpoint").iterdir())
    assert len(trained) == 8  # not 9
    assert (result.done, result.cached, result.failed) == (8 + 9 * 3, 0, {})
    study = make_study(dict(result.run.settings["study"], stages={}) | {"stages": raw(result)})
    again = run_study(study, store)
    assert (again.done, again.cached) == (0, 8 + 9 * 3)
    assert again.run.name == result.run.name
    assert not any(path.is_dir() for path in (store.root / "partial").glob("*/*"))


def raw(result: StudyResult) -> dict[str, Any]:
    """The stages of a resolved study, as they are written."""
    stages = result.run.settings["study"]["stages"]
    return {name: {"data": stage["data"], **stage["settings"]} for name, stage in stages.items()}


def test_the_ledger_holds_every_place_and_forgetting_reads_it(
    tasks: tuple[StudyResult, Store],
) -> None:
    result, store = tasks
    run = load_run(result.run.name, store)
    assert run.missing() == []
    rows = ledger(run, store)
    assert rows.height == 3 * 4 * 3 * 12
    assert rows["method"].unique().sort().to_list() == [None, "lora"]
    one = rows.filter((pl.col("chain") == "a > c > b") & (pl.col("seed") == 0))
    panels = {
        facts["name"]: Panel.from_rows(one, SuiteFacts(facts["name"], facts["axis"]))
        for facts in run.suites
    }
    places = [place.name for place in run.positions if place.chain == "a > c > b"]
    matrix = score_matrix(panels, places)
    by_hand = one.group_by("suite", "position").agg(pl.col("score").mean())
    for suite, position, mean in by_hand.iter_rows():
        assert matrix[position, list(panels).index(suite)] == pytest.approx(mean)
    pair = panels["a"].pair(places[1], places[3])
    lost = matrix[1, 0] - matrix[3, 0]
    assert forgetting_by_task(pair).estimate == pytest.approx(lost)
    assert {group.group for group in forgetting_by_group(pair)} == {"a", "b"}


def test_every_stage_leaves_its_parent_when_switched_off(tasks: tuple[StudyResult, Store]) -> None:
    """At depth three, to the bit; and it started from that parent."""
    result, store = tasks
    memory = FingerprintMemory(store.root / "none")
    places = [place for place in result.run.positions if place.chain == "c > b > a"]
    folders = [store.root / "objects" / "checkpoint" / place.checkpoint for place in places[1:]]
    ids = torch.tensor([[5, 9, 17, 33, 6]])
    with torch.inference_mode():
        for depth in (1, 2):
            parent, child = (resolve(str(folders[at]), memory) for at in (depth - 1, depth))
            assert child.fingerprint == places[depth + 1].checkpoint  # known before it was trained
            assert child.base == parent
            check_unchanged(child, memory)
            before = load_model(parent)(input_ids=ids).logits
            adapted = attach_adapter(load_model(parent), child)
            assert not torch.equal(adapted(input_ids=ids).logits, before)
            with adapted.disable_adapter():
                assert torch.equal(adapted(input_ids=ids).logits, before)
            record = json.loads((folders[depth] / "lethe.json").read_text())
            assert record["base_fingerprint"] == places[depth].checkpoint


def test_an_audit_of_a_stored_checkpoint_finds_its_tables(
    tasks: tuple[StudyResult, Store], pico: Path
) -> None:
    result, store = tasks
    place = result.run.positions[1]
    folder = store.root / "objects" / "checkpoint" / place.checkpoint
    path = result.run.settings["study"]["suites"][0]
    tables = len(list((store.root / "objects" / "scores").iterdir()))
    found = audit(str(pico), str(folder), [path], format="plain", store=store)
    assert found.run.scores["a"] == {
        at: key
        for at, key in result.run.scores["a"].items()
        if at in {place.checkpoint, result.run.positions[0].checkpoint}
    }
    assert len(list((store.root / "objects" / "scores").iterdir())) == tables


def test_an_altered_checkpoint_is_not_taken_for_the_stored_one(tmp_path: Path, pico: Path) -> None:
    store = Store(tmp_path / "store")
    result = run_study(make_study(task_study(tmp_path, pico, ["a"])), store)
    key = result.run.positions[1].checkpoint
    folder = store.root / "objects" / "checkpoint" / key
    weights = folder / "adapter_model.safetensors"
    checkpoint = resolve(str(folder), FingerprintMemory(tmp_path / "x"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert resolve(str(folder), FingerprintMemory(tmp_path / "y")).fingerprint != key
    with pytest.raises(InputError, match="files changed"):
        check_unchanged(checkpoint, FingerprintMemory(tmp_path / "z"))


def test_killed_at_random_moments_it_ends_as_if_it_never_was(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a", "b"], orders=["a", "b"])
    content["stages"]["b"]["update"] = "full"
    del content["stages"]["b"]["rank"]
    content["stages"]["a"]["after"] = {"interpolate": [0.5, 1.0]}
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(content))
    roots = [str(tmp_path / "killed"), str(tmp_path / "whole")]
    kills = int(os.environ.get("LETHE_KILLS", "4"))  # 20 before a release
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(path), *roots, str(kills)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert int(done.stdout.split()[-1]) >= kills / 3  # kills that struck a living process
    killed, whole = (load_run("last", Store(Path(root))) for root in roots)
    assert killed.scores == whole.scores
    assert killed.positions == whole.positions
    assert killed.missing() == []
    one, other = (
        ledger(run, Store(Path(root))) for run, root in zip((killed, whole), roots, strict=True)
    )
    assert one.equals(other)
    assert not any(path.is_dir() for path in Path(roots[0]).glob("partial/*/*"))


def failing(folder: Path, model: Path) -> dict[str, Any]:
    """A stage whose weights leave the finite, in the middle of one of two chains."""
    content = task_study(folder, model, ["a", "b"])
    data = content["stages"]["a"]["data"]
    content["stages"]["bad"] = {
        "data": data,
        "update": "full",
        "learning_rate": 1e39,
        "max_steps": 1,
        "held_out": 0,
    }
    content["chains"] = {"broken": ["a", "bad", "b"], "good": ["a", "b"]}
    return content


def test_a_failed_stage_stops_what_follows_from_it_alone(
    tmp_path: Path, pico: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = failing(tmp_path, pico)
    store = Store(tmp_path / "store")
    result = run_study(make_study(content), store)
    assert list(result.failed) == ["tuning a on bad, seed 0"]
    assert result.left == 2 + 1 + 2  # measuring it; the stage after it; measuring that
    assert result.done == 2 + 2 * 3
    names = [name for _, name in result.run.missing()]
    assert set(names) == {"broken/2#0", "broken/3#0"}
    assert set(ledger(result.run, store)["chain"].unique()) == {"broken", "good"}
    with pytest.raises(
        IncompleteError, match=r"tuning a on bad, seed 0 \(some weights are not finite"
    ):
        check_complete(result)
    log = (store.runs / result.run.name / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["state"] for line in log].count("failed") == 1
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(content))
    monkeypatch.setattr(sys, "argv", ["lethe", "run", str(path), "--store", str(store.root)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 3
    shown = capsys.readouterr()
    assert "failed: tuning a on bad" in shown.err
    assert "0 steps done, 8 were in the store" in shown.out


def test_the_rate_is_the_best_on_the_dev_split(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a", "b"], seeds=[5, 6])
    stage = content["stages"]["a"]
    del stage["learning_rate"]
    stage["held_out"] = 1
    stage["choose"] = {"learning_rate": [1e39, 1e-5, 3e-2]}  # the first cannot be trained
    store = Store(tmp_path / "store")
    result = run_study(make_study(content), store)
    assert result.failed == {}
    assert list(result.dropped) == ["tuning base on a at 1e+39, seed 5"]
    check_complete(result)
    (choice,) = result.run.settings["choices"]
    assert choice["failed"] == (1e39,)
    expected = {}
    for rate in (1e-5, 3e-2):
        alone = task_study(tmp_path, pico, ["a"], seeds=[5], split="dev")
        alone["stages"]["a"].update(learning_rate=rate, held_out=1)
        rows = ledger(run_study(make_study(alone), store).run, store)
        tuned = rows.filter((pl.col("suite") == "a") & (pl.col("position") == 1))
        expected[rate] = float(np.mean(tuned["score"].to_list()))
    found = {rate: score for rate, (score, _) in choice["scores"].items()}
    assert found == pytest.approx(expected)
    best = max(expected.values())
    assert expected[choice["rate"]] == best
    if len(set(expected.values())) == 1:  # a tie: the one that moved less
        divergence = {rate: kl for rate, (_, kl) in choice["scores"].items()}
        assert choice["rate"] == min(divergence, key=divergence.__getitem__)
    assert result.run.missing() == []
    assert len(result.run.positions) == 2 * 3
    # The trial at the chosen rate is the first stage of the first seed: two and four trainings.
    assert len(list((store.root / "objects" / "checkpoint").iterdir())) == 2 + 3
    assert run_study(make_study(content), store).done == 0


def test_halving_goes_on_with_the_better_half(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a"], seeds=[5, 6])
    stage = content["stages"]["a"]
    del stage["learning_rate"]
    rates = [1e39, 1e-5, 1e-3, 3e-2]  # the first cannot be trained
    stage |= {"held_out": 1, "max_steps": 5}
    stage["choose"] = {"learning_rate": rates, "by": "halving"}
    store = Store(tmp_path / "store")
    result = run_study(make_study(content), store)
    assert result.failed == {}
    assert list(result.dropped) == ["tuning base on a at 1e+39 for 1/4, seed 5"]
    (choice,) = result.run.settings["choices"]
    first, second = choice["rounds"]
    assert (first["values"], first["parts"], second["parts"]) == (tuple(rates), 4, 2)
    assert first["failed"] == choice["failed"] == (1e39,)

    def trial(rate: float, steps: int) -> float:
        """The dev score of a study of its own that trains for so many steps."""
        alone = task_study(tmp_path, pico, ["a"], seeds=[5], split="dev")
        alone["stages"]["a"].update(learning_rate=rate, held_out=1, max_steps=steps)
        ran = run_study(make_study(alone), store)
        assert ran.done <= 1  # the base on the dev split; the training is found
        rows = ledger(ran.run, store).filter(pl.col("position") == 1)
        return float(np.mean(rows["score"].to_list()))

    for tried, steps in ((first, 2), (second, 3)):
        found = {rate: score for rate, (score, _) in tried["scores"].items()}
        assert found == pytest.approx({rate: trial(rate, steps) for rate in found})
    better = best_rates(first["scores"])[:2]
    assert second["values"] == tuple(rate for rate in rates if rate in better)
    assert choice["rate"] == best_rates(second["scores"])[0]
    assert len(result.run.positions) == 2 * 2
    # Three short trainings, two longer ones, and the stage itself for each seed.
    assert len(list((store.root / "objects" / "checkpoint").iterdir())) == 3 + 2 + 2
    assert run_study(make_study(content), store).done == 0


def test_all_rates_failing_is_a_failure(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a", "b"])
    del content["stages"]["a"]["learning_rate"]
    content["stages"]["a"]["choose"] = {"learning_rate": [1e39, 2e39]}
    result = run_study(make_study(content), Store(tmp_path / "store"))
    assert set(result.failed) == {
        f"tuning base on a at {rate}, seed 0" for rate in ("1e+39", "2e+39")
    }
    assert [place.position for place in result.run.positions] == [0]
    with pytest.raises(
        IncompleteError, match=r"failed: tuning base on a at 1e\+39, seed 0 and 1 more"
    ):
        check_complete(result)


def test_tidying_up_leaves_what_a_study_stands_on(tasks: tuple[StudyResult, Store]) -> None:
    result, store = tasks
    kept = {place.checkpoint for place in result.run.positions}
    doomed = {item.path.name for item in plan_clean(store, unused=True).items}
    assert kept & {found.key for found in store.objects()}
    assert not kept & doomed


def test_another_executor_gets_nodes_after_what_they_need(tmp_path: Path, pico: Path) -> None:
    """The seam on which steps go elsewhere."""
    seen: list[str] = []

    class Elsewhere:
        def run(self, nodes: Any, runtime: Any, told: Any) -> None:
            for node in nodes:
                assert set(node.needs) <= set(seen)
                seen.append(node.key)
                if isinstance(node.step, Tune):
                    told(Outcome(node, "failed", 0.0, "no worker"))
                else:
                    told(Outcome(node, "left"))

    study = make_study(task_study(tmp_path, pico, ["a", "b"]))
    result = run_study(study, Store(tmp_path / "store"), executor=Elsewhere())
    assert len(seen) == len(set(seen)) == 8
    assert set(result.failed.values()) == {"no worker"}


def test_what_another_process_is_at_work_on_is_passed_over(tmp_path: Path, pico: Path) -> None:
    """Its lock is held here, and let go once there is nothing left but to wait."""
    content = task_study(tmp_path, pico, ["a", "b"], chains={"a": ["a"], "b": ["b"]})
    store = Store(tmp_path / "store")
    study = make_study(content)
    plan = build_plan(study, store, FingerprintMemory(tmp_path / "hashes.json"))
    first = next(node for node in plan.nodes.values() if isinstance(node.step, Tune))
    folder = store.root / "partial" / "checkpoint"
    folder.mkdir(parents=True)
    said: list[str] = []

    with (folder / f"{first.key}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        class Letting(Progress):
            def say(self, text: str) -> None:
                said.append(text)
                fcntl.flock(held, fcntl.LOCK_UN)

        result = run_study(study, store, progress=Letting())
    assert said == ["waiting for another process: tuning base on a, seed 0"]
    assert (result.done, result.left, result.failed) == (8, 0, {})
    lines = (store.runs / result.run.name / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps.index("tuning base on b, seed 0") < steps.index("tuning base on a, seed 0")
    assert len(steps) == len(set(steps)) == 8


def test_what_another_process_made_and_dropped_is_not_made_again(
    tmp_path: Path, pico: Path
) -> None:
    """The other one goes through the whole study while this one is in its first step."""
    chains = {"a": ["a"], "b>a": ["b", "a"]}
    content = task_study(tmp_path, pico, ["a", "b"], chains=chains, keep="last")
    for stage in content["stages"].values():
        del stage["rank"]
        stage["update"] = "full"
    study = make_study(content)
    store = Store(tmp_path / "store")
    runtime = Runtime(store, ModelPool(), FingerprintMemory(tmp_path / "hashes.json"), Progress())
    plan = build_plan(study, store, runtime.memory)
    states: dict[str, str] = {}

    def told(outcome: Outcome) -> None:
        if not states:
            run_study(study, store)
        states[outcome.node.key] = outcome.state

    LocalExecutor().run(list(plan.nodes.values()), runtime, told)
    dropped = [key for key, state in states.items() if state == "cached"]
    assert [plan.nodes[key].step.title for key in dropped] == ["tuning base on b, seed 0"]
    assert store.get("checkpoint", dropped[0]) is None
    assert set(states) == set(plan.nodes)
    assert set(states.values()) == {"done", "cached"}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_too_little_memory_is_said_with_what_to_do(
    tmp_path: Path, pico: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def starved(step: Tune, folder: Path, runtime: Any) -> Any:
        raise error

    monkeypatch.setattr(Tune, "run", starved)
    result = run_study(make_study(task_study(tmp_path, pico, ["a"])), Store(tmp_path / "store"))
    (reason,) = result.failed.values()
    assert "too little memory; lower batch_size" in reason


def test_a_shortage_is_said_before_anything_runs(
    tmp_path: Path, pico: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Listening(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    class Nowhere:
        def run(self, nodes: Any, runtime: Any, told: Any) -> None:
            assert said
            for node in nodes:
                told(Outcome(node, "left"))

    monkeypatch.setattr("lethe.studies.estimate.available_memory", lambda: 2**20)
    study = make_study(task_study(tmp_path, pico, ["a"]))
    run_study(study, Store(tmp_path / "store"), executor=Nowhere(), progress=Listening())
    assert re.match(r"may need 0\.\d GiB of memory where 0\.0 are free: lower batch_size", said[0])
