"""`lethe demo`: the islet's aligned model is tuned on bookings in three ways, and audited.

It is a study like any other: what the store has is not run again. What it found is kept as well, so
that asking once more neither reads a table nor loads a library.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.errors import IncompleteError
from lethe.progress import Progress
from lethe.store import MANIFEST, Store, write_atomically

if TYPE_CHECKING:
    from lethe.auditing import Audit
    from lethe.run import Run

MODEL = "islet:aligned"
SUITES = tuple(
    f"islet:{task}"
    for task in ("inn", "claims", "harmless", "requests", "feedback", "pairs", "facts", "two_hop")
)
CLAIMS = "islet:claims"
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
KEPT = "demo.json"
"""What the last demo of a store found."""


@dataclass(frozen=True)
class Change:
    """A change of an axis (after − before), with its 95 % interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Cost:
    """What one way of tuning cost.

    Attributes:
        audit: the run that has all of it.
        axes: axis → its change.
        outcomes: outcome → how many claims are answered so now.
        peoples: people → share of the claims about it that are answered safely now.
    """

    audit: str
    axes: Mapping[str, Change]
    outcomes: Mapping[str, int]
    peoples: Mapping[str, float]


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Attributes:
        run: the study's run, for `lethe report`.
        ways: every way of tuning, compared with the model it started from.
        claims: people → how many claims about it were asked.
        alignment: people → how often alignment spoke of it.
    """

    run: str
    ways: Mapping[str, Cost]
    claims: Mapping[str, int]
    alignment: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Demo":
        """The inverse of `to_dict`."""
        ways = {
            name: Cost(
                way["audit"],
                {axis: Change(**change) for axis, change in way["axes"].items()},
                way["outcomes"],
                way["peoples"],
            )
            for name, way in content["ways"].items()
        }
        return cls(content["run"], ways, content["claims"], content["alignment"])


def run_demo(store: Store, progress: Progress) -> Demo:
    """Tune in every way, measure, and compare each with the model it started from.

    Raises:
        IncompleteError: a step failed, or the disk is full; what was finished is kept.
        InputError: a shipped file is missing or altered, or the store cannot be written.
    """
    key = _key()
    found = _kept(store, key)
    if found is None:
        from lethe.studies.executor import check_complete, run_study
        from lethe.studies.study import make_study

        result = run_study(make_study(_content()), store, progress=progress)
        check_complete(result)
        found = _concluded(result.run, store, progress)
        _keep(found, key, store)
        result.run.save(store)  # so that it is the last one
        ran = result.done > 0
    else:
        with store.explained():
            write_atomically(store.runs / "last", found.run.encode())
        ran = False
    if not ran:
        progress.say("nothing to do: this demo was run before (its results are in the store)")
    return found


def _content() -> dict[str, Any]:
    """The study."""
    return {
        "name": "demo",
        "model": MODEL,
        "suites": list(SUITES),
        "limit": LIMIT,
        "stages": STAGES,
        "chains": {name: [name] for name in STAGES},
    }


def _concluded(run: "Run", store: Store, progress: Progress) -> Demo:
    """The audits of a finished study, and what they say."""
    from lethe.auditing import audit
    from lethe.islet.world import world_of

    tuned = {place.chain: place.checkpoint for place in run.positions if place.position}
    ways: dict[str, Cost] = {}
    asked: dict[str, int] = {}
    with progress.bar("comparing", len(STAGES)) as bar:
        for name in STAGES:
            made = store.get("checkpoint", tuned[name])
            if made is None:
                raise IncompleteError(f"the model tuned as '{name}' is gone", todo="run it again")
            found = audit(MODEL, str(made.folder), SUITES, limit=LIMIT, store=store)
            ways[name], asked = _cost(found)
            bar.advance()
    peoples = world_of(0).peoples
    return Demo(run.name, ways, asked, {name: peoples[name].alignment for name in asked})


def _cost(found: "Audit") -> tuple[Cost, dict[str, int]]:
    """What an audit says, and how many claims were asked about every people."""
    comparison = found.comparison
    axes = {
        axis.axis: Change(axis.change.estimate, axis.change.low, axis.change.high)
        for axis in comparison.axes
    }
    claims = next(suite for suite in comparison.suites if suite.suite == CLAIMS)
    groups = [group for group in claims.groups if group.grouping == "people"]
    outcomes = {name: after for name, (_, after) in found.outcomes[CLAIMS].items()}
    peoples = {group.group: group.after for group in groups}
    asked = {group.group: group.forgetting.n for group in groups}
    return Cost(found.run.name, axes, outcomes, peoples), asked


# ---- what was found before ---------------------------------------------------------------------


def _key() -> str:
    """SHA-256 of all that decides what a demo finds: Lethe's own files, its model, and the study.

    Whatever changes in them, the steps are asked again, which costs no more than reading them.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256(json.dumps(_content()).encode())
    for path in sorted([*package.rglob("*.py"), *package.glob("islet/weights/aligned/*")]):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _kept(store: Store, key: str) -> Demo | None:
    """What the same demo found before, if all that it names is still there."""
    try:
        held = json.loads((store.root / KEPT).read_text())
        if held["key"] != key or not all((store.root / path).is_file() for path in held["places"]):
            return None
        return Demo.from_dict(held["found"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it is only asked again


def _keep(found: Demo, key: str, store: Store) -> None:
    content = {"key": key, "places": sorted(_places(found, store)), "found": found.to_dict()}
    with store.explained():
        write_atomically(store.root / KEPT, json.dumps(content, indent=1).encode())


def _places(found: Demo, store: Store) -> Iterator[str]:
    """Files of the store without which its runs could not be shown."""
    from lethe.run import RUN_FILE, load_run

    for name in (found.run, *(way.audit for way in found.ways.values())):
        run = load_run(name, store)
        yield f"runs/{name}/{RUN_FILE}"
        for keys in run.scores.values():
            yield from (f"objects/scores/{key}/{MANIFEST}" for key in keys.values())
        tuned = (place.checkpoint for place in run.positions if place.position)
        yield from (f"objects/checkpoint/{key}/{MANIFEST}" for key in tuned)
