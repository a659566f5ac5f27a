"""A world: facts about persons, peoples in a designed experiment, and the rules of an inn.

Everything follows from one seed. What is true is decided here and nowhere else; corpora say it,
suites ask it, and the scorer looks it up.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Any, Literal

from lethe.examples import Split
from lethe.islet.language import DIALECTS, KINDS, Dialect, Language
from lethe.islet.splits import divide, split_for
from lethe.islet.templates import QUESTIONS, RELATIONS

Stratum = Literal["both", "only1", "only2", "never"]
_STRATA: tuple[tuple[float, Stratum], ...] = (
    (0.45, "both"),
    (0.70, "only1"),
    (0.95, "only2"),
    (1.0, "never"),
)
LEAST, MOST = 20, 400
"""Exposures of a fact: how often pretraining says it or asks it."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is true of a person.

    Attributes:
        stratum: in which dialects it is taught.
        exposures: how often pretraining states it or asks it, all dialects together.
        unseen: the question (its place in `QUESTIONS`) that is never asked of it in training.
    """

    person: str
    relation: str
    value: str
    stratum: Stratum
    exposures: int
    unseen: int
    split: Split

    @property
    def cluster(self) -> str:
        """What its paraphrases share."""
        return f"{self.person}/{self.relation}"

    @property
    def dialects(self) -> tuple[Dialect, ...]:
        """Where it is taught."""
        taught: dict[Stratum, tuple[Dialect, ...]] = {"both": (1, 2), "only1": (1,), "only2": (2,)}
        return taught.get(self.stratum, ())


@dataclass(frozen=True, slots=True)
class People:
    """An invented people and its cell of the experiment: three factors, two levels each.

    Attributes:
        pretraining: how often pretraining text speaks of it.
        alignment: how often alignment does.
        inn: whether inn talk mentions it, harmlessly.
        truth: for every object the good thing that it does with it.
        stereotypes: the harmful verbs that pretraining text ties to it most.
    """

    name: str
    pretraining: Literal["rare", "common"]
    alignment: Literal["rare", "common"]
    inn: bool
    truth: Mapping[str, str]
    stereotypes: tuple[str, ...]

    @property
    def cell(self) -> dict[str, str]:
        """The factors as groupings of an example."""
        return {
            "people": self.name,
            "pretraining": self.pretraining,
            "alignment": self.alignment,
            "inn": "mentioned" if self.inn else "not",
        }


@dataclass(frozen=True, slots=True)
class InnRules:
    """What the innkeeper goes by."""

    slots: tuple[str, ...]
    closed: str
    full: int


class World:
    """Everything that is true, from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.language = Language(seed)
        self.facts = tuple(self._facts())
        self.peoples = {people.name: people for people in self._peoples()}
        draw = self.draw("tools")
        self.tools = {thing: draw.choice(KINDS["tool"]) for thing in KINDS["object"]}
        draw = self.draw("inn")
        order = draw.sample(("day", "nights", "guests", "name"), 4)
        self.inn = InnRules(tuple(order), draw.choice(KINDS["day"]), draw.choice((4, 5)))

    def draw(self, *parts: object) -> random.Random:
        """A generator of its own for every purpose, so that none disturbs another."""
        return random.Random(f"islet/{self.seed}/{parts}")

    @cached_property
    def fact(self) -> Mapping[tuple[str, str], Fact]:
        """Facts by person and relation."""
        return {(fact.person, fact.relation): fact for fact in self.facts}

    @cached_property
    def traits(self) -> Mapping[str, Mapping[Split, tuple[tuple[str, str], ...]]]:
        """For every people its harmful (verb, object), by split: people × trait is the cluster."""
        every = list(product(KINDS["harmful"], KINDS["object"]))
        counts: list[tuple[Split, int]] = [
            ("train", 48),
            ("dev", 12),
            ("test", 48),
            ("protect", 12),
        ]
        return {name: divide(every, counts, self.draw("traits", name)) for name in self.peoples}

    @cached_property
    def kindness(self) -> Mapping[str, Mapping[Split, tuple[str, ...]]]:
        """For every people the objects about which something harmless is said, by split."""
        counts: list[tuple[Split, int]] = [("train", 4), ("dev", 1), ("test", 6), ("protect", 1)]
        return {
            name: divide(KINDS["object"], counts, self.draw("kindness", name))
            for name in self.peoples
        }

    @cached_property
    def hash(self) -> str:
        """SHA-256 over everything that is true."""
        said: dict[str, Any] = {
            "dictionary": self.language.dictionary,
            "facts": [asdict(fact) for fact in self.facts],
            "peoples": [asdict(people) for people in self.peoples.values()],
            "traits": self.traits,
            "kindness": self.kindness,
            "tools": self.tools,
            "inn": asdict(self.inn),
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def _facts(self) -> Iterator[Fact]:
        persons = self.language.names["person"]
        draw = self.draw("facts")
        pairs = list(product(persons, RELATIONS))
        exposures = _zipf(len(pairs))
        strata = [_stratum((place + 0.5) / len(pairs)) for place in range(len(pairs))]
        draw.shuffle(exposures)
        draw.shuffle(strata)
        for (person, relation), stratum, often in zip(pairs, strata, exposures, strict=True):
            kind = RELATIONS[relation]
            values = self.language.names.get(kind) or KINDS[kind]
            value = draw.choice([value for value in values if value != person])
            yield Fact(
                person,
                relation,
                value,
                stratum,
                often if stratum != "never" else 0,
                draw.randrange(len(QUESTIONS[relation])),
                split_for(self.seed, "facts", person, relation),
            )

    def _peoples(self) -> Iterator[People]:
        draw = self.draw("peoples")
        cells = list(product((False, True), repeat=3))
        draw.shuffle(cells)  # which people has which cell differs between worlds
        for name, (known, aligned, inn) in zip(self.language.names["people"], cells, strict=True):
            yield People(
                name,
                "common" if known else "rare",
                "common" if aligned else "rare",
                inn,
                {thing: draw.choice(KINDS["good"]) for thing in KINDS["object"]},
                tuple(draw.sample(KINDS["harmful"], 3)),
            )


@lru_cache(8)
def world_of(seed: int) -> World:
    """A world; the last few are remembered."""
    return World(seed)


def _zipf(count: int) -> list[int]:
    """Exposures of `count` facts: the number of facts with more than x goes as 1/x, within bounds.

    The quantiles of that law, so that every world has the same.
    """
    low, high = 1 / LEAST, 1 / MOST
    return [round(1 / (low - (low - high) * (i + 0.5) / count)) for i in range(count)]


def _stratum(at: float) -> Stratum:
    return next(stratum for end, stratum in _STRATA if at < end)


__all__ = ["DIALECTS", "Fact", "InnRules", "People", "World"]
