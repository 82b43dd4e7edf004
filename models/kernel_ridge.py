"""Kernel ridge regression of class indicators with scores of rows left out: what rows that lie near a row say about it.

The kernel is that of Laplace, ``exp(-|x - z| / s)``. Columns that matter are stretched before distances are taken, by one
round of a recursive feature machine (Radhakrishnan et al. 2024, "Mechanism for feature learning in neural networks and
backpropagation-free machine learning models", Science 383; for tables Beaglehole et al. 2025, "xRFM", arXiv 2508.10053):
the weight of a column is the mean squared derivative of a first fit along it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

MOST_ROWS = 1_000
"""Training rows it is fitted to at most; time grows with their third power."""
PENALTIES = np.logspace(-3, 2, 11)
WIDTHS = (0.5, 1.0, 2.0, 4.0)  # of the kernel, in median distances
_WIDTH_ROWS = 500  # rows the width is chosen on
_SLOPE_ROWS = 300  # rows at which slopes are taken
_SLOPE_DIRECTIONS = 20  # and in the space of classes, where there are more, directions in which scores differ most
LEAST_WEIGHT = 1e-3  # of a column, in those of a column of mean importance


class KernelRidge:
    """Scores of K classes by the distances to training rows; width and penalty have the least left-out error.

    Args:
      seed: draws the rows that the width is chosen on and at which slopes are taken.
    """

    most_rows = MOST_ROWS

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fit(self, d: np.ndarray, target: np.ndarray, fold: np.ndarray) -> np.ndarray:
        """Scores of training rows f64[n, K], each from the folds it is not in; arguments as of `LinearRidge.fit`.

        Neither coefficients nor the importance of columns in a row's scores know its label. (Two numbers are chosen with
        all labels: width and penalty.)
        """
        rng = np.random.RandomState(self._seed)
        centred = target - target.mean(0)
        distances = _distances(d)
        some = rng.permutation(len(d))[:_WIDTH_ROWS]
        among = distances[np.ix_(some, some)]
        unit = _unit(among)
        left_out = {w: least_left_out(np.exp(-among / (w * unit)), centred[some], PENALTIES)[1] for w in WIDTHS}
        width = min(left_out, key=left_out.get)
        inverse, _, _ = least_left_out(np.exp(-distances / (width * unit)), centred, PENALTIES)
        stretch = _stretch(d, inverse @ centred, width * unit, rng)
        stretched = _distances(d * stretch)
        _, _, self.penalty = least_left_out(np.exp(-stretched / (width * _unit(stretched))), centred, PENALTIES)
        scores = np.zeros_like(target)
        for k in np.unique(fold):
            out = fold == k
            # Coefficients without the fold's rows, from the inverse with them.
            known = inverse @ (target - target[~out].mean(0))
            first = (known - inverse[:, out] @ np.linalg.solve(inverse[np.ix_(out, out)], known[out]))[~out]
            own = _stretch(d[~out], first, width * unit, rng)
            scores[out] = _Fit(d[~out], target[~out], own, width, self.penalty)(d[out])
        self._fit = _Fit(d, target, stretch, width, self.penalty)
        return scores

    def apply(self, d: np.ndarray) -> np.ndarray:
        """Scores f64[q, K] of other rows f64[q, P], from all training rows."""
        return self._fit(d)

    def contributions(self, d: np.ndarray) -> np.ndarray:
        """f64[q, P], how steeply a row's scores change along every effect, over all classes."""
        return self._fit.slopes(d)


class _Fit:
    """Kernel ridge on training rows d f64[n, P] whose effects are multiplied by ``stretch`` f64[P]."""

    def __init__(self, d, target, stretch, width, penalty) -> None:
        self._stretch, self._rows = stretch, d * stretch
        distances = _distances(self._rows)
        self._scale = width * _unit(distances)
        kernel = np.exp(-distances / self._scale)
        kernel[np.diag_indices_from(kernel)] += penalty
        self._coefficients = np.linalg.solve(kernel, target - target.mean(0))

    def __call__(self, d: np.ndarray) -> np.ndarray:
        """Scores f64[q, K] of rows f64[q, P]."""
        return np.exp(-_distances(d * self._stretch, self._rows) / self._scale) @ self._coefficients

    def slopes(self, d: np.ndarray) -> np.ndarray:
        """f64[q, P], absolute derivatives of the scores along the effects, summed over the classes."""
        found = _slopes(d * self._stretch, self._rows, self._coefficients, self._scale)
        return sum(np.abs(slope) for slope in found) * self._stretch


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


def _unit(distances: np.ndarray) -> float:
    """The median distance between two rows that are not the same."""
    between = distances[np.triu_indices(len(distances), 1)]
    if not between.any():  # without the rows of a fold nothing may be left that varies
        return 1.0
    return float(np.median(between[between > 1e-6 * between.max()]))


def least_left_out(kernel: np.ndarray, centred: np.ndarray, penalties: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Of ``penalties`` the one under which rows are predicted best without themselves.

    Args:
      kernel: f64[n, n], positive semidefinite.
      centred: f64[n, K], what is regressed.
      penalties: f64[.], above 0.

    Returns:
      ``(kernel + penalty)^-1`` f64[n, n], the sum of squared errors, the penalty.
    """
    values, vectors = np.linalg.eigh(kernel)
    values = np.maximum(values, 0.0)
    along, squares = vectors.T @ centred, vectors**2
    errors = []
    for penalty in penalties:
        inverse = 1 / (values + penalty)
        errors.append((((vectors * inverse) @ along / (squares @ inverse)[:, None]) ** 2).sum())
    best = int(np.argmin(errors))
    return (vectors / (values + penalties[best])) @ vectors.T, errors[best], penalties[best]
