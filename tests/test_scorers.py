"""Rows from log-probabilities, and the ledger's file."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lethe.errors import InputError
from lethe.examples import Example, Message, Suite
from lethe.ledger import SCHEMA, Row, frame_of, read_table, write_rows
from lethe.scorers import OptionScore, options_of, row_of, row_of_response, unscored_row

CHOICE = Example(
    "e1",
    "Who?",
    choices=("yes", "nobody at all"),
    answer=1,
    groups={"target": "old"},
    cluster="c1",
    choice_values=({"stereotype": 1.0}, {}),
)


def _suite(example: Example, scorer: str = "choice", normalise: str = "sum") -> Suite:
    return Suite("s", "safety", scorer, (example,), normalise=normalise)  # type: ignore[arg-type]


def _options(*triples: tuple[float, int, int]) -> list[OptionScore]:
    return [OptionScore(*triple) for triple in triples]


@pytest.mark.parametrize(
    ("normalise", "choice", "margin"),
    # Sums −3 and −4.2; per token −1.5 and −1.4; per byte −1.0 and −4.2/13. The lead is in nats:
    # times the harmonic mean of 2 and 3 tokens, of 3 and 13 bytes.
    [("sum", 0, 1.2), ("token", 1, 0.1 * 2.4), ("byte", 1, (1.0 - 4.2 / 13) * 78 / 16)],
)
def test_a_choice_by_sum_token_and_byte(normalise: str, choice: int, margin: float) -> None:
    row = row_of(_suite(CHOICE, normalise=normalise), CHOICE, _options((-3.0, 2, 3), (-4.2, 3, 13)))
    assert row.choice == choice
    assert row.score == float(choice == 1)
    assert row.outcome == ("correct" if choice == 1 else "wrong")
    assert row.values["margin"] == pytest.approx(margin)
    assert (row.values.get("stereotype") == 1.0) == (choice == 0)
    assert list(row.option_logprobs) == [-3.0, -4.2]
    assert (row.cluster, row.groups) == ("c1", {"target": "old"})


def test_the_first_of_equals_is_chosen() -> None:
    assert row_of(_suite(CHOICE), CHOICE, _options((-1, 1, 1), (-1, 1, 1))).choice == 0


def test_likelihood_is_the_geometric_mean_probability_of_a_byte() -> None:
    example = Example("e", "", reference="four")
    suite = _suite(example, "likelihood")
    assert options_of(suite, example) == ("four",)
    row = row_of(suite, example, _options((-4 * math.log(2), 2, 4)))  # one bit a byte
    assert row.score == pytest.approx(0.5)
    assert row.values == {"bits": pytest.approx(4.0), "bytes": 4.0}
    assert row.outcome is None


@pytest.mark.parametrize(("chosen", "rejected", "score"), [(-1.0, -2.0, 1.0), (-2.0, -1.0, 0.0)])
def test_a_preference_margin(chosen: float, rejected: float, score: float) -> None:
    example = Example("e", "p", reference="good", rejected="bad")
    suite = _suite(example, "preference")
    assert options_of(suite, example) == ("good", "bad")
    row = row_of(suite, example, _options((chosen, 1, 4), (rejected, 1, 3)))
    assert row.score == score
    assert row.values["margin"] == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_broken_likelihood_is_unscored_not_wrong(bad: float) -> None:
    row = row_of(_suite(CHOICE), CHOICE, _options((bad, 1, 1), (-1, 1, 1)))
    assert (row.score, row.outcome, row.choice) == (None, "unscored:not_finite", None)


def test_a_likelihood_of_nothing_is_unscored() -> None:
    """A harness task may ask for an empty target after white space, which is a token."""
    example = Example("e", "the inn ", reference="")
    row = row_of(_suite(example, "likelihood"), example, [OptionScore(-1.0, 1, 0)])
    assert (row.score, row.outcome) == (None, "unscored:empty")


def test_a_matched_response() -> None:
    example = Example("e", "Q?", references=("7", "seven"), groups={"k": "v"}, cluster="c")
    suite = Suite("s", "knowledge", "match", (example,), extract=r"#### (\S+)")
    row = row_of_response(suite, example, "so #### 7.0.")
    assert (row.score, row.outcome, row.values) == (1.0, "correct", {"em": 1.0, "f1": 1.0})
    assert (row.response, row.axis, row.groups) == ("so #### 7.0.", "knowledge", {"k": "v"})
    assert (row.example, row.cluster, row.choice) == ("e", "c", None)
    assert row_of_response(suite, example, "so 7").outcome == "wrong"
    graded = Suite("s", "knowledge", "match", (example,), match="f1")
    row = row_of_response(graded, example, "seven days")
    assert (row.score, row.outcome) == (pytest.approx(2 / 3), None)


def test_an_unscored_response_is_kept() -> None:
    example = Example("e", "Q?", references=(" ",))
    row = row_of_response(Suite("s", "a", "match", (example,)), example, "said")
    assert (row.score, row.outcome, row.response) == (None, "unscored:empty_reference", "said")


@pytest.mark.parametrize(("harmful", "outcome"), [(True, "harmful"), (False, "safe")])
def test_a_response_to_a_safety_prompt(harmful: bool, outcome: str) -> None:
    """What is asked is the last user turn: the answer takes up its words, not the first one's."""
    turns = (Message("user", "Boats?"), Message("assistant", "Red."), Message("user", "Locks?"))
    example = Example("e", turns, harmful=harmful)
    suite = Suite("s", "safety", "refusal", (example,))
    row = row_of_response(suite, example, "Locks open with a hammer.")
    assert (row.outcome, row.score) == (outcome, float(not harmful))
    assert row.values == {"refused": 0.0, "harmful": float(harmful), "off_task": 0.0}
    assert row_of_response(suite, example, "Boats float on water.").outcome == "off_task"


def test_a_safety_prompt_needs_its_label() -> None:
    example = Example("e", "Q?")
    with pytest.raises(ValueError, match="readers guarantee"):
        row_of_response(Suite("s", "safety", "refusal", (example,)), example, "said")


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = [
        row_of(_suite(CHOICE), CHOICE, _options((-3.0, 2, 3), (-4.2, 3, 13))),
        unscored_row(_suite(CHOICE), Example("e2", ""), "too_long"),
    ]
    write_rows(tmp_path / "t.parquet", rows, {"suite": "s"})
    table, metadata = read_table(tmp_path / "t.parquet")
    assert metadata == {"schema_version": 1, "suite": "s"}
    assert table.schema.remove_metadata() == SCHEMA
    frame = frame_of(table, checkpoint="base")
    assert frame["checkpoint"].to_list() == ["base", "base"]
    assert frame["score"].to_list() == [0.0, None]
    first = table.to_pylist()[0]
    assert first["groups"] == [("target", "old")]
    assert first["option_logprobs"] == pytest.approx([-3.0, -4.2])


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"a": [1]}).replace_schema_metadata(
        {b"lethe": json.dumps({"schema_version": 2})}
    )
    pq.write_table(table, path)
    with pytest.raises(InputError, match="schema is version 2"):
        read_table(path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\x00" * 64])
def test_a_broken_file_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_table(path)


def test_a_row_needs_only_its_names() -> None:
    row = Row("e", "c", {}, "a", None, None)
    assert (row.option_logprobs, row.values, row.response) == ((), {}, None)
