"""The results of a study of chains: through the real pipeline, as tables and as JSON."""

import json
import sys
from pathlib import Path

import polars as pl
import pytest

from lethe import cli
from lethe.run import ledger, load_run
from lethe.store import Store
from lethe.studies.chained import read_chained
from lethe.studies.executor import run_study
from lethe.studies.study import make_study
from tests.pico_study import task_study


def test_a_study_of_two_orders_ends_with_its_asymmetry(
    tmp_path: Path, pico: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = task_study(
        tmp_path, pico, ["a", "b"], orders=["a", "b"], seeds=[0, 1], sharpness={"rows": 2}
    )
    content["stages"]["b"]["learning_rate"] = [1e-2, 3e-2]
    content["chains"] = {}
    store = Store(tmp_path / "store")
    result = run_study(make_study(content), store)
    found = result.chained
    assert found is not None
    assert found.asymmetries == ()  # both are of the axis `custom`: controls of one another
    assert [pair.chains for pair in found.controls] == [
        ("a > b (b[learning_rate=0.01])", "b > a (b[learning_rate=0.01])"),
        ("a > b (b[learning_rate=0.03])", "b > a (b[learning_rate=0.03])"),
    ]
    rows = ledger(result.run, store)

    def score(chain: str, position: int, suite: str) -> float:
        held = rows.filter(
            (pl.col("chain") == chain)
            & (pl.col("position") == position)
            & (pl.col("suite") == suite)
        )
        return float(held["score"].mean())  # type: ignore[arg-type]

    for pair in found.controls:
        one, other = pair.chains
        by_hand = (score(one, 1, pair.first) - score(one, 2, pair.first)) - (
            score(other, 1, pair.second) - score(other, 2, pair.second)
        )
        assert pair.raw.estimate == pytest.approx(by_hand)
        assert pair.delta.estimate == pytest.approx(by_hand / 0.5)  # two options
        assert set(pair.delta.values) == {(None, 0), (None, 1)}
    assert len(found.losses) == 4
    assert {group.forgetting.group for group in found.groups} == {"a", "b"}
    assert {one.task: len(one.points) for one in found.relations} == {"a": 4, "b": 4}
    again = read_chained(load_run(result.run.name, store), store)
    assert again is not None
    assert again.to_dict() == found.to_dict()

    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(content))
    command = ["lethe", "run", str(path), "--store", str(store.root)]
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "Controls: both of safety, or neither" in shown
    assert "0 steps done" in shown
    monkeypatch.setattr(sys, "argv", [*command, "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    printed = json.loads(capsys.readouterr().out)["chained"]
    assert len(printed["controls"]) == 2
    assert printed["controls"][0]["raw"]["estimate"] == pytest.approx(
        found.controls[0].raw.estimate
    )


def test_a_study_without_anything_to_forget_has_no_such_results(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a"])
    assert run_study(make_study(content), Store(tmp_path / "store")).chained is None
