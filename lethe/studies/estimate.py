"""What a plan would cost: steps, tokens, minutes, disk, memory. From files alone; no torch."""

import json
import math
import os
import shutil
import struct
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lethe.examples import Example, Suite
from lethe.measure import Measure
from lethe.models.checkpoint import Unbuilt, weights_fingerprint
from lethe.models.fingerprint import FingerprintMemory
from lethe.sharpness import BATCH as SHARPNESS_BATCH
from lethe.sharpness import Sharpness
from lethe.store import Store
from lethe.studies.keeping import kept, reads
from lethe.studies.plan import Node, Plan, rows_trained
from lethe.tuning.mix import Lessons
from lethe.tuning.rows import target_of
from lethe.tuning.step import Tune

_BYTES_A_TOKEN = 4  # of English, roughly, where no tokenizer can be read
_SAMPLE = 500  # examples of which tokens are counted; more are estimated from these
_BYTES_A_ROW = 300  # of a table of scores
LIBRARIES = 700 * 2**20
"""Bytes that importing what computes takes."""
_MOMENTS = 4 * 2**30  # within which `lethe.tuning.calibration` takes layer after layer
_HELD_FREED = 1.2
"""What an allocator holds of activations, freed pieces among them, over what is in use: with it the
estimate lies above what `benchmarks/memory.py` measures, for whole models and adapters alike."""
_WHILE_TRAINING = 36  # bytes a moving weight: three checkpoints of it and its two moments


@dataclass(frozen=True)
class Estimate:
    """What a plan would cost.

    Attributes:
        steps: kind → how many in all; `cached` of them in the store; `tentative` after a choice.
        tokens: trained on by what is not cached; `counted` how they were told (`tokenizer` counts
            text alone, without what a chat template adds; `bytes` is a guess).
        unbuilt: what is built first: a model's name, its stages, and about how many minutes.
        minutes: of everything not cached; None where nothing like it was run yet.
        peak_disk: bytes that the store may grow by while it runs, under its rule of what to keep.
        peak_memory: bytes that its largest step may take; None where the model's configuration
            does not say its shape.
    """

    steps: Mapping[str, int]
    cached: Mapping[str, int]
    tentative: int
    positions: int
    tokens: int
    counted: str
    unbuilt: Sequence[str]
    minutes: float | None
    peak_disk: int
    peak_memory: int | None
    choices: Sequence[str]
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def estimate(plan: Plan, store: Store, memory: FingerprintMemory) -> Estimate:
    """Count what a plan has to do, and guess its time from what was done before."""
    nodes = list(plan.nodes.values())
    todo = [node for node in nodes if not node.cached]
    base = next(iter(plan.bases.values()))
    counter = _Counter(base.tokenizer_folder)
    tokens = {node.key: counter.tokens(node.step) for node in todo if isinstance(node.step, Tune)}
    disk = _disk(plan, base.root.folder)
    memory_needed = _memory(todo, base.root.folder, counter)
    weights = {weights_fingerprint(base.root.folder, memory) for base in plan.bases.values()}
    rates = _training_rates(store, weights) if tokens else {}
    return Estimate(
        steps=dict(Counter(node.step.kind for node in nodes)),
        cached=dict(Counter(node.step.kind for node in nodes if node.cached)),
        tentative=sum(node.tentative for node in nodes),
        positions=len(plan.positions),
        tokens=sum(tokens.values()),
        counted=counter.how,
        unbuilt=[_built_first(model) for model in plan.unbuilt],
        minutes=_with_builds(_minutes(nodes, tokens, rates, store), plan),
        peak_disk=disk,
        peak_memory=memory_needed,
        choices=[_choice(choice) for choice in plan.choices],
        notes=[*plan.notes, *shortage(disk, memory_needed, store.root)],
    )


def _built_first(model: Unbuilt) -> str:
    took = "" if model.minutes is None else f" (about {model.minutes:.0f} minutes)"
    return f"{model.spec}: {', '.join(model.steps)}{took}"


def _with_builds(minutes: float | None, plan: Plan) -> float | None:
    builds = [model.minutes for model in plan.unbuilt]
    if minutes is None or None in builds:
        return None
    return minutes + sum(took for took in builds if took is not None)


def _choice(choice: Any) -> str:
    rounds = [one.scores for one in choice.rounds] or [choice.scores]
    tried = "; ".join(
        ", ".join(f"{rate:g}: {score:.3f}" for rate, (score, _) in scores.items())
        for scores in rounds
        if scores
    )
    state = "open" if choice.rate is None else f"chose {choice.rate:g}"
    failed = f"; failed: {', '.join(f'{rate:g}' for rate in choice.failed)}"
    return f"{choice.arm}: {state}{f' ({tried})' if tried else ''}{failed if choice.failed else ''}"


