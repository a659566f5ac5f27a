"""Studies as they are written: strict, in one line, with file and line."""

import math
from pathlib import Path
from typing import Any

import pytest

from lethe.errors import InputError
from lethe.studies.study import arms_of, chains_of, make_study
from lethe.studies.study_file import SHIPPED, load_study, read_yaml, shipped_studies

TEXT = """# Two tasks, both orders.
name: both
model: some/base
suites: [toxigen, arc]
stages:
  safety:
    data: toxigen
    update: lora
    learning_rate: [1e-4, 1e-3]
  skill:
    data: {suite: arc, limit: 50}
    update: full
    mix:
      replay: {data: toxigen, share: [0, 0.05]}
    after: {interpolate: 0.5}
chains:
  S-C: [safety, skill]
orders: [safety, skill]
"""


def written(folder: Path, text: str = TEXT) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def content(**changes: Any) -> dict[str, Any]:
    return {
        "name": "n",
        "model": "m",
        "suites": ["arc"],
        "stages": {"a": {"data": "arc"}, "b": {"data": "bbq"}},
        "chains": {"c": ["a", "b"]},
        **changes,
    }


def test_a_file_and_python_say_the_same(tmp_path: Path) -> None:
    path = written(tmp_path)
    study = load_study(str(path))
    assert study == make_study(read_yaml(path)[0])
    assert study.stages["safety"].settings["learning_rate"] == [1e-4, 1e-3]  # not text
    assert study.stages["skill"].data.limit == 50
    assert (study.split, study.dtype, study.seeds) == ("test", "float32", [0])
    assert load_study(str(path), model="other/base").model == "other/base"


def test_every_value_of_a_list_is_an_arm(tmp_path: Path) -> None:
    study = load_study(str(written(tmp_path)))
    safety, skill = arms_of(study, "safety"), arms_of(study, "skill")
    assert [arm.label for arm in safety] == [
        "safety[learning_rate=0.0001]",
        "safety[learning_rate=0.001]",
    ]
    assert [(arm.share, arm.replay is None, arm.alpha) for arm in skill] == [
        (0.0, True, 0.5),
        (0.05, False, 0.5),
    ]
    assert skill[1].method == "full + replay 0.05 + interpolate 0.5"
    chains = chains_of(study)
    assert len(chains) == 3 * 4  # one named, two orders, two arms each of two stages
    assert len({chain.name for chain in chains}) == 12
    assert {len(chain.arms) for chain in chains} == {2}
    again = chains_of(make_study(content(chains={"twice": ["a", "b", "a"]})))
    assert again[0].arms[0] is again[0].arms[2]


