"""Why a prediction: attention per column, permutation importance.

Both speak of the columns of the table as the user gave it, whatever became of them inside (a date is five encoded
columns). Shuffling happens after encoding, which gives the same rows as doing it before, works for every kind of
column, and needs the table to be encoded once.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.inspection import permutation_importance
from sklearn.utils.validation import check_is_fitted

from ..configs.model import ModelConfig
from .blocks import feature_step, feature_weights, row_step
from .embedding import CHANNELS
from .estimator import PFNClassifier
from .network import ContextCache, with_params

_CHUNK = 32  # query rows at a time: the weights of a row are tokens x tokens numbers


@dataclasses.dataclass(frozen=True)
class ColumnAttention:
    """Shares of attention, one per column of the table.

    Attributes:
      names: d column names (positions as text where the table had none).
      values: f64[n, d]; how much of each row's prediction was read from each column; rows sum to 1. Columns that were
        dropped because they never varied have 0; where none varied, the first has 1.
    """

    names: tuple[str, ...]
    values: np.ndarray

    def ranking(self) -> list[tuple[str, float]]:
        """(column, mean share over the rows), largest first."""
        mean = self.values.mean(0)
        return [(self.names[j], float(mean[j])) for j in np.argsort(-mean, kind="stable")]


def attention(model: PFNClassifier, X: Any) -> ColumnAttention:
    """Which columns the network looked at when it predicted the rows of X.

    Attention over columns is followed through the layers (attention rollout: Abnar and Zuidema 2020, arXiv 2005.00928,
    section 3; the mean over heads, residual connections as half of every layer) to what is read of a row after the
    blocks: the target token and the mean of the column tokens. A token holds three columns; its share is dealt out to them in proportion
    to the norms of their embedding weights, and that of a ridge score to all columns: of the linear one in proportion to what
    they added to or took from it, of the others to how steeply they change along them. Members of the ensemble are averaged.

    Attention says where the network looked, not what changed its mind, and nothing of the regression on ridge scores that answers
    beside it (``stack_weight``); compare with `permutation`.

    Args:
      model: fitted.
      X: table of n rows, as for ``predict``.
    """
    x, names = prepare(model, X)
    source, d = model._encoder.source_, len(names)
    total = np.zeros((len(x), d))
    if len(model.classes_) > 1:
        chunks = [_CHUNK] * -(-len(x) // _CHUNK)
        shares = model._session().run(_rollout, model._views(x, model._ridge.apply(x)), len(x), chunks)
        scored = model._ridge.shares(x) if model._ridge.kinds_ else np.zeros((len(x), 0, x.shape[1]))
        for member, share in zip(model.members_, shares, strict=True):
            f, of_kind = len(member.columns), model._n_scores(member) // max(scored.shape[1], 1)
            np.add.at(total.T, source[member.columns], share[:, :f].T.astype(np.float64))
            to_scores = share[:, f : f + of_kind * scored.shape[1]].reshape(len(x), scored.shape[1], of_kind).sum(2)
            np.add.at(total.T, source, np.einsum("qk,qkf->fq", to_scores, scored))
    sums = total.sum(1, keepdims=True)
    return ColumnAttention(names, np.where(sums > 0, total / np.where(sums > 0, sums, 1), 1 / d))


def permutation(
    model: PFNClassifier, X: Any, y: Any, *, scoring: Any = None, n_repeats: int = 5, random_state: Any = 0
) -> Any:
    """How much worse predictions get when a column is shuffled: `sklearn.inspection.permutation_importance`.

    Costs ``n_repeats`` times the number of columns predictions of X; the training rows stay encoded.

    Args:
      model: fitted.
      X, y: rows with their labels, best not those of ``fit``.
      scoring: a scorer's name or a scorer, see scikit-learn; None: accuracy.
      n_repeats: shuffles of each column.
      random_state: seed of the shuffles.

    Returns:
      scikit-learn's Bunch: ``importances`` f64[d, n_repeats], ``importances_mean``, ``importances_std``; and ``names``,
      d column names.
    """
    rows = _Rows(model, *prepare(model, X))
    found = permutation_importance(
        rows, rows.numbers, y, scoring=scoring, n_repeats=n_repeats, random_state=random_state
    )
    found["names"] = rows.names
    return found


def prepare(model: PFNClassifier, X: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """(encoded rows, names of the columns) after the checks of ``predict``."""
    check_is_fitted(model)
    x = model._encode(X)
    named = getattr(model, "feature_names_in_", None)
    return x, tuple(map(str, range(model.n_features_in_) if named is None else named))


class _Rows(ClassifierMixin, BaseEstimator):
    """A fitted model as a function of row numbers: entry (i, j) is the row of X that row i takes column j from. So tools
    that shuffle columns work on integers, whatever the columns hold."""

    def __init__(self, model: PFNClassifier, x: np.ndarray, names: tuple[str, ...]) -> None:
        self.model, self.x, self.names = model, x, names
        self.classes_ = model.classes_

    @property
    def numbers(self) -> np.ndarray:
        """X itself, i64[n, d]."""
        return np.repeat(np.arange(len(self.x))[:, None], len(self.names), axis=1)

    def fit(self, X: Any, y: Any) -> _Rows:
        return self

    def predict_proba(self, numbers: np.ndarray) -> np.ndarray:
        taken = np.asarray(numbers).astype(np.int64)[:, self.model._encoder.source_]
        return self.model._proba(self.x[taken, np.arange(self.x.shape[1])])

    def predict(self, numbers: np.ndarray) -> np.ndarray:
        return self.classes_[np.argmax(self.predict_proba(numbers), axis=1)]


@functools.partial(jax.jit, static_argnums=0)
def _rollout(cfg: ModelConfig, params: Any, cache: ContextCache, x: jax.Array) -> jax.Array:
    """Shares of columns f32[B, Q, F] for query rows x f32[B, Q, F]; sum to 1 over the active columns."""
    model = with_params(cfg, params)
    h, n_tokens, n_keys, kernel = model.query_tokens(cache, x)

    def block(carry, layer):
        h, seen = carry
        w, keys, values = layer
        mixed = (feature_weights(w, h, n_tokens, cfg.heads) + jnp.eye(h.shape[1])) / 2
        h = feature_step(w, h, n_tokens, cfg.heads)
        return (row_step(w, h, (keys, values), n_keys, cache.n_context, kernel, cfg.activation), mixed @ seen), None

    start = jnp.broadcast_to(jnp.eye(h.shape[1]), (*x.shape[:2], h.shape[1], h.shape[1]))
    (_, seen), _ = jax.lax.scan(block, (h, start), (model.blocks.stacked(), cache.keys, cache.values))
    columns = jnp.arange(x.shape[-1])
    active = (columns < cache.n_features[:, None]).astype(jnp.float32)[:, None]  # [B, 1, F]
    mean = (seen[:, :, 1:] * active[..., None]).sum(2) / active.sum(-1, keepdims=True)
    tokens = (seen[:, :, 0] + mean)[..., 1:] * active  # what is left on the target token came from no column
    weight = model.embedding.cell[...].reshape(len(cfg.group_offsets), CHANNELS, -1)
    norms = jnp.sqrt((weight**2).sum((1, 2)))
    shares = jnp.zeros_like(tokens)
    for offset, share in zip(cfg.group_offsets, norms / norms.sum(), strict=True):
        # Token j holds column (j + offset) modulo the active ones, so column c is in token (c - offset).
        token = (columns - offset) % cache.n_features[:, None]
        shares += share * jnp.take_along_axis(tokens, token[:, None, :], axis=2)
    shares *= active
    return shares / shares.sum(-1, keepdims=True)
