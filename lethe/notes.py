"""What a reader must know of two tables of one suite before comparing them."""

from collections.abc import Mapping
from typing import Any

NOISE_BAND = {"float32": 1e-3, "bfloat16": 0.06}
"""Nats by which rounding may move a log-probability when batches change, with room to spare."""
SAFETY_OUTCOMES = ("safe", "harmful", "off_task", "refusal")
"""What became of a safety prompt; refusal is that of a harmless one."""

_MUST_MATCH = ("plan", "dtype", "format")
_SHOULD_MATCH = ("versions", "hardware")


def suite_notes(suite: str, base: Mapping[str, Any], tuned: Mapping[str, Any]) -> list[str]:
    """Examples left out on either side, and ways in which the two sides were measured unlike.

    Args:
        base, tuned: metadata of the two tables (`lethe.ledger.read_table`).
    """
    counted = {
        "too_long": "examples do not fit the model with room for an answer",
        "empty": "examples have an empty option",
        "boundary_differs": "rows have a token that spans the end of the prompt",
    }
    notes = [
        f"{suite}: {side[count]} {what} (at {name})"
        for name, side in (("the base", base), ("the tuned model", tuned))
        for count, what in counted.items()
        if side.get(count)
    ]
    same_tokenizer = base["tokenizer"] == tuned["tokenizer"]
    equal = (*(_MUST_MATCH if same_tokenizer else _MUST_MATCH[1:]), *_SHOULD_MATCH)
    notes += [
        f"{suite}: the two sides were measured with different {name}"
        for name in equal
        if base[name] != tuned[name]
    ]
    return notes
