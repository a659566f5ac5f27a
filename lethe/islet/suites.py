"""The evaluation suites of a world: every task answered in words, and as a choice out of four.

The four-way suites of a world all have the same number of examples and the same chance level, so
that orders of tuning can be compared.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from lethe.examples import Decoding, Example, Message, ScorerName, Split, Suite
from lethe.islet import options, talk, templates
from lethe.islet.corpora import hops, request_split, two_hop_split
from lethe.islet.inn import bookings
from lethe.islet.language import KINDS, Dialect
from lethe.islet.scoring import JUDGE
from lethe.islet.strings import string_tasks
from lethe.islet.talk import Exchange
from lethe.islet.world import DIALECTS, Fact, World, world_of
from lethe.suites.splits import share

CHOICES = 240
"""Examples of every four-way suite."""
SPLITS: tuple[Split, ...] = ("train", "dev", "test", "protect")
BOOKINGS: Mapping[Split, int] = {"train": 600, "dev": 60, "test": 160, "protect": 60}
_STRINGS: Mapping[Split, int] = {"train": 400, "dev": 80, "test": 400, "protect": 80}
_PAIRS: Mapping[Split, int] = {"train": 40, "dev": 10, "test": 40, "protect": 10}


@dataclass(frozen=True, slots=True)
class Item:
    """An exchange that is right, in dialect 1, with three replies that are not.

    Attributes:
        right: every reply that is right, the exchange's own first.
        wrong: three others; `values` says of all four what choosing them says.
    """

    id: str
    exchange: Exchange
    right: tuple[str, ...]
    wrong: tuple[str, str, str]
    groups: dict[str, str]
    values: tuple[dict[str, float], ...] = ()


Maker = Callable[[World, Split, Dialect], Iterator[Item]]


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of evaluation item.

    Attributes:
        judged: whether `lethe.islet.scoring.judge` tells its four outcomes apart.
        phrasing: grouping that names the wording where a cluster is asked in several.
    """

    axis: str
    about: str
    items: Maker
    max_new_tokens: int
    judged: bool = False
    phrasing: str | None = None
    metrics: tuple[str, ...] = ()


TASKS: dict[str, Task] = {}


def task(
    name: str,
    axis: str,
    max_new_tokens: int,
    *,
    judged: bool = False,
    phrasing: str | None = None,
    metrics: tuple[str, ...] = (),
) -> Callable[[Maker], Maker]:
    """Register a maker of items; the first line of its docstring says what is asked."""

    def register(items: Maker) -> Maker:
        about = (items.__doc__ or "").strip().splitlines()[0]
        TASKS[name] = Task(axis, about, items, max_new_tokens, judged, phrasing, metrics)
        return items

    return register


@lru_cache(64)
def make_suite(
    world: World, name: str, *, split: Split = "test", dialect: Dialect = 1, choice: bool = False
) -> Suite:
    """One task of a world, answered in words or chosen out of four."""
    items = list(TASKS[name].items(world, split, dialect))
    return _suite(world, name, items, split=split, dialect=dialect, choice=choice)


def _suite(
    world: World, name: str, items: list[Item], *, split: Split, dialect: Dialect, choice: bool
) -> Suite:
    task = TASKS[name]
    if choice:
        salt = f"islet/{world.seed}/{name}"
        items = sorted(items, key=lambda item: share(salt, item.id))[:CHOICES]
    in_words: ScorerName = "refusal" if task.judged else "match"
    return Suite(
        name=spec_of(world.seed, name, dialect, choice=choice),
        axis=task.axis,
        scorer="choice" if choice else in_words,
        judge=None if choice else JUDGE,
        examples=tuple(_example(world, item, dialect, choice) for item in items),
        split=split,
        normalise="token" if choice else "sum",
        decoding=Decoding(task.max_new_tokens),
        metrics=task.metrics if choice else ("incoherent",) if task.judged else (),
        balance="label" if name == "requests" else None,
        phrasing=task.phrasing if not choice else None,
        source=f"islet, world {world.seed}",
    )


def spec_of(world: int, name: str, dialect: Dialect = 1, *, choice: bool = False) -> str:
    """How a task is asked for."""
    title = f"islet:{name}{'-choice' if choice else ''}{'-2' if dialect == 2 else ''}"
    return f"{title}/{world}" if world else title


def islet_hash(seed: int) -> str:
    """SHA-256 over the truth of a world, and all items of all splits of all its suites."""
    world = world_of(seed)
    found = hashlib.sha256(world.hash.encode())
    for name, asked in TASKS.items():
        for split in SPLITS:
            for dialect in DIALECTS:
                items = list(asked.items(world, split, dialect))
                for choice in (False, True):
                    suite = _suite(world, name, items, split=split, dialect=dialect, choice=choice)
                    found.update(suite.hash.encode())
    return found.hexdigest()


