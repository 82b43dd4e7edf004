"""Tables to arrays: every column becomes one or more f32 columns with NaN for missing, plus categorical flags.

Everything is learned from the rows given to `TableEncoder.fit` (the context) and only applied to later rows, so query
rows never influence the encoding.

What becomes of a column:

- numbers: divided by their interquartile range and, where their offset is larger than that, shifted by their median, both in
  double precision, so that large offsets (time stamps, identifiers) and tiny or huge scales survive the cast to single
  precision. The network standardises columns anyway, so this changes nothing else. Columns whose middle half is nearly one
  value have far outliers then, which keep their order and size; 1e30 ranges away it ends.
- text, truth values, category dtypes, and columns named in ``categorical_features``: codes 0 .. k-1 in sorted order (in
  the declared order for category dtypes). A value not seen in ``fit`` becomes NaN: unknown is missing.
- dates: seconds since the epoch as a number, and those of month, day of the month, day of the week and hour that vary.
- durations: seconds.
- columns that never vary in ``fit`` (neither in value nor in being missing) are dropped: they say nothing about rows.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from typing import Any

import numpy as np

from .tables import Column, read_table

CLIP = 1e30
"""Squares of standardised values and sums of them stay finite in single precision: the network divides by the spread first."""
TEXT_LEVELS = 200  # more distinct texts than this, nearly one per row, are free text rather than categories
NUMBERS = 20  # so many distinct texts that read as numbers, and at least half of all, are most likely numbers


class TableEncoder:
    """Turns tables into f32 matrices.

    Args:
      categorical_features: which columns hold categories although they are numbers, as in scikit-learn's
        HistGradientBoostingClassifier: ``"from_dtype"`` (dataframe columns with a category dtype), None (no number is
        a category), a bool mask of length d, positions, or column names. Text and truth values are always categories.

    Attributes (after `fit`), with F encoded columns:
      categorical_: bool[F].
      cardinality_: i32[F], levels of a categorical column, 0 for a numeric one.
      source_: i32[F], the input column each encoded column comes from.
      names_: F names.
      dropped_: names of the input columns that gave no encoded column.
    """

    def __init__(self, categorical_features: Any = "from_dtype") -> None:
        self.categorical_features = categorical_features

    def fit(self, X: Any) -> TableEncoder:
        """Learns the encoding from a table of n rows and d columns.

        Raises:
          ValueError: X is empty, holds an infinity, or ``categorical_features`` names what is not there.
          TypeError: X is sparse or has cells that are neither numbers, text nor dates.
        """
        self._encode_fitting(read_table(X))
        return self

    def fit_transform(self, X: Any) -> np.ndarray:
        """`fit`, then the encoded rows, f32[n, F]."""
        columns = read_table(X)
        self._encode_fitting(columns)
        return self._encode(columns)

    def transform(self, X: Any) -> np.ndarray:
        """Encodes rows with what `fit` learned: f32[n, F], NaN = missing or unseen.

        Raises:
          ValueError: another number of columns than in fit, an infinity, or text in a column that was numeric.
        """
        columns = read_table(X)
        if len(columns) != self.n_features_in_:
            raise ValueError(f"X has {len(columns)} columns, but the table seen in fit had {self.n_features_in_}")
        return self._encode(columns)

    def _encode_fitting(self, columns: list[Column]) -> None:
        if not columns:
            raise ValueError("X has 0 columns; at least 1 is needed")
        declared, from_dtype = _declared_categorical(self.categorical_features, columns)
        self.n_features_in_ = len(columns)
        self._plans: list[_Plan] = []
        self.dropped_: list[str] = []
        for j, column in enumerate(columns):
            plans = [p for p in _plan(j, column, bool(declared[j]), from_dtype) if _varies(p.encode(column))]
            self._plans += plans
            if not plans:
                self.dropped_.append(column.name)
        self.categorical_ = np.array([p.levels is not None for p in self._plans] or [False], dtype=bool)
        self.cardinality_ = np.array([len(p.levels or ()) for p in self._plans] or [0], dtype=np.int32)
        self.source_ = np.array([p.source for p in self._plans] or [0], dtype=np.int32)
        self.names_ = [p.name for p in self._plans] or ["constant"]

    def _encode(self, columns: list[Column]) -> np.ndarray:
        n = len(columns[0].values)
        if not self._plans:  # nothing varies: one column of zeros, so that the prediction is the class frequencies
            return np.zeros((n, 1), dtype=np.float32)
        out = np.empty((n, len(self._plans)), dtype=np.float32)
        for k, plan in enumerate(self._plans):
            out[:, k] = plan.encode(columns[plan.source])
        return out


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How one encoded column is made: of input column ``source``, by ``kind``."""

    source: int
    name: str
    kind: str  # "number", "duration", "category", or a part of a date
    center: float = 0.0
    scale: float = 1.0
    levels: dict[Any, int] | None = None

    def encode(self, column: Column) -> np.ndarray:
        """f64[n], NaN = missing."""
        values = column.values
        if self.kind == "category":
            _refuse_infinities(self.name, values)
            return self._codes(column.cells)
        number = self.numbers(values)
        with np.errstate(over="ignore", invalid="ignore"):
            z = (number - self.center) / self.scale
        return np.clip(z, -CLIP, CLIP)

    def numbers(self, values: np.ndarray) -> np.ndarray:
        """f64[n] before scaling, NaN = missing."""
        if self.kind in ("number", "duration"):
            return _numbers(self.name, values, self.kind)
        return _date_part(self.name, values, self.kind)

    def _codes(self, values: np.ndarray) -> np.ndarray:
        levels = self.levels or {}
        codes = np.fromiter((levels.get(_key(v), np.nan) for v in values.tolist()), dtype=np.float64, count=len(values))
        if len(codes) and np.isnan(codes).all() and any(_key(v) is not None for v in values.tolist()):
            warnings.warn(
                f"column {self.name!r}: none of its values occurred in fit, all are treated as missing "
                f"(first: {next(v for v in values.tolist() if _key(v) is not None)!r}, in fit: {list(levels)[:5]})",
                UserWarning,
                stacklevel=2,
            )
        return codes


