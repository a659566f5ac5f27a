"""Verbs that measure checkpoints: audit, power, suites."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lethe.errors import InputError
from lethe.verbs.options import (
    AsJson,
    Asking,
    DataDir,
    Suites,
    app,
    asking,
    needed,
    one_of,
    print_json,
)

if TYPE_CHECKING:
    from lethe.auditing import Audit


@app.command()
@asking
def audit(
    base: Annotated[str, typer.Argument(help="The model before: a folder or hub id.")],
    tuned: Annotated[str, typer.Argument(help="The model after; may be an adapter on BASE.")],
    suite: Suites = None,
    *,
    asked: Asking,
    groups: Annotated[bool, typer.Option(help="Show every group of every suite.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write FILE: .json all results, .parquet all rows.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what tuning changed: before and after, by axis, suite and group.

    Both models answer the same examples. Results are kept: asking again is
    instant, and an interrupted audit goes on where it was.
    """
    from lethe import auditing
    from lethe.progress import ConsoleProgress

    one_of("--out", out.suffix if out else ".json", (".json", ".parquet"))
    found = auditing.audit(
        base,
        tuned,
        suite or auditing.DEFAULT_SUITES,
        **asked.checked(),
        progress=ConsoleProgress(),
    )
    if out is not None:
        _write_audit(found, out)
    if as_json:
        print_json(found.to_dict())
        return
    found.print(groups=groups)
    typer.echo(f"run {found.run.name}")


def _write_audit(found: "Audit", out: Path) -> None:
    from lethe.store import write_atomically

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".parquet":
            found.frame().write_parquet(out)
        else:
            write_atomically(out, json.dumps(found.to_dict(), indent=1).encode())
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(out)) from None


@app.command()
@asking
def power(
    suite: Suites = None,
    base: Annotated[
        str | None, typer.Option(help="The model to be tuned; measured, and kept for audits.")
    ] = None,
    assume: Annotated[
        float, typer.Option(min=0, max=1, help="Without --base: its assumed mean score.")
    ] = 0.75,
    drop: Annotated[float, typer.Option(min=0, max=1, help="The drop you care about.")] = 0.05,
    *,
    asked: Asking,
    as_json: AsJson = False,
) -> None:
    """Say what drop each suite can detect, and which groups it can never decide."""
    from lethe import detectable
    from lethe.progress import ConsoleProgress

    found = detectable.power_of_suites(
        needed(suite),
        base=base,
        assume=assume,
        drop=drop,
        **asked.checked(),
        progress=ConsoleProgress(),
    )
    if as_json:
        print_json([entry.to_dict() for entry in found])
        return
    from lethe.printing import print_power

    print_power(found, drop)


@app.command()
def suites(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the suites: what they ask, their axis, and where their rows come from."""
    from lethe import suites as registry

    found = registry.known(data_dir)
    if as_json:
        import dataclasses

        print_json([dataclasses.asdict(entry) for entry in found])
        return
    from lethe.printing import print_suites

    print_suites(found)
