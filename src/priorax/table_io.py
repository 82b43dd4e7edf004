"""Tables from and to CSV, TSV, JSON lines, Parquet and Arrow files, without a dataframe library.

A table is a dict of column name -> list of raw cells: text, numbers, truth values, dates, or None for a missing one.
Text files hold only text, so what a text means is decided later: whether a column is numeric from the training table alone (`typed`),
whether a text stands for a missing value by what the column is for (`known`, `labels`); a column of ids is left as it is.
"""

from __future__ import annotations

import csv
import datetime
import json
import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from priorax.configs.errors import DataError, require
from priorax.configs.files import replacing

Table = dict[str, list[Any]]
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "<na>"})
_HIDDEN_INDEX = re.compile(r"__index_level_\d+__")
_DECIMAL_ZERO = re.compile(r"([+-]?\d+)\.0*")
_PLAIN_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq", ".arrow", ".feather")


def read(path: Path) -> Table:
    """Reads a table; the suffix decides the format.

    Raises:
      DataError: no such file, unknown suffix, or contents that are not a table.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"no file {path}; check the path")
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        return _read_text(path, "\t" if kind == ".tsv" else ",")
    if kind in (".jsonl", ".ndjson"):
        return _read_jsonl(path)
    if kind in (".parquet", ".pq", ".arrow", ".feather"):
        return _read_arrow(path, kind)
    raise DataError(f"{path}: unknown suffix {kind or '(none)'}; known: {', '.join(SUFFIXES)}")


def write(path: Path, table: Table) -> None:
    """Writes a table whole or not at all; the suffix decides the format. None becomes an empty cell or null."""
    kind = Path(path).suffix.lower()
    if kind not in SUFFIXES:
        raise DataError(f"{path}: unknown suffix {kind or '(none)'}; known: {', '.join(SUFFIXES)}")
    with replacing(path) as temporary:
        if kind in (".csv", ".tsv"):
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                write_csv(file, table, "\t" if kind == ".tsv" else ",")
        elif kind in (".jsonl", ".ndjson"):
            with open(temporary, "w", encoding="utf-8") as file:
                for row in zip(*table.values(), strict=True):
                    file.write(json.dumps(dict(zip(table, row, strict=True)), ensure_ascii=False, default=str) + "\n")
        else:
            pa = require("pyarrow", "dumps", f"writing {kind}")
            arrow = pa.table({name: _arrow_array(pa, values) for name, values in table.items()})
            if kind in (".parquet", ".pq"):
                require("pyarrow.parquet", "dumps").write_table(arrow, temporary)
            else:
                require("pyarrow.feather", "dumps").write_feather(arrow, str(temporary))


def _arrow_array(pa: Any, values: Sequence[Any]) -> Any:
    """A column, as text where its cells are of several types."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if v is None else str(v) for v in values])


def write_csv(file: Any, table: Table, delimiter: str = ",") -> None:
    """Writes a table to an open text file."""
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))


def _read_text(path: Path, delimiter: str) -> Table:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as delimited UTF-8 text: {error}") from None
    rows = [row for row in rows if row]
    if not rows:
        raise DataError(f"{path} is empty; the first line must name the columns")
    header = [name.strip() for name in rows[0]]
    _check_names(path, header)
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise DataError(f"{path}, row {number}: {len(row)} cells, the header names {len(header)} columns")
    columns = zip(*rows[1:], strict=True) if len(rows) > 1 else [()] * len(header)
    return {name: list(column) for name, column in zip(header, columns, strict=True)}


def _read_jsonl(path: Path) -> Table:
    table: Table = {}
    count = 0
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, line {number}, cannot be read as UTF-8 text: {error}") from None
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: expected an object, found {type(row).__name__}")
            for name, value in row.items():
                if isinstance(value, (dict, list)):
                    raise DataError(
                        f'{path}, line {number}: column "{name}" holds {type(value).__name__}, not one value'
                    )
                table.setdefault(name, [None] * count).append(value)
            count += 1
            for values in table.values():
                values.extend([None] * (count - len(values)))
    if not count:
        raise DataError(f"{path} holds no rows")
    return table


def _read_arrow(path: Path, kind: str) -> Table:
    pa = require("pyarrow", "dumps", f"reading {path.name}")
    try:
        if kind in (".parquet", ".pq"):
            arrow = require("pyarrow.parquet", "dumps").read_table(path)
        else:
            arrow = require("pyarrow.feather", "dumps").read_table(str(path))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    _check_names(path, arrow.column_names)
    # pandas keeps an index without a name under such names. Of shuffled rows it says where they came from, often their class.
    shown = [name for name in arrow.column_names if not _HIDDEN_INDEX.fullmatch(name)]
    return {name: arrow.column(name).to_pylist() for name in shown}


def _check_names(path: Path, names: Sequence[str]) -> None:
    double = {n for n in names if names.count(n) > 1} if isinstance(names, list) else set()
    if double:
        raise DataError(f"{path}: column names occur twice: {', '.join(sorted(double))}")


def columns(table: Table, wanted: Sequence[str], path: Path) -> Table:
    """The wanted columns of a table, in that order.

    Raises:
      DataError: one is not there; names it and what is.
    """
    for name in wanted:
        if name not in table:
            raise DataError(f'column "{name}" is not in {path}. Columns: {", ".join(list(table)[:40])}.')
    return {name: table[name] for name in wanted}


def known(cells: Sequence[Any]) -> list[Any]:
    """Cells of a column to predict from: text without spaces around it, None where it stands for a missing value."""
    return [c if not isinstance(c, str) else None if c.strip().lower() in MISSING else c.strip() for c in cells]


