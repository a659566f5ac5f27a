"""What a gate shows: lines on the terminal, JUnit XML, Markdown for a pull request."""

import html
import re
import unicodedata
from xml.etree import ElementTree

from rich.console import Console
from rich.text import Text

from lethe.gate import Finding, GateResult, Verdict
from lethe.tables import number

MARKS = {"passed": ("✓", "green"), "failed": ("✗", "red"), "inconclusive": ("?", "yellow")}
MOST_GROUPS = 20
"""Groups of one rule that are written out; the rest are counted."""


def print_gate(result: GateResult) -> None:
    """Every rule with its outcome and what decides it, then the outcome of all."""
    console = Console(highlight=False)
    several = len({(one.before, one.after) for one in result.verdicts}) > 1
    for verdict in result.verdicts:
        mark, colour = MARKS[verdict.outcome]
        head = Text.assemble((f"{mark} {verdict.outcome:<12} ", colour), (verdict.rule, "bold"))
        console.print(head, soft_wrap=False)
        if several:
            console.print(f"    {verdict.before} → {verdict.after}", markup=False)
        for line in explained(verdict, limited=result.limited):
            console.print(f"    {line}", markup=False)
    console.print(Text(summary(result), style="bold"))


def summary(result: GateResult) -> str:
    """The gate in one line: `failed: 1 of 3 rules failed, 1 inconclusive`."""
    outcomes = [verdict.outcome for verdict in result.verdicts]
    total = len(outcomes)
    if result.outcome == "passed":
        return f"passed: {_count(total, 'rule')}"
    failed, unsure = outcomes.count("failed"), outcomes.count("inconclusive")
    if not failed:
        return f"inconclusive: {unsure} of {_count(total, 'rule')}"
    also = f", {unsure} inconclusive" if unsure else ""
    return f"failed: {failed} of {_count(total, 'rule')}{also}"


def explained(verdict: Verdict, *, limited: bool) -> list[str]:
    """What decides a rule, in one line or one for each group that does."""
    same = [found for found in verdict.findings if found.outcome == verdict.outcome]
    many = len(verdict.findings) > 1
    if many and verdict.outcome == "passed" and verdict.upward:
        same = [verdict.deciding]
    same = sorted(same or [verdict.deciding], key=lambda found: found.estimate)
    lines = [_line(found, verdict, limited=limited) for found in same[:MOST_GROUPS]]
    if len(same) > MOST_GROUPS:
        lines.append(f"and {len(same) - MOST_GROUPS} more groups {verdict.outcome}")
    if many:
        others = len(verdict.findings) - len(same)
        if others and verdict.outcome == "passed" and verdict.upward:
            lines.append(f"it lost the most of {len(verdict.findings)} groups; all passed")
        elif others:
            lines.append(f"{others} of {len(verdict.findings)} groups otherwise")
    return lines


def _line(found: Finding, verdict: Verdict, *, limited: bool) -> str:
    """`women: −0.031, bounds −0.052 … −0.010, n 240`, and what would settle it."""
    head = f"{plain(found.label)}: " if found.label else ""
    numbers = (found.estimate, found.low, found.high)
    value, low, high = (number(one, sign=verdict.quantity == "change") for one in numbers)
    line = f"{head}{value}, bounds {low} … {high}, n {found.n}"
    if found.outcome != "inconclusive":
        return line
    return f"{line}; {settled(found, limited=limited)}"


def settled(found: Finding, *, limited: bool) -> str:
    """What would settle an inconclusive finding, or that nothing will."""
    if found.never:
        return f"never with this suite: {found.never}"
    if found.needed is None:
        return "on the limit: no number of examples would settle it"
    if limited:
        return f"about {found.needed:,} examples like these would settle it: raise --limit"
    return (
        f"about {found.needed:,} examples like these would settle it; "
        "all of this suite were asked, so it never can"
    )


def junit(result: GateResult) -> str:
    """JUnit XML: a test case for each rule; an inconclusive one is an error, not a skip."""
    cases = result.verdicts
    counts = [verdict.outcome for verdict in cases]
    suite = ElementTree.Element(
        "testsuite",
        name=plain(f"lethe gate {result.run}"),
        tests=str(len(cases)),
        failures=str(counts.count("failed")),
        errors=str(counts.count("inconclusive")),
        skipped="0",
    )
    for verdict in cases:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            name=plain(verdict.rule),
            classname=plain(f"{verdict.before} → {verdict.after}"),
        )
        lines = explained(verdict, limited=result.limited)
        if verdict.outcome != "passed":
            tag = "failure" if verdict.outcome == "failed" else "error"
            entry = ElementTree.SubElement(case, tag, type=verdict.outcome, message=plain(lines[0]))
            entry.text = plain("\n".join(lines))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(
        root, encoding="unicode"
    )


def markdown(result: GateResult) -> str:
    """A table of the rules, as GitHub shows it on the page of a job or a pull request."""
    lines = [
        f"### Lethe gate: {_cell(summary(result))}",
        "",
        "| | rule | after | change or level, with bounds |",
        "|---|---|---|---|",
    ]
    for verdict in result.verdicts:
        mark = {"passed": "✅", "failed": "❌", "inconclusive": "❔"}[verdict.outcome]
        told = "<br>".join(map(_cell, explained(verdict, limited=result.limited)))
        cells = (f"{mark} {verdict.outcome}", _cell(verdict.rule), _cell(verdict.after), told)
        lines.append(f"| {' | '.join(cells)} |")
    note = "Either bound is one-sided at 95 %, for all groups of a rule together."
    lines += ["", f"Run {_cell(result.run)}. {note}"]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Text without control or direction characters: names come from other people's data."""
    unseen = (unicodedata.category(char)[0] == "C" and char != "\n" for char in text)
    pairs = zip(text, unseen, strict=True)
    return "".join("\N{REPLACEMENT CHARACTER}" if hidden else char for char, hidden in pairs)


def _cell(text: str) -> str:
    """Text that is nothing but text in a Markdown table, on one line."""
    one = " ".join(plain(text).split())
    escaped = html.escape(one, quote=False)
    return re.sub(r"[\\`*_\[\]#|~@]", lambda m: f"&#{ord(m[0])};", escaped)


def _count(number_of: int, noun: str) -> str:
    return f"{number_of} {noun}{'s' * (number_of != 1)}"
