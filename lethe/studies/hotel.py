"""Methods of tuning compared: what each gained on the task, and what it cost elsewhere.

Every chain of the study is one stage on the same base, so a chain is a method. Pure functions of a
run's ledger and of the records beside its checkpoints; nothing is measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from lethe.chains import Chains, Effect, Link, Unit, joint_effect, mean_weights
from lethe.errors import InputError
from lethe.hotel_shares import MARGIN, Dispersion, Share, dispersion_at, matched_share, tau_of
from lethe.notes import SAFETY_OUTCOMES
from lethe.panel import SuiteFacts
from lethe.plain import plain
from lethe.run import Run, ledger
from lethe.store import Store
from lethe.studies.keeping import dropped_manifest
from lethe.tuning.saving import read_record

BASE = "base"
TASK_AXIS = "proficiency"
SERVED = "safely:"
"""Suites asked with a safety prompt before them: rows of their own beside each method's."""
WITH_PROMPT = " · safety prompt"
PLAIN = "full"
PEOPLES = ("people", "target")
"""Groupings that name groups of people; the first that a safety suite has is taken."""
REASONING = ("islet:strings", "commonsense_qa", "gsm8k")
"""Suites that here speak for an axis of their own: steps to be made, not facts to be known."""
_ROUNDING = 1e-9  # of differences of scores: what falls short by the margin itself is matched
_ENTRIES = pl.List(pl.Struct({"key": pl.String, "value": pl.Float32}))
_COLUMNS = (
    "suite",
    "chain",
    "position",
    "world",
    "seed",
    "checkpoint",
    "example",
    "cluster",
    "groups",
    "score",
    "outcome",
    "choice",
    "option_logprobs",
    "values",
)


@dataclass(frozen=True)
class Cost:
    """What a training took, means over the trainings.

    Attributes:
        seconds: of training, readings apart.
        memory: bytes beside the weights: gradients and two moments of what moves, and the factors
            of a projection.
        tokens: trained on, padding apart.
        divergence: KL(parent‖tuned) on held-out rows of the task, nats per token.
    """

    seconds: float
    memory: float
    tokens: float
    divergence: float


@dataclass(frozen=True)
class MethodResult:
    """One method, served in one way, over all worlds and seeds.

    Attributes:
        method: the slots in words, as the ledger names them; None of the base itself.
        before, after: axis → mean over its suites of their mean scores.
        changes: axis → after − before.
        suites: suite → (before, after).
        outcomes: outcome → shares of the answers to judged prompts (before, after), mean over
            suites; `incoherent` is the share that is no sentence at all, where that is known.
        reached: in how many of `units` trainings the proficiency is at most the margin below
            plain tuning's; with the others a method is censored.
        shares: axis → the share of plain tuning's loss that it closes.
        dispersion: how far groups of people lie apart in what they lost; None without such groups.
    """

    name: str
    method: str | None
    units: int
    reached: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    changes: Mapping[str, Effect]
    suites: Mapping[str, tuple[float, float]]
    outcomes: Mapping[str, tuple[float, float]]
    shares: Mapping[str, Share]
    dispersion: Dispersion | None
    cost: Cost | None

    @property
    def served(self) -> bool:
        """Whether the safety prompt stood before what it was asked."""
        return self.name.endswith(WITH_PROMPT)


@dataclass(frozen=True)
class Hotel:
    """A study of methods.

    Attributes:
        plain: the method that the others are held against.
        margin: what proficiency may fall short of plain tuning's and still count as matched.
        axes: in the order of the suites.
        methods: as the study names them, each without and with the safety prompt.
        rates: method → world → the learning rate that was chosen.
        worlds, seeds: how many.
    """

    plain: str
    margin: float
    axes: tuple[str, ...]
    methods: tuple[MethodResult, ...]
    rates: Mapping[str, Mapping[str, float | None]]
    worlds: int
    seeds: int

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        found: dict[str, Any] = plain(_listed(self))
        return found


