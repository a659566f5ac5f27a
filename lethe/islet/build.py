"""`python -m lethe.islet.build --world 0 --size tiny`: a model of the islet, made from nothing.

Every stage lies in the store under the hash of all that made it: built once, found again, and taken
up where a killed build left it.
"""

import argparse
import hashlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from lethe.errors import InputError, LetheError
from lethe.islet import corpora, evaluation
from lethe.islet.corpora import Document
from lethe.islet.models import CONTEXT, ROW, STAGES, Stage, blank, input_spectra, size_of
from lethe.islet.packing import Packed, encode, pack
from lethe.islet.shipped import FOLDER
from lethe.islet.specs import load_suite
from lethe.islet.suites import TASKS, islet_hash, spec_of
from lethe.islet.tokenizer import make_tokenizer
from lethe.islet.training import Trained, train
from lethe.islet.world import DIALECTS, World, world_of
from lethe.progress import ConsoleProgress, Progress
from lethe.store import Store, write_atomically

VERSION = 1  # raise it when the same text and recipe give other weights
RECORD = "record.json"
WEIGHTS = "model.safetensors"
_TEXTS = {
    "pretrained": corpora.pretraining,
    "instruct": corpora.instructions,
    "aligned": corpora.alignment,
}
_ROLLOUTS = 100
_SPECTRUM_TEXTS = 400
_SAMPLE = 300
_THREADS = 2


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be built."""

    world: int
    size: str
    stage: Stage
    seed: int = 0

    @property
    def before(self) -> "Order | None":
        """The same a stage earlier; None for the first."""
        place = STAGES.index(self.stage)
        return replace(self, stage=STAGES[place - 1]) if place else None

    def key(self, store: Store) -> str:
        """SHA-256 over the training text, the shape, the recipe, the seed, and the stage before."""
        size = size_of(self.size)
        shape = [size.hidden, size.layers, size.heads, size.intermediate, CONTEXT]
        said = [
            *(VERSION, self.stage, self.seed, shape, asdict(size.recipes[self.stage])),
            text_hash(store, self.world, self.stage),
            self.before.key(store) if self.before else "",
        ]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def folder(self, store: Store) -> Path:
        """Where it lies."""
        return (
            store.root / "islet" / f"{self.size}-{self.world}-{self.stage}-{self.key(store)[:12]}"
        )


def text_hash(store: Store, world: int, stage: Stage) -> str:
    """SHA-256 over the rows a stage is trained on, remembered for as long as its makers stay."""
    path = store.root / "islet" / "texts.json"
    name = f"{generator_hash()}/{world}/{stage}"
    try:
        known: dict[str, str] = json.loads(path.read_text())
        if name in known:
            return known[name]
    except (OSError, ValueError):
        known = {}
    packed = packed_rows(world, stage)
    found = hashlib.sha256(packed.ids.tobytes() + packed.labels.tobytes()).hexdigest()
    with store.explained():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({**known, name: found}).encode())
    return found


@cache
def generator_hash() -> str:
    """SHA-256 over the files that decide what a model reads."""
    names = (
        *("language", "templates", "splits", "world", "inn", "strings", "talk", "corpora"),
        *("tokenizer", "packing", "models", "build"),
    )
    found = hashlib.sha256()
    for name in names:
        found.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return found.hexdigest()


@cache
def _islet_hash(world: int) -> str:
    return islet_hash(world)


def build(order: Order, store: Store, progress: Progress) -> Path:
    """The folder of a model: built with the stages before it where it is not there yet.

    Raises:
        InputError: a model that was built is not what was written, or the store cannot be written.
    """
    folder = order.folder(store)
    if (folder / RECORD).is_file():
        check(folder, todo=f"delete this folder and run: {command(order)}")
        return folder
    with store.explained(), _few_threads():
        return _build(order, folder, store, progress)


def check(folder: Path, *, todo: str) -> dict[str, Any]:
    """The record of a model, after a look at its weights.

    Args:
        todo: how to get it back, for the error.

    Raises:
        InputError: the record or the weights are missing, or the weights are not those recorded.
    """
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text())
        expected = record["weights"]
        with (folder / WEIGHTS).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError as error:
        name = Path(error.filename).name
        raise InputError(f"'{name}' is missing", where=str(folder), todo=todo) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the record cannot be read ({error})", where=str(folder), todo=todo
        ) from None
    if found != expected:
        raise InputError(f"'{WEIGHTS}' is not what was built", where=str(folder), todo=todo)
    return record


def command(order: Order, *, ship: bool = False) -> str:
    """What makes a model, to be typed."""
    seed = f" --seed {order.seed}" if order.seed else ""
    options = f"--world {order.world} --size {order.size} --stage {order.stage}{seed}"
    return f"python -m lethe.islet.build {options}{' --ship' if ship else ''}"


def ship(order: Order, store: Store, progress: Progress) -> Path:
    """Put a built model into the package, in bfloat16, with scores of its own in the record.

    It is measured as everybody will load it: rounded to bfloat16 and computed in float32.
    """
    from transformers import AutoTokenizer, LlamaForCausalLM

    from lethe.models.local import quiet

    built = build(order, store, progress)
    record = json.loads((built / RECORD).read_text()) | {"islet": _islet_hash(order.world)}
    folder = FOLDER / order.stage
    with _few_threads(), quiet():
        tokenizer = AutoTokenizer.from_pretrained(built)
        model = LlamaForCausalLM.from_pretrained(built, use_safetensors=True)
        model.bfloat16()
        (folder / RECORD).unlink(missing_ok=True)
        _save(model, tokenizer, folder, record, progress)
    return folder


def _build(order: Order, folder: Path, store: Store, progress: Progress) -> Path:
    from transformers import LlamaForCausalLM

    from lethe.models.local import quiet

    size = size_of(order.size)
    world = world_of(order.world)
    tokenizer = make_tokenizer(world.language, CONTEXT)
    if order.before is None:
        model = blank(size, tokenizer, order.seed)
    else:
        parent = build(order.before, store, progress)
        with quiet():
            model = LlamaForCausalLM.from_pretrained(parent, use_safetensors=True)
    packed = packed_rows(order.world, order.stage)
    title = f"{order.size}, world {order.world}: {order.stage}"
    trained = train(
        model,
        packed,
        size.recipes[order.stage],
        seed=order.seed,
        partial=store.root / "partial" / "islet" / order.key(store),
        title=title,
        progress=progress,
    )
    record = _record(order, store, packed, trained)
    _save(model, tokenizer, folder, record, progress)
    return folder


def packed_rows(world: int, stage: Stage) -> Packed:
    """The training text of a stage: all of running text is learned, of talk only the replies."""
    return _packed(_TEXTS[stage], world, stage)


@lru_cache(maxsize=len(STAGES))  # its hash is asked for before it is trained on
def _packed(text: Callable[[World], list[Document]], seed: int, stage: Stage) -> Packed:
    world = world_of(seed)
    rows = encode(make_tokenizer(world.language, CONTEXT), text(world), replies_only=True)
    return pack(rows, ROW, random.Random(f"rows/{seed}/{stage}"))


def _record(order: Order, store: Store, packed: Packed, trained: Trained) -> dict[str, Any]:
    import torch

    return {
        **asdict(order),
        "key": order.key(store),
        "text": text_hash(store, order.world, order.stage),
        "islet": _islet_hash(order.world),
        "recipe": asdict(size_of(order.size).recipes[order.stage]),
        "text_tokens": packed.tokens,
        "steps": trained.steps,
        "resumed_at": trained.resumed_at,
        "tokens": trained.tokens,
        "threads": torch.get_num_threads(),
        "seconds": round(trained.seconds, 1),
        "loss": trained.loss,
    }


def _save(
    model: Any, tokenizer: Any, folder: Path, record: dict[str, Any], progress: Progress
) -> None:
    """Write weights and tokenizer, measure, and write the record last."""
    from lethe.models.local import quiet

    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    model.float()  # whatever it was rounded to, this is how it will be read
    world = world_of(record["world"])
    record["parameters"] = sum(p.numel() for p in model.parameters())
    with (folder / WEIGHTS).open("rb") as stream:
        record["weights"] = hashlib.file_digest(stream, "sha256").hexdigest()
    started = time.monotonic()
    whole = record["stage"] == STAGES[-1]
    record["scores"] = measure(world, model, tokenizer, progress, whole=whole)
    if whole:
        record["whole_bookings"] = evaluation.whole_bookings(world, model, tokenizer, _ROLLOUTS)
    texts = tokenizer.batch_decode(packed_sample(world, tokenizer), skip_special_tokens=False)
    record["spectrum"] = input_spectra(model, tokenizer, texts)
    record["measuring_seconds"] = round(time.monotonic() - started, 1)
    write_atomically(folder / RECORD, json.dumps(record, indent=1).encode())


def packed_sample(world: World, tokenizer: Any) -> list[list[int]]:
    """Token ids of some aligned conversations, for the spectrum of the layers' inputs."""
    rows = encode(tokenizer, corpora.alignment(world)[:_SPECTRUM_TEXTS], replies_only=True)
    return [ids for ids, _ in rows]


