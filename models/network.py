"""The network: a set transformer over the cells of a table that classifies query rows given labelled context rows.

Layout after TabPFN v2 (one token per cell, attention over columns then rows) with the additions measured in the
nanoTabPFN speedrun (arXiv 2606.03681) and TabICLv2 (arXiv 2602.11139); each module says which.

Guarantees, tested: a query row influences no other row; the order of context rows changes nothing beyond rounding;
padded columns and padded context rows change nothing, whatever they hold; the plain forward, the forward with a static
context and the cached forward agree within rounding.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ..configs.model import ModelConfig
from ..priors.device import on_cpu
from .attention import pick_implementation
from .blocks import (
    Blocks,
    RowBlocks,
    feature_step,
    feature_step_by_rows,
    keeping_products,
    rms_norm,
    row_keys,
    row_step,
)
from .embedding import CellEmbedding, ColumnStatistics, cell_channels, column_statistics

MASKED_LOGIT = -1e9
"""Logit of a class that a task does not have."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ContextCache:
    """A context that was read once. Sizes: B tasks, F columns, L layers, T = 1 + F tokens, N = thinking + context rows.

    Attributes:
      keys, values: [L, B, T, N, E] in the network's dtype.
      statistics: the context statistics of every column.
      n_features, n_classes, n_context: i32[B].
      categorical: bool[B, F].
      row_keys, row_values: [R, B, 1, context rows, 2 E] for R layers over whole rows; None without such layers.
      votes: for a retrieval decoder what its context rows answer with: keys f32[B, rows, D] and labels i32[B, rows].
    """

    keys: jax.Array
    values: jax.Array
    statistics: ColumnStatistics
    n_features: jax.Array
    n_classes: jax.Array
    n_context: jax.Array
    categorical: jax.Array
    row_keys: jax.Array | None = None
    row_values: jax.Array | None = None
    votes: tuple[jax.Array, jax.Array] | None = None

    @property
    def nbytes(self) -> int:
        """Memory of all arrays held."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))


class PFN(nnx.Module):
    """Prior-fitted network for classification (module docstring).

    Call: ``model(x, y, n_features, n_classes, n_context, categorical, context=None) -> logits``. Sizes: B tasks,
    R rows, F columns, C = cfg.max_classes.

    Args:
      x: f32[B, R, F]; a value that is not finite counts as missing. Columns at or past ``n_features`` are never read.
      y: i32[B, R]; labels of query rows are never read.
      n_features, n_classes, n_context: i32[B]; at least 1, 2 and 1.
      categorical: bool[B, F].
      context: static. When given, rows ``[0, context)`` have room for context (those at or past ``n_context`` are
        masked), the others are query rows and only they get logits: f32[B, R - context, C]. When None, every row at
        or past ``n_context`` is a query row and all rows get an output, f32[B, R, C]; only rows at or past
        ``n_context`` mean something (the outputs of context rows have seen their own label).

    Returns:
      float32 logits; classes at or past ``n_classes`` have -1e9.
    """

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.embedding = CellEmbedding(cfg, rngs=rngs)
        self.blocks = Blocks(cfg, rngs=rngs)
        if cfg.row_layers:
            self.row_blocks = RowBlocks(cfg, rngs=rngs)
        self.decoder = (Decoder if cfg.decoder == "mlp" else RetrievalDecoder)(cfg, rngs=rngs)

    def __call__(self, x, y, n_features, n_classes, n_context, categorical, *, context: int | None = None) -> jax.Array:
        rows, thinking = x.shape[1], self.cfg.thinking_rows
        room = rows if context is None else context
        if not 0 < room <= rows or (context is not None and room == rows):
            raise ValueError(f"context is {context}; it must lie in [1, {rows - 1}] for tables of {rows} rows")
        dtype, kernel = self._numerics()
        cells, observed = _columns_first(x, n_features)
        is_context = jnp.arange(rows) < n_context[:, None]
        statistics = column_statistics(cells[:, :, :room], (observed & is_context[:, None])[:, :, :room])
        channels = cell_channels(cells, observed, categorical, statistics)
        h = self.embedding.tokens(channels, y, is_context, n_features, dtype)
        h = jnp.concatenate([self.embedding.thinking_tokens(*h.shape[:2], dtype), h], axis=2)
        n_tokens, n_keys = n_features + 1, n_context + thinking
        first = thinking + (0 if context is None else room)  # where the rows that get logits begin

        def block(h, w):
            h = feature_step(w, h, n_tokens, self.cfg.heads, kernel)
            keys = row_keys(w, h[:, :, : thinking + room])
            return row_step(w, h, keys, n_keys, n_context, kernel, self.cfg.activation), None

        unroll = self._unroll
        if not on_cpu():
            block, unroll = keeping_products(block), self.cfg.layers
        w = self.blocks.stacked()
        h, _ = jax.lax.scan(block, h, jax.tree.map(lambda a: a[:-1], w), unroll=unroll)
        w = jax.tree.map(lambda a: a[-1], w)
        h = feature_step(w, h, n_tokens, self.cfg.heads, kernel)
        keys = row_keys(w, h[:, :, : thinking + room])
        # What follows the last block: only rows with logits are read, or, where rows meet once more, all but the thinking ones.
        asking = h[:, :, thinking if self.cfg.row_layers else first :]
        seen = h[:, :, thinking : thinking + room]
        h = row_step(w, asking, keys, n_keys, n_context, kernel, self.cfg.activation)
        vectors = _row_vector(h, n_features)
        if self.cfg.row_layers:
            vectors, seen, _ = self._meet(vectors, room, first - thinking, n_context)
        else:
            seen = _row_vector(seen, n_features)
        votes = (self.decoder.keys(seen), y[:, :room]) if self.cfg.decoder == "retrieval" else None
        return self._decode(vectors, n_classes, n_context, votes)

    def _meet(self, rows: jax.Array, room: int, first: int | None, n_context: jax.Array):
        """The layers over whole rows. rows: f32[B, S, 2 E], of which those before ``room`` have room for context.

        Returns:
          f32[B, S - first, 2 E], the rows from ``first`` on (None: nothing); f32[B, room, 2 E], the context rows as they
          enter the last layer; keys and values of every layer, [R, B, 1, room, 2 E] each.
        """
        dtype, kernel = self._numerics()
        h, kept = self._enter(rows, dtype), []
        layers = self.row_blocks.layers()
        for i, w in enumerate(layers):
            kept.append(row_keys(w, h[:, :, :room]))
            seen, last = h[:, 0, :room], i == len(layers) - 1
            if not last:
                h = row_step(w, h, kept[-1], n_context, n_context, kernel, self.cfg.activation)
            elif first is not None:
                h = row_step(w, h[:, :, first:], kept[-1], n_context, n_context, kernel, self.cfg.activation)
        return h[:, 0].astype(jnp.float32), seen.astype(jnp.float32), tuple(map(jnp.stack, zip(*kept, strict=True)))

    def _enter(self, rows: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Row vectors f32[B, S, 2 E] as the layers over rows begin with them, [B, 1, S, 2 E]: of size 1, so that the trunk's
        scale, which depends on its depth, says nothing."""
        return rms_norm(rows, jnp.float32(1.0)).astype(dtype)[:, None]

    def encode_context(self, x, y, n_features, n_classes, n_context, categorical) -> ContextCache:
        """Reads the context once; `predict_queries` then answers any number of query rows.

        Args:
          x: f32[B, N, F]; context rows, those at or past ``n_context`` are padding.
          y: i32[B, N].
          n_features, n_classes, n_context: i32[B].
          categorical: bool[B, F].
        """
        rows, thinking = x.shape[1], self.cfg.thinking_rows
        dtype, kernel = self._numerics()
        cells, observed = _columns_first(x, n_features)
        is_context = jnp.arange(rows) < n_context[:, None]
        statistics = column_statistics(cells, observed & is_context[:, None])
        channels = cell_channels(cells, observed, categorical, statistics)
        h = self.embedding.tokens(channels, y, is_context, n_features, dtype)
        h = jnp.concatenate([self.embedding.thinking_tokens(*h.shape[:2], dtype), h], axis=2)
        n_tokens, n_keys = n_features + 1, n_context + thinking

        def block(h, w):
            h = feature_step_by_rows(w, h, n_tokens, self.cfg.heads)
            keys = row_keys(w, h)
            return row_step(w, h, keys, n_keys, n_context, kernel, self.cfg.activation), keys

        w = self.blocks.stacked()
        h, (keys, values) = jax.lax.scan(block, h, jax.tree.map(lambda a: a[:-1], w), unroll=self._unroll)
        w = jax.tree.map(lambda a: a[-1], w)
        h = feature_step_by_rows(w, h, n_tokens, self.cfg.heads)
        last = row_keys(w, h)
        keys, values = (jnp.concatenate([a, b[None]]) for a, b in zip((keys, values), last, strict=True))
        seen, met = h[:, :, thinking:], (None, None)
        if self.cfg.row_layers:
            seen = row_step(w, seen, last, n_keys, n_context, kernel, self.cfg.activation)
            _, seen, met = self._meet(_row_vector(seen, n_features), rows, None, n_context)
        else:
            seen = _row_vector(seen, n_features)
        votes = (self.decoder.keys(seen), y) if self.cfg.decoder == "retrieval" else None
        return ContextCache(keys, values, statistics, n_features, n_classes, n_context, categorical, *met, votes)

    def predict_queries(self, cache: ContextCache, x: jax.Array) -> jax.Array:
        """Logits f32[B, Q, C] of query rows x f32[B, Q, F], equal to the plain forward within rounding.

        Rows are independent, so any chunking of them gives the same answers.
        """
        h, n_tokens, n_keys, kernel = self.query_tokens(cache, x)

        def block(h, layer):
            w, keys, values = layer
            h = feature_step_by_rows(w, h, n_tokens, self.cfg.heads)
            return row_step(w, h, (keys, values), n_keys, cache.n_context, kernel, self.cfg.activation), None

        h, _ = jax.lax.scan(block, h, (self.blocks.stacked(), cache.keys, cache.values), unroll=self._unroll)
        rows = _row_vector(h, cache.n_features)
        if self.cfg.row_layers:
            h = self._enter(rows, h.dtype)
            for w, *keys in zip(self.row_blocks.layers(), cache.row_keys, cache.row_values, strict=True):
                h = row_step(w, h, tuple(keys), cache.n_context, cache.n_context, kernel, self.cfg.activation)
            rows = h[:, 0].astype(jnp.float32)
        return self._decode(rows, cache.n_classes, cache.n_context, cache.votes)

    def _decode(self, rows, n_classes, n_context, votes) -> jax.Array:
        """Logits of the rows given, f32[B, Q, 2 E]; ``votes``: what the context rows of a retrieval decoder, as they enter row
        attention of the last block or layer, answer with."""
        if votes is None:
            return self.decoder(rows, n_classes)
        return self.decoder(rows, n_classes, n_context, votes)

    def query_tokens(self, cache: ContextCache, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, str]:
        """What the blocks start from for query rows x f32[B, Q, F]: their tokens [B, 1 + F, Q, E], the tokens and the
        keys in use i32[B] each, and the kernel of row attention."""
        dtype, kernel = self._numerics()
        cells, observed = _columns_first(x, cache.n_features)
        channels = cell_channels(cells, observed, cache.categorical, cache.statistics)
        no_labels = jnp.zeros(x.shape[:2], jnp.int32)
        h = self.embedding.tokens(channels, no_labels, no_labels.astype(bool), cache.n_features, dtype)
        return h, cache.n_features + 1, cache.n_context + self.cfg.thinking_rows, kernel

    @property
    def _unroll(self) -> int:
        """Blocks per turn of the scan: all of a shallow trunk (spares copies of saved activations), else one."""
        return self.cfg.layers if self.cfg.layers <= 4 else 1

    def _numerics(self) -> tuple[jnp.dtype, str]:
        return numerics(self.cfg)


