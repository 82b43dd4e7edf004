"""Kernel ridge regression of class indicators with scores of rows left out: what rows that lie near a row say about it.

The kernel is that of Laplace, ``exp(-|x - z| / s)``. Columns that matter are stretched before distances are taken, by one
round of a recursive feature machine (Radhakrishnan et al. 2024, "Mechanism for feature learning in neural networks and
backpropagation-free machine learning models", Science 383; for tables Beaglehole et al. 2025, "xRFM", arXiv 2508.10053):
the weight of a column is the mean squared derivative of a first fit along it.

Distances are straight ones or those of city blocks, sums over columns. The latter make ``exp(-|x - z| / s)`` the share of random
partitions by cuts across single columns that leave two rows together (Balog et al. 2016, "The Mondrian kernel", UAI): what a
forest of infinitely many trees would see, which finds thresholds that straight distances blur.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve
from scipy.spatial.distance import cdist, squareform

MOST_ROWS = 1_000
"""Training rows it is fitted to at most; time grows with their third power."""
PENALTIES = np.logspace(-3, 2, 11)
WIDTHS = (0.5, 1.0, 2.0, 4.0)  # of the kernel, in median distances
_WIDTH_ROWS = 500  # rows the width is chosen on
_SLOPE_ROWS = 300  # rows at which slopes are taken
_SLOPE_DIRECTIONS = 20  # and in the space of classes, where there are more, directions in which scores differ most
LEAST_WEIGHT = 1e-3  # of a column, in those of a column of mean importance
MOST_AXES = 200
"""Effects of more than two values that blocks are counted along, those that matter most: time grows with their number."""


class FirstFit:
    """A fit with straight distances, and what it says each effect matters; metrics have it in common.

    Args:
      d, target, fold: as of `KernelRidge.fit`.
      seed: draws the rows that the width is chosen on and at which slopes are taken.

    Attributes:
      some: i64[.], rows that widths are chosen on.
      width: of the kernel, one of `WIDTHS`.
      stretch: f64[P], what to multiply effects with, by a fit to all rows.
      without: fold -> the same by a fit to the rows outside it, whose labels alone it knows.
    """

    def __init__(self, d: np.ndarray, target: np.ndarray, fold: np.ndarray, seed: int) -> None:
        rng = np.random.RandomState(seed)
        centred = target - target.mean(0)
        distances = _distances(d)
        self.some = rng.permutation(len(d))[:_WIDTH_ROWS]
        few = distances[np.ix_(self.some, self.some)]
        unit = _unit(few)
        self.width = _best_width(few, unit, centred[self.some])
        scale = self.width * unit
        inverse = least_left_out(np.exp(-distances / scale), centred, PENALTIES).inverse()
        self.stretch = _stretch(d, inverse @ centred, scale, rng)
        self.without: dict[int, np.ndarray] = {}
        for k in np.unique(fold):
            out = fold == k
            # Coefficients without the fold's rows, from the inverse with them.
            known = inverse @ (target - target[~out].mean(0))
            rest = (known - inverse[:, out] @ np.linalg.solve(inverse[np.ix_(out, out)], known[out]))[~out]
            self.without[k] = _stretch(d[~out], rest, scale, rng)


class KernelRidge:
    """Scores of K classes by the distances to training rows; width and penalty have the least left-out error.

    Args:
      metric: `STRAIGHT` or `CITY_BLOCK`, of the fit that gives the scores; what columns matter always comes from straight ones.
    """

    most_rows = MOST_ROWS

    def __init__(self, metric: Metric | None = None) -> None:
        self._metric = STRAIGHT if metric is None else metric

    def fit(self, d: np.ndarray, target: np.ndarray, fold: np.ndarray, first: FirstFit | None = None) -> np.ndarray:
        """Scores of training rows f64[n, K], each from the folds it is not in; other arguments as of `LinearRidge.fit`.

        Neither coefficients nor the importance of columns in a row's scores know its label. (Two numbers are chosen with
        all labels: width and penalty.)

        Args:
          first: made of these rows before; None makes one of seed 0.
        """
        first = FirstFit(d, target, fold, 0) if first is None else first
        centred = target - target.mean(0)
        apart = self._metric.distances(d * first.stretch)
        width = first.width
        if self._metric is CITY_BLOCK:  # another geometry, another width
            few = apart[np.ix_(first.some, first.some)]
            width = _best_width(few, _unit(few), centred[first.some])
        self.penalty = least_left_out(np.exp(-apart / (width * _unit(apart))), centred, PENALTIES).penalty
        scores = np.zeros_like(target)
        for k, stretch in first.without.items():
            out = fold == k
            scores[out] = _Fit(self._metric, d[~out], target[~out], stretch, width, self.penalty)(d[out])
        self._fit = _Fit(self._metric, d, target, first.stretch, width, self.penalty)
        return scores

    def apply(self, d: np.ndarray) -> np.ndarray:
        """Scores f64[q, K] of other rows f64[q, P], from all training rows."""
        return self._fit(d)

    def contributions(self, d: np.ndarray) -> np.ndarray:
        """f64[q, P], how steeply a row's scores change along every effect, over all classes."""
        return self._fit.slopes(d)


