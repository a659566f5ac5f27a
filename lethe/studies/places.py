"""Where the keys of a study stand in its file, for errors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from lethe.errors import InputError, nearest

Where = dict[tuple[str, ...], str]
"""File and line of every key, by its path."""


class Places:
    """Where things stand in a file."""

    def __init__(self, where: Where) -> None:
        self._where = where

    def of(self, path: Sequence[str]) -> str:
        """File and line of the nearest key that is known, and the path."""
        for end in range(len(path), -1, -1):
            if found := self._where.get(tuple(path[:end])):
                return f"{found}: {'.'.join(path)}" if path else found
        return ".".join(path) or "study"

    def error(self, what: str, path: Sequence[str], *, todo: str = "") -> InputError:
        """What is wrong at a path."""
        return InputError(what, where=self.of(path), todo=todo)

    def check(self, content: Any, known: Iterable[str], path: tuple[str, ...]) -> None:
        """Refuse what is no mapping, and keys that nobody knows."""
        if not isinstance(content, Mapping):
            raise self.error(f"found {content!r:.60}, not a mapping", path)
        for key in content:
            if key not in (names := list(known)):
                raise self.error(
                    f"unknown key '{key}'", (*path, str(key)), todo=nearest(str(key), names)
                )

    def explain(self, error: ValidationError) -> InputError:
        """The first thing that pydantic found."""
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        if first["type"] == "missing":
            return self.error(f"no {path[-1]}", path[:-1], todo=f"add {path[-1]}: ...")
        return self.error(f"found {first['input']!r:.60}; {first['msg'].lower()}", path)
