"""Lethe: what did this fine-tune cost, for whom, and on which examples?

    audit = lethe.audit("base", "./tuned", suites=["toxigen", "my.jsonl"])
    audit.table(); audit.groups("toxigen"); audit.frame()

Names are imported when they are first used, so that `import lethe` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lethe.auditing import Audit, audit, load_audit
    from lethe.callback import ForgettingCallback
    from lethe.errors import LetheError
    from lethe.examples import Example, Message, Suite
    from lethe.filtering.cleaning import forget_filter
    from lethe.filtering.filtered import Filtered
    from lethe.probing.probe import probe
    from lethe.probing.result import Probed
    from lethe.store import Store
    from lethe.studies.executor import run_study
    from lethe.studies.study import make_study

__version__ = "0.1.0"
__all__ = [
    "Audit",
    "Example",
    "Filtered",
    "ForgettingCallback",
    "LetheError",
    "Message",
    "Probed",
    "Store",
    "Suite",
    "audit",
    "forget_filter",
    "load_audit",
    "make_study",
    "probe",
    "run_study",
]

_HOMES = {
    "Audit": "lethe.auditing",
    "audit": "lethe.auditing",
    "load_audit": "lethe.auditing",
    "ForgettingCallback": "lethe.callback",
    "LetheError": "lethe.errors",
    "Example": "lethe.examples",
    "Message": "lethe.examples",
    "Suite": "lethe.examples",
    "Store": "lethe.store",
    "make_study": "lethe.studies.study",
    "run_study": "lethe.studies.executor",
    "forget_filter": "lethe.filtering.cleaning",
    "Filtered": "lethe.filtering.filtered",
    "probe": "lethe.probing.probe",
    "Probed": "lethe.probing.result",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lethe' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
