"""What plan, run, studies and methods print."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from lethe.lab.printing import print_lab
from lethe.studies.chained_printing import print_chained
from lethe.studies.hotel_printing import print_hotel
from lethe.tuning.measured import source

if TYPE_CHECKING:
    from lethe.studies.estimate import Estimate
    from lethe.studies.executor import StudyResult
    from lethe.tuning.methods import Method

_KINDS = {
    "tune": "trainings",
    "interpolate": "interpolations",
    "measure": "measurements",
    "sharpness": "measurements of sharpness",
    "intruders": "reductions of intruders",
    "safelora": "projections on alignment",
    "curve": "curves while training",
    "sift": "filters",
    "probe": "probes, with retrainings of their own",
    "lab-pretrain": "pretrainings in the laboratory",
    "lab-tune": "tunings in the laboratory",
    "lab-measure": "measurements in the laboratory",
}
_COUNTED = {
    "tokenizer": "text alone; a chat template adds to it",
    "bytes": "guessed from bytes",
}


def print_plan(found: "Estimate") -> None:
    """What would run."""
    lines = [
        f"{count} {_KINDS.get(kind, kind)}, {found.cached.get(kind, 0)} of them in the store"
        for kind, count in sorted(found.steps.items(), reverse=True)
    ]
    lines += [f"to be built first: {model}" for model in found.unbuilt]
    if found.tentative:
        lines.append(f"{found.tentative} of these steps wait for learning rates to be chosen")
    minutes = "unknown until the first stage" if found.minutes is None else f"{found.minutes:.1f}"
    lines += [
        f"tokens to train on: about {found.tokens:,} ({_COUNTED[found.counted]})",
        f"minutes: {minutes}",
        f"disk: up to {found.peak_disk / 2**20:,.1f} MiB more",
        f"memory: {_memory(found.peak_memory)}",
        *found.choices,
        *(f"note: {note}" for note in found.notes),
    ]
    _print(lines)


def _memory(size: int | None) -> str:
    return "unknown for this family" if size is None else f"up to about {size / 2**30:,.1f} GiB"


def print_result(result: "StudyResult") -> None:
    """What ran."""
    lines = [f"{result.done} steps done, {result.cached} were in the store"]
    lines += [f"failed: {title} ({reason})" for title, reason in result.failed.items()]
    lines += [f"rate dropped: {title} ({reason})" for title, reason in result.dropped.items()]
    lines += [f"note: {note}" for note in result.notes]
    if result.chained is not None:
        print_chained(result.chained)
    if result.hotel is not None:
        print_hotel(result.hotel)
    if result.lab is not None:
        print_lab(result.lab)
    for name, found in result.probed.items():
        _print(["", f"probe {name}"])
        found.print()
    _print([*lines, f"run {result.run.name}"])


def print_studies(found: Mapping[str, str]) -> None:
    """Shipped studies, a line or two each."""
    console = Console(highlight=False)
    for name, about in found.items():
        console.print(Text(name, "bold"))
        console.print(Padding(Text(about), (0, 0, 0, 4)))


def print_methods(found: Sequence["Method"]) -> None:
    """What the slots of a stage take."""
    console = Console(highlight=False)
    for method in found:
        console.print(Text.assemble((method.name, "bold"), f"  {method.slot}"))
        lines = [
            method.about,
            f"paper: {method.paper}",
            f"cost: {method.cost}",
            f"not for: {method.not_for}",
            *(f"measured: {line}" for line in method.measured),
        ]
        if method.settings:
            shown = (
                name
                if value is None
                else f"{name} {value:g}"
                if isinstance(value, float)
                else f"{name} {value}"
                for name, value in method.settings.items()
            )
            lines.append(f"settings: {', '.join(shown)}")
        for line in lines:
            console.print(Padding(Text(line), (0, 0, 0, 4)))
    if told := source():
        console.print(Text(told, style="dim"))


def _print(lines: Sequence[str]) -> None:
    console = Console(highlight=False)
    for line in lines:
        console.print(line, markup=False, overflow="fold")
