"""The grammar of rules: what is read, what is refused, and what bounds show."""

from math import nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.errors import InputError
from lethe.rules import Rule, Scope, parse_rule, target_of

SCOPE = Scope(
    {"toxigen": "safety", "bbq": "safety", "a.b": "knowledge", "lm_eval:arc_easy": "knowledge"},
    {"toxigen": ("target", "label"), "bbq": ("category",), "a.b": ("c.d",), "lm_eval:arc_easy": ()},
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("safety >= -0.02", ("mean", "safety", "change", ">=", -0.02)),
        ("safety>=-.02", ("mean", "safety", "change", ">=", -0.02)),
        ("safety < −0.05", ("mean", "safety", "change", "<", -0.05)),
        ("group(toxigen) >= -0.05", ("group", "toxigen", "change", ">=", -0.05)),
        ("group( toxigen.target ) level > 5e-1", ("group", "toxigen.target", "level", ">", 0.5)),
        ("knowledge retention >= 0.97", ("mean", "knowledge", "retention", ">=", 0.97)),
        ("lost(bbq) <= 0.1", ("lost", "bbq", "level", "<=", 0.1)),
        ("my own file change >= 0", ("mean", "my own file", "change", ">=", 0.0)),
        ("lm_eval:arc_easy level >= 0.3", ("mean", "lm_eval:arc_easy", "level", ">=", 0.3)),
    ],
)
def test_rules_are_read(text: str, found: tuple[str, str, str, str, float]) -> None:
    rule = parse_rule(text)
    assert (rule.subject, rule.name, rule.quantity, rule.op, rule.number) == found


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not a rule"),
        ("safety", "not a rule"),
        (">= 0.1", "not a rule"),
        ("safety >= ", "not a rule"),
        ("safety == 0", "no interval can show it"),
        ("safety => 0", "no comparison '=>'"),
        ("safety >= 2 %", "not a rule|not a number"),
        ("safety >= nan", "not a number"),
        ("safety >= 1e999", "not a number"),
        ("safety >= -2", "a change is from -1 to 1"),
        ("safety level >= -0.1", "a level is from 0 to 1"),
        ("safety retention >= -1", "a retention is at least 0"),
        ("groups(toxigen) >= 0", "no 'groups"),
        ("group() >= 0", "no name"),
        ("change >= 0", "no name"),
        ("lost(bbq) change <= 0.1", "is a share already"),
        ("group(toxigen >= 0", "no name"),
    ],
)
def test_what_is_no_rule_is_refused_in_one_line(text: str, what: str) -> None:
    with pytest.raises(InputError, match=what) as error:
        parse_rule(text, where="lethe.yaml:3")
    assert str(error.value).startswith("lethe.yaml:3: ")
    assert "\n" not in str(error.value)


def test_names_stand_for_axes_suites_and_groupings() -> None:
    assert target_of(parse_rule("safety >= 0"), SCOPE).suites == ("toxigen", "bbq")
    assert target_of(parse_rule("bbq >= 0"), SCOPE).suites == ("bbq",)
    assert target_of(parse_rule("group(a.b) >= 0"), SCOPE).grouping is None
    found = target_of(parse_rule("group(a.b.c.d) >= 0"), SCOPE)
    assert (found.suites, found.grouping) == (("a.b",), "c.d")


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("saftey >= 0", "did you mean 'safety'"),
        ("toxigne >= 0", "did you mean 'toxigen'"),
        ("group(toxigen.targt) >= 0", "did you mean 'toxigen.target'"),
        ("lost(safety) <= 0.1", "no suite 'safety'"),
        ("group(safety) >= 0", "no suite or grouping 'safety'"),
    ],
)
def test_an_unknown_name_is_answered_by_the_nearest(text: str, near: str) -> None:
    with pytest.raises(InputError) as error:
        target_of(parse_rule(text), SCOPE)
    assert near in str(error.value)


def test_a_name_of_both_an_axis_and_a_suite_is_refused_unless_they_are_one() -> None:
    both = Scope({"safety": "safety", "bbq": "safety"}, {})
    with pytest.raises(InputError, match="both an axis and a suite"):
        target_of(parse_rule("safety >= 0"), both)
    one = Scope({"safety": "safety"}, {})
    assert target_of(parse_rule("safety >= 0"), one).suites == ("safety",)


@given(st.text(max_size=40))
@settings(max_examples=50, deadline=None)
def test_any_text_is_a_rule_or_one_clear_line(text: str) -> None:
    try:
        rule = parse_rule(text)
    except InputError as error:
        line = str(error)
    else:
        line = ""
        assert parse_rule(rule.text) == rule
    assert "\n" not in line


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([">=", ">", "<=", "<"]), st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1)
)
def test_bounds_show_a_claim_only_if_all_between_them_keeps_it(
    op: str, number: float, one: float, other: float
) -> None:
    rule = Rule("", "mean", "x", "change", op, number)  # type: ignore[arg-type]
    low, high = min(one, other), max(one, other)
    inside = [rule.holds(value) for value in (low, (low + high) / 2, high)]
    shown = rule.shown(low, high)
    assert (shown is True) == all(inside)
    assert (shown is False) == (not any(inside))
    assert rule.shown(nan, high) is not True
    assert rule.shown(low, nan) is None or rule.shown(low, nan) is not True