def test_a_chain_may_go_on_where_another_ends() -> None:
    study = make_study(content(chains={"c": ["a", "b"], "d": ["c", "a"]}))
    found = {chain.name: [arm.stage for arm in chain.arms] for chain in chains_of(study)}
    assert found == {"c": ["a", "b"], "d": ["a", "b", "a"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sutes": []}, "sutes: unknown key 'sutes'; did you mean 'suites'"),
        ({"suites": []}, "suites: found .*at least 1"),
        ({"suites": "arc"}, "suites: found 'arc'; .*list"),
        ({"seeds": []}, "seeds: found .*at least 1"),
        ({"seeds": [-1]}, "seeds.0: found -1"),
        ({"limit": 0}, "limit: found 0"),
        ({"sharpness": 64}, "sharpness: found 64, not a mapping"),
        ({"sharpness": {"row": 64}}, "unknown key 'row'; did you mean 'rows'"),
        ({"sharpness": {"rows": 0}}, "sharpness.rows: found 0"),
        ({"keep": "some"}, "keep: found 'some'; .*'all', 'adapters' or 'last'"),
        ({"chains": {}}, "chains: a study without chains"),
        ({"chains": {"c": []}}, "chains.c: a chain without stages"),
        ({"chains": {"c": ["aa"]}}, "chains.c: no stage 'aa'; did you mean 'a'|known"),
        ({"chains": {"c": ["d"], "d": ["c"]}}, "circle: c > d > c"),
        ({"chains": {"c": ["c"]}}, "circle: c > c"),
        ({"chains": {"a": ["b"]}}, "'a' names a stage and a chain"),
        ({"orders": ["a", "x"]}, "orders: no stage 'x'"),
        ({"orders": ["a", "a"]}, "stands twice"),
        ({"stages": {}}, "stages: found"),
        ({"stages": {"a": {}}}, "stages.a: no data"),
        ({"stages": {"a": 5}}, "stages.a: a stage is a mapping"),
        ({"stages": {"a": {"data": "arc", "lerning_rate": 1}}}, "did you mean 'learning_rate'"),
        ({"stages": {"a": {"data": "arc", "rank": []}}}, "stages.a.rank: 'rank' is an empty list"),
        ({"stages": {"a": {"data": "arc", "seed": 1}}}, "say seeds for the whole study"),
        ({"stages": {"a": {"data": "arc", "precision": "auto"}}}, "say dtype"),
        ({"stages": {"a": {"data": {"suite": "arc", "spilt": "dev"}}}}, "did you mean 'split'"),
        ({"stages": {"a": {"data": "arc", "mix": {"replya": {}}}}}, "did you mean 'replay'"),
        (
            {"stages": {"a": {"data": "arc", "mix": {"replay": {"data": "bbq", "share": 1.5}}}}},
            "share.0: found 1.5; .*less than 1",
        ),
        ({"stages": {"a": {"data": "arc", "mix": {"replay": {"share": 0.5}}}}}, "no data"),
        ({"stages": {"a": {"data": "arc", "after": {"interpolate": 2.0}}}}, "interpolate.0: found"),
        (
            {"stages": {"a": {"data": "arc", "choose": {"learning_rate": [1e-3]}}}},
            "learning_rate: found .*at least 2",
        ),
        (
            {
                "stages": {
                    "a": {"data": "arc", "choose": {"learning_rate": [1e-3, 1e-4]}},
                    "b": {"data": "bbq", "choose": {"learning_rate": [1e-3, 1e-4, 1e-5]}},
                }
            },
            "among 2 and 3 learning rates",
        ),
        (
            {
                "stages": {
                    "a": {"data": "arc", "choose": {"learning_rate": [1e-3, 1e-4]}},
                    "b": {
                        "data": "bbq",
                        "choose": {"learning_rate": [1e-3, 1e-4], "by": "halving"},
                    },
                }
            },
            "stages choose their learning rates by grid and halving; let all choose in one way",
        ),
        (
            {"stages": {"a": {"data": "arc", "choose": {"learning_rate": [1e-3, 1e-3]}}}},
            "a rate stands twice",
        ),
        (
            {
                "stages": {
                    "a": {"data": "arc", "choose": {"learning_rate": [1e-3, 1e-4], "factor": 3}}
                }
            },
            "stages.a.choose: found .*a factor is of halving: add by: halving",
        ),
        ({"name": "a/b"}, "name: a name is letters"),
        ({"seeds": list(range(9000))}, "27,000 positions"),
        ({"stages": {"a": {"data": "arc", "learning_rate": math.nan}}}, "finite"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_study(content(**changes))
    assert "\n" not in str(caught.value)


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path, TEXT.replace("update: full", "updat: full"))
    with pytest.raises(InputError, match=r"study.yaml:10: stages.skill: unknown setting 'updat'"):
        load_study(str(path))
    path = written(tmp_path, TEXT.replace("S-C: [safety, skill]", "S-C: [safety, skil]"))
    with pytest.raises(InputError, match=r"study.yaml:17: chains.S-C.*did you mean 'skill'"):
        load_study(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", r"study.yaml:\d+: not YAML"),
        ("- a\n- b", "not a mapping"),
        ("", "not a mapping"),
        ("name: a\nname: b", r"study.yaml:2: 'name' stands twice"),
        ("a: &x [1]\nb: *x", r"study.yaml:2: aliases are not read"),
        ("a: !!python/object/apply:os.system [ls]", "not YAML"),
        ("suites: [arc]", "no model; add model"),
        ("#" * 1_000_001, "larger than any study"),
        ("[" * 5000, "not YAML"),
    ],
)
def test_hostile_and_broken_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_study(str(written(tmp_path, text)))


def test_an_unknown_study_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'chained'"):
        load_study("chaned")


def test_what_ships_can_be_read_and_says_what_it_is() -> None:
    found = shipped_studies()
    assert len(found) == len(list(SHIPPED.glob("*.yaml"))) > 0
    for name, about in found.items():
        assert 20 < len(about) <= 76
        assert load_study(name, model="base").name == name