def _plan(j: int, column: Column, declared: bool, from_dtype: bool) -> list[_Plan]:
    values, name = column.values, column.name
    kind = values.dtype.kind
    if column.levels is not None and (from_dtype or declared or not all(map(_is_number, column.levels))):
        return [_category(j, name, [_key(level) for level in column.levels])]
    if column.levels is not None:  # a category dtype of numbers that the caller does not want as categories
        return [_number(j, name, values)]
    if declared or kind in "bO":
        present = {key for key in map(_key, column.cells.tolist()) if key is not None}
        if kind == "O" and len(present) > TEXT_LEVELS and len(present) > 0.5 * len(values):
            warnings.warn(
                f"column {name!r} holds {len(present)} different texts in {len(values)} rows and is used as a "
                "category: free text is better encoded first, for example with skrub.StringEncoder",
                UserWarning,
                stacklevel=2,
            )
        if kind == "O" and not declared:
            _warn_of_numbers(name, present)
        return [_category(j, name, sorted(present, key=lambda key: (isinstance(key, str), key)))]
    if kind == "M":
        parts = ("epoch", "month", "day", "weekday", "hour")
        return [_scaled(_Plan(j, f"{name}:{part}", part), values) for part in parts]
    return [_number(j, name, values)]


def _category(j: int, name: str, keys: list[Any]) -> _Plan:
    # Declared levels may share a key (different objects with the same text): one level then, its codes without a gap.
    return _Plan(j, name, "category", levels={key: code for code, key in enumerate(dict.fromkeys(keys))})


def _warn_of_numbers(name: str, present: set[Any]) -> None:
    """Says so where text is most likely a column of numbers that was read as text, for one cell's sake or altogether."""
    texts = [key for key in present if isinstance(key, str)]
    others = sorted(key for key in texts if not _reads_as_number(key))
    if len(present) - len(others) < max(NUMBERS, len(others)):
        return
    but = f", but {others[0]!r}, for one, does not" if others else ", but are text"
    warnings.warn(
        f"column {name!r}: {len(present) - len(others)} of {len(present)} different values read as numbers{but}; it is used as a category. "
        "Turn it into numbers first (pandas.to_numeric(column, errors='coerce')), or name it in categorical_features if it is one",
        UserWarning,
        stacklevel=2,
    )


def _reads_as_number(text: str) -> bool:
    if "_" in text or re.match(r"[+-]?0\d", text):  # codes: Python alone takes the first for numbers, and the second would lose its zeros
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(j: int, name: str, values: np.ndarray) -> _Plan:
    return _scaled(_Plan(j, name, "duration" if values.dtype.kind == "m" else "number"), values)


def _scaled(plan: _Plan, values: np.ndarray) -> _Plan:
    """The plan with centre and scale learned from the values."""
    raw = plan.numbers(values)
    x = raw[~np.isnan(raw)]
    if not len(x):
        return plan
    # Half-sized arithmetic so that the spread of values near the largest double does not overflow.
    low, center, high = np.quantile(x * 0.5, [0.25, 0.5, 0.75]) * 2
    scale = (high * 0.5 - low * 0.5) * 2
    if not scale > 0:
        scale = np.max(np.abs(x * 0.5 - center * 0.5)) * 2
    if not np.isfinite(scale):
        scale = np.finfo(np.float64).max
    if abs(center) <= scale:  # nothing is lost without shifting, and values near 0 keep their digits
        center = 0.0
    return dataclasses.replace(plan, center=float(center), scale=float(scale) if scale > 0 else 1.0)


