"""The gate: rules that a run passes only if their bounds do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite
from pathlib import Path
from typing import Any, Literal

from scipy.special import ndtri

from lethe.biased import detectable_drops
from lethe.errors import (
    EXIT_GATE_FAILED,
    EXIT_INCONCLUSIVE,
    IncompleteError,
    InputError,
    nearest,
)
from lethe.forgetting import above_chance
from lethe.panel import Pair, Panel, SuiteFacts
from lethe.plain import plain
from lethe.quantities import Part, parts_of
from lethe.rules import Quantity, Rule, Scope, Target, parse_rule, target_of
from lethe.run import Position, Run, ledger, load_run
from lethe.sequences import Spending
from lethe.stats import Interval
from lethe.store import Store
from lethe.studies.study_file import read_yaml

CONFIG = Path("lethe.yaml")
ERROR = 0.05
"""Of the one bound that a rule is decided by: non-inferiority at 95 %, one-sided."""
POWER = 0.8
"""With which the number of examples that is named would settle a rule."""
MOST = 10_000_000
"""More examples than this are nobody's suite."""

Outcome = Literal["passed", "failed", "inconclusive"]


@dataclass(frozen=True)
class Finding:
    """One number of a rule, its bounds, and what they show.

    Attributes:
        label: the group, `GROUPING: GROUP`; else empty.
        n: examples; estimate, low, high: in score; either bound is one-sided at 95 %, for all
            groups of the rule together.
        needed: where nothing is shown, examples like these that would show it with 80 % power
            if the truth is what was seen; None where no number would.
        never: why this suite can never decide it; empty where it can.
    """

    label: str
    outcome: Outcome
    n: int
    estimate: float
    low: float
    high: float
    needed: int | None = None
    never: str = ""


@dataclass(frozen=True)
class Verdict:
    """What one rule came to, on one pair of checkpoints."""

    rule: str
    before: str
    after: str
    outcome: Outcome
    findings: tuple[Finding, ...]
    quantity: Quantity
    upward: bool

    @property
    def deciding(self) -> Finding:
        """The finding that stands for the rule: of groups, the one that lost the most."""
        same = [found for found in self.findings if found.outcome == self.outcome]
        return min(same or self.findings, key=lambda found: found.estimate)


@dataclass(frozen=True)
class GateResult:
    """All rules on all pairs of a run."""

    run: str
    verdicts: tuple[Verdict, ...]
    limited: bool

    @property
    def outcome(self) -> Outcome:
        """Failed if any rule failed, else inconclusive if any was, else passed."""
        outcomes = {verdict.outcome for verdict in self.verdicts}
        for worst in ("failed", "inconclusive"):
            if worst in outcomes:
                return worst
        return "passed"

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 4 inconclusive."""
        codes = {"passed": 0, "failed": EXIT_GATE_FAILED, "inconclusive": EXIT_INCONCLUSIVE}
        return codes[self.outcome]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; a number that is undefined or infinite is None."""
        return {
            "run": self.run,
            "outcome": self.outcome,
            "limited": self.limited,
            "verdicts": [plain(verdict) for verdict in self.verdicts],
        }


def gate(
    run: str | Run,
    rules: Sequence[str | Rule],
    *,
    checkpoint: str | None = None,
    store: Store | None = None,
) -> GateResult:
    """Hold a run against rules.

    A rule passes only if its one-sided 95 % bound does, fails only if the bound on the other side
    shows its opposite, and is inconclusive otherwise. Bounds of groups hold together (Bonferroni);
    rules need no correction among themselves, since all of them must pass. Looks of a training
    (`ForgettingCallback`) have the bounds of their confidence sequence, since whoever stopped or
    chose among them had looked.

    Args:
        run: its name, path, or `last`.
        rules: texts (`lethe.rules`), or parsed.
        checkpoint: which checkpoint is held against the base; by default the last of every chain.

    Raises:
        InputError: no rule, a rule or name that cannot be read, a run that compares nothing.
        IncompleteError: the run was not measured to its end.
    """
    store = store or Store()
    found = load_run(run, store) if isinstance(run, str) else run
    parsed = [parse_rule(rule) if isinstance(rule, str) else rule for rule in rules]
    if not parsed:
        raise InputError("no rule given", where="--rule", todo=f"give one, or write {CONFIG}")
    scope = _scope(found)
    chosen = _pairs(found, checkpoint)
    needed = {suite for rule in parsed for suite in _suites_of(rule, scope)}
    wanted = [suite for suite in scope.suites if suite in needed]
    verdicts = []
    for places in chosen:
        panels = _panels(found, places, wanted, store)
        groupings = {name: tuple(panel.groupings) for name, panel in panels.items()}
        known = replace(scope, groupings=groupings)
        for rule in parsed:
            target = target_of(rule, known)
            used = [panels[suite] for suite in target.suites]
            verdicts.append(_verdict(rule, target, used, places, _looks(found)))
    return GateResult(found.name, tuple(verdicts), limited=_limited(found))


