"""Steps: the nodes of a plan, and the point where new kinds of work are added.

A kind of step is a frozen dataclass with the members of `Step`. What it depends on decides its key;
raise its `version` whenever its numbers change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from lethe.models.fingerprint import FingerprintMemory
from lethe.models.local import ModelPool
from lethe.progress import Progress
from lethe.store import Kind, Store, StoredObject, key_of


class Step(Protocol):
    """One piece of work with one result in the store."""

    kind: ClassVar[str]
    object_kind: ClassVar[Kind]
    version: ClassVar[int]

    @property
    def title(self) -> str:
        """A few words for progress bars."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything chosen that can change the result, as JSON."""

    @property
    def dtype(self) -> str:
        """What the model computes in."""

    @property
    def data(self) -> str:
        """Hash of the data it reads."""

    @property
    def parents(self) -> Sequence[str]:
        """Keys or fingerprints of what it starts from."""

    def run(self, folder: Path, runtime: "Runtime") -> Mapping[str, Any]:
        """Write the result's files into `folder`; return facts for its manifest.

        The folder may hold what a killed run of the same step left there.
        """


@dataclass
class Runtime:
    """What steps run with: never part of a key."""

    store: Store
    pool: ModelPool
    memory: FingerprintMemory
    progress: Progress
    cache: dict[Any, Any] = field(default_factory=dict)


def step_key(step: Step) -> str:
    """The key of a step's result."""
    return key_of(
        step.kind,
        step.version,
        step.settings,
        dtype=step.dtype,
        data=step.data,
        parents=step.parents,
    )


class BusyError(Exception):
    """Another process is at work on this step."""


def run_step(step: Step, runtime: Runtime, *, wait: bool = True) -> tuple[StoredObject, bool]:
    """The result of a step, computed unless it is in the store; and whether it was.

    Raises:
        BusyError: another process computes it, and `wait` is false.
    """

    def waiting() -> None:
        if not wait:
            raise BusyError(step.title)
        runtime.progress.say(f"waiting for another process: {step.title}")

    return runtime.store.get_or_make(
        step.object_kind,
        step_key(step),
        lambda folder: step.run(folder, runtime),
        waiting=waiting,
    )
