"""From a study to a graph of steps, each named by its content. Nothing runs; no torch.

A checkpoint that a step will make goes by the step's key, so what is measured on it has a key too,
and the store can be asked for all of it before anything was trained. Chains with a common beginning
share its nodes.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lethe.errors import InputError
from lethe.examples import Suite
from lethe.forgetting import score_matrix
from lethe.ledger import frame_of
from lethe.measure import Measure
from lethe.models.checkpoint import Checkpoint, resolve
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.folder_format import format_of_folder
from lethe.models.format import Format
from lethe.panel import Panel, SuiteFacts
from lethe.run import Position, read_scores
from lethe.sources import Sources, answered
from lethe.steps import Step, step_key
from lethe.store import Store
from lethe.study import Arm, Chain, Data, Study, chains_of
from lethe.tuning.after import Interpolate
from lethe.tuning.mix import Lessons, Replay
from lethe.tuning.step import Tune, result_of


@dataclass(frozen=True)
class Node:
    """A step of a plan.

    Attributes:
        needs: keys of the nodes whose results it reads.
        cached: its result is in the store.
        tentative: it depends on a learning rate still to be chosen, and stands here to be counted.
    """

    key: str
    step: Step
    needs: tuple[str, ...]
    cached: bool
    tentative: bool = False


@dataclass(frozen=True)
class Choice:
    """The learning rate of an arm in a world: what was tried, and what came of it.

    Attributes:
        scores: rate → (mean dev score, KL from the parent), for the trials that ended.
        failed: rates whose training or measuring failed.
        rate: None while trials are open, or where all failed.
    """

    arm: str
    world: str | None
    scores: Mapping[float, tuple[float, float | None]]
    failed: tuple[float, ...]
    rate: float | None


@dataclass(frozen=True)
class Plan:
    """A study as steps.

    Attributes:
        nodes: by key, in an order in which every node follows what it needs and every chain is
            measured before the next is trained.
        positions: every place of every chain; those after an open choice are missing.
        scores: suite → checkpoint → key of its table.
        suites: of the first world, under the names that `scores` has.
        formats: world → the format its models are asked in.
        bases: world → where its chains start.
    """

    study: Study
    nodes: Mapping[str, Node]
    positions: tuple[Position, ...]
    scores: Mapping[str, Mapping[str, str]]
    suites: tuple[Suite, ...]
    formats: Mapping[str | None, Format]
    bases: Mapping[str | None, Checkpoint]
    choices: tuple[Choice, ...]
    notes: tuple[str, ...]

    @property
    def waiting(self) -> bool:
        """Whether a part of the study hangs on trials that have not ended."""
        return any(node.tentative for node in self.nodes.values())


def build_plan(
    study: Study,
    store: Store,
    memory: FingerprintMemory,
    *,
    data_dir: str | Path | None = None,
    formats: Mapping[str | None, Format] | None = None,
    failed: Collection[str] = (),
    sources: Sources | None = None,
) -> Plan:
    """The plan of a study, with what the store has of it.

    Args:
        formats: of the worlds' models, where they are known better than from their files.
        failed: keys of steps that were tried and failed.
        sources: data read already.

    Raises:
        InputError: a model, suite, file or chain that cannot be used, or replayed rows that are
            also measured.
    """
    sources = sources or Sources(data_dir)
    worlds: list[str | None] = [str(world) for world in study.worlds] or [None]
    builder = _Builder(study, store, memory, sources, formats or {}, frozenset(failed))
    chains = chains_of(study)
    for world in worlds:
        builder.world(world, chains)
    return builder.plan()


def in_order(nodes: Mapping[str, Node]) -> list[Node]:
    """The nodes so that each follows what it needs, otherwise in the order given.

    Raises:
        InputError: a node needs one that is not there, or they go in a circle.
    """
    done: dict[str, Node] = {}
    open_: set[str] = set()
    for start in nodes:
        stack = [start]
        while stack:
            key = stack[-1]
            if key in done:
                stack.pop()
                continue
            node = nodes[key]
            open_.add(key)
            needed = [need for need in node.needs if need not in done]
            if not needed:
                done[key] = node
                open_.discard(key)
                stack.pop()
                continue
            for need in needed:
                if need not in nodes:
                    raise InputError(f"needs step {need[:12]}, which no one makes", where=_of(node))
                if need in open_:
                    raise InputError("its steps go in a circle", where=_of(nodes[need]))
            stack.append(needed[0])
    return list(done.values())


@dataclass(frozen=True)
class _World:
    """Where chains start in one world, and what they are measured on (spec, suite)."""

    name: str | None
    base: Checkpoint
    format: Format
    suites: tuple[tuple[str, Suite], ...]


@dataclass
class _Builder:
    """Collects the nodes of a study."""

    study: Study
    store: Store
    memory: FingerprintMemory
    sources: Sources
    formats: Mapping[str | None, Format]
    failed: frozenset[str]
    nodes: dict[str, Node] = field(default_factory=dict)
    positions: list[Position] = field(default_factory=list)
    scores: dict[str, dict[str, str]] = field(default_factory=dict)
    worlds: list[_World] = field(default_factory=list)
    choices: dict[tuple[str, str | None], Choice] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    def plan(self) -> Plan:
        return Plan(
            self.study,
            {node.key: node for node in in_order(self.nodes)},
            tuple(self.positions),
            self.scores,
            tuple(suite for _, suite in self.worlds[0].suites),
            {world.name: world.format for world in self.worlds},
            {world.name: world.base for world in self.worlds},
            tuple(self.choices.values()),
            tuple(self.notes),
        )

    def world(self, name: str | None, chains: Sequence[Chain]) -> None:
        """All chains and seeds in one world."""
        study = self.study
        base = resolve(_in(name, study.model), self.memory)
        specs = [_in(name, spec) for spec in study.suites]
        suites = [self.sources.suite(spec, study.split, study.limit) for spec in specs]
        chosen = self.formats.get(name) or format_of_folder(base.tokenizer_folder, study.format)
        world = _World(name, base, chosen, tuple(zip(specs, suites, strict=True)))
        self.worlds.append(world)
        if len(self.worlds) == 1:
            names = [suite.name for suite in suites]
            twice = next((one for one in names if names.count(one) > 1), None)
            if twice is not None:
                raise InputError(f"two suites are called '{twice}'", where="suites")
            self.scores = {one: {} for one in names}
        arms = {arm.label: arm for chain in chains for arm in chain.arms}
        for arm in arms.values():
            self._check_data(arm, world)
        decided = {label: self._decide(arm, world) for label, arm in arms.items()}
        for seed in study.seeds:
            for chain in chains:
                self._chain(chain, decided, world, seed)

    def _chain(
        self, chain: Chain, decided: Mapping[str, tuple[Arm, bool]], world: _World, seed: int
    ) -> None:
        """A chain of one seed: after each stage all suites, before the next is trained."""
        at, method, tentative = world.base, None, False
        tag = f"#{seed}" if world.name is None else f"#{seed}@{world.name}"
        for number in range(len(chain.arms) + 1):
            if number:
                arm, settled = decided[chain.arms[number - 1].label]
                tentative, method = tentative or not settled, arm.method
                label = arm.label if number == 1 else f"{at.label} > {arm.label}"
                at = self._stage(at, arm, world, seed, label=label, tentative=tentative)
            if not tentative:
                name = f"{chain.name}/{number}{tag}"
                place = Position(chain.name, number, method, world.name, seed, at.fingerprint, name)
                self.positions.append(place)
            for (_, suite), keys in zip(world.suites, self.scores.values(), strict=True):
                key = self._measure(at, suite, world, tentative=tentative)
                if not tentative:
                    keys[at.fingerprint] = key

    def _stage(
        self,
        parent: Checkpoint,
        arm: Arm,
        world: _World,
        seed: int,
        *,
        label: str,
        tentative: bool,
    ) -> Checkpoint:
        """The nodes of one stage, and the checkpoint it will give."""
        replay = None
        if arm.replay is not None:
            replay = Replay(self._lessons(arm.replay, world), arm.share)
        lessons = self._lessons(arm.data, world)
        tune = Tune(parent, lessons, arm.seeded(seed), replay, label.rpartition(" > ")[2])
        key = self._add(tune, [parent], tentative=tentative)
        tuned = result_of(tune, key, self.store.root, label)
        if arm.alpha is None:
            return tuned
        between = Interpolate(parent, tuned, arm.alpha)
        key = self._add(between, [parent, tuned], tentative=tentative)
        return result_of(between, key, self.store.root, label)

    def _lessons(self, data: Data, world: _World) -> Lessons:
        return self.sources.lessons(_in(world.name, data.suite), data.split, data.limit)

    def _measure(self, at: Checkpoint, suite: Suite, world: _World, *, tentative: bool) -> str:
        step = Measure(at, suite, world.format, self.study.dtype)
        return self._add(step, [at], data=self.sources.hash(suite), tentative=tentative)

    def _add(
        self,
        step: Step,
        reads: Sequence[Checkpoint],
        *,
        data: str | None = None,
        tentative: bool,
    ) -> str:
        key = step_key(step, data=data)
        found = self.nodes.get(key)
        if found is None:
            needs = tuple(at.fingerprint for at in reads if at.fingerprint in self.nodes)
            cached = self.store.get(step.object_kind, key) is not None
            self.nodes[key] = Node(key, step, needs, cached, tentative)
        elif found.tentative and not tentative:
            self.nodes[key] = replace(found, tentative=False)
        return key

    def _decide(self, arm: Arm, world: _World) -> tuple[Arm, bool]:
        """The arm with its rate, and whether that is settled; until then its first rate."""
        choose = arm.choose
        if choose is None:
            return arm, True
        spec = _in(world.name, choose.suite or arm.data.suite)
        suite = self.sources.suite(spec, choose.split, choose.limit)
        scores: dict[float, tuple[float, float | None]] = {}
        failed = []
        for rate in choose.learning_rate:
            made = self._stage(
                world.base,
                replace(arm.at(rate), alpha=None),
                world,
                self.study.seeds[0],
                label=f"{arm.label} at {rate:g}",
                tentative=False,
            )
            key = self._measure(made, suite, world, tentative=False)
            if {key, made.fingerprint} & self.failed:
                failed.append(rate)
            elif self.nodes[key].cached:
                scores[rate] = self._trial(key, made, suite)
        ended = len(scores) + len(failed) == len(choose.learning_rate)
        best = best_rate(scores) if ended and scores else None
        found = Choice(arm.label, world.name, scores, tuple(failed), best)
        self.choices[arm.label, world.name] = found
        return arm.at(choose.learning_rate[0] if best is None else best), best is not None

    def _trial(self, key: str, made: Checkpoint, suite: Suite) -> tuple[float, float | None]:
        """Mean dev score, class-balanced where the suite is, and KL(parent‖tuned)."""
        table, _ = read_scores(key, self.store)
        rows = frame_of(table, suite=suite.name, checkpoint="trial", position=1)
        panel = Panel.from_rows(rows, SuiteFacts(suite.name, suite.axis, balance=suite.balance))
        stored = self.store.get("checkpoint", made.fingerprint)
        divergence: Any = None if stored is None else stored.manifest["facts"].get("divergence")
        return float(score_matrix({suite.name: panel}, ["trial"])[0, 0]), divergence

    def _check_data(self, arm: Arm, world: _World) -> None:
        """Refuse replayed rows that are measured; say how many of the stage's own are."""
        own = self._lessons(arm.data, world)
        earlier = None if arm.replay is None else self._lessons(arm.replay, world)
        marked, unsafe = answered(own)
        if marked:
            note = f"{arm.stage}: {unsafe} of {marked} requests marked harmful are answered"
            self.notes[note] = None
        for spec, suite in world.suites:
            if earlier is not None and (twice := self.sources.overlap(earlier, suite, spec)):
                raise InputError(
                    f"{len(twice)} replayed rows are also measured by '{suite.name}': "
                    f"{', '.join(twice[:5])}{', …' if len(twice) > 5 else ''}",
                    where=f"stages.{arm.stage}.mix.replay",
                    todo="replay another split or file",
                )
            if twice := self.sources.overlap(own, suite, spec):
                note = f"{arm.stage}: {len(twice)} rows tuned on are also measured by {suite.name}"
                self.notes[note] = None


def best_rate(scores: Mapping[float, tuple[float, float | None]]) -> float:
    """The rule: best score, then lower KL, then lower rate; an unknown KL or score is last."""

    def rank(rate: float) -> tuple[float, float, float]:
        score, divergence = scores[rate]
        return (
            math.inf if math.isnan(score) else -score,
            math.inf if divergence is None else divergence,
            rate,
        )

    return min(scores, key=rank)


def _in(world: str | None, text: str) -> str:
    return text if world is None else text.replace("{world}", world)


def _of(node: Node) -> str:
    return f"step {node.step.title}"
