"""How programs are compiled: the options are taken where they are known, and change no bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from priorax.configs import load_prior
from priorax.priors import TableShape, compiler_options, compiling, law_arrays, sample_blocks


@pytest.fixture
def unknown(monkeypatch):
    """A jaxlib that has never heard of the option."""
    monkeypatch.setattr(compiling, "_ON_CPU", {"xla_option_of_another_year": False})
    compiling._is_known.cache_clear()
    yield
    compiling._is_known.cache_clear()


def test_an_option_this_jaxlib_does_not_know_is_left_out(unknown):
    assert compiler_options() == {}
    assert float(compiling.jit(lambda x: x + 1)(1.0)) == 2.0


def test_what_is_returned_can_be_changed_without_harm():
    compiler_options().clear()
    assert compiler_options() == (compiling._ON_CPU if jax.default_backend() == "cpu" else {})


def test_a_program_with_options_can_be_part_of_another():
    double = compiling.jit(lambda x, n: n * x, static_argnums=1)
    assert float(double(2.0, 2)) == 4.0
    assert float(jax.jit(lambda x: double(x, 3))(2.0)) == 6.0
    np.testing.assert_array_equal(jax.vmap(lambda x: double(x, 2))(jnp.arange(3.0)), [0.0, 2.0, 4.0])
    assert double.lower(2.0, 2).compile()(2.0) == 4.0


@pytest.mark.slow  # compiles the sampler twice, once the slow way
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the options are for CPU")
def test_tasks_are_the_same_bits_without_the_options():
    assert compiler_options()
    prior = load_prior("default")

    def run(laws, key, blocks):
        return sample_blocks(prior.sizes, TableShape(32, 5), 8, False, laws, key, blocks)

    arguments = law_arrays(prior), jax.random.key(0), jnp.arange(4, dtype=jnp.uint32)
    lowered = jax.jit(run).lower(*arguments)
    with_options, without = (lowered.compile(compiler_options=o)(*arguments) for o in (compiler_options(), {}))
    for a, b in zip(jax.tree.leaves(with_options), jax.tree.leaves(without), strict=True):
        np.testing.assert_array_equal(a, b)
