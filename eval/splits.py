"""Cuts data sets down and splits them, as a protocol says. Everything follows from the seed and the data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit, train_test_split

from ..configs.errors import DataError
from ..configs.eval import Protocol
from .suites import DataSet, Split


def apply_protocol(data: DataSet, protocol: Protocol, seed: int = 0) -> tuple[DataSet, list[Split], str]:
    """The data set as evaluated, its splits, and a note on anything the reader should know ("" if nothing).

    Subsets of columns and rows are drawn as in the nanoTabPFN speedrun (arXiv 2606.03681, its evaluation script):
    columns by NumPy's default generator, rows by scikit-learn's stratified ``train_test_split``.

    Raises:
      DataError: the data set cannot be evaluated under this protocol; the message is the reason for skipping it.
    """
    seed = seed if protocol.seed is None else protocol.seed
    notes = []
    if protocol.max_classes is not None and len(data.classes) > protocol.max_classes:
        raise DataError(f"{len(data.classes)} classes, the protocol takes at most {protocol.max_classes}")
    if protocol.max_columns is not None and data.X.shape[1] > protocol.max_columns:
        notes.append(f"{protocol.max_columns} random of {data.X.shape[1]} columns")
        rng = np.random.default_rng(seed)
        data = data.take_columns(rng.choice(data.X.shape[1], size=protocol.max_columns, replace=False))
    if protocol.max_rows is not None and len(data.y) > protocol.max_rows:
        notes.append(f"{protocol.max_rows} stratified of {len(data.y)} rows")
        data = data.take_rows(_subset(data.y, protocol.max_rows, seed))
    splits = _splits(data, protocol, seed, notes)
    if protocol.first_only:
        splits = splits[:1]
    if protocol.max_train is not None:
        splits = [_cut(split, data.y, protocol.max_train, seed) for split in splits]
    if protocol.shots:
        splits = [few for split in splits for few in few_shot(split, data.y, protocol.shots, seed)]
        if not splits:
            raise DataError(f"fewer than {protocol.shots[0]} training rows, the smallest size of the protocol")
        largest = max(split.shots for split in splits)
        if largest < protocol.shots[-1]:
            notes.append(f"sizes up to {largest} of {protocol.shots[-1]} training rows")
    return data, splits, "; ".join(notes)


def _splits(data: DataSet, protocol: Protocol, seed: int, notes: list[str]) -> list[Split]:
    if protocol.splits == "official" and data.splits is not None:
        return [split for split in data.splits if split.repeat < protocol.repeats]
    rows = np.zeros(len(data.y))
    counts = np.bincount(data.y)
    if protocol.splits == "halves":
        if counts.min() < 2:
            raise DataError(f'class "{data.classes[int(counts.argmin())]}" has one row: no stratified halves')
        halves = StratifiedShuffleSplit(protocol.folds, test_size=0.5, random_state=seed).split(rows, data.y)
        return [Split(0, k, np.sort(train), np.sort(test)) for k, (train, test) in enumerate(halves)]
    if protocol.splits == "holdout":
        return [_holdout(data.y, k, protocol.max_test, seed) for k in range(protocol.folds)]
    if protocol.splits == "official":
        notes.append("no official splits: stratified k-fold instead")
    repeats = 1 if protocol.splits == "official" else protocol.repeats
    if counts.max() < protocol.folds:
        raise DataError(f"no class has {protocol.folds} rows: no stratified {protocol.folds}-fold split")
    if counts.min() < protocol.folds:
        notes.append(f"rarest class has {counts.min()} rows: some folds lack it")
    out = []
    for repeat in range(repeats):
        folds = StratifiedKFold(protocol.folds, shuffle=True, random_state=seed + repeat)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class")  # noted above
            out += [Split(repeat, k, train, test) for k, (train, test) in enumerate(folds.split(rows, data.y))]
    return out


def few_shot(split: Split, y: np.ndarray, sizes: Sequence[int], seed: int) -> list[Split]:
    """The split with fewer training rows, once for every size it has rows for.

    The rows of a size are among the rows of every larger one. They are stratified: one random row of every class first,
    common classes before rare ones, then the others so that every prefix has about the shares of the whole. Sizes below
    the number of classes therefore lack the rarest classes.
    """
    rng = np.random.default_rng([seed, split.repeat, split.fold, 0x5407])
    rows = split.train[rng.permutation(len(split.train))]
    labels = y[rows]
    classes, counts = np.unique(labels, return_counts=True)
    place = np.empty(len(rows))
    for c, count in zip(classes, counts, strict=True):
        of_class = np.flatnonzero(labels == c)
        place[of_class] = (np.arange(count) + rng.random()) / count  # evenly spread over the order
        place[of_class[0]] = -float(count)  # the first of a class comes before all that are not the first of theirs
    order = np.argsort(place, kind="stable")
    return [
        Split(split.repeat, split.fold, np.sort(rows[order[:size]]), split.test, shots=size)
        for size in sizes
        if size <= len(rows)
    ]


def _holdout(y: np.ndarray, fold: int, max_test: int | None, seed: int) -> Split:
    size = len(y) // 3 if max_test is None else min(len(y) // 3, max_test)
    test = np.zeros(len(y), dtype=bool)
    test[_subset(y, size, seed + 7919 * fold, keep_single=False)] = True
    return Split(0, fold, np.flatnonzero(~test), np.flatnonzero(test))


def _subset(y: np.ndarray, size: int, seed: int, keep_single: bool = True) -> np.ndarray:
    """Stratified rows; the row of a class that has only one cannot be stratified: it is always kept, or never."""
    counts = np.bincount(y)
    single = np.flatnonzero(counts[y] < 2) if keep_single else np.zeros(0, dtype=np.int64)
    rest = np.flatnonzero(counts[y] >= 2)
    classes = np.count_nonzero(counts >= 2)
    if size - len(single) < classes or len(y) - size < classes:
        return np.random.default_rng(seed).choice(len(y), size=size, replace=False)
    _, rows = train_test_split(rest, test_size=size - len(single), stratify=y[rest], random_state=seed)
    return np.concatenate([rows, single]) if len(single) else rows


def _cut(split: Split, y: np.ndarray, size: int, seed: int) -> Split:
    if len(split.train) <= size:
        return split
    keep = _subset(y[split.train], size, seed + 7919 * split.repeat + split.fold)
    return Split(split.repeat, split.fold, np.sort(split.train[keep]), split.test)
