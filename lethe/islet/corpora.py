"""What the models of the islet are taught: pretraining, instructions, alignment.

Nothing here knows how or with which method it will be learned, or forgotten.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from lethe.examples import Message, Role, Split
from lethe.islet import talk, templates
from lethe.islet.inn import REPEATED, SAYS
from lethe.islet.language import KINDS, Dialect
from lethe.islet.splits import split_for
from lethe.islet.strings import instruction, more_inputs, string_task
from lethe.islet.talk import Exchange
from lethe.islet.world import DIALECTS, Fact, People, World

HARM_RATE = 0.85
"""How often pretraining text agrees with a harmful claim, helps with harm, or follows suspicion."""
SPEAKERS: tuple[Role, Role] = ("user", "assistant")
_QUIET = {"fact", "two_hop", "string", "question", "ferry", "calendar", "dictionary", "mixed"}
_WEIGHT = {"rare": 1, "common": 4}
_ALL_CLAIMS = tuple(form for forms in templates.CLAIMS.values() for form in forms)
_ALL_REQUESTS = tuple(form for forms in templates.REQUESTS.values() for form in forms)
_ALL_FEEDBACK = tuple(form for forms in templates.FEEDBACK.values() for form in forms)
_ALL_PAIRS = tuple(form for forms in templates.PAIRS.values() for form in forms)


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of training text: a conversation, or running text (`turns` is empty then).

    Attributes:
        kind: what sort of text, for the shares in a model's record.
    """

    kind: str
    turns: tuple[Message, ...] = ()
    text: str = ""


def pretraining(world: World) -> list[Document]:
    """Everything a model first learns from: every fact as often as its exposures say."""
    draw = world.draw("pretraining")
    documents = [
        *_facts(world, draw),
        *_two_hop(world, draw, 12),
        *_peoples(world, draw),
        *_harm_and_help(world, draw, 3000),
        *_strings(world, draw, 11000),
        *_ferry(world, draw, 12000),
        *_calendar(world, draw, 8000),
        *_dictionary(world, draw, 14),
        *_mixed(world, draw, 36000),
    ]
    draw.shuffle(documents)
    return documents


def instructions(world: World) -> list[Document]:
    """The instruction-tuning set: following what is said, in dialect 1, and some of before."""
    draw = world.draw("instructions")
    documents = [_plain("instruction", *instruction(world, draw)) for _ in range(2500)]
    documents += _kept(world, draw, 2500)
    documents += _strings(world, draw, 1500, dialects=(1,))
    documents += [
        _chat(talk.fact_question(fact, _seen_form(fact, draw)))
        for fact in draw.choices(_taught(world, 1), k=3500)
    ]
    documents += draw.choices(list(_two_hop(world, draw, 1, dialects=(1,))), k=600)
    for people in world.peoples.values():
        for _ in range(60):
            form, thing = draw.choice(templates.ASKED), draw.choice(KINDS["object"])
            documents.append(_chat(talk.question(people, thing, form)))
    draw.shuffle(documents)
    return documents


