"""Updates: where the weights may move. One module, one typed function each."""

from lethe.tuning.updates import freeze, full, lora  # noqa: F401  (importing registers them)
from lethe.tuning.updates.registry import Update, find, known, update

__all__ = ["Update", "find", "known", "update"]
