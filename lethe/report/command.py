"""`lethe report` and `lethe view`, behind their options."""

import json
from pathlib import Path

from lethe.errors import InputError
from lethe.progress import Progress
from lethe.report.document import BUDGET, build_report
from lethe.report.writing import write_file
from lethe.run import load_run
from lethe.store import Store


def report_command(
    name: str,
    form: str,
    *,
    out: Path | None,
    card: Path | None,
    size: float | None,
    data_dir: Path | None,
    store: Store,
    progress: Progress,
) -> str:
    """Write a run's report; returns what is printed: where it lies, or the text itself.

    Args:
        form: `html`, `md` or `json`; the latter two are printed where `out` names no file.
        card: a model's folder, whose README is given the section instead.
        size: of the page, in MB.

    Raises:
        InputError: no such run, a table that cannot be read, or a place that cannot be written.
    """
    run = load_run(name, store)
    report = build_report(run, store, data_dir=data_dir, progress=progress)
    if card is not None:
        from lethe.report.card import write_card

        return str(write_card(report, card))
    if form == "html":
        budget = BUDGET if size is None else int(size * 1e6)
        return str(write_file(out or Path(f"{run.name}.html"), report.html(budget=budget)))
    if form == "md":
        text = report.markdown()
    else:
        text = json.dumps(report.to_dict(), indent=1, allow_nan=False)
    if out is None:
        return text.rstrip()
    return str(write_file(out, f"{text.rstrip()}\n".encode("utf-8", "replace")))


def view_command(name: str | None, *, port: int, data_dir: Path | None, store: Store) -> None:
    """Serve the runs of a store until interrupted; prints where.

    Raises:
        InputError: no such run, or the port is taken.
    """
    from lethe.report.viewer import Viewer

    run = None if name is None else load_run(name, store)
    if run is not None and not (store.runs / run.name / "run.json").is_file():
        raise InputError(
            f"run '{run.name}' does not lie in this store",
            where=str(store.runs),
            todo="give --store the folder it lies in",
        )
    with Viewer(store, port=port, data_dir=data_dir) as viewer:
        print(viewer.url if run is None else viewer.page_url(run.name), flush=True)
        viewer.serve_forever()
