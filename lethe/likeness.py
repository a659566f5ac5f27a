"""Likeness of tasks: what tuning on one task alone did to another."""

from dataclasses import dataclass

from lethe.chains import Chains, Effect, effect


@dataclass(frozen=True)
class Transfer:
    """What tuning the base on one task alone did to another: how alike the two are.

    Attributes:
        transfer: score on `target` after the stage on `source` − the base's.
        own: the gain of `target`'s own first stage.
        share: transfer / own, where own's interval over items is above zero, else None. 1: as
            good as training on it; 0: unrelated; below 0: the tasks disturb one another.
    """

    source: str
    target: str
    transfer: Effect
    own: Effect
    share: float | None


def transfers(chains: Chains) -> list[Transfer]:
    """First stages held against each other: what each did to the tasks of the others.

    The base is position 0, the first stage position 1; of chains that begin alike the first is
    taken.
    """
    first: dict[str, tuple[str, str]] = {}
    for name, links in chains.links.items():
        if links[0].task in chains.panels:
            first.setdefault(links[0].label, (name, links[0].task or ""))
    found = []
    for source, (chain, _) in first.items():
        for target, (own_chain, task) in first.items():
            places = [(chain, 0), (chain, 1), (own_chain, 0), (own_chain, 1)]
            units = chains.units(task, *places)
            if source == target or not units:
                continue
            transfer = effect(chains, task, units, [(1.0, places[1], places[0])])
            own = effect(chains, task, units, [(1.0, places[3], places[2])])
            learned = own.items.low > 0
            share = transfer.estimate / own.estimate if learned else None
            found.append(Transfer(source, target, transfer, own, share))
    return found
