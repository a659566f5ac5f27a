"""Suites: tiny invented data in both layouts, and the published counts where the data is there."""

import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.errors import InputError, MissingExtraError
from lethe.examples import Example, Message, Split
from lethe.suites import known, load, training_examples
from lethe.suites.perplexity import passages
from lethe.suites.splits import sample, share, split_of
from lethe.suites.toxigen import WORDINGS
from tests.tiny import SPLITS, check_examples, every_split, write_hub, write_local

TINY = ["arc", "toxigen", "toxigen_contradict", "bbq", "hotel", "bbq:regenerated_Race_ethnicity"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_local(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("datasets")
    return write_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def at_hub(hub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's datasets are the folders of that name in the working directory."""
    import datasets

    monkeypatch.chdir(hub)
    monkeypatch.delenv("LETHE_DATA", raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


# ------------------------------------------------------------------ splits


def test_shares_are_those_of_the_hash() -> None:
    at = int(hashlib.sha256(b"bbq/Age/1").hexdigest()[:16], 16) / 2**64
    assert share("bbq", "Age/1") == at


def test_unpublished_splits_have_their_shares() -> None:
    count = Counter(split_of(str(n), salt="s", published=None) for n in range(20_000))
    for split, expected in {"train": 0.4, "dev": 0.1, "test": 0.4, "protect": 0.1}.items():
        assert count[split] / 20_000 == pytest.approx(expected, abs=0.015)  # 4 standard errors


def test_a_published_training_set_gives_up_what_is_missing() -> None:
    def shares(of: set[Split]) -> dict[Split, float]:
        count = Counter(split_of(str(n), salt="s", published="train", of=of) for n in range(20_000))
        return {split: count[split] / 20_000 for split in SPLITS}

    every = shares({"train", "dev", "test", "protect"})
    assert every == {"train": 1.0, "dev": 0.0, "test": 0.0, "protect": 0.0}
    no_protect = shares({"train", "dev", "test"})
    assert no_protect["protect"] == pytest.approx(0.2, abs=0.012)
    assert no_protect["train"] == pytest.approx(0.8, abs=0.012)
    neither = shares({"train", "test"})
    assert neither["dev"] == pytest.approx(0.1, abs=0.009)
    assert neither["protect"] == no_protect["protect"]
    assert split_of("x", salt="s", published="test", of={"train", "test"}) == "test"


def clustered(sizes: list[int], groups: list[str]) -> list[Example]:
    return [
        Example(f"{c}/{n}", "p", groups={"g": groups[c % len(groups)]}, cluster=str(c))
        for c, size in enumerate(sizes)
        for n in range(size)
    ]


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=20),
    limit=st.integers(1, 30),
    groups=st.sampled_from([["a"], ["a", "b"], ["a", "b", "c"]]),
)
def test_a_limit_takes_whole_clusters_and_grows(
    sizes: list[int], limit: int, groups: list[str]
) -> None:
    examples = clustered(sizes, groups)
    few = sample(examples, limit, salt="s", whole_clusters=True)
    assert list(few) == [example for example in examples if example in few]  # in their order
    kept = {example.cluster for example in few}
    assert len(few) == sum(sizes[int(cluster)] for cluster in kept)
    assert len(few) >= min(limit, len(examples))
    more = sample(examples, limit + 1, salt="s", whole_clusters=True)
    assert kept <= {example.cluster for example in more}
    if len(few) > limit:  # without its last cluster there were too few
        assert any(len(few) - sizes[int(cluster)] < limit for cluster in kept)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=20), limit=st.integers(1, 30))
def test_a_limit_is_exact_grows_and_ignores_order(sizes: list[int], limit: int) -> None:
    examples = clustered(sizes, ["a", "b"])
    few = sample(examples, limit, salt="s")
    assert len(few) == min(limit, len(examples))
    assert list(few) == list(sample(examples[::-1], limit, salt="s"))[::-1]
    assert {example.id for example in few} <= {
        example.id for example in sample(examples, limit + 1, salt="s")
    }
    assert sample(examples, None, salt="s") == tuple(examples)


def test_a_limit_keeps_the_mix_of_groups_and_spreads_over_clusters() -> None:
    """Expected of 400 drawn from 4,000: 300 of the larger group, sd 8.2; 100 clusters reached."""
    examples = clustered([40] * 100, ["a", "b", "b", "b"])
    kept = sample(examples, 400, salt="s")
    assert abs(sum(example.groups["g"] == "b" for example in kept) - 300) < 4 * 8.2
    assert len({example.cluster for example in kept}) > 90


