"""Running a study's steps: here and now, one after another; killed, it goes on where it was."""

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lethe.auditing import suite_facts
from lethe.errors import IncompleteError, LetheError
from lethe.models.checkpoint import resolve
from lethe.progress import Bar, Progress
from lethe.run import Run, run_name
from lethe.steps import BusyError, Runtime, run_step
from lethe.store import Store
from lethe.studies.chained import Chained, read_chained
from lethe.studies.keeping import drop, droppable, dropped_manifest, kept, named_elsewhere
from lethe.studies.plan import Node, Plan, build_plan
from lethe.studies.sources import Sources
from lethe.studies.study import Study

if TYPE_CHECKING:
    from lethe.lab.experiment import Lab
    from lethe.models.format import Format
    from lethe.probing.result import Probed
    from lethe.studies.hotel import Hotel

LOG = "log.jsonl"
_TOO_LITTLE_MEMORY = (
    "too little memory; lower batch_size and raise gradient_accumulation by as much, "
    "or use update: lora"
)


@dataclass(frozen=True)
class Outcome:
    """What became of a step: `done`, `failed` with the reason, `left` because it needs one, or
    `cached` where another process made it, used it and dropped it meanwhile.
    """

    node: Node
    state: str
    seconds: float = 0.0
    reason: str = ""


Told = Callable[[Outcome], None]


class Executor(Protocol):
    """Where steps run. Steps are idempotent: one that was lost may simply be run again."""

    def run(self, nodes: Sequence[Node], runtime: Runtime, told: Told) -> None:
        """Run nodes that come after what they need, and tell what became of each.

        Raises:
            IncompleteError: nothing more can be run (the disk is full).
        """


class LocalExecutor:
    """In this process, in the order of the plan.

    What another process is at work on is passed over, with all that needs it, so that processes on
    one store share a study among them; the plan that is made next knows what they did.
    """

    def run(self, nodes: Sequence[Node], runtime: Runtime, told: Told) -> None:
        """One after another; what needs a failed step is left."""
        lost: set[str] = set()
        busy: dict[str, Node] = {}  # at work elsewhere, and what needs it
        wanted = {node.key for node in nodes if dropped_manifest(runtime.store, node.key)}
        ended = 0
        for node in nodes:
            if lost.intersection(node.needs):
                lost.add(node.key)
                told(Outcome(node, "left"))
            elif busy.keys() & set(node.needs):
                busy[node.key] = node
            elif node.key not in wanted and dropped_manifest(runtime.store, node.key):
                told(Outcome(node, "cached"))
            else:
                try:
                    outcome = _tried(node, runtime, wait=False)
                except BusyError:
                    busy[node.key] = node
                    continue
                ended += 1
                if outcome.state == "failed":
                    lost.add(node.key)
                told(outcome)
        if busy and not ended:  # nothing else to do
            told(_tried(next(iter(busy.values())), runtime, wait=True))


def _tried(node: Node, runtime: Runtime, *, wait: bool) -> Outcome:
    """Run a step, and say what became of it.

    Raises:
        BusyError: as of `run_step`.
        IncompleteError: the disk is full.
    """
    started = time.monotonic()
    try:
        run_step(node.step, runtime, wait=wait)
    except (IncompleteError, BusyError):
        raise
    except LetheError as error:
        reason = str(error)
    except MemoryError:
        reason = _TOO_LITTLE_MEMORY
    except Exception as error:
        lines = str(error).splitlines() or [""]
        said = f"{type(error).__name__}: {lines[0]}"
        if "allocate memory" in str(error):  # what torch says on a CPU
            said = _TOO_LITTLE_MEMORY
        reason = f"{said}\n{traceback.format_exc()}"
    else:
        return Outcome(node, "done", time.monotonic() - started)
    return Outcome(node, "failed", time.monotonic() - started, reason)