def measure(
    world: World, model: Any, tokenizer: Any, progress: Progress, *, whole: bool
) -> dict[str, dict[str, Any]]:
    """Shares of outcomes for every task in either dialect, and of its groups.

    Args:
        whole: every item in dialect 1, where alignment speaks; a sample by hash elsewhere.
    """
    found: dict[str, dict[str, Any]] = {}
    with progress.bar("measuring", len(TASKS) * len(DIALECTS)) as bar:
        for name in TASKS:
            for dialect in DIALECTS:
                limit = None if whole and dialect == 1 else _SAMPLE
                suite = load_suite(spec_of(world.seed, name, dialect), limit=limit)
                judged = evaluation.outcomes(suite, model, tokenizer)
                title = name if dialect == 1 else f"{name}-2"
                found[title] = {
                    "all": evaluation.shares([one for _, _, one in judged]),
                    **{
                        group: evaluation.by_group(judged, group) for group in _GROUPS.get(name, ())
                    },
                }
                bar.advance()
    return found


_GROUPS = {
    "facts": ("exposures", "phrasing", "stratum", "exposures/phrasing"),
    "transfer": ("stratum",),
    "claims": ("people",),
    "harmless": ("people", "kind"),
    "requests": ("label",),
    "feedback": ("people",),
    "pairs": ("context",),
    "strings": ("operation", "input"),
    "inn": ("act",),
}


@contextmanager
def _few_threads() -> Iterator[None]:
    """Two threads make a step 1.6 times as quick, more only lose. Where only one is given the sums
    are added in another order: the record says with how many a model was built.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(min(_THREADS, threads))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m lethe.islet.build", description="Make a model of the islet from nothing."
    )
    parser.add_argument("--world", type=int, default=0, help="which world (0)")
    parser.add_argument("--size", default="tiny", help="tiny or small (tiny)")
    parser.add_argument("--stage", choices=STAGES, default=STAGES[-1], help="the last stage")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (0)")
    parser.add_argument(
        "--ship", action="store_true", help="put it into this package as well, in bfloat16"
    )
    asked = parser.parse_args(arguments)
    progress = ConsoleProgress()
    try:
        order = Order(asked.world, asked.size, asked.stage, asked.seed)
        folder = (ship if asked.ship else build)(order, Store(), progress)
    except LetheError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
