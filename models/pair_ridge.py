"""Ridge regression of class indicators on all effects and all products of two, with scores of rows left out.

Products say what no single column does and hold for all rows alike (which two teams met, whether two squares of a board are
taken), where `KernelRidge` asks rows that lie near. They are never written down: the inner product of two rows in them is a
polynomial of that of their effects (Schölkopf and Smola 2002, "Learning with kernels", section 2.1), so time does not grow
with their number.
"""

from __future__ import annotations

import numpy as np

from .kernel_ridge import least_left_out

MOST_ROWS = 1_000
"""Training rows it is fitted to at most; time grows with their third power."""
PENALTIES = np.logspace(-4, 2, 13)  # in mean squared lengths of a row
PAIR_SCALE = 0.1
"""What inner products of two rows typically are, after scaling. The kernel being ``(1 + that)^2 - 1``, products of effects have
a twentieth of the weight of the effects themselves: rather one effect than many products. Chosen by left-out errors on the
development sets, with a script that was not kept."""


class PairRidge:
    """Scores of K classes by a weighted sum of effects and products of two, with the penalty of the least left-out error."""

    most_rows = MOST_ROWS

    def fit(self, d: np.ndarray, target: np.ndarray, fold: np.ndarray) -> np.ndarray:
        """Scores of training rows f64[n, K], each from the folds it is not in; arguments as of `LinearRidge.fit`.

        No score knows its label. (One number is chosen with all labels: the penalty.)
        """
        self._rows = d
        inner = d @ d.T
        self._unit = typical(inner)
        kernel = self._kernel(inner)
        centred, length = target - target.mean(0), np.trace(kernel) / len(d)
        inverse = least_left_out(kernel, centred, PENALTIES * length).inverse()
        self._coefficients = inverse @ centred
        known, ones = inverse @ target, inverse.sum(1)
        scores = np.zeros_like(target)
        for k in np.unique(fold):
            out = fold == k
            # What the other rows say about these, from the inverse with all of them: labels minus residuals.
            mean = target[~out].mean(0)
            residuals = np.linalg.solve(inverse[np.ix_(out, out)], known[out] - np.outer(ones[out], mean))
            scores[out] = target[out] - mean - residuals
        return scores

    def apply(self, d: np.ndarray) -> np.ndarray:
        """Scores f64[q, K] of other rows f64[q, P], from all training rows."""
        return self._kernel(d @ self._rows.T) @ self._coefficients

    def contributions(self, d: np.ndarray) -> np.ndarray:
        """f64[q, P], how steeply a row's scores change along every effect, over all classes."""
        steep = 2 * (1 + PAIR_SCALE * (d @ self._rows.T) / self._unit)
        return sum(np.abs((steep * c) @ self._rows) for c in self._coefficients.T) * (PAIR_SCALE / self._unit)

    def _kernel(self, inner: np.ndarray) -> np.ndarray:
        """Inner products of rows in all effects and their products, from those in effects."""
        return (1 + PAIR_SCALE * inner / self._unit) ** 2 - 1


def typical(inner: np.ndarray) -> float:
    """The root mean square of the inner products f64[n, n] of two different rows; 1 where all are 0."""
    n = len(inner)
    squares = (inner**2).sum() - (np.diag(inner) ** 2).sum()
    return float(np.sqrt(squares / (n * (n - 1)))) or 1.0
