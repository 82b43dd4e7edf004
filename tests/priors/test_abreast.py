"""Blocks that an accelerator computes side by side are those that a CPU computes one after another.

No accelerator is needed: the default device is made to look like one (`as_on_an_accelerator`), so that the same code takes the other
way on a CPU.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from priorax.priors import compiler_options, device, keys, make_sampler
from priorax.priors.task import TableShape, TaskBatch

from priorax import load_prior, sample


def test_each_is_the_same_in_every_grouping(as_on_an_accelerator):
    xs = jnp.arange(24.0).reshape(12, 2)
    wanted = jnp.sin(xs).sum(1)
    assert device.abreast(12, 1) == 1 and device.trips(3, 8) == 3
    as_on_an_accelerator()
    assert device.trips(3, 8) == 8
    for cells, together in ((1, 12), (device.MAX_CELLS // 5, 4), (device.MAX_CELLS, 1), (10 * device.MAX_CELLS, 1)):
        assert device.abreast(12, cells) == together
        np.testing.assert_allclose(device.each(lambda x: jnp.sin(x).sum(), xs, cells), wanted, rtol=1e-6)
    assert device.abreast(50, 1, 64 * 2 * 16) == 25  # a batch of fewer than 2^16 products: 31 at most, of the divisors of 50


def sampled(prior, shape, tasks: int) -> TaskBatch:
    draw = jax.jit(make_sampler(prior, shape, tasks, with_scm=True), compiler_options=compiler_options())
    return jax.device_get(draw(keys.seed_key(3), jnp.uint32(2)))


@pytest.mark.heavy  # two samplers
def test_the_same_tasks_side_by_side(as_on_an_accelerator, monkeypatch):
    """Tasks, causal models and scores, of 12 blocks in groups of 4: equal but for rounding, and no loop waits for others."""
    prior, shape = load_prior("pretraining"), TableShape(48, 6)
    alone = sampled(prior, shape, 32)
    as_on_an_accelerator()
    monkeypatch.setattr(device, "MAX_CELLS", 4 * 4 * 48 * 6)
    abreast = sampled(prior, shape, 32)
    pairs = zip(jax.tree_util.tree_leaves_with_path(alone), jax.tree.leaves(abreast), strict=True)
    for (path, a), b in pairs:
        name = jax.tree_util.keystr(path)
        if jnp.issubdtype(a.dtype, jnp.floating):
            assert (np.isfinite(a) == np.isfinite(b)).all(), name
            if "learnability" in name:  # of 32 tasks; in one a split's row lies on the threshold
                assert np.isclose(a, b, rtol=1e-2, atol=1e-2).all(), name
                continue
            # A value on a threshold may fall to its other side.
            assert np.isclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True).mean() > 0.999, name
        else:
            assert (a == b).mean() > 0.999, name
    assert np.array_equal(alone.info["task_id"], abreast.info["task_id"])
    for scm in (alone.scm, abreast.scm):  # what is not in use is left as it was
        unused = ~np.repeat(scm.plan.active, scm.params.mean.shape[-1], axis=1)
        assert not scm.reference[unused].any() and not scm.params.mean[~scm.plan.active].any()


@pytest.mark.slow  # python -m pytest -m slow tests/priors/test_abreast.py
def test_sample_and_its_causal_models_side_by_side(as_on_an_accelerator):
    """Chosen ids, more than one call holds, in any order; and other worlds of the tasks."""
    ids = [700, 3, 3, 41, 515]

    def drawn():
        batch = sample(load_prior("causal"), 5, ids, rows=48, columns=6, with_scm=True)
        do = batch.scm.do({0: 1.5})
        return jax.device_get((batch, batch.scm.sample(20, do)))

    alone = drawn()
    as_on_an_accelerator()
    abreast = drawn()
    assert np.array_equal(abreast[0].info["task_id"], ids)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(alone), jax.tree.leaves(abreast), strict=True):
        assert np.isclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True).mean() > 0.99, jax.tree_util.keystr(path)
