"""One suite aligned over checkpoints: the table behind every number.

A ledger holds one row per (checkpoint, suite, example). A `Panel` turns the rows of one suite into
arrays, checkpoints × examples, and a `Pair` keeps the examples scored at both of two checkpoints.
A missing or unscored item is NaN; a pair leaves it out and counts it; nothing is filled in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lethe.errors import InputError, nearest

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]
Entry = TypeVar("Entry", bound=np.generic)

ROW_COLUMNS = (
    "suite",
    "checkpoint",
    "position",
    "example",
    "cluster",
    "groups",
    "score",
    "choice",
    "option_logprobs",
    "values",
)
"""The columns of a ledger that a panel reads; a reader need load no others."""


@dataclass(frozen=True)
class SuiteFacts:
    """What is known of a suite beside its rows.

    Attributes:
        name: the suite's name, as in the ledger.
        axis: what the suite speaks for (`proficiency`, `safety`, `knowledge`, …).
        metrics: names from `lethe.metrics` shown beside the mean score.
        balance: the grouping over whose values the suite's mean is class-balanced (`label` where
            half of the sentences are hateful and half are not), or None.
        phrasing: the grouping that holds the wording where one cluster is asked in several
            wordings, or None.
    """

    name: str
    axis: str
    metrics: tuple[str, ...] = ()
    balance: str | None = None
    phrasing: str | None = None


@dataclass(frozen=True)
class Grouping:
    """A named grouping: its values, and for every example the code of its value (−1: none)."""

    names: tuple[str, ...]
    codes: Codes

    def mask(self, name: str) -> Mask:
        """Which examples have this value."""
        return np.asarray(self.codes == self.names.index(name))

    def take(self, rows: NDArray[np.intp]) -> "Grouping":
        """The same grouping for the given rows."""
        return Grouping(self.names, self.codes[rows])


@dataclass(frozen=True)
class Panel:
    """One suite at C checkpoints over its n examples (sorted by name).

    Attributes:
        facts: the suite.
        checkpoints: names (C), by position in the chain and then by name.
        examples: names (n,); `clusters` codes (n,).
        present: (C, n) a row exists; `scores` (C, n), NaN where missing or unscored.
        choices: (C, n) the option chosen, −1 where there is none.
        chance: (n,) 1 / number of options, 0 where there are no options.
        groupings: named groupings of the examples.
        values: name → (C, n), NaN where the row has no such value.
    """

    facts: SuiteFacts
    checkpoints: tuple[str, ...]
    examples: NDArray[np.str_]
    clusters: Codes
    present: Mask
    scores: Floats
    choices: Codes
    chance: Floats
    groupings: Mapping[str, Grouping]
    values: Mapping[str, Floats]

    @classmethod
    def from_rows(cls, frame: pl.DataFrame, facts: SuiteFacts) -> "Panel":
        """Align the rows of one suite.

        Args:
            frame: ledger rows, at least `ROW_COLUMNS`; rows of other suites are passed over.
            facts: the suite to take.

        An example's cluster and groups are those of its row at the earliest checkpoint.

        Raises:
            InputError: a column or the suite is absent, a checkpoint stands at two positions, or
                an example has two rows at one checkpoint.
        """
        rows = _rows_of(frame, facts)
        checkpoints = _checkpoints(rows, facts)["checkpoint"]
        names = rows["example"].unique().sort()
        shape = (checkpoints.len(), names.len())
        at = _codes(rows["checkpoint"], checkpoints)
        item = _codes(rows["example"], names)
        cells = at * shape[1] + item
        present = _scatter(shape, cells, np.ones(rows.height, bool), False)
        if int(present.sum()) < rows.height:
            twice = rows["example"][int(np.flatnonzero(_repeats(cells))[0])]
            raise InputError(
                f"example '{twice}' has two rows at one checkpoint",
                where=f"suite {facts.name}",
                todo="keep one row per (checkpoint, suite, example)",
            )
        # NumPy keeps the last of repeated assignments: the row at the earliest checkpoint.
        first = np.empty(shape[1], np.int64)
        order = np.argsort(-at, kind="stable")
        first[item[order]] = order
        groups = rows["groups"].gather(first)
        clusters = rows["cluster"].gather(first)
        options = rows["option_logprobs"].list.len().fill_null(0).to_numpy().astype(np.int64)
        most = _scatter(shape, cells, options, 0).max(axis=0)
        return cls(
            facts=facts,
            checkpoints=tuple(checkpoints),
            examples=np.array(names.to_list(), dtype=np.str_),
            clusters=_codes(clusters, clusters.unique().sort()),
            present=present,
            scores=_scatter(shape, cells, _floats(rows["score"]), np.nan),
            choices=_scatter(shape, cells, _integers(rows["choice"]), -1),
            chance=np.where(most > 1, 1.0 / np.maximum(most, 1), 0.0),
            groupings=_groupings(groups),
            values=_values(rows["values"], shape, cells),
        )

    def index(self, checkpoint: str) -> int:
        """Row of a checkpoint; `InputError` with the nearest name where there is none."""
        if checkpoint not in self.checkpoints:
            raise InputError(
                f"no rows at checkpoint '{checkpoint}'",
                where=f"suite {self.facts.name}",
                todo=nearest(checkpoint, self.checkpoints),
            )
        return self.checkpoints.index(checkpoint)

    def common(self, before: str, after: str) -> Mask:
        """Which examples (n,) are scored at both checkpoints."""
        scores = self.scores[[self.index(before), self.index(after)]]
        return np.asarray(np.isfinite(scores).all(axis=0))

    def pair(self, before: str, after: str) -> "Pair":
        """The examples scored at both checkpoints; `InputError` if there are none."""
        i, j = self.index(before), self.index(after)
        rows = np.flatnonzero(self.common(before, after))
        if not rows.size:
            raise InputError(
                f"no example is scored at both '{before}' and '{after}'",
                where=f"suite {self.facts.name}",
                todo="measure both on the same examples",
            )
        return Pair(self, i, j, rows)


@dataclass(frozen=True)
class Pair:
    """The m examples of a panel that are scored at both of two checkpoints.

    Attributes:
        panel: where they come from; `i`, `j` its checkpoints before and after.
        rows: which of the panel's examples (m,), in the panel's order.
    """

    panel: Panel
    i: int
    j: int
    rows: NDArray[np.intp]

    @cached_property
    def before(self) -> Floats:
        """Scores (m,) when learned."""
        return np.asarray(self.panel.scores[self.i, self.rows])

    @cached_property
    def after(self) -> Floats:
        """Scores (m,) now."""
        return np.asarray(self.panel.scores[self.j, self.rows])

    @cached_property
    def forgotten(self) -> Floats:
        """Score when learned − score now (m,); positive is forgotten."""
        return self.before - self.after

    @cached_property
    def clusters(self) -> Codes:
        """What resampling keeps together (m,)."""
        return self.panel.clusters[self.rows]

    @cached_property
    def chance(self) -> Floats:
        """Score of a guess (m,): 1/options, 0 where there are no options."""
        return self.panel.chance[self.rows]

    @cached_property
    def groupings(self) -> dict[str, Grouping]:
        """Every named grouping of these examples."""
        return {name: g.take(self.rows) for name, g in self.panel.groupings.items()}

    @property
    def names(self) -> tuple[str, str]:
        """The two checkpoints, before and after."""
        return self.panel.checkpoints[self.i], self.panel.checkpoints[self.j]

    @property
    def balance(self) -> Grouping | None:
        """The grouping the suite's mean is balanced over, where the rows have it."""
        return self.groupings.get(self.panel.facts.balance or "")

    @property
    def missing(self) -> int:
        """Examples with no row at one of the two checkpoints, or at both."""
        present = self.panel.present
        return int(np.sum(~(present[self.i] & present[self.j])))

    @property
    def unscored(self) -> int:
        """Examples with both rows and no score in one or both."""
        return len(self.panel.examples) - self.missing - len(self.rows)

    def mask(self, grouping: str, group: str) -> Mask:
        """Which examples (m,) belong to the group; `InputError` where there is no such group."""
        where = f"suite {self.panel.facts.name}"
        if grouping not in self.groupings:
            todo = nearest(grouping, self.groupings)
            raise InputError(f"no grouping '{grouping}'", where=where, todo=todo)
        found = self.groupings[grouping]
        if group not in found.names:
            todo = nearest(group, found.names)
            raise InputError(f"no group '{group}' in '{grouping}'", where=where, todo=todo)
        return found.mask(group)


