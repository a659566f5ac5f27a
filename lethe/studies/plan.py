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
from lethe.examples import Suite
from lethe.filtering.planting import plant
from lethe.filtering.sift import KeptLessons, Sift, TuneKept
from lethe.lab.experiment import steps_of
from lethe.lab.presets import PRESETS
from lethe.measure import Measure
from lethe.models.checkpoint import Checkpoint, Unbuilt, resolve
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.folder_format import format_of_folder
from lethe.models.format import Format
from lethe.probing.step import Probing
from lethe.run import Position
from lethe.sharpness import Sharpness
from lethe.steps import Step, step_key
from lethe.store import Store
from lethe.studies.deciding import (
    Choice,
    Question,
    Tried,
    alpha_question,
    best_rate,
    rate_question,
    said_rounds,
    shortest_way,
    trial_label,
    trial_of,
)
from lethe.studies.keeping import dropped_manifest, kept, reads
from lethe.studies.nodes import Node, in_order
from lethe.studies.plan_checks import check_protected, notes_on
from lethe.studies.probe_specs import ProbeSpec
from lethe.studies.sources import Sources, data_set
from lethe.studies.stage_specs import Data
from lethe.studies.study import Arm, Chain, Study, chains_of
from lethe.studies.teaching import Teaching, in_world, prompted_suite, row_suites
from lethe.tuning.after import Interpolate
from lethe.tuning.curve import Curve
from lethe.tuning.intruders import ReduceIntruders
from lethe.tuning.mix import Lessons, Replay
from lethe.tuning.safelora import SafeLora
from lethe.tuning.settings import StageSettings
from lethe.tuning.slots import MeasureSpec
from lethe.tuning.step import Tune, result_of

