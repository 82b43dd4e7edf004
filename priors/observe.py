"""Which coordinates become columns, and what they look like: warps, counts, rounding, categories.

A column reads one or two coordinates of its node and passes through one of the kinds below. Kinds are shared by a cohort
(so only the needed code runs), their parameters are each task's own. What a kind needs to know about the distribution
(range, thresholds, prototypes) comes from reference rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..configs.prior import CATEGORICAL_COLUMNS, NUMERIC_COLUMNS, Sizes
from . import keys
from .device import trips
from .keys import Purpose, Stream
from .laws import LawArrays
from .levels import level_of, quantiser, rename
from .mechanisms import MARGIN, nearest
from .noise import rows_normal
from .plan import CohortPlan, TaskPlan

N_NUMERIC = len(NUMERIC_COLUMNS)
LARGEST = 1e4


def latent_columns(plan: TaskPlan, values: jax.Array) -> jax.Array:
    """f32[L, F, r]: the coordinate(s) behind every column, before any warp. values: f32[L, N * W, r]."""
    first = jax.vmap(lambda v, i: v[i])(values, plan.column_dim[:, :, 0])
    second = jax.vmap(lambda v, i: v[i])(values, plan.column_dim[:, :, 1])
    return first + plan.column_mix[:, :, None] * second


def quantiles(reference: jax.Array, share: jax.Array) -> jax.Array:
    """Values below which the given shares of reference rows lie. reference f32[L, m], share f32[L, k] in [0, 1] -> [L, k]."""
    m = reference.shape[1]
    ordered = jnp.sort(reference, axis=1)
    at = jnp.clip(jnp.floor(share * m), 0, m - 1).astype(jnp.int32)
    return jnp.take_along_axis(ordered, at, axis=1)


def _shuffle_codes(code: jax.Array, levels: jax.Array, u: jax.Array) -> jax.Array:
    """Renames codes 0 .. levels-1 by a random permutation. code i32[L, r], levels i32[L], u f32[L, K]."""
    k = u.shape[1]
    inside = jnp.arange(k)[None, :] < levels[:, None]
    earlier = jnp.arange(k)[None, :] < jnp.arange(k)[:, None]  # equal numbers must not give two levels one code
    before = (u[:, None, :] < u[:, :, None]) | ((u[:, None, :] == u[:, :, None]) & earlier)
    rank = jnp.sum(before & inside[:, None, :], axis=2)  # [L, K]
    return jnp.take_along_axis(rank, jnp.clip(code, 0, k - 1), axis=1)


def observe(
    sizes: Sizes,
    cohort: CohortPlan,
    plan: TaskPlan,
    law: LawArrays,
    stream: Stream,
    rows: jax.Array,
    values: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Turns node coordinates into columns.

    Args:
      rows: u32[m + r], addresses of the rows of `values`, reference rows first (irrelevant columns and near-copies draw noise
        by row).
      values: f32[L, N * W, m + r].

    Returns:
      columns f32[L, F, m + r] (0 at or past the task's width), cardinality i32[L, F].
    """
    lanes, f, r = values.shape[0], cohort.column.shape[0], values.shape[2]
    w, k, m = sizes.width, sizes.levels, sizes.reference_rows
    column_stream = keys.sub(stream, Purpose.COLUMNS)
    rows_stream = keys.sub(stream, Purpose.COLUMN_ROWS)
    latent = latent_columns(plan, values)
    copy_rows = keys.sub(stream, Purpose.DUPLICATE_ROWS)

    def one(c, carry):
        columns, cardinality = carry
        v = jax.lax.dynamic_index_in_dim(latent, c, 1, keepdims=False)  # [L, m + r]
        blur = lambda v: v + plan.duplicate_noise[:, c, None] * rows_normal(keys.sub(copy_rows, c), rows)
        v = jax.lax.cond(cohort.duplicate[c], blur, lambda v: v, v)
        ref = v[:, :m]
        own = keys.sub(column_stream, 16 + c)
        u = jax.vmap(lambda s: keys.uniform(s, (4,)))(own)[:, :, None]  # [L, 4, 1]
        a, b = u[:, 0], u[:, 1]
        none = jnp.zeros((lanes,), jnp.int32)
        sign = jnp.where(u[:, 3] < 0.5, 1.0, -1.0)

        def numeric(fn):
            return lambda _: (fn(), none)

        def kumaraswamy():
            # P(x) = 1 - (1 - x^a)^b on [0, 1] (Kumaraswamy 1980), the range taken from reference rows.
            low, high = jnp.min(ref, axis=1, keepdims=True), jnp.max(ref, axis=1, keepdims=True)
            x = jnp.clip((v - low) / jnp.maximum(high - low, 1e-6), 1e-6, 1.0 - 1e-6)
            alpha, beta = keys.log_between(a, 0.2, 5.0), keys.log_between(b, 0.2, 5.0)
            inner = -jnp.expm1(alpha * jnp.log(x))  # 1 - x^a
            return 1.0 - jnp.exp(beta * jnp.log(jnp.maximum(inner, 1e-12)))

        def sinh_arcsinh():
            return jnp.sinh(jnp.clip((0.4 + 1.8 * a) * (jnp.arcsinh(v) + (2.0 * b - 1.0)), -9.0, 9.0))

        def count():
            return jnp.floor(jnp.exp(jnp.clip(keys.between(a, 0.3, 1.2) * v + 2.5 * b, -10.0, 9.0)))

        def thresholds():
            """Codes by cutting the latent value at random reference quantiles; levels i32[L]."""
            levels = keys.log_integer(u[:, 2, 0], *law["levels"])
            cuts_u = jax.vmap(lambda s: keys.uniform(keys.sub(s, 1), (k - 1,)))(own)
            cut = quantiles(ref, cuts_u)  # [L, K - 1]
            used = jnp.arange(k - 1)[None, :] < levels[:, None] - 1
            code = jnp.sum((v[:, None, :] > cut[:, :, None] + MARGIN) & used[:, :, None], axis=1)
            return code.astype(jnp.int32), levels

        def ordered(_):
            code, levels = thresholds()
            return code.astype(jnp.float32), levels

        def shuffled(code, levels):
            order = jax.vmap(lambda s: keys.uniform(keys.sub(s, 2), (k,)))(own)
            return _shuffle_codes(code, levels, order).astype(jnp.float32), levels

        def unordered(_):
            return shuffled(*thresholds())

        def prototype(_):
            # Nearest of a few reference rows in the node's own space.
            node = plan.column_node[:, c]
            cut = lambda x: jax.vmap(lambda y, i: jax.lax.dynamic_slice_in_dim(y, i * w, w, 0))(x, node)
            levels = jnp.minimum(keys.log_integer(u[:, 2, 0], *law["levels"]), sizes.anchors)
            z = cut(values)
            centre = z[..., : sizes.anchors]
            far = jnp.sum(centre**2, axis=1)[:, :, None] - 2.0 * jnp.einsum(
                "lwa,lwr->lar", centre, z, precision=jax.lax.Precision.HIGHEST
            )
            far = jnp.where(jnp.arange(sizes.anchors)[None, :, None] < levels[:, None, None], far, jnp.float32(3e38))
            index = jnp.arange(sizes.anchors, dtype=jnp.float32)[None, :, None]
            code = jnp.sum(nearest(far) * index, axis=1).astype(jnp.int32)
            code = jnp.minimum(code, levels[:, None] - 1)
            return shuffled(code, levels)

        def many(_):
            cut = quantiser(law, stream, plan.column_dim[:, c, 0])
            names = jax.vmap(lambda s: keys.uniform(keys.sub(s, 3), (sizes.many_levels,)))(own)
            return rename(level_of(cut, v), cut.count, names).astype(jnp.float32), cut.count

        kinds = {
            "identity": numeric(lambda: v),
            "kumaraswamy": numeric(kumaraswamy),
            "sinh_arcsinh": numeric(sinh_arcsinh),
            "lognormal": numeric(lambda: sign * jnp.exp(jnp.clip(keys.log_between(a, 0.3, 2.0) * v, -9.0, 9.0))),
            "bounded": numeric(lambda: jax.nn.sigmoid(keys.log_between(a, 0.7, 6.0) * (v + 2.0 * b - 1.0))),
            "quantised": numeric(lambda: jnp.round(v * keys.log_between(a, 0.7, 20.0)) / keys.log_between(a, 0.7, 20.0)),
            "count": numeric(count),
            "zero_inflated": numeric(lambda: jnp.maximum(sign * v - (2.0 * b - 1.0), 0.0)),
            "irrelevant": numeric(lambda: rows_normal(keys.sub(rows_stream, c), rows)),
            "ordered": ordered,
            "unordered": unordered,
            "prototype": prototype,
            "many": many,
        }
        branches = [kinds[name] for name in NUMERIC_COLUMNS + CATEGORICAL_COLUMNS]
        column, levels = jax.lax.switch(cohort.column[c], branches, None)
        in_use = c < plan.n_features
        column = jnp.where(in_use[:, None], jnp.clip(column, -LARGEST, LARGEST), 0.0)
        columns = jax.lax.dynamic_update_slice(columns, column[:, None], (0, c, 0))
        levels = jnp.where(in_use, levels, 0)
        return columns, jax.lax.dynamic_update_slice(cardinality, levels[:, None], (0, c))

    start = (jnp.zeros((lanes, f, r), jnp.float32), jnp.zeros((lanes, f), jnp.int32))
    columns, cardinality = jax.lax.fori_loop(0, trips(jnp.max(plan.n_features), f), one, start)
    return columns, cardinality