def read_rules(path: Path) -> list[Rule]:
    """The rules of a `lethe.yaml`: a list under `gate: rules:`.

    Raises:
        InputError: no such file, an unknown key, or a rule that cannot be read, with its line.
    """
    if not path.is_file():
        raise InputError("no such file", where=str(path), todo="give --rule, or write it")
    content, where = read_yaml(path)
    _known_keys(content, ("gate",), (), where)
    section = content.get("gate")
    if not isinstance(section, Mapping):
        raise InputError("no mapping 'gate'", where=str(path), todo="write gate: rules: [...]")
    _known_keys(section, ("rules",), ("gate",), where)
    rules = section.get("rules")
    at = where.get(("gate", "rules"), str(path))
    if not isinstance(rules, list) or not rules:
        raise InputError("no list of rules", where=at, todo='write - "safety >= -0.02"')
    found = []
    for number, rule in enumerate(rules):
        line = where.get(("gate", "rules", str(number)), at)
        if not isinstance(rule, str):
            raise InputError(f"not a rule: {rule!r}", where=line, todo="put it into quotes")
        found.append(parse_rule(rule, where=line))
    return found


def _known_keys(
    content: Mapping[str, Any],
    known: Sequence[str],
    path: tuple[str, ...],
    where: Mapping[tuple[str, ...], str],
) -> None:
    for key in content:
        if key not in known:
            at = where.get((*path, str(key)), where[()])
            raise InputError(f"unknown key '{key}'", where=at, todo=nearest(str(key), known))


# ---- which checkpoints, which rows -------------------------------------------------------------


def _scope(run: Run) -> Scope:
    if not run.suites or not run.positions:
        raise InputError("this run has no scores yet", where=f"run {run.name}")
    return Scope({str(facts["name"]): str(facts["axis"]) for facts in run.suites}, {})


def _suites_of(rule: Rule, scope: Scope) -> tuple[str, ...]:
    """Suites whose rows must be read before the rule's name can be looked up."""
    if rule.subject != "group":
        return target_of(rule, scope).suites
    close = [s for s in scope.suites if rule.name == s or rule.name.startswith(f"{s}.")]
    return tuple(close or scope.suites)


def _pairs(run: Run, checkpoint: str | None) -> list[tuple[Position, ...]]:
    """Chains from their base up to the checkpoint that is judged."""
    chains: dict[tuple[Any, ...], list[Position]] = {}
    for place in sorted(run.positions, key=lambda place: place.position):
        # An audit's two models may have been tuned with any two seeds.
        own = (place.chain, place.world, place.seed) if run.command == "run" else ()
        chains.setdefault(own, []).append(place)
    found = [tuple(chain) for chain in chains.values() if len(chain) > 1]
    if not found:
        raise InputError(
            "only one checkpoint was measured, so there is nothing to compare",
            where=f"run {run.name}",
            todo="gate the run of an audit, a study or a training",
        )
    if checkpoint is None:
        return found
    for chain in found:
        for number, place in enumerate(chain[1:], 2):
            if place.name == checkpoint:
                return [chain[:number]]
    names = [place.name for chain in found for place in chain[1:]]
    raise InputError(
        f"no checkpoint '{checkpoint}' after a base",
        where=f"run {run.name}",
        todo=nearest(checkpoint, names),
    )


def _looks(run: Run) -> int:
    """Looks that were foreseen, in a run of a training; else 0."""
    return max(int(run.settings.get("looks", 1)), 1) if run.command == "train" else 0


def _panels(
    run: Run, chain: Sequence[Position], suites: Sequence[str], store: Store
) -> dict[str, Panel]:
    """One aligned table for each suite."""
    places = tuple(chain) if run.command == "train" else (chain[0], chain[-1])
    part = replace(run, positions=places, scores={s: run.scores.get(s, {}) for s in suites})
    if missing := part.missing():
        raise IncompleteError(
            f"'{missing[0][0]}' on '{missing[0][1]}' was not measured to its end",
            where=f"run {run.name}",
            todo="give the command of that run again: it goes on",
        )
    rows = ledger(part, store, suites)
    facts = {str(entry["name"]): entry for entry in run.suites}
    return {
        suite: Panel.from_rows(
            rows, SuiteFacts(**{**facts[suite], "metrics": tuple(facts[suite]["metrics"])})
        )
        for suite in suites
    }


