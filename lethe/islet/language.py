"""Two dialects of a small language: the same names and order of words, all other words different.

Sentences are written once, in dialect 1, whose words are English so that a person can read them; a
model sees tokens alone. Every word has exactly one counterpart in dialect 2, drawn from a seed, so
that whatever is said in one dialect can be said in the other and back without loss.
"""

import random
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal

Dialect = Literal[1, 2]
DIALECTS: tuple[Dialect, ...] = (1, 2)

_GRAMMAR = """
a all always am and any are as asks at be been bring by can carries day days do does each eat eats
everyone find first for friend from go goes good guests has have he hear heard help her here his
home how i if in is it keep keeps know knows land last like likes listen live lives long many me my
name need nearby never night nights no not now of on once one or other our out people please put
question rather reverse repeat right room rooms sail sails say says sea she ship show so some sorry
start teach tell than that the their them then there they thing think this those to today town trade
true trust trusts twice unkind us use very want was way we well what when where which who whom why
will with word words work works wrong yes yesterday you your food animal take takes booked closed
full inn two-rooms meaning upland shore answer after before both hill done between people's fair
harm hurt hurts speak spoke heard-of read wrote book song market morning evening
"""
_VERBS_HARMFUL = "steal burn poison break hide spoil curse waste smash drown"
_VERBS_GOOD = "mend clean bless guard paint share carry count lend polish"
_OBJECTS = "horses nets boats bread bells lamps wool corn milk doors carts wells"
_TOOLS = "rope hammer needle bucket ladder knife basket candle brush spade hook cloth"
_NUMBERS = "two three four five six seven eight nine"
_NIGHTS = " ".join(f"{number}-nights" for number in _NUMBERS.split())
_GUESTS = " ".join(f"{number}-guests" for number in _NUMBERS.split())
_DAYS = "moonday tideday windday fireday stoneday starday shellday"
_TRADES = """
baker smith weaver miller potter tanner mason cooper sailor hunter fisher farmer tailor carver
brewer singer painter healer scribe guide porter roofer glazier dyer saddler thatcher joiner barber
butcher gardener shepherd drummer
"""
_FOODS = """
soup cheese honey plums beans eggs figs rice turnips apples fish nuts porridge pears leeks cabbage
dates olives onions berries dumplings oats mushrooms lentils carrots cherries peas garlic melons
quince barley radishes
"""
_ANIMALS = """
goat dog cat hen duck goose mule donkey ox sheep rabbit pigeon raven falcon otter badger fox hare
turtle lizard toad ferret parrot magpie owl swan crane pony calf lamb kid squirrel
"""
_THINGS = """
sun moon star cloud rain snow wind wave stone sand hillside river lake tree leaf root flower grass
cup bowl spoon plate jar pot pan table chair bed roof wall window floor stair bridge road path gate
fence coin ring drum flute harp mask coat hat shoe glove belt sack box chest key lock oar mast
anchor sail-cloth bell-tower thread button ribbon mirror comb pillow blanket broom shelf barrel
wheel plough sickle anvil chisel saw nail plank brick tile chimney oven kettle ladle sieve pepper
salt sugar butter flour yeast vinegar feather fur horn shell pearl amber copper iron silver tin
glass clay paper ink pen letter map flag torch tent cart-wheel tower garden orchard meadow forest
cave beach island harbour valley mountain spring summer autumn winter
acorn alder alley almond apron arbour arch arrow ash aspen attic awl axe axle badge bail bait
balcony band bark barge barrow basin bay beacon beam bean-pole beard bee beech beetle bench berry
birch blade blossom board bobbin bolt bone bonnet boot bow bowl-rack bracelet braid bramble branch
brass briar bridle brook broth bud buckle bugle bunk buoy burrow bush butterfly button-hole cabin
cable cairn cake canal candle-stick canoe canvas cape carpet cask castle cauldron cavern cedar
ceiling cellar chalk channel charcoal chart chestnut chick chimes churn cider clam clasp cliff clock
clover cloak coal coast cobweb collar column compass copse coral cord cork corner cottage cotton
cove cradle crate creek crown crumb crust cupboard curtain cushion cypress dagger dairy dam dew
dewdrop dial ditch dock dome donjon dove drain drawer drawbridge dress driftwood dune dust eagle
ear-ring easel elbow elm ember emerald estuary eyelid fair-ground farm-yard fern ferry field
fig-tree finch fir fire-place fjord flagpole flame flask fleece flint flock foam fog fold forge fork
fountain frame frost fruit funnel furrow gable gale galley garland garment gem geyser girdle glacier
glade glen globe glue goblet gorge grain grape gravel grove gull gully gutter hail hall hammock
handle hatch hawk hay hazel hearth heath heather hedge helm hemp herb hinge hive hollow honeycomb
hood hoof hoop hull hut ice icicle ink-well ivory ivy jade jetty jewel jug juniper keel kiln kite
knob knot knoll lace lagoon landing lane lantern larch lark lattice laurel lawn lead leather ledge
lever lichen lid lighthouse lily lime linden linen lintel lobster locket loft log loom lute mallet
mantle maple marble marsh mat meal mill minnow mint mist mitten moat mole moor moss moth mound mouse
mud mule-track myrtle
"""
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
_TOKEN = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*|[^\sA-Za-z]")
_NAME_KINDS = {"person": 334, "town": 40, "ship": 40, "people": 8}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split()))


