"""Attention over the columns of a row and over the rows of a column.

Neither needs a mask tensor: which keys may be seen is always a prefix (the target token and the active columns; the
thinking rows and the context rows), given by its length per task.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_MASKED = -1e30
"""Score of a key that may not be seen; exp(score - max) is exactly 0 in float32."""


def feature_attention(q: jax.Array, k: jax.Array, v: jax.Array, n_tokens: jax.Array, heads: int) -> jax.Array:
    """Softmax attention among the tokens of each row.

    Args:
      q, k, v: [B, T, S, E]; B tasks, T tokens, S rows, E = heads * head width.
      n_tokens: i32[B]; tokens that may be seen (a prefix of T).

    Returns:
      [B, T, S, E] in the dtype of ``v``.
    """
    tasks, tokens, rows, width = q.shape
    split = (tasks, tokens, rows, heads, width // heads)
    q, k, v = q.reshape(split), k.reshape(split), v.reshape(split)
    scale = (width // heads) ** -0.5
    scores = jnp.einsum("btshd,bushd->bshtu", q * scale, k, preferred_element_type=jnp.float32)
    seen = jnp.arange(tokens) < n_tokens[:, None]
    scores = jnp.where(seen[:, None, None, None, :], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bshtu,bushd->btshd", weights, v).reshape(tasks, tokens, rows, width)


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
    heads = query_scale.shape[-1]
    head = width // heads
    keys = k.shape[2]
    q = q.reshape(tasks, tokens, rows, heads, head)
    q = (q.astype(jnp.float32) * (query_scale * head**-0.5)[:, None, None, :, None]).astype(q.dtype)
    if implementation == "cudnn":
        lengths = jnp.repeat(n_keys.astype(jnp.int32), tokens)
        out = jax.nn.dot_product_attention(
            q.reshape(tasks * tokens, rows, heads, head),
            k.reshape(tasks * tokens, keys, heads, head),
            v.reshape(tasks * tokens, keys, heads, head),
            scale=1.0,
            key_value_seq_lengths=lengths,
            implementation="cudnn",
        )
        return out.reshape(tasks, tokens, rows, width)
    k = k.reshape(tasks, tokens, keys, heads, head)
    v = v.reshape(tasks, tokens, keys, heads, head)
    scores = jnp.einsum("btshd,btnhd->bthsn", q, k, preferred_element_type=jnp.float32)
    seen = jnp.arange(keys) < n_keys[:, None]
    scores = jnp.where(seen[:, None, None, None, :], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bthsn,btnhd->btshd", weights, v).reshape(tasks, tokens, rows, width)


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
    return "cudnn" if able and _on_nvidia() else "xla"


def _on_nvidia() -> bool:
    return jax.default_backend() == "gpu" and "nvidia" in jax.devices()[0].device_kind.lower()
