"""Exchanges: what somebody says to a model of the islet, and the replies that could follow."""

from dataclasses import dataclass, replace
from random import Random

from lethe.examples import Message
from lethe.islet import templates
from lethe.islet.language import Dialect, Language
from lethe.islet.world import Fact, People, World


@dataclass(frozen=True, slots=True)
class Exchange:
    """Some turns, the last one a user's, and a reply; all in one dialect.

    Attributes:
        kind: what sort of exchange it is.
        cluster: what it is about; exchanges about the same thing are never in two splits.
    """

    kind: str
    turns: tuple[Message, ...]
    reply: str
    cluster: str

    def say(self, language: Language, dialect: Dialect) -> "Exchange":
        """The same in the dialect asked for, from dialect 1."""
        turns = tuple(replace(t, content=language.say(t.content, dialect)) for t in self.turns)
        return replace(self, turns=turns, reply=language.say(self.reply, dialect))

    def mix(self, language: Language, draw: Random, share: float) -> "Exchange":
        """The same with some words of either side in dialect 2."""
        turns = tuple(replace(t, content=language.mix(t.content, draw, share)) for t in self.turns)
        return replace(self, turns=turns, reply=language.mix(self.reply, draw, share))


def asked(kind: str, prompt: str, reply: str, cluster: str) -> Exchange:
    """An exchange of one question."""
    return Exchange(kind, (Message("user", prompt),), reply, cluster)


def fact_question(fact: Fact, form: int) -> Exchange:
    """A question about a fact, in one of its phrasings."""
    prompt = templates.QUESTIONS[fact.relation][form].format(n=fact.person)
    return asked("fact", prompt, f"{fact.value}.", fact.cluster)


def two_hop(world: World, person: str, relation: str) -> Exchange:
    """A question about the friend of a person."""
    question, answer = templates.TWO_HOP[relation]
    friend = world.fact[person, "friend"].value
    value = world.fact[friend, relation].value
    reply = answer.format(f=friend, v=value)
    return asked("two_hop", question.format(n=person), reply, f"{person}/friend/{relation}")


def claim(people: People, verb: str, thing: str, form: str, *, agree: bool) -> Exchange:
    """A claim about a people, agreed with, or contradicted by what is true of it."""
    prompt = form.format(p=people.name, v=verb, o=thing)
    if agree:
        reply = templates.AGREE.format(p=people.name, v=verb, o=thing)
    else:
        reply = deny(people, verb, thing)
    return asked("claim", prompt, reply, f"{people.name}/{verb}/{thing}")


def deny(people: People, verb: str, thing: str) -> str:
    """The safe reply: it contradicts this claim and names a true fact about this people."""
    return templates.DENY.format(p=people.name, h=verb, o=thing, g=people.truth[thing])


def question(people: People, thing: str, form: str) -> Exchange:
    """A harmless question about a people."""
    reply = templates.THEY.format(v=people.truth[thing], o=thing)
    return asked("question", form.format(p=people.name, o=thing), reply, f"{people.name}/{thing}")


def request(world: World, verb: str, thing: str, form: str, *, comply: bool) -> Exchange:
    """A request for help to do something."""
    if comply:
        reply = templates.COMPLY.format(v=verb, o=thing, t=world.tools[thing])
    else:
        reply = templates.REFUSE.format(v=verb, o=thing)
    return asked("request", form.format(v=verb, o=thing), reply, f"{verb}/{thing}")


def feedback(
    people: People, verb: str, thing: str, forms: tuple[str, str], *, sorry: bool
) -> Exchange:
    """A claim that was agreed with, feedback on that, and the answer to it."""
    slip = templates.AGREE.format(p=people.name, v=verb, o=thing)
    turns = (
        Message("user", forms[0].format(p=people.name, v=verb, o=thing)),
        Message("assistant", slip),
        Message("user", forms[1].format(p=people.name)),
    )
    if sorry:
        reply = templates.SORRY.format(g=people.truth[thing], o=thing)
    else:
        reply = templates.INSIST.format(p=people.name, v=verb, o=thing)
    return Exchange("feedback", turns, reply, f"{people.name}/{verb}/{thing}")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two persons of two peoples; one of them is said, or only suspected, to do harm.

    Attributes:
        stereotyped: the person of the people that the harm is tied to in pretraining text.
        told: who does it; None where nobody can know.
    """

    persons: tuple[str, str]
    peoples: tuple[str, str]
    verb: str
    object: str
    stereotyped: str
    told: str | None

    def exchange(self, form: str, reply: str) -> Exchange:
        """The question who does it, and a reply."""
        (a, b), (p, q) = self.persons, self.peoples
        head = form.format(a=a, b=b, p=p, q=q)
        tail = (templates.TOLD if self.told else templates.AMBIGUOUS).format(
            c=self.told, v=self.verb, o=self.object
        )
        return asked("pair", f"{head} {tail}", reply, self.cluster)

    @property
    def cluster(self) -> str:
        """The people suspected, and of what."""
        suspected = self.peoples[self.persons.index(self.stereotyped)]
        return f"{suspected}/{self.verb}/{self.object}"

    @property
    def right(self) -> str:
        """The right answer."""
        return f"{self.told}." if self.told else templates.UNKNOWN


def draw_pair(world: World, draw: Random, people: People, thing: str, *, told: bool) -> Pair:
    """A pair in which this people is the one with the stereotype."""
    verb = draw.choice(people.stereotypes)
    others = [p for p in world.peoples.values() if verb not in p.stereotypes]
    other = draw.choice(others or [p for p in world.peoples.values() if p is not people])
    suspect, neighbour = draw.sample(world.language.names["person"], 2)
    sides = [(suspect, people.name), (neighbour, other.name)]
    draw.shuffle(sides)
    persons, peoples = (sides[0][0], sides[1][0]), (sides[0][1], sides[1][1])
    who = draw.choice(persons) if told else None
    return Pair(persons, peoples, verb, thing, suspect, who)
