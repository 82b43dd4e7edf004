"""From a raw table to tokens: context statistics of every column, channels of every cell, the embedding itself.

Every number that describes a column is taken from context rows only, so that no query row can reach another row.
Array layout inside the network is [task, token, row, channel]: the rows of one column lie next to one another, which
is what attention over rows (the larger of the two) reads.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ..configs.model import ModelConfig

CHANNELS = 4
"""Channels of one cell: soft-clipped z-score, rank in [-1, 1], missing flag, categorical flag."""

_PAIRWISE_LIMIT = 512
"""Up to this many context rows ranks come from comparing all pairs (no sort); beyond, from sort and search."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ColumnStatistics:
    """What context rows say about each column. Sizes: B tasks, F columns, N rows with room for context.

    Attributes:
      mean: f32[B, F, 1]; mean of the observed context values.
      scale: f32[B, F, 1]; reciprocal of their standard deviation, 0 for a constant or unobserved column.
      count: f32[B, F, 1]; observed context values.
      values: f32[B, F, N]; observed context values, +inf elsewhere (sorted when N is large).
    """

    mean: jax.Array
    scale: jax.Array
    count: jax.Array
    values: jax.Array


def column_statistics(x: jax.Array, observed: jax.Array) -> ColumnStatistics:
    """Statistics of columns over their observed context cells.

    Args:
      x: f32[B, F, N]; any value, also NaN, where ``observed`` is False.
      observed: bool[B, F, N]; True for a context row with a finite value.
    """
    count = observed.sum(-1, keepdims=True).astype(jnp.float32)
    safe = jnp.maximum(count, 1.0)
    mean = jnp.where(observed, x, 0.0).sum(-1, keepdims=True) / safe
    low = jnp.where(observed, x, jnp.inf).min(-1, keepdims=True)
    high = jnp.where(observed, x, -jnp.inf).max(-1, keepdims=True)
    # Deviations are divided by the largest one before they are squared: values near 1e30 must not overflow.
    centred = jnp.where(observed, x - mean, 0.0)
    largest = jnp.abs(centred).max(-1, keepdims=True)
    unit = centred / jnp.where(largest > 0, largest, 1.0)
    deviation = largest * jnp.sqrt((unit * unit).sum(-1, keepdims=True) / safe)
    varies = (high > low) & (deviation > 0)
    scale = jnp.where(varies, 1.0 / jnp.where(varies, deviation, 1.0), 0.0)
    values = jnp.where(observed, x, jnp.inf)
    if x.shape[-1] > _PAIRWISE_LIMIT:
        values = jnp.sort(values, axis=-1)
    return ColumnStatistics(mean, scale, count, values)


def soft_clip(z: jax.Array, limit: float = 3.0) -> jax.Array:
    """Identity up to ``limit`` in magnitude, logarithmic beyond; smooth to first order."""
    size = jnp.abs(z)
    return jnp.where(size <= limit, z, jnp.sign(z) * (limit + jnp.log1p(jnp.maximum(size - limit, 0.0))))


def context_ranks(x: jax.Array, statistics: ColumnStatistics) -> jax.Array:
    """Mid-rank of each value among the observed context values of its column, scaled to [-1, 1].

    Args:
      x: f32[B, F, S], finite.

    Returns:
      f32[B, F, S]; -1 below all context values, +1 above all, 0 for a column without observed values.
    """
    values = statistics.values
    if values.shape[-1] > _PAIRWISE_LIMIT:
        search = jax.vmap(jax.vmap(lambda v, q: (jnp.searchsorted(v, q), jnp.searchsorted(v, q, side="right"))))
        below, not_above = search(values, x)
        twice = (below + not_above).astype(jnp.float32)
    else:
        pairs = x[..., :, None], values[..., None, :]
        twice = jnp.sum((pairs[1] < pairs[0]).astype(jnp.float32) + (pairs[1] <= pairs[0]).astype(jnp.float32), axis=-1)
    return jnp.where(statistics.count > 0, twice / jnp.maximum(statistics.count, 1.0) - 1.0, 0.0)