class _Counter:
    """Tokens of a stage, each set of examples counted once."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Any = None
        self._means: dict[int, float] = {}
        self._longest: dict[int, int] = {}
        path = folder / "tokenizer.json"
        if path.is_file():
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(path))
        self.how = "bytes" if self._tokenizer is None else "tokenizer"

    def tokens(self, step: Tune) -> int:
        """Tokens the stage trains on over all its passes, its replayed rows among them."""
        total = rows_trained(step.chosen, len(step.lessons.examples))
        earlier = 0 if step.replay is None else step.replay.count(total)
        count = (total - earlier) * self._mean(step.lessons)
        if step.replay is not None:
            count += earlier * self._mean(step.replay.earlier)
        return round(count)

    def longest(self, lessons: Lessons) -> int:
        """Tokens of the longest of the examples that are counted."""
        self._mean(lessons)
        return self._longest[id(lessons)]

    def _mean(self, lessons: Lessons) -> float:
        if id(lessons) not in self._means:
            every = math.ceil(len(lessons.examples) / _SAMPLE)
            texts = [_text(example) for example in lessons.examples[::every]]
            if self._tokenizer is None:
                sizes = [len(text.encode()) / _BYTES_A_TOKEN for text in texts]
            else:
                sizes = [len(found.ids) for found in self._tokenizer.encode_batch(texts)]
            self._means[id(lessons)] = sum(sizes) / max(1, len(sizes))
            self._longest[id(lessons)] = math.ceil(max(sizes, default=0))
        return self._means[id(lessons)]


def _text(example: Example) -> str:
    prompt = example.prompt
    asked = prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)
    if example.reference is None and example.answer is None:
        return asked  # a prompt to replay, which the parent answers itself
    return f"{asked} {target_of(example)}"


def _minutes(
    nodes: Sequence[Node], tokens: Mapping[str, int], rates: Mapping[str, float], store: Store
) -> float | None:
    """From seconds a token of like stages, and the seconds that the same suites took."""
    times: dict[str, list[float]] = {}
    for node in nodes:
        table = store.get("scores", node.key) if node.cached else None
        if isinstance(node.step, Measure) and table is not None:
            seconds = table.manifest["facts"]["seconds"]
            times.setdefault(_name(node.step.suite), []).append(seconds)
    total = 0.0
    for node in nodes:
        if node.cached:
            continue
        if isinstance(node.step, Tune):
            if node.step.chosen.update not in rates:
                return None
            total += tokens[node.key] * rates[node.step.chosen.update]
        elif isinstance(node.step, Measure):
            took = times.get(_name(node.step.suite))
            if not took:
                return None
            total += sum(took) / len(took)
        elif node.step.object_kind in ("probe", "lab"):
            return None  # what is retrained depends on what was lost
    return total / 60


def _training_rates(store: Store, weights: Collection[str]) -> dict[str, float]:
    """Update → mean seconds a token of all stages in the store on these base weights."""
    found: dict[str, list[float]] = {}
    for stored in store.objects():
        facts = stored.manifest["facts"]
        known = stored.kind == "checkpoint" and facts.get("base_weights") in weights
        if known and facts.get("tokens"):
            found.setdefault(facts["update"], []).append(facts["seconds"] / facts["tokens"])
    return {update: sum(rates) / len(rates) for update, rates in found.items()}


def _name(suite: Suite) -> str:
    return f"{suite.name}/{suite.split}/{len(suite.examples)}"


def _disk(plan: Plan, folder: Path) -> int:
    """The most that lies there at once: results so far, and what a stage needs while it trains.

    Follows the plan's order and its rule of what to keep; a plan that waits for a choice keeps all.
    """
    shapes = _shapes(folder)
    todo = [node for node in plan.nodes.values() if not node.cached]
    doomed = set() if plan.waiting else _dropped_after(plan)
    last_read = {key: at for at, node in enumerate(todo) for key in reads(plan.nodes, node.key)}
    held, peak = 0, 0
    sizes: dict[str, int] = {}
    for at, node in enumerate(todo):
        working = 0
        if node.step.object_kind == "checkpoint":
            weights = _result_weights(node.step, todo, shapes)
            sizes[node.key] = 4 * weights
            working = _WHILE_TRAINING * weights if isinstance(node.step, Tune) else 0
        elif isinstance(node.step, Measure):
            sizes[node.key] = _BYTES_A_ROW * len(node.step.suite.examples)
        held += sizes.get(node.key, 0)
        peak = max(peak, held + working)
        held -= sum(
            size for key, size in sizes.items() if key in doomed and last_read.get(key, -1) == at
        )
    return peak


def _dropped_after(plan: Plan) -> set[str]:
    """Checkpoints that the study's rule does not keep."""
    staying = kept(plan.nodes, plan.positions, plan.study.keep)
    made = {key for key, node in plan.nodes.items() if node.step.object_kind == "checkpoint"}
    return made - staying


def _result_weights(step: Any, todo: Sequence[Node], shapes: Sequence[Sequence[int]]) -> int:
    """Weights that a stage stores: of an adapter, or of the whole model."""
    if not step.adapter:
        return sum(map(math.prod, shapes))
    tune = step if isinstance(step, Tune) else None
    rank = int(tune.chosen.options.get("rank", 0)) if tune else _rank_below(step, todo)
    rank *= 2 if tune and tune.chosen.update == "corda" else 1
    return _adapter_weights(shapes, rank)


