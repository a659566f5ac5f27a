"""Rules: one grammar for what a gate demands and for when a training stops.

    [group(]NAME[)] [change|retention|level] OP NUMBER

NAME is an axis, a suite, `group(SUITE)` or `group(SUITE.GROUPING)`, or a share of flips:
`kept(SUITE)`, `lost(SUITE)`, `gained(SUITE)`, `never(SUITE)`. A group rule speaks of the group that
lost the most: `>=` holds for it where it holds for all, `<` where it holds for any.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Literal, cast

from lethe.errors import InputError, nearest

Subject = Literal["mean", "group", "kept", "lost", "gained", "never"]
Quantity = Literal["change", "retention", "level"]
Comparator = Literal[">=", ">", "<=", "<"]

GRAMMAR = "[group(]NAME[)] [change|retention|level] OP NUMBER, as in 'safety >= -0.02'"
FLIPS = ("kept", "lost", "gained", "never")
QUANTITIES = ("change", "retention", "level")
RANGES: Mapping[str, tuple[float, float]] = {
    "change": (-1.0, 1.0),
    "retention": (0.0, float("inf")),
    "level": (0.0, 1.0),
}
_RULE = re.compile(r"(?P<left>.*?)\s*(?P<op>[<>=!]+)\s*(?P<number>[^\s<>=!]\S*)", re.DOTALL)
_CALL = re.compile(r"(?P<subject>\w+)\(\s*(?P<name>.*?)\s*\)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Rule:
    """A claim about one number.

    Attributes:
        text: what the user wrote, spaces tidied.
        subject: a mean score (of an axis or a suite), the worst group, or a share of flips.
        name: the axis, suite, or `SUITE.GROUPING`.
        quantity: change (after − before), retention (after / before), or level (after). A share of
            flips is a level.
        op, number: what it is held against, in units of score.
    """

    text: str
    subject: Subject
    name: str
    quantity: Quantity
    op: Comparator
    number: float

    @property
    def upward(self) -> bool:
        """Whether the claim is that the number is large: a lower bound can show it."""
        return self.op[0] == ">"

    def holds(self, value: float) -> bool:
        """Whether the claim is true of this value; never of NaN."""
        if self.op == ">=":
            return value >= self.number
        if self.op == ">":
            return value > self.number
        return value <= self.number if self.op == "<=" else value < self.number

    def shown(self, low: float, high: float) -> bool | None:
        """What bounds show: True, the claim; False, its opposite; None, neither."""
        if self.holds(low) and self.holds(high):
            return True
        known = not (isnan(low) or isnan(high))
        return False if known and not self.holds(low) and not self.holds(high) else None


@dataclass(frozen=True)
class Scope:
    """What rules can speak of.

    Attributes:
        suites: suite → its axis.
        groupings: suite → the names of its groupings.
    """

    suites: Mapping[str, str]
    groupings: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Target:
    """What a rule's name stands for: suites, and one grouping of one suite or all (None)."""

    suites: tuple[str, ...]
    grouping: str | None = None


def parse_rule(text: str, *, where: str = "--rule") -> Rule:
    """A rule from its text.

    Raises:
        InputError: it does not follow the grammar, or its number cannot be reached.
    """
    tidy = " ".join(text.replace("\N{MINUS SIGN}", "-").split())
    found = _RULE.fullmatch(tidy)
    if found is None or not found["left"]:
        raise _wrong(f"not a rule: '{tidy}'", where)
    if found["op"] not in (">=", ">", "<=", "<"):
        if set(found["op"]) <= {"=", "!"}:
            raise _wrong(f"'{found['op']}' in '{tidy}': no interval can show it", where)
        raise _wrong(f"no comparison '{found['op']}' in '{tidy}'", where)
    subject, name, word = _left(found["left"], tidy, where)
    if subject in FLIPS and word:
        raise _wrong(f"'{word}' in '{tidy}': {subject}(...) is a share already", where)
    quantity = "level" if subject in FLIPS else word or "change"
    return Rule(
        text=tidy,
        subject=cast("Subject", subject),
        name=name,
        quantity=cast("Quantity", quantity),
        op=cast("Comparator", found["op"]),
        number=_number(found["number"], quantity, tidy, where),
    )


def target_of(rule: Rule, scope: Scope, *, where: str = "--rule") -> Target:
    """What the rule's name stands for.

    Raises:
        InputError: nothing has this name (the nearest is given), or an axis and a suite both do.
    """
    members = tuple(suite for suite, axis in scope.suites.items() if axis == rule.name)
    if rule.subject == "mean":
        if rule.name in scope.suites:
            if members and members != (rule.name,):
                raise InputError(
                    f"'{rule.name}' is both an axis and a suite",
                    where=where,
                    todo="give the suite another name",
                )
            return Target((rule.name,))
        if members:
            return Target(members)
        known = {*scope.suites, *scope.suites.values()}
        raise _unknown("axis or suite", rule.name, known, where)
    if rule.name in scope.suites:
        return Target((rule.name,))
    if rule.subject != "group":
        raise _unknown("suite", rule.name, scope.suites, where)
    for suite, groupings in scope.groupings.items():
        for grouping in groupings:
            if rule.name == f"{suite}.{grouping}":
                return Target((suite,), grouping)
    dotted = {f"{suite}.{name}" for suite, names in scope.groupings.items() for name in names}
    raise _unknown("suite or grouping", rule.name, {*scope.suites, *dotted}, where)


def _left(left: str, tidy: str, where: str) -> tuple[str, str, str]:
    """Subject, name and quantity word ("" where none is written)."""
    head, _, word = left.rpartition(" ")
    if not head or word not in QUANTITIES:
        head, word = left, ""
    call = _CALL.fullmatch(head)
    if call is None:
        if head in QUANTITIES or "(" in head:
            raise _wrong(f"no name in '{tidy}'", where)
        return "mean", head, word
    if call["subject"] not in ("group", *FLIPS):
        todo = nearest(call["subject"], ("group", *FLIPS))
        raise InputError(f"no '{call['subject']}(...)' in '{tidy}'", where=where, todo=todo)
    if not call["name"]:
        raise _wrong(f"no name in '{tidy}'", where)
    return call["subject"], call["name"], word


def _number(text: str, quantity: str, tidy: str, where: str) -> float:
    if not _NUMBER.fullmatch(text) or not isfinite(float(text)):
        raise _wrong(f"'{text}' in '{tidy}' is not a number", where)
    value = float(text)
    low, high = RANGES[quantity]
    if not low <= value <= high:
        reach = f"from {low:g} to {high:g}" if isfinite(high) else f"at least {low:g}"
        raise InputError(
            f"{text} in '{tidy}': a {quantity} is {reach}",
            where=where,
            todo="scores are between 0 and 1: write 0.02 for 2 points",
        )
    return value


def _unknown(what: str, name: str, known: Mapping[str, str] | set[str], where: str) -> InputError:
    return InputError(f"no {what} '{name}'", where=where, todo=nearest(name, known))


def _wrong(what: str, where: str) -> InputError:
    return InputError(what, where=where, todo=f"write {GRAMMAR}")
