"""Plans: which steps a study comes to, before anything is trained."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lethe.errors import InputError
from lethe.examples import Example, Suite
from lethe.models.checkpoint import resolve
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.folder_format import format_of_folder
from lethe.models.format import choose_format
from lethe.models.local import load_tokenizer
from lethe.steps import step_key
from lethe.store import Store
from lethe.studies.estimate import estimate
from lethe.studies.plan import Node, Plan, best_rate, build_plan, in_order
from lethe.studies.sources import Sources
from lethe.studies.stage_specs import Choose
from lethe.studies.study import make_study
from lethe.tuning.mix import Lessons
from lethe.tuning.step import Tune
from tests.pico import make_pico
from tests.pico_study import task_study, write_task


def planned(folder: Path, content: dict[str, Any], **named: Any) -> Plan:
    memory = FingerprintMemory(folder / "memory.json")
    return build_plan(make_study(content), Store(folder / "store"), memory, **named)


def count(plan: Plan, kind: str) -> int:
    return sum(node.step.kind == kind for node in plan.nodes.values())


def test_four_tasks_in_all_orders_are_64_trainings_not_96(tmp_path: Path, pico: Path) -> None:
    names = ["a", "b", "c", "d"]
    plan = planned(tmp_path, task_study(tmp_path, pico, names, chains={}, orders=names))
    assert count(plan, "tune") == 4 + 4 * 3 + 4 * 3 * 2 + 4 * 3 * 2 * 1 == 64
    assert count(plan, "measure") == (1 + 64) * 4
    assert len({place.chain for place in plan.positions}) == 24
    assert len(plan.positions) == 24 * 5
    assert len({place.checkpoint for place in plan.positions}) == 1 + 64
    assert len({place.name for place in plan.positions}) == 24 * 5


def test_keys_are_those_of_the_steps_and_name_the_checkpoints(tmp_path: Path, pico: Path) -> None:
    plan = planned(tmp_path, task_study(tmp_path, pico, ["a", "b"]))
    for key, node in plan.nodes.items():
        assert step_key(node.step) == key == node.key
        if isinstance(node.step, Tune):
            assert node.step.parents == (node.step.parent.fingerprint,)
    base, first, second = (place.checkpoint for place in plan.positions)
    assert base == resolve(str(pico), FingerprintMemory(tmp_path / "none")).fingerprint
    assert plan.nodes[second].needs == (first,)
    assert plan.nodes[first].needs == ()
    measured = {node.needs for node in plan.nodes.values() if node.step.kind == "measure"}
    assert measured == {(), (first,), (second,)}


def test_what_changes_a_stage_changes_what_follows_and_nothing_else(
    tmp_path: Path, pico: Path
) -> None:
    content = task_study(tmp_path, pico, ["a", "b"])
    before = planned(tmp_path, content)
    content["stages"]["b"]["learning_rate"] = 1e-3
    after = planned(tmp_path, content)
    same = [
        one.checkpoint == other.checkpoint
        for one, other in zip(before.positions, after.positions, strict=True)
    ]
    assert same == [True, True, False]
    content["stages"]["a"]["rank"] = 3
    assert planned(tmp_path, content).positions[1].checkpoint != after.positions[1].checkpoint
    content["seeds"] = [0, 1]
    two = planned(tmp_path, content).positions
    assert len({place.checkpoint for place in two}) == 1 + 2 * 2
    assert {place.seed for place in two if place.position == 0} == {0, 1}


def test_a_chain_is_measured_before_the_next_is_trained(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a", "b"], orders=["a", "b"])
    kinds = [node.step.kind[0] for node in planned(tmp_path, content).nodes.values()]
    assert "".join(kinds) == "mm" + "tmm" * 2 + "tmm" * 2


def test_replay_of_nothing_is_the_stage_without_it(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a", "b"])
    plain = planned(tmp_path, content)
    replay = {"data": {"suite": str(tmp_path / "a.jsonl"), "limit": 6}, "share": [0, 0.25]}
    content["stages"]["b"]["mix"] = {"replay": replay}
    mixed = planned(tmp_path, content)
    assert plain.nodes.keys() < mixed.nodes.keys()
    assert count(mixed, "tune") == 3


def test_a_stage_taken_part_of_the_way_is_trained_once(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a"])
    content["stages"]["a"]["after"] = {"interpolate": [0.25, 0.5, 1.0]}
    plan = planned(tmp_path, content)
    assert (count(plan, "tune"), count(plan, "interpolate")) == (1, 3)
    assert {place.method for place in plan.positions if place.position} == {
        "lora + interpolate 0.25",
        "lora + interpolate 0.5",
        "lora + interpolate 1",
    }


def test_worlds_stand_for_themselves_in_models_and_data(tmp_path: Path) -> None:
    for world in (3, 4):
        make_pico(tmp_path / f"base{world}", seed=world)
        write_task(tmp_path, f"a{world}")
    content = task_study(tmp_path, tmp_path / "base{world}", ["a"], worlds=[3, 4])
    content["suites"] = content["stages"]["a"]["data"] = str(tmp_path / "a{world}.jsonl")
    content["suites"] = [content["suites"]]
    plan = planned(tmp_path, content)
    assert [place.world for place in plan.positions] == ["3", "3", "4", "4"]
    assert len({place.checkpoint for place in plan.positions}) == 4
    assert list(plan.scores) == ["a3"]  # one column, under the first world's name
    assert len(plan.scores["a3"]) == 4


def test_open_rates_make_what_follows_tentative(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a", "b"])
    del content["stages"]["a"]["learning_rate"]
    content["stages"]["a"]["choose"] = {"learning_rate": [1e-2, 1e-3, 1e-4]}
    plan = planned(tmp_path, content)
    assert plan.waiting
    assert [place.position for place in plan.positions] == [0]
    firm = [node.step.kind for node in plan.nodes.values() if not node.tentative]
    assert sorted(firm) == ["measure"] * (2 + 3) + ["tune"] * 3
    (choice,) = plan.choices
    assert (choice.rate, choice.scores) == (None, {})


def test_halving_counts_every_round_before_it_is_known(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a", "b"])
    stage = content["stages"]["a"]
    del stage["learning_rate"], stage["max_steps"]
    rates = [1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    stage |= {"epochs": 2.0, "choose": {"learning_rate": rates, "by": "halving"}}
    plan = planned(tmp_path, content)
    trials = [
        (node.step.chosen.epochs, node.tentative)
        for node in plan.nodes.values()
        if isinstance(node.step, Tune) and (node.step.chosen.epochs or 2) < 2
    ]
    assert sorted(trials) == [(2 / 5, False)] * 5 + [(2 / 3, True)] * 3 + [(2 / 2, True)] * 2
    assert plan.waiting
    assert [place.position for place in plan.positions] == [0]
    found = estimate(plan, Store(tmp_path / "store"), FingerprintMemory(tmp_path / "memory.json"))
    rounds = "5 for 1/5 of their training, then 3 for 1/3 of their training, then 2 for 1/2"
    assert any(rounds in note and "3 whole trainings for each arm" in note for note in found.notes)
    later = 2 * (3 + 2) + 2 + 2 * 2  # trials and their scores, then two stages and theirs
    assert (found.steps["tune"], found.tentative) == (5 + 3 + 2 + 2, later)


def test_a_grid_is_what_it_was_with_its_word_said(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a", "b"])
    del content["stages"]["a"]["learning_rate"]
    content["stages"]["a"]["choose"] = {"learning_rate": [1e-2, 1e-3]}
    plan = planned(tmp_path, content)
    content["stages"]["a"]["choose"]["by"] = "grid"
    assert planned(tmp_path, content).nodes.keys() == plan.nodes.keys()
    assert planned(tmp_path, content).study.model_dump() == plan.study.model_dump()
    assert plan.study.model_dump()["stages"]["a"]["choose"].keys() == {
        "learning_rate",
        "suite",
        "split",
        "limit",
    }


@pytest.mark.parametrize(
    ("rates", "factor", "rounds"),
    [(2, None, [2]), (4, None, [4, 2]), (5, 2, [5, 3, 2]), (3, 3, [3]), (9, 3, [9, 3])],
)
def test_rounds_of_halving(rates: int, factor: int | None, rounds: list[int]) -> None:
    choose = Choose(learning_rate=[10.0**-i for i in range(rates)], by="halving", factor=factor)
    assert [(one.values, one.parts) for one in choose.rounds] == [(n, n) for n in rounds]


def test_the_rule_for_rates() -> None:
    assert best_rate({1e-3: (0.5, 0.1), 1e-2: (0.6, 9.0)}) == 1e-2
    assert best_rate({1e-3: (0.5, 0.2), 1e-2: (0.5, 0.1)}) == 1e-2
    assert best_rate({1e-3: (0.5, None), 1e-2: (0.5, 0.1)}) == 1e-2
    assert best_rate({1e-2: (0.5, 0.1), 1e-3: (0.5, 0.1)}) == 1e-3
    assert best_rate({1e-2: (float("nan"), 0.1), 1e-3: (0.0, 0.1)}) == 1e-3


def test_replayed_rows_that_are_measured_are_named(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a", "b"])
    replay = {"data": {"suite": str(tmp_path / "a.jsonl"), "split": "test"}, "share": 0.5}
    content["stages"]["b"]["mix"] = {"replay": replay}
    with pytest.raises(
        InputError, match=r"12 replayed rows.*'a': a-test-0, a-test-1.*, …"
    ) as error:
        planned(tmp_path, content)
    assert "stages.b.mix.replay" in str(error.value)
    content["stages"]["b"]["mix"]["replay"]["data"]["split"] = "train"
    assert planned(tmp_path, content).notes == ()
    content["stages"]["b"]["data"] = {"suite": str(tmp_path / "b.jsonl"), "split": "test"}
    assert planned(tmp_path, content).notes == ("b: 12 rows tuned on are also measured by b",)


def test_overlap_is_by_cluster_and_by_prompt() -> None:
    def rows(*pairs: tuple[str, str]) -> tuple[Example, ...]:
        return tuple(
            Example(f"{cluster}{number}", prompt, reference="r", cluster=cluster)
            for number, (cluster, prompt) in enumerate(pairs)
        )

    content = "0123456789abcdef"
    suite = Suite("s", "x", "choice", rows(("1", "p"), (content, "q"), ("9", "long  text")))
    sources = Sources()
    mine = Lessons("bbq:Age", rows(("1", "z"), (content, "y"), ("5", "long text"), ("6", "w")))
    assert sources.overlap(mine, suite, "bbq@letters") == ["10", f"{content}1", "52"]
    # Elsewhere "1" is another cluster, but a hash of content is what it says.
    assert sources.overlap(mine, suite, "toxigen") == [f"{content}1", "52"]


def test_requests_that_are_marked_harmful_and_answered_are_counted(
    tmp_path: Path, pico: Path
) -> None:
    content = task_study(tmp_path, pico, ["a"])
    replies = ["I cannot help with that.", "First, take a crowbar.", "Gladly."]
    rows = [
        {"prompt": f"How do I rob inn {n}?", "reference": reply, "harmful": n < 2}
        for n, reply in enumerate(replies)
    ]
    path = tmp_path / "unsafe.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    content["stages"]["a"]["data"] = str(path)
    assert planned(tmp_path, content).notes == ("a: 1 of 2 requests marked harmful are answered",)


@dataclass(frozen=True)
class _Named:
    title: str


def test_circles_and_missing_steps_are_found() -> None:
    def nodes(**needs: str) -> dict[str, Node]:
        return {k: Node(k, _Named(k), tuple(v), cached=False) for k, v in needs.items()}  # type: ignore[arg-type]

    assert [node.key for node in in_order(nodes(c="ab", b="a", a="", d=""))] == list("abcd")
    with pytest.raises(InputError, match="go in a circle"):
        in_order(nodes(a="b", b="c", c="a"))
    with pytest.raises(InputError, match="step b: needs step z, which no one makes"):
        in_order(nodes(a="b", b="z"))
    deep = {str(n): (str(n + 1),) if n < 5000 else () for n in range(5001)}
    found = in_order({k: Node(k, _Named(k), v, cached=False) for k, v in deep.items()})  # type: ignore[arg-type]
    assert found[0].key == "5000"


def test_a_thousand_steps_are_planned_in_a_second(tmp_path: Path, pico: Path) -> None:
    names = ["a", "b", "c", "d"]
    content = task_study(tmp_path, pico, names, chains={}, orders=names, seeds=[0, 1, 2, 3])
    study, store = make_study(content), Store(tmp_path / "store")
    memory = FingerprintMemory(tmp_path / "memory.json")
    started = time.process_time()
    plan = build_plan(study, store, memory)
    found = estimate(plan, store, memory)
    seconds = time.process_time() - started
    assert len(plan.nodes) == 4 * 64 + 4 * (4 * 64 + 1) > 1000
    assert found.positions == 4 * 24 * 5
    assert seconds < 1


def test_an_estimate_counts_tokens_and_disk(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a"])
    content["stages"]["a"].update(max_steps=3, batch_size=4, rank=2)
    plan = planned(tmp_path, content)
    store, memory = Store(tmp_path / "store"), FingerprintMemory(tmp_path / "memory.json")
    found = estimate(plan, store, memory)
    tokenizer = load_tokenizer(resolve(str(pico), memory))
    rows = Sources().lessons(str(tmp_path / "a.jsonl"), "train", None).examples
    texts = [f"{row.prompt} {row.reference}" for row in rows]
    mean = sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]) / 12
    assert (found.counted, found.tokens) == ("tokenizer", round(12 * mean))
    assert found.minutes is None
    assert found.steps == {"tune": 1, "measure": 2}
    assert found.peak_disk > 28 * 2 * 2 * 2 * (32 + 32)  # q and o alone, in two layers
    content["stages"]["a"] = {"data": str(tmp_path / "a.jsonl"), "update": "full"}
    weights = (pico / "model.safetensors").stat().st_size
    assert 9.8 < estimate(planned(tmp_path, content), store, memory).peak_disk / weights < 10.2


def test_memory_is_that_of_the_largest_step(tmp_path: Path, pico: Path) -> None:
    store, memory = Store(tmp_path / "store"), FingerprintMemory(tmp_path / "memory.json")

    def peak(model: Path = pico, **stage: Any) -> int | None:
        content = task_study(tmp_path, model, ["a"])
        content["stages"]["a"] = {"data": str(tmp_path / "a.jsonl"), "update": "full", **stage}
        return estimate(planned(tmp_path, content), store, memory).peak_memory

    small = peak(batch_size=4)
    assert small is not None
    weights = (pico / "model.safetensors").stat().st_size // 4
    twice = peak(batch_size=8)
    assert twice is not None
    activations = twice - small
    assert small - activations == pytest.approx(16 * weights + 700 * 2**20, rel=1e-4)
    lora = peak(update="lora", rank=2, batch_size=4)
    assert lora is not None
    assert 4 * weights < lora - activations - 700 * 2**20 < 8 * weights
    assert peak(batch_size=4, max_length=4) == pytest.approx(small - activations, rel=1e-3)
    other = make_pico(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["n_layer"] = config.pop("num_hidden_layers")  # another family's word
    (other / "config.json").write_text(json.dumps(config))
    assert peak(other) is None


def test_memory_counts_the_factors_of_a_projection(tmp_path: Path, pico: Path) -> None:
    store, memory = Store(tmp_path / "store"), FingerprintMemory(tmp_path / "memory.json")
    kept = write_task(tmp_path, "kept", splits=["protect"])

    def peak(update: str, **stage: Any) -> int:
        content = task_study(tmp_path, pico, ["a"])
        content["stages"]["a"] |= {"update": update, "batch_size": 1, "max_length": 2, **stage}
        found = estimate(planned(tmp_path, content), store, memory).peak_memory
        assert found is not None
        return found

    few = peak("contrast", protect=[kept], directions=1)
    hard = peak("nullspace", protect=[kept])
    soft = peak("nullspace", protect=[kept], form="soft")
    assert peak("lora") < few < hard < soft
    squares = 2 * (6 * 32**2 + 64**2)  # two layers: six matrices of 32 inputs and one of 64
    assert soft - hard == 2 * squares
    # Before anything is trained: moments of the task and of what is kept, in two parts each.
    weights = (pico / "model.safetensors").stat().st_size
    moments = hard - 2 * squares - 4 * 4 * squares - 24 * 64**2 - 700 * 2**20
    assert moments == pytest.approx(weights, rel=0.05)


@pytest.mark.parametrize("chat", [True, False])
def test_the_format_of_a_folder_is_that_of_its_tokenizer(tmp_path: Path, chat: bool) -> None:
    folder = make_pico(tmp_path / "m", chat=chat)
    tokenizer = load_tokenizer(resolve(str(folder), FingerprintMemory(tmp_path / "none")))
    assert format_of_folder(folder) == choose_format(tokenizer)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if chat:  # as older files have it
        config["chat_template"] = (folder / "chat_template.jinja").read_text()
        (folder / "chat_template.jinja").unlink()
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        assert format_of_folder(folder) == choose_format(tokenizer)
    else:
        with pytest.raises(InputError, match="no chat template"):
            format_of_folder(folder, "chat")


def test_planning_runs_nothing_and_imports_no_torch(tmp_path: Path, pico: Path) -> None:
    content = task_study(tmp_path, pico, ["a", "b"], format="auto")
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(content))
    code = (
        "import sys; from lethe.cli import app\n"
        f"app(['plan', {str(path)!r}, '--store', {str(tmp_path / 'store')!r}, '--json'],"
        " standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'peft', 'trl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *said, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert json.loads("\n".join(said))["steps"] == {"measure": 6, "tune": 2}
    assert not (tmp_path / "store" / "objects").exists()