@dataclass
class StudyResult:
    """What a run of a study did.

    Attributes:
        done: steps that ran; `cached` those that were in the store.
        failed: title of a failed step → its reason. Of learning rates tried, failures that leave
            another rate to choose are in `dropped`.
        left: steps that need a failed one.
        chained: what its chains show, where they teach tasks that it measures.
    """

    run: Run
    done: int = 0
    cached: int = 0
    left: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    chained: "Chained | None" = None
    store: Store | None = None

    @cached_property
    def hotel(self) -> "Hotel | None":
        """Methods compared, where every chain is one stage of its own; read when asked for."""
        from lethe.studies.hotel import read_hotel

        return None if self.store is None else read_hotel(self.run, self.store)

    @cached_property
    def probed(self) -> "Mapping[str, Probed]":
        """What probes found, by their names with seed and world; read when asked for."""
        from lethe.probing.step import read_probes

        return {} if self.store is None else read_probes(self.run, self.store)

    @cached_property
    def lab(self) -> "Lab | None":
        """In-context regression, where the study has it and it went to its end."""
        from lethe.lab.experiment import read_lab
        from lethe.lab.presets import PRESETS

        study = self.run.settings["study"]
        if self.store is None or study.get("lab") is None:
            return None
        return read_lab(PRESETS[study["lab"]], study["seeds"], self.run.name, self.store)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, the run by its name."""
        names = ("done", "cached", "left", "failed", "dropped", "notes")
        found = {name: getattr(self, name) for name in names}
        chained = None if self.chained is None else self.chained.to_dict()
        hotel = None if self.hotel is None else self.hotel.to_dict()
        return {
            "run": self.run.name,
            **found,
            "chained": chained,
            "hotel": hotel,
            "probed": {name: one.to_dict() for name, one in self.probed.items()},
            "lab": None if self.lab is None else self.lab.to_dict(),
        }


def run_study(
    study: Study,
    store: Store,
    *,
    device: str | None = None,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> StudyResult:
    """Run what the store does not have of a study; its run is saved after every step.

    Raises:
        InputError: what `build_plan` raises.
        IncompleteError: the disk is full; what was finished is kept.
    """
    from lethe.models.fingerprint import FingerprintMemory
    from lethe.models.local import ModelPool

    memory = FingerprintMemory(store.root / "fingerprints.json")
    pool = ModelPool(device=device, dtype=study.dtype)
    runtime = Runtime(store, pool, memory, progress or Progress())
    sources = Sources(data_dir)
    formats: dict[str | None, Format] = {}
    failures: dict[str, Outcome] = {}
    counts: dict[str, str] = {}  # key → what became of it

    def planned() -> Plan:
        return build_plan(
            study, store, memory, formats=formats, failed=failures.keys(), sources=sources
        )

    plan = planned()
    if plan.unbuilt:
        for model in plan.unbuilt:
            resolve(model.spec, memory)
        plan = planned()
    if any(not node.cached for node in plan.nodes.values()):
        formats.update(_true_formats(plan, runtime))
        if formats != plan.formats:
            plan = planned()
    record = _Record(plan, store)
    if any(not node.cached for node in plan.nodes.values()):
        _say_shortage(plan, runtime)
    before = -1
    while True:
        firm = [node for node in plan.nodes.values() if not node.tentative]
        for node in firm:
            if node.cached:
                counts.setdefault(node.key, "cached")
        record.save(plan, counts)
        keeper = _Keeper(plan, store, record.run.name)
        keeper.tidy(counts)
        todo = [node for node in firm if not node.cached and node.key not in counts]
        if not todo or len(counts) == before:  # all done, or nobody could do anything
            break
        before = len(counts)
        numbered = _Numbered(runtime.progress, len(counts), len(plan.nodes))

        def told(
            outcome: Outcome,
            plan: Plan = plan,
            numbered: _Numbered = numbered,
            keeper: _Keeper = keeper,
        ) -> None:
            counts[outcome.node.key] = outcome.state
            numbered.at += 1
            if outcome.state == "failed":
                failures[outcome.node.key] = outcome
                record.log(outcome)
                runtime.progress.say(f"failed: {outcome.node.step.title}: {_line(outcome)}")
            elif outcome.state == "done":
                record.log(outcome)
                record.save(plan, counts)
                keeper.tidy(counts)

        own = Runtime(store, pool, memory, numbered, runtime.cache)
        with store.explained():
            (executor or LocalExecutor()).run(todo, own, told)
        plan = planned()
    return _concluded(plan, counts, failures, record, store)


def _concluded(
    plan: Plan,
    counts: Mapping[str, str],
    failures: Mapping[str, Outcome],
    record: "_Record",
    store: Store,
) -> StudyResult:
    """Count what became of every step, save the run for the last time, and read what it shows."""
    result = StudyResult(record.run, notes=plan.notes, store=store)
    states = list(counts.values())
    result.done, result.cached = states.count("done"), states.count("cached")
    settled = _settled(plan)
    for key, outcome in failures.items():
        fate = result.dropped if key in settled else result.failed
        fate[outcome.node.step.title] = _line(outcome)
    # A dropped rate leaves its own dev table unmeasured, which nobody misses.
    result.left = sum(
        counts.get(node.key) == "left" and not settled.intersection((node.key, *node.needs))
        for node in plan.nodes.values()
    ) + sum(node.tentative for node in plan.nodes.values())
    result.run = record.save(plan, counts, failed={**result.failed, **result.dropped})
    result.chained = read_chained(result.run, store)
    return result


def check_complete(result: StudyResult) -> None:
    """Raise `IncompleteError` where steps failed, naming them."""
    if result.failed:
        first, reason = next(iter(result.failed.items()))
        more = f" and {len(result.failed) - 1} more" if len(result.failed) > 1 else ""
        raise IncompleteError(
            f"failed: {first}{more} ({reason}); {result.left} steps that need it were left",
            where=f"run {result.run.name}",
            todo="all else is done and kept; the same command tries again",
        )


class _Record:
    """The run of a study on disk."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._store = store
        self._started = time.time()
        content = [
            plan.study.model_dump(mode="json"),
            [base.fingerprint for base in plan.bases.values()],
            [chosen.name for chosen in plan.formats.values()],
        ]
        self._name = run_name("study", plan.study.name, content)
        self.run: Run

    def save(
        self, plan: Plan, states: Mapping[str, str], *, failed: dict[str, str] | None = None
    ) -> Run:
        """Write the run with the tables that exist by now: those of steps cached or done."""
        have = {
            suite: {at: key for at, key in keys.items() if states.get(key) in ("cached", "done")}
            for suite, keys in plan.scores.items()
        }
        self.run = Run(
            name=self._name,
            command="run",
            settings={
                "study": plan.study.model_dump(mode="json"),
                "models": {str(w or ""): base.fingerprint for w, base in plan.bases.items()},
                "formats": {str(w or ""): chosen.name for w, chosen in plan.formats.items()},
                "choices": [asdict(choice) for choice in plan.choices],
                "links": {
                    name: [asdict(link) for link in links] for name, links in plan.links.items()
                },
                "sharpness": {
                    at: key
                    for at, key in plan.sharpness.items()
                    if states.get(key) in ("cached", "done")
                },
                "filters": {
                    name: key
                    for name, key in plan.filters.items()
                    if states.get(key) in ("cached", "done")
                },
                "probes": {
                    name: key
                    for name, key in plan.probes.items()
                    if states.get(key) in ("cached", "done")
                },
                "failed": failed or {},
                "notes": list(plan.notes),
            },
            positions=plan.positions,
            suites=[suite_facts(suite) for suite in plan.suites],
            scores=have,
            started=self._started,
            seconds=time.time() - self._started,
        )
        self.run.save(self._store)
        return self.run

    def log(self, outcome: Outcome) -> None:
        """One line about a step that ended."""
        line = {
            "time": time.time(),
            "state": outcome.state,
            "step": outcome.node.step.title,
            "key": outcome.node.key,
            "seconds": outcome.seconds,
            "reason": outcome.reason,
        }
        with (self._store.runs / self._name / LOG).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


