"""Classes from a sum over columns: every column has an effect of its own, and the class is drawn from what they add up to.

Random graphs seldom make such tables: a node reads a few parents, and most mechanisms bend or switch what they read. In
real tables many weak effects that add up are common, in numbers as in the levels of categories, and logistic regression is then
hard to beat. A column's effect is linear (six columns in ten), a saturating curve, a square or a step; a category's levels
have an effect each. That is a generalised additive model (Hastie & Tibshirani 1986) with random parts, in place of
TabPFN's and TabICL's networks of all columns (arXiv 2207.01848, 2502.05564), whose sums are mostly bent.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..configs.prior import NUMERIC_COLUMNS, Sizes
from . import keys
from .device import trips
from .keys import Purpose, Stream
from .levels import level_effects
from .plan import CohortPlan, TaskPlan

FAR = 4.0
"""Numbers count up to so many standard deviations from their mean: one outlier must not decide which rows are a class."""


def additive_columns(cohort: CohortPlan, plan: TaskPlan, stream: Stream) -> jax.Array:
    """Columns that the class of an additive task reads, bool[L, F]: all of them in half the tasks, else a random share of
    them, at least one. `cohort` may have a task axis or none."""
    own = keys.sub(stream, Purpose.ADDITIVE)
    f = cohort.column.shape[-1]
    u = _knobs(own)
    place = jax.vmap(lambda s: keys.uniform(keys.sub(s, 1), (f,)))(own)
    share = jnp.where(u[:, :1] < 0.5, 1.0, keys.between(u[:, 1:2], 0.2, 1.0))
    used = jnp.arange(f)[None, :] < plan.n_features[:, None]
    place = jnp.where(used, place, 2.0)
    return used & ((place < share) | (place <= jnp.min(place, axis=1, keepdims=True)))


def additive_scores(
    sizes: Sizes, cohort: CohortPlan, plan: TaskPlan, stream: Stream, columns: jax.Array
) -> jax.Array:
    """The sums behind the classes of a block, standardised by reference rows.

    Args:
      stream: the tasks' streams [L].
      columns: the observed table, f32[L, F, m + r], reference rows first.

    Returns:
      f32[L, K, m + r], K = sizes.classes sums with effects of their own, by the same columns.
    """
    own = keys.sub(stream, Purpose.ADDITIVE)
    lanes, f, r = columns.shape
    m, k = sizes.reference_rows, sizes.classes
    reads = additive_columns(cohort, plan, stream)
    # From all effects of one size to a few large ones.
    decay = keys.between(_knobs(own)[:, 2:3], 0.0, 2.0)
    size = jnp.exp(decay * jnp.log(jax.vmap(lambda s: keys.uniform(keys.sub(s, 2), (f,)))(own)))
    size = jnp.where(reads, size, 0.0)

    def add(c, totals):
        here = keys.sub(own, 16 + c)
        both = jax.lax.dynamic_index_in_dim(columns, c, 1, keepdims=False)

        def numbers(_):
            u = jax.vmap(lambda s: keys.uniform(s, (3,)))(here)[:, :, None]
            z = _standard(both, m)
            z = jnp.clip(z, -FAR, FAR)
            curve = jnp.tanh(keys.log_between(u[:, 1], 0.5, 4.0) * (z + 2.0 * u[:, 2] - 1.0))
            step = (z > 2.0 * u[:, 2] - 1.0).astype(jnp.float32)
            shape = jnp.where(u[:, 0] < 0.6, z, jnp.where(u[:, 0] < 0.8, curve, jnp.where(u[:, 0] < 0.9, step, z * z)))
            slope = jax.vmap(lambda s: keys.normal(keys.sub(s, 1), (k,)))(here)
            return slope[:, :, None] * _standard(shape, m)[:, None, :]

        def levels(_):
            effect = level_effects(keys.sub(here, 2), both.astype(jnp.int32), k)
            return effect - jnp.mean(effect[..., :m], axis=-1, keepdims=True)

        effect = jax.lax.cond(cohort.column[c] < len(NUMERIC_COLUMNS), numbers, levels, None)
        return totals + jax.lax.dynamic_index_in_dim(size, c, 1)[:, :, None] * effect

    totals = jax.lax.fori_loop(0, trips(jnp.max(plan.n_features), f), add, jnp.zeros((lanes, k, r), jnp.float32))
    return jax.vmap(lambda v: _standard(v, m), in_axes=1, out_axes=1)(totals)


def _knobs(own: Stream) -> jax.Array:
    """What is one number a task, f32[L, 3]: whether all columns are read, else which share; how uneven effects are."""
    return jax.vmap(lambda s: keys.uniform(keys.sub(s, 0), (3,)))(own)


def _standard(v: jax.Array, m: int) -> jax.Array:
    """Values f32[L, m + r] shifted and scaled by the mean and standard deviation of their first m; 0 where those are equal."""
    mean = jnp.mean(v[:, :m], axis=1, keepdims=True)
    spread = jnp.std(v[:, :m], axis=1, keepdims=True)
    return jnp.where(spread > 1e-6, (v - mean) / jnp.maximum(spread, 1e-6), 0.0)
