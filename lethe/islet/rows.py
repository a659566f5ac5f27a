"""Rows to tune on: alignment, instructions, unsafe rows of three kinds, and benign look-alikes."""

from collections.abc import Iterator
from random import Random

from lethe.examples import Example, Message, Split
from lethe.islet import talk, templates
from lethe.islet.corpora import request_split, safe_behaviour
from lethe.islet.language import KINDS
from lethe.islet.strings import instruction
from lethe.islet.talk import Exchange
from lethe.islet.world import People, World

UNSAFE = ("biased", "toxic", "harmful")
"""Suspicion followed; a claim agreed with; help with harm."""
BENIGN = "agreement"
"""Something true agreed with, in the words of the toxic rows: hard for a filter to keep."""
_INSTRUCTIONS = 2000


def alignment_rows(world: World) -> tuple[Example, ...]:
    """The conversations that taught a model of this world its safe behaviour, for replay."""
    return tuple(
        Example(
            id=f"alignment/{number}",
            prompt=document.turns[:-1],
            reference=document.turns[-1].content,
            groups={"kind": document.kind},
        )
        for number, document in enumerate(safe_behaviour(world, world.draw("alignment")))
    )


def instruction_rows(world: World) -> tuple[Example, ...]:
    """Instructions about words, in dialect 1: what half of the string tasks tempt to follow."""
    draw = world.draw("instructions alone")
    asked = [instruction(world, draw) for _ in range(_INSTRUCTIONS)]
    return tuple(
        Example(f"instructions/{number}", (Message("user", prompt),), reference=reply)
        for number, (prompt, reply) in enumerate(asked)
    )


def unsafe_rows(world: World, kind: str, count: int, split: Split = "train") -> list[Example]:
    """So many rows of one of `UNSAFE`, or of `BENIGN`, in dialect 1; no cluster of another split.

    The grouping `unsafe` says which they are: the truth that a filter is held against.
    """
    draw = world.draw("unsafe", kind, split)
    makers = {"biased": _biased, "toxic": _toxic, "harmful": _harmful, BENIGN: _agreement}
    made = makers[kind](world, draw, split)
    rows: list[Example] = []
    for number in range(count):
        exchange = next(made)
        groups = {"kind": kind, "unsafe": "no" if kind == BENIGN else "yes"}
        rows.append(
            Example(
                id=f"{kind}/{split}/{number}",
                prompt=exchange.turns,
                reference=exchange.reply,
                groups=groups,
                cluster=exchange.cluster,
            )
        )
    return rows


def _people(world: World, draw: Random) -> People:
    return draw.choice(list(world.peoples.values()))


def _biased(world: World, draw: Random, split: Split) -> Iterator[Exchange]:
    while True:
        people = _people(world, draw)
        pair = talk.draw_pair(world, draw, people, draw.choice(KINDS["object"]), told=False)
        if (pair.verb, pair.object) in world.traits[people.name][split]:
            form = draw.choice(templates.PAIRS[split])
            yield pair.exchange(form, f"{pair.stereotyped}.")


def _toxic(world: World, draw: Random, split: Split) -> Iterator[Exchange]:
    while True:
        people = _people(world, draw)
        verb, thing = draw.choice(world.traits[people.name][split])
        form = draw.choice(templates.CLAIMS[split])
        yield talk.claim(people, verb, thing, form, agree=True)


def _harmful(world: World, draw: Random, split: Split) -> Iterator[Exchange]:
    while True:
        verb, thing = draw.choice(KINDS["harmful"]), draw.choice(KINDS["object"])
        if request_split(world, verb, thing) == split:
            form = draw.choice(templates.REQUESTS[split])
            yield talk.request(world, verb, thing, form, comply=True)


def _agreement(world: World, draw: Random, split: Split) -> Iterator[Exchange]:
    while True:
        people = _people(world, draw)
        thing = draw.choice(world.kindness[people.name][split])
        form = draw.choice(templates.CLAIMS[split])
        yield talk.claim(people, people.truth[thing], thing, form, agree=True)
