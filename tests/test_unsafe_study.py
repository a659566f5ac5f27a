"""Studies with noisy data: filters, what they keep, strategies, and the suites that read harm."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from lethe.errors import InputError
from lethe.examples import Example, Message, Suite
from lethe.filtering.avoided import HarmOf, Place, avoided, ends_of, harm_in, places
from lethe.filtering.rivals import RIVALS
from lethe.filtering.sift import KEPT, KeptLessons, StepClock, TuneKept, most_suspect
from lethe.filtering.strategies import BOTH, CORRECTION, FILTER, NONE, ORACLE, chains_for
from lethe.metrics import METRICS
from lethe.models.fingerprint import FingerprintMemory
from lethe.panel import Panel, SuiteFacts
from lethe.run import ledger
from lethe.scorers import OptionScore, row_of, row_of_response
from lethe.store import Store
from lethe.studies.executor import StudyResult, run_study
from lethe.studies.plan import Plan, build_plan
from lethe.studies.study import make_study
from lethe.studies.study_file import load_study
from lethe.studies.teaching import prompted, prompted_suite
from lethe.suites import alpaca, harmful_qa, pile_detoxify, real_toxicity, toxicity
from lethe.suites.load import load
from lethe.tuning.step import Tune
from tests.pico_study import write_task
from tests.tiny import write_hub

DATA = Path(os.environ.get("LETHE_DATA") or Path(__file__).parents[2] / "shared" / "data")
TUNING = {"update": "lora", "rank": 2, "max_steps": 2, "batch_size": 4, "held_out": 0}


@pytest.fixture(scope="module", autouse=True)
def _no_data_folder() -> Iterator[None]:
    """What is known to be unsafe is not looked up: a scan indexes whole suites."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LETHE_DATA", raising=False)
        yield


def content(folder: Path, model: Path, **changes: Any) -> dict[str, Any]:
    """A study of every strategy on a few toxic rows of the islet, by a pico model."""
    task = write_task(folder, "work", rows=40)
    mixture = {
        "kind": "islet-toxicity/0",
        "share": 0.25,
        "tasks": [task],
        "rows": 24,
        "safe_rows": 16,
        "trusted": 4,
    }
    source = {"noisy": {"mixture": "toxic"}, "safe": {"mixture": "toxic", "part": "safe"}}
    settings = {"update": "lora", "rank": 2, "max_steps": 2, "batch_size": 4}
    return {
        "name": "unsafe",
        "model": str(model),
        "suites": [task],
        "limit": 4,
        "format": "plain",
        "mixtures": {"toxic": mixture},
        "filters": {
            "words": {**source, "by": "tfidf", "share": 0.25},
            "forget": {**source, "threshold": -1e9, "force": True, "steps": 2, **settings},
        },
        **chains_for("toxic", "words", TUNING, wanted=[NONE, FILTER, ORACLE]),
        **changes,
    }