class _Keeper:
    """Drops checkpoints by the study's rule, each as soon as no open step reads it."""

    def __init__(self, plan: Plan, store: Store, run: str) -> None:
        self._plan, self._store = plan, store
        self._gone: set[str] = set()
        self._staying: set[str] | None = None  # not known while rates are still to be chosen
        if not plan.waiting and plan.study.keep != "all":
            elsewhere = named_elsewhere(store, run)
            self._staying = kept(plan.nodes, plan.positions, plan.study.keep) | elsewhere

    def tidy(self, states: Mapping[str, str]) -> None:
        """Drop what can go by now."""
        if self._staying is None:
            return
        ended = {key for key, state in states.items() if state in ("cached", "done")}
        for key in droppable(self._plan.nodes, self._staying | self._gone, ended):
            drop(self._store, key)
            self._gone.add(key)


class _Numbered(Progress):
    """Puts a step's place in the plan before its own bars."""

    def __init__(self, progress: Progress, at: int, total: int) -> None:
        self._progress, self.at, self._total = progress, at, total

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        """The step's bar, numbered."""
        with self._progress.bar(f"{self.at + 1}/{self._total} {title}", total) as bar:
            yield bar

    def say(self, text: str) -> None:
        """As it is."""
        self._progress.say(text)


def _true_formats(plan: Plan, runtime: Runtime) -> "dict[str | None, Format]":
    """What the tokenizers themselves say: a plan reads their files only."""
    from lethe.models.format import choose_format

    return {
        world: choose_format(runtime.pool.tokenizer(base), plan.study.format)
        for world, base in plan.bases.items()
    }


def _say_shortage(plan: Plan, runtime: Runtime) -> None:
    """Warn before anything is trained; an estimate is no reason to refuse."""
    from lethe.studies.estimate import estimate, shortage

    found = estimate(plan, runtime.store, runtime.memory)
    free = None
    if runtime.pool.device.startswith("cuda"):
        import torch

        free = torch.cuda.mem_get_info(runtime.pool.device)[0]
    for line in shortage(found.peak_disk, found.peak_memory, runtime.store.root, free=free):
        runtime.progress.say(line)


def _settled(plan: Plan) -> set[str]:
    """Keys of failed trials whose arm has chosen another rate, and that no chain needs."""
    needed = {place.checkpoint for place in plan.positions}
    labels = {
        label
        for choice in plan.choices
        if choice.rate is not None  # an α of 0 can be chosen
        for label in choice.failed_labels
    }
    found: set[str] = set()
    for node in plan.nodes.values():
        made: Any = node.step
        at = getattr(made, "checkpoint", None)
        if at is not None and at.label in labels and at.fingerprint not in needed:
            found |= {node.key, at.fingerprint}
    return found


def _line(outcome: Outcome) -> str:
    return outcome.reason.partition("\n")[0]