def read_hotel(
    run: Run, store: Store, *, plain_chain: str = PLAIN, margin: float = MARGIN
) -> Hotel | None:
    """What a run shows of methods; None where it is no comparison of one stage with others.

    Args:
        plain_chain: the chain that the others are held against; else the first.
        margin: in points of the score, 0 … 1.
    """
    links: dict[str, Any] = run.settings.get("links", {})
    if len(links) < 2 or any(len(chain) != 1 for chain in links.values()):
        return None
    facts = [_facts(one) for one in run.suites]
    if TASK_AXIS not in {one.axis for one in facts}:
        return None
    try:
        rows = _rows(run, store)
    except InputError:
        return None  # nothing was measured yet
    names = [place.chain for place in run.positions if place.position]
    plain_name = plain_chain if plain_chain in names else names[0]
    costs = {
        name: _cost([place.checkpoint for place in run.positions if _is(place, name)], store)
        for name in dict.fromkeys(names)
    }
    methods = {place.chain: place.method for place in run.positions if place.position}
    comparison = _Comparison(
        Chains.from_rows(rows, _links(links), [one for one in facts if not _served(one.name)]),
        rows,
        plain_name,
        margin,
        methods,
        costs,
    )
    rates: dict[str, dict[str, float | None]] = {}
    for choice in run.settings.get("choices", []):
        rates.setdefault(choice["arm"], {})[choice["world"] or ""] = choice["rate"]
    return Hotel(
        plain=plain_name,
        margin=margin,
        axes=tuple(dict.fromkeys(one.axis for one in facts if not _served(one.name))),
        methods=tuple(comparison.results()),
        rates=rates,
        worlds=len({place.world for place in run.positions}),
        seeds=len({place.seed for place in run.positions}),
    )


