"""Both attentions as kernels for NVIDIA GPUs, written with Pallas and compiled by Triton (``attention: pallas``).

What they are for: the columns of a row are a sequence of ten or twenty tokens, for which a library's kernels are not made, and a program
with these kernels can be compiled on a machine without a GPU, which cuDNN's cannot (docs/gpu.md). The arithmetic is that
of `priorax.models.attention`: softmax and sums in float32, products of what is given; keys that may be seen are a prefix.

JAX 0.11 calls its Triton backend deprecated, so nothing chooses these by itself. On a CPU they are interpreted, for tests.

On an H200 attention over the eleven tokens of 64 x 288 rows, width 128, four heads, took 0.14 ms forward and 0.21 ms with its backward
pass, where XLA's took 0.30 and 0.65; over 25 tokens of 8 x 1,056 rows 0.16 and 0.23, XLA's 0.28 and 0.67 (medians of five, JAX 0.11.2, the
prototype of `feature_attention`). cuDNN's took 1.4 and 0.7 ms forward. `row_attention` has only been compiled.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from ..priors.device import on_cpu

if not all(hasattr(triton, name) for name in ("CompilerParams", "load", "store", "dot")):
    raise ImportError(
        f"model.attention is 'pallas', which needs the Triton backend of Pallas as JAX 0.10 and 0.11 have it; this is JAX {jax.__version__}. "
        "Set model.attention to 'auto'."
    )

_ROWS, _KEYS = 64, 64
"""Rows that ask, and keys, of a piece of row attention."""

_MASKED = -1e30


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def feature_attention(q: jax.Array, k: jax.Array, v: jax.Array, n_tokens: jax.Array, heads: int) -> jax.Array:
    """As `priorax.models.attention.feature_attention`: one program a row, with all of its scores at once."""
    return _feature_call(_feature_forward, 1, (q, k, v), n_tokens, heads)[0]


def _feature_fwd(q, k, v, n_tokens, heads):
    return feature_attention(q, k, v, n_tokens, heads), (q, k, v, n_tokens)


def _feature_bwd(heads, saved, d_out):
    *qkv, n_tokens = saved
    return (*_feature_call(_feature_backward, 3, (*qkv, d_out), n_tokens, heads), None)


feature_attention.defvjp(_feature_fwd, _feature_bwd)


def _feature_call(kernel: Any, results: int, arrays: tuple[jax.Array, ...], n_tokens: jax.Array, heads: int) -> list[jax.Array]:
    tasks, rows, tokens, width = arrays[0].shape
    flat = [a.reshape(tasks * rows, tokens, width) for a in arrays]
    room = max(16, 1 << (tokens - 1).bit_length())  # Triton's blocks are powers of two, its products at least 16 wide
    out = pl.pallas_call(
        functools.partial(kernel, tokens=tokens, room=room, rows=rows, heads=heads, head=width // heads),
        grid=(tasks * rows,),
        out_shape=[jax.ShapeDtypeStruct(flat[0].shape, flat[0].dtype)] * results,
        # Four warps' registers do not hold what the backward pass needs of 128 tokens.
        compiler_params=triton.CompilerParams(num_warps=max(1, min(8, room // 16)), num_stages=1),
        interpret=on_cpu(),
    )(n_tokens.astype(jnp.int32), *flat)
    return [a.reshape(arrays[0].shape) for a in out]


def _feature_forward(n_tokens, q, k, v, out, *, tokens, room, rows, heads, head):
    at = pl.program_id(0)
    seen = n_tokens[at // rows]
    for h in range(heads):
        get = functools.partial(_get, at=at, start=0, size=room, end=tokens, h=h, head=head)
        weights, values = _feature_weights(get(q), get(k), seen, room, head), get(v)
        _put(out, triton.dot(weights.astype(values.dtype), values), at, 0, tokens, h, head)


def _feature_backward(n_tokens, q, k, v, d_out, d_q, d_k, d_v, *, tokens, room, rows, heads, head):
    at = pl.program_id(0)
    seen = n_tokens[at // rows]
    for h in range(heads):
        get = functools.partial(_get, at=at, start=0, size=room, end=tokens, h=h, head=head)
        put = functools.partial(_put, at=at, start=0, end=tokens, h=h, head=head)
        q_, k_, v_, d_ = get(q), get(k), get(v), get(d_out)
        weights = _feature_weights(q_, k_, seen, room, head)
        d_weights = triton.dot(d_, v_, trans_b=True)
        d_scores = weights * (d_weights - jnp.sum(weights * d_weights, axis=1)[:, None]) * head**-0.5
        d_scores = d_scores.astype(q_.dtype)
        put(d_q, triton.dot(d_scores, k_))
        put(d_k, triton.dot(d_scores, q_, trans_a=True))
        put(d_v, triton.dot(weights.astype(d_.dtype), d_, trans_a=True))


def _feature_weights(q, k, seen, room, head):
    scores = triton.dot(q, k, trans_b=True) * head**-0.5
    scores = jnp.where((jnp.arange(room) < seen)[None, :], scores, _MASKED)
    weights = jnp.exp(scores - jnp.max(scores, axis=1)[:, None])
    return weights / jnp.sum(weights, axis=1)[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def row_attention(q: jax.Array, k: jax.Array, v: jax.Array, n_keys: jax.Array, heads: int) -> jax.Array:
    """softmax(q k') v of the rows of each column, over the first ``n_keys`` keys of its task.

    In pieces of rows and of keys with a running maximum and sum, and a backward pass that makes the weights again from one number
    a row (FlashAttention-2, arXiv 2307.08691, sections 3.1 and 3.2). JAX's own example of such a kernel,
    ``jax.experimental.pallas.ops.gpu.attention.mha``, wants as many blocks of rows as of keys, and no remainders.

    Args:
      q: [B, T, S, E], scaled.
      k, v: [B, T, N, E].
      n_keys: i32[B].
      heads: of width E / heads, a power of two of at least 16.
    """
    return _row_fwd(q, k, v, n_keys, heads)[0]


def _row_fwd(q, k, v, n_keys, heads):
    tasks, tokens, rows, width = q.shape
    flat = [a.reshape(tasks * tokens, a.shape[2], width) for a in (q, k, v)]
    out, log_total = pl.pallas_call(
        functools.partial(_row_forward, rows=rows, tokens=tokens, head=width // heads),
        grid=(tasks * tokens, heads, pl.cdiv(rows, _ROWS)),
        out_shape=[
            jax.ShapeDtypeStruct(flat[0].shape, q.dtype),
            jax.ShapeDtypeStruct((tasks * tokens, heads, rows), jnp.float32),
        ],
        **_options(),
    )(n_keys.astype(jnp.int32), *flat)
    return out.reshape(q.shape), (q, k, v, n_keys, out, log_total)


def _row_bwd(heads, saved, d_out):
    q, k, v, n_keys, out, log_total = saved
    tasks, tokens, rows, width = q.shape
    keys, head = k.shape[2], width // heads
    q_, k_, v_, d_ = (a.reshape(tasks * tokens, a.shape[2], width) for a in (q, k, v, d_out))
    inner = (d_.astype(jnp.float32) * out.astype(jnp.float32)).reshape(*d_.shape[:2], heads, head).sum(-1)
    inner = jnp.swapaxes(inner, 1, 2)
    given = (n_keys.astype(jnp.int32), q_, k_, v_, d_, log_total, inner)
    sizes = {"rows": rows, "tokens": tokens, "head": head}
    d_q = pl.pallas_call(
        functools.partial(_row_backward_q, **sizes),
        grid=(tasks * tokens, heads, pl.cdiv(rows, _ROWS)),
        out_shape=jax.ShapeDtypeStruct(q_.shape, q.dtype),
        **_options(),
    )(*given)
    d_k, d_v = pl.pallas_call(
        functools.partial(_row_backward_kv, keys=keys, **sizes),
        grid=(tasks * tokens, heads, pl.cdiv(keys, _KEYS)),
        out_shape=[jax.ShapeDtypeStruct(k_.shape, k.dtype), jax.ShapeDtypeStruct(v_.shape, v.dtype)],
        **_options(),
    )(*given)
    return d_q.reshape(q.shape), d_k.reshape(k.shape), d_v.reshape(v.shape), None


row_attention.defvjp(_row_fwd, _row_bwd)


def _options() -> dict[str, Any]:
    return {"compiler_params": triton.CompilerParams(num_warps=4, num_stages=2), "interpret": on_cpu()}


def _row_forward(n_keys, q, k, v, out, log_total, *, rows, tokens, head):
    at, h, start = pl.program_id(0), pl.program_id(1), pl.program_id(2) * _ROWS
    seen = n_keys[at // tokens]
    q_ = _get(q, at, start, _ROWS, rows, h, head)

    def add(j, carry):
        total, top, summed = carry
        k_, v_ = (_get(a, at, j * _KEYS, _KEYS, seen, h, head) for a in (k, v))
        scores = _scores(q_, k_, j, seen)
        higher = jnp.maximum(top, jnp.max(scores, axis=1))
        scale, weights = jnp.exp(top - higher), jnp.exp(scores - higher[:, None])
        total = total * scale[:, None] + triton.dot(weights.astype(v_.dtype), v_)
        return total, higher, summed * scale + jnp.sum(weights, axis=1)

    nothing = (jnp.zeros((_ROWS, head), jnp.float32), jnp.full((_ROWS,), _MASKED), jnp.zeros((_ROWS,), jnp.float32))
    total, top, summed = jax.lax.fori_loop(jnp.int32(0), pl.cdiv(seen, _KEYS), add, nothing)
    _put(out, total / summed[:, None], at, start, rows, h, head)
    _put_row(log_total, top + jnp.log(summed), at, start, rows, h)


def _row_backward_q(n_keys, q, k, v, d_out, log_total, inner, d_q, *, rows, tokens, head):
    at, h, start = pl.program_id(0), pl.program_id(1), pl.program_id(2) * _ROWS
    seen = n_keys[at // tokens]
    q_, d_ = (_get(a, at, start, _ROWS, rows, h, head) for a in (q, d_out))
    log_, inner_ = (_get_row(a, at, start, rows, h) for a in (log_total, inner))

    def add(j, total):
        k_, v_ = (_get(a, at, j * _KEYS, _KEYS, seen, h, head) for a in (k, v))
        weights = jnp.exp(_scores(q_, k_, j, seen) - log_[:, None])
        d_scores = weights * (triton.dot(d_, v_, trans_b=True) - inner_[:, None])
        return total + triton.dot(d_scores.astype(k_.dtype), k_)

    total = jax.lax.fori_loop(jnp.int32(0), pl.cdiv(seen, _KEYS), add, jnp.zeros((_ROWS, head), jnp.float32))
    _put(d_q, total, at, start, rows, h, head)


def _row_backward_kv(n_keys, q, k, v, d_out, log_total, inner, d_k, d_v, *, rows, keys, tokens, head):
    at, h, j = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    seen = n_keys[at // tokens]
    k_, v_ = (_get(a, at, j * _KEYS, _KEYS, seen, h, head) for a in (k, v))

    def add(i, carry):
        d_keys, d_values = carry
        q_, d_ = (_get(a, at, i * _ROWS, _ROWS, rows, h, head) for a in (q, d_out))
        log_, inner_ = (_get_row(a, at, i * _ROWS, rows, h) for a in (log_total, inner))
        # Rows past the end have d_out and inner of zero, so that whatever their weights are adds nothing.
        weights = jnp.exp(_scores(q_, k_, j, seen) - log_[:, None])
        d_values += triton.dot(weights.astype(d_.dtype), d_, trans_a=True)
        d_scores = weights * (triton.dot(d_, v_, trans_b=True) - inner_[:, None])
        return d_keys + triton.dot(d_scores.astype(q_.dtype), q_, trans_a=True), d_values

    nothing = jnp.zeros((_KEYS, head), jnp.float32)
    needed = jnp.where(j * _KEYS < seen, jnp.int32(pl.cdiv(rows, _ROWS)), jnp.int32(0))
    d_keys, d_values = jax.lax.fori_loop(jnp.int32(0), needed, add, (nothing, nothing))
    _put(d_k, d_keys, at, j * _KEYS, keys, h, head)
    _put(d_v, d_values, at, j * _KEYS, keys, h, head)


def _scores(q, k, j, seen):
    scores = triton.dot(q, k, trans_b=True)
    return jnp.where((j * _KEYS + jnp.arange(_KEYS) < seen)[None, :], scores, _MASKED)


def _get(ref, at, start, size, end, h, head):
    """Entries ``start`` to ``start + size`` of one sequence, of one head; zero from ``end`` on."""
    mask = jnp.broadcast_to((start + jnp.arange(size) < end)[:, None], (size, head))
    return triton.load(ref.at[at, pl.ds(start, size), pl.ds(h * head, head)], mask=mask, other=0.0)


def _put(ref, value, at, start, end, h, head):
    mask = jnp.broadcast_to((start + jnp.arange(value.shape[0]) < end)[:, None], value.shape)
    triton.store(ref.at[at, pl.ds(start, value.shape[0]), pl.ds(h * head, head)], value.astype(ref.dtype), mask=mask)


def _get_row(ref, at, start, end, h):
    return triton.load(ref.at[at, h, pl.ds(start, _ROWS)], mask=start + jnp.arange(_ROWS) < end, other=0.0)


def _put_row(ref, value, at, start, end, h):
    triton.store(ref.at[at, h, pl.ds(start, _ROWS)], value, mask=start + jnp.arange(_ROWS) < end)
