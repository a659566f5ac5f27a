"""Dialogues of Schema-Guided Dialogue (Rastogi et al., AAAI 2020), from the hub or a local copy.

Those of MultiWOZ become the same (`lethe.suites.multiwoz`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lethe.rows import Row

# The hub's parquet copy stores speakers and acts as numbers.
_SPEAKERS = ("user", "system")
_ACTS = (
    "AFFIRM",
    "AFFIRM_INTENT",
    "CONFIRM",
    "GOODBYE",
    "INFORM",
    "INFORM_COUNT",
    "INFORM_INTENT",
    "NEGATE",
    "NEGATE_INTENT",
    "NOTIFY_FAILURE",
    "NOTIFY_SUCCESS",
    "OFFER",
    "OFFER_INTENT",
    "REQUEST",
    "REQUEST_ALTS",
    "REQ_MORE",
    "SELECT",
    "THANK_YOU",
)


@dataclass(frozen=True, slots=True)
class Act:
    """A dialogue act: what is done, about which slot, with which values."""

    act: str
    slot: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says, and the acts that it performs; its kind are their names, each once."""

    speaker: str
    text: str
    acts: tuple[Act, ...]
    kind: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", tuple(sorted({act.act for act in self.acts})))


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation of a user with one service."""

    id: str
    service: str
    turns: tuple[Turn, ...]


def read_dialogue(row: Row) -> Dialogue | None:
    """The dialogue of a row; None where it is not about one hotel service alone."""
    services = list(row["services"])
    if len(services) != 1 or not services[0].startswith("Hotels_"):
        return None
    turns = tuple(_turn(turn) for turn in records(row["turns"]))
    return Dialogue(row["dialogue_id"], services[0], turns)


def _turn(turn: Mapping[str, Any]) -> Turn:
    if "text" in turn:
        return Turn(turn["speaker"], turn["text"], tuple(map(_act, turn["acts"])))
    acts = [act for frame in records(turn["frames"]) for act in records(frame["actions"])]
    return Turn(_SPEAKERS[turn["speaker"]], turn["utterance"], tuple(map(_act, acts)))


def _act(act: Mapping[str, Any]) -> Act:
    name = act["act"]
    return Act(_ACTS[name] if isinstance(name, int) else name, act["slot"], tuple(act["values"]))


def records(column: Any) -> Iterator[Mapping[str, Any]]:
    """A list of structs; the hub stores it as a struct of lists."""
    if isinstance(column, Mapping):
        return (
            dict(zip(column, values, strict=True)) for values in zip(*column.values(), strict=True)
        )
    return iter(column)
