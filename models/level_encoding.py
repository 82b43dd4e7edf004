"""Categories of many levels as one number each: what the rows of a level say about the class.

A network reads a category as the number of its level, which tells it little where a column has dozens of them (cities,
teams, products): rows of one level must then be found among all by attention alone. Target statistics put the answer into
the cell, as CatBoost does (Prokhorenkova et al. 2018, arXiv 1706.09516, section 3): class shares of a level, shrunk towards
those of the table as if `SHRINKAGE` more rows had them, and for training rows taken from the other folds, so that the shares in
a row's cell do not know its label.

More than two classes give a level several shares; they are reduced to the one direction in which levels differ most, the
first principal component of the shares weighted by rows (Wright and König 2019, PeerJ 7:e6339, section "PCA ordering").

scikit-learn's `TargetEncoder` is not used: what it draws its folds from changes between the versions we allow, it refuses
tables whose classes all have fewer rows than folds, and its answer depends on scikit-learn's global settings.
"""

from __future__ import annotations

import numpy as np

from .folds import row_keys, spread_over_folds

ENCODINGS = ("codes", "target")
MANY_LEVELS = 10
"""From so many levels on a column counts: below, levels are few enough to be learned one by one, and target statistics hide
what levels of several columns do together (tic-tac-toe and car lose by them, see docs/estimator.md)."""
ROWS_PER_LEVEL = 3
"""A column with fewer rows per level in the mean stays as it is: the other folds then know next to nothing of a level, and
identifiers, one row each, would look as if they told the class."""
LEAST_ROWS = 50
"""With fewer training rows nothing is encoded: five folds of a handful of rows are noise."""
SHRINKAGE = 5.0
_FOLDS = 5


class LevelEncoding:
    """Replaces columns of many levels by target statistics; all other columns stay as they are.

    Args:
      kind: ``codes`` changes nothing, ``target`` does what this class is for.
      seed: draws the folds.

    Attributes (after `fit_transform`):
      columns_: i64[m], positions of the encoded columns; empty where nothing is to be done.
    """

    def __init__(self, kind: str, seed: int) -> None:
        self.kind = kind
        self.seed = seed

    def fit_transform(self, x: np.ndarray, y: np.ndarray, cardinality: np.ndarray) -> np.ndarray:
        """Training rows, every one encoded from the folds it is not in.

        Args:
          x: f32[n, F]; codes 0 .. cardinality - 1 in categorical columns, NaN = missing (stays NaN).
          y: i64[n], classes 0 .. K-1.
          cardinality: i32[F], levels of a column, 0 for a numeric one.

        Returns:
          f32[n, F]; ``x`` itself where there is nothing to encode.
        """
        enough = self.kind == "target" and y.max() > 0 and len(y) >= LEAST_ROWS
        self.columns_ = np.flatnonzero([enough and _has_many(x[:, j], k) for j, k in enumerate(cardinality)])
        self._tables: list[np.ndarray] = []
        if not len(self.columns_):
            return x
        fold = spread_over_folds(row_keys(x, np.random.RandomState(self.seed)), y, _FOLDS)
        out = x.copy()
        for column in self.columns_:
            inside, outside = _statistics(x[:, column], y, fold, int(cardinality[column]))
            out[:, column] = _look_up(inside, x[:, column], fold)
            self._tables.append(outside)
        return out

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Other rows f32[n, F], encoded from all training rows. A level without a training row has the table's shares."""
        if not len(self.columns_):
            return x
        out = x.copy()
        for column, table in zip(self.columns_, self._tables, strict=True):
            out[:, column] = _look_up(table, x[:, column])
        return out

    def still_categories(self, categorical: np.ndarray) -> np.ndarray:
        """bool[F], which columns hold categories after encoding."""
        return categorical & ~np.isin(np.arange(len(categorical)), self.columns_)


def _has_many(codes: np.ndarray, cardinality: int) -> bool:
    if cardinality < MANY_LEVELS:
        return False
    present = codes[~np.isnan(codes)]
    return MANY_LEVELS <= len(np.unique(present)) <= len(present) / ROWS_PER_LEVEL


def _statistics(codes: np.ndarray, y: np.ndarray, fold: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """What a level says: f64[folds, levels] from the rows of all other folds, f64[levels] from all rows."""
    classes = int(y.max()) + 1
    present = ~np.isnan(codes)
    place = (fold[present] * levels + codes[present].astype(np.int64)) * classes + y[present]
    counts = np.bincount(place, minlength=_FOLDS * levels * classes).reshape(_FOLDS, levels, classes)
    rows = np.bincount(fold * classes + y, minlength=_FOLDS * classes).reshape(_FOLDS, 1, classes)
    outside = _shares(counts.sum(0), rows.sum(0))
    inside = _shares(counts.sum(0) - counts, rows.sum(0) - rows)
    direction = _direction(outside, counts.sum((0, 2)))
    return inside @ direction, outside @ direction


def _shares(counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Shares of the classes [..., levels, K] from their rows, shrunk towards those of ``rows`` [..., 1, K]."""
    common = rows / rows.sum(-1, keepdims=True)
    return (counts + SHRINKAGE * common) / (counts.sum(-1, keepdims=True) + SHRINKAGE)


def _direction(shares: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """f64[K], the direction in which levels differ most. shares f64[levels, K] of levels with so many rows."""
    if shares.shape[1] == 2:
        return np.array([0.0, 1.0])
    centred = shares - np.average(shares, axis=0, weights=rows)
    direction = np.linalg.svd(np.sqrt(rows)[:, None] * centred, full_matrices=False)[2][0]
    return direction * np.sign(direction[np.argmax(np.abs(direction))])


def _look_up(table: np.ndarray, codes: np.ndarray, fold: np.ndarray | None = None) -> np.ndarray:
    """f64[n]: the entries of ``table`` [levels], or [folds, levels] with a fold for every row, for codes f32[n]; NaN for NaN.

    Entries are picked one by one: levels may be a third as many as rows, and a table for every row would fill the memory.
    """
    missing = np.isnan(codes)
    level = np.where(missing, 0, codes).astype(np.int64)
    return np.where(missing, np.nan, table[level] if fold is None else table[fold, level])
