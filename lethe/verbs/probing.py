"""Verbs that ask whether something is lost or hidden: probe, maps, lab."""

from pathlib import Path
from typing import Annotated

import typer

from lethe.errors import InputError
from lethe.verbs.options import (
    AsJson,
    Asking,
    Device,
    StoreDir,
    app,
    asking,
    needed,
    one_of,
    print_json,
    store_at,
    write_json,
)


@app.command()
@asking
def probe(
    base: Annotated[str, typer.Argument(help="The model before: a folder or hub id.")],
    tuned: Annotated[str, typer.Argument(help="The model after; may be an adapter on BASE.")],
    suite: Annotated[
        list[str] | None,
        typer.Option("--suite", "-s", help="A suite or your own file. Repeatable."),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", "-m", help="A prompt map (see 'lethe maps'). Repeatable."),
    ] = None,
    prefix: Annotated[bool, typer.Option("--prefix", help="Begin the answers.")] = False,
    relearn: Annotated[
        bool, typer.Option("--relearn", help="Retrain on half of what was lost, ask the rest.")
    ] = False,
    novel: Annotated[
        str | None,
        typer.Option(help="A suite that neither model was taught: the control of these two."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of the retraining, as max_steps=50. Repeatable."),
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option(help="A module with maps of your own. Repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of retraining, halves and planted case.")] = 0,
    *,
    asked: Asking,
    groups: Annotated[bool, typer.Option(help="Show every group of every suite.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write FILE: .json, .csv or .parquet.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether what tuning took away is hidden, or not recovered.

    Both models are asked plainly and under every probe. Results and
    retrainings are kept: killed, it goes on when called again.
    """
    from lethe.probing.command import probe_command

    found = probe_command(
        base,
        tuned,
        needed(suite),
        maps=map_ or (),
        prefix=prefix,
        relearn=relearn,
        novel=novel,
        assignments=set_ or (),
        plugins=plugin or (),
        seed=seed,
        **asked.checked(),
        out=out,
    )
    if as_json:
        print_json(found.to_dict())
        return
    found.print(groups=groups)
    typer.echo(f"run {found.run.name}")


@app.command()
@asking
def maps(
    model: Annotated[
        str | None, typer.Argument(help="Measure this model under --map; without it, list maps.")
    ] = None,
    suite: Annotated[
        list[str] | None, typer.Option("--suite", "-s", help="What to ask. Repeatable.")
    ] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", "-m", help="As leetspeak, caesar:3. Repeatable.")
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="A module or .py file that registers maps. Repeatable."),
    ] = None,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out examples that a map cannot be used on.")
    ] = False,
    *,
    asked: Asking,
    out: Annotated[Path | None, typer.Option(help="Also write all results as FILE.json.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the prompt maps, or ask a model plainly and under maps.

    Of suites about refusing, shares answered, refused and unclear are given.
    """
    from lethe.probing import maps as registry

    registry.import_plugins(plugin or ())
    if model is None and (suite or map_ or out):
        raise InputError(
            "no model to measure", where="MODEL", todo="lethe maps MODEL --suite S --map M"
        )
    if model is None:
        import dataclasses

        known = registry.known_maps()
        if as_json:
            print_json([dataclasses.asdict(entry) for entry in known])
            return
        from lethe.probing.maps_printing import print_maps

        print_maps(known)
        return
    from lethe.probing.under_maps import measure_under_maps
    from lethe.progress import ConsoleProgress
    from lethe.writable import check_writable

    one_of("--out", out.suffix if out else ".json", (".json",))
    if out is not None:
        check_writable(out)
    found = measure_under_maps(
        model,
        needed(suite),
        map_ or (),
        **asked.checked(),
        skip=skip,
        progress=ConsoleProgress(),
    )
    content = [entry.to_dict() for entry in found]
    if out is not None:
        write_json(content, out)
    if as_json:
        print_json(content)
        return
    from lethe.probing.maps_printing import print_under_maps

    print_under_maps(found)


@app.command()
def lab(
    preset: Annotated[str, typer.Option(help="tiny, small, medium or paper.")] = "tiny",
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How many, from --seed on.")] = 1,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Stop after so many; the same command goes on."),
    ] = None,
    device: Device = None,
    store: StoreDir = None,
    out: Annotated[Path | None, typer.Option(help="A folder for lab.json and the plots.")] = None,
    as_json: AsJson = False,
) -> None:
    """In-context regression: watch tuning hide a capability, and a prompt bring it back.

    A transformer learns to infer its task from the prompt, and is tuned on one
    task. The best possible answers are known. Killed, it goes on where it was.
    """
    from lethe.lab.command import lab_command
    from lethe.progress import ConsoleProgress

    found = lab_command(
        preset,
        seed=seed,
        seeds=seeds,
        out=out,
        minutes=minutes,
        device=device,
        store=store_at(store),
        progress=ConsoleProgress(),
    )
    if as_json:
        print_json(found.to_dict())
        return
    from lethe.lab.printing import print_lab

    print_lab(found)
    typer.echo(f"run {found.run}")
