"""Where the numbers come from, and what they cannot tell."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from lethe.comparison import SPEAKS_OF
from lethe.plain import plain
from lethe.report.charts import Charts
from lethe.report.material import Material

TITLE = "Where the numbers come from"
CANNOT = (
    f"Intervals speak of {SPEAKS_OF}. Tune again with another seed and a change moves by more "
    "than its interval; a claim about a method needs several bases and seeds.",
    "A suite measures what it asks. Choosing between given options is not writing an answer.",
    "A drop on a safety suite may be harm, a new format, or a shifted criterion; d′ and criterion "
    "beside the score tell the last apart.",
    "A capability that no longer shows may be hidden and not gone.",
    "Groups are the annotators' words for people; some have a dozen examples.",
    "A suite on which the base guesses cannot show forgetting.",
)
_SUITE = ("scorer", "split", "normalise", "balance", "source", "hash")


def build(material: Material) -> dict[str, Any] | None:
    """Settings, checkpoints, suites, and the versions and machines that made the tables."""
    run = material.run
    suites: dict[str, dict[str, Any]] = {}
    specs: dict[str, str] = {}
    made: dict[str, dict[str, None]] = {}
    for suite, place, table, metadata in material.tables():
        told = metadata["suite"]
        suites.setdefault(suite, {"rows": table.num_rows, **{k: told.get(k) for k in _SUITE}})
        specs.setdefault(place.checkpoint, metadata["checkpoint"]["spec"])
        versions = metadata.get("versions", {})
        for name, value in (
            ("format", metadata["format"]),
            ("dtype", metadata["dtype"]),
            ("hardware", metadata.get("hardware")),
            ("versions", ", ".join(f"{k} {v}" for k, v in versions.items())),
            ("decoding", _decoding(metadata.get("decoding"))),
        ):
            if value is not None:
                made.setdefault(name, {})[str(value)] = None
    settings = {key: value for key, value in run.settings.items() if key != "study"}
    started = datetime.fromtimestamp(run.started, UTC).isoformat(timespec="seconds")
    found: dict[str, Any] = plain(
        {
            "run": run.name,
            "command": f"lethe {run.command}",
            "started": started if run.started else None,
            "settings": settings,
            "study": run.settings.get("study"),
            "checkpoints": [
                {
                    "name": place.name,
                    "chain": place.chain,
                    "position": place.position,
                    "method": place.method,
                    "seed": place.seed,
                    "world": place.world,
                    "fingerprint": place.checkpoint,
                    "spec": specs.get(place.checkpoint),
                }
                for place in run.positions
            ],
            "suites": suites,
            "made_with": {name: list(values) for name, values in made.items()},
            "cannot_tell": list(CANNOT),
        }
    )
    return found


def _decoding(said: object) -> object:
    """How answers were drawn, as words; what older tables hold stays as it is."""
    if not isinstance(said, Mapping):
        return said
    stop = ", ".join(repr(text) for text in said.get("stop") or ())
    limit = f"{said.get('method')}, up to {said.get('max_new_tokens')} tokens"
    return f"{limit}, until {stop}" if stop else limit


def draw(material: Material, content: Mapping[str, Any], charts: Charts) -> dict[str, Any]:
    """None."""
    del material, content, charts
    return {}