def _rows_of(frame: pl.DataFrame, facts: SuiteFacts) -> pl.DataFrame:
    absent = [name for name in ROW_COLUMNS if name not in frame.columns]
    if absent:
        raise InputError(
            f"no column '{absent[0]}'", where="ledger rows", todo=f"needed: {', '.join(absent)}"
        )
    rows = frame.lazy().select(ROW_COLUMNS).filter(pl.col("suite") == facts.name).collect()
    if rows.is_empty():
        known = frame["suite"].unique().drop_nulls().to_list()
        raise InputError(
            f"no rows of suite '{facts.name}'",
            where="ledger rows",
            todo=nearest(facts.name, known) if known else "measure it first",
        )
    return rows


def _checkpoints(rows: pl.DataFrame, facts: SuiteFacts) -> pl.DataFrame:
    found = rows.select("checkpoint", "position").unique().sort("position", "checkpoint")
    if found["checkpoint"].n_unique() < found.height:
        twice = found["checkpoint"].filter(found["checkpoint"].is_duplicated())[0]
        raise InputError(
            f"checkpoint '{twice}' stands at two positions",
            where=f"suite {facts.name}",
            todo="take the rows of one chain",
        )
    return found


def _codes(column: pl.Series, names: pl.Series | Sequence[str]) -> Codes:
    """Index of every entry among `names`, −1 for null."""
    physical = column.cast(pl.Enum(names)).to_physical().cast(pl.Int64)
    return physical.fill_null(-1).to_numpy().astype(np.int64)