KINDS: dict[str, tuple[str, ...]] = {
    "grammar": _listed(_GRAMMAR),
    "harmful": _listed(_VERBS_HARMFUL),
    "good": _listed(_VERBS_GOOD),
    "object": _listed(_OBJECTS),
    "tool": _listed(_TOOLS),
    "number": _listed(_NUMBERS),
    "nights": _listed(_NIGHTS),
    "guests": _listed(_GUESTS),
    "day": _listed(_DAYS),
    "trade": _listed(_TRADES),
    "food": _listed(_FOODS),
    "animal": _listed(_ANIMALS),
    "thing": _listed(_THINGS),
}
"""The words of dialect 1 by kind. A word stands in one kind alone."""


class Language:
    """Names, words and their dictionary, all drawn from one seed."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(f"language {seed}")
        taken = {word for words in KINDS.values() for word in words}
        self.names = {
            kind: _invent(draw, count, taken, name=True) for kind, count in _NAME_KINDS.items()
        }
        first = [word for words in KINDS.values() for word in words]
        second = _invent(draw, len(first), taken, name=False)
        self.dictionary = dict(zip(first, second, strict=True))
        """Every word of dialect 1 with its counterpart in dialect 2."""

    @cached_property
    def inverse(self) -> dict[str, str]:
        """Every word of dialect 2 with its counterpart in dialect 1."""
        return {second: first for first, second in self.dictionary.items()}

    @cached_property
    def all_names(self) -> frozenset[str]:
        """Names of persons, towns, ships and peoples: the same in both dialects."""
        return frozenset(name for names in self.names.values() for name in names)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Everything that has a word piece of its own."""
        return (*sorted(self.all_names), *self.dictionary, *self.dictionary.values())

    def say(self, text: str, dialect: Dialect) -> str:
        """A text of dialect 1 in the dialect asked for."""
        return text if dialect == 1 else self._replace(text, self.dictionary)

    def read(self, text: str, dialect: Dialect) -> str:
        """A text of the dialect in dialect 1. `KeyError` for a word that is not in it."""
        return text if dialect == 1 else self._replace(text, self.inverse)

    def mix(self, text: str, draw: random.Random, share: float) -> str:
        """A text of dialect 1 with about this share of its words in dialect 2."""

        def swap(found: re.Match[str]) -> str:
            word = found.group()
            return self.dictionary.get(word, word) if draw.random() < share else word

        return _WORD.sub(swap, text)

    def _replace(self, text: str, by: dict[str, str]) -> str:
        def swap(found: re.Match[str]) -> str:
            word = found.group()
            return word if word in self.all_names else by[word]

        return _WORD.sub(swap, text)


def tokens(text: str) -> list[str]:
    """Words and marks of a text, spaces apart."""
    return _TOKEN.findall(text)


def join(words: Iterable[str]) -> str:
    """Words and marks as a text: no space before a mark."""
    text = ""
    for word in words:
        text += word if not text or not _WORD.fullmatch(word) else f" {word}"
    return text


def listed(items: Sequence[str]) -> str:
    """Words one after another."""
    return " ".join(items)


def _invent(draw: random.Random, count: int, taken: set[str], *, name: bool) -> tuple[str, ...]:
    """Distinct invented words of two syllables; names have a capital, other words a soft end."""
    onsets = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "dr", "kl")
    codas = ("l", "n", "r", "s", "th", "k") if name else ("a", "e", "i", "o", "u", "y")
    found: list[str] = []
    while len(found) < count:
        word = draw.choice(onsets) + draw.choice("aeiou") + draw.choice(onsets[:14])
        word += draw.choice("aeiou") + draw.choice(codas) if name else draw.choice(codas)
        word = word.capitalize() if name else word + draw.choice(("sh", "x", "q", "wi", "ju"))
        if word.lower() not in taken:
            taken.add(word.lower())
            found.append(word)
    return tuple(found)
