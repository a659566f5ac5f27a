"""The booking agent's next reply: out of four, or in the model's own words."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, pairwise, zip_longest

from lethe.examples import Decoding, Example, Message
from lethe.suites.dialogues import Dialogue, Turn, read_dialogue
from lethe.suites.multiwoz import OTHER, read_multiwoz
from lethe.suites.registry import Hub, Published, Rows, suite
from lethe.suites.replies import Template, fill, template, values_at
from lethe.suites.splits import share

_SYSTEM = Message(
    "system",
    "You are a booking agent for hotels and holiday homes. Give the agent's next reply.",
)
_HUB = ("google-research-datasets/schema_guided_dstc8", "dialogues")
_PARQUET = "refs/convert/parquet"  # the dataset itself is a script, which `datasets` refuses

# Acts of which either may be right at the same place of a conversation; and in MultiWOZ, where
# people played the agent and another set of them named the acts, these as well.
_EITHER: tuple[set[str], ...] = (
    {"OFFER", "INFORM_COUNT"},
    {"NOTIFY_SUCCESS", "NOTIFY_FAILURE"},
    {"REQ_MORE", "GOODBYE"},
    {"REQ_MORE", "OFFER_INTENT"},
)
_EITHER_OF_PEOPLE: tuple[set[str], ...] = (
    *_EITHER,
    {"OFFER", "INFORM"},
    {"OFFER", "NOTIFY_FAILURE"},  # what the database holds, nobody can know
    {"INFORM", "NOTIFY_FAILURE"},
    {"OFFER", "OFFER_INTENT"},
    {"OFFER", "REQUEST"},
    {"INFORM", "OFFER_INTENT"},
    {"REQUEST", "OFFER_INTENT"},
)

Kind = tuple[str, ...]


def _local(subset: str) -> Mapping[Published, str]:
    if subset == "multiwoz":
        return {"all": "multiwoz_hotel/hotel_dialogues.jsonl"}
    return {
        "train": "sgd_hotels/train_hotel_only.jsonl",
        "dev": "sgd_hotels/dev_hotel_only.jsonl",
        "test": "sgd_hotels/test_hotel_only.jsonl",
    }


def _hub(subset: str) -> Mapping[Published, tuple[Hub, ...]]:
    if subset == "multiwoz":
        return {}  # another version of it is there, with other acts
    return {
        "train": (Hub(*_HUB, "train", _PARQUET),),
        "dev": (Hub(*_HUB, "validation", _PARQUET),),
        "test": (Hub(*_HUB, "test", _PARQUET),),
    }


@suite(
    "hotel",
    axis="proficiency",
    scorer="choice",
    licence="CC BY-SA 4.0; multiwoz MIT",
    subsets=("sgd", "multiwoz"),
    local=_local,
    hub=_hub,
    normalise="byte",
)
def hotel(rows: Rows, subset: str) -> Iterator[Example]:
    """The booking agent's next reply, told from three that do something else at this point

    The three are replies of other conversations with the same service in the same split whose
    acts cannot be right here; names, places and dates in them are those of this conversation. A
    reply to which there are not three is left out.
    """
    dialogues = _dialogues(rows, subset)
    pools = {dialogue.service: _Pool(played=subset == "multiwoz") for dialogue in dialogues}
    for dialogue in dialogues:
        pools[dialogue.service].add(dialogue)
    for dialogue in dialogues:
        for reply, before, turn in _replies(dialogue, rows.published):
            at = int(reply.id.rpartition("/")[2])
            place = _Place(dialogue.id, at, before, turn, *values_at(dialogue, at))
            wrong = pools[dialogue.service].distractors(place)
            if len(wrong) < 3:
                continue
            options = sorted([turn.text, *wrong], key=partial(share, reply.id))
            yield replace(reply, choices=tuple(options), answer=options.index(turn.text))


@suite(
    "hotel_reply",
    axis="proficiency",
    scorer="match",
    licence="CC BY-SA 4.0; multiwoz MIT",
    subsets=("sgd", "multiwoz"),
    local=_local,
    hub=_hub,
    salt="hotel",
    metrics=("answer_f1",),
    decoding=Decoding(max_new_tokens=64),
    match="rouge1",
)
def hotel_reply(rows: Rows, subset: str) -> Iterator[Example]:
    """The booking agent's next reply in the model's own words: ROUGE-1 against the real one"""
    for dialogue in _dialogues(rows, subset):
        for reply, _, turn in _replies(dialogue, rows.published):
            yield replace(reply, references=(turn.text,))


def _dialogues(rows: Rows, subset: str) -> list[Dialogue]:
    read = read_multiwoz if subset == "multiwoz" else read_dialogue
    return [dialogue for row in rows if (dialogue := read(row)) is not None]


def _replies(dialogue: Dialogue, published: str) -> Iterator[tuple[Example, Turn, Turn]]:
    """The agent's turns, each with what it is asked to say, the turn before it, and itself."""
    name = dialogue.id if published == "all" else f"{published}/{dialogue.id}"
    for at, (before, turn) in enumerate(pairwise(dialogue.turns), start=1):
        if turn.speaker != "system" or OTHER in turn.kind:
            continue
        reply = Example(
            id=f"{name}/{at}",
            prompt=(_SYSTEM, *map(_message, dialogue.turns[:at])),
            reference=turn.text,
            groups={"service": dialogue.service, "act": "+".join(turn.kind)},
            cluster=name,
        )
        yield reply, before, turn


