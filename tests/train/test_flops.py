"""The count of arithmetic against XLA's own, and the measured roofline."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from priorax.configs.model import ModelConfig
from priorax.configs.recipe import TaskShape
from priorax.models import init_params
from priorax.models.network import with_params
from priorax.train.flops import forward_flops, measure_roofline, tokens, training_flops

WIDE = ModelConfig(width=128, heads=2, layers=3, hidden=256, decoder_hidden=64, thinking_rows=8)


def _counted(cfg, shape, gradient):
    """Operations XLA counts before it optimises, which include norms, softmax and ranks."""
    params = jax.eval_shape(lambda: init_params(cfg))
    rows = jax.ShapeDtypeStruct((1, shape.rows), jnp.int32)
    table = jax.ShapeDtypeStruct((1, shape.rows, shape.columns), jnp.float32)
    number, kinds = jax.ShapeDtypeStruct((1,), jnp.int32), jax.ShapeDtypeStruct((1, shape.columns), bool)

    def loss(p, x, y, f, c, n, k):
        return with_params(cfg, p)(x, y, f, c, n, k, context=shape.context).sum()

    work = jax.grad(loss) if gradient else loss
    lowered = jax.jit(work).lower(params, table, rows, number, number, number, kinds)
    return lowered.cost_analysis()["flops"]


@pytest.mark.parametrize("shape", [TaskShape(rows=64, columns=4, context=48), TaskShape(rows=48, columns=6, context=None)])
def test_the_count_is_that_of_xla_but_for_what_is_no_product(shape):
    forward = forward_flops(WIDE, shape.rows, shape.columns, shape.context)
    assert 0.85 < forward / _counted(WIDE, shape, False) <= 1.0
    # The backward pass computes attention scores once more, which are not counted.
    assert 0.75 < training_flops(WIDE, shape) / _counted(WIDE, shape, True) <= 1.0


def test_the_count_grows_as_the_network_does():
    shape = TaskShape(rows=256, columns=10, context=192)
    one = forward_flops(WIDE, 256, 10, 192)
    deeper = dataclasses.replace(WIDE, layers=6)
    assert forward_flops(deeper, 256, 10, 192) > 1.9 * one
    assert forward_flops(WIDE, 256, 10, None) > one  # all rows asked for
    assert 2.9 * one < training_flops(WIDE, shape) < 3 * one
    assert tokens(shape) == 256 * 11


def test_the_roofline_is_a_rate_of_real_products():
    devices = jax.devices()[:1]
    rate = measure_roofline(devices, np.float32, size=256, repeats=3)
    assert 1e8 < rate < 1e15
