"""Attention over the columns of a row and over the rows of a column.

Neither needs a mask tensor: which keys may be seen is always a prefix (the target token and the active columns; the
thinking rows and the context rows), given by its length per task.

The XLA path is written for what XLA:CPU does well: heads become a batch axis, every product is a plain batched matrix
product without transposed large operands, the softmax is normalised after the product with the values, and the backward
pass recomputes the weights from one number per query (as in FlashAttention, arXiv 2205.14135) instead of storing them.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .device import has_fused_attention

_MASKED = -1e30
"""Added to the score of a key that may not be seen; exp of it less any maximum is exactly 0 in float32."""

MAX_SCORES = 1 << 28
"""Attention scores the XLA path holds at once (1 GiB in float32). Beyond, `row_attention` goes column by column, and both
go through the rows that ask in blocks; every row's softmax is still taken over all of its keys, so this is exact."""

LONG = 8192
"""Rows from which `feature_attention` may go in blocks; training tables are shorter and keep one dispatch."""


def feature_attention(q: jax.Array, k: jax.Array, v: jax.Array, n_tokens: jax.Array, heads: int) -> jax.Array:
    """Softmax attention among the tokens of each row.

    Args:
      q, k, v: [B, S, T, E]; B tasks, S rows, T tokens, E = heads * head width.
      n_tokens: i32[B]; tokens that may be seen (a prefix of T, at least one).

    Returns:
      [B, S, T, E] in the dtype of ``v``.
    """
    tasks, rows, tokens, width = q.shape
    per_row = tasks * tokens * tokens * heads
    if rows >= LONG and rows * per_row > MAX_SCORES:
        block = max(1, MAX_SCORES // per_row)
        return _in_blocks(lambda q, k, v: feature_attention(q, k, v, n_tokens, heads), (q, k, v), 1, block)
    bias = _prefix_bias(n_tokens, tokens)[:, None, None, None, :]
    q, k, v = (_split_heads(a, heads) for a in (q * (width // heads) ** -0.5, k, v))  # [B, S, H, T, D]
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32) + bias
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return _join_heads(jnp.matmul(weights, v))


def feature_attention_weights(q: jax.Array, k: jax.Array, n_tokens: jax.Array, heads: int) -> jax.Array:
    """The weights `feature_attention` uses, mean over heads: f32[B, S, T, T], rows sum to 1."""
    tokens, width = q.shape[2:]
    q, k = (_split_heads(a.astype(jnp.float32), heads) for a in (q * (width // heads) ** -0.5, k))
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2)) + _prefix_bias(n_tokens, tokens)[:, None, None, None, :]
    return jax.nn.softmax(scores, axis=-1).mean(2)


def row_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, n_keys: jax.Array, query_scale: jax.Array, implementation: str
) -> jax.Array:
    """Softmax attention of the rows of each column over that column's thinking and context rows.

    Args:
      q: [B, T, S, E]; B tasks, T tokens, S query positions.
      k, v: [B, T, N, E]; N key positions.
      n_keys: i32[B]; keys that may be seen (a prefix of N, at least one).
      query_scale: f32[B, H]; factor on the scores of each head, the usual 1 / sqrt(head width) not included.
      implementation: "xla" or "cudnn" (16-bit, head width a multiple of 8).

    Returns:
      [B, T, S, E] in the dtype of ``v``.
    """
    tasks, tokens, rows, width = q.shape
    heads, keys = query_scale.shape[-1], k.shape[2]
    factor = jnp.repeat(query_scale * (width // heads) ** -0.5, width // heads, axis=-1)
    q = (q.astype(jnp.float32) * factor[:, None, None, :]).astype(q.dtype)
    if implementation == "cudnn":
        sequences = (tasks * tokens, -1, heads, width // heads)
        out = jax.nn.dot_product_attention(
            q.reshape(sequences),
            k.reshape(sequences),
            v.reshape(sequences),
            scale=1.0,
            key_value_seq_lengths=jnp.repeat(n_keys.astype(jnp.int32), tokens),
            implementation="cudnn",
        )
        return out.reshape(q.shape)
    bias = _prefix_bias(n_keys, keys)[:, None, None, None, :]
    q, k, v = (_split_heads(a, heads) for a in (q, k, v))  # [B, T, H, S or N, D]
    if tasks * tokens * heads * rows * keys <= MAX_SCORES:
        return _join_heads(_attend(q, k, v, bias))
    columns = tuple(jnp.swapaxes(a, 0, 1) for a in (q, k, v))  # of one column: [B, H, S or N, D]
    block = max(1, MAX_SCORES // (tasks * heads * keys))

    def one_column(column):
        q, k, v = column
        if rows <= block:
            return _attend(q, k, v, bias[:, 0])
        return _in_blocks(lambda part: _attend(part, k, v, bias[:, 0]), (q,), 2, block)

    return _join_heads(jnp.swapaxes(jax.lax.map(one_column, columns), 0, 1))


def _in_blocks(function: Callable[..., jax.Array], arrays: tuple[jax.Array, ...], axis: int, block: int) -> jax.Array:
    """``function`` of equal pieces of ``arrays`` along ``axis``, one after the other, joined again along that axis."""
    size = arrays[0].shape[axis]
    count = -(-size // block)
    block = -(-size // count)  # as even as possible: least padding

    def cut(a):
        pad = [(0, count * block - size if i == axis else 0) for i in range(a.ndim)]
        a = jnp.pad(a, pad).reshape(*a.shape[:axis], count, block, *a.shape[axis + 1 :])
        return jnp.moveaxis(a, axis, 0)

    out = jnp.moveaxis(jax.lax.map(lambda pieces: function(*pieces), tuple(map(cut, arrays))), 0, axis)
    out = out.reshape(*out.shape[:axis], count * block, *out.shape[axis + 2 :])
    return jax.lax.slice_in_dim(out, 0, size, axis=axis)


@jax.custom_vjp
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
    """softmax(q k' + bias) v over the last two axes: q [..., S, D], k and v [..., N, D], bias f32[..., 1, N]."""
    return _attend_forward(q, k, v, bias)[0]


def _attend_forward(q, k, v, bias):
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32) + bias
    top = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    out = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32) / total
    out = out.astype(v.dtype)
    return out, (q, k, v, bias, out, top + jnp.log(total))


def _attend_backward(saved, d_out):
    q, k, v, bias, out, log_total = saved
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32)
    weights = jnp.exp(scores + (bias - log_total))
    inner = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    d_weights = jnp.matmul(d_out, jnp.swapaxes(v, -1, -2), preferred_element_type=jnp.float32)
    d_scores = (weights * (d_weights - inner)).astype(q.dtype)
    # The small operand is the one that is transposed: d_v = weights' d_out is formed as (d_out' weights)'.
    d_v = jnp.swapaxes(jnp.matmul(jnp.swapaxes(d_out, -1, -2), weights.astype(v.dtype)), -1, -2)
    d_k = jnp.swapaxes(jnp.matmul(jnp.swapaxes(q, -1, -2), d_scores), -1, -2)
    return jnp.matmul(d_scores, k), d_k, d_v, None


_attend.defvjp(_attend_forward, _attend_backward)


def _prefix_bias(lengths: jax.Array, size: int) -> jax.Array:
    """f32[B, size]: 0 before each length, very negative from there on."""
    return jnp.where(jnp.arange(size) < lengths[:, None], 0.0, _MASKED)


def _split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[..., S, H * D] -> [..., H, S, D]"""
    return jnp.swapaxes(x.reshape(*x.shape[:-1], heads, -1), -2, -3)


def _join_heads(x: jax.Array) -> jax.Array:
    """[..., H, S, D] -> [..., S, H * D]"""
    x = jnp.swapaxes(x, -2, -3)
    return x.reshape(*x.shape[:-2], -1)


def pick_implementation(requested: str, dtype: jnp.dtype, head_width: int) -> str:
    """The kernel for row attention: what was asked for, or cuDNN where it can run and XLA elsewhere.

    Raises:
      ValueError: cuDNN was asked for with a dtype or a head width it does not take.
    """
    able = dtype in (jnp.bfloat16, jnp.float16) and head_width % 8 == 0 and head_width <= 128
    if requested == "cudnn" and not able:
        raise ValueError(
            f"model.attention is 'cudnn', which needs a 16-bit dtype and a head width that is a multiple of 8 up to "
            f"128; got {jnp.dtype(dtype).name} and {head_width}. Set model.attention to 'auto'."
        )
    if requested != "auto":
        return requested
    return "cudnn" if able and has_fused_attention() else "xla"
