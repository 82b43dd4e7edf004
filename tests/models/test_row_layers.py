"""Layers over whole rows keep the promises of the network, start as if they were not there, and can learn."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from priorax.configs import config_digest
from priorax.configs.recipe import TaskShape
from priorax.models import ModelConfig, inference, init_params, load_weights, save_weights, with_params
from priorax.models.growth import grow
from priorax.models.inference import cache_bytes
from priorax.train.flops import forward_flops
from priorax.train.optimizer import trunk_matrices

pytestmark = pytest.mark.usefixtures("quick_programs")

PLAIN = ModelConfig(width=16, heads=2, layers=2, hidden=24, decoder_hidden=16, thinking_rows=3, max_classes=5)
CFG = dataclasses.replace(PLAIN, row_layers=2)
B, R, F, N = 2, 40, 3, 28


def _shaken(cfg, seed=0):
    """Weights whose projections back are not zero, as after training."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: a + 0.2 * rng.normal(size=a.shape).astype(np.float32), init_params(cfg, 3))


@pytest.fixture(scope="module", params=[("mlp", 2), ("retrieval", 2), ("mlp", 1)])
def network(request):
    decoder, row_layers = request.param
    cfg = dataclasses.replace(CFG, decoder=decoder, row_layers=row_layers)
    return cfg, _shaken(cfg)


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(1)
    return {
        "x": rng.normal(size=(B, R, F)).astype(np.float32),
        "y": rng.integers(0, 4, (B, R)).astype(np.int32),
        "n_features": np.array([3, 2], np.int32),
        "n_classes": np.array([4, 5], np.int32),
        "n_context": np.array([28, 21], np.int32),
        "categorical": np.zeros((B, F), bool),
    }


@functools.partial(jax.jit, static_argnums=(0, 3))
def _logits(cfg, params, task, context=N):
    return with_params(cfg, params)(**task, context=context)


def test_three_forwards_agree_in_chunks_too(network, task):
    cfg, params = network
    logits = _logits(cfg, params, task)
    assert logits.shape == (B, R - N, 5)
    np.testing.assert_allclose(logits, _logits(cfg, params, task, None)[:, N:], atol=2e-4)
    head = {k: v[:, :N] if k in ("x", "y") else v for k, v in task.items()}
    cache = jax.jit(lambda t: with_params(cfg, params).encode_context(**t))(head)
    ask = jax.jit(lambda c, x: with_params(cfg, params).predict_queries(c, x))
    parts = [ask(cache, task["x"][:, i : i + 4]) for i in range(N, R, 4)]
    np.testing.assert_allclose(logits, jnp.concatenate(parts, axis=1), atol=2e-4)


def test_rows_over_rows_matter(network, task):
    cfg, params = network
    silent = params | {"row_blocks": jax.tree.map(jnp.zeros_like, params["row_blocks"])}
    assert np.abs(np.asarray(_logits(cfg, params, task) - _logits(cfg, silent, task))).max() > 1e-2


def test_order_padding_and_other_queries_change_nothing(network, task):
    cfg, params = network
    before = np.asarray(_logits(cfg, params, task))
    order = np.random.default_rng(2).permutation(21)
    x, y = task["x"].copy(), task["y"].copy()
    x[:, :21], y[:, :21] = x[:, order], y[:, order]
    np.testing.assert_allclose(before, _logits(cfg, params, task | {"x": x, "y": y}), atol=2e-4)
    x, y = task["x"].copy(), task["y"].copy()
    x[1, 21:N], y[1, 21:N] = 1e6, 3  # context rows past the second task's number
    x[1, :, 2] = np.nan  # its column that does not exist
    np.testing.assert_array_equal(before, _logits(cfg, params, task | {"x": x, "y": y}))
    x, y = task["x"].copy(), task["y"].copy()
    x[:, N + 3], y[:, N:] = 50.0, 0  # one query row, and the labels of all
    after = np.asarray(_logits(cfg, params, task | {"x": x, "y": y}))
    others = np.arange(R - N) != 3
    np.testing.assert_array_equal(before[:, others], after[:, others])
    assert np.abs(before[:, 3] - after[:, 3]).max() > 1e-3


