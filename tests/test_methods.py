"""What `lethe methods` says: every method, its page, what was measured; what --protect does."""

import json
from pathlib import Path
from typing import Any

import pytest

from lethe.errors import InputError
from lethe.store import Store
from lethe.suites import load
from lethe.tuning import measured as measured_file
from lethe.tuning.command import PROTECTED, SHARE, replayed, tune_command
from lethe.tuning.forecast import Forecast, compared
from lethe.tuning.measured import Measured, measured, source
from lethe.tuning.methods import methods
from lethe.tuning.protect import Protected
from lethe.tuning.saving import read_record
from lethe.tuning.settings import read_settings
from tests.pico import make_pico

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "methods"


@pytest.mark.parametrize("name", sorted({method.name for method in methods()}))
def test_every_method_has_a_page_that_says_when_not_to_use_it(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text()
    for heading in ("## When it helps", "## When it does not", "## Cost", "## Paper"):
        part = text.partition(heading)[2].partition("\n## ")[0]
        assert len(part.strip()) > 15, heading
    assert f"methods/{name}.md" in (ROOT / "docs" / "methods.md").read_text()


def test_no_page_is_of_a_method_that_is_not_there() -> None:
    known = {method.name for method in methods()} | {"safety-prompt"}
    assert {page.stem for page in PAGES.glob("*.md")} == known


def shipped(monkeypatch: pytest.MonkeyPatch, path: Path, lines: list[dict[str, Any]]) -> None:
    """Other results in the place of the shipped ones."""
    path.write_text(json.dumps({"methods": lines, "worlds": [3], "seeds": [0], "size": "tiny"}))
    monkeypatch.setattr(measured_file, "MEASURED", path)
    measured.cache_clear()


def line(name: str, *slots: str) -> dict[str, Any]:
    return {
        "name": name,
        "slots": list(slots),
        "before": {"proficiency": 0.1},
        "after": {"proficiency": 0.95},
        "retention": {"safety": [0.8, 0.7, 0.9]},
        "closed": {"safety": [0.5, None, None]},
        "reached": 2,
        "units": 2,
    }


def test_a_method_shows_the_plainest_lines_it_stands_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shipped(
        monkeypatch,
        tmp_path / "m.json",
        [
            line("lora", "lora"),
            line("with replay", "lora", "replay"),
            line("both", "lora", "replay", "kl"),
        ],
    )
    by_name = {method.name: method.measured for method in methods()}
    measured.cache_clear()
    assert [said.partition(":")[0] for said in by_name["lora"]] == ["lora"]
    assert [said.partition(":")[0] for said in by_name["replay"]] == ["with replay"]
    assert [said.partition(":")[0] for said in by_name["kl"]] == ["both"]
    assert by_name["mica"] == ()
    assert by_name["lora"][0] == "lora: keeps safety 80 % [70, 90]; proficiency 10 → 95 %"


def test_without_results_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measured_file, "MEASURED", tmp_path / "none.json")
    measured.cache_clear()
    assert measured() == ()
    assert source() == ""
    assert all(method.measured == () for method in methods())
    measured.cache_clear()


def test_what_ships_is_what_the_benchmark_wrote() -> None:
    import hashlib

    measured.cache_clear()
    content = json.loads(measured_file.MEASURED.read_text())
    written = json.dumps(content["methods"])
    assert hashlib.sha256(written.encode()).hexdigest() == content["sha256"]
    assert {"versions", "worlds", "seeds", "hashes"} <= content.keys()
    assert min(content["worlds"]) >= 3  # never the worlds that methods were developed on
    assert any(isinstance(one, Measured) and one.name == content["plain"] for one in measured())
    assert "islet (synthetic" in source()


# ---- lethe tune --protect ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pico(tmp_path_factory: Any) -> Path:
    return make_pico(tmp_path_factory.mktemp("methods") / "pico")


def written(path: Path, name: str, count: int, *, answered: bool = True) -> str:
    """A file of questions, a cluster each; returns its path."""
    file = path / f"{name}.jsonl"
    rows = [
        {"id": f"{name}-{n}", "prompt": f"{name} {n} room", "cluster": f"{name}-{n}"}
        | ({"reference": "two nights"} if answered else {"harmful": True})
        for n in range(count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_protect_alone_does_what_the_study_recommends(pico: Path, tmp_path: Path) -> None:
    task, kept = written(tmp_path, "task", 24), written(tmp_path, "kept", 12)
    named: Any = {"limit": None, "data_dir": None, "store": Store(tmp_path / "store")}
    short = {"max_steps": 5, "batch_size": 4, "held_out": 0}
    facts = tune_command(str(pico), task, tmp_path / "out", short, protect=[kept], **named)
    words = read_settings(PROTECTED).words
    assert facts["method"] == " + ".join([*words, f"replay {SHARE:g}"])
    record = read_record(tmp_path / "out")
    assert record is not None
    assert record["settings"]["update"] == PROTECTED["update"]
    assert record["result"]["replayed"] == round(SHARE * 20)
    # Where there is no room for it, with adapters.
    lora = {**short, "update": "lora", "rank": 2}
    facts = tune_command(str(pico), task, tmp_path / "lora", lora, protect=[kept], **named)
    words = read_settings({**PROTECTED, "update": "lora"}).words
    assert facts["method"] == " + ".join([*words, f"replay {SHARE:g}"])
    # Whoever says how, is not talked over.
    said = {**short, "update": "nullspace", "energy": 0.5, "rank": 2}
    facts = tune_command(str(pico), task, tmp_path / "own", said, protect=[kept], **named)
    assert facts["method"] == "nullspace"
    assert "plain LoRA" in facts["forecast kept.jsonl"]
    mask = {"update": "lora", "mask": 100.0}
    with pytest.raises(InputError, match="protects nothing"):
        tune_command(str(pico), task, tmp_path / "no", mask, protect=[kept], **named)


def test_protected_prompts_without_answers_are_answered_by_the_parent(tmp_path: Path) -> None:
    answered = Protected("a", load(written(tmp_path, "a", 3), split="protect").examples)
    bare = Protected("b", load(written(tmp_path, "b", 6, answered=False), split="protect").examples)
    assert not replayed([answered]).by_parent
    both = replayed([answered, bare])
    assert both.by_parent
    assert [one.id.partition("#")[2][0] for one in both.earlier.examples] == ["a", "b"] * 6
    assert len({one.id for one in both.earlier.examples}) == 12


def test_a_forecast_stands_beside_plain_loras_own() -> None:
    said = compared(Forecast("s", exposure=0.12, plain=0.5, happened=0.1))
    assert said == "0.12 nats a nat of the task (plain LoRA 0.5); came to 0.1"
    assert "came to" not in compared(Forecast("s", exposure=0.12, plain=0.5))
