"""What the network promises: query rows influence nothing, order and padding do not matter, three forwards agree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from priorax.models import MASKED_LOGIT, PFN, ModelConfig, count_params, init_params, with_params
from priorax.models.attention import feature_attention, pick_implementation, row_attention
from priorax.models.blocks import row_keys, row_step
from priorax.models.embedding import column_statistics, context_ranks, soft_clip

pytestmark = pytest.mark.usefixtures("quick_programs")

B, R, F, N = 3, 28, 5, 20
CFG = ModelConfig(width=16, heads=2, layers=3, hidden=24, decoder_hidden=16, thinking_rows=3, max_classes=4)


@pytest.fixture(scope="module")
def params():
    """Weights away from initialisation, so that nothing is hidden by projections that start at zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: a + 0.2 * rng.normal(size=a.shape).astype(np.float32), init_params(CFG, 3))


@pytest.fixture(scope="module")
def task():
    """Three tasks: full; three columns; one column and a shorter context. Missing values and a categorical column."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(B, R, F)).astype(np.float32)
    x[0, :, 2] = rng.integers(0, 4, R)
    x[0, 3, 0] = x[0, 25, 1] = x[1, 5, 1] = np.nan
    x[1, :, 3:] = x[2, :, 1:] = 0.0
    return {
        "x": x,
        "y": rng.integers(0, 3, (B, R)).astype(np.int32),
        "n_features": np.array([5, 3, 1], np.int32),
        "n_classes": np.array([3, 4, 3], np.int32),
        "n_context": np.array([20, 20, 14], np.int32),
        "categorical": np.arange(F)[None, :] == np.array([2, -1, -1])[:, None],
    }


@jax.jit
def _static(params, task):
    return with_params(CFG, params)(**task, context=N)


@jax.jit
def _masked(params, task):
    return with_params(CFG, params)(**task)


def _change(task, **new):
    return {**task, **new}


def test_logits_have_the_promised_shape_and_mask(params, task):
    logits = _static(params, task)
    assert logits.shape == (B, R - N, CFG.max_classes) and logits.dtype == jnp.float32
    assert _masked(params, task).shape == (B, R, CFG.max_classes)
    for b, c in enumerate(task["n_classes"]):
        assert (logits[b, :, c:] == MASKED_LOGIT).all()
        assert np.isfinite(logits[b, :, :c]).all() and np.ptp(logits[b, :, :c]) > 1e-3


def test_static_context_equals_masked_forward(params, task):
    np.testing.assert_allclose(_static(params, task), _masked(params, task)[:, N:], atol=2e-5)


def test_cached_forward_equals_plain_whatever_the_chunks(params, task):
    model = with_params(CFG, params)
    head = {k: v[:, :N] if k in ("x", "y") else v for k, v in task.items()}
    cache = jax.jit(lambda t: model.encode_context(**t))(head)
    ask = jax.jit(model.predict_queries)
    whole = ask(cache, task["x"][:, N:])
    np.testing.assert_allclose(whole, _static(params, task), atol=2e-5)
    parts = [ask(cache, task["x"][:, i : i + 4]) for i in range(N, R, 4)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=2e-6)
    assert cache.nbytes > cache.keys.nbytes + cache.values.nbytes


def test_a_query_row_influences_no_other_row_and_its_label_is_never_read(params, task):
    before = np.asarray(_static(params, task))
    x, y = task["x"].copy(), task["y"].copy()
    x[:, N + 2] = 1e30
    x[:, N + 2, 0] = np.nan
    y[:, N:] = 2
    after = np.asarray(_static(params, _change(task, x=x, y=y)))
    others = np.arange(R - N) != 2
    assert (before[:, others] == after[:, others]).all()  # bitwise
    assert np.isfinite(after).all()


def test_order_of_context_rows_changes_nothing_beyond_rounding(params, task):
    order = np.random.default_rng(2).permutation(14)
    x, y = task["x"].copy(), task["y"].copy()
    x[:, :14], y[:, :14] = x[:, order], y[:, order]
    np.testing.assert_allclose(_static(params, _change(task, x=x, y=y)), _static(params, task), atol=5e-5)


@pytest.mark.parametrize("garbage", [np.nan, 1e30, -7.0])
def test_padding_is_inert_whatever_it_holds(params, task, garbage):
    x, y = task["x"].copy(), task["y"].copy()
    categorical = task["categorical"].copy()
    for b in range(B):
        x[b, :, task["n_features"][b] :] = garbage
        x[b, task["n_context"][b] : N] = garbage
        y[b, task["n_context"][b] : N] = 3
        categorical[b, task["n_features"][b] :] = True
    changed = _change(task, x=x, y=y, categorical=categorical)
    assert (np.asarray(_static(params, changed)) == np.asarray(_static(params, task))).all()  # bitwise

    def loss(p, t):
        return jnp.where(_static(p, t) > MASKED_LOGIT / 2, _static(p, t) ** 2, 0.0).sum()

    wanted, found = jax.grad(loss)(params, task), jax.grad(loss)(params, changed)
    for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * (1 + np.abs(a).max()))


def test_a_wider_bucket_changes_nothing_beyond_rounding(params, task):
    wide = _change(
        task, x=np.pad(task["x"], ((0, 0), (0, 0), (0, 3))), categorical=np.pad(task["categorical"], ((0, 0), (0, 3)))
    )
    np.testing.assert_allclose(_static(params, wide), _static(params, task), atol=2e-5)


def test_monotone_scale_of_a_column_does_not_matter(params, task):
    """z-scores and ranks: shifting and scaling a column changes nothing beyond rounding, even to 1e20."""
    x = task["x"].copy()
    x[:, :, 0] = x[:, :, 0] * 1e20
    x[:, :, 1] = x[:, :, 1] * 8.0 + 16.0
    np.testing.assert_allclose(_static(params, _change(task, x=x)), _static(params, task), atol=2e-3)


def test_an_empty_column_and_a_constant_column_keep_gradients_finite(params, task):
    x = task["x"].copy()
    x[:, :, 0], x[0, :, 1] = np.nan, 3.25

    def loss(p):
        logits = _static(p, _change(task, x=x))
        return jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(task["y"])[:, N:, None], -1).mean()

    value, grads = jax.value_and_grad(loss)(params)
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(grads)) > 0


@pytest.mark.parametrize("rows", [64, 700])
def test_statistics_and_ranks_equal_numpy(rows):
    """Both ways to rank: all pairs up to 512 context rows, sort and search beyond."""
    rng = np.random.default_rng(4)
    x = np.round(rng.normal(size=(2, 3, rows)), 1).astype(np.float32) * 5 + 100
    observed = rng.random(x.shape) > 0.3
    observed[1, 2] = False
    query = np.round(rng.normal(size=(2, 3, 9)), 1).astype(np.float32) * 5 + 100
    found = column_statistics(jnp.asarray(x), jnp.asarray(observed))
    ranks = context_ranks(jnp.asarray(query), found)
    for b in range(2):
        for f in range(3):
            seen = x[b, f, observed[b, f]].astype(np.float64)
            if len(seen) == 0:
                assert (ranks[b, f] == 0).all() and found.scale[b, f, 0] == 0
                continue
            np.testing.assert_allclose(found.mean[b, f, 0], seen.mean(), rtol=1e-6)
            np.testing.assert_allclose(found.scale[b, f, 0], 1 / seen.std(), rtol=1e-4)
            middle = [((seen < q).sum() + (seen <= q).sum()) / len(seen) - 1 for q in query[b, f]]
            np.testing.assert_allclose(ranks[b, f], middle, atol=1e-6)


def test_soft_clip_is_linear_inside_and_logarithmic_outside():
    z = np.array([-1e30, -4.0, -3.0, 0.5, 3.0, 3 + np.e - 1])
    np.testing.assert_allclose(soft_clip(jnp.asarray(z)), [-3 - np.log(1e30), -3 - np.log(2), -3, 0.5, 3, 4], rtol=1e-6)


def _reference_attention(q, k, v, seen):
    scores = q @ k.T + np.where(seen, 0, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def test_attention_equals_numpy():
    rng = np.random.default_rng(5)
    q, k, v = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 6, 8), (2, 3, 7, 8), (2, 3, 7, 8)))
    lengths, factor = np.array([7, 4]), rng.uniform(0.5, 2, (2, 2)).astype(np.float32)
    found = row_attention(q, k, v, jnp.asarray(lengths), jnp.asarray(factor), "xla")
    for b in range(2):
        for t in range(3):
            for h in range(2):
                c = slice(4 * h, 4 * h + 4)
                wanted = _reference_attention(
                    q[b, t][:, c] * factor[b, h] / 2, k[b, t][:, c], v[b, t][:, c], np.arange(7) < lengths[b]
                )
                np.testing.assert_allclose(found[b, t][:, c], wanted, atol=1e-5)
    q, k, v = (rng.normal(size=(2, 5, 4, 8)).astype(np.float32) for _ in range(3))
    found = feature_attention(q, k, v, jnp.asarray([4, 2]), 2)
    for b, r, h in [(0, 0, 0), (1, 4, 1)]:
        c = slice(4 * h, 4 * h + 4)
        wanted = _reference_attention(q[b, r][:, c] / 2, k[b, r][:, c], v[b, r][:, c], np.arange(4) < [4, 2][b])
        np.testing.assert_allclose(found[b, r][:, c], wanted, atol=1e-5)


def test_gradient_of_row_attention_equals_automatic_differentiation():
    rng = np.random.default_rng(6)
    sizes = ((2, 3, 6, 8), (2, 3, 7, 8), (2, 3, 7, 8), (2, 3, 6, 8))
    q, k, v, g = (rng.normal(size=s).astype(np.float32) for s in sizes)
    lengths, factor = jnp.asarray([7, 4]), jnp.asarray(rng.uniform(0.5, 2, (2, 2)), jnp.float32)

    def plain(q, k, v, factor):
        split = lambda a: a.reshape(*a.shape[:3], 2, 4)
        scores = jnp.einsum("btshd,btnhd->bthsn", split(q), split(k)) * (factor / 2)[:, None, :, None, None]
        seen = (jnp.arange(7) < lengths[:, None])[:, None, None, None, :]
        weights = jax.nn.softmax(jnp.where(seen, scores, -1e30), axis=-1)
        return jnp.einsum("bthsn,btnhd->btshd", weights, split(v)).reshape(q.shape)

    wanted = jax.grad(lambda *a: (plain(*a) * g).sum(), argnums=(0, 1, 2, 3))(q, k, v, factor)
    found = jax.grad(lambda *a: (row_attention(*a[:3], lengths, a[3], "xla") * g).sum(), argnums=(0, 1, 2, 3))(
        q, k, v, factor
    )
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_bfloat16_is_close_to_float32(params, task):
    import dataclasses

    half = dataclasses.replace(CFG, dtype="bfloat16")
    logits = with_params(half, params)(**task, context=N)
    wanted = _static(params, task)
    real = wanted > MASKED_LOGIT / 2
    assert np.abs(np.where(real, logits - wanted, 0)).max() < 0.15 * np.abs(np.where(real, wanted, 0)).max() + 0.1


def test_the_module_and_the_plain_parameters_are_the_same_thing(task):
    model = PFN(CFG, rngs=nnx.Rngs(jax.random.key(7)))
    params = init_params(CFG, 7)
    wanted = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert jax.tree.structure(params) == jax.tree.structure(wanted)
    np.testing.assert_allclose(model(**task, context=N), _static(params, task), atol=2e-5)
    assert count_params(params) == sum(leaf.size for leaf in jax.tree.leaves(wanted))


def test_activation_of_the_feed_forward_layer_against_numpy():
    """Attention projects back by zero here, so that a layer adds its feed-forward part alone."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(1, 2, 5, CFG.width)).astype(np.float32)
    w = {name: a[0] for name, a in with_params(CFG, init_params(CFG, 1)).blocks.stacked().items()}
    w["mlp_out"] = rng.normal(size=(CFG.hidden, CFG.width)).astype(np.float32)
    inner = h / np.sqrt((h * h).mean(-1, keepdims=True) + 1e-6) @ np.asarray(w["mlp_in"])
    gelu = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
    one = jnp.ones(1, jnp.int32)
    for name, bent in (("gelu", gelu), ("relu2", np.maximum(inner, 0) ** 2)):
        found = row_step(w, h, row_keys(w, h), 5 * one, 5 * one, "xla", name)
        np.testing.assert_allclose(found, h + bent @ w["mlp_out"], atol=2e-5)


def test_bad_sizes_are_refused(params, task):
    with pytest.raises(ValueError, match="context is 28"):
        with_params(CFG, params)(**task, context=R)
    with pytest.raises(ValueError, match="model.heads is 3"):
        ModelConfig(width=64, heads=3)
    with pytest.raises(ValueError, match="model.dtype is 'int8'"):
        ModelConfig(dtype="int8")
    with pytest.raises(ValueError, match="model.activation is 'tanh'; allowed: gelu, relu2"):
        ModelConfig(activation="tanh")
    with pytest.raises(ValueError, match="cudnn"):
        pick_implementation("cudnn", jnp.dtype("float32"), 32)