@dataclass(frozen=True)
class _Comparison:
    """Rows of all methods, aligned."""

    chains: Chains
    rows: pl.DataFrame
    plain: str
    margin: float
    methods: Mapping[str, str | None]
    costs: Mapping[str, Cost | None]

    def results(self) -> list[MethodResult]:
        order = dict.fromkeys(name.removesuffix(WITH_PROMPT) for name, _ in self.chains.places)
        listed = [BASE, *(name for name in self.methods if name in order)]
        names = [made for name in listed for made in (name, name + WITH_PROMPT)]
        present = {name for name, position in self.chains.places if position == 1}
        return [self._result(name) for name in names if name in present]

    def _suites(self, name: str) -> dict[str, list[str]]:
        """Axis → the suites that every training of a method was measured on."""
        found: dict[str, list[str]] = {}
        for suite, panel in self.chains.panels.items():
            if self.chains.units(suite, (BASE, 0), (name, 1)):
                found.setdefault(panel.facts.axis, []).append(suite)
        return found

    def _units(self, suites: Sequence[str], name: str) -> list[Unit]:
        units = [self.chains.units(suite, (BASE, 0), (name, 1)) for suite in suites]
        return [unit for unit in units[0] if all(unit in other for other in units[1:])]

    def effects(self, name: str) -> dict[str, Effect]:
        """Axis → change of a method, the unweighted mean over its suites."""
        return self._effects.get(name, {})  # the base has none without the prompt

    @cached_property
    def _effects(self) -> dict[str, dict[str, Effect]]:
        return {
            name: {
                axis: joint_effect(
                    self.chains,
                    self._units(suites, name),
                    {suite: [(-1 / len(suites), (BASE, 0), (name, 1))] for suite in suites},
                    corrected=False,
                )
                for axis, suites in self._suites(name).items()
                if self._units(suites, name)
            }
            for name, position in self.chains.places
            if position == 1
        }

    def _losses(self, name: str, axis: str) -> dict[Unit, float]:
        """Axis score before − after of every training."""
        found = self.effects(name).get(axis)
        return {} if found is None else {unit: -value for unit, value in found.values.items()}

    def _short(self, name: str) -> dict[Unit, bool]:
        """Trainings whose proficiency is further below plain tuning's than the margin."""
        task = self._losses(name, TASK_AXIS)
        held = self._losses(self.plain, TASK_AXIS)
        most = self.margin + _ROUNDING
        return {unit: task[unit] - held[unit] > most for unit in task if unit in held}

    def _result(self, name: str) -> MethodResult:
        bare = name.removesuffix(WITH_PROMPT)
        scores = self._scores(name)
        effects = self.effects(name)
        # Where the task was not asked with the prompt, it is what the method does without it.
        short = self._short(name) or self._short(bare)
        axes = {
            axis: [scores[suite] for suite in held] for axis, held in self._suites(name).items()
        }
        return MethodResult(
            name=name,
            method=self.methods.get(bare),
            units=len(next(iter(effects.values())).values),
            reached=sum(not missed for missed in short.values()),
            before={axis: float(np.mean([b for b, _ in held])) for axis, held in axes.items()},
            after={axis: float(np.mean([a for _, a in held])) for axis, held in axes.items()},
            changes=effects,
            suites=scores,
            outcomes=self._outcomes(name),
            shares={
                axis: matched_share(self._losses(self.plain, axis), self._losses(name, axis), short)
                for axis in effects
                if axis != TASK_AXIS and bare not in (self.plain, BASE)
            },
            dispersion=self._dispersion(name),
            cost=self.costs.get(name),
        )

    def _scores(self, name: str) -> dict[str, tuple[float, float]]:
        found = {}
        for suite in self.chains.panels:
            units = self.chains.units(suite, (BASE, 0), (name, 1))
            if units:
                pair = self.chains.pair(suite, (BASE, 0), (name, 1), units)
                weights = mean_weights(pair)
                found[suite] = (float(weights @ pair.before), float(weights @ pair.after))
        return found

    @cached_property
    def _shares(self) -> dict[tuple[str, str], float]:
        """(chain, outcome) → share of the answers, mean over suites that are judged."""
        judged = self.rows.filter(pl.col("outcome").is_in(SAFETY_OUTCOMES))
        held = self.rows.filter(pl.col("suite").is_in(judged["suite"].unique().implode()))
        found: dict[tuple[str, str], float] = {}
        columns = {name: (pl.col("outcome") == name).mean() for name in SAFETY_OUTCOMES}
        columns["incoherent"] = pl.col("incoherent").mean()
        by_suite = held.group_by("chain", "suite").agg(**columns)
        for line in by_suite.group_by("chain").agg(pl.col(*columns).mean()).iter_rows(named=True):
            found |= {(line["chain"], name): line[name] for name in columns}
        return found

    def _outcomes(self, name: str) -> dict[str, tuple[float, float]]:
        return {
            outcome: (self._shares[BASE, outcome], self._shares[name, outcome])
            for outcome in (*SAFETY_OUTCOMES, "incoherent")
            if self._shares.get((name, outcome)) is not None
            and self._shares.get((BASE, outcome)) is not None
        }

    @cached_property
    def _peoples(self) -> tuple[str, str] | None:
        """The first safety suite with a grouping of people, and that grouping."""
        for suite, panel in self.chains.panels.items():
            for grouping in PEOPLES:
                if panel.facts.axis == "safety" and grouping in panel.groupings:
                    return suite, grouping
        return None

    def _apart(self, name: str) -> dict[Unit, tuple[float, float]]:
        """Training → (loss of all, spread of the true losses of groups)."""
        if self._peoples is None:
            return {}
        suite, grouping = self._peoples
        found = {}
        for unit in self.chains.units(suite, (BASE, 0), (name, 1)):
            pair = self.chains.pair(suite, (BASE, 0), (name, 1), [unit])
            groups = pair.groupings[grouping].codes
            tau = tau_of(pair.forgotten, groups, pair.clusters)
            found[unit] = (float(mean_weights(pair) @ pair.forgotten), tau)
        return found

    @cached_property
    def _plain_curve(self) -> list[dict[Unit, tuple[float, float]]]:
        """Plain tuning, and what lies on its way from the base."""
        told = self.methods.get(self.plain)
        way = [name for name, one in self.methods.items() if _on_the_way(one, told)]
        return [self._apart(name) for name in dict.fromkeys([self.plain, *way])]

    def _dispersion(self, name: str) -> Dispersion | None:
        apart = self._apart(name)
        return dispersion_at(apart, self._plain_curve) if apart and name != BASE else None