def _limited(run: Run) -> bool:
    """Whether only a part of each suite was asked."""
    settings = run.settings.get("study", run.settings)
    return bool(settings.get("limit"))


# ---- a verdict ---------------------------------------------------------------------------------


def _verdict(
    rule: Rule, target: Target, panels: Sequence[Panel], chain: Sequence[Position], looks: int
) -> Verdict:
    names = (chain[0].name, chain[-1].name)
    pairs = [panel.pair(*names) for panel in panels]
    parts = parts_of(rule, target, pairs)
    never = _never(rule, pairs)
    lacking = _undecidable(panels[0], names[0]) if rule.subject == "group" else {}
    errors = _look_errors(rule, target, panels, chain, looks) if looks else {}
    findings = []
    for part in parts:
        error = errors.get(part.label, ERROR / len(parts))
        findings.append(_finding(rule, part, error, never, lacking.get(part.label, "")))
    shown = [found.outcome for found in findings]
    # Of the group that lost the most: a large one needs all, a small one needs any.
    first: Outcome = "failed" if rule.upward else "passed"
    other: Outcome = "passed" if rule.upward else "failed"
    outcome: Outcome = "inconclusive"
    if first in shown:
        outcome = first
    elif set(shown) == {other}:
        outcome = other
    return Verdict(rule.text, *names, outcome, tuple(findings), rule.quantity, rule.upward)


def _finding(rule: Rule, part: Part, error: float, never: str, lacking: str) -> Finding:
    found = part.interval(1 - 2 * error)
    shown = rule.shown(found.low, found.high)
    gained = rule.quantity == "change" and found.low > 0
    if shown and rule.upward and never and not gained:
        shown = None  # nothing was lost where there was nothing to lose
    never = never or lacking
    if shown is not None:
        outcome: Outcome = "passed" if shown else "failed"
        return Finding(part.label, outcome, part.n, found.estimate, found.low, found.high)
    needed = None if never else _needed(rule, found, error)
    estimate, low, high = found.estimate, found.low, found.high
    return Finding(part.label, "inconclusive", part.n, estimate, low, high, needed, never)


def _needed(rule: Rule, found: Interval, error: float) -> int | None:
    """Examples like these that would settle it, if the truth is the estimate.

    The bound's distance shrinks as 1/√n; to be found with some power, the estimate must lie so
    many more standard errors from the limit.
    """
    above = found.estimate > rule.number
    reach = found.estimate - found.low if above else found.high - found.estimate
    distance = abs(found.estimate - rule.number)
    if not (isfinite(reach) and distance > 0):
        return None
    quantile = float(-ndtri(error))
    stretch = (quantile + float(ndtri(POWER))) / quantile
    count = found.n * (reach / distance * stretch) ** 2
    return max(ceil(count), found.n + 1) if count < MOST else None


def _never(rule: Rule, pairs: Sequence[Pair]) -> str:
    """Why no number of these examples shows that nothing was lost."""
    if rule.subject not in ("mean", "group") or rule.quantity == "level":
        return ""
    if any(above_chance(pair, pair.before) for pair in pairs):
        return ""
    return "the base is at chance: it has nothing to lose here"


def _undecidable(panel: Panel, base: str) -> dict[str, str]:
    """Groups that have less to lose than so many examples could show."""
    return {
        f"{group.grouping}: {group.group}": (
            f"losing all it has above chance ({group.to_lose:.3f}) would not be seen "
            f"in {group.n} examples"
        )
        for group in detectable_drops(panel, base)
        if not group.decidable
    }


def _look_errors(
    rule: Rule, target: Target, panels: Sequence[Panel], chain: Sequence[Position], looks: int
) -> dict[str, float]:
    """What the bound of each part may err at the last look, after those before it."""
    found: dict[str, Spending] = {}
    errors: dict[str, float] = {}
    for place in chain[1:]:
        pairs = [panel.pair(chain[0].name, place.name) for panel in panels]
        parts = parts_of(rule, target, pairs)
        for part in parts:
            spending = found.setdefault(part.label, Spending(looks, ERROR / len(parts)))
            errors[part.label] = spending.next(part.influence())
    return errors
