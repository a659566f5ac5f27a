"""What a study keeps: checkpoints dropped by rule, and never what something still needs."""

from pathlib import Path
from typing import Any

import pytest

from lethe.models.checkpoint import resolve
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.local import load_model
from lethe.store import Store
from lethe.studies.estimate import estimate
from lethe.studies.executor import run_study
from lethe.studies.keeping import DROPPED, drop, droppable, kept
from lethe.studies.plan import Plan, build_plan
from lethe.studies.study import make_study
from tests.pico_study import task_study


def planned(folder: Path, content: dict[str, Any]) -> Plan:
    memory = FingerprintMemory(folder / "memory.json")
    return build_plan(make_study(content), Store(folder / "store"), memory)


def three_stages(folder: Path, model: Path, updates: str, **changes: Any) -> dict[str, Any]:
    """A chain a > b > c; each stage is f(ull) or l(ora) by its letter in `updates`."""
    content = task_study(folder, model, ["a", "b", "c"], **changes)
    for name, letter in zip("abc", updates, strict=True):
        if letter == "f":
            content["stages"][name]["update"] = "full"
            del content["stages"][name]["rank"]
    return content


@pytest.mark.parametrize(
    ("updates", "keep", "staying"),
    [
        ("fff", "all", "abc"),
        ("fff", "adapters", "c"),
        ("fff", "last", "c"),
        ("flf", "adapters", "abc"),  # the adapter stands on a
        ("flf", "last", "c"),
        ("lll", "last", "abc"),  # the last stands on all
        ("fll", "last", "abc"),
        ("ffl", "last", "bc"),
    ],
)
def test_the_rule_keeps_what_kept_adapters_stand_on(
    tmp_path: Path, pico: Path, updates: str, keep: str, staying: str
) -> None:
    plan = planned(tmp_path, three_stages(tmp_path, pico, updates))
    names = {place.checkpoint: "-abc"[place.position] for place in plan.positions}
    found = {names[key] for key in kept(plan.nodes, plan.positions, keep)}
    assert found == set(staying)


def test_nothing_goes_that_an_open_step_reads(tmp_path: Path, pico: Path) -> None:
    """After every step of the plan, everything that a later one reads is still there."""
    content = three_stages(tmp_path, pico, "flf", chains={}, orders=["a", "b", "c"])
    plan = planned(tmp_path, content)
    staying = kept(plan.nodes, plan.positions, "last")
    there: set[str] = set()
    gone: set[str] = set()
    for key, node in plan.nodes.items():
        at: Any = getattr(node.step, "checkpoint", None) or node.step.parent  # type: ignore[attr-defined]
        while at is not None:
            assert at.fingerprint not in gone
            at = at.base
        there.add(key)
        gone |= set(droppable(plan.nodes, staying, there))
    made = {key for key, node in plan.nodes.items() if node.step.object_kind == "checkpoint"}
    assert gone == made - staying
    assert gone


def test_dropped_checkpoints_are_not_trained_again_until_something_needs_them(
    tmp_path: Path, pico: Path
) -> None:
    content = three_stages(tmp_path, pico, "fff", keep="last")
    store = Store(tmp_path / "store")
    result = run_study(make_study(content), store)
    folder = store.root / "objects" / "checkpoint"
    first, second, last = (place.checkpoint for place in result.run.positions[1:])
    assert (folder / last / "model.safetensors").is_file()
    for key in (first, second):
        assert sorted(path.name for path in (folder / key).iterdir()) == [
            DROPPED,
            "lethe.json",
            "loss.jsonl",
        ]
    assert result.run.missing() == []
    again = run_study(make_study(content), store)
    assert (again.done, again.left) == (0, 0)
    assert again.run.scores == result.run.scores
    # A fourth stage starts from the last, which is there: one training, three tables.
    content["stages"]["d"] = dict(content["stages"]["a"], learning_rate=1e-3)
    content["chains"] = {"longer": ["a", "b", "c", "d"]}
    assert run_study(make_study(content), store).done == 1 + 3
    # Another second stage needs the first again: trained anew, to the same key and tables.
    content["stages"]["e"] = dict(content["stages"]["b"], learning_rate=1e-3)
    content["chains"] = {"other": ["a", "e"]}
    other = run_study(make_study(content), store)
    assert other.done == 2 + 3
    assert other.run.positions[1].checkpoint == first


def test_what_another_run_names_is_not_dropped(tmp_path: Path, pico: Path) -> None:
    store = Store(tmp_path / "store")
    content = three_stages(tmp_path, pico, "fff", keep="all")
    every = run_study(make_study(content), store)
    content["keep"] = "last"
    run_study(make_study(content), store)
    memory = FingerprintMemory(tmp_path / "memory.json")
    for place in every.run.positions[1:]:
        load_model(resolve(str(store.root / "objects" / "checkpoint" / place.checkpoint), memory))


def test_a_drop_cut_short_is_finished_or_harmless(tmp_path: Path, pico: Path) -> None:
    store = Store(tmp_path / "store")
    content = three_stages(tmp_path, pico, "fff", keep="all")
    key = run_study(make_study(content), store).run.positions[1].checkpoint
    drop(store, key)
    drop(store, key)  # a second time, as after a kill
    assert store.get("checkpoint", key) is None
    (store.root / "objects" / "checkpoint" / key / "model.safetensors").write_bytes(b"half")
    made = run_study(make_study(content), store)  # all are to be kept: made once more
    assert made.done == 1
    assert store.get("checkpoint", key) is not None
    assert not (store.root / "objects" / "checkpoint" / key / DROPPED).exists()


def test_peak_disk_follows_the_rule(tmp_path: Path, pico: Path) -> None:
    memory = FingerprintMemory(tmp_path / "memory.json")
    store = Store(tmp_path / "store")
    weights = (pico / "model.safetensors").stat().st_size
    peaks = {
        keep: estimate(
            planned(tmp_path, three_stages(tmp_path, pico, "fff", keep=keep)), store, memory
        )
        for keep in ("all", "last")
    }
    tables = peaks["all"].peak_disk - weights * (3 + 9)
    assert 0 < tables < 0.5 * weights
    # While the last is trained the one before lies there, and the first is gone.
    assert peaks["last"].peak_disk == pytest.approx(weights * (2 + 9) + tables, rel=0.02)
