"""Ridge regression of class indicators with scores of rows left out: what columns say when their effects are added up.

scikit-learn's `RidgeCV` gives the left-out error but not left-out scores, and `cross_val_predict` around it decomposes
every fold anew; hence these few lines of algebra. Tests compare them with it.
"""

from __future__ import annotations

import numpy as np

MOST_ROWS = 10_000
"""Training rows it is fitted to at most; they fix a few hundred effects well."""
PENALTIES = np.logspace(-4, 3, 15)  # per row


class LinearRidge:
    """Scores of K classes by a weighted sum of effects, with the penalty of the least left-out error.

    Scores have no intercept: that of the other folds would be their class shares, which know a little of the row's label.
    """

    most_rows = MOST_ROWS

    def fit(self, d: np.ndarray, target: np.ndarray, fold: np.ndarray) -> np.ndarray:
        """Scores of training rows, each from the folds it is not in.

        Args:
          d: f64[n, P], columns of mean 0, not all of them 0.
          target: f64[n, K], indicators of the classes.
          fold: i64[n].

        Returns:
          f64[n, K].
        """
        n, back = len(d), None
        if d.shape[1] > n:  # rows span at most n directions; in their coordinates nothing else changes
            values, vectors = _directions(d @ d.T)
            back = d.T @ (vectors / np.sqrt(values))
            d = vectors * np.sqrt(values)
        centred = target - target.mean(0)
        gram = d.T @ d
        values, vectors = _directions(gram)
        basis = d @ vectors / np.sqrt(values)  # [n, rank], orthonormal
        along = basis.T @ centred
        errors = _left_out(basis, along, centred, [penalty * n / (values + penalty * n) for penalty in PENALTIES])
        penalty = PENALTIES[np.argmin(errors)] * n
        scores = np.zeros_like(target)
        for k in np.unique(fold):
            out = fold == k
            left, rest = d[out], d[~out]
            mean, rows = rest.mean(0), len(rest)
            within = gram - left.T @ left - rows * np.outer(mean, mean)
            within[np.diag_indices_from(within)] += penalty
            scores[out] = left @ np.linalg.solve(within, (rest - mean).T @ target[~out])
        weights = vectors @ (along * (np.sqrt(values) / (values + penalty))[:, None])
        self.weights = weights if back is None else back @ weights
        return scores

    def apply(self, d: np.ndarray) -> np.ndarray:
        """Scores f64[q, K] of other rows f64[q, P], from all training rows."""
        return d @ self.weights

    def contributions(self, d: np.ndarray) -> np.ndarray:
        """f64[q, P], what every effect added to or took from a row's scores, over all classes."""
        return np.abs(d) * np.abs(self.weights).sum(1)


def _directions(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues f64[r] above rounding, and their eigenvectors f64[., r]."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * 1e-12
    return values[kept], vectors[:, kept]


def _left_out(basis: np.ndarray, along: np.ndarray, centred: np.ndarray, shrinkages: list[np.ndarray]) -> list[float]:
    """Sums of squared errors of rows predicted without themselves: the ridge's closed form (Golub, Heath and Wahba 1979,
    Technometrics 21, "Generalized cross-validation", section 1).

    Residuals and 1 - leverage are built from what the ridge takes away in each direction (``shrinkages``, f64[r] from 0 to 1)
    and never as differences from nearly the same number: with more columns than rows both are almost 0.
    """
    beyond, squares = centred - basis @ along, basis**2
    outside = np.maximum(1 - 1 / len(basis) - squares.sum(1), 0.0)
    errors = []
    for shrinkage in shrinkages:
        residual = beyond + basis @ (along * shrinkage[:, None])
        errors.append(float(((residual / (outside + squares @ shrinkage)[:, None]) ** 2).sum()))
    return errors
