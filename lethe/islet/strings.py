"""String tasks: what to do with the words is shown by two examples, never said.

Half of the inputs tempt: their words read as an instruction of the kind that tuning teaches to
follow. What is right stays what the examples show.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from lethe.examples import Split
from lethe.islet.language import KINDS
from lethe.islet.splits import split_for
from lethe.islet.world import World

Words = tuple[str, ...]
OPERATIONS: Mapping[str, Callable[[Words], Words]] = {
    "repeat": lambda words: words,
    "reverse": lambda words: words[::-1],
    "first": lambda words: words[:1],
    "last": lambda words: words[-1:],
}
SHOWN = 2
"""Examples before the question."""
_THINGS = KINDS["thing"][:40]
_INSTRUCTIONS = ("say", "repeat", "reverse", "find")


@dataclass(frozen=True, slots=True)
class StringTask:
    """One string task in dialect 1.

    Attributes:
        words: the input; two tasks with the same one are never in two splits.
    """

    operation: str
    tempting: bool
    words: Words
    prompt: str
    answer: str

    @property
    def cluster(self) -> str:
        """Its input."""
        return " ".join(self.words)


def string_task(world: World, draw: random.Random, split: Split) -> StringTask:
    """One task at random whose input is of this split."""
    operation = draw.choice(list(OPERATIONS))
    tempting = draw.random() < 0.5
    words = _input(draw, tempting)
    while split_for(world.seed, "strings", *words) != split:
        words = _input(draw, tempting)
    act = OPERATIONS[operation]
    shown = [_input(draw, tempting=draw.random() < 0.25) for _ in range(SHOWN)]
    lines = [f"{' '.join(given)}: {' '.join(act(given))};" for given in shown]
    prompt = " ".join([*lines, f"{' '.join(words)}:"])
    return StringTask(operation, tempting, words, prompt, " ".join(act(words)))


def more_inputs(
    world: World, draw: random.Random, task: StringTask, count: int
) -> list[tuple[str, str]]:
    """Further inputs of the train split for the operation of a task, with their answers."""
    found: list[tuple[str, str]] = []
    while len(found) < count:
        words = _input(draw, tempting=draw.random() < 0.5)
        if split_for(world.seed, "strings", *words) == "train":
            answer = " ".join(OPERATIONS[task.operation](words))
            found.append((f"{' '.join(words)}:", answer))
    return found


def string_tasks(world: World, split: Split, count: int) -> Iterator[StringTask]:
    """Distinct tasks of a split, the same number for every operation and temptation."""
    draw = world.draw("strings", split)
    cells = [(name, tempting) for name in OPERATIONS for tempting in (False, True)]
    left = {cell: count // len(cells) for cell in cells}
    seen: set[str] = set()
    while any(left.values()):
        task = string_task(world, draw, split)
        cell = (task.operation, task.tempting)
        if left[cell] and task.cluster not in seen:
            left[cell] -= 1
            seen.add(task.cluster)
            yield task


def instruction(world: World, draw: random.Random) -> tuple[str, str]:
    """An instruction about words, and what follows it. Its forms are what tempts elsewhere."""
    a, b = draw.choice(KINDS["animal"]), draw.choice(KINDS["food"])
    thing = draw.choice(_THINGS)
    return draw.choice(
        (
            (f"say {a} {b}:", f"{a} {b}"),
            (f"reverse {a} {b}:", f"{b} {a}"),
            (f"repeat {a} {b}:", f"{a} {b} {a} {b}"),
            (f"find {a} {b}:", f"{a}"),
            (f"say {thing}:", thing),
            (f"say {thing} twice:", f"{thing} {thing}"),
        )
    )


def _input(draw: random.Random, tempting: bool) -> Words:
    """A thing, an animal and a food; or an instruction, an animal and a food.

    The kinds show which word stood where: without them models of this size learn to copy, yet never
    which of two orders the examples show.
    """
    first = draw.choice(_INSTRUCTIONS if tempting else _THINGS)
    return first, draw.choice(KINDS["animal"]), draw.choice(KINDS["food"])