class _Fit:
    """Kernel ridge on training rows d f64[n, P] whose effects are multiplied by ``stretch`` f64[P]."""

    def __init__(self, metric, d, target, stretch, width, penalty) -> None:
        self._metric = metric
        self._stretch, self._rows = stretch, d * stretch
        distances = metric.distances(self._rows)
        self._scale = width * _unit(distances)
        kernel = np.exp(-distances / self._scale)
        kernel[np.diag_indices_from(kernel)] += penalty
        self._coefficients = solve(kernel, target - target.mean(0), assume_a="pos", overwrite_a=True, check_finite=False)

    def __call__(self, d: np.ndarray) -> np.ndarray:
        """Scores f64[q, K] of rows f64[q, P]."""
        return np.exp(-self._metric.distances(d * self._stretch, self._rows) / self._scale) @ self._coefficients

    def slopes(self, d: np.ndarray) -> np.ndarray:
        """f64[q, P], absolute derivatives of the scores along the effects, summed over the classes."""
        found = self._metric.slopes(d * self._stretch, self._rows, self._coefficients, self._scale)
        return sum(np.abs(slope) for slope in found) * self._stretch


def _best_width(distances: np.ndarray, unit: float, centred: np.ndarray) -> float:
    """Of `WIDTHS` the one under which rows, f64[n, n] apart, are predicted best without themselves."""
    left_out = {w: least_left_out(np.exp(-distances / (w * unit)), centred, PENALTIES).error for w in WIDTHS}
    return min(left_out, key=left_out.get)


def _stretch(d: np.ndarray, coefficients: np.ndarray, scale: float, rng: np.random.RandomState) -> np.ndarray:
    """f64[P], what to multiply the effects of rows d with, given a first fit to them."""
    some = rng.permutation(len(d))[:_SLOPE_ROWS]
    if coefficients.shape[1] > _SLOPE_DIRECTIONS:  # squares summed over classes are squares summed over directions
        left, sizes, _ = np.linalg.svd(coefficients, full_matrices=False)
        coefficients = (left * sizes)[:, :_SLOPE_DIRECTIONS]
    squares = sum((slope**2).mean(0) for slope in _slopes(d[some], d, coefficients, scale))
    return np.sqrt(squares / squares.mean() + LEAST_WEIGHT) if squares.any() else np.ones(d.shape[1])


def _slopes(at: np.ndarray, rows: np.ndarray, coefficients: np.ndarray, scale: float) -> Iterator[np.ndarray]:
    """For every column c of the coefficients f64[n, K] the derivatives f64[q, P] of ``sum over i of c_i
    exp(-|x - x_i| / scale)`` at rows ``at`` f64[q, P]."""
    r = np.maximum(_distances(at, rows) / scale, 1e-3)  # at a training row itself the kernel has no derivative
    steep = np.exp(-r) / (r * scale**2)
    for c in coefficients.T:
        pull = steep * c
        yield pull @ rows - pull.sum(1, keepdims=True) * at


