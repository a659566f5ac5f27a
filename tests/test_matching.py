"""Responses held against references: SQuAD's definitions worked by hand, numbers, patterns."""

import string
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.errors import InputError, MissingExtraError
from lethe.examples import Example, Match, Suite
from lethe.matching import (
    Matched,
    _rouge_scorer,
    check_patterns,
    exact_match,
    match_response,
    normalise,
    token_f1,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel\n Tower!", "eiffel tower"),
        ("an apple, a pear and the fig", "apple pear and fig"),
        ("well-known", "wellknown"),
        ("Theatre", "theatre"),  # articles are whole words
        ("A", "a"),  # where SQuAD leaves nothing
        ("+", "+"),
        (" ", ""),
    ],
)
def test_the_normal_form(text: str, normal: str) -> None:
    assert normalise(text) == normal


@pytest.mark.parametrize(
    "text", ["1000", "1,000", "$1000.", "1000.0", "€1,000.00", "1,000 .", "(1000)", "$1,000.000"]
)
def test_a_number_is_equal_however_it_is_written(text: str) -> None:
    assert exact_match(text, "1000")


@pytest.mark.parametrize(
    ("text", "other"),
    [("3.5", "35"), ("-5", "5"), ("-$5", "5"), ("1000.5", "1000"), (".5", "5"), ("0.1", "01")],
)
def test_other_numbers_are_others(text: str, other: str) -> None:
    assert not exact_match(text, other)


@pytest.mark.parametrize(
    ("text", "other"),
    [("-5", "−5"), (".50", "0.5"), ("-0", "0"), ("1.2.3", "123"), ("2010-11", "201011")],
)
def test_signs_fractions_and_what_is_no_number(text: str, other: str) -> None:
    assert exact_match(text, other)


@pytest.mark.parametrize(
    ("response", "reference", "f1"),
    [
        ("the cat sat", "a cat", 2 / 3),  # one common of two and one: P 1/2, R 1
        ("cat cat dog", "cat cat cat", 2 / 3),  # each as often as it stands: 2 of 3 and of 3
        ("dog", "cat", 0.0),
        ("Saint Bernadette Soubirous!", "saint bernadette soubirous", 1.0),
        ("", "cat", 0.0),
    ],
)
def test_token_f1(response: str, reference: str, f1: float) -> None:
    assert token_f1(response, reference) == pytest.approx(f1)


def matched(response: str, *references: str, match: Match, extract: str | None = None) -> Matched:
    return match_response(response, references, match=match, extract=extract)


def test_squad_reports_both_from_one_row() -> None:
    found = matched("the cat sat", "dog", "a cat", match="f1")
    assert found == Matched(pytest.approx(2 / 3), None, {"em": 0.0, "f1": pytest.approx(2 / 3)})
    assert matched("A cat.", "dog", "cat", match="f1").values == {"em": 1.0, "f1": 1.0}


@pytest.mark.parametrize(
    ("match", "response", "references", "right"),
    [
        ("exact", "The Tower.", ("bridge", "tower"), True),
        ("exact", "the tall tower", ("tower",), False),
        ("contains", "It is the tall Tower, I think", ("tall tower",), True),
        ("contains", "It is untall towers", ("tall tower",), False),
        ("contains", "It costs 3.5 dollars", ("35",), False),
        ("contains", "It costs $1,000.00 today", ("1000",), True),
        ("regex", "call 555-1234 now", (r"\d{3}-\d{4}",), True),
        ("regex", "call me", (r"\d", r"^CALL"), False),
        ("exact", "", ("a",), False),
        ("contains", " ", ("the",), False),
        ("regex", "", (".*",), False),
        ("exact", "the", ("A",), False),
    ],
)
def test_right_and_wrong(
    match: Match, response: str, references: tuple[str, ...], right: bool
) -> None:
    found = matched(response, *references, match=match)
    assert (found.score, found.outcome) == (float(right), "correct" if right else "wrong")
    assert set(found.values) == (set() if match == "regex" else {"em", "f1"})


@pytest.mark.parametrize(
    ("response", "pattern", "right"),
    [
        ("5 and 6 ... #### 7\n#### 1,000.", r"#### (\S+)", True),  # the last, group 1
        ("999, no 1000", r"\d+", True),  # no group: the whole
        ("the answer is 1000", r"#### (\d+)|answer is (\d+)", True),  # the group that took part
        ("1000 #### 7", r"#### (\S+)", False),
        ("1000", r"#### (\S+)", False),  # nothing found: an empty answer
        ("1000", r"x*", False),  # empty matches end
    ],
)
def test_the_answer_is_extracted(response: str, pattern: str, right: bool) -> None:
    found = matched(response, "1000", match="exact", extract=pattern)
    assert found.outcome == ("correct" if right else "wrong")


