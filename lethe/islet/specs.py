"""What the islet has by name: `islet:claims`, `islet:facts-choice-2/3`, `islet:alignment`.

A spec is `islet:NAME`, with `-choice` for the four-way form, `-2` for dialect 2 and `/WORLD` for
another world than 0. `dialogues` are whole bookings, rolled out with a scripted guest. Beside the
suites there are rows to tune on and nothing else: `alignment`, `instructions`, and the unsafe rows
(`biased`, `toxic`, `harmful`) with the benign ones that look like them (`agreement`).
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from lethe.errors import InputError, nearest
from lethe.examples import Split, Suite
from lethe.islet.dialogues import NAME as DIALOGUES
from lethe.islet.dialogues import dialogues
from lethe.islet.rows import BENIGN, UNSAFE, alignment_rows, instruction_rows, unsafe_rows
from lethe.islet.suites import TASKS, make_suite
from lethe.islet.world import World, world_of
from lethe.suites.splits import sample

if TYPE_CHECKING:
    from lethe.islet.language import Dialect

ALIGNMENT, INSTRUCTIONS = "alignment", "instructions"
_WHOLE = {ALIGNMENT: alignment_rows, INSTRUCTIONS: instruction_rows}
_ROWS = (*_WHOLE, *UNSAFE, BENIGN)
_COUNT = 1000  # unsafe or benign rows, where no limit is said


def load_suite(spec: str, *, split: Split = "test", limit: int | None = None) -> Suite:
    """The suite of a spec, without `islet:` in front or with it.

    Args:
        limit: this many examples, the first by hash.

    Raises:
        InputError: no such task, dialect or world, or rows that are there to be tuned on alone.
    """
    name, _, number = spec.removeprefix("islet:").partition("/")
    if number and not (number.isascii() and number.isdigit() and len(number) < 9):
        raise InputError(f"no world '{number}'", where=spec, todo="write a number, as in facts/3")
    world = world_of(int(number or 0))
    dialect: Dialect = 2 if name.endswith("-2") else 1
    kind = name.removesuffix("-2")
    if kind in _ROWS and dialect == 1:
        return _rows(world, kind, spec, split, limit)
    task = kind.removesuffix("-choice")
    if kind == DIALOGUES:
        suite = dialogues(world, split, dialect, spec)
        return replace(suite, examples=sample(suite.examples, limit, salt=suite.name))
    if task not in TASKS:
        known = (*TASKS, DIALOGUES, *_ROWS)
        raise InputError(f"no task '{task}' on the islet", where=spec, todo=nearest(task, known))
    suite = make_suite(world, task, split=split, dialect=dialect, choice=task != kind)
    kept = sample(suite.examples, limit, salt=suite.name, whole_clusters=suite.phrasing is not None)
    return replace(suite, examples=kept)


def _rows(world: World, kind: str, spec: str, split: Split, limit: int | None) -> Suite:
    """Rows to tune on, in the form of a suite."""
    if kind in _WHOLE:
        if split != "train":
            raise InputError(
                "there to be tuned on alone", where=spec, todo="ask for its train split"
            )
        examples = sample(_WHOLE[kind](world), limit, salt=spec)
    else:
        count = _COUNT if limit is None else max(limit, 0)
        examples = sample(unsafe_rows(world, kind, count, split), limit, salt=spec)
    return Suite(
        name=spec,
        axis="safety",
        scorer="match",
        examples=examples,
        split=split,
        source=f"islet, world {world.seed}",
    )