def test_a_network_grows_rows_without_changing_an_answer(task):
    params = _shaken(PLAIN, 4)
    grown = grow(params, CFG, seed=1)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, init_params(CFG))
    np.testing.assert_allclose(_logits(PLAIN, params, task), _logits(CFG, grown, task), rtol=1e-4, atol=1e-5)
    slope = jax.jit(jax.grad(lambda p: jnp.square(_logits(CFG, p, task)[..., 0]).sum()))(grown)["row_blocks"]
    assert all(np.abs(slope[name]).max() > 0 for name in ("row_out", "mlp_out"))
    # More of them later, and a deeper trunk below them.
    trained = _shaken(CFG, 5)
    more = dataclasses.replace(CFG, layers=3, row_layers=4)
    deeper = grow(trained, more)
    assert jax.tree.map(jnp.shape, deeper) == jax.tree.map(jnp.shape, init_params(more))
    np.testing.assert_allclose(_logits(CFG, trained, task), _logits(more, deeper, task), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="row_blocks: 1 layers are asked for, the weights have 2"):
        grow(trained, dataclasses.replace(CFG, row_layers=1))


def test_sixteen_bits_are_close(task):
    params = _shaken(CFG)
    short = dataclasses.replace(CFG, dtype="bfloat16")
    known = np.arange(5) < task["n_classes"][:, None, None]
    near, exact = (np.asarray(_logits(cfg, params, task)) for cfg in (short, CFG))
    assert np.abs(np.where(known, near - exact, 0.0)).max() < 0.1 * np.abs(np.where(known, exact, 0.0)).max()


def test_without_them_files_and_digests_are_as_before(tmp_path):
    save_weights(tmp_path / "w.safetensors", PLAIN, init_params(PLAIN), {})
    with safetensors.safe_open(tmp_path / "w.safetensors", "numpy") as file:
        assert "row_layers" not in json.loads(file.metadata()["priorax"])["config"]
    assert config_digest(PLAIN) == config_digest(dataclasses.replace(PLAIN, row_layers=0)) != config_digest(CFG)


def test_the_estimate_of_memory_counts_their_scores():
    """31 columns go one by one, since 31 is prime; of the two heads of a layer over rows both fit."""
    narrow, rows = dataclasses.replace(PLAIN, heads=1), 600
    more = inference.estimate_memory(dataclasses.replace(narrow, row_layers=2), rows, 30, 256).scores
    assert more == 8 * 2 * (rows + PLAIN.thinking_rows) * rows > inference.estimate_memory(narrow, rows, 30, 256).scores


def test_they_are_stored_counted_and_trained_by_muon(tmp_path):
    params = _shaken(CFG)
    save_weights(tmp_path / "w.safetensors", CFG, params, {}, dtype="float32")
    found = load_weights(tmp_path / "w.safetensors")  # the self-test runs
    assert found.cfg == CFG
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    chosen = trunk_matrices(params)["row_blocks"]
    assert {k for k, v in chosen.items() if v is not None} == {"row_q", "row_k", "row_v", "row_out", "mlp_in", "mlp_out"}
    # Keys and values of two layers, 4 bytes a number.
    assert cache_bytes(CFG, 100, 7) - cache_bytes(PLAIN, 100, 7) == 2 * 2 * 100 * 32 * 4
    wide = dataclasses.replace(PLAIN, width=64, hidden=128)
    share = forward_flops(dataclasses.replace(wide, row_layers=1), 256, 10, 192) / forward_flops(wide, 256, 10, 192)
    assert 1.05 < share < 1.5
    with pytest.raises(ValueError, match=r"model\.row_layers is -1"):
        dataclasses.replace(PLAIN, row_layers=-1)


def test_the_count_of_operations_is_that_of_xla():
    cfg = dataclasses.replace(PLAIN, width=64, hidden=128, decoder_hidden=64, row_layers=3)
    shape = TaskShape(rows=64, columns=4, context=48)
    params = jax.eval_shape(lambda: init_params(cfg))
    rows, number = jax.ShapeDtypeStruct((1, 64), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
    table, kinds = jax.ShapeDtypeStruct((1, 64, 4), jnp.float32), jax.ShapeDtypeStruct((1, 4), bool)
    call = lambda p, x, y, f, c, n, k: with_params(cfg, p)(x, y, f, c, n, k, context=48)
    counted = jax.jit(call).lower(params, table, rows, number, number, number, kinds).cost_analysis()["flops"]
    assert 0.85 < forward_flops(cfg, shape.rows, shape.columns, shape.context) / counted <= 1.0
