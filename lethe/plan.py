"""From a study to a graph of steps, each named by its content. Nothing runs; no torch.

A checkpoint that a step will make goes by the step's key, so what is measured on it has a key too,
and the store can be asked for all of it before anything was trained. Chains with a common beginning
share its nodes.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lethe.chains import Link
from lethe.errors import InputError
from lethe.examples import Split, Suite
from lethe.forgetting import score_matrix
from lethe.keeping import dropped_manifest, kept, reads
from lethe.ledger import frame_of
from lethe.measure import Measure
from lethe.models.checkpoint import Checkpoint, resolve
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.folder_format import format_of_folder
from lethe.models.format import Format
from lethe.panel import Panel, SuiteFacts
from lethe.run import Position, read_scores
from lethe.sharpness import Sharpness
from lethe.sources import Sources, data_set
from lethe.steps import Step, step_key
from lethe.store import Store
from lethe.study import Arm, Chain, Choose, Data, Study, chains_of
from lethe.tuning.after import Interpolate
from lethe.tuning.intruders import ReduceIntruders
from lethe.tuning.mix import Lessons, Replay
from lethe.tuning.protect import Protected
from lethe.tuning.safelora import SafeLora
from lethe.tuning.settings import StageSettings
from lethe.tuning.slots import ChooseAlpha, MeasureSpec
from lethe.tuning.step import Tune, result_of
from lethe.tuning.watch import Curve


@dataclass(frozen=True)
class Node:
    """A step of a plan.

    Attributes:
        needs: keys of the nodes whose results it reads.
        cached: its result is in the store, or was dropped and nothing needs it again.
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
        sharpness: checkpoint → key of its sharpness, where the study asks for it.
        links: chain → its stages, as results name them.
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
    sharpness: Mapping[str, str]
    links: Mapping[str, tuple[Link, ...]]

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
    sharpness: dict[str, str] = field(default_factory=dict)
    links: dict[str, tuple[Link, ...]] = field(default_factory=dict)
    prompts: dict[tuple[str, Split, int | None], Lessons] = field(default_factory=dict)

    def plan(self) -> Plan:
        ordered = {node.key: node for node in in_order(self.nodes)}
        return Plan(
            self.study,
            self._without_dropped(ordered),
            tuple(self.positions),
            self.scores,
            tuple(suite for _, suite in self.worlds[0].suites),
            {world.name: world.format for world in self.worlds},
            {world.name: world.base for world in self.worlds},
            tuple(self.choices.values()),
            tuple(self.notes),
            self.sharpness,
            self.links,
        )

    def _without_dropped(self, nodes: dict[str, Node]) -> dict[str, Node]:
        """Nodes in order; dropped checkpoints that nothing open reads count as cached."""
        staying = kept(nodes, self.positions, self.study.keep)
        needed: set[str] = set()
        for key, node in reversed(nodes.items()):
            if node.cached:
                continue
            spent = (
                node.step.object_kind == "checkpoint"
                and key not in needed | staying
                and dropped_manifest(self.store, key) is not None
            )
            if spent:
                nodes[key] = replace(node, cached=True)
            else:
                needed |= reads(nodes, key)
        return nodes

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
            for chain in chains:
                self.links[chain.name] = tuple(self._link(arm, world) for arm in chain.arms)
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
            if number and self.study.sharpness is not None:
                taught = self._lessons(chain.arms[number - 1].data, world)
                step = Sharpness(at, taught, self.study.sharpness.rows)
                key = self._add(step, [at], tentative=tentative)
                if not tentative:
                    self.sharpness[at.fingerprint] = key

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
            earlier, words = self._earlier(arm.replay, arm, world), arm.by_parent
            replay = Replay(earlier, arm.share, words is not None, words or Replay.max_new_tokens)
        lessons = self._lessons(arm.data, world)
        protect = tuple(self._protected(data, world) for data in arm.protect)
        tune = Tune(parent, lessons, arm.seeded(seed), replay, label.rpartition(" > ")[2], protect)
        if arm.measure is not None:  # before the stage itself, whose training it does
            self._add(self._curve(tune, arm.measure, world), [parent], tentative=tentative)
        key = self._add(tune, [parent], tentative=tentative)
        tuned = result_of(tune, key, self.store.root, label)
        afters: list[Callable[[Checkpoint], Any]] = []
        if (intruders := arm.intruders) is not None:
            afters.append(lambda at: ReduceIntruders(parent, at, intruders))
        if (spec := arm.safelora) is not None:
            ends = [self._resolved(spec.unaligned, world), world.base]
            if spec.aligned is not None:
                ends[1] = self._resolved(spec.aligned, world)
            afters.append(lambda at: SafeLora(parent, at, ends[0], ends[1], spec.threshold))
        if (alpha := arm.alpha) is not None:
            afters.append(lambda at: Interpolate(parent, at, alpha))
        for after in afters:
            step = after(tuned)
            key = self._add(step, [parent, tuned], tentative=tentative)
            tuned = result_of(step, key, self.store.root, label)
        return tuned

    def _curve(self, tune: Tune, spec: MeasureSpec, world: _World) -> Curve:
        names = [_in(world.name, name) for name in spec.suites]
        suites = [self.sources.suite(name, spec.split, spec.limit) for name in names]
        return Curve(tune, spec.every, tuple(suites), world.format)

    def _resolved(self, spec: str, world: _World) -> Checkpoint:
        return resolve(_in(world.name, spec), self.memory)

    def _earlier(self, data: Data, arm: Arm, world: _World) -> Lessons:
        """Earlier data; of what the parent answers itself, only the prompts have to be there."""
        if arm.by_parent is None:
            return self._lessons(data, world)
        key = (_in(world.name, data.suite), data.split, data.limit)
        if key not in self.prompts:
            self.prompts[key] = Lessons(key[0], self.sources.suite(*key).examples)
        return self.prompts[key]

    def _link(self, arm: Arm, world: _World) -> Link:
        """The stage as results name it; its task is the suite of the same spec or data set."""
        spec = _in(world.name, arm.data.suite)
        same = [suite.name for other, suite in world.suites if other == spec] or [
            suite.name for other, suite in world.suites if data_set(other) == data_set(spec)
        ]
        rows = len(self._lessons(arm.data, world).examples)
        updates = math.ceil(
            rows_trained(arm.settings, rows)
            / (arm.settings.batch_size * arm.settings.gradient_accumulation)
        )
        return Link(arm.stage, arm.label, same[0] if len(same) == 1 else None, rows, updates)

    def _lessons(self, data: Data, world: _World) -> Lessons:
        return self.sources.lessons(_in(world.name, data.suite), data.split, data.limit)

    def _protected(self, data: Data, world: _World) -> Protected:
        return self.sources.protected(_in(world.name, data.suite), data.split, data.limit)

    def _measure(self, at: Checkpoint, suite: Suite, world: _World, *, tentative: bool) -> str:
        step = Measure(at, suite, world.format, self.study.dtype)
        return self._add(step, [at], tentative=tentative)

    def _add(self, step: Step, reads: Sequence[Checkpoint], *, tentative: bool) -> str:
        key = step_key(step)
        found = self.nodes.get(key)
        if found is None:
            needs = tuple(at.fingerprint for at in reads if at.fingerprint in self.nodes)
            cached = self.store.get(step.object_kind, key) is not None
            self.nodes[key] = Node(key, step, needs, cached, tentative)
        elif found.tentative and not tentative:
            self.nodes[key] = replace(found, tentative=False)
        return key

    def _decide(self, arm: Arm, world: _World) -> tuple[Arm, bool]:
        """The arm with its rate and its way, and whether these are settled; until then the first
        of each that there is to choose from."""
        arm, settled = self._decide_rate(arm, world)
        if arm.choose_alpha is None:
            return arm, settled
        if not settled:
            return arm.going(arm.choose_alpha.choose[0]), False
        return self._decide_alpha(arm, arm.choose_alpha, world)

    def _decide_alpha(self, arm: Arm, choose: ChooseAlpha, world: _World) -> tuple[Arm, bool]:
        suite = self._dev_suite(choose, arm, world)
        scores: dict[float, tuple[float, float | None]] = {}
        failed = []
        name = f"{arm.label} α"
        for alpha in choose.choose:
            made = self._stage(
                world.base,
                replace(arm.going(alpha), measure=None),
                world,
                self.study.seeds[0],
                label=f"{name} at {alpha:g}",
                tentative=False,
            )
            key = self._measure(made, suite, world, tentative=False)
            if {key, made.fingerprint} & self.failed:
                failed.append(alpha)
            elif self.nodes[key].cached:
                scores[alpha] = self._trial(key, made, suite)
        ended = len(scores) + len(failed) == len(choose.choose)
        best = shortest_way(scores, choose.within) if ended and scores else None
        found = Choice(name, world.name, scores, tuple(failed), best)
        self.choices[name, world.name] = found
        return arm.going(choose.choose[0] if best is None else best), best is not None

    def _dev_suite(self, choose: Choose | ChooseAlpha, arm: Arm, world: _World) -> Suite:
        spec = _in(world.name, choose.suite or arm.data.suite)
        return self.sources.suite(spec, choose.split, choose.limit)

    def _decide_rate(self, arm: Arm, world: _World) -> tuple[Arm, bool]:
        choose = arm.choose
        if choose is None:
            return arm, True
        suite = self._dev_suite(choose, arm, world)
        scores: dict[float, tuple[float, float | None]] = {}
        failed = []
        for rate in choose.learning_rate:
            made = self._stage(
                world.base,
                arm.at(rate).bare,
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
        gone = dropped_manifest(self.store, made.fingerprint)
        manifest = gone if stored is None else stored.manifest
        divergence: Any = None if manifest is None else manifest["facts"].get("divergence")
        return float(score_matrix({suite.name: panel}, ["trial"])[0, 0]), divergence

    def _check_data(self, arm: Arm, world: _World) -> None:
        """Refuse replayed or protected rows that are measured; count the stage's own that are."""
        own = self._lessons(arm.data, world)
        earlier = None if arm.replay is None else self._earlier(arm.replay, arm, world)
        if said := self.sources.unsafe(own, self.store.root / "scans").said():
            self.notes[f"{arm.stage}: {said}"] = None
        for data in arm.protect:
            self._check_protected(arm, self._protected(data, world), world)
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

    def _check_protected(self, arm: Arm, protected: Protected, world: _World) -> None:
        """Refuse to calibrate on what is measured: protection would look better than it is."""
        for spec, suite in world.suites:
            if twice := self.sources.overlap(protected, suite, spec):
                raise InputError(
                    f"{len(twice)} protected rows are also measured by '{suite.name}': "
                    f"{', '.join(twice[:5])}{', …' if len(twice) > 5 else ''}",
                    where=f"stages.{arm.stage}.protect",
                    todo="protect another split or file",
                )


def rows_trained(chosen: StageSettings, rows: int) -> int:
    """Rows that a stage of so many examples goes through in all its passes, held-out ones apart."""
    if chosen.max_steps is not None:
        return chosen.max_steps * chosen.batch_size * chosen.gradient_accumulation
    assert chosen.epochs is not None
    return max(1, round(chosen.epochs * (rows - min(chosen.held_out, rows // 10))))


def shortest_way(scores: Mapping[float, tuple[float, float | None]], within: float) -> float:
    """The smallest α whose score is at most `within` below the best; unknown scores are last."""
    known = {alpha: score for alpha, (score, _) in scores.items() if not math.isnan(score)}
    if not known:
        return min(scores)
    best = max(known.values())
    return min(alpha for alpha, score in known.items() if score >= best - within)


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
