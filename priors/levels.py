"""Categories with many levels: one way of reading levels off a coordinate, shared by the column that shows them and the
mechanism that gives every level an effect of its own.

A coordinate v of a node (about standard normal) is cut into levels by ``floor(count * Phi(v) ** steep)``. For uniform
Phi(v) level k then holds a share that falls like a power of k with exponent 1 - 1 / steep: Zipf-like, from even (steep 1)
to a few frequent and many rare levels. Count and steepness are addressed by (task, coordinate), so an intervention on the
coordinate changes the category shown and its effects together.

Why: with one random function per node, neighbouring levels of a many-valued category tend to have similar effects. In real
tables (postcodes, product ids) every level has its own small effect, and that is what has to be learned from few rows each.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from . import keys
from .keys import Purpose, Stream
from .laws import LawArrays


class Quantiser(NamedTuple):
    """How a coordinate is cut into levels (leading axis: tasks)."""

    count: jax.Array  # i32[L]
    steep: jax.Array  # f32[L], at least 1


def quantiser(law: LawArrays, stream: Stream, coordinate: jax.Array) -> Quantiser:
    """The levels of one coordinate of each task. stream: the tasks' streams [L]; coordinate: i32[L], flat."""

    def one(s: Stream, c: jax.Array) -> Quantiser:
        u = keys.uniform(keys.sub(keys.sub(s, Purpose.LEVELS), c), (2,))
        return Quantiser(keys.log_integer(u[0], *law["many_levels"]), 1.0 + 2.0 * u[1])

    return jax.vmap(one)(stream, coordinate)


def level_of(cut: Quantiser, v: jax.Array) -> jax.Array:
    """Levels i32[L, r] in 0 .. count-1 of values f32[L, r]; level 0 is the most frequent one."""
    share = jax.scipy.special.ndtr(jnp.clip(v, -6.0, 6.0))
    code = jnp.floor(cut.count[:, None] * jnp.exp(cut.steep[:, None] * jnp.log(jnp.maximum(share, 1e-9))))
    return jnp.clip(code.astype(jnp.int32), 0, cut.count[:, None] - 1)


def level_effects(table: Stream, level: jax.Array, width: int) -> jax.Array:
    """Standard normals f32[L, width, r], one per (task, level, dimension). table: streams [L]; level: i32[L, r]."""
    address = level[:, None, :] * width + jnp.arange(width, dtype=jnp.int32)[:, None]
    return keys.to_normal(keys.to_uniform(keys.bits(Stream(table.a[:, None, None], table.b[:, None, None]), address)))


def rename(level: jax.Array, count: jax.Array, u: jax.Array) -> jax.Array:
    """Levels under a random permutation of 0 .. count-1. level i32[L, r], count i32[L], u f32[L, K] with K >= count."""
    inside = jnp.arange(u.shape[1])[None, :] < count[:, None]
    order = jnp.argsort(jnp.where(inside, u, 2.0), axis=1)
    names = jnp.argsort(order, axis=1).astype(jnp.int32)
    return jnp.take_along_axis(names, level, axis=1)
