"""Scores of four ridge regressions as columns of the table.

A small network reads tables in which every column adds a little to the class (sports results, questionnaires, boards
of a game) far worse than a linear model does: it would have to weigh dozens of faint effects and add them exactly. And
it finds rules among noise columns worse than a kernel machine that stretches the columns it depends on, thresholds worse than
one that counts city blocks, and what two columns of many levels say together hardly ever. All four have closed forms, so their scores of a row become columns beside those of
the user, one per class the network tells apart and regression.
The network decides what to make of them, in context, as with any column.

A training row's scores come from folds it is not in (stacking: Wolpert 1992, "Stacked generalization", Neural Networks 5;
van der Laan, Polley and Hubbard 2007, "Super learner"), so they are as good as those of rows to predict, and no better.
Indicators of the classes are regressed (Hastie, Tibshirani and Friedman 2009, "The elements of statistical learning",
section 4.2), which needs no iterations and makes the score of merged classes the sum of theirs.
"""

from __future__ import annotations

import functools

import numpy as np

from .effects import Effects
from .folds import row_keys, spread_over_folds, stratified_part
from .kernel_ridge import CITY_BLOCK, FirstFit, KernelRidge
from .linear_ridge import LinearRidge
from .pair_ridge import PairRidge
from .threads import one_blas_thread

KINDS = ("linear", "kernel", "pairs", "blocks")
LEAST_ROWS = 50
"""With fewer training rows there are no scores: folds of a handful of rows are noise."""
FOLDS = 10
_CHUNK = 1024  # rows at a time


class RidgeScores:
    """Scores of the classes from regressions on all columns.

    Args:
      kinds: which of `KINDS`.
      seed: draws the folds, and what is kept of very large tables.

    Attributes (after `fit_transform`):
      kinds_: those that say something; none with fewer than `LEAST_ROWS` rows or one class.
    """

    def __init__(self, kinds: tuple[str, ...], seed: int) -> None:
        self.kinds = tuple(kind for kind in KINDS if kind in kinds)
        self.seed = seed

    @one_blas_thread()
    def fit_transform(
        self, x: np.ndarray, y: np.ndarray, cardinality: np.ndarray, wanted: np.ndarray | None = None
    ) -> np.ndarray:
        """Scores of training rows, each from the folds it is not in.

        Args:
          x: f32[n, F]; codes in categorical columns, NaN = missing.
          y: i64[n], classes 0 .. K-1.
          cardinality: i32[F], levels of a column, 0 for a numeric one.
          wanted: the rows whose scores are needed; those of rows that are neither wanted nor fitted to are 0. None: all.

        Returns:
          f32[n, kinds_, K]. Classes with a single row among those fitted to have 0.
        """
        self._parts: list[_Part] = []
        n, classes = len(y), int(y.max()) + 1
        found = []
        if n >= LEAST_ROWS and classes > 1:
            rows: dict[str, _Rows] = {}
            for kind in self.kinds:
                group = "kernel" if kind == "blocks" else kind  # these two have a first fit in common
                if group not in rows:
                    rows[group] = _Rows(group, x, y, cardinality, np.random.RandomState([self.seed, KINDS.index(group)]))
                part = _Part(kind)
                scores = part.fit_transform(x, rows[group], wanted)
                if scores is not None:
                    self._parts.append(part)
                    found.append(scores)
        self.kinds_ = tuple(part.kind for part in self._parts)
        return np.stack(found, axis=1) if found else np.zeros((n, 0, classes), np.float32)

    @one_blas_thread()
    def apply(self, x: np.ndarray) -> np.ndarray:
        """Scores f32[q, kinds_, K] of other rows f32[q, F], from all rows fitted to."""
        found = [part.apply(x) for part in self._parts]
        return np.stack(found, axis=1) if found else np.zeros((len(x), 0, 0), np.float32)

    @one_blas_thread()
    def shares(self, x: np.ndarray) -> np.ndarray:
        """How much of each kind's scores a row has from each column: f64[q, kinds_, F], sums 1."""
        return np.stack([part.shares(x) for part in self._parts], axis=1)


