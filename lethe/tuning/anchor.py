"""What pulls a stage back to its parent while it trains: the settings. No torch."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lethe.errors import InputError, nearest


class _Anchor(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class KlAnchor(_Anchor):
    """β·KL(parent‖current) is added to the loss of every anchored target token.

    In this direction the parent's own distribution is the weight: what it finds likely must stay
    likely, what it never says is free. It needs no sampling, its gradient in the logits is the
    difference of the two distributions, and it is the quantity that every stage logs.

    Paper: the first few answer tokens carry safety, and a pull that is stronger on them keeps it
        (arXiv 2406.05946; their loss bounds each token's probability, ours takes the whole
        distribution).
    Cost: one more forward pass a batch, of the adapter switched off or, for whole models, of a
        second frozen module (4 bytes a weight); with `on: replay` only for the replayed rows.
    Not for: a task whose answers the parent finds improbable from the first token on; there it
        works against the learning itself, so anchor on replay.

    Attributes:
        weight: β.
        first_tokens, first_weight: so many tokens from the start of an answer weigh that much more.
        on: whose answers: the stage's own rows, or the replayed ones.
    """

    kind: Literal["kl"] = "kl"
    weight: float = Field(default=0.1, gt=0)
    first_tokens: int = Field(default=5, ge=1)
    first_weight: float = Field(default=1.0, gt=0)
    on: Literal["target", "replay"] = "target"


class L2Anchor(_Anchor):
    """λ/2·‖W − W₀‖² is added to the loss, W₀ being the parent's weights.

    Of an adapter W − W₀ is its update, (alpha/rank)·B·A, whose norm is taken from products of its
    factors, rank × rank; so the result does not depend on how B and A share it.

    Paper: L2-SP (Li et al. 2018, arXiv 1802.01483).
    Cost: next to nothing for an adapter; a copy of the parent's weights (4 bytes each) where whole
        weights move.
    Not for: comparing models of different sizes at one weight: the norm grows with the weights.

    Attributes:
        weight: λ.
    """

    kind: Literal["l2"] = "l2"
    weight: float = Field(default=0.01, gt=0)


Anchor = KlAnchor | L2Anchor
ANCHORS: dict[str, type[KlAnchor] | type[L2Anchor]] = {"kl": KlAnchor, "l2": L2Anchor}


def anchor_words(anchor: Anchor) -> str:
    """An anchor as a ledger names it."""
    on = " on replay" if isinstance(anchor, KlAnchor) and anchor.on == "replay" else ""
    return f"{anchor.kind} {anchor.weight:g}{on}"


def read_slot(slot: str, value: Any, known: Mapping[str, type[BaseModel]], where: str) -> Any:
    """What fills a slot: a name (`kl`), a name with settings (`{kl: {weight: 1}}`), or `none`.

    Raises:
        InputError: no such name, or an unknown setting of it; the nearest is given.
    """
    if value in (None, "none") or isinstance(value, BaseModel):
        return None if value == "none" else value
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise InputError(
            f"{slot} = {value!r:.60}",
            where=where,
            todo=f"give one of {', '.join(known)}, alone or with its settings",
        )
    ((name, said),) = value.items()
    if name not in known:
        raise InputError(f"no {slot} '{name}'", where=where, todo=nearest(str(name), known))
    return {"kind": name, **checked_names(f"{slot} '{name}'", said, known[name], where)}


def checked_names(what: str, said: Any, model: type[BaseModel], where: str) -> dict[str, Any]:
    """A mapping of settings whose names are all known.

    Raises:
        InputError: it is no mapping, or names what nobody knows.
    """
    said = {} if said is None else said
    if not isinstance(said, Mapping):
        raise InputError(f"{what}: found {said!r:.60}, not a mapping", where=where)
    names = [name for name in model.model_fields if name != "kind"]
    for name in said:
        if name not in names:
            raise InputError(
                f"unknown setting '{name}' of {what}", where=where, todo=nearest(str(name), names)
            )
    return dict(said)
