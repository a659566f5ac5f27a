"""Verbs that tune: tune, methods."""

from pathlib import Path
from typing import Annotated

import typer

from lethe.verbs.options import AsJson, DataDir, Limit, StoreDir, app, print_json, store_at


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="The model to tune: a folder or hub id.")],
    data: Annotated[str, typer.Option(help="A file of examples, or a suite (its train split).")],
    out: Annotated[Path, typer.Option(help="Where the tuned model is written (a new folder).")],
    update: Annotated[
        str | None,
        typer.Option(
            help="lora (default), full, nullspace, contrast, … (see 'lethe methods'); with "
            "--protect alone: full, replay of what is protected, KL."
        ),
    ] = None,
    protect: Annotated[
        list[str] | None,
        typer.Option(
            help="A suite or file not to disturb (its protect split): calibrates nullspace, "
            "contrast, corda; with other updates it is replayed, with a KL anchor. Repeatable."
        ),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="Peak rate.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data (default 3).")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps, instead of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples at a time (default 8).")] = None,
    gradient_accumulation: Annotated[
        int | None, typer.Option("--accumulate", help="Batches for one step (default 1).")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest example (default 1024).")] = None,
    rank: Annotated[int | None, typer.Option(help="Of a LoRA update.")] = None,
    alpha: Annotated[int | None, typer.Option(help="Of a LoRA update.")] = None,
    target_modules: Annotated[str | None, typer.Option(help="Of a LoRA update.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32, bfloat16.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="NAME=VALUE of any setting or slot: anchor.kl.weight=0.1, kl_budget=0.05, "
            "mix.mask=2.5, after.interpolate=0.5. Repeatable.",
        ),
    ] = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Of initial values and order.")] = 0,
    data_dir: DataDir = None,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Tune a model on examples: one stage, by full fine-tuning or LoRA.

    Killed, it goes on from its last checkpoint when called again.
    """
    from lethe.tuning.assignments import read_assignments
    from lethe.tuning.command import tune_command

    named = {
        "update": update,
        "learning_rate": learning_rate,
        "epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "gradient_accumulation": gradient_accumulation,
        "max_length": max_length,
        "rank": rank,
        "alpha": alpha,
        "target_modules": target_modules,
        "precision": precision,
        "seed": seed,
    }
    said = {name: value for name, value in named.items() if value is not None}
    settings = read_assignments(set_ or ()) | said
    facts = tune_command(
        model,
        data,
        out,
        settings,
        limit=limit,
        data_dir=data_dir,
        store=store_at(store),
        protect=protect or (),
    )
    if as_json:
        print_json(facts)
        return
    from lethe.printing import print_facts

    print_facts(facts)


@app.command()
def methods(as_json: AsJson = False) -> None:
    """List how a stage can be tuned: paper, cost, and when not to use it."""
    from lethe.tuning.methods import methods as known

    found = known()
    if as_json:
        import dataclasses

        print_json([dataclasses.asdict(method) for method in found])
        return
    from lethe.studies.plan_printing import print_methods

    print_methods(found)
