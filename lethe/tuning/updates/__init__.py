"""Updates: where the weights may move. One module, one typed function each."""

from lethe.tuning.updates import (  # noqa: F401  (importing registers them)
    contrast,
    corda,
    freeze,
    full,
    lora,
    mica,
    nullspace,
    osf,
)
from lethe.tuning.updates.registry import Update, find, known, update

__all__ = ["Update", "find", "known", "update"]
