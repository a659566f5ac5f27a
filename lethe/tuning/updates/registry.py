"""The decorator that makes a function an update, and its signature the update's settings."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from lethe.errors import InputError, nearest

Prepare = Callable[..., Any]


@dataclass(frozen=True)
class Update:
    """A registered update.

    Attributes:
        name: the function's name.
        learning_rate: what a stage uses unless told otherwise.
        prepare: takes the live module in float32 and its settings by keyword, marks what may move
            and returns the module to train. A calibrated one takes a
            `lethe.tuning.calibration.Calibration` after the module.
        adapter: whether what is saved is an adapter on the parent; else all weights are.
        calibrated: whether it looks at examples to protect before it trains.
        after_step: called with the module after every step of the optimiser.
        finish: makes of the trained module what is saved; None saves it as it is.
        options: the keyword-only parameters of `prepare`, checked strictly.
    """

    name: str
    learning_rate: float
    prepare: Prepare
    adapter: bool
    calibrated: bool
    after_step: Callable[[Any], None] | None
    finish: Callable[[Any], Any] | None
    options: type[BaseModel]


_KNOWN: dict[str, Update] = {}


def update(
    *,
    learning_rate: float,
    adapter: bool = False,
    calibrated: bool = False,
    after_step: Callable[[Any], None] | None = None,
    finish: Callable[[Any], Any] | None = None,
) -> Callable[[Prepare], Prepare]:
    """Register a function as an update under its own name.

    Its positional parameters are given to it when it runs (`Update.prepare`); its keyword-only
    parameters, which need plain types and defaults, are its settings.
    """

    def register(prepare: Prepare) -> Prepare:
        name = prepare.__name__
        fields: dict[str, Any] = {
            parameter.name: (parameter.annotation, parameter.default)
            for parameter in inspect.signature(prepare, eval_str=True).parameters.values()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        rules = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)
        options = create_model(name, __config__=rules, **fields)
        _KNOWN[name] = Update(
            name, learning_rate, prepare, adapter, calibrated, after_step, finish, options
        )
        return prepare

    return register


def find(name: str) -> Update:
    """The update of this name.

    Raises:
        InputError: there is none; the nearest known name is given.
    """
    if name not in _KNOWN:
        raise InputError(f"no update '{name}'", todo=nearest(name, _KNOWN))
    return _KNOWN[name]


def known() -> tuple[Update, ...]:
    """All updates, by name."""
    return tuple(_KNOWN[name] for name in sorted(_KNOWN))
