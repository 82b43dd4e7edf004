"""Reads any table a user may hold into plain NumPy columns.

NumPy arrays (any dtype), nested lists, pandas, polars and pyarrow tables come in; a list of 1-D columns comes out. No
dataframe library is imported here: a frame can only be given by a caller who has already imported its library.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import numbers
import os
import sys
from collections import Counter
from typing import Any

import numpy as np
import scipy.sparse

_LARGEST = int(sys.float_info.max)
_WHOLE = 2.0**53
"""From here on two whole numbers may be the same double."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
      name: the column's name, or its position as text.
      values: 1-D array of n values: f64 (NaN = missing), bool, datetime64, timedelta64 or object (missing = None).
      levels: the declared categories, in order, of a dataframe column with a category dtype; else None.
      exact: object array of the cells (missing = None) where ``values`` are doubles and some are too large for doubles
        to tell whole numbers apart; else None.
    """

    name: str
    values: np.ndarray
    levels: tuple[Any, ...] | None = None
    exact: np.ndarray | None = None

    @property
    def cells(self) -> np.ndarray:
        """What categories are told apart by."""
        return self.values if self.exact is None else self.exact


def read_table(X: Any) -> list[Column]:
    """Splits a table into columns.

    Args:
      X: 2-D; n rows, d columns. NumPy array of any dtype but complex, nested lists, pandas, polars or pyarrow table,
        an object with ``__array__``, or what this function returned.

    Returns:
      d columns, each with n values.

    Raises:
      TypeError: X is sparse, or a cell holds something that is neither a number, text, a truth value nor a date.
      ValueError: X is not two-dimensional, or complex, or two columns have the same name.
    """
    if isinstance(X, list) and X and isinstance(X[0], Column):
        return X
    if scipy.sparse.issparse(X):
        raise TypeError(
            f"Sparse data was passed for X ({type(X).__name__}, shape {X.shape}), but dense data is required. "
            "Use X.toarray() if it fits into memory, or reduce the columns first, for example with "
            "sklearn.decomposition.TruncatedSVD."
        )
    library = type(X).__module__.partition(".")[0]
    _refuse_what_is_no_table(X, library)
    if hasattr(X, "columns") and hasattr(X, "iloc"):
        _refuse_equal_names(list(X.columns))
        return [_pandas_column(str(name), X.iloc[:, j]) for j, name in enumerate(X.columns)]
    if library == "polars" and hasattr(X, "get_columns"):
        return [_polars_column(series) for series in X.get_columns()]
    if library == "pyarrow" and hasattr(X, "column_names"):
        _refuse_equal_names(X.column_names)
        return [
            _array_column(str(name), np.asarray(X.column(j).to_pylist(), dtype=object))
            for j, name in enumerate(X.column_names)
        ]
    array = _as_array(X)
    if np.iscomplexobj(array):
        raise ValueError(f"Complex data not supported\n{array}\n")
    if array.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {array.ndim}D array instead (shape {array.shape}). Reshape your data either using "
            "array.reshape(-1, 1) if it has a single feature or array.reshape(1, -1) if it is a single sample."
        )
    return [_array_column(str(j), array[:, j]) for j in range(array.shape[1])]


def _refuse_what_is_no_table(X: Any, library: str) -> None:
    """Things that NumPy would quietly wrap into an array of one object."""
    advice = None
    if isinstance(X, (str, bytes, os.PathLike)):
        advice = "read the file first, for example with pandas.read_csv, or use `priorax predict`"
    elif isinstance(X, dict):
        advice = "turn it into a data frame first, for example with pandas.DataFrame(X)"
    elif library == "polars" and hasattr(X, "collect"):
        advice = "call .collect() first"
    if advice is not None:
        raise TypeError(f"X is a {type(X).__name__}, not a table with rows and columns; {advice}.")


def _refuse_equal_names(names: list[Any]) -> None:
    """scikit-learn cannot tell such columns apart either, and from version 1.9 on says so in words of another library."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"X has several columns named {twice[0]!r}; give every column a name of its own.")


def _as_array(X: Any) -> np.ndarray:
    if isinstance(X, np.ma.MaskedArray):
        if X.dtype.kind == "f":
            return X.filled(np.nan)
        cells = np.array(X.data, dtype=object)
        cells[np.ma.getmaskarray(X)] = None
        return cells
    if isinstance(X, np.ndarray):
        return np.asarray(X)  # np.matrix and other subclasses index differently
    try:
        array = np.asarray(X)
    except ValueError as error:
        raise ValueError(f"X is not a rectangular table: {error}") from None
    # NumPy turns a list that mixes numbers and text into text only; read it again cell by cell.
    if array.dtype.kind in "US" and not hasattr(X, "__array__"):
        array = np.asarray(X, dtype=object)
    return array


