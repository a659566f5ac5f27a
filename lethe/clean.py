"""Tidying the store: what can go by which rule, said before it is done."""

import fcntl
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lethe.errors import InputError
from lethe.run import RUN_FILE, Run, load_run
from lethe.store import Store

_DAY = 86_400.0


@dataclass(frozen=True)
class CleanItem:
    """A folder or file that a rule names."""

    path: Path
    why: str
    size: int


@dataclass(frozen=True)
class CleanPlan:
    """Everything the rules name, and what was left alone."""

    items: tuple[CleanItem, ...]
    notes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(item.size for item in self.items)

    def carry_out(self) -> None:
        """Delete; an object loses its manifest first, so that it is never found half gone."""
        for item in self.items:
            if item.path.is_dir():
                (item.path / "manifest.json").unlink(missing_ok=True)
                shutil.rmtree(item.path, ignore_errors=True)
            else:
                item.path.unlink(missing_ok=True)


def plan_clean(
    store: Store,
    *,
    unfinished: bool = False,
    unused: bool = False,
    older_than: float | None = None,
    runs: Sequence[str] = (),
) -> CleanPlan:
    """What the given rules would delete; without a rule, what each of them would.

    Args:
        unfinished: partial results that no living process holds.
        unused: objects that no remaining run mentions.
        older_than: runs started more than this many days ago.
        runs: runs by name.

    Raises:
        InputError: a run that does not exist.
    """
    known = [load_run(str(path.parent), store) for path in store.runs.glob(f"*/{RUN_FILE}")]
    going = {load_run(name, store).name for name in runs}
    if older_than is not None:
        going |= {run.name for run in known if time.time() - run.started > older_than * _DAY}
    items = [_item(store.runs / name, "run") for name in sorted(going)]
    if not (unfinished or unused or going or older_than is not None):
        return _overview(store, known)
    notes: list[str] = []
    if unfinished:
        free, held = _unfinished(store)
        items += free
        if held:
            notes.append(f"{held} unfinished results are being worked on and stay")
    if unused:
        staying = [run for run in known if run.name not in going]
        items += _unused(store, staying)
    return CleanPlan(tuple(items), tuple(notes))


def _overview(store: Store, known: Sequence[Run]) -> CleanPlan:
    """What each rule would free; nothing is chosen yet."""
    if not store.root.is_dir():
        raise InputError("there is no store yet", where=str(store.root), todo="try 'lethe demo'")
    free, held = _unfinished(store)
    unused = _unused(store, known)
    total = sum(found.size for found in store.objects())
    rows = (("--unfinished", free), ("--unused", unused))
    notes = [f"{rule}: {len(items)} places, {_megabytes(items)}" for rule, items in rows]
    notes.append(f"{len(known)} runs; {total / 2**20:.1f} MiB in results; {held} being worked on")
    return CleanPlan((), (*notes, "choose --unfinished, --unused, --older-than DAYS or --run NAME"))


def _unfinished(store: Store) -> tuple[list[CleanItem], int]:
    items, held = [], 0
    for folder in sorted((store.root / "partial").glob("*/*")):
        if folder.suffix == ".lock":
            continue
        if _is_held(folder.with_name(f"{folder.name}.lock")):
            held += 1
        else:
            items.append(_item(folder, "unfinished"))
    return items, held


def _is_held(lock: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        with lock.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _unused(store: Store, runs: Iterable[Run]) -> list[CleanItem]:
    """Results that no run names, neither as a table nor as a checkpoint of a chain."""
    runs = list(runs)
    used = {key for run in runs for keys in run.scores.values() for key in keys.values()}
    used |= {place.checkpoint for run in runs for place in run.positions}
    used |= {key for run in runs for key in run.settings.get("sharpness", {}).values()}
    return [
        CleanItem(found.folder, f"unused {found.kind}", found.size)
        for found in store.objects()
        if found.key not in used
    ]


def _item(path: Path, why: str) -> CleanItem:
    files = [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]
    return CleanItem(path, why, sum(inner.stat().st_size for inner in files))


def _megabytes(items: Iterable[CleanItem]) -> str:
    return f"{sum(item.size for item in items) / 2**20:.1f} MiB"
