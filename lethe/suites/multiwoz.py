"""Hotel conversations of MultiWOZ 2.1 (Eric et al. 2020), told in Schema-Guided Dialogue's acts."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lethe.rows import Row
from lethe.suites.dialogues import Act, Dialogue, Turn

OTHER = "OTHER"
"""What does not speak of the hotel, and what no act is given for."""

_ACTS = {
    "Hotel-Inform": "INFORM",
    "Hotel-Request": "REQUEST",
    "Hotel-Recommend": "OFFER",
    "Hotel-Select": "OFFER",
    "Hotel-NoOffer": "NOTIFY_FAILURE",
    "Booking-Inform": "OFFER_INTENT",
    "Booking-Request": "REQUEST",
    "Booking-Book": "NOTIFY_SUCCESS",
    "Booking-NoBook": "NOTIFY_FAILURE",
    "general-reqmore": "REQ_MORE",
    "general-bye": "GOODBYE",
    "general-welcome": "GOODBYE",
    "general-thank": "THANK_YOU",
    "general-greet": "GOODBYE",
}
_SLOTS = {"People": "number_of_adults", "Stay": "stay_length", "Stars": "star_rating"}
_NAMES = {"Addr", "Day", "Name"}
_TRUTHS = {"yes": "True", "no": "False", "free": "True"}
_UNSAID = {"?", "none", "not mentioned", ""}
_ANY = {"dont care", "do n't care", "don't care", "dontcare", "do not care"}
# The files hold text in tokens: "I do n't know , sorry ."
_BEFORE = re.compile(r" (?=[.,?!;:%)]|n't\b|'(?:s|m|d|ll|re|ve)\b)")
_AFTER = re.compile(r"(?<=[(£$]) ")


def read_multiwoz(row: Row) -> Dialogue | None:
    """The dialogue of a row; None where a restaurant is booked in it, whose acts look the same.

    What is said about trains, taxis and sights stays in it, with the act `OTHER`.
    """
    if "restaurant" in row["domains"]:
        return None
    turns = tuple(
        Turn(turn["speaker"], _text(turn["text"]), tuple(_acts(turn["dialog_act"])))
        for turn in row["turns"]
    )
    return Dialogue(row["dialogue_id"], "MultiWOZ", turns)


def _acts(given: Mapping[str, Any]) -> Iterator[Act]:
    """The acts of a turn; `OTHER` where none is given, as nothing could be told wrong there."""
    if not given:
        yield Act(OTHER, "", ())
    for name, slots in given.items():
        for slot, value in slots:
            yield _act(name, slot, value)


def _act(name: str, slot: str, value: str) -> Act:
    act = _ACTS.get(name, OTHER)
    if slot == "none":
        return Act(act, "", ())
    if slot == "Choice":
        return Act(act, "count", () if value in _UNSAID else (value,))
    if slot in ("Internet", "Parking"):
        truth = _TRUTHS.get(value.lower())
        return Act(act, slot, (truth,) if truth else ())
    said = "dontcare" if value.lower() in _ANY else _text(value)
    if slot in _NAMES and said.islower() and said != "dontcare":
        said = said.title()  # as agents write it; else it would tell an option that was not said
    return Act(act, _SLOTS.get(slot, slot), () if said in _UNSAID else (said,))


def _text(tokens: str) -> str:
    """Text as it is written, from tokens."""
    return _AFTER.sub("", _BEFORE.sub("", " ".join(tokens.split())))
