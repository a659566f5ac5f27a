"""A plan names the models of the islet that would be built, and builds none; a run builds them."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lethe.cli import app
from lethe.errors import InputError
from lethe.islet import build, corpora, models
from lethe.islet.models import SIZES, STAGES
from lethe.islet.unbuilt import unbuilt
from lethe.models.checkpoint import check_unchanged, resolve
from lethe.models.fingerprint import FingerprintMemory
from lethe.progress import Progress
from lethe.store import Store
from lethe.studies.executor import run_study
from lethe.studies.study import make_study
from tests.test_islet_models import PICO, some_text, text_of

SPEC = "islet:aligned-tiny/1"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pico models that see a little of each stage's text."""
    monkeypatch.setattr(models, "SIZES", {"tiny": PICO, "small": SIZES["small"]})
    cut = {stage: partial(some_text, stage) for stage in STAGES}
    monkeypatch.setattr(build, "_TEXTS", cut)
    monkeypatch.setattr(build, "_ROLLOUTS", 1)
    monkeypatch.setattr(corpora, "alignment", text_of)  # of which the record takes a sample
    monkeypatch.setattr(build, "TASKS", {"pairs": build.TASKS["pairs"]})


def study(folder: Path) -> dict[str, Any]:
    stage = {"update": "full", "learning_rate": 1e-3, "max_steps": 1, "held_out": 0}
    return {
        "name": "small",
        "model": "islet:aligned-tiny/{world}",
        "worlds": [1],
        "suites": ["islet:feedback/{world}"],
        "limit": 4,
        "stages": {"a": {"data": {"suite": "islet:inn/{world}", "limit": 8}, **stage}},
        "chains": {"a": ["a"]},
    }


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("nothing is to be built")


def test_a_plan_builds_nothing_and_a_run_builds_once(
    short: None,
    store_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study(tmp_path)))
    with monkeypatch.context() as patch:
        patch.setattr(build, "_build", never)
        app(["plan", str(path)], standalone_mode=False)
        said = " ".join(capsys.readouterr().out.split())
        assert f"to be built first: {SPEC}: pretrained, instruct, aligned (about" in said
        app(["plan", str(path), "--json"], standalone_mode=False)
        planned = json.loads(capsys.readouterr().out)
        assert planned["steps"] == {"measure": 2, "tune": 1}
        assert planned["cached"] == {}
        assert not list((store_root / "islet").glob("tiny-*"))
    result = run_study(make_study(study(tmp_path)), Store(), progress=Progress())
    assert (result.done, result.failed) == (3, {})
    monkeypatch.setattr(build, "_build", never)
    app(["plan", str(path), "--json"], standalone_mode=False)
    planned = json.loads(capsys.readouterr().out)
    assert planned["unbuilt"] == []
    assert planned["cached"] == planned["steps"]
    assert run_study(make_study(study(tmp_path)), Store(), progress=Progress()).done == 0


def test_what_is_missing_is_named_by_stage(short: None, store_root: Path) -> None:
    order, store = build.Order(1, "tiny", "aligned"), Store()
    first = unbuilt(SPEC)
    assert first is not None
    assert first.steps == ("pretrained", "instruct", "aligned")
    build.build(build.Order(1, "tiny", "pretrained"), store, Progress())
    then = unbuilt(SPEC)
    assert then is not None
    assert then.steps == ("instruct", "aligned")
    assert then.key == first.key
    assert 0 < (then.minutes or 0) < (first.minutes or 0)
    folder = build.build(order, store, Progress())
    assert unbuilt(SPEC) is None
    # What it took here is what it is thought to take in another world.
    other = unbuilt("islet:aligned-tiny/2")
    records = [json.loads(p.read_text()) for p in (store_root / "islet").glob("*/record.json")]
    took = sum(record["seconds"] + record["measuring_seconds"] for record in records)
    assert other is not None
    assert other.minutes == pytest.approx(took / 60)
    assert other.like == folder


def test_nothing_runs_on_what_is_not_built(store_root: Path) -> None:
    memory = FingerprintMemory(store_root / "memory.json")
    found = resolve(SPEC, memory, build=False)
    assert found.unbuilt is not None
    with pytest.raises(InputError, match="is not built yet"):
        check_unchanged(found, memory)
    shipped = resolve("islet:aligned", memory, build=False)
    assert shipped.unbuilt is None
    assert shipped == resolve("islet:aligned", memory)
    with pytest.raises(InputError, match="did you mean 'aligned'"):
        resolve("islet:alligned-tiny", memory, build=False)


def test_minutes_are_guessed_by_weights_where_nothing_was_built(store_root: Path) -> None:
    tiny, small = unbuilt("islet:aligned-tiny/1"), unbuilt("islet:aligned/1")
    assert tiny is not None
    assert small is not None
    assert 0 < 3 * (tiny.minutes or 0) < (small.minutes or 0)