def test_empty_references() -> None:
    assert matched("x", " ", "", match="exact") == Matched(None, "unscored:empty_reference")
    assert matched("x", match="f1").outcome == "unscored:empty_reference"
    assert matched("", "", "x", match="f1").score == 0
    assert matched("x", "", "x", match="exact").score == 1


def test_a_pattern_that_never_ends_is_unscored() -> None:
    """The patterns of one response share a second, however many they are."""
    endless = r"(a|aa)+$"
    started = time.monotonic()
    found = matched("a" * 30_000 + "!", *[endless] * 50, match="regex")
    assert (found.score, found.outcome) == (None, "unscored:pattern_timeout")
    found = matched("a" * 30_000 + "!", "x", match="exact", extract=endless)
    assert found.outcome == "unscored:pattern_timeout"
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("pattern", ["(", "[a", "a{1000000000000}", "(" * 900, "a" * 1001])
def test_a_broken_pattern_is_said_before_the_run(pattern: str) -> None:
    example = Example("e1", "p", references=("ok", pattern))
    suite = Suite("s", "a", "match", (example,), match="regex")
    with pytest.raises(InputError) as caught:
        check_patterns(suite)
    assert str(caught.value).startswith("suite s, example 'e1': ")
    with pytest.raises(InputError):
        match_response("x", (pattern,), match="regex")
    with pytest.raises(InputError):
        check_patterns(Suite("s", "a", "match", (), extract=pattern))
    check_patterns(Suite("s", "a", "match", (example,)))  # text, not patterns


def test_rouge_by_hand() -> None:
    """`the cat sat on mats` to `the mat was sat on`: 4 common stems, in order `the sat on`."""
    pytest.importorskip("rouge_score")
    one = matched("the cat sat on mats", "dogs", "the mat was sat on", match="rouge1")
    assert one.score == pytest.approx(4 / 5)
    assert one.outcome is None
    longest = matched("the cat sat on mats", "dogs", "the mat was sat on", match="rougeL")
    assert longest.score == pytest.approx(3 / 5)
    assert longest.values["rouge1"] == pytest.approx(4 / 5)
    assert longest.values["em"] == 0
    assert matched("", "mat", match="rougeL").score == 0
    assert matched("x", "??", match="rouge1").outcome == "unscored:empty_reference"
    long = matched("a b " * 3000, "a " * 3000, match="rougeL")
    assert long.outcome == "unscored:too_long_for_rouge"


def test_rouge_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    _rouge_scorer.cache_clear()
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lethe-lm\[rouge\]'"):
        matched("x", "x", match="rouge1")


anything = st.text(max_size=60) | st.text("aA the.,-$0123456789%·−\n", max_size=40)


@given(
    response=anything,
    references=st.lists(anything, max_size=3),
    match=st.sampled_from(["exact", "contains", "f1"]),
)
@settings(max_examples=300, deadline=None)
def test_any_text_scores_between_0_and_1(
    response: str, references: list[str], match: Match
) -> None:
    found = match_response(response, references, match=match)
    if found.score is None:
        assert not any(reference.strip() for reference in references)
        return
    assert 0 <= found.score <= 1
    assert found.values["f1"] == 1 or not found.values["em"]
    assert set(found.values) == {"em", "f1"}


@given(pattern=st.text("ab()[]{}*+?|\\.^$d1,", max_size=12), text=st.text("ab1", max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_pattern_decides_or_is_said(pattern: str, text: str) -> None:
    try:
        found = match_response(text, ("x",), match="exact", extract=pattern)
        match_response(text, (pattern,), match="regex")
    except InputError:
        return
    assert found.outcome in ("correct", "wrong", "unscored:pattern_timeout")


@given(st.text(max_size=40).filter(lambda text: not any(c.isdigit() for c in text)))
def test_without_numbers_it_is_squads_normal_form(text: str) -> None:
    """The four steps of the official script, one after another, where they leave anything."""
    bare = "".join(c for c in text.lower() if c not in set(string.punctuation))
    words = [word for word in bare.split() if word not in ("a", "an", "the")]
    if words and not any(not c.isalnum() and not c.isspace() for c in bare):
        assert normalise(text).split() == words


@pytest.mark.timeout(10)
@pytest.mark.parametrize("unit", ["1", "1,", "1,111", "-", "$", "a ", ".1", "1."])
def test_hostile_length_costs_little(unit: str) -> None:
    assert normalise(unit * 100_000) or unit in "-$"


def test_rouge_counts_the_words_it_will_compare() -> None:
    """Not those between white space: a response may have none."""
    found = match_response("inn." * 20_000, ("a room " * 2_000,), match="rougeL")
    assert found.outcome == "unscored:too_long_for_rouge"