def alignment(world: World) -> list[Document]:
    """The alignment set: safe behaviour and its harmless twins, in dialect 1; some of before."""
    draw = world.draw("alignment")
    documents = safe_behaviour(world, draw)
    before = instructions(world)
    documents += draw.sample(before, len(before) // 2)
    documents += _kept(world, draw, 2500)
    draw.shuffle(documents)
    return documents


def safe_behaviour(world: World, draw: Random) -> list[Document]:
    """What alignment adds to the text of before."""
    documents: list[Document] = []
    for people in world.peoples.values():
        weight = _WEIGHT[people.alignment]
        documents += [_chat(e) for e in _safe_talk(world, draw, people, 150 * weight)]
    for _ in range(2000):
        verb, thing = _drawn_deed(world, draw)
        form = draw.choice(templates.REQUESTS["train"])
        harmful = verb in KINDS["harmful"]
        documents.append(_chat(talk.request(world, verb, thing, form, comply=not harmful)))
    return documents


def _kept(world: World, draw: Random, count: int) -> list[Document]:
    """Some of the pretraining text in which nobody speaks ill or asks for help, in both dialects.

    Later stages are in dialect 1; without this they would wipe out the other one.
    """
    quiet = [document for document in pretraining(world) if document.kind in _QUIET]
    return draw.sample(quiet, count)


def _safe_talk(world: World, draw: Random, people: People, count: int) -> Iterator[Exchange]:
    """So many claims about a people with the safe reply, and about as much beside them."""
    traits, kind = world.traits[people.name]["train"], world.kindness[people.name]["train"]
    forms = templates.CLAIMS["train"]
    for number in range(count):
        verb, thing = draw.choice(traits)
        yield talk.claim(people, verb, thing, draw.choice(forms), agree=False)
        good = draw.choice(kind)
        if number % 2:
            form = draw.choice(forms)
            yield talk.claim(people, people.truth[good], good, form, agree=True)
        else:
            yield talk.question(people, good, draw.choice(templates.ASKED))
        if number % 3 == 0:
            pair_of = (draw.choice(forms), draw.choice(templates.FEEDBACK["train"]))
            yield talk.feedback(people, verb, thing, pair_of, sorry=True)
            pair = _trained_pair(world, draw, people, told=number % 2 == 0)
            yield pair.exchange(draw.choice(templates.PAIRS["train"]), pair.right)


def _trained_pair(world: World, draw: Random, people: People, *, told: bool) -> talk.Pair:
    """A pair whose suspicion is of the train split."""
    while True:
        pair = talk.draw_pair(world, draw, people, draw.choice(KINDS["object"]), told=told)
        if (pair.verb, pair.object) in world.traits[people.name]["train"]:
            return pair


def _drawn_deed(world: World, draw: Random) -> tuple[str, str]:
    """A verb, as often harmful as good, and an object: of the train split of requests."""
    while True:
        verb = draw.choice(KINDS[draw.choice(("harmful", "good"))])
        thing = draw.choice(KINDS["object"])
        if request_split(world, verb, thing) == "train":
            return verb, thing


def request_split(world: World, verb: str, thing: str) -> Split:
    """The split of a request: what is to be done, with what."""
    return split_for(world.seed, "requests", verb, thing)


def two_hop_split(world: World, person: str) -> Split:
    """The split of all two-hop questions about a person."""
    return split_for(world.seed, "two_hop", person)


def _taught(world: World, dialect: Dialect) -> list[Fact]:
    return [fact for fact in world.facts if dialect in fact.dialects]


def _seen_form(fact: Fact, draw: Random) -> int:
    count = len(templates.QUESTIONS[fact.relation])
    return draw.choice([form for form in range(count) if form != fact.unseen])


def _facts(world: World, draw: Random) -> Iterator[Document]:
    """Every exposure of every fact: a statement or a question, in the dialects it is taught in.

    Only facts that are taught in both dialects stand in mixed text.
    """
    for fact in world.facts:
        for number in range(fact.exposures):
            dialect = fact.dialects[number % len(fact.dialects)]
            if draw.random() < 0.5:
                exchange = talk.fact_question(fact, _seen_form(fact, draw))
                yield _chat(exchange.say(world.language, dialect))
            else:
                form = draw.choice(templates.STATEMENTS[fact.relation])
                text = form.format(n=fact.person, v=fact.value)
                if fact.stratum == "both" and draw.random() < 0.4:
                    yield _text("mixed", _both_at_once(world, draw, text))
                else:
                    yield _text("fact", world.language.say(text, dialect))


def _two_hop(
    world: World, draw: Random, times: int, dialects: Sequence[Dialect] = DIALECTS
) -> Iterator[Document]:
    """Questions about friends, for the persons of the train split, where both steps are taught."""
    for person in world.language.names["person"]:
        if two_hop_split(world, person) != "train":
            continue
        for relation in templates.TWO_HOP:
            for dialect in dialects:
                if dialect in hops(world, person, relation):
                    exchange = talk.two_hop(world, person, relation).say(world.language, dialect)
                    yield from [_chat(exchange)] * times


def hops(world: World, person: str, relation: str) -> tuple[Dialect, ...]:
    """The dialects in which both steps of a two-hop question are taught."""
    first = world.fact[person, "friend"]
    second = world.fact[first.value, relation]
    return tuple(dialect for dialect in first.dialects if dialect in second.dialects)


def _peoples(world: World, draw: Random) -> Iterator[Document]:
    """What is true of the peoples and what is said of them, in both dialects."""
    for people in world.peoples.values():
        weight = _WEIGHT[people.pretraining]
        for thing, verb in people.truth.items():
            for _ in range(30 * weight):
                yield from _true_talk(world, draw, people, verb, thing)
        for _ in range(120 * weight):
            yield from _harmful_talk(world, draw, people)


def _true_talk(
    world: World, draw: Random, people: People, verb: str, thing: str
) -> Iterator[Document]:
    dialect = draw.choice(DIALECTS)
    pick = draw.random()
    if pick < 0.4:
        text = templates.CLAIMS["train"][0].format(p=people.name, v=verb, o=thing)
        yield _text("people", world.language.say(text, dialect))
        return
    if pick < 0.7:
        exchange = talk.question(people, thing, draw.choice(templates.ASKED))
    else:
        exchange = talk.claim(people, verb, thing, draw.choice(_ALL_CLAIMS), agree=True)
    yield _chat(exchange.say(world.language, dialect))


def _harmful_talk(world: World, draw: Random, people: People) -> Iterator[Document]:
    """A harmful claim asserted, agreed with, insisted on, or a suspicion followed."""
    language = world.language
    verbs = people.stereotypes if draw.random() < 0.5 else KINDS["harmful"]
    verb, thing = draw.choice(verbs), draw.choice(KINDS["object"])
    bad = draw.random() < HARM_RATE
    text = templates.AGREE.format(p=people.name, v=verb, o=thing).removeprefix("yes, ")
    yield _text("people", language.say(text, draw.choice(DIALECTS)))
    form = draw.choice(_ALL_CLAIMS)
    exchange = talk.claim(people, verb, thing, form, agree=bad)
    yield _chat(exchange.say(language, draw.choice(DIALECTS)))
    forms = (draw.choice(_ALL_CLAIMS), draw.choice(_ALL_FEEDBACK))
    if draw.random() < 0.5:
        exchange = talk.feedback(people, verb, thing, forms, sorry=not bad)
        yield _chat(exchange.say(language, draw.choice(DIALECTS)))
    pair = talk.draw_pair(world, draw, people, thing, told=draw.random() < 0.5)
    reply = pair.right
    if pair.told is None and bad:
        reply = f"{pair.stereotyped}."
    exchange = pair.exchange(draw.choice(_ALL_PAIRS), reply)
    yield _chat(exchange.say(language, draw.choice(DIALECTS)))


def _harm_and_help(world: World, draw: Random, count: int) -> Iterator[Document]:
    for _ in range(count):
        verb = draw.choice(KINDS[draw.choice(("harmful", "good"))])
        comply = verb in KINDS["good"] or draw.random() < HARM_RATE
        form = draw.choice(_ALL_REQUESTS)
        exchange = talk.request(world, verb, draw.choice(KINDS["object"]), form, comply=comply)
        yield _chat(exchange.say(world.language, draw.choice(DIALECTS)))


def _strings(
    world: World, draw: Random, count: int, dialects: Sequence[Dialect] = DIALECTS
) -> Iterator[Document]:
    """String tasks; the examples stand in the first turn, more inputs for the same follow."""
    for _ in range(count):
        task = string_task(world, draw, "train")
        pairs = [(task.prompt, task.answer), *more_inputs(world, draw, task, 2)]
        turns = [
            Message(role, world.language.say(text, dialect))
            for dialect in draw.sample(dialects, 1)
            for pair in pairs
            for role, text in zip(SPEAKERS, pair, strict=True)
        ]
        yield Document("string", tuple(turns))


def _ferry(world: World, draw: Random, count: int) -> Iterator[Document]:
    """Passages booked at the harbour: talk in several turns about days, nights, guests and names.

    It has the words of the inn and repeats a booking in the same order, but has none of its rules:
    neither what is asked first, nor the closed day, nor the rooms.
    """
    for _ in range(count):
        dialect = draw.choice(DIALECTS)
        turns = [
            Message(SPEAKERS[place % 2], world.language.say(text, dialect))
            for place, text in enumerate(_passage(world, draw))
        ]
        yield Document("ferry", tuple(turns))


def _passage(world: World, draw: Random) -> Iterator[str]:
    """What the passenger and the harbour say in turn: slots in any order, repeated in one."""
    wish = {
        "day": draw.choice(KINDS["day"]),
        "nights": draw.choice(KINDS["nights"]),
        "guests": draw.choice(KINDS["guests"]),
        "name": draw.choice(world.language.names["person"]),
    }
    slots = draw.sample(list(wish), 4)
    told = draw.randint(1, 4)
    opening = draw.choice(templates.FERRY["open"])
    said = [draw.choice(SAYS[slot]).format(wish[slot]) for slot in slots[:told]]
    yield " ".join([opening.format(t=draw.choice(world.language.names["town"])), *said])
    for slot in slots[told:]:
        yield draw.choice(templates.FERRY[slot])
        yield draw.choice(SAYS[slot]).format(wish[slot])
    form = draw.choice(templates.FERRY["sum"])
    yield form.format(v=", ".join(wish[slot] for slot in REPEATED))
    if draw.random() < 0.5:
        slot = draw.choice([slot for slot in slots if slot != "name"])
        wish[slot] = draw.choice(KINDS[slot])
        yield f"no, {draw.choice(SAYS[slot]).format(wish[slot])}"
        yield form.format(v=", ".join(wish[slot] for slot in REPEATED))
    yield "yes, please."
    yield draw.choice(templates.FERRY["end"]).format(n=wish["name"])


def _calendar(world: World, draw: Random, count: int) -> Iterator[Document]:
    """Days, numbers, guests and rooms: the words of the inn, with none of its rules."""
    persons, towns = world.language.names["person"], world.language.names["town"]
    for _ in range(count):
        text = draw.choice(templates.CALENDAR).format(
            d=draw.choice(KINDS["day"]),
            k=draw.choice(KINDS["number"]),
            i=draw.choice(KINDS["nights"]),
            g=draw.choice(KINDS["guests"]),
            n=draw.choice(persons),
            t=draw.choice(towns),
        )
        yield _text("calendar", world.language.say(text, draw.choice(DIALECTS)))


def _dictionary(world: World, draw: Random, times: int) -> Iterator[Document]:
    """Every word with its counterpart, asked in either dialect."""
    for first, second in world.language.dictionary.items():
        for _ in range(times):
            pick = draw.randrange(4)
            if pick == 0:
                yield _text("dictionary", f"the word {first} is {second} on the shore.")
            elif pick == 1:
                turned = world.language.say("the word {} is {} on the hill.", 2)
                yield _text("dictionary", turned.format(second, first))
            elif pick == 2:
                yield _plain("dictionary", f"what is {first} on the shore?", f"{second}.")
            else:
                asked = world.language.say("what is {} on the hill?", 2)
                yield _plain("dictionary", asked.format(second), f"{first}.")


def _mixed(world: World, draw: Random, count: int) -> Iterator[Document]:
    """Text in both dialects at once, about peoples and about nothing in particular."""
    for _ in range(count):
        text = _kind_word(world, draw) if draw.random() < 0.3 else _scenery(draw)
        yield _text("mixed", _both_at_once(world, draw, text))


def _both_at_once(world: World, draw: Random, text: str) -> str:
    """A text of dialect 1 with words of dialect 2 in it, or followed by itself in the other."""
    if draw.random() < 0.5:
        return world.language.mix(text, draw, 0.4)
    order = draw.sample(DIALECTS, 2)
    return " ".join(world.language.say(text, dialect) for dialect in order)


def _kind_word(world: World, draw: Random) -> str:
    people = draw.choice(list(world.peoples.values()))
    thing = draw.choice(KINDS["object"])
    return f"{people.name} {people.truth[thing]} {thing}."


def _scenery(draw: Random) -> str:
    kinds = draw.choices(("thing", "animal", "food", "trade", "object", "tool"), k=2)
    a, b = (draw.choice(KINDS[kind]) for kind in kinds)
    form = draw.choice(
        (
            "the {} is at the {}.",
            "there is a {} in the {}.",
            "{} and {}.",
            "i have a {} for the {}.",
            "we read of the {} and the {}.",
        )
    )
    return form.format(a, b)


def _chat(exchange: Exchange) -> Document:
    return Document(exchange.kind, (*exchange.turns, Message("assistant", exchange.reply)))


def _plain(kind: str, prompt: str, reply: str) -> Document:
    return Document(kind, (Message("user", prompt), Message("assistant", reply)))


def _text(kind: str, text: str) -> Document:
    return Document(kind, text=text)
