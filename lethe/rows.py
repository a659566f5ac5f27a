"""Rows of a table as they stand, each with where it lies: JSONL, CSV, Parquet, saved datasets."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from lethe.errors import InputError, MissingExtraError, nearest

Row = Mapping[str, Any]
Placed = tuple[str, Row]
SUFFIXES = (".jsonl", ".csv", ".parquet")


def read_rows(path: Path) -> Iterator[Placed]:
    """The rows of a file, or of a folder that `datasets` saved, as (`file:line`, row).

    Columns that hold nothing (JSON null, an empty CSV cell) are left out of their row. The rows of
    a saved folder of several splits carry the split's name as `split`.

    Raises:
        InputError: the file is missing, of another kind, empty, not UTF-8 or not well formed.
    """
    if path.is_dir():
        yield from _saved_rows(path)
        return
    if not path.is_file():
        raise InputError("there is no such file", where=str(path))
    readers = {".jsonl": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    if path.suffix not in readers:
        raise InputError(
            f"'{path.suffix}' files are not read",
            where=str(path),
            todo=nearest(path.suffix, SUFFIXES),
        )
    empty = True
    for row in readers[path.suffix](path):
        empty = False
        yield row
    if empty:
        raise InputError("the file holds no rows", where=str(path))


def read_text(path: Path) -> str:
    """A UTF-8 file, its byte order mark taken off.

    Raises:
        InputError: it cannot be read, is empty, or is not UTF-8 (which byte, on which line).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
    if not data.strip():
        raise InputError(
            "the file is empty",
            where=str(path),
            todo='write an example on each line: {"prompt": "…", "reference": "…"}',
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # `error.object` is what was decoded, without the mark
        before = bytes(error.object[: error.start])
        column = error.start - before.rfind(b"\n")
        raise InputError(
            f"byte 0x{error.object[error.start]:02x} at byte {column} of the line is not UTF-8",
            where=f"{path}:{before.count(10) + 1}",
            todo="save the file as UTF-8",
        ) from None


def parse_json(text: str, where: str) -> Any:
    """Strict JSON: no NaN, no field twice. `InputError` says what and in which column."""

    def constant(name: str) -> NoReturn:
        raise InputError(f"{name} is not a value", where=where)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"field {short(twice)} is given twice", where=where)
        return fields

    try:
        return json.loads(text, parse_constant=constant, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise InputError(f"broken JSON: {error.msg}, column {error.colno}", where=where) from None
    except RecursionError:
        raise InputError("JSON nested too deeply", where=where) from None
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f"broken JSON: {error}", where=where) from None


def short(value: object) -> str:
    """A value as it is shown in an error: escaped, at most 60 characters."""
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:56]} ..."


def first_line(error: Exception) -> str:
    """What another library's error says, in short."""
    return short(str(error).partition("\n")[0] or type(error).__name__)[1:-1]


def _json_rows(path: Path) -> Iterator[Placed]:
    # not splitlines(): JSON text may hold U+2028 and its kin as they are
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = parse_json(line, where)
        if not isinstance(row, dict):
            raise InputError(f"a row is an object, not {short(row)}", where=where)
        yield where, _filled(row)


def _csv_rows(path: Path) -> Iterator[Placed]:
    names: list[str] | None = None
    for where, cells in _csv_cells(path):
        if names is None:
            names = _header(cells, where)
        elif len(cells) != len(names):
            raise InputError(f"{len(cells)} cells where the header names {len(names)}", where=where)
        else:
            yield where, _csv_row(dict(zip(names, cells, strict=True)), where)