def _floats(column: pl.Series) -> Floats:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _integers(column: pl.Series) -> Codes:
    return column.cast(pl.Int64).fill_null(-1).to_numpy()


def _scatter(
    shape: tuple[int, int], cells: Codes, entries: NDArray[Entry], empty: float
) -> NDArray[Entry]:
    """A table of `shape` with `entries` at the flat positions `cells` and `empty` elsewhere."""
    table = np.full(shape[0] * shape[1], empty, dtype=entries.dtype)
    table[cells] = entries
    return table.reshape(shape)


def _repeats(cells: Codes) -> Mask:
    return np.asarray(np.bincount(cells)[cells] > 1)


def _entries(column: pl.Series, value: type[pl.DataType]) -> pl.DataFrame:
    """A map column as rows (row, key, value): Arrow maps come as `Map` or as lists of structs."""
    pairs = column.cast(pl.List(pl.Struct({"key": pl.String, "value": value})))
    table = pl.DataFrame({"row": np.arange(column.len()), "pair": pairs})
    return table.explode("pair").unnest("pair").drop_nulls()


def _groupings(column: pl.Series) -> dict[str, Grouping]:
    table = _entries(column, pl.String)
    found: dict[str, Grouping] = {}
    for key in table["key"].unique().sort():
        part = table.filter(pl.col("key") == key)
        names = part["value"].unique().sort()
        codes = np.full(column.len(), -1, dtype=np.int64)
        codes[part["row"].to_numpy()] = _codes(part["value"], names)
        found[key] = Grouping(tuple(names), codes)
    return found


def _values(column: pl.Series, shape: tuple[int, int], cells: Codes) -> dict[str, Floats]:
    table = _entries(column, pl.Float32)
    found: dict[str, Floats] = {}
    for key in table["key"].unique().sort():
        part = table.filter(pl.col("key") == key)
        entries = _floats(part["value"])
        found[key] = _scatter(shape, cells[part["row"].to_numpy()], entries, np.nan)
    return found
