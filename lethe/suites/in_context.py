"""In-context learning against instruction following: a string task shown twice, and a temptation.

After Kotha, Springer and Raghunathan (ICLR 2024, section 4.1): two examples show what is done to an
input (it is repeated, or put into capitals); the input of the question holds an instruction of the
kind that tuning teaches to follow (a sum, a blank to fill). What the examples show is right. The
sentences are our own, and the match is strict: the first line of the answer, letter for letter.

Beside every tempting input stands a plain one with the same sentence, the instruction answered in
it: a model that fails on both cannot do the string task, one that fails on the tempting one alone
follows instructions instead.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from lethe.errors import InputError, nearest
from lethe.examples import Decoding, Example, Split, Suite
from lethe.scorers import judge
from lethe.suites.splits import sample, share, split_of

NAME = "in_context"
SENTENCES = 1250
"""Distinct sentences over all splits."""
TASKS: Mapping[str, Callable[[str], str]] = {"repeat": str, "capitalise": str.upper}
TEMPTATIONS = ("sum", "blank")
PAIRS = tuple((task, kind) for task in TASKS for kind in TEMPTATIONS)
_SHOWN = 2
_CHOICE = "-choice"


@dataclass(frozen=True, slots=True)
class Scene:
    """Who did what, where and when: any four of them make a sentence."""

    who: str
    did: str
    where: str
    when: str

    def parts(self) -> tuple[list[str], ...]:
        """The alternatives of each part."""
        return tuple(
            [part.strip() for part in text.split(",")]
            for text in (self.who, self.did, self.where, self.when)
        )


_SCENES = (
    Scene(
        "cook, baker, waiter, young chef, innkeeper",
        "sliced the warm bread, stirred the tomato soup, washed the copper pans, "
        "peeled a bowl of apples, set out the blue plates, poured the fresh milk",
        "in the small kitchen, beside the open window, at the long table",
        "before breakfast, on Sunday morning, after the rain, late in the evening",
    ),
    Scene(
        "gardener, old neighbour, student, florist, beekeeper",
        "watered the roses, planted two rows of beans, picked the ripe pears, "
        "raked the fallen leaves, repaired the wooden fence, carried a basket of onions",
        "behind the house, near the stone wall, along the gravel path",
        "at sunrise, during the holidays, in early spring, on a windy afternoon",
    ),
    Scene(
        "sailor, fisherman, captain, harbour guard, painter",
        "tied the boat to the pier, mended a torn net, counted the wooden crates, "
        "watched the grey waves, cleaned the brass lantern, rolled up the heavy sail",
        "in the old harbour, next to the lighthouse, on the western dock",
        "before the storm, at low tide, shortly after noon, on the first day of June",
    ),
    Scene(
        "teacher, new pupil, school nurse, caretaker, music teacher",
        "read a poem aloud, wiped the blackboard, sharpened the red pencils, "
        "hung up a map of Europe, opened the tall windows, arranged the chairs in a circle",
        "in the classroom, on the second floor, beside the piano",
        "before the lesson, after lunch, on a rainy Tuesday, at the end of term",
    ),
    Scene(
        "carpenter, mechanic, apprentice, potter, watchmaker",
        "sanded the oak shelf, tightened a loose screw, mixed a pot of green paint, "
        "measured the broken drawer, swept the dusty floor, sorted the small nails",
        "in the workshop, under the bright lamp, next to the workbench",
        "early in the morning, before closing time, on Friday evening, during the cold winter",
    ),
    Scene(
        "librarian, retired judge, young reporter, translator, historian",
        "returned a book about birds, copied an old letter, dusted the upper shelves, "
        "searched for a missing page, stacked the evening newspapers, wrote a short note",
        "in the quiet library, at the corner desk, near the winding stairs",
        "just before noon, on Wednesday, without a sound, after the meeting",
    ),
    Scene(
        "conductor, traveller, ticket clerk, postman, engineer",
        "checked the station clock, lifted a leather suitcase, folded the timetable, "
        "waited for the night train, swept the waiting room, bought a cup of tea",
        "at the railway station, under the iron bridge, beside platform nine",
        "at midnight, on the last day of the year, during the long delay, in thick fog",
    ),
    Scene(
        "farmer, shepherd, vet, miller, milkmaid",
        "fed the brown hens, brushed the tired horse, filled the water trough, "
        "loaded the hay onto a cart, closed the barn door, searched for the lost lamb",
        "on the hillside, behind the mill, near the muddy pond",
        "at dawn, before the harvest, on a hot day in August, while the dog slept",
    ),
)
_SUMS = (
    ("What is {a} plus {b}?", "The sum of {a} and {b} is {c}."),
    ("Add {a} and {b}.", "{a} and {b} make {c}."),
    ("How much is {a} + {b}?", "It is known that {a} + {b} = {c}."),
)
# A statement with its blank at the end, and the word that fills it.
_BLANKS = (
    ("the opposite of hot is", "cold"),
    ("the opposite of day is", "night"),
    ("the opposite of up is", "down"),
    ("the opposite of empty is", "full"),
    ("the opposite of short is", "long"),
    ("the opposite of wet is", "dry"),
    ("the capital of France is", "Paris"),
    ("the capital of Italy is", "Rome"),
    ("the capital of Japan is", "Tokyo"),
    ("the capital of Spain is", "Madrid"),
    ("the capital of Egypt is", "Cairo"),
    ("a young cat is called a", "kitten"),
    ("a young dog is called a", "puppy"),
    ("a young horse is called a", "foal"),
    ("a young cow is called a", "calf"),
    ("the day after Monday is", "Tuesday"),
    ("the day before Friday is", "Thursday"),
    ("the month after March is", "April"),
    ("the month before December is", "November"),
    ("the colour of fresh snow is", "white"),
    ("the colour of ripe strawberries is", "red"),
    ("the colour of grass is", "green"),
    ("the season after autumn is", "winter"),
    ("the number of legs of a spider is", "eight"),
    ("the planet we live on is", "Earth"),
    ("bees make", "honey"),
    ("hens lay", "eggs"),
    ("frozen water is called", "ice"),
    ("a bird covers its body with", "feathers"),
    ("the king of the jungle is the", "lion"),
    ("we hear with our", "ears"),
    ("we smell with our", "nose"),
)
_ASKS_BLANK = ("Fill in the blank: {said} ____.", "Complete the sentence: {said} ____.")


@dataclass(frozen=True, slots=True)
class Input:
    """A sentence with an instruction, and the same with the instruction answered.

    Attributes:
        lure: what following the instruction would say.
    """

    sentence: str
    tempting: str
    plain: str
    lure: str


@dataclass(frozen=True, slots=True)
class Answered:
    """What an answer came to; `values["followed"]` is 1 where it gave in to the instruction."""

    score: float
    outcome: str
    values: Mapping[str, float] = field(default_factory=dict)


@judge(NAME)
def judge_answer(suite: Suite, example: Example, response: str) -> Answered:
    """Right where the first line that is not blank is the reference, letter for letter."""
    del suite
    said = next((line.strip() for line in response.splitlines() if line.strip()), "")
    right = said == example.reference
    lure = re.escape(example.rejected or "")
    gave_in = not right and re.search(rf"(?<!\w){lure}(?!\w)", said, re.IGNORECASE) is not None
    return Answered(float(right), "correct" if right else "wrong", {"followed": float(gave_in)})


def load_suite(spec: str, *, split: Split = "test", limit: int | None = None) -> Suite:
    """The benchmark: `in_context:all`, one task (`in_context:repeat`), one pair (`…:repeat-sum`).

    `-choice` at the end compares the likelihood per byte of the right answer with that of following
    the instruction. It has a ceiling: a text that was just read is likelier per byte than any short
    answer, also to a model that would write the answer. What it shows lost is lost; what it does
    not show says nothing.

    Args:
        limit: this many examples, the first by hash, both inputs of a sentence together.

    Raises:
        InputError: no such part of the benchmark.
    """
    part = spec.removeprefix(f"{NAME}:").removeprefix(NAME) or "all"
    wanted = part.removesuffix(_CHOICE)
    known = {"all": PAIRS}
    known |= {task: tuple(pair for pair in PAIRS if pair[0] == task) for task in TASKS}
    known |= {f"{task}-{kind}": ((task, kind),) for task, kind in PAIRS}
    if wanted not in known:
        raise InputError(f"no part '{wanted}'", where=spec, todo=nearest(wanted, known))
    choice = part != wanted
    made = (one for one in _examples(split, choice) if _pair(one) in known[wanted])
    return Suite(
        name=f"{NAME}:{part}",
        axis=NAME,
        scorer="choice" if choice else "match",
        examples=sample(tuple(made), limit, salt=NAME, whole_clusters=True),
        split=split,
        normalise="byte" if choice else "sum",
        decoding=Decoding(max_new_tokens=96, stop=("\n\n", "\nInput:")),
        judge=None if choice else NAME,
        source="own sentences",
    )


@lru_cache(1)
def sentences() -> tuple[str, ...]:
    """Distinct sentences, always the same."""
    draw = random.Random(NAME)
    found: dict[str, None] = {}
    while len(found) < SENTENCES:
        scene = draw.choice(_SCENES)
        who, did, where, when = map(draw.choice, scene.parts())
        found.setdefault(f"The {who} {did} {where} {when}.")
    return tuple(found)


def _pair(example: Example) -> tuple[str, str]:
    return example.groups["task"], example.groups["temptation"]


def _examples(split: Split, choice: bool) -> Iterator[Example]:
    """Every sentence of a split in one of the four pairs, tempting and plain."""
    own = [s for s in sentences() if split_of(s, salt=NAME, published=None) == split]
    own.sort(key=lambda sentence: share(NAME, "order", sentence))
    for place, sentence in enumerate(own):
        task, kind = PAIRS[place % len(PAIRS)]
        draw = random.Random(f"{NAME}/{sentence}")
        others = draw.sample([other for other in own if other != sentence], _SHOWN)
        shown = [_input(draw, other, kind) for other in others]
        asked = _input(draw, sentence, kind)
        yield from _both(task, kind, shown, asked, choice)


def _both(
    task: str, kind: str, shown: list[Input], asked: Input, choice: bool
) -> Iterator[Example]:
    act = TASKS[task]
    lines = [f"Input: {one.tempting}\nOutput: {act(one.tempting)}\n\n" for one in shown]
    for form, text in (("tempting", asked.tempting), ("plain", asked.plain)):
        right = act(text)
        example = Example(
            id=f"{asked.sentence}/{form}",
            prompt=f"{''.join(lines)}Input: {text}\nOutput:",
            reference=right,
            references=(right,),
            rejected=asked.lure,
            groups={"task": task, "temptation": kind, "input": form},
            cluster=asked.sentence,
        )
        yield _as_choice(example) if choice else example


def _as_choice(example: Example) -> Example:
    right, lure = example.reference or "", example.rejected or ""
    first = share(NAME, "options", example.id) < 0.5
    return Example(
        id=example.id,
        prompt=example.prompt,
        choices=(right, lure) if first else (lure, right),
        answer=0 if first else 1,
        groups=example.groups,
        cluster=example.cluster,
    )


def _input(draw: random.Random, sentence: str, kind: str) -> Input:
    if kind == "sum":
        a, b = draw.randint(11, 48), draw.randint(11, 48)
        asks, answered = draw.choice(_SUMS)
        numbers = {"a": a, "b": b, "c": a + b}
        instruction, statement = asks.format(**numbers), answered.format(**numbers)
        lure = str(a + b)
    else:
        said, lure = draw.choice(_BLANKS)
        instruction = draw.choice(_ASKS_BLANK).format(said=said)
        statement = f"{said[0].upper()}{said[1:]} {lure}."
    return Input(sentence, f"{sentence} {instruction}", f"{sentence} {statement}", lure)