class _Rows:
    """Rows that regressions are fitted to, as numbers.

    Attributes:
      used: i64[m], which rows of the table they are.
      effects: what made numbers of them.
      d: f64[m, P].
      target: f64[m, K], indicators of the classes.
      fold: i64[m].
      possible: whether there is anything to learn.
    """

    def __init__(self, group: str, x: np.ndarray, y: np.ndarray, cardinality: np.ndarray, rng: np.random.RandomState) -> None:
        self._seed = int(rng.randint(2**31)) if group == "kernel" else 0
        keys = row_keys(x, rng)
        self.used = stratified_part(keys, y, _REGRESSIONS[group]().most_rows)
        self.effects = Effects(x[self.used], cardinality, rng)
        self.d = self.effects(x[self.used])
        counts = np.bincount(y[self.used], minlength=y.max() + 1)
        # A class with one row here is unknown to the folds without it and known to the others, which gives the row away.
        known = counts > 1
        self.possible = bool(self.d.any() and known.sum() > 1)
        self.target = (y[self.used, None] == np.where(known, np.arange(len(known)), -1)).astype(np.float64)
        self.fold = spread_over_folds(keys[self.used], y[self.used], FOLDS)

    @functools.cached_property
    def first(self) -> FirstFit:
        return FirstFit(self.d, self.target, self.fold, self._seed)


class _Part:
    """One regression with the rows it was fitted to."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._ridge = _REGRESSIONS[kind]()

    def fit_transform(self, x: np.ndarray, rows: _Rows, wanted: np.ndarray | None) -> np.ndarray | None:
        if not rows.possible:
            return None
        more = (rows.first,) if isinstance(self._ridge, KernelRidge) else ()
        scores = self._ridge.fit(rows.d, rows.target, rows.fold, *more)
        if not _says_something(scores, rows.target, rows.fold):
            return None
        self._effects = rows.effects
        self._scale = scores.std()  # all by the same number, so that sums of scores stay sums
        out = np.zeros((len(x), scores.shape[1]), np.float32)
        out[rows.used] = scores / self._scale
        rest = np.setdiff1d(np.arange(len(x)) if wanted is None else wanted, rows.used)
        if len(rest):
            out[rest] = self.apply(x[rest])
        return out

    def apply(self, x: np.ndarray) -> np.ndarray:
        found = [self._ridge.apply(self._effects(part)) / self._scale for part in _chunks(x)]
        return np.concatenate(found).astype(np.float32)

    def shares(self, x: np.ndarray) -> np.ndarray:
        found = [self._ridge.contributions(self._effects(part)) for part in _chunks(x)]
        moved = np.concatenate([self._effects.by_column(part, x.shape[1]) for part in found])
        sums = moved.sum(1, keepdims=True)
        return np.where(sums > 0, moved / np.where(sums > 0, sums, 1), 1 / x.shape[1])


_REGRESSIONS = {
    "linear": LinearRidge, "kernel": KernelRidge, "pairs": PairRidge, "blocks": functools.partial(KernelRidge, CITY_BLOCK),
}  # fmt: skip


def _chunks(x: np.ndarray) -> list[np.ndarray]:
    return [x[start : start + _CHUNK] for start in range(0, len(x), _CHUNK)]


def _says_something(scores: np.ndarray, target: np.ndarray, fold: np.ndarray) -> bool:
    """Whether scores f64[n, K] bring squared errors below those of the class shares of the other folds, by a standard
    error: the best of several penalties looks a little better by chance, and scores that only seem to say something
    mislead."""
    surprise = np.empty_like(target)
    for k in np.unique(fold):
        surprise[fold == k] = target[fold == k] - target[fold != k].mean(0)
    gain = (surprise**2 - (surprise - scores) ** 2).sum(1)
    return bool(gain.mean() > gain.std() / np.sqrt(len(gain)))


def scores_of_symbols(scores: np.ndarray, symbol: np.ndarray, n_symbols: int) -> np.ndarray:
    """Scores f32[n, kinds, K] of classes as columns f32[n, kinds * S] for a member that tells ``n_symbols`` apart
    (``symbol`` i64[K]).

    A symbol's score is the sum of those of its classes, which is what regressing its own indicator would give. Of two
    symbols only the second has a column: the first's is its negative.
    """
    if not scores.shape[1]:
        return np.zeros((len(scores), 0), np.float32)
    merged = np.stack([scores[..., symbol == s].sum(-1) for s in range(n_symbols)], axis=-1)
    kept = merged[..., 1:] if n_symbols == 2 else merged
    return kept.reshape(len(scores), kept.shape[1] * kept.shape[2]).astype(np.float32)
