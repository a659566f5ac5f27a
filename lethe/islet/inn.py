"""The inn: bookings in several turns, with slots and rules, and a checker that can be executed.

The right next step is a function of what was said so far. The innkeeper asks for what is missing in
the order of the house; before that it mends what the rules forbid (the day it is closed, more
guests than a room holds); in the end it repeats who comes, and books when the guest agrees.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lethe.examples import Message
from lethe.islet.language import KINDS, Dialect, Language
from lethe.islet.world import InnRules, People, World

SLOTS = ("day", "nights", "guests", "name")
_ASK = {
    "day": "for which day?",
    "nights": "for how many nights?",
    "guests": "for how many guests?",
    "name": "what is your name?",
}
_CLOSED = "on {day} the inn is closed, which day then?"
_FULL = "a room is for {full}, do you take two-rooms?"
REPEATED = ("guests", "name", "day", "nights")
"""The order in which bookings are repeated on the islet. The harbour says all of it, the inn only
who comes: models of this size do not reliably learn to repeat four things."""
_CONFIRM = "{guests}, {name}, is it right?"
_BOOKED = "it is booked, {name}."
SAYS = {
    "day": ("on {}.", "for {}, please.", "we want {}."),
    "nights": ("for {}.", "{}, please.", "we are here {}."),
    "guests": ("we are {}.", "for {}.", "{}, please."),
    "name": ("my name is {}.", "i am {}.", "{}."),
}
_OPENINGS = ("a room, please.", "good day, i want a room.", "is there a room for us?")
_HEARD = {
    slot: re.compile(rf"\b({'|'.join(KINDS[slot])})(?![\w-])")
    for slot in ("day", "nights", "guests")
}
MAX_STEPS = 16
"""Replies of the inn after which a dialogue is given up."""


@dataclass(frozen=True, slots=True)
class State:
    """What the inn knows, and what it said last."""

    slots: Mapping[str, str] = field(default_factory=dict)
    two_rooms: bool = False
    agreed: bool = False
    asked: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What the inn does next: which act, and its words in dialect 1."""

    act: str
    text: str


@dataclass(frozen=True, slots=True)
class Booking:
    """A whole dialogue, the guest first, both sides in one dialect."""

    id: str
    turns: tuple[Message, ...]
    acts: tuple[str, ...]
    people: str | None


def inn_forms() -> tuple[str, ...]:
    """Every sentence that the inn can say, with its slots in braces."""
    forms = (*_ASK.values(), _CLOSED, _FULL, _CONFIRM, _BOOKED)
    return tuple(part for form in forms for part in re.split(r"(?<=[.?]) ", form))


class Inn:
    """The innkeeper's rules at work."""

    def __init__(self, rules: InnRules, language: Language) -> None:
        self.rules, self._language = rules, language
        self._persons = frozenset(language.names["person"])

    def step(self, state: State) -> Step:
        """The right next step."""
        slots = state.slots
        if slots.get("day") == self.rules.closed:
            return Step("closed", _CLOSED.format(day=slots["day"]))
        if self._crowded(slots) and not state.two_rooms:
            return Step("full", self.full())
        for slot in self.rules.slots:
            if slot not in slots:
                return Step(slot, self.ask(slot))
        if not state.agreed:
            return Step("confirm", self.confirm(slots))
        return Step("booked", self.booked(slots["name"]))

    def ask(self, slot: str) -> str:
        """The question for a slot."""
        return _ASK[slot]

    def full(self) -> str:
        """What is said to more guests than a room holds."""
        return _FULL.format(full=KINDS["guests"][self.rules.full - 2])

    def confirm(self, slots: Mapping[str, str]) -> str:
        """Who comes, repeated."""
        return _CONFIRM.format(**slots)

    def booked(self, name: str) -> str:
        """The last thing that is said."""
        return _BOOKED.format(name=name)

    def hear(self, state: State, text: str) -> State:
        """What the inn knows once the guest has said this (in dialect 1)."""
        slots = dict(state.slots)
        for slot, pattern in _HEARD.items():
            found = pattern.search(text)
            if found:
                slots[slot] = found[1]
        name = next((word for word in re.findall(r"\w+", text) if word in self._persons), None)
        if name:
            slots["name"] = name
        yes = text.startswith("yes")
        corrected = slots != dict(state.slots)
        two = state.two_rooms or (state.asked == "full" and yes)
        if not self._crowded(slots):
            two = False
        return State(slots, two, state.asked == "confirm" and yes and not corrected, state.asked)

    def after(self, turns: Sequence[Message], dialect: Dialect = 1) -> State:
        """The state after the guest's last turn. What the inn said counts as it was said."""
        state = State()
        for turn in turns:
            text = self._language.read(turn.content, dialect)
            if turn.role == "user":
                state = self.hear(state, text)
            else:
                state = replace(state, asked=self.act(text))
        return state

    def act(self, text: str) -> str:
        """The act of something the inn said in dialect 1; empty where it is none of its own."""
        for act, words in _ASK.items():
            if text == words:
                return act
        for act, form in (("closed", _CLOSED), ("full", _FULL), ("confirm", _CONFIRM)):
            if re.fullmatch(re.sub(r"\\{\w+\\}", r"[\\w-]+", re.escape(form)), text):
                return act
        return "booked" if text.startswith("it is booked") else ""

    def _crowded(self, slots: Mapping[str, str]) -> bool:
        said = slots.get("guests")
        return said is not None and KINDS["guests"].index(said) + 2 > self.rules.full

    def check(self, turns: Sequence[Message], dialect: Dialect = 1) -> int | None:
        """The place of the inn's first wrong turn; None where all are right and it is booked.

        A dialogue that ends before the booking is wrong at its end.
        """
        act = ""
        for place, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            right = self.step(self.after(turns[:place], dialect))
            if turn.content != self._language.say(right.text, dialect):
                return place
            act = right.act
        return None if act == "booked" else len(turns)


