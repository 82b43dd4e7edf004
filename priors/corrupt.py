"""What happens to a table after the model made it: rounding, outliers, and values that go missing (completely at random,
depending on another column, or on the value itself)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from . import keys
from .keys import Purpose, Stream
from .laws import LawArrays
from .noise import rows_normal, rows_uniform
from .observe import LARGEST
from .plan import CohortPlan, TaskPlan


def disturb(
    cohort: CohortPlan, law: LawArrays, stream: Stream, rows: jax.Array, reference: jax.Array, columns: jax.Array,
    numeric: jax.Array,
) -> jax.Array:
    """Rounds numeric columns and plants outliers in them, where the cohort has them; numbers stay within `LARGEST`.

    Args:
      rows: u32[r] addresses of the rows of `columns`.
      reference: f32[L, F, m], the columns on reference rows, which give each column's standard deviation.
      columns: f32[L, F, r].
      numeric: bool[L, F].
    """
    f = columns.shape[1]
    spread = jnp.minimum(jnp.std(reference, axis=2), 1e3)
    own = keys.sub(stream, Purpose.CORRUPTION)
    u = jax.vmap(lambda s: keys.uniform(s, (2,)))(own)
    column_u = jax.vmap(lambda s: keys.uniform(keys.sub(s, 1), (f,)))(own)
    numeric = numeric[:, :, None] & (spread > 0)[:, :, None]

    def rounded(x):
        step = jnp.maximum(spread * keys.log_between(column_u, *law["rounding_step"]), 1e-6)[:, :, None]
        return jnp.where(numeric, jnp.round(x / step) * step, x)

    def outliers(x):
        share = keys.log_between(u[:, 0], *law["outlier_share"])[:, None, None]
        size = keys.log_between(u[:, 1], *law["outlier_size"])[:, None, None]
        each = jax.vmap(lambda c: keys.sub(keys.sub(stream, Purpose.CORRUPTION_ROWS), c), out_axes=1)
        hit = rows_uniform(each(jnp.arange(f, dtype=jnp.uint32)), rows) < share
        jump = spread[:, :, None] * size * rows_normal(each(jnp.arange(f, 2 * f, dtype=jnp.uint32)), rows)
        return jnp.where(numeric & hit, jnp.clip(x + jump, -LARGEST, LARGEST), x)

    columns = jax.lax.cond(cohort.rounded, rounded, lambda x: x, columns)
    return jax.lax.cond(cohort.outliers, outliers, lambda x: x, columns)


def _normal_scores(reference: jax.Array, columns: jax.Array) -> jax.Array:
    """f32[L, F, r]: the standard normal quantile of each value's place among the reference rows (its middle among equals).

    reference: f32[L, F, m]; columns: f32[L, F, r]. About standard normal whatever the column's law.
    """
    m = reference.shape[2]
    place = lambda side: jax.vmap(jax.vmap(lambda ordered, v: jnp.searchsorted(ordered, v, side=side)))
    ordered = jnp.sort(reference, axis=2)
    middle = 0.5 * (place("left")(ordered, columns) + place("right")(ordered, columns))
    return keys.to_normal((middle + 0.5) / (m + 1.0))


def missing_mask(
    cohort: CohortPlan, plan: TaskPlan, law: LawArrays, stream: Stream, rows: jax.Array, reference: jax.Array, columns: jax.Array
) -> jax.Array:
    """bool[L, F, r]: the cells to blank out.

    Missing at random (MAR, Rubin, Biometrika 63(3), 1976): the rate depends on another column, one of those that have no gaps; at
    least one is left without. A table of one column has none to depend on, there the rate is constant. Missing not at
    random (MNAR): the rate depends on the value itself. Both follow a logistic curve in the normal score of that column as the
    table shows it, before rounding and outliers; its intercept is set so that the mean rate is the wanted one, by the probit
    approximation of a logistic-normal integral (MacKay, Neural Computation 4(5), 1992, section 5).

    Args:
      rows: u32[r], addresses of the rows of `columns`.
      reference, columns: the observed table, f32[L, F, m] and f32[L, F, r].
    """
    f = columns.shape[1]
    own = keys.sub(stream, Purpose.MISSING)
    u = jax.vmap(lambda s: keys.uniform(s, (4,)))(own)
    column_u = jax.vmap(lambda s: keys.uniform(keys.sub(s, 1), (f, 3)))(own)
    share = keys.log_between(u[:, :1], *law["missing_share"]) * keys.between(column_u[:, :, 0], 0.3, 1.7)
    share = jnp.clip(share, 0.0, 0.9)
    used = jnp.arange(f)[None, :] < plan.n_features[:, None]
    hit = used & (column_u[:, :, 1] < keys.between(u[:, 1:2], *law["missing_columns"]))
    slope = keys.between(u[:, 2], 1.0, 4.0)
    streams = jax.vmap(lambda c: keys.sub(keys.sub(stream, Purpose.MISSING_ROWS), c), out_axes=1)(
        jnp.arange(f, dtype=jnp.uint32)
    )
    draw = rows_uniform(streams, rows)

    def driven(z):
        shift = jax.scipy.special.logit(share) * jnp.sqrt(1.0 + jnp.pi * slope[:, None] ** 2 / 8.0)
        return jax.nn.sigmoid(shift[:, :, None] + slope[:, None, None] * z)

    def constant(_):
        return hit, jnp.broadcast_to(share[:, :, None], columns.shape)

    def at_random(_):
        spared = jnp.floor(u[:, 3:] * plan.n_features[:, None]).astype(jnp.int32)
        full = (hit == used).all(axis=1, keepdims=True) & (plan.n_features[:, None] > 1)
        gaps = hit & ~(full & (jnp.arange(f)[None, :] == spared))
        whole = (used & ~gaps).astype(jnp.float32)  # f32[L, F]
        other = jax.vmap(keys.choose)(column_u[:, :, 2], jnp.broadcast_to(whole[:, None, :], (*whole.shape, f)))
        z = jax.vmap(lambda v, i: v[i])(_normal_scores(reference, columns), other)
        alone = (jnp.sum(whole, axis=1) < 1)[:, None, None]
        return gaps, jnp.where(alone, share[:, :, None], driven(z))

    by_itself = lambda _: (hit, driven(_normal_scores(reference, columns)))
    gaps, rate = jax.lax.switch(cohort.missing - 1, [constant, at_random, by_itself], None)
    return (draw < rate) & gaps[:, :, None]
