"""Addressed randomness: every number of a task is a hash of (seed, task id, purpose, index), never a place in a stream.

A `Stream` is two 32-bit words. `task_stream` derives a task's words from JAX's own threefry key; below it numbers come
from a counter-based integer hash, because a task needs tens of thousands of them and on a CPU threefry would be a large part of the
whole cost. The hash is two rounds of the "lowbias32" finaliser (C. Wellons, "Prospecting for Hash Functions", 2018), one
per word. It is fit for simulation, not for cryptography.

Addressing has two consequences the engine relies on: drawing a longer axis changes no earlier number, so row i of a task
is the same however many rows are asked for, and adding a purpose shifts no other draw.
"""

from __future__ import annotations

import enum
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Purpose(enum.IntEnum):
    """The roles randomness plays. Values are part of the engine version: append, never renumber."""

    COHORT = 1
    GRAPH = 2
    INPUTS = 3
    WEIGHTS = 4
    ROOT_ROWS = 5
    NODE_ROWS = 6
    COLUMNS = 7
    COLUMN_ROWS = 8
    TARGET = 9
    TARGET_ROWS = 10
    MISSING = 11
    MISSING_ROWS = 12
    TABLE = 13
    ROOTS = 14
    NODES = 15
    LEVELS = 16
    GROUPS = 17
    GROUP_ROWS = 18
    DUPLICATES = 19
    DUPLICATE_ROWS = 20
    CORRUPTION = 21
    CORRUPTION_ROWS = 22
    TARGET_VALUE = 23
    TARGET_VALUE_ROWS = 24
    INTERVENTIONS = 25
    ADDITIVE = 26


def seed_key(seed: int) -> jax.Array:
    """The key of a seed, with which its tasks are drawn everywhere. JAX keeps 32 bits of a seed; those above are folded in.

    Raises:
      ValueError: not a whole number in [0, 2**63).
    """
    if not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed!r}; it must be a whole number in [0, 2**63)")
    low, high = int(seed) & 0xFFFFFFFF, int(seed) >> 32
    key = jax.random.key(low)
    # By way of a constant of its own, so that no such key is what a smaller seed derives for a task or for cohorts.
    return jax.random.fold_in(jax.random.fold_in(key, 0x5EED64), high) if high else key


class Stream(NamedTuple):
    """An address in the space of random numbers (two uint32 words of equal shape)."""

    a: jax.Array
    b: jax.Array


def _mix(x: jax.Array) -> jax.Array:
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def task_stream(key: jax.Array, task_id: jax.Array) -> Stream:
    """The stream of one task. key: a typed scalar PRNG key; task_id: integer scalar (taken modulo 2**32)."""
    words = jax.random.key_data(jax.random.fold_in(key, task_id)).astype(jnp.uint32)
    return Stream(words[..., 0], words[..., 1])


def cohort_stream(key: jax.Array, cohort_id: jax.Array) -> Stream:
    """The stream shared by the tasks of one cohort; disjoint from every task's own."""
    return task_stream(jax.random.fold_in(key, 0x5EED), cohort_id)


def sub(stream: Stream, purpose: int | jax.Array) -> Stream:
    """The stream of one role, or of one member (node, column, ...) of a role."""
    p = jnp.asarray(purpose).astype(jnp.uint32) * jnp.uint32(0x9E3779B9) + jnp.uint32(0x7F4A7C15)
    a = _mix(stream.a ^ p)
    return Stream(a, _mix(stream.b + (a ^ (p >> 7)) + p))


def bits(stream: Stream, index: jax.Array) -> jax.Array:
    """u32 numbers at the given addresses (index: integers of any shape, broadcast against the stream's words)."""
    i = index.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)
    return _mix(_mix(i + stream.a) ^ stream.b)


def to_uniform(b: jax.Array) -> jax.Array:
    """f32 in (0, 1), 24 bits, never 0 nor 1: the largest sum rounds up to 2**24, and 1 would choose what has no weight."""
    return jnp.minimum(((b >> 8).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-24), jnp.float32(1.0 - 2.0**-24))


def to_normal(u: jax.Array) -> jax.Array:
    """Standard normals from uniforms in (0, 1) by the inverse distribution function; within +-5.4."""
    return jnp.float32(2.0**0.5) * jax.lax.erf_inv(jnp.clip(2.0 * u - 1.0, -0.99999994, 0.99999994))


def uniform(stream: Stream, shape: tuple[int, ...] = ()) -> jax.Array:
    """f32 uniforms in (0, 1); a scalar stream. The leading axis may grow without changing earlier numbers."""
    size = 1
    for n in shape:
        size *= n
    return to_uniform(bits(stream, jnp.arange(size, dtype=jnp.uint32))).reshape(shape)


def normal(stream: Stream, shape: tuple[int, ...] = ()) -> jax.Array:
    return to_normal(uniform(stream, shape))


def between(u: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Maps uniforms to [low, high]."""
    return low + u * (high - low)


def log_between(u: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Maps uniforms to the log-uniform law on [low, high]; low > 0."""
    return jnp.exp(between(u, jnp.log(low), jnp.log(high)))


def log_integer(u: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """i32 with the floor of a log-uniform law on [low, high + 1), clipped to [low, high]."""
    v = jnp.floor(log_between(u, jnp.maximum(low, 1.0), high + 1.0))
    return jnp.clip(v, low, high).astype(jnp.int32)


def choose(u: jax.Array, weights: jax.Array) -> jax.Array:
    """i32 index into `weights` (last axis, not normalised) with probability proportional to the weight."""
    c = jnp.cumsum(weights, axis=-1)
    index = jnp.sum(u[..., None] * c[..., -1:] >= c, axis=-1)
    return jnp.minimum(index, weights.shape[-1] - 1).astype(jnp.int32)
