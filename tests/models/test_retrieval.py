"""The retrieval decoder keeps the promises of the network, and takes any number of classes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from priorax.models import MASKED_LOGIT, ModelConfig, count_params, init_params, load_weights, save_weights, with_params

pytestmark = pytest.mark.usefixtures("quick_programs")

CFG = ModelConfig(
    width=16, heads=2, layers=2, hidden=24, decoder_hidden=16, thinking_rows=3, max_classes=30, decoder="retrieval"
)
B, R, F, N = 2, 60, 3, 40


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: a + 0.2 * rng.normal(size=a.shape).astype(np.float32), init_params(CFG, 3))


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(1)
    return {
        "x": rng.normal(size=(B, R, F)).astype(np.float32),
        "y": rng.integers(0, 20, (B, R)).astype(np.int32),
        "n_features": np.array([3, 2], np.int32),
        "n_classes": np.array([20, 30], np.int32),
        "n_context": np.array([40, 33], np.int32),
        "categorical": np.zeros((B, F), bool),
    }


@jax.jit
def _static(params, task):
    return with_params(CFG, params)(**task, context=N)


def test_three_forwards_agree_and_classes_are_masked(params, task):
    logits = _static(params, task)
    assert logits.shape == (B, R - N, 30) and (logits[0, :, 20:] == MASKED_LOGIT).all()
    shares = np.exp(np.asarray(logits[0, :, :20])).sum(-1)
    np.testing.assert_allclose(shares, 1 + 20e-4, rtol=1e-5)  # a vote, and the floor of every class
    masked = jax.jit(lambda t: with_params(CFG, params)(**t))(task)
    np.testing.assert_allclose(logits, masked[:, N:], atol=2e-4)
    head = {k: v[:, :N] if k in ("x", "y") else v for k, v in task.items()}
    cache = jax.jit(lambda t: with_params(CFG, params).encode_context(**t))(head)
    cached = jax.jit(lambda c, x: with_params(CFG, params).predict_queries(c, x))(cache, task["x"][:, N:])
    np.testing.assert_allclose(logits, cached, atol=2e-4)


def test_order_padding_and_other_queries_change_nothing(params, task):
    before = np.asarray(_static(params, task))
    order = np.random.default_rng(2).permutation(33)
    x, y = task["x"].copy(), task["y"].copy()
    x[:, :33], y[:, :33] = x[:, order], y[:, order]
    x[1, 33:N], y[1, 33:N] = 1e30, 7  # padding
    y[:, N:] = 3
    x[:, N] = np.nan
    after = np.asarray(_static(params, {**task, "x": x, "y": y}))
    np.testing.assert_allclose(after[:, 1:], before[:, 1:], atol=2e-3)
    assert np.isfinite(after).all()


@pytest.mark.slow
def test_it_learns_to_look_up_twenty_classes(params, task):
    """Rows whose class is where they lie: no class has an output of its own, and still all twenty are told apart."""
    optimizer = optax.adam(1e-2)

    def batch(key):
        place = jax.random.uniform(key, (4, R, 1), minval=-1.0, maxval=1.0)
        y = jnp.argsort(jnp.argsort(place[..., 0], axis=1), axis=1) * 20 // R
        each = lambda v: jnp.full(4, v, jnp.int32)
        return place, y, each(1), each(20), each(N), jnp.zeros((4, 1), bool)

    def loss(p, key):
        x, y, *rest = batch(key)
        log_p = jax.nn.log_softmax(with_params(CFG, p)(x, y, *rest, context=N))
        return -jnp.take_along_axis(log_p, y[:, N:, None], -1).mean()

    @jax.jit
    def train(p, key):
        def step(carry, k):
            p, state = carry
            value, grads = jax.value_and_grad(loss)(p, k)
            updates, state = optimizer.update(grads, state, p)
            return (optax.apply_updates(p, updates), state), value

        (p, _), values = jax.lax.scan(step, (p, optimizer.init(p)), jax.random.split(key, 150))
        return p, values

    _, losses = train(init_params(CFG, 0), jax.random.key(0))
    assert losses[-10:].mean() < 0.75 * np.log(20) < losses[:2].mean()


def test_it_has_no_parameter_per_class_in_the_decoder_and_is_stored_like_any_other(params, tmp_path):
    more = dataclasses.replace(CFG, max_classes=60)
    assert count_params(init_params(more)["decoder"]) == count_params(params["decoder"])
    save_weights(tmp_path / "w.safetensors", CFG, params, {})
    assert load_weights(tmp_path / "w.safetensors").cfg == CFG
    with pytest.raises(ValueError, match=r"model\.heads = 3 must divide"):
        ModelConfig(width=48, heads=3, decoder_hidden=16, decoder="retrieval")
    with pytest.raises(ValueError, match=r"model\.decoder is 'vote'; allowed: mlp, retrieval"):
        ModelConfig(decoder="vote")
