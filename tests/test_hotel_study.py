"""Methods compared: shares, matched proficiency, groups, the safety prompt, mixed rows."""

import io
import math
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as distributions

from lethe.errors import InputError
from lethe.examples import Message
from lethe.hotel_serving import PROMPT, load_served
from lethe.hotel_shares import dispersion_at, fieller, matched_share, over, tau_of
from lethe.run import Run
from lethe.store import Store
from lethe.studies.executor import run_study
from lethe.studies.hotel import BASE, WITH_PROMPT, Hotel, read_hotel
from lethe.studies.hotel_printing import print_hotel
from lethe.studies.study import arms_of, chains_of, make_study
from lethe.studies.study_file import load_study
from lethe.suites import load, training_examples
from lethe.suites.mixed import load_mix
from lethe.tuning.measured import Measured, slots_of, summary_of
from tests.pico import make_pico

WORLDS = [(str(world), seed) for world in (3, 4, 5) for seed in (0, 1)]


# ---- shares --------------------------------------------------------------------------------------


def test_a_share_is_one_minus_the_ratio_of_mean_losses() -> None:
    plain = dict(zip(WORLDS, [0.2, 0.2, 0.3, 0.3, 0.4, 0.4], strict=True))
    method = dict(zip(WORLDS, [0.0, 0.1, 0.06, 0.06, 0.05, 0.03], strict=True))
    found = matched_share(plain, method, {})
    assert found.estimate == pytest.approx(1 - (0.05 + 0.06 + 0.04) / 0.9)
    assert found.values == pytest.approx((0.75, 0.8, 0.9))
    assert (found.of, found.censored) == ("worlds", 0)
    assert found.low < found.estimate < found.high


def test_trainings_that_missed_the_task_are_counted_not_dropped() -> None:
    plain, method = dict.fromkeys(WORLDS, 0.2), dict.fromkeys(WORLDS, 0.1)
    missed = {WORLDS[0]: True, WORLDS[1]: False}
    found = matched_share(plain, method, missed)
    assert found.censored == 1
    assert found.estimate == matched_share(plain, method, {}).estimate


def test_where_plain_tuning_lost_nothing_there_is_no_share() -> None:
    found = matched_share(dict.fromkeys(WORLDS, -0.01), dict.fromkeys(WORLDS, 0.02), {})
    assert math.isnan(found.estimate)
    assert math.isnan(found.low)
    assert all(map(math.isnan, found.values))


def test_one_world_is_told_over_its_seeds() -> None:
    units = [("0", seed) for seed in range(3)]
    table, of = over([(1.0,), (2.0,), (4.0,)], units)
    assert of == "seeds"
    assert table[:, 0].tolist() == [1.0, 2.0, 4.0]
    table, of = over([(1.0,), (3.0,), (4.0,)], [("0", 0), ("0", 1), ("1", 0)])
    assert of == "worlds"
    assert table[:, 0].tolist() == [2.0, 4.0]


def test_ends_of_the_ratio_are_where_students_test_is_at_five_percent() -> None:
    draw = np.random.default_rng(0)
    below = draw.normal(0.3, 0.05, 5)
    above = 0.3 * below + draw.normal(0, 0.02, 5)
    for edge in fieller(above, below):
        found = distributions.ttest_1samp(above - edge * below, 0.0)
        assert found.pvalue == pytest.approx(0.05, abs=1e-9)


def test_the_ratio_covers_what_it_says() -> None:
    draw = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        below = draw.normal(0.3, 0.08, 5)
        low, high = fieller(0.2 * below + draw.normal(0, 0.03, 5), below)
        hits += low <= 0.2 <= high
    assert 0.93 < hits / 2000 < 0.97


def test_no_interval_where_the_loss_of_plain_is_not_sure() -> None:
    assert all(map(math.isnan, fieller([0.1, 0.1, 0.1], [0.5, -0.4, 0.1])))
    assert all(map(math.isnan, fieller([0.1], [0.5])))


# ---- groups --------------------------------------------------------------------------------------


def test_groups_lie_apart_beyond_chance_only_where_they_do() -> None:
    draw = np.random.default_rng(2)
    groups, clusters = np.repeat(np.arange(8), 50), np.arange(400)
    same = (draw.random(400) < 0.3).astype(float)
    assert tau_of(same, groups, clusters) < 0.04
    rates = np.linspace(0, 0.6, 8)  # standard deviation .2 about their mean
    apart = (draw.random(400) < rates[groups]).astype(float)
    assert tau_of(apart, groups, clusters) == pytest.approx(0.21, abs=0.05)
    assert math.isnan(tau_of(same, np.full(400, -1), clusters))


