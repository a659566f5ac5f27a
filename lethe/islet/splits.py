"""Which split a cluster of the islet belongs to, and what must never stand in two."""

import random
from collections.abc import Sequence
from typing import TypeVar

from lethe.examples import Split
from lethe.suites.splits import split_of

T = TypeVar("T")


def split_for(world: int, kind: str, *parts: object) -> Split:
    """Train 40, dev 10, test 40, protect 10 %, by hash of what the cluster is about."""
    cluster = "/".join(str(part) for part in parts)
    return split_of(cluster, salt=f"islet/{world}/{kind}", published=None)


def divide(
    items: Sequence[T], counts: Sequence[tuple[Split, int]], draw: random.Random
) -> dict[Split, tuple[T, ...]]:
    """Items dealt out at random: so many to each split, all of them used."""
    if sum(count for _, count in counts) != len(items):
        raise ValueError("the counts of the splits must sum to the number of items")
    shuffled = draw.sample(list(items), len(items))
    found: dict[Split, tuple[T, ...]] = {}
    start = 0
    for split, count in counts:
        found[split] = tuple(shuffled[start : start + count])
        start += count
    return found
