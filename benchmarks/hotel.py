"""Methods of tuning on the islet: what each keeps of what plain tuning loses, on worlds 3 to 7.

The list of methods, their settings and the rates they choose among stand in the shipped study
`hotel`, frozen before any method was tried on these worlds. Everything is kept in the store;
killed, the same command goes on:

    python benchmarks/hotel.py [--worlds 3 4 5 6 7] [--seeds 0 1] [--methods …] [--ship]
    python benchmarks/hotel.py --model FOLDER [--suites …] [--protect …] [--seeds 0 1 2]

The second is the study `hotel-real`, on real data (LETHE_DATA, or the hub) and any model, with
other suites in the place of its own, and with more that is protected and replayed.
Models of other worlds than 0 are built first (some minutes each). `--methods` takes names of the
study's chains, or, on the islet, `all`; those of `CORE` take an hour of one core. What an earlier
call measured is in the store, so that more methods can be added later. Results are written to
benchmarks/results/hotel-SIZE.json or hotel-real.json; with `--ship` what `lethe methods` shows is
written into the package as well.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lethe import environment
from lethe.errors import IncompleteError, InputError, nearest
from lethe.islet import build
from lethe.islet.suites import islet_hash
from lethe.progress import ConsoleProgress
from lethe.store import Store
from lethe.studies.executor import check_complete, run_study
from lethe.studies.hotel import Hotel, read_hotel
from lethe.studies.hotel_printing import print_hotel
from lethe.studies.study import Study, make_study
from lethe.studies.study_file import SHIPPED, load_study, read_yaml
from lethe.tuning.forecast import Forecast, score_forecasts
from lethe.tuning.measured import MEASURED, summary_of
from lethe.tuning.saving import read_record

RESULTS = Path(__file__).parent / "results"
CORE = (
    "full",
    "full, 60 % of the way",
    "full, 80 % of the way",
    "lora",
    "contrast",
    "corda",
    "osf",
    "mica",
    "replay",
    "replay + kl",
    "nullspace, hard",
    "lora + replay + kl",
)
"""Ten trainings a seed, ten more for the trials, and what can be done after them."""


def study_of(worlds: list[int], seeds: list[int], size: str, methods: Sequence[str]) -> Study:
    """The shipped study, elsewhere and with some of its methods.

    Raises:
        InputError: the study has no such method.
    """
    shipped = load_study("hotel")
    names = list(shipped.chains) if list(methods) == ["all"] else list(methods)
    for name in names:
        if name not in shipped.chains:
            raise InputError(f"no method '{name}'", todo=nearest(name, shipped.chains))
    changes = {
        "worlds": worlds,
        "seeds": seeds,
        "model": f"islet:aligned-{size}/{{world}}",
        "name": f"hotel-{size}",
        "chains": {name: chain for name, chain in shipped.chains.items() if name in names},
    }
    return shipped.model_copy(update=changes)


def real_study(
    model: str,
    seeds: list[int],
    methods: Sequence[str],
    more: Sequence[str],
    suites: Sequence[str],
) -> Study:
    """The study on real data, which protects and replays more, and measures other suites."""
    content, _ = read_yaml(SHIPPED / "hotel-real.yaml")
    content["chains"] = {name: content["chains"][name] for name in methods or content["chains"]}
    for stage in content["stages"].values():
        if "protect" in stage:
            stage["protect"] += [{"suite": one, "limit": 400} for one in more]
        if "mix" in stage:
            stage["mix"]["replay"]["data"]["suite"] += "".join(f"+{one}" for one in more)
    content |= {"name": "hotel-real", "model": model, "seeds": seeds}
    return make_study({**content, "suites": list(suites) or content["suites"]})


def forecasts(run: Any, store: Store) -> dict[str, Any]:
    """Forecasts of protected updates against what happened, by method."""
    found: dict[str, list[Forecast]] = {}
    for place in run.positions:
        if not place.position:
            continue
        record = read_record(store.root / "objects" / "checkpoint" / place.checkpoint) or {}
        protection = (record.get("result") or {}).get("protection")
        for one in (protection or {}).get("forecasts", []):
            said = {name: one[name] for name in ("source", "exposure", "plain", "happened")}
            found.setdefault(place.chain, []).append(Forecast(**said))
    scored = {}
    for name, told in found.items():
        score = score_forecasts(told)
        if score is not None:
            scored[name] = {
                "forecasts": score.count,
                "ordered as it came": score.concordant,
                "off by a factor of (median)": score.factor,
            }
    return scored


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, nargs="+", default=[3, 4, 5, 6, 7])
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--size", choices=("tiny", "small"), default="tiny")
    parser.add_argument("--methods", nargs="+", default=[])
    parser.add_argument("--ship", action="store_true", help="write what 'lethe methods' shows")
    parser.add_argument("--model", help="real text: where all methods start")
    parser.add_argument("--suites", nargs="+", default=[], help="with --model")
    parser.add_argument("--protect", nargs="+", default=[], help="with --model: more of it")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    store = Store()
    started = time.time()
    if asked.model is not None:
        seeds = asked.seeds or [0, 1, 2]
        study = real_study(asked.model, seeds, asked.methods, asked.protect, asked.suites)
        result = run_study(study, store, progress=ConsoleProgress())
        world = {
            "model": Path(asked.model).name,
            "seeds": seeds,
            "study": study.model_dump(mode="json"),
        }
    else:
        seeds = asked.seeds or [0, 1]
        for number in asked.worlds:
            build.build(build.Order(number, asked.size, "aligned"), store, ConsoleProgress())
        study = study_of(asked.worlds, seeds, asked.size, asked.methods or CORE)
        with tempfile.TemporaryDirectory() as nothing:
            # The islet's rows are drawn: none of them needs the scan for known unsafe ones.
            result = run_study(study, store, data_dir=nothing, progress=ConsoleProgress())
        world = {
            "study": (SHIPPED / "hotel.yaml").read_text(encoding="utf-8"),
            "size": asked.size,
            "worlds": asked.worlds,
            "seeds": seeds,
            "hashes": {str(number): islet_hash(number) for number in asked.worlds},
        }
    found = read_hotel(result.run, store)
    if found is None:
        raise IncompleteError("nothing was measured", todo="run it again")
    print_hotel(found)
    content = {
        "hardware": environment.processor(),
        "versions": environment.versions(),
        **found.to_dict(),
        **world,
        "failed": result.failed,
        "dropped": result.dropped,
        "notes": list(result.notes),
        "rates": result.run.settings.get("choices"),
        "seconds": round(time.time() - started),
        "forecasts": forecasts(result.run, store),
    }
    RESULTS.mkdir(exist_ok=True)
    name = "hotel-real" if asked.model is not None else f"hotel-{asked.size}"
    text = json.dumps(content, indent=1, default=str)
    for one in asked.protect:  # files of one's own go by their names
        text = text.replace(f"{Path(one).parent}/", "")
    (RESULTS / f"{name}.json").write_text(text + "\n")
    if asked.ship and asked.model is None:
        ship(found, content)
    check_complete(result)


def ship(found: Hotel, content: dict[str, Any]) -> None:
    """What `lethe methods` shows, with what it was measured by."""
    kept = ("versions", "size", "worlds", "seeds", "hashes")
    text = {**summary_of(found), **{name: content[name] for name in kept}}
    MEASURED.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