def _numbers(name: str, values: np.ndarray, wanted: str) -> np.ndarray:
    """f64[n] from numbers and truth values, or from durations (seconds), as ``wanted``; NaN = missing."""
    kind = values.dtype.kind
    if kind in "Mm" and np.isnat(values).all() or kind == "f" and np.isnan(values).all():
        return np.full(len(values), np.nan)
    held = {"M": "dates", "m": "durations"}.get(kind, "numbers")
    if held != f"{wanted}s" and kind != "O":
        raise ValueError(
            f"column {name!r} held {wanted}s in fit but holds {held} now; encode it the same way (or fit again, where an earlier version did)"
        )
    if kind == "m":
        return np.where(np.isnat(values), np.nan, values.astype(np.int64) / 1e6)
    if kind == "O":
        bad = [v for v in values.tolist() if v is not None and not _is_number(v)]
        if bad:
            raise ValueError(f"column {name!r} held {wanted}s in fit but holds {bad[0]!r} now; encode it the same way")
        values = np.array([np.nan if v is None else float(v) for v in values.tolist()], dtype=np.float64)
    values = values.astype(np.float64)
    _refuse_infinities(name, values)
    return values


def _refuse_infinities(name: str, values: np.ndarray) -> None:
    if values.dtype.kind == "f" and np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise ValueError(
            f"Input X contains infinity in column {name!r} (first in row {row}). Replace infinities with NaN if they "
            "mean missing, or with a large number if they mean large: np.nan_to_num, or X.replace([inf, -inf], nan)."
        )


def _date_part(name: str, values: np.ndarray, part: str) -> np.ndarray:
    if values.dtype.kind == "O" and all(v is None for v in values.tolist()):
        values = np.full(len(values), np.datetime64("NaT"), dtype="datetime64[us]")
    if values.dtype.kind == "f" and np.isnan(values).all():
        values = np.full(len(values), np.datetime64("NaT"), dtype="datetime64[us]")
    if values.dtype.kind != "M":
        raise ValueError(f"column {name.rpartition(':')[0]!r} held dates in fit but not now; parse it the same way")
    missing = np.isnat(values)
    days = values.astype("datetime64[D]")
    months = values.astype("datetime64[M]")
    number = {
        "epoch": lambda: values.astype(np.int64) / 1e6,
        "month": lambda: months.astype(np.int64) % 12,
        "day": lambda: (days - months.astype("datetime64[D]")).astype(np.int64),
        "weekday": lambda: (days.astype(np.int64) + 3) % 7,
        "hour": lambda: (values - days).astype(np.int64) // 3_600_000_000,
    }[part]()
    return np.where(missing, np.nan, number.astype(np.float64))


def _varies(encoded: np.ndarray) -> bool:
    missing = np.isnan(encoded)
    present = encoded[~missing]
    return len(present) > 0 and (missing.any() or bool((present != present[0]).any()))


def _key(value: Any) -> Any:
    """What categories are compared by: numbers and truth values by value, the rest as text; None = missing."""
    if value is None:
        return None
    if isinstance(value, (int, np.integer)):  # equal to the float of the same value, and exact beyond 2^53
        return int(value)
    if _is_number(value):
        number = float(value)
        return None if number != number else number
    return value if isinstance(value, str) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number, np.bool_)) or hasattr(value, "as_tuple")


def _declared_categorical(spec: Any, columns: list[Column]) -> tuple[np.ndarray, bool]:
    """-> (bool[d] named by the caller, whether category dtypes count)."""
    d = len(columns)
    mask = np.zeros(d, dtype=bool)
    if spec is None:
        return mask, False
    if isinstance(spec, str):
        if spec != "from_dtype":
            raise ValueError(
                f"categorical_features is {spec!r}; allowed: 'from_dtype', None, a mask, positions, or a list of names"
            )
        return mask, True
    given = np.asarray(spec)
    if given.size == 0:
        return mask, False
    if given.ndim != 1:
        raise ValueError(f"categorical_features must be one-dimensional, got shape {given.shape}")
    if given.dtype.kind == "b":
        if len(given) != d:
            raise ValueError(f"categorical_features is a mask of length {len(given)}, but X has {d} columns")
        return given.astype(bool), False
    if given.dtype.kind in "iu":
        if given.min() < -d or given.max() >= d:
            raise ValueError(f"categorical_features holds position {given.max()}, but X has {d} columns (0 to {d - 1})")
        mask[given] = True
        return mask, False
    if given.dtype.kind in "UO" and all(isinstance(name, str) for name in given.tolist()):
        names = [column.name for column in columns]
        unknown = [name for name in given.tolist() if name not in names]
        if unknown:
            raise ValueError(f"categorical_features names {unknown[0]!r}, which is not a column. Columns: {names[:20]}")
        return np.isin(names, given.astype(str)), False
    raise ValueError(f"categorical_features must hold truth values, positions or names, not {given.dtype}")
