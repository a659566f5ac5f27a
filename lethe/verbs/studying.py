"""Verbs of studies: plan, run, studies."""

from lethe.verbs.options import (
    AsJson,
    DataDir,
    Device,
    StoreDir,
    StudyModel,
    StudyName,
    app,
    print_json,
    store_at,
)


@app.command()
def plan(
    study: StudyName,
    model: StudyModel = None,
    data_dir: DataDir = None,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Say what a study would run and what is in the store; nothing runs."""
    from lethe.models.fingerprint import FingerprintMemory
    from lethe.studies.estimate import estimate
    from lethe.studies.plan import build_plan
    from lethe.studies.study_file import load_study

    where = store_at(store)
    memory = FingerprintMemory(where.root / "fingerprints.json")
    planned = build_plan(load_study(study, model=model), where, memory, data_dir=data_dir)
    found = estimate(planned, where, memory)
    if as_json:
        print_json(found.to_dict())
        return
    from lethe.studies.plan_printing import print_plan

    print_plan(found)


@app.command()
def run(
    study: StudyName,
    model: StudyModel = None,
    data_dir: DataDir = None,
    device: Device = None,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Run a study: train and measure what the store does not have.

    Killed at any moment, it goes on when called again.
    """
    from lethe.progress import ConsoleProgress
    from lethe.studies.executor import check_complete, run_study
    from lethe.studies.study_file import load_study

    result = run_study(
        load_study(study, model=model),
        store_at(store),
        device=device,
        data_dir=data_dir,
        progress=ConsoleProgress(),
    )
    if as_json:
        print_json(result.to_dict())
    else:
        from lethe.studies.plan_printing import print_result

        print_result(result)
    check_complete(result)


@app.command()
def studies(as_json: AsJson = False) -> None:
    """List the studies that ship with Lethe."""
    from lethe.studies.study_file import shipped_studies

    found = shipped_studies()
    if as_json:
        print_json(found)
        return
    from lethe.studies.plan_printing import print_studies

    print_studies(found)