def _memory(todo: Sequence[Node], folder: Path, counter: "_Counter") -> int | None:
    """Of the largest step: weights and what is computed from them, activations, libraries.

    Activations by Korthikanti et al. (2022, arXiv 2205.05198), equation 2, in float32 and without
    recomputation, and logits at every position: more than a stage takes on a GPU.
    """
    shape = _read_shape(folder)
    if shape is None:
        return None
    shapes = _shapes(folder)
    weights = sum(map(math.prod, shapes))
    most = 0
    for node in todo:
        step = node.step
        if isinstance(step, Tune):
            moving = _result_weights(step, todo, shapes) if step.adapter else weights
            longest = min(step.chosen.max_length, counter.longest(step.lessons))
            batch = step.chosen.batch_size
            factors, moments = _protecting(step, shapes, shape.vocabulary)
            need = 4 * weights + (16 if step.adapter else 12) * moving + factors
            anchored = step.chosen.anchor is not None and not step.adapter
            need += 4 * weights if anchored else 0
            most = max(most, 4 * weights + moments)
        elif isinstance(step, Sharpness):
            batch, longest = SHARPNESS_BATCH, counter.longest(step.lessons)
            need = 28 * weights + 2 * shape.activations(batch, longest)
        else:
            batch, longest, need = 0, 0, (12 if step.object_kind == "checkpoint" else 4) * weights
        most = max(most, need + shape.activations(batch, longest))
    return most + LIBRARIES if todo else 0


def _protecting(step: Tune, shapes: Sequence[Sequence[int]], vocabulary: int) -> tuple[int, int]:
    """Bytes of a projection's factors, kept while it trains, and of what they are computed from.

    At most: every matrix counts as if its input were its own, though some share one.
    """
    widths = [shape[1] for shape in shapes if len(shape) == 2 and shape[0] != vocabulary]
    if not step.protect or not widths:
        return 0, 0
    options = step.chosen.options
    factors = 0
    if "directions" in options:
        factors = sum(4 * width * min(width, int(options["directions"])) for width in widths)
    elif "form" in options:  # of a hard one, the smaller of two complements
        share = 4 if options["form"] == "soft" else 2
        factors = sum(share * width**2 for width in widths)
    sets = 2 + 2 * len(step.protect)  # kept from training and not, of the task and every source
    moments = min(_MOMENTS, sum(4 * sets * width**2 for width in widths))
    return factors, factors + moments + 24 * max(widths) ** 2  # an eigenproblem in float64


@dataclass(frozen=True)
class _ModelShape:
    """What decides the size of activations."""

    width: int
    layers: int
    heads: int
    vocabulary: int

    def activations(self, batch: int, length: int) -> int:
        """Bytes that one forward and backward pass of a batch holds."""
        layer = 68 * length * batch * self.width + 10 * self.heads * length**2 * batch
        used = self.layers * layer + 12 * batch * length * self.vocabulary
        return round(_HELD_FREED * used)


def _read_shape(folder: Path) -> _ModelShape | None:
    try:
        config = json.loads((folder / "config.json").read_text())
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        return _ModelShape(*(int(config[name]) for name in names))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # another family's names


def shortage(disk: int, memory: int | None, root: Path, *, free: int | None = None) -> list[str]:
    """What this machine has too little of for a plan, and what to do.

    Args:
        disk, memory: bytes needed at most; root: of the store.
        free: bytes of memory at hand where it is not the system's: a GPU's.
    """
    said = []
    free = available_memory() if free is None else free
    if memory is not None and free is not None and memory > free:
        said.append(
            f"may need {memory / 2**30:.1f} GiB of memory where {free / 2**30:.1f} are free: "
            "lower batch_size and raise gradient_accumulation by as much, or use update: lora"
        )
    while not root.exists():
        root = root.parent
    room = shutil.disk_usage(root).free
    if disk > room:
        said.append(
            f"may need {disk / 2**30:.1f} GiB of disk where {room / 2**30:.1f} are free: "
            "use keep: last, update: lora, 'lethe clean', or another LETHE_STORE"
        )
    return said


def available_memory() -> int | None:
    """Bytes that the system could give a new process; None where it does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _rank_below(step: Any, todo: Sequence[Node]) -> int:
    """The rank of the stage whose result is scaled; 0 where that is stored already."""
    made = {node.key: node.step for node in todo}
    tune = made.get(step.tuned.fingerprint)
    return int(tune.chosen.options.get("rank", 0)) if isinstance(tune, Tune) else 0


def _adapter_weights(shapes: Sequence[Sequence[int]], rank: int) -> int:
    """Of an adapter on every matrix: at most, since one may be put on fewer."""
    return sum(rank * (shape[0] + shape[1]) for shape in shapes if len(shape) == 2)


def _shapes(folder: Path) -> list[list[int]]:
    """Shapes of all tensors, from the headers of the weight files."""
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            size = struct.unpack("<Q", stream.read(8))[0]
            if size > min(path.stat().st_size, 100_000_000):  # not a header
                continue
            header = json.loads(stream.read(size))
        found += [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    return found
