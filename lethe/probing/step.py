"""Probes of a pair of models as a step of a study; and reading back what they found. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter

from lethe.models.checkpoint import Checkpoint
from lethe.probing.planted import Planted
from lethe.probing.probe import Asked, probe_pair
from lethe.probing.result import RESULT, Judged, Probed
from lethe.run import Run, load_run
from lethe.steps import Runtime
from lethe.store import Kind, Store, write_atomically

_Found = tuple[str, tuple[Judged, ...], dict[str, Planted], tuple[str, ...]]


@dataclass(frozen=True)
class Probing:
    """Ask two models plainly and under probes, and judge.

    Attributes:
        name: what the study calls it.
    """

    kind: ClassVar[str] = "probe"
    object_kind: ClassVar[Kind] = "probe"
    version: ClassVar[int] = 1

    name: str
    before: Checkpoint
    after: Checkpoint
    asked: Asked
    dtype: str

    @property
    def title(self) -> str:
        """For progress bars."""
        return f"probe {self.name}: {self.after.name}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The probes, and the settings of the retraining."""
        return {
            "probes": self.asked.probes.names,
            "maps": [one.identity for one in self.asked.maps],
            "retraining": [one.hashed for one in self.asked.retraining.tried],
            "seed": self.asked.seed,
            "format": self.asked.format,
        }

    @property
    def data(self) -> str:
        """Hashes of the suites, and of the control's."""
        return "+".join(suite.hash for suite in (*self.asked.suites, *self.asked.novel))

    @property
    def parents(self) -> Sequence[str]:
        """Both models."""
        return (self.before.fingerprint, self.after.fingerprint)

    def run(self, folder: Path, runtime: Runtime) -> Mapping[str, Any]:
        """Write the verdicts with everything they rest on, NaN and infinity included."""
        found = probe_pair(self.before, self.after, self.asked, runtime)
        kept = (found.run.name, found.judged, dict(found.planted), found.notes)
        write_atomically(folder / RESULT, _stored().dump_json(kept))
        return {"run": found.run.name, "verdicts": [one.verdict.word for one in found.suites]}


def read_probes(run: Run, store: Store) -> dict[str, Probed]:
    """What the probes of a study found, by the name of the probe with its seed and world."""
    found = {}
    for name, key in run.settings.get("probes", {}).items():
        made = store.get("probe", key)
        if made is not None:
            own, judged, planted, notes = _stored().validate_json(made.file(RESULT).read_bytes())
            found[name] = Probed(load_run(own, store), judged, planted, notes)
    return found


def _stored() -> TypeAdapter[_Found]:
    return TypeAdapter(_Found, config={"ser_json_inf_nan": "constants"})
