"""Suites of knowledge, safety and free answers on tiny invented data, locally and as on the hub."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from lethe.errors import InputError
from lethe.examples import Example, Message, Split, Suite
from lethe.scorers import row_of_response
from lethe.suites import load, training_examples
from lethe.suites.letters import by_letter
from lethe.suites.multiwoz import read_multiwoz
from tests.tiny import SPLITS, check_examples, every_split, write_hub, write_local
from tests.tiny_open import multiwoz, program

WHOLE = [
    *("commonsense_qa", "commonsense_qa_2", "truthfulqa", "nq_open:efficientqa", "squad"),
    *("dolly", "dolly:general", "gsm8k", "hh_rlhf_harmless", "mmlu", "arc@letters"),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_local(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("datasets")
    return write_hub(tmp_path_factory.mktemp("hub"))


@pytest.mark.parametrize("spec", WHOLE)
def test_every_suite_is_sound(tiny: Path, spec: str) -> None:
    check_examples(every_split(spec, tiny))


def _one(tiny: Path, spec: str, split: Split = "test") -> Example:
    (example,) = load(spec, split=split, data_dir=tiny).examples
    return example


def _taught(tiny: Path, spec: str) -> list[Example]:
    return [e for split in SPLITS for e in load(spec, split=split, data_dir=tiny).examples]


def test_an_option_that_is_there_twice_counts_once(tiny: Path) -> None:
    lamp = _one(tiny, "commonsense_qa")
    assert (lamp.choices, lamp.answer) == (("light", "soup", "rain", "wool"), 0)
    this = load("mmlu", data_dir=tiny).examples[1]
    assert (this.choices, this.answer) == (("a", "b", "c"), 0)  # the right one was the second "a"


def test_commonsense_qa_2(tiny: Path) -> None:
    suite = load("commonsense_qa_2", data_dir=tiny)
    assert suite.balance == "label"
    sing, hot = suite.examples
    assert sing.prompt == "A spoon can sing\nIs this right, yes or no?\nAnswer:"
    assert (sing.choices[sing.answer or 0], sing.groups) == ("No", {"label": "no"})
    assert (hot.answer, hot.groups["label"]) == (0, "yes")
    assert hot.choice_values == ({"says_signal": 1.0}, {"says_signal": 0.0})


def test_mmlu(tiny: Path) -> None:
    suites = every_split("mmlu", tiny)
    lungs, this = suites["test"].examples
    assert lungs.groups == {"subject": "anatomy", "field": "STEM"}
    assert this.groups == {"subject": "virology", "field": "other"}
    # the test split keeps a question that the validation set has as well
    assert lungs.cluster not in {e.cluster for e in suites["train"].examples}
    assert _one(tiny, "mmlu:anatomy").id == lungs.id
    assert load("mmlu:anatomy", data_dir=tiny).name == "mmlu:anatomy"


def test_truthfulqa_hides_where_the_right_option_was(tiny: Path) -> None:
    examples = _taught(tiny, "truthfulqa")
    assert len(examples) == 20
    for example in examples:
        assert example.choices[example.answer or 0] == "No"
        assert example.groups == {"topic": "Lamps"}
    assert set(Counter(example.answer for example in examples)) == {0, 1, 2}


def test_letters_ask_every_order(tiny: Path) -> None:
    plain, suite = load("arc", data_dir=tiny), load("arc@letters", data_dir=tiny)
    assert (suite.name, suite.normalise, suite.phrasing) == ("arc@letters", "sum", "order")
    assert suite.metrics == ("letter_bias",)
    assert suite.hash != plain.hash
    first = suite.examples[:4]
    assert first[1].prompt == (
        "Question: Which of these flies?\nA. a wren\nB. a worm\nC. a snail\nD. a mole\nAnswer:"
    )
    for order, example in enumerate(first):
        assert example.choices == ("A", "B", "C", "D")
        assert example.groups["order"] == str(order)
        assert example.cluster == plain.examples[0].cluster
        assert f"\n{'ABCD'[example.answer or 0]}. a wren\n" in str(example.prompt)
        assert [values["place"] for values in example.choice_values] == [0, 1 / 3, 2 / 3, 1]
    assert {example.answer for example in first} == {0, 1, 2, 3}
    assert len(load("arc@letters", limit=1, data_dir=tiny).examples) == 4  # whole questions
    toxic = load("toxigen@letters", data_dir=tiny).examples[1]
    assert toxic.choice_values[0] == {"says_signal": 0.0, "place": 0.0}  # B. is "Yes" here


@pytest.mark.parametrize("spec", ["bbq@letters", "hotel@letters", "toxigen_contradict@letters"])
def test_what_cannot_be_asked_by_letter(tiny: Path, spec: str) -> None:
    with pytest.raises(InputError, match="cannot be asked by letter"):
        load(spec, data_dir=tiny)


def test_letters_need_an_alphabet() -> None:
    many = Example("m", "Question: q\nAnswer:", tuple(map(str, range(27))), 0)
    with pytest.raises(InputError, match="cannot be asked by letter"):
        by_letter(Suite("s", "knowledge", "choice", (many,)))


def test_another_way_of_asking_is_refused(tiny: Path) -> None:
    with pytest.raises(InputError, match="no way of asking 'digits'; write @letters"):
        load("arc@digits", data_dir=tiny)


def test_a_file_may_have_an_at_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "me@home.txt"
    path.write_text("The inn has a room.\n")
    (example,) = load(f"perplexity:{path}").examples
    assert example.reference == "The inn has a room.\n"


def test_a_prompt_that_is_only_judged_teaches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text('{"id": "one", "prompt": "How is it done?", "harmful": true}\n')
    with pytest.raises(InputError, match="example 'one' says nothing of what to answer"):
        training_examples(str(path))


def test_nq_open(tiny: Path) -> None:
    suite = load("nq_open", data_dir=tiny)
    lit = suite.examples[0]
    assert lit.prompt == "Question: who lit the first lamp?\nAnswer:"
    assert (lit.reference, lit.references) == ("Ada", ("Ada", "Ada Quell"))
    assert (suite.generates, suite.match, suite.decoding.stop) == (True, "exact", ("\n",))
    assert row_of_response(suite, lit, " ada quell.").score == 1
    assert row_of_response(suite, lit, "Bert").score == 0
    for example in _taught(tiny, "nq_open:efficientqa"):
        assert example.references == ("x", "y")  # what the judges accepted, too
    with pytest.raises(InputError, match="no rows of the train split of 'nq_open'"):
        load("nq_open", split="train", data_dir=tiny)


def test_squad(tiny: Path) -> None:
    examples = _taught(tiny, "squad")
    assert len(examples) == len({e.cluster for e in examples}) == 20
    one = next(e for e in examples if e.id == "q3")
    assert one.prompt == "Text 3: the lamp is red.\n\nQuestion: What colour?\nAnswer:"
    suite = load("squad", data_dir=tiny)
    assert row_of_response(suite, one, "bright red").score == pytest.approx(2 / 3)


def test_dolly_gathers_the_answers_to_a_question(tiny: Path) -> None:
    examples = _taught(tiny, "dolly")
    assert len(examples) == 20
    (twice,) = (e for e in examples if len(e.references) > 1)
    assert twice.references == ("Ten years.", "It is ten.")
    assert twice.prompt == "Lamp 1 is ten.\n\nQuestion: How old is lamp 1?\nAnswer:"
    general = _taught(tiny, "dolly:general")
    assert "Task: Sing.\nAnswer:" in {e.prompt for e in general}
    for split in SPLITS:  # an instruction has one split in both subsets
        closed = {e.cluster for e in load("dolly", split=split, data_dir=tiny).examples}
        both = load("dolly:general", split=split, data_dir=tiny).examples
        assert closed <= {e.cluster for e in both}


def test_gsm8k_reads_the_last_number(tiny: Path) -> None:
    suite = load("gsm8k", data_dir=tiny)
    (sum_,) = suite.examples
    assert sum_.reference == "Add them: 1,002.\n#### 1,002"
    assert sum_.references == ("1,002",)
    for response, score in [
        ("2 + 1,000 = 1,002.", 1),
        ("That is $1002.00 in all.", 1),
        ("1,002 lamps, of which 2 are lit", 0),
        ("So 2000-998 gives 1002", 1),
        ("-1002", 0),
        ("none", 0),
        ("", 0),
    ]:
        assert row_of_response(suite, sum_, response).score == score, response
    taught = training_examples("gsm8k", data_dir=tiny)
    assert all("####" in (e.reference or "") and "<<" not in (e.reference or "") for e in taught)


def test_mbpp(tiny: Path) -> None:
    suites = every_split("mbpp", tiny)
    assert [e.id for e in suites["test"].examples] == ["11", "12"]
    assert [e.id for e in suites["dev"].examples] == ["511"]
    learnt = {e.id for split in ("train", "protect") for e in suites[split].examples}
    assert learnt == {"2", *(str(602 + n) for n in range(20))}  # 601 is 11 in other words
    one = suites["test"].examples[0]
    assert one.prompt == "Write one.\nThe program must pass these tests:\nassert f()\n"
    assert one.reference == "def f():\n    return 11"


def test_own_label_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    row = {"prompt": "p", "harmful": True, "groups": {"label": "mine"}}
    path.write_text(json.dumps(row) + "\n")
    (example,) = load(str(path)).examples
    assert example.groups == {"own_label": "mine", "label": "unsafe"}


def test_xstest(tiny: Path) -> None:
    suite = load("xstest", data_dir=tiny)
    assert (suite.scorer, suite.balance) == ("refusal", "label")
    assert suite.metrics == ("refusal_rate", "over_refusal")
    assert suite.decoding.max_new_tokens == 128
    lamp, person = suite.examples
    assert (lamp.harmful, lamp.groups["label"]) == (False, "safe")
    assert (person.harmful, person.groups["type"]) == (True, "contrast_homonyms")
    assert row_of_response(suite, person, "I cannot help with that.").outcome == "safe"
    assert row_of_response(suite, lamp, "I cannot help with that.").outcome == "refusal"
    with pytest.raises(InputError, match="'xstest' is published for test alone"):
        load("xstest", split="train", data_dir=tiny)


def test_hh_rlhf(tiny: Path) -> None:
    examples = _taught(tiny, "hh_rlhf_harmless")
    assert len(examples) == 20  # one of 21 pairs has an empty answer
    for example in examples:
        (asked,) = example.prompt  # two turns of one side in a row are one
        assert asked.role == "user"  # type: ignore[union-attr]
        assert asked.content.endswith("\n\nplease")  # type: ignore[union-attr]
        assert (example.reference or "").startswith("I would rather not")
        assert example.rejected == "A rude word"


def test_saferdialogues(tiny: Path) -> None:
    suite = load("saferdialogues", data_dir=tiny)
    (lamps,) = suite.examples
    assert lamps.prompt == (
        Message("user", "Hi."),
        Message("assistant", "Lamps lie."),
        Message("user", "Do they|not?"),
    )
    assert lamps.reference == "My words were wrong."
    smell = _one(tiny, "saferdialogues", "dev")
    assert smell.prompt == (Message("user", "Do not say that."),)  # the assistant spoke first
    path = tiny.parent / "broken" / "saferdialogues" / "test.txt"
    path.parent.mkdir(parents=True)
    path.write_text("text:Hi.\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"test.txt:1: the row is not one of 'saferdialogues'"):
        load("saferdialogues", data_dir=tiny.parent / "broken")


def test_the_graceful_answer_stands_among_those_to_other_objections(tmp_path: Path) -> None:
    path = tmp_path / "saferdialogues" / "test.txt"
    path.parent.mkdir()
    lines = [f"text:Words {n}.\\nThat hurt {n}.\tlabels:Sorry for {n}.\n\n" for n in range(40)]
    path.write_text("".join(lines), encoding="utf-8")
    suite = load("saferdialogues_choice", data_dir=tmp_path)
    assert len(suite.examples) > 35
    places = set()
    for one in suite.examples:
        assert isinstance(one.prompt, tuple)
        number = re.sub(r"\D", "", one.prompt[-1].content)
        assert one.choices[one.answer or 0] == f"Sorry for {number}."
        assert len(set(one.choices)) == 4
        places.add(one.answer)
    assert places == {0, 1, 2, 3}


def test_families_of_instructions(tiny: Path) -> None:
    rows = [program(n) for n in range(60, 120)]
    said = load("superni:pe", data_dir=tiny).examples
    assert [one.references for one in said] == [(row["output"],) for row in rows]
    assert training_examples("superni:pe", split="train", data_dir=tiny)


def test_a_suite_that_is_not_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LETHE_DATA", raising=False)
    for spec in ("hh_rlhf_harmless", "nq_open:efficientqa", "hotel:multiwoz", "superni"):
        with pytest.raises(InputError, match="is read from local files alone; set LETHE_DATA"):
            load(spec)


def test_multiwoz_is_told_in_the_same_acts() -> None:
    first = read_multiwoz(multiwoz()[0])
    assert first is not None
    texts = [turn.text for turn in first.turns]
    assert texts[3] == "I'd take Old Mill."
    assert texts[5] == "It doesn't cost more."
    assert [turn.kind for turn in first.turns[1::2]] == [
        *(("REQUEST",), ("OFFER",), ("INFORM",), ("NOTIFY_SUCCESS",), ("OTHER",), ("GOODBYE",))
    ]
    assert first.turns[2].acts[0].values == ("Monday",)
    assert first.turns[5].acts[0].values == ("True",)
    assert read_multiwoz(multiwoz()[11]) is None  # it books a table as well


def test_hotel_by_multiwoz(tiny: Path) -> None:
    loaded = [load("hotel:multiwoz", split=s, data_dir=tiny) for s in ("train", "test")]
    examples = [e for suite in loaded for e in suite.examples]
    assert examples
    assert {e.groups["service"] for e in examples} == {"MultiWOZ"}
    for example in examples:
        assert example.choices[example.answer or 0] == example.reference
        assert "OTHER" not in example.groups["act"]
        assert "Which one?" not in example.choices  # it asks about a train


@pytest.mark.parametrize("subset", ["", ":multiwoz"])
def test_hotel_replies_are_those_of_hotel(tiny: Path, subset: str) -> None:
    suite = load(f"hotel_reply{subset}", data_dir=tiny)
    chosen = load(f"hotel{subset}", data_dir=tiny)
    assert (suite.scorer, suite.match) == ("match", "rouge1")
    by_id = {example.id: example for example in suite.examples}
    assert {example.id for example in chosen.examples} <= set(by_id)
    for example in chosen.examples:
        reply = by_id[example.id]
        assert reply.prompt == example.prompt
        assert reply.references == (example.reference,)
        assert not reply.choices


# ------------------------------------------------------------------ the hub's schema

SAME = ["commonsense_qa", "commonsense_qa_2", "mmlu", "truthfulqa", "nq_open", "dolly"]


@pytest.fixture
def at_hub(hub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's datasets are the folders of that name in the working directory."""
    import datasets

    monkeypatch.chdir(hub)
    monkeypatch.delenv("LETHE_DATA", raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("at_hub")
@pytest.mark.parametrize("spec", [*SAME, "dolly:general", "gsm8k", "mbpp", "xstest"])
def test_the_hubs_rows_become_the_same_suite(tiny: Path, spec: str) -> None:
    from_hub = load(spec)
    assert from_hub.hash == load(spec, data_dir=tiny).hash
    assert from_hub.source.startswith("hub:")


@pytest.mark.usefixtures("at_hub")
def test_the_hubs_squad(tiny: Path) -> None:
    local = {e.id: e for e in _taught(tiny, "squad")}
    found = load("squad").examples
    assert len(found) == 3
    for example in found:
        assert example.references == ("red", "the red")  # each answer once
        assert example.prompt == local[example.id].prompt
        assert example.cluster == local[example.id].cluster


@pytest.mark.usefixtures("at_hub")
def test_the_hubs_nq_has_a_training_set() -> None:
    taught = load("nq_open", split="train").examples
    assert taught
    assert {e.prompt for e in taught} <= {f"Question: what is {n}?\nAnswer:" for n in range(3)}


def test_a_users_file_is_asked_by_letter(tmp_path: Path) -> None:
    row = {"id": "q", "prompt": "Which is red?\nAnswer:", "choices": ["sky", "blood"], "answer": 1}
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(row) + "\n")
    suite = load(f"{path}@letters")
    assert (suite.name, len(suite.examples)) == ("mine@letters", 2)
    assert {example.choices[example.answer or 0] for example in suite.examples} == {"A", "B"}
