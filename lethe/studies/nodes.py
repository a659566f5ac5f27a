"""The nodes of a plan, and an order in which each follows what it needs. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from lethe.errors import InputError
from lethe.steps import Step


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


def _of(node: Node) -> str:
    return f"step {node.step.title}"