def _on_the_way(method: str | None, of: str | None) -> bool:
    return bool(method and of) and str(method).startswith(f"{of} + interpolate")


def _links(links: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, tuple[Link, ...]]:
    return {name: tuple(Link(**link) for link in chain) for name, chain in links.items()}


def _is(place: Any, chain: str) -> bool:
    return bool(place.position) and place.chain == chain


def _facts(said: Mapping[str, Any]) -> SuiteFacts:
    facts = SuiteFacts(**{**said, "metrics": tuple(said["metrics"])})
    reasons = facts.name.partition("/")[0] in REASONING
    return replace(facts, axis="reasoning") if reasons else facts


def _served(suite: str) -> bool:
    return suite.startswith(SERVED)


def _rows(run: Run, store: Store) -> pl.DataFrame:
    """The ledger with the base once for every world and seed, and prompted suites as methods."""
    bases: dict[Unit, Any] = {}
    for place in run.positions:
        if not place.position:
            bases.setdefault((place.world, place.seed), replace(place, chain=BASE))
    kept = replace(
        run, positions=(*bases.values(), *(place for place in run.positions if place.position))
    )
    frames = []
    for suite, keys in kept.scores.items():
        if not any(place.checkpoint in keys for place in kept.positions):
            continue
        frame = ledger(kept, store, [suite]).select(_COLUMNS)
        frame = frame.with_columns(
            incoherent=pl.col("values")
            .cast(_ENTRIES)
            .list.eval(pl.element().filter(pl.element().struct.field("key") == "incoherent"))
            .list.first()
            .struct.field("value")
            .cast(pl.Float64)
        )
        if _served(suite):
            frame = frame.with_columns(
                suite=pl.lit(suite.removeprefix(SERVED)),
                chain=pl.col("chain") + WITH_PROMPT,
                checkpoint=pl.col("checkpoint") + WITH_PROMPT,
                position=pl.lit(1, dtype=frame.schema["position"]),
            )
        frames.append(frame)
    if not frames:
        raise InputError("this run has no scores yet", where=run.name)
    return pl.concat(frames, how="vertical_relaxed")


def _cost(checkpoints: Sequence[str], store: Store) -> Cost | None:
    """Means over trainings; None where the last step is not a training (`after`)."""
    found = []
    for key in checkpoints:
        stored = store.get("checkpoint", key)
        if stored is None and dropped_manifest(store, key) is None:
            continue
        result = (read_record(store.root / "objects" / "checkpoint" / key) or {}).get("result")
        if result is None:
            continue
        # The seconds of a training that was taken up again are those of its last process.
        timed = 1 - result["resumed_at"] / result["steps"]
        factors = (result.get("protection") or {}).get("factor_bytes", 0)
        found.append(
            (
                result["seconds"] / timed if timed > 0 else np.nan,
                12 * result["trainable"] + factors,
                result["tokens"],
                np.nan if result["divergence"] is None else result["divergence"],
            )
        )
    return Cost(*map(float, np.mean(found, axis=0))) if found else None


def _listed(found: Hotel) -> dict[str, Any]:
    """Worlds and seeds in lists: a pair is no key in JSON."""
    content: dict[str, Any] = plain(replace(found, methods=()))
    content["methods"] = []
    for method in found.methods:
        one: dict[str, Any] = plain(replace(method, changes={}, shares={}))
        one["changes"] = {
            axis: {
                "estimate": effect.estimate,
                "items": plain(effect.items),
                "trainings": plain(effect.trainings),
                "of": effect.of,
                "values": [[*unit, value] for unit, value in effect.values.items()],
            }
            for axis, effect in method.changes.items()
        }
        one["shares"] = {axis: plain(share) for axis, share in method.shares.items()}
        content["methods"].append(one)
    return content