def _pandas_column(name: str, series: Any) -> Column:
    dtype = series.dtype
    if hasattr(dtype, "categories") and hasattr(dtype, "ordered"):
        codes = np.asarray(series.cat.codes)
        levels = tuple(dtype.categories)
        padded = np.array([*levels, None], dtype=object)
        return Column(name, padded[codes], levels)
    kind = getattr(dtype, "kind", "O")
    if kind == "c":
        raise ValueError(f"Complex data not supported\n{series}\n")
    if kind in "iuf":
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
        return Column(name, values, exact=None if kind == "f" else _exact(values, series))
    if kind == "b" and not series.isna().any():
        return Column(name, series.to_numpy(dtype=bool))
    if kind == "M":
        zone = getattr(getattr(dtype, "pyarrow_dtype", dtype), "tz", None)
        naive = series.dt.tz_convert("UTC").dt.tz_localize(None) if zone is not None else series
        # By way of pandas' own dtype: those of pyarrow hold None, which NumPy cannot make a date of.
        return Column(name, naive.astype("datetime64[us]").to_numpy())
    if kind == "m":
        return Column(name, series.to_numpy(dtype="timedelta64[us]"))
    if hasattr(dtype, "freq") and hasattr(series, "dt"):  # pandas.PeriodDtype
        return Column(name, series.dt.to_timestamp().to_numpy(dtype="datetime64[us]"))
    return _array_column(name, np.asarray(series, dtype=object))


def _polars_column(series: Any) -> Column:
    dtype = type(series.dtype).__name__ if not isinstance(series.dtype, type) else series.dtype.__name__
    if series.dtype.is_numeric():
        values = series.cast(float).to_numpy().astype(np.float64)
        return Column(series.name, values, exact=_exact(values, series.to_list()) if series.dtype.is_integer() else None)
    if dtype in ("Date", "Datetime"):
        return Column(series.name, series.to_numpy().astype("datetime64[us]"))
    if dtype == "Duration":
        return Column(series.name, series.to_numpy().astype("timedelta64[us]"))
    column = _array_column(series.name, np.array([*series.to_list(), None], dtype=object)[:-1])
    if dtype == "Enum":
        return Column(column.name, column.values, tuple(series.dtype.categories.to_list()))
    if dtype == "Categorical":
        return Column(column.name, column.values, tuple(sorted({v for v in column.values if v is not None})))
    return column


def _array_column(name: str, values: np.ndarray) -> Column:
    """Classifies a raw 1-D array; object arrays become the narrowest kind all their values share."""
    kind = values.dtype.kind
    if kind == "b":
        return Column(name, np.asarray(values, dtype=bool))
    if kind in "iuf":
        doubles = values.astype(np.float64)
        return Column(name, doubles, exact=None if kind == "f" else _exact(doubles, values))
    if kind == "M":
        return Column(name, values.astype("datetime64[us]"))
    if kind == "m":
        return Column(name, values.astype("timedelta64[us]"))
    if kind == "S":
        values = np.char.decode(values, "utf-8", "replace").astype(object)
    elif kind == "U":
        values = values.astype(object)
    if values.dtype.kind != "O":
        raise TypeError(f"X column {name!r} has dtype {values.dtype}, which cannot be read as numbers, text or dates")
    narrow = _narrow(name, values)
    return Column(name, narrow, exact=_exact(narrow, values) if narrow.dtype.kind == "f" else None)


def _exact(values: np.ndarray, cells: Any) -> np.ndarray | None:
    """See `Column.exact`; values f64[n] made of the n cells."""
    if not (np.abs(values) >= _WHOLE).any():
        return None
    held = np.array(cells, dtype=object)
    held[np.isnan(values)] = None
    return held


def _narrow(name: str, values: np.ndarray) -> np.ndarray:
    missing = np.fromiter((is_missing(v) for v in values), dtype=bool, count=len(values))
    present = values[~missing]
    if all(isinstance(v, (bool, np.bool_)) for v in present):
        if len(present) and not missing.any():
            return values.astype(bool)
    elif all(isinstance(v, numbers.Number) or hasattr(v, "as_tuple") for v in present):
        if any(isinstance(v, complex) for v in present):
            raise ValueError(f"Complex data not supported\n(column {name!r})\n")
        out = np.full(len(values), np.nan)
        try:
            out[~missing] = [float(v) for v in present]
        except OverflowError:
            row = next(i for i in np.flatnonzero(~missing) if abs(values[i]) > _LARGEST)
            raise ValueError(
                f"X column {name!r}, row {row}: a number of about {math.log10(int(abs(values[row]))):.0f} digits does not fit into a "
                "double. Turn such identifiers into text, or take logarithms."
            ) from None
        return out
    elif all(isinstance(v, (datetime.date, np.datetime64)) for v in present):
        out = np.full(len(values), np.datetime64("NaT"), dtype="datetime64[us]")
        out[~missing] = [_naive(v) for v in present]
        return out
    elif all(isinstance(v, (datetime.timedelta, np.timedelta64)) for v in present):
        out = np.full(len(values), np.timedelta64("NaT"), dtype="timedelta64[us]")
        out[~missing] = [np.timedelta64(v).astype("timedelta64[us]") for v in present]
        return out
    out = np.full(len(values), None, dtype=object)
    for i in np.flatnonzero(~missing):
        value = values[i]
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if not isinstance(value, (str, numbers.Number, np.bool_, datetime.date, datetime.time, datetime.timedelta)):
            raise TypeError(
                f"X column {name!r}, row {i}: argument must be a string or a real number, not "
                f"{type(value).__name__!r} ({value!r:.60}). Turn such cells into numbers or text first."
            )
        out[i] = value
    return out


def is_missing(value: Any) -> bool:
    """True for None, NaN, pandas.NA and NaT."""
    if value is None:
        return True
    if isinstance(value, (str, bytes, bool)):
        return False
    if type(value).__name__ in ("NAType", "NaTType"):
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return False


def _naive(value: Any) -> np.datetime64:
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    return np.datetime64(value).astype("datetime64[us]")
