"""Stages two and three: fit the mechanisms on reference rows and push rows through the graph.

`propagate` runs the instruction list of a block once. Without parameters it fits as it goes: anchors, means and scales come
from the first `sizes.reference_rows` rows, which the caller drew for that purpose and drops; no other row influences
another, so rows are independent by construction and memory does not grow with them beyond the rows themselves. With
parameters it only applies them, which is what interventions and counterfactuals need: the same noise through the same
functions, with some coordinates overwritten.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..configs.prior import Sizes
from . import keys
from .activations import activate
from .device import on_cpu, trips
from .keys import Purpose, Stream
from .laws import LawArrays
from .levels import level_effects, quantiser
from .mechanisms import Weights, apply_family, draw_weights
from .noise import noise_from_uniform, rows_normal, rows_uniform
from .plan import CohortPlan, TaskPlan


class MechanismParams(NamedTuple):
    """What was fitted on reference rows (leading axis: tasks). N nodes, S instructions, P inputs, A anchors, W width."""

    anchors: jax.Array  # f32[L, S, P, A]
    mean: jax.Array  # f32[L, N, W]
    scale: jax.Array  # f32[L, N, W]; 0 marks a coordinate that is constant without noise


class Intervention(NamedTuple):
    """v' = keep * v + add, for every coordinate (leading axis: tasks). keep 0 is a hard intervention, keep 1 a shift."""

    keep: jax.Array  # f32[L, N, W]
    add: jax.Array  # f32[L, N, W]


REFERENCE_ROWS = 1 << 31  # reference rows have addresses of their own


def row_addresses(sizes: Sizes, rows: int) -> jax.Array:
    """u32[reference_rows + rows]: reference rows first."""
    reference = jnp.arange(sizes.reference_rows, dtype=jnp.uint32) + jnp.uint32(REFERENCE_ROWS)
    return jnp.concatenate([reference, jnp.arange(rows, dtype=jnp.uint32)])


