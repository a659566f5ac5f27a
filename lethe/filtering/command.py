"""`lethe filter`: from names to a clean file and everything that is said about it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lethe.errors import InputError
from lethe.filtering.cleaning import Filtering, prepare
from lethe.filtering.compared import Compared, compare, read_labels, rivals_asked
from lethe.filtering.filtered import Filtered
from lethe.filtering.outputs import check_key, check_out
from lethe.filtering.record import write_record
from lethe.writable import check_writable


def filter_command(
    asked: Filtering,
    out: Path,
    *,
    rivals: Sequence[str] = (),
    every: bool = False,
    guard: str | None = None,
    guard_label: str | None = None,
    labels: Path | None = None,
) -> tuple[Filtered, Mapping[str, Path], Compared | None]:
    """Filter a file into `out`; give the result, what was written, and how rivals did.

    Args:
        asked: what is filtered how; its noisy rows are a file.
        rivals, every, guard: as `lethe.filtering.compared.rivals_asked` takes them.
        labels: a file that says which rows are unsafe.

    Raises:
        InputError: as `lethe.forget_filter`, or `out` cannot be written; before anything is
            trained.
    """
    noisy = Path(str(asked.noisy))
    if out.resolve() == noisy.resolve():
        raise InputError("is the noisy file itself", where=f"--out {out}", todo="name another")
    check_out(out, noisy)
    check_writable(out)
    names = rivals_asked(rivals, every=every, guard_model=guard)
    if guard_label is not None and guard is None:
        raise InputError("a label without a guard", where="--guard-label", todo="give --guard")
    plan = prepare(asked)
    check_key(out, plan.key)
    truth = None if labels is None else read_labels(labels, len(plan.examples))
    found = plan.carry_out()
    written = found.write(out)
    if not names and truth is None:
        return found, written, None
    made = compare(plan, found, names, guard_model=guard, guard_label=guard_label, truth=truth)
    write_record(found, plan.task.runtime.store, made)
    return found, written, made