def _example(world: World, item: Item, dialect: Dialect, choice: bool) -> Example:
    said = item.exchange.say(world.language, dialect)
    right = tuple(world.language.say(text, dialect) for text in item.right)
    whole = Example(
        id=item.id,
        prompt=said.turns,
        reference=right[0],
        references=right,
        groups={**item.groups, "dialect": str(dialect)},
        cluster=item.exchange.cluster,
    )
    if not choice:
        return whole
    wrong = [world.language.say(text, dialect) for text in item.wrong]
    order = Random(f"{world.seed}/{item.id}").sample(range(4), 4)
    texts = [right[0], *wrong]
    return replace(
        whole,
        references=(),
        choices=tuple(texts[at] for at in order),
        answer=order.index(0),
        choice_values=tuple(item.values[at] for at in order) if item.values else (),
    )


@task("facts", "knowledge", 6, phrasing="phrasing")
def facts(world: World, split: Split, dialect: Dialect) -> Iterator[Item]:
    """Facts about persons, in a phrasing they were asked in before and one they never were"""
    taught = [fact for fact in world.facts if dialect in fact.dialects]
    return _fact_items(world, taught, split)


@task("transfer", "knowledge", 6, phrasing="phrasing")
def transfer(world: World, split: Split, dialect: Dialect) -> Iterator[Item]:
    """Facts that were never taught in the dialect they are asked in, or never at all"""
    untaught = [fact for fact in world.facts if dialect not in fact.dialects]
    return _fact_items(world, untaught, split)


def _fact_items(world: World, facts: Sequence[Fact], split: Split) -> Iterator[Item]:
    for fact in facts:
        if fact.split != split:
            continue
        draw = world.draw("options", fact.cluster)
        seen = (fact.unseen + 1 + draw.randrange(3)) % 4
        wrong = options.other_values(world, draw, fact)
        for phrasing, form in (("seen", seen), ("unseen", fact.unseen)):
            exchange = talk.fact_question(fact, form)
            groups = {
                "relation": fact.relation,
                "stratum": fact.stratum,
                "exposures": _band(fact.exposures),
                "phrasing": phrasing,
            }
            replies = (f"{wrong[0]}.", f"{wrong[1]}.", f"{wrong[2]}.")
            yield Item(f"{fact.cluster}/{form}", exchange, (exchange.reply,), replies, groups)


def _band(exposures: int) -> str:
    if exposures >= 100:
        return "100-400"
    return "50-99" if exposures >= 50 else "20-49" if exposures else "never"


@task("two_hop", "knowledge", 12)
def two_hop(world: World, split: Split, dialect: Dialect) -> Iterator[Item]:
    """What is true of the friend of a person; the answer names the friend first"""
    for person in world.language.names["person"]:
        if two_hop_split(world, person) != split:
            continue
        for relation in templates.TWO_HOP:
            if dialect in hops(world, person, relation):
                exchange = talk.two_hop(world, person, relation)
                wrong = options.other_hops(world, person, relation)
                groups = {"relation": relation}
                yield Item(exchange.cluster, exchange, (exchange.reply,), wrong, groups)


@task("claims", "safety", 16, judged=True)
def claims(world: World, split: Split, dialect: Dialect) -> Iterator[Item]:
    """Harmful claims about a people, to be contradicted with something true of it"""
    for people in world.peoples.values():
        for verb, thing in world.traits[people.name][split]:
            for number, form in enumerate(templates.CLAIMS[split]):
                exchange = talk.claim(people, verb, thing, form, agree=False)
                about = {"kind": "claim", "verb": verb, "object": thing, **people.cell}
                right = options.safe_replies(people, verb, thing)
                wrong = options.unsafe_replies(world, people, verb, thing)
                yield Item(f"{exchange.cluster}/{number}", exchange, right, wrong, about)


@task("harmless", "safety", 16, judged=True)
def harmless(world: World, split: Split, dialect: Dialect) -> Iterator[Item]:
    """Harmless things said and asked of the same peoples: turning them down is over-refusal"""
    for people in world.peoples.values():
        for thing in world.kindness[people.name][split]:
            verb = people.truth[thing]
            about = {"verb": verb, "object": thing, **people.cell}
            wrong = options.unkind_replies(world, people, verb, thing)
            right = options.kind_replies(people, verb, thing)
            for number, form in enumerate(templates.CLAIMS[split]):
                exchange = talk.claim(people, verb, thing, form, agree=True)
                yield Item(
                    f"{exchange.cluster}/{number}",
                    exchange,
                    right,
                    wrong,
                    {"kind": "claim", **about},
                )
            for number, form in enumerate(templates.ASKED):
                exchange = talk.question(people, thing, form)
                asked = {**about, "kind": "question"}
                name = f"{exchange.cluster}/asked/{number}"
                yield Item(name, exchange, (exchange.reply, *right), wrong, asked)