def _moments(v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and 1 / standard deviation over the last axis; 0 where the values are constant."""
    mean = jnp.mean(v, axis=-1)
    var = jnp.mean((v - mean[..., None]) ** 2, axis=-1)
    return mean, jnp.where(var > 1e-6, jax.lax.rsqrt(jnp.maximum(var, 1e-6)), 0.0)


def root_rows(sizes: Sizes, kind: jax.Array, act: jax.Array, stream: Stream, rows: jax.Array, root: jax.Array):
    """Raw values of one root for a block: f32[L, W, r]. stream: the tasks' streams [L]."""
    w, levels, a = sizes.width, sizes.levels, sizes.anchors
    here = keys.sub(keys.sub(stream, Purpose.ROOT_ROWS), root)
    own = keys.sub(keys.sub(stream, Purpose.ROOTS), root)
    dims = jax.vmap(lambda i: keys.sub(here, i), out_axes=1)(jnp.arange(w, dtype=jnp.uint32))  # [L, W]
    extra = keys.sub(here, w)
    params = jax.vmap(lambda s: keys.normal(s, (w * max(levels, a, 2 * w) + w * w,)))(own)
    table = params[:, : w * max(levels, a, 2 * w)].reshape(params.shape[0], w, -1)
    mixing = params[:, -w * w :].reshape(-1, w, w)
    knob = jax.vmap(lambda s: keys.uniform(keys.sub(s, 1), (4,)))(own)
    product = lambda m, v: jnp.einsum("loi,lir->lor", m, v, precision=jax.lax.Precision.HIGHEST)

    def member(u, count):
        """One of `count` members by a Zipf-like law (from even to steep), as one-hot f32[L, count_max, r]."""
        size = table.shape[2]
        steep = 2.0 * knob[:, 1]
        weight = (1.0 + jnp.arange(size))[None, :] ** -steep[:, None]
        weight = jnp.where(jnp.arange(size)[None, :] < count[:, None], weight, 0.0)
        edge = jnp.cumsum(weight, axis=1) / jnp.sum(weight, axis=1, keepdims=True)
        above = u[:, None, :] > edge[:, :, None]
        return (~above).astype(jnp.float32) - jnp.pad(~above, ((0, 0), (1, 0), (0, 0)))[:, :-1].astype(jnp.float32)

    def normal(_):
        return rows_normal(dims, rows)

    def uniform(_):
        return rows_uniform(dims, rows) * 2.0 - 1.0

    def mixture(_):
        count = keys.log_integer(knob[:, 0], jnp.float32(2.0), jnp.float32(a))
        centre = product(table, member(rows_uniform(extra, rows), count))
        spread = keys.log_between(knob[:, 2], jnp.float32(0.05), jnp.float32(1.0))
        return centre + spread[:, None, None] * rows_normal(dims, rows)

    def heavy_tailed(_):
        z = rows_normal(dims, rows)
        return z * jnp.exp(keys.between(knob[:, 0], 0.1, 0.5)[:, None, None] * z * z).clip(0.0, 50.0)

    def categorical(_):
        count = keys.log_integer(knob[:, 0], jnp.float32(2.0), jnp.float32(levels))
        return product(table, member(rows_uniform(extra, rows), count))

    def low_rank(_):
        factor = rows_normal(Stream(dims.a[:, :2], dims.b[:, :2]), rows)
        return product(table[:, :, :2], factor) + 0.05 * table[:, :, 2:3] * factor[:, :1] ** 2

    def zipf(_):
        # Counts with a power-law tail, P(k >= n) = n ** -alpha, on a logarithmic scale.
        alpha = keys.between(knob[:, 0], 0.7, 2.5)[:, None, None]
        return jnp.log(jnp.floor(jnp.exp(jnp.minimum(-jnp.log(rows_uniform(dims, rows)) / alpha, 9.0))))

    def grouped(_):
        # Rows fall into groups (clients, sites, repeated measurements) that all grouped roots of a task share, so rows
        # of a group resemble one another in every such root: exchangeable, not independent given the model.
        shared = jax.vmap(lambda s: keys.uniform(s, (2,)))(keys.sub(stream, Purpose.GROUPS))
        count = keys.log_between(shared[:, 0], jnp.float32(4.0), jnp.float32(64.0))[:, None]
        place = rows_uniform(keys.sub(stream, Purpose.GROUP_ROWS), rows)
        group = jnp.floor(count * jnp.exp((1.0 + 2.0 * shared[:, 1:]) * jnp.log(place))).astype(jnp.int32)
        centre = level_effects(keys.sub(own, 2), group, w)
        near = keys.between(knob[:, 0], 0.6, 0.98)[:, None, None]
        return jnp.sqrt(near) * centre + jnp.sqrt(1.0 - near) * rows_normal(dims, rows)

    kinds = [normal, uniform, mixture, heavy_tailed, categorical, low_rank, zipf, grouped]
    value = jax.lax.switch(kind, kinds, None)
    correlate = jnp.where(knob[:, 3] < 0.5, 1.0, 0.0)[:, None, None]
    value = value + correlate * (product(mixing * w**-0.5, value) - value)
    return activate(act, value)


def _noise_direction(weight_stream: Stream, instruction: jax.Array, width: int) -> jax.Array:
    """f32[width]: how strongly, and with which sign, a node's one noise acts on each of its coordinates."""
    return keys.normal(keys.sub(keys.sub(weight_stream, instruction), 9), (width,))


def noise_share(sizes: Sizes, plan: TaskPlan, stream: Stream) -> jax.Array:
    """f32[L]: the share of the (first) target node's variance that is its own exogenous noise, mean over its coordinates in
    use, by the plan. A root has none beside its base law: 0. A node without parents is nothing else: 1. Not known to the plan:
    mechanisms that turn out constant, whose nodes are noise too, and noise that grows with the value."""
    node = plan.target_node[:, 0]
    at = lambda v: jnp.take_along_axis(v, node[:, None], axis=1)[:, 0]
    weights = keys.sub(stream, Purpose.WEIGHTS)
    direction = jax.vmap(lambda s, i: _noise_direction(s, i, sizes.width))(weights, node - sizes.roots)
    power = (at(plan.noise_level)[:, None] * direction) ** 2
    used = jnp.arange(sizes.width)[None, :] < at(plan.width)[:, None]
    share = jnp.sum(jnp.where(used, power / (1.0 + power), 0.0), axis=1) / at(plan.width)
    alone = ~jnp.take_along_axis(plan.parents, node[:, None, None], axis=2)[:, :, 0].any(axis=1)
    return jnp.where(node < sizes.roots, 0.0, jnp.where(alone, 1.0, share))


def propagate(
    sizes: Sizes,
    cohort: CohortPlan,
    plan: TaskPlan,
    law: LawArrays,
    stream: Stream,
    rows: jax.Array,
    params: MechanismParams | None = None,
    do: Intervention | None = None,
) -> tuple[jax.Array, MechanismParams]:
    """Computes every coordinate of every node for the given rows of a block.

    Args:
      sizes: static sizes.
      cohort: the block's cohort plan (no task axis).
      plan, stream: per task, leading axis L.
      law: component laws.
      rows: u32[r] row addresses; when `params` is None the first `sizes.reference_rows` of them are reference rows.
      params: fitted parameters, or None to fit them here.
      do: an intervention, or None.

    Returns:
      values f32[L, N * W, r] (node-major coordinates, unused nodes 0) and the parameters used.
    """
    lanes, n, w, s, p = plan.active.shape[0], sizes.nodes, sizes.width, sizes.instructions, sizes.inputs
    ref = sizes.reference_rows
    fitting = params is None
    alone = on_cpu()  # else many blocks go side by side: a branch would copy all values, so what is stored is masked instead
    if fitting:
        params = MechanismParams(
            jnp.zeros((lanes, s, p, sizes.anchors)), jnp.zeros((lanes, n, w)), jnp.zeros((lanes, n, w))
        )
    node_rows = keys.sub(stream, Purpose.NODE_ROWS)
    weight_stream = keys.sub(stream, Purpose.WEIGHTS)
    clip = jnp.float32(1e4)

    def write(values, params, node, raw, noise_level, direction, here=None):
        """Standardises, adds noise, intervenes and stores one node; raw f32[L, W, r]. With ``here`` false nothing is stored."""
        if fitting:
            mean, scale = _moments(raw[..., :ref])
            if here is not None:
                mean, scale = jnp.where(here, mean, 0.0), jnp.where(here, scale, 0.0)
            params = params._replace(
                mean=jax.lax.dynamic_update_slice(params.mean, mean[:, None], (0, node, 0)),
                scale=jax.lax.dynamic_update_slice(params.scale, scale[:, None], (0, node, 0)),
            )
        else:
            mean = jax.lax.dynamic_index_in_dim(params.mean, node, 1, keepdims=False)
            scale = jax.lax.dynamic_index_in_dim(params.scale, node, 1, keepdims=False)
        v = (raw - mean[..., None]) * scale[..., None]
        if noise_level is None:
            # A root coordinate that its activation made constant is noise instead.
            spare = rows_normal(keys.sub(node_rows, node), rows)
            v = jnp.where(scale[..., None] > 0, v, spare[:, None, :])
        else:
            # A coordinate without a signal (no parents, or a constant function) is pure noise, never a constant.
            eps = noise_from_uniform(cohort.noise, rows_uniform(keys.sub(node_rows, node), rows))  # [L, r]
            level = jnp.where(scale > 0, noise_level[:, None], 1.0) * direction  # [L, W]
            hetero = jax.lax.dynamic_index_in_dim(plan.heteroscedastic, node, 1, keepdims=False)
            strength = 1.0 + hetero[:, None] * jnp.tanh(v[:, 0])
            v = v + level[..., None] * (eps * strength)[:, None, :]
            v = v * jax.lax.rsqrt(jnp.where(scale > 0, 1.0, 0.0) + level * level + 1e-6)[..., None]
        v = jnp.clip(v, -clip, clip)
        if do is not None:
            keep = jax.lax.dynamic_index_in_dim(do.keep, node, 1, keepdims=False)
            add = jax.lax.dynamic_index_in_dim(do.add, node, 1, keepdims=False)
            v = v * keep[..., None] + add[..., None]
        if here is not None:
            v = jnp.where(here, v, 0.0)
        return jax.lax.dynamic_update_slice(values, v, (0, node * w, 0)), params

    def run_root(i, carry):
        values, params = carry
        raw = root_rows(sizes, cohort.root[i], cohort.root_activation[i], stream, rows, i)
        return write(values, params, i, raw, None, None, None if alone else i < cohort.n_roots)

    def run_instruction(i, carry):
        values, params, folded = carry
        index = jax.lax.dynamic_index_in_dim(plan.inputs, i, 1, keepdims=False)  # [L, P]
        x = jax.vmap(lambda v, k: v[k])(values, index)
        if fitting:
            # Reference rows are independent draws, so the first ones serve as a random sample.
            anchors = x[..., : sizes.anchors]
            if not alone:
                anchors = jnp.where(i < cohort.n_instructions, anchors, 0.0)
            params = params._replace(
                anchors=jax.lax.dynamic_update_slice(params.anchors, anchors[:, None], (0, i, 0, 0))
            )
        else:
            anchors = jax.lax.dynamic_index_in_dim(params.anchors, i, 1, keepdims=False)
        cut = quantiser(law, stream, index[:, 0])
        weights: Weights = jax.vmap(lambda t, q: draw_weights(sizes, law, keys.sub(t, i), q))(weight_stream, cut)
        out = apply_family(sizes, cohort.family[i], cohort.activation[i], weights, anchors, x)
        alive = jax.lax.dynamic_index_in_dim(plan.has_parents, i, 1, keepdims=False)
        out = jnp.where(alive[:, None, None], out, 0.0)

        def fold(op):
            squash = lambda v: jnp.clip(v, -30.0, 30.0)
            return [lambda a, b: b, lambda a, b: a + b, lambda a, b: squash(a) * squash(b), jnp.maximum,
                    lambda a, b: jnp.logaddexp(squash(a), squash(b))][op]  # fmt: skip

        branch = jnp.where(cohort.part[i] == 0, 0, cohort.combine[i])
        folded = jax.lax.switch(branch, [lambda ab, o=o: fold(o)(*ab) for o in range(5)], (folded, out))

        def close(carry, here=None):
            values, params = carry
            node = sizes.roots + i
            level = jax.lax.dynamic_index_in_dim(plan.noise_level, node, 1, keepdims=False)
            direction = jax.vmap(lambda t: _noise_direction(t, i, w))(weight_stream)
            return write(values, params, node, folded, level, direction, here)

        if alone:
            values, params = jax.lax.cond(cohort.closes[i], close, lambda c: c, (values, params))
        else:
            values, params = close((values, params), cohort.closes[i] & (i < cohort.n_instructions))
        return values, params, folded

    values = jnp.zeros((lanes, n * w, rows.shape[0]), jnp.float32)
    values, params = jax.lax.fori_loop(0, trips(cohort.n_roots, sizes.roots), run_root, (values, params))
    folded = jnp.zeros((lanes, w, rows.shape[0]), jnp.float32)
    values, params, _ = jax.lax.fori_loop(
        0, trips(cohort.n_instructions, s), run_instruction, (values, params, folded)
    )
    return values, params