def test_dispersion_is_held_against_plain_tuning_at_the_same_loss() -> None:
    plain = {("3", 0): (0.4, 0.2), ("4", 0): (0.2, 0.3)}
    half = {("3", 0): (0.2, 0.15), ("4", 0): (0.1, 0.1)}
    method = {("3", 0): (0.1, 0.05), ("4", 0): (0.15, 0.1)}
    found = dispersion_at(method, [plain, half])
    assert found is not None
    # Half of the way to half the way, (0.2, 0.15); and midway between (0.1, 0.1) and (0.2, 0.3).
    assert found.plain == pytest.approx((0.075 + 0.2) / 2)
    assert found.change == pytest.approx((-0.025 - 0.1) / 2)
    assert found.trainings == 2
    beyond = dispersion_at({("3", 0): (0.5, 0.1), ("4", 0): (0.1, 0.1)}, [plain, half])
    assert beyond is not None
    assert beyond.trainings == 1  # what lost more than plain tuning has no match
    assert dispersion_at({("3", 0): (0.5, 0.1)}, [plain]) is None


# ---- suites --------------------------------------------------------------------------------------


def test_a_mix_takes_as_many_rows_of_each() -> None:
    mixed = load_mix("mix:islet:alignment+islet:facts", split="train", limit=41)
    assert len(mixed.examples) == 41
    parts = [example.id.partition("#")[0] for example in mixed.examples]
    assert parts.count("islet:alignment") == 21
    assert parts[:2] == ["islet:alignment", "islet:facts"]
    assert len({example.id for example in mixed.examples}) == 41
    whole = load_mix("mix:islet:alignment+islet:facts", split="train")
    fewer = min(len(load(f"islet:{n}", split="train").examples) for n in ("alignment", "facts"))
    assert len(whole.examples) == 2 * fewer
    taught = training_examples("mix:islet:alignment+islet:facts", limit=4)
    assert all(example.reference for example in taught)


@pytest.mark.parametrize("spec", ["mix:", "mix:arc", "mix:arc+arc", "mix:arc+"])
def test_a_mix_of_one_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="fewer than two"):
        load_mix(spec)


def test_served_safely_asks_the_same_with_the_prompt_before() -> None:
    bare, served = load("islet:claims", limit=5), load_served("safely:islet:claims", limit=5)
    assert served.name == "safely:islet:claims"
    assert served.hash != bare.hash
    assert served.judge == bare.judge
    for one, other in zip(bare.examples, served.examples, strict=True):
        assert other.id == one.id
        assert other.prompt[-len(one.prompt) :] == one.prompt
        shown = other.prompt[: -len(one.prompt)]
        assert [turn.role for turn in shown] == ["user", "assistant"]
    with pytest.raises(InputError, match="no suite behind"):
        load_served("safely:")


def test_the_safety_prompt_is_a_system_message_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"messages": [{"role": "system", "content": "Short."}, {"role": "user", "content": "a"}],'
        ' "reference": "b"}\n'
        '{"messages": [{"role": "user", "content": "c"}], "reference": "d"}\n'
        '{"prompt": "e", "reference": "f"}\n'
    )
    prompts = [one.prompt for one in load_served(f"safely:{path}").examples]
    assert sorted(map(str, prompts)) == sorted(
        map(
            str,
            [
                (Message("system", f"{PROMPT}\n\nShort."), Message("user", "a")),
                (Message("system", PROMPT), Message("user", "c")),
                f"{PROMPT}\n\ne",
            ],
        )
    )


# ---- the study -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hotel", "hotel-real"])
def test_every_method_of_the_shipped_study_has_as_many_trials(name: str) -> None:
    study = load_study(name, model=None if name == "hotel" else "base")
    chosen = {
        len(arm.choose.learning_rate)
        for stage in study.stages
        for arm in arms_of(study, stage)
        if arm.choose
    }
    assert len(chosen) == 1
    assert all(stage.choose for stage in study.stages.values())
    assert all(len(chain.arms) == 1 for chain in chains_of(study))
    assert study.chains["full"] == ["full"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: Any) -> tuple[Run, Store, Hotel]:
    """Two methods on a pico model, measured with and without the safety prompt."""
    folder = tmp_path_factory.mktemp("hotel")
    model = make_pico(folder / "pico", extra_words="inn booking")
    stage = {
        "data": {"suite": "islet:inn", "limit": 20},
        "max_steps": 2,
        "batch_size": 2,
        "held_out": 2,
        "learning_rate": 1e-2,
    }
    study = make_study(
        {
            "name": "hotel",
            "model": str(model),
            "suites": [
                "islet:inn-choice",
                "islet:claims",
                "islet:facts-choice",
                "safely:islet:claims",
            ],
            "limit": 10,
            "seeds": [0, 1],
            "stages": {
                "full": {**stage, "update": "full"},
                "part way": {**stage, "update": "full", "after": {"interpolate": 0.5}},
                "lora": {**stage, "update": "lora", "rank": 2},
            },
            "chains": {name: [name] for name in ("full", "part way", "lora")},
        }
    )
    store = Store(folder / "store")
    result = run_study(study, store)
    assert not result.failed
    found = read_hotel(result.run, store)
    assert found is not None
    return result.run, store, found