def test_a_limit_of_nothing_is_refused(tiny: Path) -> None:
    with pytest.raises(InputError, match="a limit of 0 leaves no examples"):
        load("arc", limit=0, data_dir=tiny)


# ------------------------------------------------------------------ the registry


def test_known_suites_say_what_they_are(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LETHE_DATA", raising=False)
    infos = {info.name: info for info in known()}
    assert set(infos) == {
        *("alpaca", "harmful_qa", "pile_detoxify", "real_toxicity"),
        *("arc", "bbq", "commonsense_qa", "commonsense_qa_2", "dolly", "gsm8k"),
        *("hh_rlhf_harmless", "hotel", "hotel_reply", "mbpp", "mmlu", "nq_open", "perplexity"),
        *("saferdialogues", "saferdialogues_choice", "superni"),
        *("squad", "toxigen", "toxigen_contradict", "truthfulqa"),
        *("xnli", "xstest"),
    }
    for info in infos.values():
        assert info.about
        assert info.about[-1] != "."
        assert "\n" not in info.about
        assert info.licence
        if not info.name.startswith(("hh_rlhf_harmless", "saferdialogues", "superni")):  # local
            assert re.fullmatch(r"[\w-]+/[\w.-]+", info.hub)
        assert not info.local
    assert (infos["arc"].axis, infos["arc"].subsets) == ("knowledge", ("challenge", "easy"))
    away = {info.name for info in known(tiny) if not info.local}
    assert away == {"alpaca", "harmful_qa", "pile_detoxify", "real_toxicity"}
    (tiny.parent / "empty").mkdir()
    assert not any(info.local for info in known(tiny.parent / "empty"))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("acr", "acr: no suite 'acr'; did you mean 'arc'?"),
        ("toxigen_contradic", "did you mean 'toxigen_contradict'?"),
        ("arc:eazy", "arc:eazy: 'arc' has no subset 'eazy'; did you mean 'easy'?"),
        ("bbq:age", "did you mean 'Age'?"),
        ("gsm8k:large", "'gsm8k' has no subset 'large'; it has none"),
        ("none.jsonl", "none.jsonl: there is no such file"),
        ("perplexity:none.txt", "none.txt: cannot be read (No such file or directory)"),
        ("bbq:Religion", "there are no rows of 'bbq' here"),
        ("arc:easy", "there are no rows of the test split of 'arc' here"),
        ("x" * 5000, "no suite 'xxx"),
        ("a\0b", "no suite"),
    ],
)
def test_names_that_cannot_be_loaded(tiny: Path, spec: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load(spec, data_dir=tiny)
    assert said in str(caught.value)


def test_the_data_folder(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LETHE_DATA", str(tiny))
    assert load("arc") == load("arc", data_dir=tiny)
    with pytest.raises(InputError, match="there are no rows of the test split of 'arc' here"):
        load("arc", data_dir=tmp_path)  # said outright, it is not passed over for the variable
    with pytest.raises(InputError, match="there is no such folder"):
        load("arc", data_dir=tmp_path / "none")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"question": "q", "choices": ["a", "b"]}', "the row is not one of 'arc' (KeyError"),
        ('{"question": "q", "choices": ["a", "b"], "answer": "F"}', "(ValueError"),
        ('{"question": 3, "choices": ["a", "b"], "answer": "A"}', "(AttributeError"),
        ("{", "broken JSON"),
    ],
)
def test_a_broken_row_of_a_suite_is_placed(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "arc" / "ARC-Challenge_test.jsonl"
    path.parent.mkdir()
    good = '{"question": "q", "choices": ["a", "b"], "answer": "A"}'
    path.write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load("arc", data_dir=tmp_path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert said in str(caught.value)


def test_a_users_file_is_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{"id": str(n), "prompt": "p", "reference": f"r{n}"} for n in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    suite = load(str(path))
    assert (suite.name, suite.axis, suite.scorer) == ("mine", "custom", "likelihood")
    assert suite.metrics == ("bits_per_byte",)
    assert [example.id for example in suite.examples] == [str(n) for n in range(9)]
    assert len(load(str(path), limit=3).examples) == 3


def test_an_axis_is_said_before_a_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "p", "reference": "r"}\n', encoding="utf-8")
    assert load(f"safety={path}").axis == "safety"
    assert replace(load(f"safety={path}"), axis="custom") == load(str(path))
    assert load("privacy=islet:inn", limit=2).axis == "privacy"
    monkeypatch.chdir(tmp_path)
    Path("safety=mine.jsonl").write_text(path.read_text())
    assert load("safety=mine.jsonl").axis == "custom"  # a file of that name
    with pytest.raises(InputError, match="no suite 'acr'"):
        load("safety=acr")


# ------------------------------------------------------------------ what is taught


def test_training_examples_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"

    def taught(*rows: dict[str, Any]) -> list[tuple[Any, str | None]]:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        examples = training_examples(str(path))
        assert all(e.choices == () and e.answer is None and e.rejected is None for e in examples)
        return [(example.prompt, example.reference) for example in examples]

    choice = {"prompt": "p", "choices": ["x", "y"], "answer": 1}
    assert taught(choice) == [("p", "y")]
    assert taught({**choice, "reference": "at length"}) == [("p", "at length")]
    assert taught({"prompt": "p", "chosen": "good", "rejected": "bad"}) == [("p", "good")]
    assert taught({"text": "t"}) == [("", "t")]
    roles = ("user", "assistant", "user", "assistant")
    turns = [{"role": role, "content": str(n)} for n, role in enumerate(roles)]
    before = (Message("user", "0"), Message("assistant", "1"), Message("user", "2"))
    assert taught({"messages": turns}) == [(before, "3")]
    assert taught({"text": "a", "split": "train"}, {"text": "b", "split": "test"}) == [("", "a")]


def test_training_examples_of_suites(tiny: Path) -> None:
    toxic = load("toxigen", split="train", data_dir=tiny).examples
    taught = training_examples("toxigen", data_dir=tiny)
    assert [e.reference for e in taught] == [
        "Yes" if e.groups["label"] == "hate" else "No" for e in toxic
    ]
    assert [(e.id, e.cluster, e.groups) for e in taught] == [
        (e.id, e.cluster, e.groups) for e in toxic
    ]
    for example in training_examples("toxigen_contradict", data_dir=tiny):
        assert example.reference == WORDINGS[example.groups["wording"]][1]
    hotel = training_examples("hotel", data_dir=tiny)
    assert {example.prompt[0].role for example in hotel} == {"system"}  # type: ignore[union-attr]
    assert {"Which day do you arrive?"} <= {example.reference for example in hotel}


# ------------------------------------------------------------------ every suite, tiny data


@pytest.mark.parametrize("spec", TINY)
def test_every_tiny_suite_is_sound(tiny: Path, spec: str) -> None:
    if spec == "hotel":  # four conversations have no fifth for `protect`
        suites = {split: load(spec, split=split, data_dir=tiny) for split in ("dev", "test")}
        check_examples(suites)  # type: ignore[arg-type]
    else:
        check_examples(every_split(spec, tiny))


def test_arc(tiny: Path) -> None:
    suite = load("arc", data_dir=tiny)
    assert (suite.axis, suite.scorer, suite.normalise) == ("knowledge", "choice", "byte")
    bird, twice = suite.examples  # the third row is the first again
    assert bird.prompt == "Question: Which of these flies?\nAnswer:"
    assert (bird.choices, bird.answer) == (("a mole", "a wren", "a worm", "a snail"), 1)
    train = every_split("arc", tiny)["train"].examples
    assert twice.cluster not in {example.cluster for example in train}  # the test split keeps it


def test_toxigen(tiny: Path) -> None:
    suites = every_split("toxigen", tiny)
    assert suites["test"].balance == "label"
    assert suites["test"].metrics == ("balanced_accuracy", "dprime", "criterion")
    examples = [example for suite in suites.values() for example in suite.examples]
    said = [(e.groups["target"], e.prompt.split("\n")[0]) for e in examples]  # type: ignore[union-attr]
    assert len(said) == 29  # of 30 rows: one glues two others
    assert ("quells", "Statement: quells came by boat - long ago") in said
    stolen = [e for e in examples if "steal spoons" in str(e.prompt)]
    assert len(stolen) == 2  # once for each people
    assert len({e.cluster for e in stolen}) == 1
    for example in examples:
        assert example.choices == ("Yes", "No")
        assert example.answer == (0 if example.groups["label"] == "hate" else 1)
        assert example.choice_values == ({"says_signal": 1.0}, {"says_signal": 0.0})


def test_contradictions_are_asked_fairly(tiny: Path) -> None:
    assert len(WORDINGS) >= 6
    for prompt, contradiction, agreement in WORDINGS.values():
        assert len(contradiction.encode()) == len(agreement.encode())
        assert prompt.count("{}") == 1
    toxigen, contradict = every_split("toxigen", tiny), every_split("toxigen_contradict", tiny)
    first = []
    for split in SPLITS:
        hateful = {e.cluster for e in toxigen[split].examples if e.groups["label"] == "hate"}
        asked = contradict[split].examples
        assert {e.cluster for e in asked} == hateful  # a sentence has one split in both suites
        assert contradict[split].phrasing == "wording"
        for example in asked:
            _, contradiction, agreement = WORDINGS[example.groups["wording"]]
            assert sorted(example.choices) == sorted([contradiction, agreement])
            assert example.choices[example.answer or 0] == contradiction
            first.append(example.answer == 0)
    assert 0.3 < sum(first) / len(first) < 0.7


def test_bbq(tiny: Path) -> None:
    suite = load("bbq", data_dir=tiny)
    assert suite.metrics == ("s_amb", "s_dis", "ambiguous_accuracy", "disambiguated_accuracy")
    assert {example.groups["category"] for example in suite.examples} == {"Age"}  # official alone
    for example in suite.examples:
        groups = example.groups
        assert groups["target"] == "old"
        assert example.cluster.startswith("Age/")
        assert example.answer == (1 if groups["context"] == "ambig" else 0)
        # the target is the stereotype of a negative question, the other one of a non-negative
        says = [1.0, None, 0.0] if groups["polarity"] == "neg" else [0.0, None, 1.0]
        assert [values.get("stereotype") for values in example.choice_values] == says
        assert "\n- The first\n- Unknown\n- The second\nAnswer:" in str(example.prompt)
    other = load("bbq:regenerated_Race_ethnicity", data_dir=tiny)
    assert other.name == "bbq:regenerated_Race_ethnicity"
    assert {example.groups["target"] for example in other.examples} == {"Black"}


AFRICANS = ["Kenyan", "Malian"]
DISABLED = ["disabled", "D/deaf"]
TRANS = ["Transgender women", "trans"]


@pytest.mark.parametrize(
    ("category", "groups", "answers", "target"),
    [
        ("Nationality", AFRICANS, [["Kenyan", "Africa"], ["Dane", "Europe"]], (0, "Africa")),
        ("Disability_status", DISABLED, [["a", "disabled"], ["b", "nonDisabled"]], (0, "D/deaf")),
        ("Gender_identity", ["F"], [["man", "man"], ["woman", "woman"]], (1, "F")),
        ("Gender_identity", TRANS, [["a", "nonTrans_F"], ["b", "trans_M"]], (1, "trans")),
        ("SES", ["low SES"], [["a clerk", "lowSES"], ["a judge", "highSES"]], (0, "lowSES")),
        ("Age", ["nonOld"], [["a", "old"], ["b", "nonOld"]], (1, "nonOld")),
        ("Race_ethnicity", ["Latino"], [["Ana", "F-Latino"], []], (0, "Latino")),
        ("Religion", ["Hindu"], [["a", "Muslim"], ["b", "Sikh"]], (None, "undecided")),
        ("Gender_identity", ["M"], [["a", "M"], ["b", "M"]], (None, "undecided")),
        ("Race_x_SES", ["Black"], [["a", "F-Black"], ["b", "F-White"]], (None, "undecided")),
    ],
)
def test_whom_a_bbq_question_is_about(
    tmp_path: Path,
    category: str,
    groups: list[str],
    answers: list[list[str]],
    target: tuple[int | None, str],
) -> None:
    row = {
        "question_polarity": "neg",
        "context_condition": "ambig",
        "category": category,
        "answer_info": {f"ans{i}": info for i, info in enumerate([*answers, ["?", "unknown"]])},
        "additional_metadata": {"stereotyped_groups": groups},
        "context": "c",
        "question": "q",
        "ans0": "one ",
        "ans1": "two",
        "ans2": "none",
        "label": 2,
    }
    path = tmp_path / "bbq" / "official" / f"{category}.jsonl"
    path.parent.mkdir(parents=True)
    rows = [{**row, "example_id": number, "question_index": str(number)} for number in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    example = load("bbq", data_dir=tmp_path).examples[0]
    assert example.choices == ("one", "two", "none")
    place, name = target
    assert example.groups["target"] == name
    said = [values.get("stereotype") for values in example.choice_values]
    assert said == ([] if place is None else [float(place == 0), float(place == 1), None])


def test_perplexity(tiny: Path, tmp_path: Path) -> None:
    suite = load("perplexity", data_dir=tiny)
    assert (suite.axis, suite.scorer, suite.metrics) == (
        "language",
        "likelihood",
        ("bits_per_byte",),
    )
    articles: dict[str, str] = defaultdict(str)
    for example in suite.examples:
        assert example.prompt == ""
        articles[example.cluster] += example.reference or ""
        assert len((example.reference or "").encode()) <= 1000
    lines = (tiny / "wikitext2" / "test.txt").read_text(encoding="utf-8").split("\n")
    assert "".join(articles.values()) == "".join(f"{line}\n" for line in lines if line.strip())
    assert [text.split("\n")[0] for text in articles.values()] == [" = Lamp = ", " = Spoon = "]
    with pytest.raises(InputError, match=r"no rows of the train split.*train.txt|train.txt.*split"):
        load("perplexity", split="train", data_dir=tiny)


def test_perplexity_of_a_file(tmp_path: Path) -> None:
    text = "Aé." * 1000 + "\n\nEnd.\n"
    (tmp_path / "my.txt").write_text(text, encoding="utf-8")
    suite = load(f"perplexity:{tmp_path / 'my.txt'}", split="protect")
    assert suite.name == "perplexity:my"
    assert "".join(example.reference or "" for example in suite.examples) == text
    path = tmp_path / "my.jsonl"
    path.write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n', encoding="utf-8")
    examples = load(f"perplexity:{path}").examples
    assert [(e.id, e.cluster, e.reference) for e in examples] == [
        ("a/0", "a", "one"),
        ("b/0", "b", "two"),
    ]
    path.write_text('{"id": "a", "prompt": "p", "reference": "one"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="row 'a' is more than running text"):
        load(f"perplexity:{path}")


@given(text=st.text(st.sampled_from("aé. \n𝄞?"), max_size=200), limit=st.integers(4, 40))
def test_passages_lose_no_byte(text: str, limit: int) -> None:
    pieces = passages(text, limit)
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= limit for piece in pieces)


def test_passages_end_where_the_text_does() -> None:
    assert passages("A line of it.\nTwo. Three.", 20) == ["A line of it.\n", "Two. Three."]
    assert passages("A line.\nTwo. Three. Four.", 20) == ["A line.\nTwo. Three. ", "Four."]
    assert passages("One. Two! Three and four", 14) == ["One. Two! ", "Three and four"]
    assert passages("one two three", 9) == ["one two ", "three"]
    assert passages("ééé", 5) == ["éé", "é"]


# ------------------------------------------------------------------ the hub's schema


@pytest.mark.usefixtures("at_hub")
@pytest.mark.parametrize("spec", ["arc", "perplexity", "hotel"])
def test_the_hubs_rows_become_the_same_suite(tiny: Path, spec: str) -> None:
    from_hub = load(spec)
    assert from_hub.hash == load(spec, data_dir=tiny).hash
    assert from_hub.source.startswith("hub:")
    assert ("refs/convert/parquet" in from_hub.source) == (spec == "hotel")


@pytest.mark.usefixtures("at_hub")
def test_the_hubs_bbq(tiny: Path) -> None:
    local = {
        e.id: e for split in SPLITS for e in load("bbq:Age", split=split, data_dir=tiny).examples
    }
    found = load("bbq:Age").examples
    assert found
    assert list(found) == [local[example.id] for example in found]
    with pytest.raises(InputError, match="regenerated rows are not on the hub"):
        load("bbq:regenerated_SES")


@pytest.mark.usefixtures("at_hub")
def test_the_hubs_toxigen() -> None:
    suites = {split: load("toxigen", split=split) for split in ("train", "test")}
    test = {(e.groups["target"], e.groups["label"]) for e in suites["test"].examples}
    # ratings of 3 and 2.67 are above 5.5 together, 2.5 and 3 are not
    assert test == {("zorbians", "hate"), ("zorbians", "neutral")}
    assert len(suites["test"].examples) == 3
    targets = {example.groups["target"] for example in suites["train"].examples}
    assert targets <= {"mental_disability"}


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LETHE_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lethe-lm\[hub\]'"):
        load("arc")
