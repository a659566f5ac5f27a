"""What a suite is to the registry: where its rows lie, and a function that makes them examples."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lethe.errors import InputError
from lethe.examples import Decoding, Example, Match, Normalise, ScorerName, Split
from lethe.rows import Placed, Row, first_line, hub_rows, parse_json, read_rows, read_text

_DEFAULT_DECODING = Decoding()

Published = Literal["train", "dev", "test", "protect", "all"]


@dataclass(frozen=True, slots=True)
class Hub:
    """One table on the hub: a dataset, its configuration, the split by its own name, a revision."""

    name: str
    config: str | None
    split: str
    revision: str | None = None


Table = Path | Hub


class Rows:
    """The rows of some tables, in order; where the last one lies is remembered for errors.

    Attributes:
        published: the split they were published in; `all` where there was one piece.
        where: `file:line` of the row handed out last.
    """

    def __init__(self, placed: Iterable[Placed], published: Published = "all") -> None:
        self._placed = placed
        self.published = published
        self.where = ""

    def __iter__(self) -> Iterator[Row]:
        for where, row in self._placed:
            self.where = where
            yield row


Normaliser = Callable[[Rows, str], Iterable[Example]]
OfFile = Callable[[Path, Split], tuple[Example, ...]]


@dataclass(frozen=True)
class Recipe:
    """A registered suite.

    Attributes:
        subsets: what may follow the name after a colon; the first is meant where nothing does.
        local: subset → published split → a pattern of files under the data folder.
        hub: subset → published split → tables on the hub.
        salt: the name its clusters are hashed under; suites about the same sentences share one.
        overlapping: whether published splits may share clusters, because these are told by content;
            a cluster then stays in the test split, else the dev split.
        of_file: makes examples of a user's file, for suites that take a path for a subset.
    """

    name: str
    about: str
    axis: str
    scorer: ScorerName
    licence: str
    subsets: tuple[str, ...]
    local: Callable[[str], Mapping[Published, str]]
    hub: Callable[[str], Mapping[Published, tuple[Hub, ...]]]
    examples: Normaliser
    salt: str
    normalise: Normalise
    metrics: tuple[str, ...]
    balance: str | None
    phrasing: str | None
    decoding: Decoding
    match: Match
    extract: str | None
    overlapping: bool
    of_file: OfFile | None

    @property
    def folder(self) -> str:
        """The folder under the data folder in which its files lie."""
        return next(iter(self.local(self.subsets[0]).values())).partition("/")[0]

    @property
    def hub_name(self) -> str:
        """The hub's name of the dataset; empty where it is not there."""
        return next((found[0].name for found in self.hub(self.subsets[0]).values()), "")


RECIPES: dict[str, Recipe] = {}


def suite(
    name: str,
    *,
    axis: str,
    scorer: ScorerName,
    licence: str,
    local: Callable[[str], Mapping[Published, str]],
    hub: Callable[[str], Mapping[Published, tuple[Hub, ...]]],
    subsets: tuple[str, ...] = ("default",),
    salt: str | None = None,
    normalise: Normalise = "sum",
    metrics: tuple[str, ...] = (),
    balance: str | None = None,
    phrasing: str | None = None,
    decoding: Decoding = _DEFAULT_DECODING,
    match: Match = "exact",
    extract: str | None = None,
    overlapping: bool = False,
    of_file: OfFile | None = None,
) -> Callable[[Normaliser], Normaliser]:
    """Register a function (rows, subset) → examples as the suite `name`.

    The first line of its docstring is what `lethe suites` says of it. Local and hub rows go through
    the same function. The other arguments are those of `Recipe` and `lethe.examples.Suite`.
    """

    def register(examples: Normaliser) -> Normaliser:
        if name in RECIPES:
            raise ValueError(f"a suite '{name}' is registered already")
        RECIPES[name] = Recipe(
            name=name,
            about=(examples.__doc__ or "").strip().splitlines()[0],
            axis=axis,
            scorer=scorer,
            licence=licence,
            subsets=subsets,
            local=local,
            hub=hub,
            examples=examples,
            salt=salt or name,
            normalise=normalise,
            metrics=metrics,
            balance=balance,
            phrasing=phrasing,
            decoding=decoding,
            match=match,
            extract=extract,
            overlapping=overlapping,
            of_file=of_file,
        )
        return examples

    return register


def tables(
    recipe: Recipe, subset: str, data_dir: Path | None
) -> Mapping[Published, tuple[Table, ...]]:
    """Where every published split of a subset lies; under `data_dir` a split may have no files."""
    if data_dir is None:
        return recipe.hub(subset)
    return {
        published: tuple(sorted(data_dir.glob(pattern)))
        for published, pattern in recipe.local(subset).items()
    }


def examples_of(
    recipe: Recipe, subset: str, published: Published, found: Iterable[Table]
) -> list[Example]:
    """The examples of tables; of equal ones the first.

    Raises:
        InputError: a row is not as the suite expects, or two examples share an id.
    """
    rows = Rows((placed for table in found for placed in _rows(table)), published)
    by_id: dict[str, Example] = {}
    try:
        for example in recipe.examples(rows, subset):
            if by_id.setdefault(example.id, example) != example:
                raise InputError(f"id '{example.id}' is used twice", where=rows.where)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the row is not one of '{recipe.name}' ({type(error).__name__}: {first_line(error)})",
            where=rows.where,
        ) from error
    return list(by_id.values())


def _rows(table: Table) -> Iterable[Placed]:
    if isinstance(table, Hub):
        return hub_rows(table.name, table.config, split=table.split, revision=table.revision)
    if table.suffix == ".txt":
        return text_rows(table)
    if table.suffix == ".json":
        return document_rows(table)
    return read_rows(table)


def text_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a text file with their ends, as rows with the one field `text`."""
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        end = "\n" if number < len(lines) else ""
        if line or end:
            yield f"{path}:{number}", {"text": line + end}


def document_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON document: a list of them, or one under `data` (as SQuAD has it)."""
    document = parse_json(read_text(path), str(path))
    items = document.get("data") if isinstance(document, dict) else document
    if not isinstance(items, list):
        raise InputError("the document is no list of rows", where=str(path))
    for number, item in enumerate(items, start=1):
        where = f"{path}, item {number}"
        if not isinstance(item, dict):
            raise InputError("a row is an object", where=where)
        yield where, item
