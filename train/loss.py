"""What is minimised, and what is watched."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ..configs.model import ModelConfig
from ..models.network import with_params
from ..priors.task import TaskBatch


def query_logits(
    cfg: ModelConfig, params: dict[str, Any], batch: TaskBatch, context: int | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits f32[B, Q, C], labels i32[B, Q] and weights f32[B, Q] (1 for a query row) of a batch."""
    logits = with_params(cfg, params)(
        batch.x, batch.y, batch.n_features, batch.n_classes, batch.n_context, batch.categorical, context=context
    )
    first = 0 if context is None else context
    rows = jnp.arange(first, batch.x.shape[1])
    return logits, batch.y[:, first:], (rows >= batch.n_context[:, None]).astype(jnp.float32)


def cross_entropy(logits: jax.Array, y: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean negative log-likelihood: over the query rows of a task, then over tasks."""
    log_p = jax.nn.log_softmax(logits)
    loss = -jnp.take_along_axis(log_p, y[..., None], axis=-1)[..., 0]
    return jnp.mean(_row_mean(loss, weight))


def accuracy(logits: jax.Array, y: jax.Array, weight: jax.Array) -> jax.Array:
    """Share of query rows whose largest logit is their class; mean over tasks."""
    return jnp.mean(_row_mean((logits.argmax(-1) == y).astype(jnp.float32), weight))


def roc_auc(logits: jax.Array, y: jax.Array, weight: jax.Array) -> jax.Array:
    """One-vs-rest ROC AUC of class probabilities: over classes with both kinds of query rows, then over such tasks.

    Pairs are compared directly (Mann-Whitney), one class at a time; ties count half. NaN when no task has two classes
    among its query rows.
    """
    total, tasks = roc_auc_sum(logits, y, weight)
    return total / tasks


def roc_auc_sum(logits: jax.Array, y: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum of `roc_auc` over tasks that have one, and their number, to be added up over devices."""
    probability = jax.nn.softmax(logits)

    def one_class(c: jax.Array) -> tuple[jax.Array, jax.Array]:
        p = jnp.take(probability, c, axis=-1)
        positive = (y == c) * weight
        negative = (y != c) * weight
        wins = (p[:, :, None] > p[:, None, :]) + 0.5 * (p[:, :, None] == p[:, None, :])
        won = jnp.einsum("bij,bi,bj->b", wins, positive, negative)
        pairs = positive.sum(-1) * negative.sum(-1)
        return jnp.where(pairs > 0, won / jnp.maximum(pairs, 1.0), 0.0), pairs > 0

    score, valid = jax.lax.map(one_class, jnp.arange(logits.shape[-1]))
    classes = valid.sum(0)
    per_task = score.sum(0) / jnp.maximum(classes, 1)
    return jnp.where(classes > 0, per_task, 0.0).sum(), (classes > 0).sum().astype(jnp.float32)


def _row_mean(value: jax.Array, weight: jax.Array) -> jax.Array:
    return (value * weight).sum(-1) / jnp.maximum(weight.sum(-1), 1.0)