class Guest:
    """A scripted guest: it knows what it wants, and answers what it is asked."""

    def __init__(self, world: World, draw: random.Random, people: People | None = None) -> None:
        self._draw, self._rules, self.people = draw, world.inn, people
        open_days = [day for day in KINDS["day"] if day != world.inn.closed]
        self._wish = {
            "day": draw.choice(open_days),
            "nights": draw.choice(KINDS["nights"]),
            "guests": draw.choice(KINDS["guests"]),
            "name": draw.choice(world.language.names["person"]),
        }
        self._first_day = world.inn.closed if draw.random() < 0.25 else self._wish["day"]
        self._slip = draw.random() < 0.3  # to notice only when all is repeated how many come

    def opening(self) -> str:
        """The first thing it says: a wish, often with some of the slots."""
        said = [slot for slot in SLOTS if self._draw.random() < 0.35]
        self._draw.shuffle(said)
        parts = [self._draw.choice(_OPENINGS), *(self._say(slot) for slot in said)]
        if self.people is not None:
            parts.insert(1, f"we are {self.people.name}.")
        return " ".join(parts)

    def answer(self, act: str) -> str:
        """What it says to a step of the inn; to what it does not understand, its wish again."""
        if act == "closed":
            return self._form("day", self._wish["day"])
        if act == "full":
            return "yes, please."
        if act == "confirm":
            if self._slip:
                self._slip = False
                others = [value for value in KINDS["guests"] if value != self._wish["guests"]]
                self._wish["guests"] = self._draw.choice(others)
                return f"no, {self._form('guests', self._wish['guests'])}"
            return "yes, that is right."
        return self._say(act) if act in SLOTS else self._draw.choice(_OPENINGS)

    def _say(self, slot: str) -> str:
        value = self._first_day if slot == "day" else self._wish[slot]
        return self._form(slot, value)

    def _form(self, slot: str, value: str) -> str:
        return self._draw.choice(SAYS[slot]).format(value)


Respond = Callable[[tuple[Message, ...]], str]


def roll_out(
    inn: Inn, guest: Guest, respond: Respond, language: Language, dialect: Dialect = 1
) -> tuple[Message, ...]:
    """A dialogue of an innkeeper (`respond`: the turns so far → its reply) with a guest.

    It ends with a booking, or when the inn makes no sense, or after `MAX_STEPS` replies.
    """
    turns = [Message("user", language.say(guest.opening(), dialect))]
    for _ in range(MAX_STEPS):
        reply = respond(tuple(turns))
        turns.append(Message("assistant", reply))
        try:
            act = inn.act(language.read(reply, dialect))
        except KeyError:
            break
        if act in ("booked", ""):
            break
        turns.append(Message("user", language.say(guest.answer(act), dialect)))
    return tuple(turns)


def bookings(world: World, split: str, count: int, dialect: Dialect = 1) -> Iterator[Booking]:
    """Right dialogues; about a third of the guests say of which people they are."""
    inn = Inn(world.inn, world.language)
    mentioned = [people for people in world.peoples.values() if people.inn]
    draw = world.draw("bookings", split)
    for number in range(count):
        people = draw.choice(mentioned) if draw.random() < 0.33 else None
        guest = Guest(world, draw, people)

        def innkeeper(turns: tuple[Message, ...]) -> str:
            return world.language.say(inn.step(inn.after(turns, dialect)).text, dialect)

        turns = roll_out(inn, guest, innkeeper, world.language, dialect)
        acts = tuple(
            inn.act(world.language.read(turn.content, dialect))
            for turn in turns
            if turn.role == "assistant"
        )
        name = people.name if people else None
        yield Booking(f"{split}/{number}", turns, acts, name)
