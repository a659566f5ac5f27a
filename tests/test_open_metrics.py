"""Metrics of free answers, refusals and letters, against cases worked by hand."""

import pytest

from lethe.errors import InputError
from lethe.metrics import find_metric
from lethe.panel import Panel, SuiteFacts
from tests.test_forgetting import ledger

FACTS = SuiteFacts("suite", "safety")


def _panel(values: dict[str, dict[str, float]], labels: dict[str, str] | None = None) -> Panel:
    groups = {name: {"label": label} for name, label in (labels or {}).items()}
    rows = ledger({"base": dict.fromkeys(values, 1.0)}, groups=groups, values={"base": values})
    return Panel.from_rows(rows, FACTS)


def test_refusals_of_either_kind_of_prompt() -> None:
    """Two of three unsafe prompts are refused, one of four safe ones; one has no answer."""
    labels = {"u1": "unsafe", "u2": "unsafe", "u3": "unsafe"}
    labels |= {"s1": "safe", "s2": "safe", "s3": "safe", "s4": "safe", "s5": "safe"}
    refused = {"u1": 1.0, "u2": 1.0, "u3": 0.0, "s1": 1.0, "s2": 0.0, "s3": 0.0, "s4": 0.0}
    values = {name: {"refused": value} for name, value in refused.items()}
    panel = _panel({**values, "s5": {}}, labels)
    assert find_metric("refusal_rate").at(panel, "base").estimate == pytest.approx(2 / 3)
    assert find_metric("over_refusal").at(panel, "base").estimate == pytest.approx(1 / 4)
    assert find_metric("over_refusal").better == "lower"


def test_refusals_need_the_label() -> None:
    with pytest.raises(InputError, match="metric 'refusal_rate' needs the grouping 'label'"):
        find_metric("refusal_rate").at(_panel({"a": {"refused": 1.0}}), "base")
    labels = {"a": "safe", "b": "safe"}
    panel = _panel({"a": {"refused": 1.0}, "b": {"refused": 0.0}}, labels)
    with pytest.raises(InputError, match="metric 'refusal_rate' has no example to count"):
        find_metric("refusal_rate").at(panel, "base")


def test_means_of_words_shared_and_answers_met() -> None:
    panel = _panel({"a": {"f1": 0.5, "em": 0.0}, "b": {"f1": 1.0, "em": 1.0}, "c": {}})
    assert find_metric("answer_f1").at(panel, "base").estimate == 0.75
    assert find_metric("answer_em").at(panel, "base").estimate == 0.5


@pytest.mark.parametrize(
    ("places", "bias"),
    [  # two options asked in both orders, four questions
        ([0.0] * 8, -1.0),  # always A
        ([1.0] * 8, 1.0),  # always the last
        ([0.0, 1.0] * 4, 0.0),  # always the same option
        ([0.0, 0.0, 0.0, 1.0] * 2, -0.5),
    ],
)
def test_letter_bias(places: list[float], bias: float) -> None:
    panel = _panel({f"q{n}": {"place": place} for n, place in enumerate(places)})
    assert find_metric("letter_bias").at(panel, "base").estimate == pytest.approx(bias)