class Decoder(nnx.Module):
    """Class logits from the vector of a row, see `_row_vector`, in float32."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        width, hidden = 2 * cfg.width, cfg.decoder_hidden
        self.norm = nnx.Param(jnp.ones(width))
        self.into = nnx.Param(jax.random.normal(rngs.params(), (width, hidden)) / math.sqrt(width))
        self.into_bias = nnx.Param(jnp.zeros(hidden))
        self.out = nnx.Param(0.1 * jax.random.normal(rngs.params(), (hidden, cfg.max_classes)) / math.sqrt(hidden))
        self.out_bias = nnx.Param(jnp.zeros(cfg.max_classes))

    def __call__(self, rows: jax.Array, n_classes: jax.Array) -> jax.Array:
        """f32[B, Q, 2 E] -> f32[B, Q, C]."""
        x = rms_norm(rows, self.norm[...])
        logits = jax.nn.gelu(x @ self.into[...] + self.into_bias[...]) @ self.out[...] + self.out_bias[...]
        known = jnp.arange(logits.shape[-1]) < n_classes[:, None, None]
        return jnp.where(known, logits, MASKED_LOGIT)


class RetrievalDecoder(nnx.Module):
    """Class logits from the labels of similar context rows, in float32.

    A query row attends to context rows, whose values are their labels; the attention of all heads is averaged, and the
    logarithm of what each class received is its logit (TabPFN-3, arXiv 2605.13986, class decoder).
    """

    _FLOOR = 1e-4
    """Added to the share of every class, so that one that received nothing keeps a finite loss."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        width, inner = 2 * cfg.width, cfg.decoder_hidden
        self.heads, self.classes = cfg.heads, cfg.max_classes
        self.query_norm = nnx.Param(jnp.ones(width))
        self.key_norm = nnx.Param(jnp.ones(width))
        self.query = nnx.Param(jax.random.normal(rngs.params(), (width, inner)) / math.sqrt(width))
        self.key = nnx.Param(jax.random.normal(rngs.params(), (width, inner)) / math.sqrt(width))

    def keys(self, rows: jax.Array) -> jax.Array:
        """f32[B, N, 2 E] -> f32[B, N, D]: what context rows are found by."""
        return rms_norm(rows, self.key_norm[...]) @ self.key[...]

    def __call__(
        self, rows: jax.Array, n_classes: jax.Array, n_context: jax.Array, votes: tuple[jax.Array, jax.Array]
    ) -> jax.Array:
        """f32[B, Q, 2 E] and keys f32[B, N, D] with labels i32[B, N], of which n_context count -> f32[B, Q, C]."""
        keys, y = votes
        q = rms_norm(rows, self.query_norm[...]) @ self.query[...]
        split = lambda a: a.reshape(*a.shape[:2], self.heads, -1)
        q, k = split(q), split(keys)
        counts = jnp.arange(keys.shape[1]) < n_context[:, None]
        scores = jnp.einsum("bqhd,bnhd->bhqn", q, k) / math.sqrt(q.shape[-1])
        weights = jax.nn.softmax(jnp.where(counts[:, None, None], scores, -jnp.inf), axis=-1).mean(1)
        label = jax.nn.one_hot(jnp.where(counts, y, -1), self.classes)
        logits = jnp.log(weights @ label + self._FLOOR)
        known = jnp.arange(self.classes) < n_classes[:, None, None]
        return jnp.where(known, logits, MASKED_LOGIT)