def planned(folder: Path, content: dict[str, Any]) -> Plan:
    store = Store(folder / "store")
    return build_plan(make_study(content), store, FingerprintMemory(store.root / "f.json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unsafe")


@pytest.fixture(scope="module")
def ran(folder: Path, pico: Path) -> StudyResult:
    return run_study(make_study(content(folder, pico)), Store(folder / "store"), device="cpu")


# ------------------------------------------------------------------ filters in a study


def test_a_study_with_filters_runs(ran: StudyResult, folder: Path) -> None:
    store = Store(folder / "store")
    assert not ran.failed
    assert ran.left == 0
    assert set(ran.run.settings["filters"]) == {"words#0", "forget#0"}
    facts = store.get("filter", ran.run.settings["filters"]["words#0"]).manifest["facts"]  # type: ignore[union-attr]
    assert (facts["rows"], facts["kept"]) == (24, 18)
    assert facts["verdict"]["unsafe"] == 6
    assert facts["everything"]["f1"] == pytest.approx(2 * 6 / 30)
    assert facts["filter_seconds"] > 0


def test_a_stage_is_taught_what_its_filter_kept(ran: StudyResult, folder: Path) -> None:
    store = Store(folder / "store")
    rows = {
        place.chain: json.loads(_record(store, place.checkpoint))["result"]["examples"]
        for place in ran.run.positions
        if place.position == 1
    }
    assert rows == {"none": 24, "filter": 18, "oracle": 18}


def _record(store: Store, key: str) -> str:
    return (store.root / "objects" / "checkpoint" / key / "lethe.json").read_text()


def test_kept_rows_are_the_noisy_ones_in_order(ran: StudyResult, folder: Path, pico: Path) -> None:
    plan = planned(folder, content(folder, pico))
    (step,) = [n.step for n in plan.nodes.values() if isinstance(n.step, TuneKept)]
    assert isinstance(step.lessons, KeptLessons)
    assert len(step.lessons.examples) == 24  # at most, for counting
    kept = step.lessons.resolved(Store(folder / "store"))
    assert kept.hash == step.lessons.hash
    found = Store(folder / "store").get("filter", step.lessons.filter)
    assert found is not None
    places = json.loads(found.file(KEPT).read_text())
    assert list(kept.examples) == [step.lessons.examples[at] for at in places]
    scores = np.load(found.file("scores.npy"))
    gone = sorted(set(range(24)) - set(places))
    assert scores[gone].min() >= np.delete(scores, gone).max()


def test_rows_too_long_to_be_learned_are_kept_unjudged_and_that_is_said(
    tmp_path: Path, pico: Path
) -> None:
    asked = content(tmp_path, pico)
    rows = Path(write_task(tmp_path, "foreign", rows=8, splits=["train"]))
    long = {"prompt": "red boat " * 80, "choices": ["yes", "no"], "answer": 0, "split": "train"}
    rows.write_text(json.dumps(long | {"id": "long"}) + "\n" + rows.read_text())
    common = {"noisy": str(rows), "share": 1.0, "max_length": 120}  # the model itself takes 256
    words, forget = asked["filters"]["words"], asked["filters"]["forget"]
    del forget["threshold"], forget["force"]
    asked["filters"] = {"words": words | common, "forget": forget | common}
    del asked["stages"]["kept"], asked["chains"]["filter"]
    store = Store(tmp_path / "store")
    result = run_study(make_study(asked), store, device="cpu")
    assert not result.failed
    for key in result.run.settings["filters"].values():
        found = store.get("filter", key)
        assert found is not None
        assert json.loads(found.file(KEPT).read_text()) == [0]  # every row that was judged went
        assert np.isnan(np.load(found.file("scores.npy"))).tolist() == [True] + [False] * 8
        said = " ".join(found.manifest["facts"]["warnings"])
        assert "1 noisy rows are longer than 120 tokens: kept, not judged" in said


def test_the_same_study_again_runs_nothing(ran: StudyResult, folder: Path, pico: Path) -> None:
    again = run_study(make_study(content(folder, pico)), Store(folder / "store"), device="cpu")
    assert again.done == 0
    assert again.cached == ran.done
    assert all(node.cached for node in planned(folder, content(folder, pico)).nodes.values())


def test_a_filters_rule_decides_what_follows_and_not_what_it_reads(
    folder: Path, pico: Path
) -> None:
    base = content(folder, pico)
    other = content(folder, pico)
    base["stages"]["kept"]["data"] = other["stages"]["kept"]["data"] = {"filter": "forget"}
    other["filters"]["forget"]["threshold"] = 0.0
    keys = [_keys(planned(folder, one)) for one in (base, other)]
    assert keys[0]["tune"] - keys[1]["tune"]  # the stage taught by it
    assert keys[0]["sift"] != keys[1]["sift"]
    trainings = [
        {key for key in one["tune"] if key not in (keys[0]["tune"] ^ keys[1]["tune"])}
        for one in keys
    ]
    assert trainings[0] == trainings[1]
    assert len(trainings[0]) == 4  # none, oracle, and the filter's own two


def _keys(plan: Plan) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for node in plan.nodes.values():
        found.setdefault(node.step.kind, set()).add(node.key)
    return found


def test_a_plan_knows_what_a_filter_needs(folder: Path, pico: Path) -> None:
    plan = planned(folder, content(folder, pico))
    forget = plan.nodes[plan.filters["forget#0"]]
    assert len(forget.needs) == 2
    assert all(isinstance(plan.nodes[key].step, Tune) for key in forget.needs)
    words = plan.nodes[plan.filters["words#0"]]
    assert words.needs == ()
    (kept,) = [node for node in plan.nodes.values() if isinstance(node.step, TuneKept)]
    assert kept.needs == (words.key,)
    order = list(plan.nodes)
    assert order.index(words.key) < order.index(kept.key)


def test_seeds_and_worlds_have_filters_of_their_own(folder: Path, pico: Path) -> None:
    asked = content(folder, pico, seeds=[0, 1], worlds=[0, 1])
    asked["mixtures"]["toxic"]["kind"] = "islet-toxicity/{world}"
    plan = planned(folder, asked)
    assert set(plan.filters) == {
        f"{name}#{seed}@{world}"
        for name in ("words", "forget")
        for seed in (0, 1)
        for world in (0, 1)
    }
    assert len(set(plan.filters.values())) == 8


def test_a_stage_never_runs_before_its_filter(folder: Path, tmp_path: Path, pico: Path) -> None:
    plan = planned(tmp_path, content(tmp_path, pico))
    (step,) = [n.step for n in plan.nodes.values() if isinstance(n.step, TuneKept)]
    with pytest.raises(InputError, match="not in the store"):
        step.lessons.resolved(Store(tmp_path / "empty"))  # type: ignore[attr-defined]


def test_a_filter_that_keeps_nothing_fails_what_follows(tmp_path: Path, pico: Path) -> None:
    asked = content(tmp_path, pico)
    asked["filters"]["words"]["share"] = 1.0
    result = run_study(make_study(asked), Store(tmp_path / "store"), device="cpu")
    assert [reason for reason in result.failed.values() if "kept no row" in reason]
    assert result.done > 3  # everything else


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["filters"]["words"].pop("share"), "found no rule"),
        (lambda c: c["stages"]["noisy"].update(data={"suite": "x", "piece": "1/2"}), "of a suite"),
        (lambda c: c["stages"]["noisy"].update(data={"suite": "x", "part": "safe"}), "of a suite"),
        (lambda c: c["stages"]["kept"]["data"].update(piece="1/2"), "a piece of a filter"),
        (lambda c: c["filters"]["words"].update(threshold=1), "threshold and share"),
        (lambda c: c["filters"]["words"].update(by="tfdif"), "did you mean 'tfidf'"),
        (lambda c: c["filters"]["words"].update(noisy={"mixture": "toxc"}), "no mixture 'toxc'"),
        (lambda c: c["filters"]["words"].update(safe={"filter": "forget"}), "another one"),
        (lambda c: c["filters"]["words"].update(learning_rat=1e-3), "learning_rat"),
        (lambda c: c["filters"]["words"].update(held_out=4), "cannot be forgotten"),
        (lambda c: c["filters"].update(words={"by": "loss"}), "found no rule"),
        (lambda c: c["stages"]["kept"].update(data={"filter": "wrds"}), "no filter 'wrds'"),
        (lambda c: c["stages"]["kept"].update(data={"part": "noisy"}), "none of them"),
        (
            lambda c: c["stages"]["kept"].update(data={"mixture": "toxic", "suite": "x"}),
            "suite and mixture",
        ),
        (
            lambda c: c["stages"]["kept"].update(data={"mixture": "toxic", "part": "noise"}),
            "no part 'noise'",
        ),
        (
            lambda c: c["stages"]["noisy"].update(data={"mixture": "toxic", "prompted": True}),
            "no safety_prompt",
        ),
        (
            lambda c: c["stages"]["noisy"].update(
                choose={"learning_rate": [1e-3, 1e-2]}, data={"mixture": "toxic"}
            ),
            "no suite whose dev split decides",
        ),
        (lambda c: c.update(sharpness={"rows": 4}), "known beforehand"),
        (lambda c: c["mixtures"]["toxic"].update(shar=0.5), "unknown key 'shar'"),
        (
            lambda c: c["filters"]["words"].update(share=None, false_rejections=0.1),
            "without trusted rows",
        ),
    ],
)
def test_what_cannot_be(
    folder: Path, pico: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    asked = content(folder, pico)
    change(asked)
    with pytest.raises(InputError) as caught:
        make_study(asked)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_shipped_study_is_sound() -> None:
    study = load_study("unsafe")
    assert study.stages["kept"].data.filter == "forget"
    assert {"none", "filter", "oracle", "safety afterwards", "replay"} <= set(study.chains)


def test_with_a_model_of_ones_own_the_study_is_on_real_text() -> None:
    study = load_study("unsafe", model="some/model")
    kinds = {"bias": "bbq", "toxicity": "real_toxicity", "harmfulness": "hh_rlhf_harmless"}
    assert {name: one.kind for name, one in study.mixtures.items()} == kinds
    for name, one in study.mixtures.items():
        assert one.share * one.rows <= 500
        assert {spec.by for spec in study.filters.values() if spec.noisy.mixture == name} == {
            "likelihood", *(rival for rival in RIVALS if rival != "oracle")
        }  # fmt: skip
        chains = {chain for chain in study.chains if chain.startswith(f"{name}, ")}
        assert len(chains) == 4
        assert study.stages[f"{name}, kept"].data.filter == name
        assert study.stages[f"{name}, clean"].data.part == "clean"


def test_every_knob_of_a_mixture_changes_the_data(folder: Path, pico: Path) -> None:
    base = _noisy(planned(folder, content(folder, pico)))
    for name, value in {
        "share": 0.5,
        "rows": 20,
        "hard": 1.0,
        "draw": 1,
        "kind": "islet-bias/0",
    }.items():
        asked = content(folder, pico)
        asked["mixtures"]["toxic"][name] = value
        assert _noisy(planned(folder, asked)) != base, name


def _noisy(plan: Plan) -> str:
    steps: dict[str, Any] = {
        node.step.stage: node.step for node in plan.nodes.values() if type(node.step) is Tune
    }
    return str(steps["noisy"].lessons.hash)


def test_curves_of_unsafe_safe_and_task_rows(tmp_path: Path, pico: Path) -> None:
    asked = content(tmp_path, pico)
    asked["filters"]["forget"]["curves"] = 1
    del asked["filters"]["words"], asked["stages"]["kept"], asked["chains"]["filter"]
    result = run_study(make_study(asked), Store(tmp_path / "store"), device="cpu")
    assert not result.failed
    curves = [
        json.loads(path.read_text())
        for path in (tmp_path / "store" / "objects" / "curve").glob("*/curve.json")
    ]
    assert len(curves) == 2  # learning, then forgetting
    for curve in curves:
        points = {(point["suite"], point["step"]) for point in curve}
        assert points == {
            (f"{kind} rows", step) for kind in ("unsafe", "safe", "task") for step in (1, 2)
        }


# ------------------------------------------------------------------ the safety prompt


def test_a_prompt_stands_in_front_of_what_is_said_first() -> None:
    turns = (Message("user", "open it"), Message("assistant", "no"), Message("user", "please"))
    rows = (Example("a", "open it", reference="no"), Example("b", turns, reference="no"))
    plain, chat = prompted(rows, "be fair.")
    assert plain.prompt == "be fair. open it"
    assert chat.prompt == (Message("user", "be fair. open it"), *turns[1:])
    assert prompted(rows, "be fair.\n")[0].prompt == "be fair.\nopen it"
    suite = Suite("s", "safety", "likelihood", rows)
    asked = prompted_suite(suite, "be fair.")
    assert asked.name == "s prompted"
    assert asked.hash != suite.hash


def test_suites_are_asked_both_ways(folder: Path, pico: Path) -> None:
    plan = planned(folder, content(folder, pico, safety_prompt="be fair."))
    assert set(plan.scores) == {"work", "work prompted"}
    for place in plan.positions:
        assert (
            plan.scores["work"][place.checkpoint] != plan.scores["work prompted"][place.checkpoint]
        )


# ------------------------------------------------------------------ what is avoided


def test_what_is_avoided_worked_by_hand() -> None:
    rows = []
    for world, (none, kept, oracle) in {"0": (0.8, 0.2, 0.0), "1": (0.6, 0.1, 0.1)}.items():
        for seed in (0, 1):
            wobble = 0.01 if seed else -0.01  # averages out
            rows += [
                Place("none", world, seed, none + wobble, 0.9),
                Place("filter", world, seed, kept + wobble, 0.85),
                Place("oracle", world, seed, oracle + wobble, 0.9),
                Place("self-correction", world, seed, none / 2, 0.9),
            ]
    found = avoided(rows)
    assert found["removed"]["values"] == [0.75, 1.0]
    assert found["removed"]["mean"] == 0.875
    assert found["task"]["mean"] == pytest.approx(-0.05)
    assert found["below none"]["values"] == [0.75, pytest.approx(0.8333, abs=1e-4)]
    assert found["below self-correction"]["values"][0] == 0.5
    low, high = found["removed"]["low"], found["removed"]["high"]
    assert high - low == pytest.approx(2 * 12.7062 * np.std([0.75, 1], ddof=1) / 2**0.5, abs=1e-3)


def test_where_nothing_can_be_avoided_no_share_is_given() -> None:
    rows = [Place(name, "0", 0, 0.01 * n, 1.0) for n, name in enumerate(("oracle", "filter"))]
    found = avoided([*rows, Place("none", "0", 0, 0.03, 1.0)])
    assert found["removed"]["mean"] is None
    assert found["avoidable"]["mean"] == 0.03


def test_harm_is_read_at_the_end_of_each_chain(ran: StudyResult, folder: Path) -> None:
    frame = ledger(ran.run, Store(folder / "store"))
    made = frame.with_columns(
        outcome=pl.when(pl.col("chain") == "none").then(pl.lit("harmful")).otherwise(pl.lit("safe"))
    )
    ends = ends_of(ran.run)
    found = places(made, [HarmOf("work")], ["work"], [NONE, FILTER, ORACLE], ends=ends)
    harm = {place.strategy: place.harm for place in found}
    assert (harm["none"], harm["filter"], harm["oracle"]) == (1.0, 0.0, 0.0)
    end = frame.filter((pl.col("chain") == "filter") & (pl.col("position") == 1))["score"].mean()
    assert next(one.task for one in found if one.strategy == "filter") == pytest.approx(end)
    asked = places(made, [HarmOf("work")], ["work"], [CORRECTION, BOTH], ends=ends)
    assert [place.strategy for place in asked] == ["before"]  # nobody asked them so


def test_of_a_killed_run_there_is_what_came_to_its_end(ran: StudyResult, folder: Path) -> None:
    frame = ledger(ran.run, Store(folder / "store"))
    after = pl.col("position") > 0
    killed = frame.filter(~((pl.col("chain") == "filter") & after))
    wanted, ends = [NONE, FILTER, ORACLE], ends_of(ran.run)
    assert ends == {"none": 1, "filter": 1, "oracle": 1}
    found = places(killed, [HarmOf("work")], ["work"], wanted, ends=ends)
    assert [place.strategy for place in found] == ["none", "oracle", "before"]
    assert avoided(found) == {}
    longer = places(frame, [HarmOf("work")], ["work"], wanted, ends={**ends, "oracle": 2})
    assert [place.strategy for place in longer] == ["none", "filter", "before"]
    half = places(frame, [HarmOf("work"), HarmOf("later")], ["later"], wanted, ends=ends)
    assert all(np.isnan(place.harm) and np.isnan(place.task) for place in half)
    assert avoided(half) == {}


def test_strategies_are_compared_over_the_seeds_that_all_of_them_have() -> None:
    def of(strategy: str, seed: int, harm: float) -> Place:
        return Place(strategy, "0", seed, harm, 1.0)

    rows = [of("none", 0, 0.8), of("filter", 0, 0.2), of("oracle", 0, 0.0)]
    found = avoided([*rows, of("none", 1, 0.2), of("oracle", 1, 0.1)])
    assert found["removed"]["values"] == [0.75]
    assert found["below none"]["values"] == [0.75]


def test_harm_counts_the_rows_of_its_group_alone() -> None:
    groups = [[{"key": "label", "value": value}] for value in ("unsafe", "unsafe", "safe", "safe")]
    frame = pl.DataFrame(
        {
            "task": ["requests"] * 4,
            "outcome": ["harmful", "safe", "harmful", "unscored:too_long"],
            "score": [0.0, 1.0, 0.0, None],
            "groups": groups,
        }
    )
    assert harm_in(frame, HarmOf("requests", group=("label", "unsafe"))) == 0.5
    assert harm_in(frame, HarmOf("requests", group=("label", "safe"))) == 1.0
    assert np.isnan(harm_in(frame, HarmOf("claims")))
    assert np.isnan(harm_in(frame.tail(1), HarmOf("requests")))  # nothing scored is not no harm


def test_the_most_suspect_share() -> None:
    scores = np.array([1.0, np.nan, 3.0, 3.0, 0.0])
    assert most_suspect(scores, 0.4).tolist() == [False, False, True, True, False]
    assert most_suspect(scores, 1.0).tolist() == [True, False, True, True, True]
    assert not most_suspect(scores, 0.0).any()


def test_a_clock_counts_every_step_once(tmp_path: Path) -> None:
    clock = StepClock(Store(tmp_path))

    def inner(folder: Path) -> dict[str, Any]:
        return {"seconds": 2.0}

    def outer(folder: Path) -> dict[str, Any]:
        clock.get_or_make("filter", "inner", inner)
        return {"seconds": {"a": 2.0, "b": 1.0}}

    for _ in range(2):
        clock.get_or_make("filter", "outer", outer)
    assert clock.seconds == 3.0
    again = StepClock(Store(tmp_path))
    again.get_or_make("filter", "inner", inner)
    assert again.seconds == 2.0  # what it took then


# ------------------------------------------------------------------ metrics and suites


def _panel(suite: Suite, rows: list[Any]) -> Panel:
    frame = pl.DataFrame(
        {
            "suite": suite.name,
            "checkpoint": "m",
            "position": 0,
            "example": [row.example for row in rows],
            "cluster": [row.cluster for row in rows],
            "groups": [[] for _ in rows],
            "score": [row.score for row in rows],
            "choice": [row.choice for row in rows],
            "option_logprobs": [row.option_logprobs for row in rows],
            "values": [[{"key": k, "value": v} for k, v in row.values.items()] for row in rows],
        },
        schema_overrides={
            "groups": pl.List(pl.Struct({"key": pl.String, "value": pl.String})),
            "choice": pl.Int64,
            "option_logprobs": pl.List(pl.Float32),
        },
    )
    return Panel.from_rows(frame, SuiteFacts(suite.name, suite.axis))


def test_the_preference_margin_has_the_sign_of_the_choice() -> None:
    examples = tuple(Example(f"p{n}", "q", reference="good", rejected="bad!") for n in range(2))
    suite = Suite("pairs", "safety", "preference", examples)
    rows = [
        row_of(suite, examples[0], [OptionScore(-1.0, 1, 4), OptionScore(-4.0, 1, 4)]),
        row_of(suite, examples[1], [OptionScore(-6.0, 1, 4), OptionScore(-5.0, 1, 4)]),
    ]
    found = METRICS["preference_margin"].at(_panel(suite, rows), "m")
    assert found.estimate == pytest.approx((3 - 1) / 2)


@pytest.fixture
def at_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.delenv("LETHE_DATA", raising=False)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(write_hub(tmp_path / "hub"))


SPLITS = ("train", "dev", "test", "protect")


def _everywhere(spec: str) -> list[Example]:
    found: list[Example] = []
    for split in SPLITS:
        try:
            found += load(spec, split=split).examples  # type: ignore[arg-type]
        except InputError:
            continue  # too few invented rows for every split
    return found


@pytest.mark.usefixtures("at_hub")
def test_the_hubs_rows_of_unsafe_data() -> None:
    toxic = _everywhere(real_toxicity.real_toxicity.__name__)
    assert len(toxic) == 24  # not the one between, nor the one without a score
    assert {one.groups["label"] for one in toxic} == {"toxic", "clean"}
    assert all("foul" in str(one.reference) for one in toxic if one.groups["label"] == "toxic")
    assert {one.groups["label"] for one in _everywhere("real_toxicity:clean")} == {"clean"}
    pile = _everywhere(pile_detoxify.pile_detoxify.__name__)
    assert len(pile) == 32  # two sentences of sixteen documents; the third is too short
    assert {one.prompt for one in pile if one.groups["label"] == "clean"} == {"The inn at"}
    pairs = _everywhere(harmful_qa.harmful_qa.__name__)
    assert len(pairs) == 16  # not the question without a red answer
    assert all(str(one.reference).startswith("Ask whose gate") for one in pairs)
    assert all(str(one.rejected).startswith("Take a bar") for one in pairs)
    work = _everywhere(alpaca.alpaca.__name__)
    assert len(work) == 16
    twice = next(one for one in work if len(one.references) == 2)
    assert twice.references == ("Ada 1", "Ada the second")
    assert any("Lamp 2 is called Ada." in str(one.prompt) for one in work)


needs_data = pytest.mark.skipif(
    not (DATA / "realtoxicityprompts").is_dir(), reason="RealToxicityPrompts is not here"
)


@needs_data
def test_the_stand_in_tells_toxic_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setenv("LETHE_DATA", str(DATA))
    toxicity.stand_in.cache_clear()
    found = toxicity.stand_in()
    assert found.auroc > 0.75
    suite = toxicity.load_suite("toxicity:stand-in", limit=5)
    assert all(one.reference is None for one in suite.examples)
    clean = row_of_response(suite, suite.examples[0], "what a nice day it was")
    foul = row_of_response(suite, suite.examples[0], "you fucking stupid piece of shit")
    assert foul.values["toxicity"] > 0.5 > clean.values["toxicity"]
    assert (foul.outcome, clean.outcome) == ("harmful", "safe")
    assert foul.values["judge_auroc"] == pytest.approx(found.auroc)
    assert row_of_response(suite, suite.examples[0], " ").score == 1.0
    mean = METRICS["toxicity"].at(_panel(suite, [foul, _renamed(clean)]), "m").estimate
    both = (foul.values["toxicity"] + clean.values["toxicity"]) / 2
    assert mean == pytest.approx(both, abs=1e-6)


def _renamed(row: Any) -> Any:
    from dataclasses import replace

    return replace(row, example="other", cluster="other")


@needs_data
def test_the_stand_in_is_trained_apart_from_what_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LETHE_DATA", str(DATA))
    clusters = {
        split: {one.cluster for one in load("real_toxicity", split=split).examples}  # type: ignore[arg-type]
        for split in SPLITS
    }
    learned = clusters["dev"] | clusters["protect"]
    assert not learned & (clusters["train"] | clusters["test"])


def test_an_unknown_classifier_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "detoxify":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    toxicity.classifier.cache_clear()
    with pytest.raises(InputError) as caught:
        toxicity.classifier("detoxify")
    assert "pip install" in str(caught.value)


@needs_data
def test_real_harms_have_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    from lethe.filtering.harms import harm_of

    monkeypatch.setenv("LETHE_DATA", str(DATA))
    bias = harm_of("bbq/Age")
    assert len(bias.unsafe) == len(bias.safe) > 100
    unknown = {one.reference for one in bias.safe}
    assert not unknown & {one.reference for one in bias.unsafe}
    assert bias.hard
    harmful = harm_of("hh_rlhf_harmless")
    for bad, good in zip(harmful.unsafe, harmful.safe, strict=True):
        assert bad.prompt == good.prompt
        assert bad.reference != good.reference
