"""The demo: three ways of tuning the shipped model, and nothing twice."""

import json
from typing import Any

import pytest

from lethe import demo
from lethe.cli import app
from lethe.progress import Progress
from lethe.store import Store


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bookings, and few examples; the whole demo takes two minutes."""
    for stage in demo.STAGES.values():
        monkeypatch.setitem(stage, "data", {"suite": "islet:inn", "limit": 32})
    monkeypatch.setattr(demo, "LIMIT", 24)


def test_the_demo_tunes_audits_and_is_instant_again(
    short: None, store_root: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    found = demo.run_demo(Store(), Progress())
    assert list(found.audits) == list(demo.STAGES)
    for comparison in found.comparisons.values():
        assert {axis.axis for axis in comparison.axes} == {"proficiency", "safety", "knowledge"}
        assert {suite.suite for suite in comparison.suites} == set(demo.SUITES)
        claims = next(s for s in comparison.suites if s.suite == "islet:claims")
        assert claims.before.estimate == 1.0
    monkeypatch.setattr("lethe.tuning.stage.run_stage", None)
    monkeypatch.setattr("lethe.measure.answers_of", None)
    app(["demo"], standalone_mode=False)
    said = capsys.readouterr()
    assert "nothing to do" in said.err
    assert f"lethe report {found.run}" in said.out
    assert max(map(len, said.out.split("page:")[0].splitlines())) <= 80
    assert all(name in said.out for name in demo.STAGES)
    app(["demo", "--json"], standalone_mode=False)
    assert set(json.loads(capsys.readouterr().out)["audits"]) == set(demo.STAGES)
