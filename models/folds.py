"""Cuts training rows into folds by what the rows hold, so that their order in the table changes nothing."""

from __future__ import annotations

import numpy as np


def row_keys(x: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """u64[n], a number for every row f32[n, F]: a random linear hash of the ranks of its values.

    Neither the order of rows nor shift and (positive) scale of a column changes it (NaN has the last rank). Sorting by it is drawing
    an order of rows; rows of equal keys hold the same values and are interchangeable.
    """
    key = np.zeros(len(x), np.uint64)
    for column in x.T:
        factor = np.uint64(rng.randint(2**31) * 2**32 + rng.randint(2**31) * 2 + 1)
        rank = np.unique(column, return_inverse=True)[1].astype(np.uint64)
        key += (rank + np.uint64(1)) * factor  # modulo 2^64
    return key


def copy_keys(x: np.ndarray, y: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """u64[n], `row_keys` of rows with their classes, where rows that hold the same have different keys too.

    Without that, a draw of the smallest keys would take all copies of one row and none of another. Which of the copies
    gets which key depends on their order, but they are interchangeable.
    """
    keys = row_keys(np.column_stack([x, y]), rng)
    order = np.argsort(keys, kind="stable")
    ranks = np.arange(len(keys))
    first = np.r_[True, keys[order][1:] != keys[order][:-1]]
    copy = np.empty(len(keys), np.uint64)
    copy[order] = ranks - np.maximum.accumulate(np.where(first, ranks, 0))
    return _mixed(_mixed(keys) + copy)


def drawn_again(keys: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """u64[n], other keys for the same rows: another draw."""
    return _mixed(keys ^ np.uint64(rng.randint(2**31) * 2**32 + rng.randint(2**31)))


def _mixed(keys: np.ndarray) -> np.ndarray:
    """A one-to-one map of u64 that leaves no order (the last steps of SplitMix64; Steele, Lea and Flood 2014)."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def spread_over_folds(keys: np.ndarray, y: np.ndarray, folds: int) -> np.ndarray:
    """i64[n], folds 0 .. folds - 1: the rows of every class, in the order of their keys, dealt out evenly.

    Args:
      keys: u64[n], see `row_keys`.
      y: i64[n], classes.
      folds: how many.
    """
    fold = np.empty(len(y), dtype=np.int64)
    fold[np.lexsort([keys, y])] = np.arange(len(y)) % folds
    return fold


def stratified_part(keys: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Row numbers i64[size], in the order of their keys: of every class its share, to a row. All rows where there are no more."""
    n = len(y)
    if n <= size:
        return np.lexsort([y, keys])
    place = np.empty(n, dtype=np.int64)
    place[np.lexsort([keys, y])] = np.arange(n)
    rows = np.flatnonzero((place + 1) * size // n > place * size // n)
    return rows[np.lexsort([y[rows], keys[rows]])]
