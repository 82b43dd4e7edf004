"""Categories of many levels as one number each: what the rows of a level say about the class.

A network reads a category as the number of its level, which tells it little where a column has dozens of them (cities,
teams, products): rows of one level must then be found among all by attention alone. Target statistics put the answer into
the cell, as CatBoost does (Prokhorenkova et al. 2018, arXiv 1706.09516, section 3). Here scikit-learn's `TargetEncoder`
makes them: shrunk towards the class shares (Micci-Barreca 2001), and for training rows from the other folds, so that no row's
own label stands in its cell.

More than two classes give a level several shares; they are reduced to the one direction in which levels differ most, the
first principal component of the shares weighted by rows (Wright and König 2019, PeerJ 7:e6339, section "PCA ordering").
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.preprocessing import TargetEncoder

ENCODINGS = ("codes", "target")
MANY_LEVELS = 10
"""From so many levels on a column counts: below, levels are few enough to be learned one by one, and target statistics hide
what levels of several columns do together (on development sets they did harm there, see docs/training.md)."""
LEAST_ROWS = 50
"""With fewer training rows nothing is encoded: five folds of a handful of rows are noise."""
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

    def fit_transform(self, x: np.ndarray, y: np.ndarray, categorical: np.ndarray) -> np.ndarray:
        """Training rows, every one encoded from the folds it is not in.

        Args:
          x: f32[n, F]; level codes in categorical columns, NaN = missing (stays NaN).
          y: i64[n], classes 0 .. K-1, all present.
          categorical: bool[F], columns that hold categories.

        Returns:
          f32[n, F]; ``x`` itself where there is nothing to encode.
        """
        classes = int(y.max()) + 1
        enough = self.kind == "target" and classes > 1 and len(y) >= LEAST_ROWS
        many = [enough and is_category and _n_levels(x[:, j]) >= MANY_LEVELS for j, is_category in enumerate(categorical)]
        self.columns_ = np.flatnonzero(many)
        if not len(self.columns_):
            return x
        levels = self._levels(x)
        self._inner = TargetEncoder(
            target_type="binary" if classes == 2 else "multiclass", cv=_FOLDS, random_state=self.seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # classes with fewer rows than folds: their share is estimated from fewer
            values = self._inner.fit_transform(levels, y)
        shares = 1 if classes == 2 else classes
        self._directions = [
            _direction(np.stack(self._inner.encodings_[j * shares : (j + 1) * shares], axis=1), found, levels[:, j])
            for j, found in enumerate(self._inner.categories_)
        ]
        return self._replaced(x, values)

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Other rows f32[n, F], encoded from all training rows. A level not seen there is NaN in x already, and stays so."""
        return self._replaced(x, self._inner.transform(self._levels(x))) if len(self.columns_) else x

    def still_categories(self, categorical: np.ndarray) -> np.ndarray:
        """bool[F], which columns hold categories after encoding."""
        return categorical & ~np.isin(np.arange(len(categorical)), self.columns_)

    def _levels(self, x: np.ndarray) -> np.ndarray:
        return np.nan_to_num(x[:, self.columns_], nan=-1.0).astype(np.int64)

    def _replaced(self, x: np.ndarray, values: np.ndarray) -> np.ndarray:
        """x with every column of many levels replaced by its projected shares f64[n, m * shares]."""
        out = x.copy()
        values = values.reshape(len(x), len(self.columns_), -1)
        for j, (column, direction) in enumerate(zip(self.columns_, self._directions, strict=True)):
            out[:, column] = np.where(np.isnan(x[:, column]), np.nan, values[:, j] @ direction)
        return out


def _n_levels(codes: np.ndarray) -> int:
    return len(np.unique(codes[~np.isnan(codes)]))


def _direction(shares: np.ndarray, found: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """f64[K], the direction in which levels differ most. shares f64[levels, K] of the levels ``found``."""
    if shares.shape[1] == 1:
        return np.ones(1)
    rows = np.array([(levels == level).sum() for level in found], dtype=np.float64)
    centred = shares - np.average(shares, axis=0, weights=rows)
    direction = np.linalg.svd(np.sqrt(rows)[:, None] * centred, full_matrices=False)[2][0]
    return direction * np.sign(direction[np.argmax(np.abs(direction))])
