"""What the ridge scores say by themselves, as class probabilities, and how they join the network's.

A network of a fraction of a million parameters has been shown few tables of many classes with scores of several regressions
beside them, and reads off them less than a logistic regression does (stacking: Wolpert 1992, "Stacked generalization", Neural
Networks 5, 241-259), above all where classes are many. Where they are few it knows better. So both answer, and the answer is
their logarithmic opinion pool (Genest and Zidek 1986, "Combining probability distributions: a critique and an annotated
bibliography", Statistical Science 1, section 3): the logarithms are averaged. Its error is never above the mean of the two
(Heskes 1998, "Selecting weighting factors in logarithmic opinion pools", NIPS 10).
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from .folds import row_keys, stratified_part
from .threads import one_blas_thread

WEIGHT = 0.25
"""Of the logistic regression in the pool; the network has the rest. Between what is best on held-out synthetic tasks, 0.15, and
on the development sets, 0.4: docs/estimator.md."""
MOST_ROWS = 2_000
"""Rows it is fitted to at most; a few dozen coefficients need no more."""
_FLOOR = 1e-7  # of probabilities, so that neither side can veto a class
_MOST_STEPS = 200


class ScoreStack:
    """Multinomial logistic regression of the class on the ridge scores of training rows, each from folds it is not in."""

    @one_blas_thread()
    def fit(self, scores: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.RandomState) -> ScoreStack:
        """Fits it to the rows given, or to a stratified part of them in which every class has a row.

        Args:
          scores: f32[n, kinds, K], see `priorax.models.ridge_scores.RidgeScores.fit_transform`.
          x: f32[n, F], the same rows; they only decide which are drawn, so that their order does not.
          y: i64[n], classes 0 .. K-1, two of them at least.
          rng: draws rows.
        """
        keys = row_keys(x, rng)
        rows = stratified_part(keys, y, MOST_ROWS)
        for rare in np.setdiff1d(y, y[rows]):  # its share was less than a row
            own = np.flatnonzero(y == rare)
            rows = np.append(rows, own[np.argmin(keys[own])])
        inputs = _inputs(scores[rows])
        spread = inputs.std(0)
        self._center, self._scale = inputs.mean(0), np.where(spread > 0, spread, 1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # what more steps would add is far below what data can tell
            found = LogisticRegression(max_iter=_MOST_STEPS).fit((inputs - self._center) / self._scale, y[rows])
        self._classes, self._coefficients, self._intercept = found.classes_, found.coef_, found.intercept_
        return self

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """f64[q, K] for rows of scores f32[q, kinds, K]; a class without a row among those fitted to has 0."""
        # Not by a product of matrices, whose sums may depend on how many rows there are: a row's answer is its own.
        z = np.einsum("nj,kj->nk", (_inputs(scores) - self._center) / self._scale, self._coefficients) + self._intercept
        if z.shape[1] == 1:  # of two classes there is one equation
            z = np.concatenate([np.zeros_like(z), z], axis=1)
        out = np.zeros((len(scores), scores.shape[2]))
        out[:, self._classes] = softmax(z, axis=1)
        return out


def pool(p: np.ndarray, q: np.ndarray, weight: float) -> np.ndarray:
    """f64[n, K], proportional to ``p^(1 - weight) q^weight``, of probabilities f64[n, K]."""
    logs = (1 - weight) * np.log(np.maximum(p, _FLOOR)) + weight * np.log(np.maximum(q, _FLOOR))
    return np.exp(log_softmax(logs, axis=1))


def _inputs(scores: np.ndarray) -> np.ndarray:
    """f64[n, columns]; of two classes only the second, whose scores are the first's with the sign turned."""
    kept = scores[:, :, 1:] if scores.shape[2] == 2 else scores
    return kept.reshape(len(scores), -1).astype(np.float64)
