"""Shapley values of a prediction, estimated by the package ``shap``.

Its tools mask columns of numbers. A table of anything becomes one here: every value is replaced by its number among
those that occur in its column, so text, dates and missing values are numbers like any other, and a date that is five
encoded columns inside stays one player. The function that is explained turns the numbers back into encoded rows; the
table is encoded once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from ..configs.errors import require
from .estimator import PFNClassifier
from .explain import prepare
from .tables import read_table


def shap_values(
    model: PFNClassifier, X: Any, *, background: Any = 32, max_evals: int | str = "auto", random_state: Any = 0
) -> Any:
    """How much each column moved the class probabilities of each row of X: Shapley values, by the package ``shap``.

    A column that is masked takes its values from the background rows, and the probabilities are averaged over them
    (``shap.maskers.Independent``). The values are estimated from random orders of the columns, each read forward and
    backward (``shap.PermutationExplainer``): with two interacting columns at a time they are exact, otherwise they
    converge with ``max_evals``. Whatever ``max_evals`` is, base value and values of a row add up to its probability.

    A row costs ``max_evals`` times the background rows predictions (those that masking leaves unchanged are not
    repeated). The training rows are encoded once, where ``cache_context`` of the model allows it.

    Args:
      model: fitted.
      X: table of n rows, as for ``predict``.
      background: what masked columns are filled from: that many training rows, drawn at random (all where there are
        fewer), or a table of your own, as for ``predict``.
      max_evals: masks tried per row, at least ``2 * d + 1``; "auto" is ``10 * (2 * d + 1)``, ten random orders.
      random_state: draws background rows and orders of columns; a number gives the same values again.

    Returns:
      A ``shap.Explanation`` that shap's plots take, one class at a time (``found[:, :, "yes"]``):
      ``values`` f64[n, d, K], ``base_values`` f64[n, K], ``feature_names`` (d column names), ``output_names`` (K
      classes as text), ``display_data`` object[n, d] (the cells of X), ``data`` f64[n, d] (the same as numbers: numbers
      as they are, anything else as the model encodes it; NaN: missing, unknown, or a column that never varied).

    Raises:
      MissingError: the package shap is not installed.
      ValueError: ``max_evals`` or ``background`` is too small, or a table does not fit the model.
    """
    shap = require("shap", "explain", "explaining by Shapley values")
    x, names = prepare(model, X)
    least = 2 * len(names) + 1
    evals = 10 * least if isinstance(max_evals, str) and max_evals == "auto" else max_evals
    if isinstance(evals, bool) or not isinstance(evals, (int, np.integer)) or evals < least:
        raise ValueError(
            f'max_evals is {max_evals!r}; it must be "auto" or a whole number of at least {least} '
            f"(2 * {len(names)} columns + 1)"
        )
    rng = check_random_state(random_state)
    rows = _background(model, background, rng)
    coded = _CodedTable(np.concatenate([rows, x]), model._encoder.source_, len(names))
    with _numpy_state_kept():  # shap seeds NumPy's global generator and draws from it
        explainer = shap.PermutationExplainer(
            lambda codes: model._proba(coded.decode(codes)),
            shap.maskers.Independent(coded.codes[: len(rows)], max_samples=len(rows)),
            feature_names=list(names),
            seed=int(rng.randint(2**31 - 1)),
        )
        found = explainer(coded.codes[len(rows) :], max_evals=int(evals), silent=True)
    cells = read_table(X)
    sizes = (len(x), len(names), len(model.classes_))  # shap leaves the last one out where there is one class
    return shap.Explanation(
        found.values.reshape(sizes),
        base_values=found.base_values.reshape(sizes[0], sizes[2]),
        data=_as_numbers(cells, x, model._encoder.source_),
        display_data=np.stack([column.values.astype(object) for column in cells], axis=1),
        feature_names=list(names),
        output_names=[str(label) for label in model.classes_],
    )


class _CodedTable:
    """Encoded rows f32[m, F] as whole numbers, one per column of the user's table: equal numbers, equal values."""

    def __init__(self, x: np.ndarray, source: np.ndarray, d: int) -> None:
        self._width = x.shape[1]
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []  # per column: its encoded columns, its distinct values
        self.codes = np.zeros((len(x), d))
        """f64[m, d], the type shap works with."""
        for j in range(d):
            columns = np.flatnonzero(source == j)
            if not len(columns):  # never varied in fit: nothing to mask
                self._parts.append((columns, np.zeros((1, 0), np.float32)))
                continue
            # Compared by their bits, because NaN equals nothing; all NaN and both zeros get the same bits first.
            block = np.where(np.isnan(x[:, columns]), np.float32(np.nan), x[:, columns] + np.float32(0))
            _, first, codes = np.unique(block.view(np.uint32), axis=0, return_index=True, return_inverse=True)
            self.codes[:, j] = codes.reshape(-1)
            self._parts.append((columns, block[first]))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Encoded rows f32[q, F] from f64[q, d]."""
        out = np.zeros((len(codes), self._width), np.float32)
        for j, (columns, values) in enumerate(self._parts):
            out[:, columns] = values[codes[:, j].astype(np.int64)]
        return out


def _background(model: PFNClassifier, asked: Any, rng: np.random.RandomState) -> np.ndarray:
    """Encoded background rows f32[b, F]."""
    if not isinstance(asked, (int, np.integer)):
        return model._encode(asked)
    if isinstance(asked, bool) or asked < 1:
        raise ValueError(f"background is {asked!r}; give a number of training rows of at least 1, or a table")
    n = len(model._x)
    return model._x[np.sort(rng.choice(n, min(int(asked), n), replace=False))]


def _as_numbers(cells: list[Any], x: np.ndarray, source: np.ndarray) -> np.ndarray:
    """f64[n, d]: numbers as they are, other columns by their first encoded column."""
    out = np.full((len(x), len(cells)), np.nan)
    for j, column in enumerate(cells):
        encoded = np.flatnonzero(source == j)
        if column.values.dtype.kind in "fb":
            out[:, j] = column.values
        elif len(encoded):
            out[:, j] = x[:, encoded[0]]
    return out


@contextlib.contextmanager
def _numpy_state_kept() -> Iterator[None]:
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)
