"""The verb that cleans training data."""

from pathlib import Path
from typing import Annotated

import typer

from lethe.verbs.options import (
    AsJson,
    DataDir,
    Device,
    DtypeName,
    StoreDir,
    app,
    one_of,
    print_json,
    store_at,
)


@app.command("filter")
def filter_(
    model: Annotated[str, typer.Argument(help="The model to be tuned on the rows.")],
    noisy: Annotated[Path, typer.Option(help="The rows to judge: .jsonl, .csv or .parquet.")],
    safe: Annotated[str, typer.Option(help="Rows with safe answers: a file, or a suite.")],
    out: Annotated[Path, typer.Option(help="The clean file; all else is written beside it.")],
    trusted: Annotated[
        str | None,
        typer.Option(help="Task rows you have checked (100 or more): then a share is promised."),
    ] = None,
    false_rejections: Annotated[
        float, typer.Option(help="Promised share of good rows among the rejected.")
    ] = 0.1,
    threshold: Annotated[
        float | None, typer.Option(help="Reject what is forgotten by more, and promise nothing.")
    ] = None,
    signal: Annotated[
        str, typer.Option(help="likelihood, or rouge (as published, slower).")
    ] = "likelihood",
    steps: Annotated[int | None, typer.Option(min=1, help="Of tuning on the safe rows.")] = None,
    set_aside: Annotated[
        float, typer.Option(help="Share of the safe rows to hold scores against.")
    ] = 0.2,
    force: Annotated[bool, typer.Option(help="Reject by threshold even if too weak.")] = False,
    update: Annotated[str | None, typer.Option(help="As of lethe tune (default lora).")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="Peak rate.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the noisy rows.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples at a time (default 8).")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of any stage setting, safe.NAME for the second."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Safe and trusted rows, each.")] = None,
    rival: Annotated[
        list[str] | None,
        typer.Option("--rival", help="Judge by this one as well (loss, tfidf, …). Repeatable."),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Judge by every rival.")] = False,
    guard: Annotated[str | None, typer.Option(help="A sequence classifier, as a rival.")] = None,
    guard_label: Annotated[str | None, typer.Option(help="Its label for unsafe text.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A file with `unsafe` (yes, no) for every row.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of both trainings and what is set aside.")] = 0,
    data_dir: DataDir = None,
    dtype: DtypeName = "float32",
    device: Device = None,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Clean training data: drop the rows that safe tuning makes a model forget.

    Writes the kept rows as they stand, the rejected ones, all scores, a
    histogram and a summary. Killed, it goes on when called again.
    """
    from lethe.filtering.cleaning import Filtering
    from lethe.filtering.command import filter_command
    from lethe.filtering.signals import SIGNALS
    from lethe.progress import ConsoleProgress
    from lethe.tuning.assignments import read_assignments

    named = {
        "update": update,
        "learning_rate": learning_rate,
        "epochs": epochs,
        "batch_size": batch_size,
    }
    said = {name: value for name, value in named.items() if value is not None}
    asked = Filtering(
        model=model,
        noisy=noisy,
        safe=safe,
        trusted=trusted,
        signal=one_of("--signal", signal, SIGNALS),
        threshold=threshold,
        false_rejections=false_rejections,
        settings=read_assignments(set_ or ()) | said,
        steps=steps,
        set_aside=set_aside,
        force=force,
        limit=limit,
        data_dir=data_dir,
        device=device,
        dtype=one_of("--dtype", dtype, ("float32", "bfloat16")),
        seed=seed,
        store=store_at(store),
        progress=ConsoleProgress(),
    )
    found, written, compared = filter_command(
        asked,
        out,
        rivals=rival or (),
        every=compare,
        guard=guard,
        guard_label=guard_label,
        labels=labels,
    )
    if as_json:
        facts = {**found.summary(), "wrote": {kind: str(at) for kind, at in written.items()}}
        print_json(facts if compared is None else {**facts, "compared": compared.to_dict()})
        return
    found.print()
    if compared is not None:
        from rich.console import Console

        Console(highlight=False).print(compared.table())
    for path in written.values():
        typer.echo(f"wrote {path.name}")
    typer.echo(f"run {found.run.name}")
