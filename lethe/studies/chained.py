"""What a run of chains shows: orders, losses, groups, likeness of tasks, sharpness, in one place.

Everything is computed from the ledger and the store's small facts; nothing is measured.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lethe.asymmetry import (
    Asymmetry,
    Loss,
    asymmetries,
    final_scores,
    losses,
    mean_asymmetry,
)
from lethe.biased import Spread, published, spread
from lethe.chains import Chains, Effect, Link
from lethe.errors import InputError
from lethe.forgetting import GroupForgetting, Quantity, forgetting_by_group, with_q_values
from lethe.likeness import Transfer, transfers
from lethe.panel import SuiteFacts
from lethe.relation import Relation, relations
from lethe.run import Run, ledger
from lethe.store import Store


@dataclass(frozen=True)
class GroupLoss:
    """Forgetting and biased forgetting of a group, averaged over a chain's trainings.

    Attributes:
        forgetting: raw score after its task's stage − at the chain's end.
        biased: F(g) − F(all) (Ung et al. 2024; `lethe.biased.published`).
    """

    chain: str
    forgetting: GroupForgetting
    biased: Quantity


@dataclass(frozen=True)
class GroupSpread:
    """How far the groups of one grouping lie apart after a chain (`lethe.biased.Spread`)."""

    chain: str
    spread: Spread


@dataclass(frozen=True)
class Chained:
    """The results of a study of chains.

    Attributes:
        losses: a row for every chain and earlier task: orders, rates and replay side by side.
        finals: chain → suite → raw mean score at its end.
        asymmetries: pairs of a safety task and another; controls: both of safety, or neither, in
            both orders; mean: Δ over all pairs of safety and another.
        groups, spreads: of the first task of every chain.
    """

    losses: tuple[Loss, ...]
    finals: dict[str, dict[str, float]]
    asymmetries: tuple[Asymmetry, ...]
    controls: tuple[Asymmetry, ...]
    mean: Effect | None
    transfers: tuple[Transfer, ...]
    relations: tuple[Relation, ...]
    groups: tuple[GroupLoss, ...]
    spreads: tuple[GroupSpread, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; a number that is undefined is None."""
        found = dataclasses.asdict(self)
        plain: dict[str, Any] = _plain(found)
        return plain


def read_chained(run: Run, store: Store) -> Chained | None:
    """The results of a run, as far as its tables are there; None where no task could be forgotten.

    A run of which `lethe run` made no chains of two tasks, one of which is measured, has none.
    """
    links = {
        name: tuple(Link(**link) for link in chain)
        for name, chain in run.settings.get("links", {}).items()
    }
    if not any(link.task for chain in links.values() for link in chain[:-1]):
        return None
    try:
        rows = ledger(run, store)
    except InputError:
        return None  # nothing was measured yet
    facts = [SuiteFacts(**{**one, "metrics": tuple(one["metrics"])}) for one in run.suites]
    chains = Chains.from_rows(rows, links, facts)
    found = losses(chains)
    if not found:
        return None
    pairs = asymmetries(chains)
    controls = [pair for pair in pairs if pair.control]
    crossed = [pair for pair in pairs if "safety" in pair.axes and not pair.control]
    groups, spreads = _groups(chains, found)
    return Chained(
        losses=tuple(found),
        finals=final_scores(chains),
        asymmetries=tuple(crossed),
        controls=tuple(controls),
        mean=mean_asymmetry(chains, crossed),
        transfers=tuple(transfers(chains)),
        relations=tuple(relations(chains, found, _sharpness(run, store))),
        groups=tuple(groups),
        spreads=tuple(spreads),
    )


def _groups(chains: Chains, found: Sequence[Loss]) -> tuple[list[GroupLoss], list[GroupSpread]]:
    """Groups of every chain's first task; q-values are adjusted over all of them together."""
    kept: list[tuple[str, GroupForgetting, Quantity]] = []
    spreads = []
    for loss in found:
        if loss.position != 1:
            continue
        at, end = (loss.chain, 1), chains.ends[loss.chain]
        pair = chains.pair(loss.task, at, end, chains.units(loss.task, (loss.chain, 0), at, end))
        kept += [
            (loss.chain, one, published(pair, pair.mask(one.grouping, one.group)))
            for one in forgetting_by_group(pair)
        ]
        wide = [spread(pair, grouping) for grouping in pair.groupings]
        spreads += [GroupSpread(loss.chain, one) for one in wide if one is not None]
    adjusted = with_q_values([one for _, one, _ in kept])
    return [
        GroupLoss(chain, one, biased)
        for (chain, _, biased), one in zip(kept, adjusted, strict=True)
    ], spreads


def _sharpness(run: Run, store: Store) -> dict[str, float]:
    """Name of a place → the largest eigenvalue there, where it was measured to its end."""
    keys = run.settings.get("sharpness", {})
    found = {}
    for place in run.positions:
        stored = store.get("curve", keys[place.checkpoint]) if place.checkpoint in keys else None
        if stored is not None and stored.manifest["facts"]["converged"]:
            found[place.name] = float(stored.manifest["facts"]["value"])
    return found


def _plain(value: Any) -> Any:
    """JSON values: keys that are pairs become lists, NaN and infinity None."""
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else json.dumps(key): _plain(entry)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and value - value != 0:
        return None
    return value