def _distances(a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """f64[n, m] between the rows of a and b, or of a and a."""
    b = a if b is None else b
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0.0))


def _city_distances(a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """f64[n, m], sums of absolute differences over the effects, between the rows of a and b, or of a and a; b decides which
    effects have two values and which count."""
    b = a if b is None else b
    low, high = b.min(0), b.max(0)
    two = ((b == low) | (b == high)).all(0)
    gap = np.where(high > low, high - low, 1.0)[two]
    # Where there are two values a difference is its square over the gap, and squares are products of matrices.
    apart = _distances(a[:, two] / np.sqrt(gap), b[:, two] / np.sqrt(gap)) ** 2
    many = np.flatnonzero(~two)
    if len(many) > MOST_AXES:
        many = np.sort(many[np.argsort(-b[:, many].std(0), kind="stable")[:MOST_AXES]])
    return apart + cdist(a[:, many], b[:, many], "cityblock") if len(many) else apart


def _city_slopes(at: np.ndarray, rows: np.ndarray, coefficients: np.ndarray, scale: float) -> Iterator[np.ndarray]:
    """As `_slopes`, in city blocks."""
    near = np.exp(-_city_distances(at, rows) / scale) / scale
    for c in coefficients.T:
        pull = near * c
        yield np.stack([(pull * np.sign(rows[:, j] - at[:, j, None])).sum(1) for j in range(at.shape[1])], axis=1)


class Metric(NamedTuple):
    """How far rows are from one another.

    Attributes:
      distances: ``(f64[n, P], f64[m, P]) -> f64[n, m]``.
      slopes: for every column of coefficients the derivatives of the scores, see `_slopes`.
    """

    distances: Callable[..., np.ndarray]
    slopes: Callable[..., Iterator[np.ndarray]]


STRAIGHT = Metric(_distances, _slopes)
CITY_BLOCK = Metric(_city_distances, _city_slopes)


def _unit(distances: np.ndarray) -> float:
    """The median distance between two rows that are not the same."""
    between = squareform(distances, checks=False)
    if not between.any():  # without the rows of a fold nothing may be left that varies
        return 1.0
    return float(np.median(between[between > 1e-6 * between.max()]))


class LeftOut(NamedTuple):
    """What `least_left_out` finds.

    Attributes:
      error: the sum of squared errors of rows predicted without themselves.
      penalty: under which it is least.
      values, vectors: of the kernel, f64[n] and f64[n, n].
    """

    error: float
    penalty: float
    values: np.ndarray
    vectors: np.ndarray

    def inverse(self) -> np.ndarray:
        """``(kernel + penalty)^-1`` f64[n, n]."""
        return (self.vectors / (self.values + self.penalty)) @ self.vectors.T


def least_left_out(kernel: np.ndarray, centred: np.ndarray, penalties: np.ndarray) -> LeftOut:
    """Of ``penalties`` the one under which rows are predicted best without themselves.

    Args:
      kernel: f64[n, n], positive semidefinite.
      centred: f64[n, K], what is regressed.
      penalties: f64[.], above 0.
    """
    values, vectors = np.linalg.eigh(kernel)
    values = np.maximum(values, 0.0)
    along, squares = vectors.T @ centred, vectors**2
    inverses = 1 / (values + penalties[:, None])  # [penalties, n]
    leverages = squares @ inverses.T
    errors = [
        (((vectors @ (along * inverse[:, None])) / leverage[:, None]) ** 2).sum()
        for inverse, leverage in zip(inverses, leverages.T, strict=True)
    ]
    best = int(np.argmin(errors))
    return LeftOut(float(errors[best]), float(penalties[best]), values, vectors)