def _csv_cells(path: Path) -> list[tuple[str, list[str]]]:
    """Every record with the line it begins on, blank lines left out."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    bound = csv.field_size_limit(2**31 - 1)  # by default 128 KiB: less than a long document
    records, where = [], f"{path}:1"
    try:
        for cells in reader:
            if cells:
                records.append((where, cells))
            where = f"{path}:{reader.line_num + 1}"
    except csv.Error as error:
        raise InputError(f"broken CSV: {error}", where=where) from None
    finally:
        csv.field_size_limit(bound)
    return records


def _header(cells: list[str], where: str) -> list[str]:
    for name in cells:
        if cells.count(name) > 1:
            raise InputError(f"column {short(name)} is named twice", where=where)
        if name in ("groups", "groups."):
            raise InputError(
                f"column '{name}' names no grouping",
                where=where,
                todo="write one column for each grouping, such as groups.target",
            )
    return cells


def _csv_row(cells: Mapping[str, str], where: str) -> Row:
    """Cells as fields: `groups.NAME` columns gathered, JSON cells read, empty cells left out."""
    row: dict[str, Any] = {}
    groups: dict[str, str] = {}
    for name, cell in cells.items():
        if not cell:
            continue
        if name.startswith("groups."):
            groups[name.removeprefix("groups.")] = cell
        elif name in ("choices", "messages", "references"):
            row[name] = parse_json(cell, f"{where}, column '{name}'")
        elif name == "harmful":  # spreadsheets and pandas write truth in different cases
            row[name] = {"true": True, "false": False}.get(cell.lower(), cell)
        else:
            row[name] = cell
    return {**row, "groups": groups} if groups else row


def _parquet_rows(path: Path) -> Iterator[Placed]:
    import pyarrow.parquet as pq

    try:
        rows = pq.ParquetFile(path).read().to_pylist()
    except Exception as error:  # the library raises whatever the hostile bytes led it to
        raise InputError(
            f"not a Parquet file that can be read ({first_line(error)})", where=str(path)
        ) from None
    for number, row in enumerate(rows, start=1):
        yield f"{path}:row {number}", _filled(row)


def _saved_rows(path: Path) -> Iterator[Placed]:
    datasets = _datasets()
    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:  # here too
        raise InputError(
            f"not a dataset folder that can be read ({first_line(error)})",
            where=str(path),
            todo="give a file, or a folder written by save_to_disk",
        ) from None
    yield from _dataset_rows(saved, str(path))


def hub_rows(
    name: str, config: str | None, *, split: str | None = None, revision: str | None = None
) -> Iterator[Placed]:
    """The rows of a dataset on the hub, of one split by its own name, or of all.

    Raises:
        MissingExtraError: the library `datasets` is not installed.
        InputError: the dataset cannot be read (no network, no such name, a loading script).
    """
    datasets = _datasets()
    try:
        found = datasets.load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # the library raises whatever its network and parsers do
        raise InputError(
            f"the hub's dataset '{name}' cannot be read ({first_line(error)})",
            where=f"{name}:{config}" if config else name,
            todo="check the name and the network, or read local files",
        ) from None
    yield from _dataset_rows(found, f"hub:{name}")


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "hub") from None
    return datasets


def _dataset_rows(found: Any, source: str) -> Iterator[Placed]:
    """Rows of a dataset; where there are several splits, each row says its split's name."""
    parts = found if isinstance(found, dict) else {"": found}
    for name, part in parts.items():
        named = {"split": "dev" if name == "validation" else str(name)} if len(parts) > 1 else {}
        label = f"{name} row" if name else "row"
        for number, row in enumerate(part, start=1):
            yield f"{source}:{label} {number}", {**_filled(row), **named}


def _filled(row: Row) -> Row:
    """The row without the fields that hold nothing; a struct's empty members go too."""
    kept = {name: value for name, value in row.items() if value is not None}
    groups = kept.get("groups")
    if isinstance(groups, dict):
        kept["groups"] = {name: value for name, value in groups.items() if value is not None}
    elif isinstance(groups, list):  # an Arrow map
        kept["groups"] = dict(groups) if all(map(_is_pair, groups)) else groups
    return kept


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2
