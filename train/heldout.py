"""Held-out synthetic tasks, and what a network makes of each one of them.

Validation inside a run gives means; comparing two networks needs the same tasks for both, one number a task, and to know
which family a task comes from.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..configs.model import ModelConfig
from ..configs.prior import TARGETS, PriorConfig
from ..configs.recipe import TaskShape
from ..priors import make_sampler
from ..priors.task import TableShape, TaskBatch
from .loss import accuracy, cross_entropy, query_logits, roc_auc

CHUNK = 32
"""Tasks that are sampled and measured together."""


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Tasks of one table shape, on the host. N tasks.

    Attributes:
      shape: the table shape.
      batches: the tasks, `CHUNK` at a time.
      component: str[N], the component of the prior each task was drawn from.
      target: str[N], how its classes were made.
      n_features, n_classes: i64[N].
    """

    shape: TaskShape
    batches: tuple[TaskBatch, ...]
    component: np.ndarray
    target: np.ndarray
    n_features: np.ndarray
    n_classes: np.ndarray


def sample_held_out(prior: PriorConfig, shape: TaskShape, tasks: int, seed: int) -> HeldOut:
    """Draws at least ``tasks`` tasks of a shape from the stream of ``seed``, which no training run may use."""
    table = TableShape(shape.rows, shape.columns, shape.context, shape.least_columns)
    sampler, key = jax.jit(make_sampler(prior, table, CHUNK)), jax.random.key(seed)
    found = [jax.device_get(sampler(key, jnp.uint32(i))) for i in range(math.ceil(tasks / CHUNK))]
    info = {name: np.concatenate([b.info[name] for b in found]) for name in ("component", "target")}
    return HeldOut(
        shape=shape,
        batches=tuple(dataclasses.replace(b, info={}, scm=None) for b in found),
        component=np.array([c.name for c in prior.components])[info["component"]],
        target=np.array(TARGETS)[info["target"]],
        n_features=np.concatenate([b.n_features for b in found]).astype(np.int64),
        n_classes=np.concatenate([b.n_classes for b in found]).astype(np.int64),
    )


def measure_tasks(cfg: ModelConfig, params: dict[str, Any], held_out: HeldOut) -> dict[str, np.ndarray]:
    """Loss, accuracy and ROC AUC of every task, f64[N] each; the AUC is NaN where the query rows are of one class."""
    measured = [_measure(cfg, held_out.shape.context, params, batch) for batch in held_out.batches]
    return {
        name: np.concatenate([np.asarray(m[i], np.float64) for m in measured])
        for i, name in enumerate(("loss", "accuracy", "roc_auc"))
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure(cfg: ModelConfig, context: int | None, params: dict[str, Any], batch: TaskBatch) -> tuple[jax.Array, ...]:
    logits, y, weight = query_logits(cfg, params, batch, context)
    alone = lambda f: jax.vmap(lambda *task: f(*(a[None] for a in task)))(logits, y, weight)
    return alone(cross_entropy), alone(accuracy), alone(roc_auc)
