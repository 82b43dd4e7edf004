"""How much of a task can be learned at all: bagged oblivious trees with static shapes, on the device.

The idea is TabICLv2's filter (arXiv 2602.11139): fit a small bagged ensemble of random trees to the one-hot class, and ask of
its out-of-bag predictions whether they beat the class shares. Theirs runs scikit-learn's ExtraTrees on the host for each table;
here every level of a tree draws a few candidate splits (a column, and its value at a random row) and keeps the one with the
largest reduction of squared error, which is all dense arithmetic and runs inside the sampler's jit.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from . import keys
from .device import each, on_cpu
from .keys import Stream
from .task import TaskBatch

TREES, DEPTH, CANDIDATES = 16, 5, 8
SCORED_ROWS = 512
"""Rows are iid, so the first ones are a sample; longer tables are scored on so many, to bound the cost."""
ACCEPT_Z = 1.645
"""One-sided 5 % point of the normal law: the z score from which a task counts as learnable."""

_POISSON = (0.3678794, 0.7357589, 0.9196986, 0.9810118)  # cumulative law of Poisson(1) at 0, 1, 2, 3


_SUMMED = {jnp.int8: jnp.int32, jnp.float32: jnp.float32}


def _counting_dtype() -> type:
    """In what rows are counted: the numbers are whole and small, so both give the same sums, and a CPU multiplies bytes
    faster."""
    return jnp.int8 if on_cpu() else jnp.float32


def _one(stream: Stream, x: jax.Array, y: jax.Array, n_features: jax.Array, classes: int) -> tuple[jax.Array, jax.Array]:
    """z and R2 of one task. x: f32[F, R] without NaN, y: i32[R]."""
    rows = x.shape[1]
    counted = _counting_dtype()
    hot = y[:, None] == jnp.arange(classes, dtype=jnp.int32)
    shares = jnp.mean(hot.astype(jnp.float32), axis=0)
    target = hot - shares

    def residuals(counts):
        """Sums of the target and of the weights over rows whose classes were counted, [..., classes] and [..., 1]."""
        counts = counts.astype(jnp.float32)
        size = jnp.sum(counts, axis=-1, keepdims=True)
        return counts - shares * size, size

    def tree(t):
        own = keys.sub(stream, t)
        weight = jnp.sum(keys.uniform(own, (rows,))[:, None] >= jnp.asarray(_POISSON), axis=1).astype(counted)
        weighted = hot * weight[:, None]
        leaf = jnp.zeros((rows,), jnp.int32)
        total = jnp.sum(weighted, axis=0, dtype=jnp.int32)[None]
        for level in range(DEPTH):
            u = keys.uniform(keys.sub(own, 1 + level), (CANDIDATES, 2))
            column = jnp.minimum(jnp.floor(u[:, 0] * n_features), n_features - 1.0).astype(jnp.int32)
            row = jnp.floor(u[:, 1] * rows).astype(jnp.int32)
            v = x[column]  # [candidates, R]
            right = v > jnp.take_along_axis(v, row[:, None], axis=1)
            inside = leaf == jnp.arange(2**level, dtype=jnp.int32)[:, None]  # [leaves, R]
            # Only what goes right is counted; what goes left is the rest of the leaf.
            masks = (inside[None] & right[:, None, :]).astype(counted)
            up = jnp.einsum("clr,rk->clk", masks, weighted, preferred_element_type=_SUMMED[counted]).astype(jnp.int32)
            counts = jnp.stack([total[None] - up, up], axis=2)  # [candidates, leaves, side, classes]
            sums, size = residuals(counts)
            best = jnp.argmax(jnp.sum(sums**2 / (size + 1.0), axis=(1, 2, 3)))
            leaf = 2 * leaf + right[best].astype(jnp.int32)
            total = counts[best].reshape(2 ** (level + 1), -1)
        sums, size = residuals(total)
        value = sums / (size + 1.0)
        outside = (weight == 0).astype(jnp.float32)
        return value[leaf] * outside[:, None], outside

    predictions, outside = jax.vmap(tree)(jnp.arange(TREES, dtype=jnp.uint32))
    count = jnp.sum(outside, axis=0)
    mean = jnp.sum(predictions, axis=0) / jnp.maximum(count, 1.0)[:, None]
    better = jnp.sum(target**2 - (target - mean) ** 2, axis=1)
    average = jnp.mean(better)
    z = average * jnp.sqrt(jnp.float32(rows)) / jnp.maximum(jnp.std(better), 1e-6)
    return z, average / jnp.maximum(jnp.mean(jnp.sum(target**2, axis=1)), 1e-6)


def learnability(batch: TaskBatch, classes: int) -> tuple[jax.Array, jax.Array]:
    """Scores tasks on their own rows (context and query together, at most `SCORED_ROWS`).

    Args:
      batch: any tasks; missing values count as 0.
      classes: static, at least the largest number of classes.

    Returns:
      z f32[B], mean out-of-bag improvement over the class shares in standard errors (above `ACCEPT_Z`: learnable), and R2 f32[B],
      the share of the squared error of the one-hot class that the trees explain.
    """
    x = jnp.swapaxes(jnp.nan_to_num(batch.x[:, :SCORED_ROWS]), 1, 2)
    # Randomness by task id: the score belongs to the task, not to its place in a batch.
    stream = jax.vmap(lambda i: keys.task_stream(jax.random.key(0x1EA2), i))(batch.info["task_id"])
    score = lambda args: _one(*args, classes)
    tables = (stream, x, batch.y[:, :SCORED_ROWS], batch.n_features.astype(jnp.float32))
    # A tree holds its splits' leaves and rows, which is more than the columns of a narrow table.
    return each(score, tables, SCORED_ROWS * TREES * CANDIDATES, TREES)


def select_learnable(batch: TaskBatch, tasks: int, classes: int) -> TaskBatch:
    """Keeps `tasks` of the batch's candidates, learnable ones first, else in order: a bounded rule without a loop.

    Adds `learnability_z`, `learnability_r2` and `accepted` (how many candidates were learnable, the same number for every
    task kept) to `info`.
    """
    z, r2 = learnability(batch, classes)
    good = z > ACCEPT_Z
    order = jnp.argsort(~good, stable=True)[:tasks]
    out = jax.tree.map(lambda v: v[order], batch)
    extra = {
        "learnability_z": z[order],
        "learnability_r2": r2[order],
        "accepted": jnp.broadcast_to(jnp.sum(good).astype(jnp.int32), (tasks,)),
    }
    return TaskBatch(
        x=out.x, y=out.y, n_features=out.n_features, n_classes=out.n_classes, n_context=out.n_context,
        categorical=out.categorical, cardinality=out.cardinality, target=out.target, info=out.info | extra, scm=out.scm,
    )  # fmt: skip