def labels(cells: Sequence[Any], numbers: bool | None = None) -> list[Any]:
    """Cells of a column of classes, None where there is no label. "none" is a class, as of "none, mild, severe", unless all others are
    numbers; whether they are says ``numbers``, or the cells themselves."""
    found = known(cells)
    if numbers is None:
        numbers = all(c is None or not isinstance(c, str) or number(c) is not None for c in found)
    if numbers:
        return found
    return [c.strip() if isinstance(c, str) and c.strip().lower() == "none" else f for c, f in zip(cells, found, strict=True)]


def typed(
    train: Table, test: Table, train_path: Path, test_path: Path, train_rows: Sequence[int] | None = None,
    categorical: Collection[str] = (),
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Object arrays [n, d] and [m, d] of two tables with equal columns; None is a missing value.

    A column whose training cells all read as numbers is numeric in both tables. In one of text all other cells become text too.

    Args:
      train_rows: which rows of its file the training rows are, for messages; None: all of them.
      categorical: columns that hold categories, whose numbers are compared as written: ids of any length, codes with leading zeros.

    Raises:
      DataError: a column of numbers or dates holds text in the test table; infinity; lists.
    """

    def place(side: int, i: int) -> str:
        row = i if side or train_rows is None else train_rows[i]
        return f"{(train_path, test_path)[side]}, row {row + 1}"

    out = [np.empty((len(next(iter(t.values()), ())), len(train)), dtype=object) for t in (train, test)]
    for j, (name, raw) in enumerate(train.items()):
        cells, asked = known(raw), known(test[name])
        for side, column in enumerate((cells, asked)):
            for i, c in enumerate(column):
                if isinstance(c, (dict, list)):
                    raise DataError(f'{place(side, i)}: column "{name}" holds {type(c).__name__}, not one value')
        out[0][:, j], out[1][:, j] = cells, asked
        if name in categorical:
            for side, column in enumerate((cells, asked)):
                for i, c in enumerate(column):
                    out[side][i, j] = found = _category(c)
                    if isinstance(found, float) and math.isinf(found):
                        raise DataError(f'{place(side, i)}: column "{name}" holds infinity; leave the cell empty or the row out')
            continue
        if not any(isinstance(c, str) for c in cells):
            numeric = any(isinstance(c, (int, float)) and not isinstance(c, bool) for c in cells)
        else:
            numeric = all(c is None or _reads_as_number(c) for c in cells)
        if not numeric:
            if any(isinstance(c, str) for c in cells):
                # Numbers in one file may be text in the other, or in other rows of the same; then "1.0" is what a number 1 would be.
                mixed = any(_reads_as_number(c) and not isinstance(c, str) for c in (*cells, *asked))
                for side, column in enumerate((cells, asked)):
                    out[side][:, j] = [_text(c, mixed) for c in column]
            elif any(isinstance(c, datetime.date) for c in cells):
                for i, c in enumerate(asked):
                    if isinstance(c, str):
                        raise DataError(
                            f'{test_path}, row {i + 1}: column "{name}" holds dates in the training table, here the text "{c}"; '
                            "give both tables in a format that keeps dates, such as Parquet, or leave the column out"
                        )
            continue
        out[0][:, j] = [number(c) if isinstance(c, str) else c for c in cells]
        for i, c in enumerate(asked):
            if isinstance(c, str):
                value = number(c)
                if value is None:
                    raise DataError(
                        f'{test_path}, row {i + 1}: column "{name}" is numeric in the training table, here "{c}"'
                    )
                out[1][i, j] = value
    for side, array in enumerate(out):
        for (i, j), cell in np.ndenumerate(array):
            if isinstance(cell, float) and math.isnan(cell):
                array[i, j] = None
            elif isinstance(cell, float) and math.isinf(cell):
                raise DataError(f'{place(side, i)}: column "{list(train)[j]}" holds infinity; leave the cell empty or the row out')
    return out[0], out[1]


def _reads_as_number(cell: Any) -> bool:
    return number(cell) is not None if isinstance(cell, str) else isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _text(cell: Any, mixed: bool) -> str | None:
    """A cell of a column of text; whole numbers without a decimal point, also those that are text where the column is ``mixed``."""
    if isinstance(cell, str):
        whole = _DECIMAL_ZERO.fullmatch(cell) if mixed else None
        return whole[1] if whole else cell
    if cell is None:
        return cell
    if isinstance(cell, float):
        return None if math.isnan(cell) else str(int(cell)) if cell.is_integer() else str(cell)
    return str(cell)


def _category(cell: Any) -> Any:
    """A cell of a column declared categorical: the number it is if it is written as one would write that number, so that codes are in
    the order of numbers; else the text. "1.0" is 1, as other programs write whole numbers beside missing ones; "01" is not."""
    if isinstance(cell, (bool, np.bool_)) or isinstance(cell, float) and math.isinf(cell):
        return cell  # a truth value is compared as the number it is
    text = _text(cell, mixed=True)
    if text is None:
        return None
    plain = _PLAIN_NUMBER.fullmatch(text)
    return text if plain is None else float(text) if plain[2] else int(text)


def first_decimal(cells: Sequence[Any]) -> Any:
    """The first cell that is a number with decimals, if all cells that are not missing are numbers; else None."""
    found = None
    for cell in cells:
        if cell is None:
            continue
        value = None if isinstance(cell, bool) else number(str(cell))
        if value is None:
            return None
        if found is None and math.isfinite(value) and not value.is_integer():
            found = cell
    return found


def number(text: str) -> float | None:
    """The number that a text is; None where it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if "_" in text else value
