"""Mechanism families: random functions from an instruction's inputs to a node's dimensions.

Every family works on a block of L tasks at once, feature-major (rows last, so that reading an input is one contiguous
copy): inputs f32[L, P, r] -> outputs f32[L, W, r], row by row independent. What depends on data enters through `anchors`,
the inputs of a few reference rows: thresholds of trees, prototypes, centres. The rest are random weights.

Families, with the priors they generalise: linear, MLP and deep MLP (TabPFN, arXiv 2207.01848; TabICL, 2502.05564), oblivious
and heap-shaped random trees (Mitra, 2510.21204; TabICLv2, 2602.11139), nearest and soft prototypes, random Fourier features
of a Gaussian process (Rahimi & Recht 2007), low-rank quadratic forms, gated linear experts, and many-levelled
categories with an effect of their own per level (see `levels`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..configs.prior import FAMILIES, Sizes
from . import keys
from .activations import activate
from .keys import Stream
from .laws import LawArrays
from .levels import Quantiser, level_effects, level_of


class Weights(NamedTuple):
    """Random numbers of one instruction, before any family reads them (leading axis: tasks of the block)."""

    normal: jax.Array  # f32[..., n_normals(sizes)]
    uniform: jax.Array  # f32[..., n_uniforms(sizes)]
    relevance: jax.Array  # f32[..., P], scale of each input, root mean square 1
    gain: jax.Array  # f32[...], slope of activations
    frequency: jax.Array  # f32[...], inverse length scale
    table: Stream  # where the effects of levels are drawn
    cut: Quantiser  # levels of the first input


def n_normals(sizes: Sizes) -> int:
    p, h, w = sizes.inputs, sizes.hidden, sizes.width
    return max(
        h * p + h + h * h + h + w * h,
        sizes.trees * 2**sizes.tree_depth * w,
        2**sizes.deep_tree_depth * w,
        sizes.anchors * w,
        sizes.frequencies * (p + 1 + w),
        2 * h * p + w * h,
        4 * (p * w + p),
    )


def n_uniforms(sizes: Sizes) -> int:
    return 2 * max(sizes.trees * sizes.tree_depth, 2**sizes.deep_tree_depth, sizes.frequencies)


def draw_weights(sizes: Sizes, law: LawArrays, stream: Stream, cut: Quantiser) -> Weights:
    """The weights of one instruction of one task; `cut` is how the levels of its first input are read."""
    u = keys.uniform(keys.sub(stream, 0), (4,))
    decay = keys.between(u[0], *law["weight_decay"])
    raw = jnp.exp(decay * jnp.log(keys.uniform(keys.sub(stream, 1), (sizes.inputs,))))
    return Weights(
        normal=keys.normal(keys.sub(stream, 2), (n_normals(sizes),)),
        uniform=keys.uniform(keys.sub(stream, 3), (n_uniforms(sizes),)),
        relevance=raw / jnp.sqrt(jnp.mean(raw * raw) + 1e-12),
        gain=keys.log_between(u[1], *law["activation_gain"]),
        frequency=keys.log_between(u[2], *law["frequency"]),
        table=keys.sub(stream, 4),
        cut=cut,
    )


MARGIN = 1e-4
"""Nodes are often discrete, so inputs tie with thresholds and prototypes with one another. A margin far above rounding and far
below the unit scale of nodes decides ties by rule; without it the last bit of a sum would."""


def nearest(far: jax.Array) -> jax.Array:
    """One-hot f32[L, A, r] of the smallest squared distance along axis 1; of equals the first."""
    far = far + (10.0 * MARGIN) * jnp.arange(far.shape[1], dtype=jnp.float32)[:, None]
    return (far <= jnp.min(far, axis=1, keepdims=True)).astype(jnp.float32)


class _Take:
    """Cuts named matrices out of the flat normals, in order."""

    def __init__(self, flat: jax.Array):
        self.flat, self.at = flat, 0

    def __call__(self, *shape: int) -> jax.Array:
        size = 1
        for n in shape:
            size *= n
        out = self.flat[:, self.at : self.at + size].reshape(self.flat.shape[0], *shape)
        self.at += size
        return out


def _apply(matrix: jax.Array, x: jax.Array) -> jax.Array:
    """[L, o, i] x [L, i, r] -> [L, o, r] in full float32: comparisons and phases follow."""
    return jnp.einsum("loi,lir->lor", matrix, x, precision=jax.lax.Precision.HIGHEST)


def _linear(sizes: Sizes, wt: Weights, anchors, act, x):
    p, w = sizes.inputs, sizes.width
    return _apply(_Take(wt.normal)(w, p) * (wt.relevance[:, None, :] * p**-0.5), x)


def _mlp(sizes: Sizes, wt: Weights, anchors, act, x):
    p, h, w = sizes.inputs, sizes.hidden, sizes.width
    take = _Take(wt.normal)
    hidden = _apply(take(h, p) * (wt.relevance[:, None, :] * p**-0.5), x) + take(h)[..., None]
    return _apply(take(w, h) * h**-0.5, activate(act, hidden * wt.gain[:, None, None]))


def _deep_mlp(sizes: Sizes, wt: Weights, anchors, act, x):
    p, h, w = sizes.inputs, sizes.hidden, sizes.width
    take = _Take(wt.normal)
    hidden = jnp.tanh(_apply(take(h, p) * (wt.relevance[:, None, :] * p**-0.5), x) * 1.5 + take(h)[..., None])
    hidden = (_apply(take(h, h) * (h / 2) ** -0.5, hidden) + 0.5 * take(h)[..., None]) * wt.gain[:, None, None]
    return _apply(take(w, h) * h**-0.5, activate(act, hidden))


def _split_features(wt: Weights, count: int) -> jax.Array:
    """i32[L, count]: inputs to split on, drawn in proportion to squared relevance."""
    return keys.choose(wt.uniform[:, :count], (wt.relevance**2)[:, None, :])


def _splits(wt: Weights, anchors: jax.Array, x: jax.Array, count: int) -> jax.Array:
    """bool[L, count, r]: input > threshold, the threshold being that input's value at a random anchor row."""
    feature = _split_features(wt, count)
    row = jnp.floor(wt.uniform[:, count : 2 * count] * anchors.shape[2]).astype(jnp.int32)
    threshold = jax.vmap(lambda a, f, i: a[f, i])(anchors, feature, row)
    return jax.vmap(lambda v, f: v[f])(x, feature) > threshold[:, :, None] + MARGIN


