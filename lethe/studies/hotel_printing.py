"""Methods of tuning in the terminal: changes, answers, matched proficiency, cost."""

from math import isnan
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lethe.table_look import plain_table
from lethe.tables import MINUS, number

if TYPE_CHECKING:
    from lethe.chains import Effect
    from lethe.hotel_shares import Dispersion, Share
    from lethe.studies.hotel import Hotel, MethodResult

_AXES = ("proficiency", "safety", "knowledge", "reasoning")


def print_hotel(found: "Hotel") -> None:
    """Five tables of at most 80 columns, and how to read them."""
    console = Console(highlight=False)
    tables = (_changes, _matched, _groups, _answers, _costs)
    for table in (made(found) for made in tables):
        if table.row_count:
            console.print(table)
            console.print()
    for line in _notes(found):
        console.print(line, style="dim", markup=False)


def _changes(found: "Hotel") -> Table:
    """Before on top, then the net change of every method."""
    axes = [axis for axis in (*_AXES, *found.axes) if axis in found.axes]
    axes = list(dict.fromkeys(axes))[:4]
    table = _table("Net change, in points", "method", *axes)
    if found.methods:
        before = found.methods[0].before
        table.add_row("before tuning", *(_points(before.get(axis)) for axis in axes), style="bold")
    for one in found.methods:
        shown = [one.changes.get(axis) for axis in axes]
        table.add_row(escape(one.name), *("" if e is None else _change(e) for e in shown))
    return table


def _matched(found: "Hotel") -> Table:
    """Shares of the loss of plain tuning that are closed, methods that missed marked."""
    axes = [axis for axis in _AXES[1:] if axis in found.axes]
    table = _table(
        f"Share of what '{escape(found.plain)}' loses, closed, %", "method", "reached", *axes
    )
    for one in found.methods:
        if not one.shares:
            continue
        table.add_row(
            escape(one.name),
            f"{one.reached}/{one.units}",
            *(_share(one.shares.get(axis)) for axis in axes),
        )
    return table


def _groups(found: "Hotel") -> Table:
    """How unequally groups lose, beside plain tuning stopped at the same overall loss."""
    title = "Groups of people: spread of what they lost"
    table = _table(title, "method", "τ", "plain's τ there", "difference", "matched")
    for one in found.methods:
        if one.dispersion is not None and one.name != found.plain:
            table.add_row(escape(one.name), *_apart(one.dispersion, one.units))
    return table


def _answers(found: "Hotel") -> Table:
    """What became of the answers to judged prompts."""
    names = ("safe", "harmful", "off_task", "refusal", "incoherent")
    table = _table(
        "Answers to safety prompts, in %", "method", *(n.replace("_", " ") for n in names)
    )
    for one in found.methods:
        if one.outcomes:
            shares = [one.outcomes.get(name) for name in names]
            after = ("" if share is None else f"{100 * share[1]:.1f}" for share in shares)
            table.add_row(escape(one.name), *after)
    return table


def _costs(found: "Hotel") -> Table:
    """Time as a ratio to plain tuning, since seconds are the machine's."""
    table = _table("Cost of a training", "method", "time", "MiB", "tokens", "KL to parent")
    plain = next((one.cost for one in found.methods if one.name == found.plain), None)
    for one in found.methods:
        if one.cost is None:
            continue
        ratio = one.cost.seconds / plain.seconds if plain and plain.seconds else float("nan")
        table.add_row(
            escape(one.name),
            f"{number(ratio, 2)}×",
            f"{one.cost.memory / 2**20:.1f}",
            f"{one.cost.tokens:,.0f}",
            number(one.cost.divergence),
        )
    return table


def _notes(found: "Hotel") -> list[str]:
    speaks = _speaks(found.methods)
    notes = [
        f"intervals of 95 % speak of other {speaks}",
        f"reached: trainings with a proficiency at most {100 * found.margin:g} points below "
        f"'{found.plain}' at its best rate; ≤ marks methods that missed it somewhere, which would "
        "have lost more on the way there",
    ]
    if any(one.dispersion for one in found.methods):
        notes.append(
            "τ: standard deviation of the losses of groups of people beyond chance, in points; "
            "plain's is read off its way from the base at the same overall loss"
        )
    if any(one.outcomes for one in found.methods):
        notes.append("refusal: of the harmless; incoherent: no sentence of the language at all")
    notes.append("MiB: gradients, moments and factors, beside the weights")
    return notes


def _speaks(methods: "tuple[MethodResult, ...]") -> str:
    for one in methods:
        for effect in one.changes.values():
            if effect.trainings is not None:
                return effect.of
    return "examples of the same kind, for these trainings"


def _table(title: str, first: str, *others: str) -> Table:
    table = plain_table(title=title)
    table.add_column(first, overflow="fold")
    for header in others:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _change(effect: "Effect") -> str:
    """Over trainings where there are several, else over examples."""
    interval = effect.trainings or effect.items
    edges = ", ".join(_signed(edge) for edge in (interval.low, interval.high))
    return f"{_signed(effect.estimate)} [{edges}]"


def _share(share: "Share | None") -> str:
    if share is None or isnan(share.estimate):
        return "–"
    bound = "≤ " if share.censored else ""
    edges = "" if isnan(share.low) else f" [{_signless(share.low)}, {_signless(share.high)}]"
    return f"{bound}{_signless(share.estimate)}{edges}"


def _apart(found: "Dispersion", units: int) -> tuple[str, str, str, str]:
    edges = "" if isnan(found.low) else f" [{_signed(found.low)}, {_signed(found.high)}]"
    change = f"{_signed(found.change)}{edges}"
    return _points(found.tau), _points(found.plain), change, f"{found.trainings}/{units}"


def _points(value: float | None) -> str:
    return "" if value is None else number(100 * value, 0)


def _signed(value: float) -> str:
    return number(100 * value, 0, sign=True)


def _signless(value: float) -> str:
    return f"{100 * value:.0f}".replace("-", MINUS)
