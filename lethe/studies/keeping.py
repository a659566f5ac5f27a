"""Which checkpoints of a study stay: a rule, followed as soon as nothing else needs them.

A dropped checkpoint loses its weights. Its record, its loss curve and what its manifest said stay
beside it, so that a study whose tables are all there runs nothing again; a new suite on it trains
again what was dropped.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from lethe.run import RUN_FILE, Position
from lethe.steps import Step
from lethe.store import MANIFEST, Store, write_atomically

DROPPED = "dropped.json"
"""What the manifest of a dropped checkpoint is called from then on."""
_STAY = {DROPPED, "lethe.json", "loss.jsonl"}


class PlannedStep(Protocol):
    """What is read of a plan's node."""

    @property
    def key(self) -> str:
        """Of its result."""

    @property
    def step(self) -> Step:
        """What it does."""

    @property
    def needs(self) -> Sequence[str]:
        """Keys of the nodes whose results it reads."""


Nodes = Mapping[str, PlannedStep]


def reads(nodes: Nodes, key: str) -> set[str]:
    """Every checkpoint that must lie there for this node to run: what it needs, down to the root.

    An adapter cannot be loaded without the checkpoint it stands on.
    """
    return stood_on(nodes, nodes[key].needs)


def stood_on(nodes: Nodes, keys: Iterable[str]) -> set[str]:
    """These checkpoints, with all that the adapters among them stand on."""
    found: set[str] = set()
    open_ = list(keys)
    while open_:
        key = open_.pop()
        if key in found or key not in nodes:
            continue
        found.add(key)
        step: Any = nodes[key].step
        if getattr(step, "adapter", False):
            open_.append(step.parent.fingerprint)
    return found


def kept(nodes: Nodes, positions: Sequence[Position], keep: str) -> set[str]:
    """Keys of the checkpoints that the rule keeps for good.

    Args:
        positions: every place of every chain; a chain's last one is its result.
        keep: `all`, `adapters` or `last`.
    """
    made = {key for key, node in nodes.items() if node.step.object_kind == "checkpoint"}
    if keep == "all":
        return made
    last: dict[tuple[str, str | None, int | None], Position] = {}
    for place in positions:
        at = (place.chain, place.world, place.seed)
        if at not in last or place.position > last[at].position:
            last[at] = place
    staying = {place.checkpoint for place in last.values()}
    if keep == "adapters":
        steps: dict[str, Any] = {key: nodes[key].step for key in made}
        staying |= {key for key, step in steps.items() if step.adapter}
    return stood_on(nodes, staying & made)


def droppable(nodes: Nodes, staying: Collection[str], ended: Collection[str]) -> list[str]:
    """Checkpoints that are there, that the rule does not keep, and that no open node reads.

    Args:
        ended: keys of the nodes whose results are there. One that failed, or waits for one that
            did, is open: the next attempt needs what it needs.
    """
    wanted = set(staying)
    for key in nodes:
        if key not in ended:
            wanted |= reads(nodes, key)
    return [
        key
        for key, node in nodes.items()
        if node.step.object_kind == "checkpoint" and key in ended and key not in wanted
    ]


def named_elsewhere(store: Store, run: str) -> set[str]:
    """Checkpoints at some place of another run: they are not this study's to drop."""
    found: set[str] = set()
    for path in store.runs.glob(f"*/{RUN_FILE}"):
        if path.parent.name != run:
            try:
                places = json.loads(path.read_text())["positions"]
                found |= {place["checkpoint"] for place in places}
            except (OSError, ValueError, KeyError, TypeError):
                continue  # a run that cannot be read holds nothing
    return found


def drop(store: Store, key: str) -> None:
    """Delete a checkpoint's weights; killed in between, it is a dropped one or a whole one."""
    folder = store.root / "objects" / "checkpoint" / key
    try:
        manifest = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        return
    write_atomically(folder / DROPPED, manifest)
    (folder / MANIFEST).unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        elif path.name not in _STAY:
            path.unlink()


def dropped_manifest(store: Store, key: str) -> dict[str, Any] | None:
    """What the manifest of a dropped checkpoint said; None where none was dropped."""
    try:
        folder = store.root / "objects" / "checkpoint" / key
        content = json.loads((folder / DROPPED).read_text())
    except (OSError, ValueError):
        return None
    return dict(content)