def _oblivious_trees(sizes: Sizes, wt: Weights, anchors, act, x):
    """A sum of trees that test the same split at every node of a level; leaves are standard normal."""
    t, d, w = sizes.trees, sizes.tree_depth, sizes.width
    bits = _splits(wt, anchors, x, t * d).reshape(x.shape[0], t, d, -1)
    code = jnp.sum(bits * (2 ** jnp.arange(d, dtype=jnp.int32))[:, None], axis=2)  # [L, t, r]
    hot = (code[:, :, None, :] == jnp.arange(2**d, dtype=jnp.int32)[:, None]).astype(jnp.float32)
    leaves = _Take(wt.normal)(t * 2**d, w)
    # Trees shrink geometrically, like the stages of boosting: one dominant tree up to an even sum.
    rate = 0.4 + 0.6 * wt.uniform[:, -1]
    leaves = leaves * jnp.repeat(rate[:, None] ** jnp.arange(t), 2**d, axis=1)[..., None]
    return _apply(jnp.swapaxes(leaves, 1, 2), hot.reshape(x.shape[0], t * 2**d, -1))


def _deep_tree(sizes: Sizes, wt: Weights, anchors, act, x):
    """One heap-shaped tree, every inner node with a split of its own."""
    d, w = sizes.deep_tree_depth, sizes.width
    bits = _splits(wt, anchors, x, 2**d - 1).astype(jnp.int32)
    node = jnp.zeros((x.shape[0], x.shape[2]), jnp.int32)
    for _ in range(d):
        node = 2 * node + 1 + jnp.take_along_axis(bits, node[:, None, :], axis=1)[:, 0]
    leaves = _Take(wt.normal)(w, 2**d)
    return jnp.take_along_axis(leaves, (node - (2**d - 1))[:, None, :], axis=2)


def _distances(wt: Weights, anchors: jax.Array, x: jax.Array) -> jax.Array:
    """f32[L, A, r]: squared distances to the anchors, up to a constant per row, inputs scaled by relevance."""
    scale = wt.relevance[:, :, None]
    a, v = anchors * scale, x * scale
    return jnp.sum(a * a, axis=1)[:, :, None] - 2.0 * _apply(jnp.swapaxes(a, 1, 2), v)


def _used(wt: Weights, sizes: Sizes) -> jax.Array:
    """bool[L, A]: how many anchors this instruction uses, log-uniform from 2 to all."""
    count = keys.log_integer(wt.uniform[:, 0], jnp.float32(2.0), jnp.float32(sizes.anchors))
    return jnp.arange(sizes.anchors)[None, :] < count[:, None]


