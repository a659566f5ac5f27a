"""Settings given as NAME=VALUE, with dots between a slot and what stands in it. No torch."""

from collections.abc import Sequence
from typing import Any

import yaml

from lethe.errors import InputError


def read_assignments(pairs: Sequence[str], *, where: str = "--set") -> dict[str, Any]:
    """`anchor.kl.weight=0.1` as `{"anchor": {"kl": {"weight": 0.1}}}`; values as in YAML.

    Raises:
        InputError: no `=` in it, no name, a name given twice, or no YAML value.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        parts = name.strip().split(".")
        if not equals or not all(parts):
            raise InputError(f"found '{pair}'", where=where, todo="write NAME=VALUE")
        inner = found
        for part in parts[:-1]:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise InputError(f"'{name}' stands within a value", where=where, todo="give one")
        if parts[-1] in inner:
            raise InputError(f"'{name}' is given twice", where=where, todo="keep one")
        inner[parts[-1]] = _value(text, name, where)
    return found


def _value(text: str, name: str, where: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"'{name}' is no YAML value: {text:.60}", where=where) from None
    if isinstance(value, str):
        try:
            return float(value)  # 1e-4 is a number, whatever YAML 1.1 says
        except ValueError:
            return value
    return value