__all__ = ["Choice", "Node", "Plan", "best_rate", "build_plan", "in_order", "shortest_way"]


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
        unbuilt: models it names that are not there yet; building them comes before its steps.
        filters: filter, seed and world (`NAME#SEED@WORLD`) → key of its step.
        probes: the same of probes.
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
    filters: Mapping[str, str]
    probes: Mapping[str, str]
    unbuilt: tuple[Unbuilt, ...] = ()

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
    builder.laboratory()
    return builder.plan()


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
    unbuilt: dict[str, Unbuilt] = field(default_factory=dict)
    filters: dict[str, str] = field(default_factory=dict)
    probes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.teaching = Teaching(self.study, self.sources)

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
            self.filters,
            self.probes,
            unbuilt=tuple(self.unbuilt.values()),
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
        base = self._checkpoint(in_world(name, study.model))
        specs = [in_world(name, spec) for spec in study.suites]
        suites = [self.sources.suite(spec, study.split, study.limit) for spec in specs]
        if study.safety_prompt is not None:
            specs, asked = specs + specs, study.safety_prompt
            suites += [prompted_suite(suite, asked) for suite in suites]
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
            for filter_name in study.filters:
                self._filter(filter_name, world, seed)
            for chain in chains:
                self._chain(chain, decided, world, seed)
            for probe, spec in study.probes.items():
                if spec.tuned is not None:
                    tuned = self._resolved(spec.tuned, world)
                    self._probe(probe, spec, tuned, world, seed, tentative=False)

    def laboratory(self) -> None:
        """In-context regression, for every seed."""
        for seed in self.study.seeds if self.study.lab is not None else ():
            assert self.study.lab is not None
            before: list[str] = []
            for step in steps_of(PRESETS[self.study.lab], seed):
                before.append(self._add(step, [], before, tentative=False))

    def _chain(
        self, chain: Chain, decided: Mapping[str, tuple[Arm, bool]], world: _World, seed: int
    ) -> None:
        """A chain of one seed: after each stage all suites, before the next is trained."""
        at, method, tentative = world.base, None, False
        tag = _tag(seed, world)
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
                taught = self.teaching.lessons(chain.arms[number - 1].data, world.name)
                step = Sharpness(at, taught, self.study.sharpness.rows)
                key = self._add(step, [at], tentative=tentative)
                if not tentative:
                    self.sharpness[at.fingerprint] = key
        for probe, spec in self.study.probes.items():
            if spec.chain == chain.name:
                self._probe(probe, spec, at, world, seed, tentative=tentative)

    def _probe(
        self,
        name: str,
        spec: ProbeSpec,
        tuned: Checkpoint,
        world: _World,
        seed: int,
        *,
        tentative: bool,
    ) -> None:
        """The node of a probe; what it needs to measure and retrain shows when it runs."""
        study, within = self.study, world.name
        read = self.sources.suite
        asked = spec.asked(
            [
                read(in_world(within, one), study.split, study.limit)
                for one in spec.suites or study.suites
            ],
            [read(in_world(within, one), study.split, None) for one in spec.novel],
            study,
            seed,
        )
        base = world.base if spec.base is None else self._resolved(spec.base, world)
        step = Probing(name, base, tuned, asked, study.dtype)
        key = self._add(step, [base, tuned], tentative=tentative)
        if not tentative:
            self.probes[f"{name}{_tag(seed, world)}"] = key

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
            earlier, words = self._earlier(arm, world), arm.by_parent
            replay = Replay(earlier, arm.share, words is not None, words or Replay.max_new_tokens)
        lessons = self._taught(arm.data, world, seed)
        protect = tuple(self.teaching.protected(data, world.name) for data in arm.protect)
        made, also = (
            (TuneKept, (lessons.filter,)) if isinstance(lessons, KeptLessons) else (Tune, ())
        )
        tune = made(parent, lessons, arm.seeded(seed), replay, label.rpartition(" > ")[2], protect)
        if arm.measure is not None:  # before the stage itself, whose training it does
            self._add(self._curve(tune, arm.measure, world), [parent], also, tentative=tentative)
        key = self._add(tune, [parent], also, tentative=tentative)
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
        names = [in_world(world.name, name) for name in spec.suites]
        suites = [self.sources.suite(name, spec.split, spec.limit) for name in names]
        return Curve(tune, spec.every, tuple(suites), world.format)

    def _filter(self, name: str, world: _World, seed: int) -> tuple[str, Lessons]:
        """The nodes of a filter on the world's base, and what it judges."""
        spec, of = self.study.filters[name], self.teaching
        noisy = of.lessons(spec.noisy, world.name)
        trusted = of.lessons(spec.trusted, world.name) if spec.trusted else Lessons("trusted", ())
        safe = of.lessons(spec.safe, world.name)
        planting = plant(
            noisy.examples,
            safe.examples,
            trusted.examples,
            set_aside=spec.set_aside,
            seed=seed,
        )
        first, second = spec.stages(self.study.dtype, seed, len(planting.safe))
        step = Sift(
            name,
            world.base,
            noisy,
            safe,
            trusted,
            spec.by,
            spec.rule,
            spec.set_aside,
            first,
            second,
            seed,
        )
        step.check()
        key = step_key(step)
        if key not in self.nodes:
            trainings = step.trainings(self.store.root)
            for tune in trainings:
                if spec.curves is not None:
                    suites = row_suites(noisy.examples)
                    curve = Curve(tune, spec.curves, suites, world.format)
                    self._add(curve, [tune.parent], tentative=False)
                self._add(tune, [tune.parent], tentative=False)
            self._add(step, [world.base], [step_key(tune) for tune in trainings], tentative=False)
        self.filters[f"{name}{_tag(seed, world)}"] = key
        return key, noisy

    def _taught(self, data: Data, world: _World, seed: int) -> Lessons:
        """What a stage is taught; of a filter, what it will have kept of the rows it judges."""
        if data.filter is None:
            return self.teaching.lessons(data, world.name)
        if data.prompted or data.limit is not None or data.piece is not None:
            raise InputError(
                "prompted, limit and piece are for suites and mixtures",
                where=data.name,
                todo="say them of the rows that the filter reads",
            )
        key, noisy = self._filter(data.filter, world, seed)
        return KeptLessons(data.name, noisy.examples, key)

    def _resolved(self, spec: str, world: _World) -> Checkpoint:
        return self._checkpoint(in_world(world.name, spec))

    def _checkpoint(self, spec: str) -> Checkpoint:
        """A model by name; one that is not built yet is only noted."""
        found = resolve(spec, self.memory, build=False)
        if found.root.unbuilt is not None:
            self.unbuilt[found.root.unbuilt.spec] = found.root.unbuilt
        return found

    def _earlier(self, arm: Arm, world: _World) -> Lessons:
        """Earlier data; of what the parent answers itself, only the prompts have to be there."""
        assert arm.replay is not None
        if arm.by_parent is None:
            return self.teaching.lessons(arm.replay, world.name)
        return self.teaching.prompts(arm.replay, world.name)

    def _link(self, arm: Arm, world: _World) -> Link:
        """The stage as results name it; its task is the suite of the same spec or data set."""
        spec = in_world(world.name, arm.data.suite or arm.data.name)
        same = [suite.name for other, suite in world.suites if other == spec] or [
            suite.name for other, suite in world.suites if data_set(other) == data_set(spec)
        ]
        rows = len(self._taught(arm.data, world, self.study.seeds[0]).examples)
        updates = math.ceil(
            rows_trained(arm.settings, rows)
            / (arm.settings.batch_size * arm.settings.gradient_accumulation)
        )
        return Link(arm.stage, arm.label, same[0] if len(same) == 1 else None, rows, updates)

    def _measure(self, at: Checkpoint, suite: Suite, world: _World, *, tentative: bool) -> str:
        step = Measure(at, suite, world.format, self.study.dtype)
        return self._add(step, [at], tentative=tentative)

    def _add(
        self, step: Step, reads: Sequence[Checkpoint], also: Sequence[str] = (), *, tentative: bool
    ) -> str:
        """A node of this step; `also` are keys of what it reads that is no checkpoint."""
        key = step_key(step)
        found = self.nodes.get(key)
        if found is None:
            needs = tuple(at.fingerprint for at in reads if at.fingerprint in self.nodes)
            needs += tuple(other for other in also if other in self.nodes)
            cached = self.store.get(step.object_kind, key) is not None
            self.nodes[key] = Node(key, step, needs, cached, tentative)
        elif found.tentative and not tentative:
            self.nodes[key] = replace(found, tentative=False)
        return key

    def _decide(self, arm: Arm, world: _World) -> tuple[Arm, bool]:
        """The arm with its rate and its way, and whether these are settled; until then the first
        of each that there is to choose from."""
        settled = True
        if (question := rate_question(arm)) is not None:
            arm, settled = self._ask(question, arm, world)
        if (question := alpha_question(arm)) is None:
            return arm, settled
        if not settled:
            return question.chosen(question.values[0]), False
        return self._ask(question, arm, world)

    def _ask(self, question: Question, arm: Arm, world: _World) -> tuple[Arm, bool]:
        """Plan every trial, read those that ended, and choose if all did.

        While a round is open, the next are counted as if its first values went on.
        """
        spec = question.spec
        decider = in_world(world.name, spec.suite or arm.data.suite or "")
        suite = self.sources.suite(decider, spec.split, spec.limit)
        rounds: list[Tried] = []
        left = question.values
        for one in question.rounds:
            waiting = bool(rounds) and not rounds[-1].ended
            left = left[: one.values]
            tried = self._try(question, left, one.parts, suite, world, tentative=waiting)
            if waiting:
                continue
            rounds.append(tried)
            left = question.going_on(tried) if tried.ended else left
            if len(left) < 2:  # the others failed
                break
        best = left[0] if rounds[-1].ended and len(left) == 1 else None
        found = question.choice(world.name, rounds, best)
        self.choices[found.arm, world.name] = found
        if found.rounds:
            self.notes[f"learning rates by halving: {said_rounds(question.rounds)}"] = None
        return question.chosen(question.values[0] if best is None else best), best is not None

    def _try(
        self,
        question: Question,
        values: tuple[float, ...],
        parts: int,
        suite: Suite,
        world: _World,
        *,
        tentative: bool,
    ) -> Tried:
        """One round: a node for each training, and for what it scores."""
        scores: dict[float, tuple[float, float | None]] = {}
        failed = []
        for value in values:
            made = self._stage(
                world.base,
                question.trial(value, parts),
                world,
                self.study.seeds[0],
                label=trial_label(question.name, value, parts),
                tentative=tentative,
            )
            key = self._measure(made, suite, world, tentative=tentative)
            if {key, made.fingerprint} & self.failed:
                failed.append(value)
            elif self.nodes[key].cached and not tentative:
                scores[value] = trial_of(key, made, suite, self.store)
        return Tried(values, parts, scores, tuple(failed))

    def _check_data(self, arm: Arm, world: _World) -> None:
        """Refuse replayed or protected rows that are measured; say what else a reader must know."""
        own = self._taught(arm.data, world, self.study.seeds[0])
        earlier = None if arm.replay is None else self._earlier(arm, world)
        memory = self.store.root / "scans"
        if arm.data.mixture is not None:
            for note in self.teaching.mixture(arm.data.mixture, world.name).notes:
                self.notes[f"mixture {arm.data.mixture}: {note}"] = None
        for data in arm.protect:
            protected = self.teaching.protected(data, world.name)
            check_protected(arm, protected, world.suites, self.sources)
        notes = notes_on(arm, own, earlier, world.suites, sources=self.sources, memory=memory)
        self.notes |= dict.fromkeys(notes)


def rows_trained(chosen: StageSettings, rows: int) -> int:
    """Rows that a stage of so many examples goes through in all its passes, held-out ones apart."""
    if chosen.max_steps is not None:
        return chosen.max_steps * chosen.batch_size * chosen.gradient_accumulation
    assert chosen.epochs is not None
    return max(1, round(chosen.epochs * (rows - min(chosen.held_out, rows // 10))))


def _tag(seed: int, world: _World) -> str:
    return f"#{seed}" if world.name is None else f"#{seed}@{world.name}"