def _prototypes(sizes: Sizes, wt: Weights, anchors, act, x):
    """Discretisation: every row takes the value of its nearest prototype."""
    far = jnp.where(_used(wt, sizes)[:, :, None], _distances(wt, anchors, x), jnp.float32(3e38))
    return _apply(_Take(wt.normal)(sizes.width, sizes.anchors), nearest(far))


def _soft_prototypes(sizes: Sizes, wt: Weights, anchors, act, x):
    """Soft assignment to the prototypes (an expectation step of a mixture of Gaussians)."""
    sharp = 0.5 * (wt.frequency[:, None, None] ** 2)
    logits = jnp.where(_used(wt, sizes)[:, :, None], -sharp * _distances(wt, anchors, x), jnp.float32(-3e38))
    return _apply(_Take(wt.normal)(sizes.width, sizes.anchors), jax.nn.softmax(logits, axis=1))


def _fourier(sizes: Sizes, wt: Weights, anchors, act, x):
    """Random Fourier features of a Gaussian process. The radial law is a scale mixture: frequencies are normal times
    (1 - u)^(-1/6), heavier-tailed than a squared exponential's, which makes rougher sample paths (Matérn-like)."""
    p, r, w = sizes.inputs, sizes.frequencies, sizes.width
    take = _Take(wt.normal)
    radial = jnp.minimum((1.0 - wt.uniform[:, :r]) ** (-1.0 / 6.0), 8.0) * wt.frequency[:, None]
    omega = take(r, p) * radial[:, :, None] * (wt.relevance[:, None, :] * p**-0.5)
    phase = take(r)[..., None] * 3.0
    return _apply(take(w, r) * (2.0 / r) ** 0.5, jnp.cos(_apply(omega, x) + phase))


def _quadratic(sizes: Sizes, wt: Weights, anchors, act, x):
    """A low-rank quadratic form: products of linear forms, so interactions without main effects."""
    p, h, w = sizes.inputs, sizes.hidden, sizes.width
    take = _Take(wt.normal)
    scale = wt.relevance[:, None, :] * p**-0.5
    # A third of the second factors keep a constant, which adds main effects.
    bias = (jnp.arange(h) % 3 == 0)[None, :, None] * 1.0
    left, right = _apply(take(h, p) * scale, x), _apply(take(h, p) * scale, x) + bias
    return _apply(take(w, h) * h**-0.5, left * right)


def _experts(sizes: Sizes, wt: Weights, anchors, act, x):
    """Three linear experts under a softmax gate."""
    p, w, e = sizes.inputs, sizes.width, 3
    take = _Take(wt.normal)
    scale = wt.relevance[:, None, :] * p**-0.5
    gate = jax.nn.softmax(_apply(take(e, p) * scale, x) * (3.0 * wt.gain[:, None, None]), axis=1)
    value = _apply((take(e, w, p) * scale[:, :, None, :]).reshape(-1, e * w, p), x) + take(e * w)[..., None]
    return jnp.sum(value.reshape(x.shape[0], e, w, -1) * gate[:, :, None, :], axis=1)


def _levels(sizes: Sizes, wt: Weights, anchors, act, x):
    """The first input as a category: every level has an effect of its own, beside a linear function of all inputs."""
    p, w = sizes.inputs, sizes.width
    own = level_effects(wt.table, level_of(wt.cut, x[:, 0]), w)
    rest = _apply(_Take(wt.normal)(w, p) * (wt.relevance[:, None, :] * p**-0.5), x)
    share = 0.3 + 0.7 * wt.uniform[:, 0, None, None]
    return jnp.sqrt(share) * own + jnp.sqrt(1.0 - share) * rest


_FAMILIES = {
    "linear": _linear, "mlp": _mlp, "deep_mlp": _deep_mlp, "oblivious_trees": _oblivious_trees, "deep_tree": _deep_tree,
    "prototypes": _prototypes, "soft_prototypes": _soft_prototypes, "fourier": _fourier, "quadratic": _quadratic,
    "experts": _experts, "levels": _levels,
}  # fmt: skip


def apply_family(
    sizes: Sizes, family: jax.Array, activation: jax.Array, weights: Weights, anchors: jax.Array, x: jax.Array
) -> jax.Array:
    """Evaluates one instruction for a block.

    Args:
      family, activation: i32 scalars shared by the block; only that branch runs.
      weights: leading axis L.
      anchors: f32[L, P, A], inputs of the anchor rows.
      x: f32[L, P, r].

    Returns:
      f32[L, W, r], finite, clipped to +-1e4.
    """
    branches = [lambda a, f=_FAMILIES[name]: f(sizes, *a) for name in FAMILIES]
    out = jax.lax.switch(family, branches, (weights, anchors, activation, x))
    return jnp.clip(out, -1e4, 1e4)
