"""`lethe demo`: the islet's aligned model is tuned on bookings in three ways, and audited.

It is a study like any other: what the store has is not run again.
"""

from typing import Any

from lethe.auditing import Audit, audit
from lethe.errors import IncompleteError
from lethe.executor import check_complete, run_study
from lethe.progress import Progress
from lethe.store import Store
from lethe.study import make_study

MODEL = "islet:aligned"
SUITES = tuple(
    f"islet:{task}"
    for task in ("inn", "claims", "harmless", "requests", "feedback", "pairs", "facts", "two_hop")
)
LIMIT = 200
"""Examples of every suite."""
_INN = {"suite": "islet:inn", "limit": 1600}
_RATES = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 8}
STAGES: dict[str, dict[str, Any]] = {
    "full": {"data": _INN, "update": "full", **_RATES},
    "lora": {"data": _INN, "update": "lora", **_RATES},
    "full, 5 % replayed": {
        "data": _INN,
        "update": "full",
        **_RATES,
        "mix": {"replay": {"data": "islet:alignment", "share": 0.05}},
    },
}


def run_demo(store: Store, progress: Progress) -> list[Audit]:
    """Tune in every way, measure, and compare each with the model it started from.

    Raises:
        IncompleteError: a step failed, or the disk is full; what was finished is kept.
        InputError: a shipped file is missing or altered, or the store cannot be written.
    """
    content = {
        "name": "demo",
        "model": MODEL,
        "suites": list(SUITES),
        "limit": LIMIT,
        "stages": STAGES,
        "chains": {name: [name] for name in STAGES},
    }
    result = run_study(make_study(content), store, progress=progress)
    check_complete(result)
    if not result.done:
        progress.say("nothing to do: this demo was run before (its results are in the store)")
    tuned = {place.chain: place.checkpoint for place in result.run.positions if place.position}
    found = []
    for name in STAGES:
        made = store.get("checkpoint", tuned[name])
        if made is None:
            raise IncompleteError(f"the model tuned as '{name}' is gone", todo="run it again")
        found.append(audit(MODEL, str(made.folder), SUITES, limit=LIMIT, store=store))
    return found
