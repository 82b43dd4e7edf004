"""Attention over the columns of a row and over the rows of a column.

Neither needs a mask tensor: which keys may be seen is always a prefix (the target token and the active columns; the
thinking rows and the context rows), given by its length per task.

The XLA path is written for what XLA:CPU does well: heads become a batch axis, every product is a plain batched matrix
product without transposed large operands, the softmax is normalised after the product with the values, and the backward
pass recomputes the weights from one number per query (as in FlashAttention, arXiv 2205.14135). On a CPU it goes piece by
piece: all scores at once are hundreds of megabytes of new memory in every call, whose pages the system has to clear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from ..priors.device import on_cpu
from .device import has_fused_attention

T = TypeVar("T")

_MASKED = -1e30
"""Added to the score of a key that may not be seen; exp of it less any maximum is exactly 0 in float32."""

MAX_SCORES = 1 << 28
"""Attention scores the XLA path holds at once (1 GiB in float32); `row_attention` on a CPU fewer. Every row's softmax is still taken
over all of its keys, so cutting is exact."""

CPU_SCORES = 1 << 20
"""Those a CPU holds at once, of either attention (4 MiB). Smaller pieces leave a second core without work: 1 MiB took a third longer on two."""

LEARNING_SCORES = 1 << 18
"""Those of a piece on a CPU where more than `CPU_SCORES` are learned from: the backward pass holds five such arrays, and every device has a
core of its own (`priorax.runtime`)."""


def feature_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, n_tokens: jax.Array, heads: int, implementation: str = "xla"
) -> jax.Array:
    """Softmax attention among the tokens of each row.

    Args:
      q, k, v: [B, S, T, E]; B tasks, S rows, T tokens, E = heads * head width.
      n_tokens: i32[B]; tokens that may be seen (a prefix of T, at least one).
      implementation: "pallas" for that kernel, up to 128 tokens; any other name for XLA.

    Returns:
      [B, S, T, E] in the dtype of ``v``.
    """
    if implementation == "pallas" and q.shape[2] <= 128:  # more do not fit into what a program of that kernel may hold
        from . import pallas_attention  # imported where it is used: Pallas takes a second

        return pallas_attention.feature_attention(q, k, v, n_tokens, heads)
    tokens, width = q.shape[2:]
    bias = _prefix_bias(n_tokens, tokens)[:, None, None, None, :]
    q, k, v = (_split_heads(a, heads) for a in (q * (width // heads) ** -0.5, k, v))  # [B, S, H, T, D]
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32) + bias
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return _join_heads(jnp.matmul(weights, v))


def rows_at_once(tasks: int, rows: int, tokens: int, heads: int) -> int:
    """How many of ``rows`` rows `feature_attention` is best given at a time where nothing is learned."""
    if not isinstance(rows, int):
        return rows  # as in `_cut`
    return max(1, min(rows, (CPU_SCORES if on_cpu() else MAX_SCORES) // (tasks * tokens * tokens * heads)))


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
      implementation: "xla", "cudnn" (16-bit, head width a multiple of 8) or "pallas" (16-bit, head width a power of two from 16 on).

    Returns:
      [B, T, S, E] in the dtype of ``v``.
    """
    tasks, tokens, rows, width = q.shape
    heads, keys = query_scale.shape[-1], k.shape[2]
    factor = jnp.repeat(query_scale * (width // heads) ** -0.5, width // heads, axis=-1)
    q = (q.astype(jnp.float32) * factor[:, None, None, :]).astype(q.dtype)
    if implementation == "cudnn":
        # JAX refuses odd numbers of rows or keys in training (0.11.2). A key more is one that may not be seen.
        even = [jnp.pad(a, ((0, 0), (0, 0), (0, a.shape[2] % 2), (0, 0))) for a in (q, k, v)]
        q_, k_, v_ = (a.reshape(tasks * tokens, -1, heads, width // heads) for a in even)
        out = jax.nn.dot_product_attention(
            q_,
            k_,
            v_,
            scale=1.0,
            key_value_seq_lengths=jnp.repeat(n_keys.astype(jnp.int32), tokens),
            implementation="cudnn",
        )
        return out[:, :rows].reshape(q.shape)
    if implementation == "pallas":
        from . import pallas_attention

        return pallas_attention.row_attention(q, k, v, n_keys, heads)
    bias = _prefix_bias(n_keys, keys)[:, None, None, None, :]
    q, k, v = (_split_heads(a, heads) for a in (q, k, v))  # [B, T, H, S or N, D]
    bias = jnp.broadcast_to(bias, (tasks, tokens, heads, 1, keys))
    pieces = (a.reshape(-1, *a.shape[3:]) for a in (q, k, v, bias))
    return _join_heads(_attend(*pieces).reshape(q.shape))


def scores_at_once(pieces: int, rows: int, keys: int) -> int:
    """How many attention scores `row_attention` holds at a time on the XLA path.

    Args:
      pieces: tasks * tokens * heads, each of which has ``rows`` that ask and ``keys``.
    """
    group, block = _cut(pieces, rows, keys, learning=False)
    return group * block * keys


def _cut(pieces: int, rows: int, keys: int, learning: bool) -> tuple[int, int]:
    """(pieces, rows of a piece) to do at once: all rows of as many pieces as divide them, or some rows of one."""
    if not isinstance(rows, int):
        return pieces, rows  # an exported program for any number of rows, which it cannot choose by
    most = MAX_SCORES
    if on_cpu():
        most = LEARNING_SCORES if learning and pieces * rows * keys > CPU_SCORES else CPU_SCORES
    if rows * keys > most:
        return 1, max(1, most // keys)
    return max(n for n in range(1, max(1, min(pieces, most // (rows * keys))) + 1) if pieces % n == 0), rows


def _in_groups(function: Callable[..., tuple], arrays: tuple[jax.Array, ...], group: int) -> tuple:
    """``function`` of ``group`` entries along the first axis of ``arrays`` at a time (a divisor of their number)."""
    count = arrays[0].shape[0]
    if group == count:
        return function(*arrays)
    grouped = tuple(a.reshape(count // group, group, *a.shape[1:]) for a in arrays)
    out = jax.lax.map(lambda some: function(*some), grouped)
    return jax.tree.map(lambda a: a.reshape(count, *a.shape[2:]), out)


def in_blocks(function: Callable[..., T], arrays: tuple[jax.Array, ...], axis: int, block: int) -> T:
    """``function`` of equal pieces of ``arrays`` along ``axis``, one after the other, joined again along that axis."""
    pieces, size = _blocks(arrays, axis, block)
    out = jax.lax.map(lambda some: function(*some), pieces)
    return jax.tree.map(lambda a: _joined(a, axis, size), out)


def _blocks(arrays: tuple[jax.Array, ...], axis: int, block: int) -> tuple[tuple[jax.Array, ...], int]:
    """``arrays`` cut into at most ``block`` entries of ``axis``, a new first axis; the size of ``axis``.

    What fills up the last one is zero."""
    size = arrays[0].shape[axis]
    count = -(-size // block)
    block = -(-size // count)  # as even as possible: least padding

    def cut(a):
        pad = [(0, count * block - size if i == axis else 0) for i in range(a.ndim)]
        a = jnp.pad(a, pad).reshape(*a.shape[:axis], count, block, *a.shape[axis + 1 :])
        return jnp.moveaxis(a, axis, 0)

    return tuple(map(cut, arrays)), size


def _joined(a: jax.Array, axis: int, size: int) -> jax.Array:
    """Pieces along the first axis put together along ``axis``, of which there are ``size`` entries."""
    a = jnp.moveaxis(a, 0, axis)
    a = a.reshape(*a.shape[:axis], a.shape[axis] * a.shape[axis + 1], *a.shape[axis + 2 :])
    return jax.lax.slice_in_dim(a, 0, size, axis=axis)


@jax.custom_vjp
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
    """softmax(q k' + bias) v of every piece: q [P, S, D], k and v [P, N, D], bias f32[P, 1, N]."""
    return _all_rows(q, k, v, bias, learning=False)[0]


def _attend_forward(q, k, v, bias):
    out, log_total = _all_rows(q, k, v, bias, learning=True)
    return out, (q, k, v, bias, out, log_total)


def _all_rows(q, k, v, bias, learning: bool):
    """`_rows_forward` of all rows, piece by piece."""
    group, block = _cut(*q.shape[:2], k.shape[1], learning)

    def some(q, k, v, bias):
        if q.shape[1] <= block:
            return _rows_forward(q, k, v, bias)
        return in_blocks(lambda rows: _rows_forward(rows, k, v, bias), (q,), 1, block)

    return _in_groups(some, (q, k, v, bias), group)


def _attend_backward(saved, d_out):
    q, k, v, bias, out, log_total = saved
    group, block = _cut(*q.shape[:2], k.shape[1], learning=True)

    def some(k, v, bias, *by_row):
        if by_row[0].shape[1] <= block:
            return _rows_backward(k, v, bias, *by_row)

        def add(total, rows):
            d_q, *d_kv = _rows_backward(k, v, bias, *rows)
            return jax.tree.map(jnp.add, total, tuple(d_kv)), d_q

        # Rows that fill the last block up have gradients of zero, and so has all they add.
        pieces, rows = _blocks(by_row, 1, block)
        zero = tuple(jnp.zeros(a.shape, jnp.float32) for a in (k, v))
        (d_k, d_v), d_q = jax.lax.scan(add, zero, pieces)
        d_q = _joined(d_q, 1, rows)
        return d_q, d_k, d_v

    d_q, d_k, d_v = _in_groups(some, (k, v, bias, q, out, log_total, d_out), group)
    return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype), None


_attend.defvjp(_attend_forward, _attend_backward)


def _rows_forward(q, k, v, bias):
    """(what rows attend to [..., S, D], logarithms of their weights' sums f32[..., S, 1])"""
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32) + bias
    top = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    out = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32) / total
    return out.astype(v.dtype), top + jnp.log(total)


def _rows_backward(k, v, bias, q, out, log_total, d_out):
    """Gradients of q, k and v from these rows."""
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32)
    weights = jnp.exp(scores + (bias - log_total))
    inner = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    d_weights = jnp.matmul(d_out, jnp.swapaxes(v, -1, -2), preferred_element_type=jnp.float32)
    d_scores = (weights * (d_weights - inner)).astype(q.dtype)
    # The small operand is the one that is transposed: d_v = weights' d_out is formed as (d_out' weights)'.
    d_v = jnp.swapaxes(jnp.matmul(jnp.swapaxes(d_out, -1, -2), weights.astype(v.dtype)), -1, -2)
    d_k = jnp.swapaxes(jnp.matmul(jnp.swapaxes(q, -1, -2), d_scores), -1, -2)
    return jnp.matmul(d_scores, k), d_k, d_v


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
    if requested == "pallas":
        return "pallas" if able and head_width in (16, 32, 64, 128) and has_fused_attention() else "xla"
    if requested != "auto":
        return requested
    return "cudnn" if able and has_fused_attention() else "xla"
