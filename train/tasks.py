"""The tasks a step learns from: those of the prior, with ridge scores beside their columns where the shape has room for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..configs.recipe import TaskShape
from ..priors import make_sampler
from ..priors.device import on_cpu
from ..priors.keys import seed_key
from ..priors.task import TableShape, TaskBatch
from .curriculum import table_shape
from .ridge import KINDS, ridge_scores

Sampler = Callable[[jax.Array, jax.Array], TaskBatch]
SamplerFactory = Callable[[Any, TableShape, int], Sampler]

_SHAPES = 0x5AAE5  # folded into the seed's key, and then the shape's number
_CHOICE = 0x5C0  # folded into the key of a step, apart from whatever the prior makes of it


def task_key(seed: int, shape: int) -> jax.Array:
    """The key that the tasks of a recipe's shape are drawn with.

    A key of its own for every shape: a step uses up as many ids as it has candidates, so that under one key steps of shapes of 8 and
    16 tasks meet the same ids, and with them tables of the same graph, mechanisms and values in other sizes.
    """
    return jax.random.fold_in(jax.random.fold_in(seed_key(seed), _SHAPES), shape)


def make_tasks(
    prior: Any, shape: TaskShape, tasks: int, classes: int, sampler_factory: SamplerFactory = make_sampler
) -> Sampler:
    """``(key, step) -> TaskBatch`` of ``tasks`` tables of a shape, with what the network reads of them and no more; see `with_scores`.

    Args:
      prior: for ``sampler_factory``.
      shape: the table shape.
      tasks: tables drawn together.
      classes: most classes of a task.
      sampler_factory: ``(prior, TableShape, tasks) -> (key, step) -> TaskBatch``.
    """
    sampler = sampler_factory(prior, table_shape(shape), tasks)

    def draw(key: jax.Array, step: jax.Array) -> TaskBatch:
        batch = dataclasses.replace(sampler(key, step), target=None, info={}, scm=None)
        return with_scores(batch, key, step, shape, classes)

    return draw


def with_scores(batch: TaskBatch, key: jax.Array, step: jax.Array, shape: TaskShape, classes: int) -> TaskBatch:
    """Tables f32[B, R, F + S] of tasks, S = ``shape.score_columns``: behind its F or fewer columns every task has the scores that
    members of the estimator see (`priorax.models.ridge_scores`), of all regressions that say something.

    Of regressions whose scores do not fit in together as many as do are drawn; a task of more classes than S sees none.

    Args:
      batch: B tasks of ``shape.context`` context rows.
      key, step: what the tasks were sampled with; they also decide what is drawn here.
      shape: says how much room there is; where there is none, the batch is returned as it is.
      classes: most classes of a task.
    """
    room, context = shape.score_columns, shape.context
    if not room:
        return batch
    own_key = jax.random.fold_in(jax.random.fold_in(key, _CHOICE), step)
    choice = jax.random.uniform(own_key, (batch.n_tasks, len(KINDS)))
    # One task stays in a CPU's cache; other devices take nearly as long for one decomposition as for many.
    together = 1 if on_cpu() else batch.n_tasks
    tables = (batch.x, batch.y, batch.categorical, batch.n_features, batch.n_classes, choice)
    x, n_features = jax.lax.map(lambda table: _with_scores(*table, context, classes, room), tables, batch_size=together)

    def wider(a: jax.Array) -> jax.Array:
        return jnp.pad(a, ((0, 0), (0, room)))

    return dataclasses.replace(
        batch, x=x, n_features=n_features, categorical=wider(batch.categorical), cardinality=wider(batch.cardinality)
    )


def _with_scores(
    x: jax.Array, y: jax.Array, categorical: jax.Array, n_features: jax.Array, n_classes: jax.Array, choice: jax.Array,
    context: int, classes: int, room: int,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """The table of one task f32[R, F + room] with as many of its scores as fit behind its columns, and how many columns it has."""
    scores, told = ridge_scores(x, y, categorical, n_classes, context, classes)
    # Of two classes only the second has a column, as in `scores_of_symbols`.
    width = jnp.where(n_classes == 2, 1, n_classes)
    place = jnp.argsort(jnp.argsort(jnp.where(told, choice, jnp.inf)))
    kept = told & (place < room // width)
    own = jnp.arange(classes)
    used = jnp.where(n_classes == 2, own == 1, own < n_classes)
    taken = (kept[:, None] & used).reshape(-1)
    columns = jnp.moveaxis(scores, 1, 0).reshape(len(x), -1)
    # A column that is not taken goes behind the end, which drops it.
    to = jnp.where(taken, n_features + jnp.cumsum(taken) - 1, x.shape[1] + room)
    out = jnp.pad(x, ((0, 0), (0, room))).at[:, to].set(columns, mode="drop")
    return out, n_features + taken.sum()
