"""Rows of a table as numbers of one scale, for methods that add effects up or measure distances."""

from __future__ import annotations

import numpy as np

MOST_EFFECTS = 1_000
"""Numbers a row becomes at most; of more a random part is kept. Time grows with their third power."""
MOST_LEVELS = 100
"""Levels of one column that get an indicator, the most frequent; the others share none."""
WINSORISED = 0.01  # share of a numeric column at either end that is pulled in: sums and distances are at the mercy of outliers


class Effects:
    """Learns from training rows how rows become f64[n, P], every column with mean 0 over those rows.

    Numbers are winsorised and standardised, a missing one counts as the mean and has an indicator of its own; levels of
    categories that occur twice have an indicator each.

    Args:
      x: f32[n, F] training rows; codes in categorical columns, NaN = missing.
      cardinality: i32[F], levels of a column, 0 for a numeric one.
      rng: draws what is kept of more than `MOST_EFFECTS`.

    Attributes:
      column: i64[P], the column of the table each effect belongs to.
    """

    def __init__(self, x: np.ndarray, cardinality: np.ndarray, rng: np.random.RandomState) -> None:
        self._numeric = np.flatnonzero(cardinality == 0)
        numbers = x[:, self._numeric].astype(np.float64)
        missing = np.isnan(numbers)
        self._gaps = np.flatnonzero(missing.any(0) & ~missing.all(0))
        # Columns that are always missing in these rows have no quantiles; they become zeros.
        filled = np.where(missing.all(0), 0.0, numbers)
        ends = [0.0, WINSORISED, 1 - WINSORISED, 1.0]
        least, low, high, most = np.nanquantile(filled, ends, axis=0) if filled.size else np.zeros((4, 0))
        rare = low == high  # nearly all rows have one value: the others are what the column says
        self._low, self._high = np.where(rare, least, low), np.where(rare, most, high)
        numbers = np.clip(filled, self._low, self._high)
        self._center, spread = (f(numbers, axis=0) if filled.size else np.zeros(0) for f in (np.nanmean, np.nanstd))
        self._scale = np.where(spread > 0, spread, 1.0)
        levels = [(j, _levels(x[:, j])) for j in np.flatnonzero(cardinality)]
        column = np.concatenate([
            self._numeric, self._numeric[self._gaps], *[np.full(len(codes), j) for j, codes in levels],
        ]).astype(np.int64)  # fmt: skip
        kept = np.ones(len(column), bool)
        if len(column) > MOST_EFFECTS:
            kept[:] = False
            kept[rng.choice(len(column), MOST_EFFECTS, replace=False)] = True
        ends = np.cumsum([len(self._numeric), len(self._gaps), *[len(codes) for _, codes in levels]])[:-1]
        self._numbers_kept, gaps_kept, *levels_kept = np.split(kept, ends)
        self._gaps = self._gaps[gaps_kept]
        self._levels = [(j, codes[part]) for (j, codes), part in zip(levels, levels_kept, strict=True)]
        self.column = column[kept]
        self._mean = np.zeros(len(self.column))
        self._mean = self(x).mean(0)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """f64[n, P] of rows f32[n, F]."""
        numbers = x[:, self._numeric].astype(np.float64)
        missing = np.isnan(numbers)
        z = (np.clip(np.where(missing, self._center, numbers), self._low, self._high) - self._center) / self._scale
        parts = [z[:, self._numbers_kept], missing[:, self._gaps]]
        parts += [x[:, j, None] == levels for j, levels in self._levels]
        out = np.concatenate([part.astype(np.float64) for part in parts], axis=1)
        out -= self._mean
        return out

    def by_column(self, amounts: np.ndarray, columns: int) -> np.ndarray:
        """Sums f64[n, columns] over the effects of each column of the table, of amounts f64[n, P]."""
        return amounts @ (self.column[:, None] == np.arange(columns)).astype(np.float64)


def _levels(codes: np.ndarray) -> np.ndarray:
    """The codes f32[levels] that have an indicator."""
    levels, rows = np.unique(codes[~np.isnan(codes)], return_counts=True)
    order = np.argsort(-rows, kind="stable")[:MOST_LEVELS]
    return levels[order][rows[order] > 1]