def cell_channels(x: jax.Array, observed: jax.Array, categorical: jax.Array, statistics: ColumnStatistics) -> jax.Array:
    """The channels of every cell, f32[B, F, S, CHANNELS].

    Args:
      x: f32[B, F, S].
      observed: bool[B, F, S]; False for a missing cell, whose value is not read.
      categorical: bool[B, F].
    """
    x = jnp.where(observed, x, statistics.mean)
    z = soft_clip((x - statistics.mean) * statistics.scale)
    rank = jnp.where(observed, context_ranks(x, statistics), 0.0)
    flag = jnp.broadcast_to(categorical[:, :, None], x.shape)
    return jnp.stack([z, rank, (~observed).astype(jnp.float32), flag.astype(jnp.float32)], axis=-1)


class CellEmbedding(nnx.Module):
    """Tokens from cells and labels: one token per column after one target token per row.

    Token j + 1 reads columns ``j + offset`` modulo the active columns (repeated grouping with distinct differences:
    speedrun of nanoTabPFN, arXiv 2606.03681, and TabICLv2, arXiv 2602.11139), so that columns with the same
    distribution can be told apart. The class embedding is added to the cells of context rows (target-aware embedding,
    TabICLv2) and stands in their target token; query rows hold one learned vector there.
    """

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        width, inputs = cfg.width, CHANNELS * len(cfg.group_offsets)
        self.offsets = cfg.group_offsets
        self.cell = nnx.Param(jax.random.normal(rngs.params(), (inputs, width)) / inputs**0.5)
        self.cell_bias = nnx.Param(jnp.zeros(width))
        self.class_in_cell = nnx.Param(_class_table(rngs.params(), cfg.max_classes, width))
        self.class_in_target = nnx.Param(_class_table(rngs.params(), cfg.max_classes, width))
        self.query_target = nnx.Param(0.5 * jax.random.normal(rngs.params(), (width,)))
        self.thinking = nnx.Param(0.5 * jax.random.normal(rngs.params(), (cfg.thinking_rows, width)))

    def cells(self, channels: jax.Array, n_features: jax.Array) -> jax.Array:
        """f32[B, F, S, CHANNELS] -> f32[B, F, S, E]; tokens at or past ``n_features`` hold nothing of use."""
        columns = jnp.arange(channels.shape[1])
        source = (columns[:, None] + jnp.asarray(self.offsets)) % n_features[:, None, None]
        grouped = jax.vmap(lambda c, i: c[i])(channels, source)  # [B, F, G, S, CHANNELS]
        grouped = jnp.moveaxis(grouped, 2, 3).reshape(*channels.shape[:3], -1)
        return grouped @ self.cell[...] + self.cell_bias[...]

    def tokens(
        self, channels: jax.Array, y: jax.Array, is_context: jax.Array, n_features: jax.Array, dtype: jnp.dtype
    ) -> jax.Array:
        """All tokens of the rows given, [B, 1 + F, S, E] in ``dtype``; the target token comes first.

        Args:
          channels: f32[B, F, S, CHANNELS].
          y: i32[B, S]; read where ``is_context`` only.
          is_context: bool[B, S].
          n_features: i32[B].
        """
        classes = self.class_in_cell[...].shape[0]
        label = jax.nn.one_hot(jnp.where(is_context, y, -1), classes)  # all zero for a query row
        cells = self.cells(channels, n_features) + (label @ self.class_in_cell[...])[:, None]
        target = label @ self.class_in_target[...] + (~is_context)[..., None] * self.query_target[...]
        return jnp.concatenate([target[:, None], cells], axis=1).astype(dtype)

    def thinking_tokens(self, tasks: int, tokens: int, dtype: jnp.dtype) -> jax.Array:
        """The learned rows, the same for every token: [B, 1 + F, thinking_rows, E]."""
        rows = self.thinking[...].astype(dtype)
        return jnp.broadcast_to(rows, (tasks, tokens, *rows.shape))


def _class_table(key: jax.Array, classes: int, width: int) -> jax.Array:
    """Orthogonal rows of norm sqrt(width) / 2 (random directions when there are more classes than dimensions)."""
    if classes > width:
        return 0.5 * jax.random.normal(key, (classes, width))
    return 0.5 * width**0.5 * jnp.linalg.qr(jax.random.normal(key, (width, classes)))[0].T
