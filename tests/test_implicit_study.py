"""Probes and the laboratory as parts of a study, on a pico model."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lethe.errors import InputError
from lethe.lab import presets
from lethe.models.fingerprint import FingerprintMemory
from lethe.probing.probe import probe
from lethe.store import Store
from lethe.studies import plan_printing
from lethe.studies.estimate import estimate
from lethe.studies.executor import StudyResult, run_study
from lethe.studies.plan import build_plan
from lethe.studies.study import make_study
from lethe.studies.study_file import load_study
from tests.pico_study import task_study
from tests.test_lab_run import PICO


@pytest.fixture(scope="module")
def pico_preset() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "pico", PICO)  # type: ignore[arg-type]
        yield


@pytest.fixture(scope="module")
def content(
    tmp_path_factory: pytest.TempPathFactory, pico: Path, pico_preset: None
) -> dict[str, Any]:
    """A chain probed at its end, two models probed by name, and the laboratory."""
    folder = tmp_path_factory.mktemp("implicit")
    study = task_study(folder, pico, ["a", "b"])
    return study | {
        "lab": "pico",
        "seeds": [0, 1],
        "keep": "last",
        "probes": {
            "end": {"chain": "a>b", "maps": ["case"], "suites": study["suites"][:1]},
            "named": {"tuned": str(pico), "maps": ["case"]},
        },
    }


@pytest.fixture(scope="module")
def ran(
    content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[StudyResult, Store]:
    store = Store(tmp_path_factory.mktemp("store"))
    return run_study(make_study(content), store, device="cpu"), store


def test_all_parts_are_steps_of_the_plan(content: dict[str, Any], tmp_path: Path) -> None:
    store = Store(tmp_path)
    memory = FingerprintMemory(store.root / "fingerprints.json")
    found = build_plan(make_study(content), store, memory)
    counted = estimate(found, store, memory).steps
    assert {name: counted[name] for name in counted if name.startswith(("probe", "lab"))} == {
        "probe": 4, "lab-pretrain": 2, "lab-tune": 2, "lab-measure": 2
    }  # fmt: skip
    ends = [node for node in found.nodes.values() if node.step.kind == "probe" and node.needs]
    tuned = {place.checkpoint for place in found.positions if place.position == 2}
    assert {need for node in ends for need in node.needs} == tuned


def test_a_study_ends_with_what_the_probes_say(ran: tuple[StudyResult, Store]) -> None:
    result, store = ran
    assert not result.failed
    assert list(result.probed) == ["end#0", "named#0", "end#1", "named#1"]
    end, named = result.probed["end#0"], result.probed["named#0"]
    assert [one.suite for one in end.suites] == ["a"]
    assert [one.suite for one in named.suites] == ["a", "b"]
    assert [one.drop.estimate for one in named.suites] == [0, 0]  # a model against itself
    alone = probe(
        end.run.settings["base"],
        end.run.settings["tuned"],
        [result.run.settings["study"]["suites"][0]],
        maps=["case"],
        format="plain",
        store=store,
        device="cpu",
    )
    assert _said(end.to_dict()) == _said(alone.to_dict())
    assert result.lab is not None
    assert [trial.seed for trial in result.lab.trials] == [0, 1]


def _said(found: Mapping[str, Any]) -> Any:
    """Verdicts and numbers, the run's own name apart."""
    return found["judged"], found["planted"], found["notes"]


def test_it_runs_once_and_can_be_read_again(
    ran: tuple[StudyResult, Store], content: dict[str, Any]
) -> None:
    result, store = ran
    again = run_study(make_study(content), store, device="cpu")
    assert (again.done, again.cached) == (0, result.done)
    assert json.dumps(again.to_dict()["probed"]) == json.dumps(result.to_dict()["probed"])
    assert again.to_dict()["lab"]["summary"] == result.to_dict()["lab"]["summary"]
    assert (store.runs / "last").read_text() == result.run.name


def test_a_probe_is_a_part_of_its_key(ran: tuple[StudyResult, Store], content: Any) -> None:
    _, store = ran
    other = content["probes"]["end"] | {"maps": ["leetspeak"]}
    changed = make_study(content | {"probes": {"end": other}})
    memory = FingerprintMemory(store.root / "fingerprints.json")
    found = build_plan(changed, store, memory)
    assert {node.step.kind for node in found.nodes.values() if not node.cached} == {"probe"}
    assert estimate(found, store, memory).minutes is None  # nobody knows what it will retrain


def test_what_is_printed_fits_the_terminal(
    ran: tuple[StudyResult, Store], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    plan_printing.print_result(ran[0])
    said = capsys.readouterr().out
    assert "probe end#1" in said
    assert "excess after pretraining" in said
    assert max(map(len, said.splitlines())) <= 80
    assert Console().width == 80


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lab": "pco"}, "lab: no preset 'pco'; did you mean 'pico'"),
        ({"probes": {"p": {"chian": "a>b"}}}, "unknown key 'chian'; did you mean 'chain'"),
        ({"probes": {"p": {"chain": "a>c", "prefix": True}}}, "no chain 'a>c'; did you mean 'a>b'"),
        ({"probes": {"p": {"prefix": True}}}, "one tuned model is probed; give chain or tuned"),
        ({"probes": {"p": {"chain": "a>b", "tuned": "x"}}}, "one tuned model is probed"),
        ({"probes": {"p": 3}}, "probes.p: found 3, not a mapping"),
        ({"probes": [1]}, "probes: found"),
        ({"probes": {"p": {"chain": "a>b"}}}, "no probe"),
        ({"probes": {"p": {"chain": "a>b", "maps": ["leetspek"]}}}, "did you mean 'leetspeak'"),
        (
            {"probes": {"p": {"chain": "a>b", "relearn": True, "settings": {"rnk": 2}}}},
            "unknown setting 'rnk'",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    content: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    store = Store(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        build_plan(make_study(content | changes), store, FingerprintMemory(tmp_path / "f.json"))
    assert "\n" not in str(caught.value)


def test_the_shipped_study_has_all_parts() -> None:
    study = load_study("implicit")
    assert study.lab == "tiny"
    shown, end = study.probes["in-context learning"], study.probes["inn"]
    assert (shown.chain, shown.suites, shown.maps) == (
        "instructions",
        ["islet:strings/{world}"],
        ["dialect"],
    )
    assert end.relearn
    assert end.prefix
    assert end.maps == ["dialect"]
