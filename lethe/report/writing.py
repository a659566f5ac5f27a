"""Writing a report's files."""

import errno
from pathlib import Path

from lethe.errors import IncompleteError, InputError
from lethe.store import write_atomically


def write_file(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all; folders above it are made.

    Raises:
        InputError: it cannot be written there.
        IncompleteError: the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise IncompleteError(
                "no space left on the disk", where=str(path), todo="free some, or write elsewhere"
            ) from None
        raise InputError(f"cannot be written ({error.strerror})", where=str(path)) from None
    return path
