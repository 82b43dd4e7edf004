"""The kernels for NVIDIA GPUs, interpreted on a CPU, against attention as XLA computes it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from priorax.configs.model import ModelConfig
from priorax.models import attention

pytestmark = pytest.mark.usefixtures("quick_programs")

pallas = pytest.importorskip("priorax.models.pallas_attention", exc_type=ImportError)


def _random(seed, *shapes):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def _same_values_and_gradients(ours, theirs, arrays, weight):
    found, expected = (
        jax.jit(jax.value_and_grad(lambda *a, f=f: (f(*a) * weight).sum(), argnums=(0, 1, 2)))(*arrays) for f in (ours, theirs)
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_attention_over_columns():
    tasks, rows, tokens, width, heads = 2, 3, 20, 32, 2
    q, k, v, weight = _random(0, *4 * [(tasks, rows, tokens, width)])
    seen = jnp.array([tokens, 2], jnp.int32)
    _same_values_and_gradients(
        lambda *a: pallas.feature_attention(*a, seen, heads),
        lambda *a: attention.feature_attention(*a, seen, heads),
        (q, k, v),
        weight,
    )


def test_attention_over_rows():
    """More rows and keys than a piece, none of them multiples of it; the second task sees keys of the first piece alone."""
    tasks, tokens, rows, keys, width, heads = 2, 1, 70, 100, 32, 2
    q, weight, k, v = _random(1, *2 * [(tasks, tokens, rows, width)], *2 * [(tasks, tokens, keys, width)])
    seen = jnp.array([keys, 17], jnp.int32)
    scale = (width // heads) ** -0.5
    _same_values_and_gradients(
        lambda q, k, v: pallas.row_attention(q * scale, k, v, seen, heads),
        lambda q, k, v: attention.row_attention(q, k, v, seen, jnp.ones((tasks, heads)), "xla"),
        (q, k, v),
        weight,
    )


def test_keys_that_may_not_be_seen_change_nothing():
    q, k, v = _random(1, (1, 1, 9, 16), (1, 1, 80, 16), (1, 1, 80, 16))
    run = lambda k, v: pallas.row_attention(q, k, v, jnp.array([70]), 1)
    np.testing.assert_array_equal(run(k, v), run(k.at[:, :, 70:].set(1e6), v.at[:, :, 70:].set(-1e6)))


def test_where_they_cannot_run_they_count_as_xla():
    """Weights may name them, and are read on a CPU."""
    assert attention.pick_implementation("pallas", jnp.dtype("float32"), 32) == "xla"
    assert attention.pick_implementation("pallas", jnp.dtype("bfloat16"), 32) == "xla"
    assert ModelConfig(attention="pallas").attention == "pallas"