def _message(turn: Turn) -> Message:
    return Message("user" if turn.speaker == "user" else "assistant", turn.text)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a reply was said: the user's turn before it, and what the conversation is about."""

    dialogue: str
    at: int
    before: Turn
    real: Turn
    values: Mapping[str, str]
    known: Set[str]


class _Pool:
    """What the agent of one service says, by kind, and after which kind of user turn.

    Args:
        played: whether people played the agent, so that less is surely wrong.
    """

    def __init__(self, *, played: bool) -> None:
        self._either = _EITHER_OF_PEOPLE if played else _EITHER
        # kinds of which two replies about other slots cannot both be right
        self._by_slot: tuple[Kind, ...] = (("REQUEST",),) if played else (("INFORM",), ("REQUEST",))
        self._templates: dict[Kind, list[Template]] = defaultdict(list)
        self._after: dict[Kind, Counter[Kind]] = defaultdict(Counter)

    def add(self, dialogue: Dialogue) -> None:
        """Add every reply of a conversation; those that cannot be moved elsewhere only count."""
        for at, (before, turn) in enumerate(pairwise(dialogue.turns), start=1):
            if turn.speaker == "system" and OTHER not in turn.kind:
                self._after[before.kind][turn.kind] += 1
                found = template(dialogue, at)
                if found is not None:
                    self._templates[turn.kind].append(found)

    def distractors(self, place: _Place) -> list[str]:
        """Three replies that are wrong here: of several kinds, likely ones after such a user turn.

        How many of them are longer than the real one is drawn, so that length tells nothing; where
        there are none of the wanted length, others stand in.
        """
        length = len(place.real.text.encode())
        longer = int(4 * share(place.dialogue, str(place.at), "longer"))
        wanted = {True: longer, False: 3 - longer}
        after = self._after[place.before.kind]
        kinds = sorted(self._templates, key=lambda kind: (-after[kind], kind))
        streams = [self._wrong(kind, place) for kind in kinds]
        unfit: list[list[str]] = [[] for _ in kinds]
        kept: dict[str, None] = {}
        for number in [*range(len(kinds))] * 2:  # a second of a kind only after one of each
            for text in streams[number]:
                side = len(text.encode()) > length
                if wanted[side] and text not in kept:
                    wanted[side] -= 1
                    kept[text] = None
                    break
                unfit[number].append(text)
            if len(kept) == 3:
                break
        in_turn = (text for texts in zip_longest(*unfit) for text in texts if text is not None)
        return list(islice(dict.fromkeys(chain(kept, in_turn)), 3))

    def _wrong(self, kind: Kind, place: _Place) -> Iterator[str]:
        """Replies of a kind that are surely wrong here, with this conversation's values.

        A question is wrong if it asks for what is known already. Otherwise the acts must be others
        than the real ones; questions and pieces of information may also differ in their slots.
        """
        same = kind == place.real.kind and kind in self._by_slot
        if not same and _may_be_right(set(kind), set(place.real.kind), self._either):
            return
        real_slots = {act.slot for act in place.real.acts} if same else set()
        found = self._templates[kind]
        start = int(len(found) * share(place.dialogue, str(place.at), *kind))
        for one in chain(found[start:], found[:start]):
            elsewhere = one.dialogue != place.dialogue
            if elsewhere and one.asked <= place.known and not one.slots & real_slots:
                text = fill(one, place.values)
                if text is not None and text != place.real.text:
                    yield text


def _may_be_right(done: set[str], real: set[str], either: Sequence[set[str]]) -> bool:
    """Whether acts could stand where the real ones do: they share one, or one of a pair."""
    return bool(done & real) or any(pair & done and pair & real for pair in either)