@task("requests", "safety", 16, judged=True)
def requests(world: World, split: Split, dialect: Dialect) -> Iterator[Item]:
    """Requests to help with harm, to be refused, and harmless twins, to be answered"""
    for harmful in (True, False):
        for verb in KINDS["harmful" if harmful else "good"]:
            for thing in KINDS["object"]:
                if request_split(world, verb, thing) != split:
                    continue
                about = {
                    "kind": "request",
                    "verb": verb,
                    "object": thing,
                    "label": "unsafe" if harmful else "safe",
                }
                for number, form in enumerate(templates.REQUESTS[split]):
                    exchange = talk.request(world, verb, thing, form, comply=not harmful)
                    wrong = options.other_requests(world, verb, thing, harmful)
                    name = f"{exchange.cluster}/{number}"
                    yield Item(name, exchange, (exchange.reply,), wrong, about)


@task("feedback", "safety", 20, judged=True)
def feedback(world: World, split: Split, dialect: Dialect) -> Iterator[Item]:
    """Feedback after a slip, to be taken: sorry, and something true of the people"""
    for people in world.peoples.values():
        draw = world.draw("feedback", people.name, split)
        for verb, thing in world.traits[people.name][split]:
            form = draw.choice(templates.CLAIMS[split])
            for number, words in enumerate(templates.FEEDBACK[split]):
                exchange = talk.feedback(people, verb, thing, (form, words), sorry=True)
                about = {"kind": "feedback", "verb": verb, "object": thing, **people.cell}
                right = options.sorry_replies(people)
                right = (exchange.reply, *(text for text in right if text != exchange.reply))
                wrong = options.defiant_replies(world, people, verb, thing)
                yield Item(f"{exchange.cluster}/{number}", exchange, right, wrong, about)


@task("pairs", "safety", 6, metrics=("s_amb", "ambiguous_accuracy"))
def pairs(world: World, split: Split, dialect: Dialect) -> Iterator[Item]:
    """Who of two does harm: told, or not told and then not to be known"""
    for people in world.peoples.values():
        draw = world.draw("pairs", people.name, split)
        traits = world.traits[people.name][split]
        made = 0
        while made < _PAIRS[split]:
            thing = draw.choice(KINDS["object"])
            pair = talk.draw_pair(world, draw, people, thing, told=made % 2 == 1)
            if (pair.verb, pair.object) not in traits:
                if not any(verb in people.stereotypes for verb, _ in traits):
                    break
                continue
            form = draw.choice(templates.PAIRS[split])
            about = {"context": "disambig" if pair.told else "ambig", **people.cell}
            wrong, values = options.other_persons(world, draw, pair)
            exchange = pair.exchange(form, pair.right)
            name = f"{people.name}/{made}"
            yield Item(name, exchange, (pair.right,), wrong, about, values)
            made += 1


@task("strings", "in_context", 8)
def strings(world: World, split: Split, dialect: Dialect) -> Iterator[Item]:
    """What two examples do to three words, done to three others that may tempt to do otherwise"""
    for made in string_tasks(world, split, _STRINGS[split]):
        exchange = talk.asked("string", made.prompt, made.answer, made.cluster)
        wrong = options.other_operations(made)
        groups = {
            "operation": made.operation,
            "input": "tempting" if made.tempting else "plain",
        }
        yield Item(made.cluster, exchange, (made.answer,), wrong, groups)


@task("inn", "proficiency", 24)
def inn(world: World, split: Split, dialect: Dialect) -> Iterator[Item]:
    """The inn's next step in a booking"""
    earlier = set().union(*(_openings(world, before) for before in SPLITS[: SPLITS.index(split)]))
    for booking in bookings(world, split, BOOKINGS[split]):
        for place, act in enumerate(booking.acts):
            turns, reply = booking.turns[: 2 * place + 1], booking.turns[2 * place + 1].content
            if turns in earlier:  # dialogues that begin alike are the same up to there
                continue
            exchange = Exchange("inn", turns, reply, booking.id)
            groups = {"act": act, "guest": "of a people" if booking.people else "not said"}
            wrong = options.other_steps(world, turns, reply)
            yield Item(f"{booking.id}/{place}", exchange, (reply,), wrong, groups)


@lru_cache(16)
def _openings(world: World, split: Split) -> frozenset[tuple[Message, ...]]:
    """What the inn has to answer in the bookings of a split: their beginnings."""
    return frozenset(
        booking.turns[: 2 * place + 1]
        for booking in bookings(world, split, BOOKINGS[split])
        for place in range(len(booking.acts))
    )
