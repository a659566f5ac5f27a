"""`lethe demo`: the islet's aligned model is tuned on bookings in three ways, and audited.

It is a study like any other: what the store has is not run again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lethe.auditing import Audit, audit
from lethe.comparison import Comparison, compare
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


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Attributes:
        run: the study's run, for `lethe report`.
        audits: every way of tuning, compared with the model it started from.
    """

    run: str
    audits: Mapping[str, Audit]

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """Changes by axis, suite and group, without the forms of biased forgetting."""
        found = {}
        for name, made in self.audits.items():
            before, after = (place.name for place in made.run.positions)
            found[name] = compare(made.comparable, before, after, biased=False)
        return found

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "run": self.run,
            "audits": {name: found.to_dict() for name, found in self.audits.items()},
        }


def run_demo(store: Store, progress: Progress) -> Demo:
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
    audits = {}
    for name in STAGES:
        made = store.get("checkpoint", tuned[name])
        if made is None:
            raise IncompleteError(f"the model tuned as '{name}' is gone", todo="run it again")
        audits[name] = audit(MODEL, str(made.folder), SUITES, limit=LIMIT, store=store)
    result.run.save(store)  # so that it is the last one
    return Demo(result.run.name, audits)
