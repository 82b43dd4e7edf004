"""The training step of recipes that ship can be lowered for accelerators, which this machine need not have.

Lowering is where a primitive without a rule for a platform, or a kernel that refuses a shape or dtype, shows itself. What
a compiler for that platform and its device make of the program is for `benchmarks/gpu_programs.py` and `accelerator.py` to say.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from priorax.configs.prior import load_prior
from priorax.configs.recipe import load_recipe
from priorax.models.network import init_params
from priorax.priors import make_sampler
from priorax.train.state import init_state
from priorax.train.step import make_dispatch


@pytest.mark.parametrize("name", ["base", pytest.param("small", marks=pytest.mark.slow)])
def test_step_lowers_for_gpu_and_tpu(name, as_on_an_accelerator):
    as_on_an_accelerator()
    recipe = load_recipe(name)
    # 16 bit as on a GPU; the fused kernel asks for a GPU already when it is traced.
    dtype = "bfloat16" if name == "base" else recipe.model.dtype
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, layers=1, dtype=dtype, attention="xla"),
                                 train=dataclasses.replace(recipe.train, fast_compile=False))  # fmt: skip
    dispatch = make_dispatch(recipe, recipe.shapes[-1], load_prior(recipe.prior), make_sampler, jax.devices()[:1])
    state = jax.eval_shape(lambda: init_state(recipe, 0, 100, init_params(recipe.model, 0)))
    word = jax.ShapeDtypeStruct((), jnp.uint32)
    given = (state, jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), bool), word)
    traced = dispatch.trace(*given)
    for platform in ("cuda", "tpu"):
        assert "stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()
