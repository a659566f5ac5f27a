"""What a plan would cost: steps, tokens, minutes, disk. From files alone; no torch."""

import json
import math
import struct
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lethe.examples import Example, Suite
from lethe.measure import Measure
from lethe.models.checkpoint import weights_fingerprint
from lethe.models.fingerprint import FingerprintMemory
from lethe.plan import Node, Plan
from lethe.store import Store
from lethe.tuning.mix import Lessons
from lethe.tuning.rows import target_of
from lethe.tuning.step import Tune

_BYTES_A_TOKEN = 4  # of English, roughly, where no tokenizer can be read
_SAMPLE = 500  # examples of which tokens are counted; more are estimated from these
_BYTES_A_ROW = 300  # of a table of scores
_WHILE_TRAINING = 36  # bytes a moving weight: three checkpoints of it and its two moments


@dataclass(frozen=True)
class Estimate:
    """What a plan would cost.

    Attributes:
        steps: kind → how many in all; `cached` of them in the store; `tentative` after a choice.
        tokens: trained on by what is not cached; `counted` how they were told (`tokenizer` counts
            text alone, without what a chat template adds; `bytes` is a guess).
        minutes: of everything not cached; None where nothing like it was run yet.
        peak_disk: bytes that the store may grow by while it runs.
    """

    steps: Mapping[str, int]
    cached: Mapping[str, int]
    tentative: int
    positions: int
    tokens: int
    counted: str
    minutes: float | None
    peak_disk: int
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
    weights = {weights_fingerprint(base.root.folder, memory) for base in plan.bases.values()}
    rates = _training_rates(store, weights) if tokens else {}
    return Estimate(
        steps=dict(Counter(node.step.kind for node in nodes)),
        cached=dict(Counter(node.step.kind for node in nodes if node.cached)),
        tentative=sum(node.tentative for node in nodes),
        positions=len(plan.positions),
        tokens=sum(tokens.values()),
        counted=counter.how,
        minutes=_minutes(nodes, tokens, rates, store),
        peak_disk=_disk(todo, base.root.folder),
        choices=[_choice(choice) for choice in plan.choices],
        notes=plan.notes,
    )


def _choice(choice: Any) -> str:
    tried = ", ".join(f"{rate:g}: {score:.3f}" for rate, (score, _) in choice.scores.items())
    state = "open" if choice.rate is None else f"chose {choice.rate:g}"
    failed = f"; failed: {', '.join(f'{rate:g}' for rate in choice.failed)}"
    return f"{choice.arm}: {state}{f' ({tried})' if tried else ''}{failed if choice.failed else ''}"


class _Counter:
    """Tokens of a stage, each set of examples counted once."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Any = None
        self._means: dict[int, float] = {}
        path = folder / "tokenizer.json"
        if path.is_file():
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(path))
        self.how = "bytes" if self._tokenizer is None else "tokenizer"

    def tokens(self, step: Tune) -> int:
        """Tokens the stage trains on over all its passes, its replayed rows among them."""
        chosen, rows = step.chosen, len(step.lessons.examples)
        if chosen.max_steps is not None:
            total = chosen.max_steps * chosen.batch_size * chosen.gradient_accumulation
        else:
            assert chosen.epochs is not None
            total = round(chosen.epochs * (rows - min(chosen.held_out, rows // 10)))
        earlier = 0 if step.replay is None else step.replay.count(total)
        count = (total - earlier) * self._mean(step.lessons)
        if step.replay is not None:
            count += earlier * self._mean(step.replay.earlier)
        return round(count)

    def _mean(self, lessons: Lessons) -> float:
        if id(lessons) not in self._means:
            every = math.ceil(len(lessons.examples) / _SAMPLE)
            texts = [_text(example) for example in lessons.examples[::every]]
            if self._tokenizer is None:
                sizes = [len(text.encode()) / _BYTES_A_TOKEN for text in texts]
            else:
                sizes = [len(found.ids) for found in self._tokenizer.encode_batch(texts)]
            self._means[id(lessons)] = sum(sizes) / max(1, len(sizes))
        return self._means[id(lessons)]


def _text(example: Example) -> str:
    prompt = example.prompt
    asked = prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)
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


def _disk(todo: Sequence[Node], folder: Path) -> int:
    """All results, and what one stage needs while it trains."""
    shapes = _shapes(folder)
    results, working = 0, 0
    for node in todo:
        step = node.step
        if isinstance(step, Measure):
            results += _BYTES_A_ROW * len(step.suite.examples)
            continue
        tune = step if isinstance(step, Tune) else None
        adapter = bool(getattr(step, "adapter", False))
        rank = int(tune.chosen.options.get("rank", 0)) if tune else _rank_below(step, todo)
        weights = _adapter_weights(shapes, rank) if adapter else sum(map(math.prod, shapes))
        results += 4 * weights
        if tune is not None:
            working = max(working, _WHILE_TRAINING * weights)
    return results + working


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
