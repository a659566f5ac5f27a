"""What a study of chains shows, as tables that fit 80 columns."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lethe.table_look import plain_table
from lethe.tables import number, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lethe.asymmetry import Asymmetry
    from lethe.chains import Effect
    from lethe.studies.chained import Chained

_MOST_GROUPS = 8


def print_chained(found: "Chained") -> None:
    """Orders first, then every chain, groups, likeness of tasks and sharpness."""
    console = Console(highlight=False)
    for table in (
        _asymmetries("Asymmetry of safety and another task", found.asymmetries, found.mean),
        _asymmetries("Controls: both of safety, or neither", found.controls, None),
        _losses(found),
        _finals(found),
        _groups(found),
        _transfers(found),
        _relations(found),
    ):
        if table is not None:
            console.print(table)
            console.print()
    for note in _notes(found):
        console.print(note, style="dim", markup=False)


def _asymmetries(title: str, pairs: "Sequence[Asymmetry]", mean: "Effect | None") -> Table | None:
    if not pairs:
        return None
    table = plain_table(title=title)
    table.add_column("first, second", overflow="fold")
    for header in ("delta, items [95 %]", "over trainings"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("final of first", justify="right", no_wrap=True)
    for pair in pairs:
        ends = f"{number(pair.final_scores[0])} / {number(pair.final_scores[1])}"
        table.add_row(
            escape(f"{pair.first}, {pair.second}"), span(pair.delta.items), _over(pair.delta), ends
        )
    if mean is not None:
        table.add_row("mean of all pairs", span(mean.items), _over(mean), "", style="bold")
    return table


def _losses(found: "Chained") -> Table:
    """A row for each chain and earlier task: orders, rates and replay are compared here."""
    table = plain_table(title="What each chain lost of its earlier tasks")
    table.add_column("chain, task", overflow="fold")
    table.add_column("gain", justify="right", no_wrap=True)
    table.add_column("forgetting, items [95 %]", justify="right", no_wrap=True)
    table.add_column("score at end", justify="right", no_wrap=True)
    for loss in found.losses:
        table.add_row(
            escape(f"{loss.chain}, {loss.task}"),
            number(loss.gain.estimate, sign=True),
            span(loss.forgetting.items),
            number(loss.now),
        )
    return table


def _finals(found: "Chained") -> Table:
    """Every suite at every chain's end: what a mitigation cost elsewhere."""
    table = plain_table(title="Raw scores at the end")
    table.add_column("chain", overflow="fold")
    table.add_column("suites", overflow="fold")
    for chain, scores in found.finals.items():
        shown = ", ".join(f"{suite} {number(score)}" for suite, score in scores.items())
        table.add_row(escape(chain), escape(shown))
    return table


def _groups(found: "Chained") -> Table | None:
    """Groups whose forgetting is furthest from the overall one."""
    held = [
        (abs(group.biased.interval.estimate), group)
        for group in found.groups
        if group.biased.interval is not None
    ]
    held.sort(key=lambda one: -one[0])
    if not held:
        return None
    title = "Groups"
    if len(held) > _MOST_GROUPS:
        title = f"The {_MOST_GROUPS} of {len(held)} groups furthest from the overall forgetting"
    table = plain_table(title=title)
    table.add_column("chain, group", overflow="fold")
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("forgetting", justify="right", no_wrap=True)
    table.add_column("biased [95 %]", justify="right", no_wrap=True)
    table.add_column("q", justify="right", no_wrap=True)
    for _, group in held[:_MOST_GROUPS]:
        of, biased = group.forgetting, group.biased.interval
        assert biased is not None
        table.add_row(
            escape(f"{group.chain}, {of.group}"),
            str(of.forgetting.n),
            number(of.forgetting.estimate, sign=True),
            span(biased),
            number(of.q_value),
        )
    return table


def _transfers(found: "Chained") -> Table | None:
    if not found.transfers:
        return None
    table = plain_table(title="Likeness: what a first stage did to another task")
    table.add_column("tuned on, task", overflow="fold")
    table.add_column("transfer [95 %]", justify="right", no_wrap=True)
    table.add_column("of its own gain", justify="right", no_wrap=True)
    for one in found.transfers:
        share = "–" if one.share is None else number(one.share, 2)
        name = escape(f"{one.source}, {one.target}")
        table.add_row(name, span(one.transfer.items), share)
    return table


def _relations(found: "Chained") -> Table | None:
    if not found.relations:
        return None
    table = plain_table(title="Sharpness after the first stage, and forgetting")
    table.add_column("task > after", overflow="fold")
    table.add_column("trainings", justify="right", no_wrap=True)
    table.add_column("independent", justify="right", no_wrap=True)
    table.add_column("rank correlation [95 %]", justify="right", no_wrap=True)
    for one in found.relations:
        rho = one.note if one.rho is None else span(one.rho, 2)
        name = escape(" > ".join([one.task, *one.after]))
        table.add_row(name, str(len(one.points)), str(one.independent), rho)
    return table


def _over(effect: "Effect") -> str:
    """The interval over seeds or worlds, in short."""
    if effect.trainings is None:
        return f"1 of {effect.of}" if len(effect.values) == 1 else "–"
    low, high = (
        number(edge, 2, sign=True) for edge in (effect.trainings.low, effect.trainings.high)
    )
    return f"[{low}, {high}]"


def _notes(found: "Chained") -> list[str]:
    effects = [loss.forgetting for loss in found.losses]
    of = effects[0].of
    units = sorted({len(effect.values) for effect in effects})
    notes = [
        f"{pair.first}, {pair.second} are unequal in {'; '.join(pair.unequal)}"
        for pair in (*found.asymmetries, *found.controls)
        if pair.unequal
    ]
    notes += [
        "forgetting: score after the task's stage − score at the chain's end, with scores "
        "corrected for chance, (score − c)/(1 − c); delta: forgetting of first when second "
        "follows − of second when first follows; final of first: its raw score in either order",
        f"items: other examples, for these trainings; over trainings: other {of}, "
        f"from {' or '.join(map(str, units))} trainings",
    ]
    missing = sum(loss.missing for loss in found.losses)
    if missing:
        notes.append(f"{missing} trainings lack a table and are left out")
    return notes