def _row_vector(h: jax.Array, n_features: jax.Array) -> jax.Array:
    """[B, 1 + F, S, E] -> f32[B, S, 2 E]: the mean of a row's active feature tokens beside its target token."""
    h = h.astype(jnp.float32)
    active = (jnp.arange(h.shape[1] - 1) < n_features[:, None]).astype(jnp.float32)[:, :, None, None]
    mean = (h[:, 1:] * active).sum(1) / n_features.astype(jnp.float32)[:, None, None]
    return jnp.concatenate([mean, h[:, 0]], axis=-1)


def _columns_first(x: jax.Array, n_features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x [B, S, F] as f32[B, F, S], and which cells hold a value: finite, and in an active column."""
    x = jnp.swapaxes(x.astype(jnp.float32), 1, 2)
    active = jnp.arange(x.shape[1]) < n_features[:, None]
    observed = jnp.isfinite(x) & active[:, :, None]
    return jnp.where(observed, x, 0.0), observed


def numerics(cfg: ModelConfig) -> tuple[jnp.dtype, str]:
    """The dtype of activations and the kernel of row attention that a network of this shape uses on this machine."""
    name = ("float32" if on_cpu() else "bfloat16") if cfg.dtype == "auto" else cfg.dtype
    dtype = jnp.dtype(name)
    return dtype, pick_implementation(cfg.attention, dtype, cfg.head_width)


def init_params(cfg: ModelConfig, seed: int = 0) -> dict[str, Any]:
    """Fresh parameters as a plain nested dict of float32 arrays (what training and the weights file hold)."""
    return _initialiser(cfg)(jax.random.key(seed))


def with_params(cfg: ModelConfig, params: dict[str, Any]) -> PFN:
    """The network with these parameters; cheap (no initialisation), also under jit with traced parameters."""
    graph, state = _skeleton(cfg)
    filled = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(filled, params)
    return nnx.merge(graph, filled)


def count_params(params: dict[str, Any]) -> int:
    """Numbers held by a parameter tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@functools.lru_cache(maxsize=8)
def _initialiser(cfg: ModelConfig) -> Callable[[jax.Array], dict[str, Any]]:
    """Kept, because a run asks for weights of one network several times, and a large one takes ten seconds to compile."""
    return jax.jit(lambda key: nnx.to_pure_dict(nnx.state(PFN(cfg, rngs=nnx.Rngs(key)), nnx.Param)))


@functools.lru_cache(maxsize=32)
def _skeleton(cfg: ModelConfig):
    return nnx.split(nnx.eval_shape(lambda: PFN(cfg, rngs=nnx.Rngs(0))))