def test_methods_with_and_without_the_safety_prompt_are_rows(
    ran: tuple[Run, Store, Hotel],
) -> None:
    _, _, found = ran
    bare = ["full", "part way", "lora"]
    expected = [made for name in bare for made in (name, name + WITH_PROMPT)]
    assert [method.name for method in found.methods] == [BASE + WITH_PROMPT, *expected]
    by_name = {method.name: method for method in found.methods}
    assert found.axes == ("proficiency", "safety", "knowledge")
    assert set(by_name["lora"].changes) == {"proficiency", "safety", "knowledge"}
    assert set(by_name["lora" + WITH_PROMPT].changes) == {"safety"}
    for method in found.methods:
        for axis, effect in method.changes.items():
            assert effect.estimate == pytest.approx(method.after[axis] - method.before[axis])
            assert len(effect.values) == 2
    assert by_name["full"].shares == {}
    assert set(by_name["lora"].shares) == {"safety", "knowledge"}
    assert by_name["lora"].method == "lora"
    assert by_name["part way"].method == "full + interpolate 0.5"


def test_what_is_printed_is_what_the_ledger_says(ran: tuple[Run, Store, Hotel]) -> None:
    run, store, found = ran
    from lethe.run import ledger

    rows = ledger(run, store, ["islet:inn-choice"])
    means = {
        name: rows.filter((rows["chain"] == "lora") & (rows["position"] == at))["score"].mean()
        for at, name in enumerate(("before", "after"))
    }
    lora = next(method for method in found.methods if method.name == "lora")
    assert lora.before["proficiency"] == pytest.approx(means["before"])
    assert lora.after["proficiency"] == pytest.approx(means["after"])


def test_costs_are_those_of_the_training(ran: tuple[Run, Store, Hotel]) -> None:
    by_name = {method.name: method for method in ran[2].methods}
    full, lora = by_name["full"].cost, by_name["lora"].cost
    assert full is not None
    assert lora is not None
    assert 0 < lora.memory < full.memory
    assert full.tokens == lora.tokens > 0
    assert full.divergence > 0
    assert by_name["part way"].cost is None  # nothing was trained for it alone


def test_the_tables_fit_80_columns(
    ran: tuple[Run, Store, Hotel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    with redirect_stdout(out):
        print_hotel(ran[2])
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("before tuning") for line in lines)
    assert any("full · safety prompt" in line for line in lines)


def test_a_margin_decides_who_is_matched(ran: tuple[Run, Store, Hotel]) -> None:
    run, store, _ = ran
    wide, none = (read_hotel(run, store, margin=margin) for margin in (1.0, -1.01))
    assert wide is not None
    assert none is not None
    assert {method.reached for method in wide.methods if method.method} == {2}
    assert {method.reached for method in none.methods if method.method} == {0}
    lora = next(method for method in none.methods if method.name == "lora")
    assert lora.shares["safety"].censored == 2


def test_other_runs_are_no_comparison_of_methods(ran: tuple[Run, Store, Hotel]) -> None:
    run, store, _ = ran
    links = run.settings["links"]
    two = {name: [*chain, *chain] for name, chain in links.items()}
    assert read_hotel(replace(run, settings={**run.settings, "links": two}), store) is None
    assert read_hotel(replace(run, settings={}), store) is None
    assert read_hotel(replace(run, scores={name: {} for name in run.scores}), store) is None


def test_results_are_plain_json(ran: tuple[Run, Store, Hotel]) -> None:
    import json

    content = json.loads(json.dumps(ran[2].to_dict(), allow_nan=False))
    assert content["plain"] == "full"
    lora = next(one for one in content["methods"] if one["name"] == "lora")
    assert {world for world, _, _ in lora["changes"]["safety"]["values"]} == {None}


def test_what_ships_names_slots_and_what_was_kept(ran: tuple[Run, Store, Hotel]) -> None:
    assert slots_of("lora + kl 0.1 on replay + replay 0.05 by parent") == ["lora", "kl", "replay"]
    content = summary_of(ran[2])
    assert [one["name"] for one in content["methods"]] == ["full", "part way", "lora"]
    found = Measured("m", ("lora",), {"proficiency": 0.1}, {"proficiency": 0.9}, {}, {}, 3, 4)
    kept = replace(found, retention={"safety": (0.75, 0.5, None)})
    assert kept.said() == "m: keeps safety 75 % [50, –]; proficiency 10 → 90 %, matched 3/4"
