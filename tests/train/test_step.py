"""One step: schedules, the guard against numbers that are not finite, gradients in pieces, the metrics."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from priorax.configs import NumericalError
from priorax.configs.recipe import Recipe, TaskShape
from priorax.configs.train import TrainConfig
from priorax.train import pretrain
from priorax.train.curriculum import Pace, pick_shape
from priorax.train.loss import accuracy, cross_entropy, roc_auc, roc_auc_sum
from priorax.train.optimizer import learning_rate, make_optimizer, trunk_matrices
from priorax.train.state import init_state
from priorax.train.step import apply_gradients, average_decay, make_dispatch


@pytest.fixture(scope="module")
def dispatch(toy):
    return make_dispatch(toy.RECIPE, toy.RECIPE.shapes[0], None, toy.linear_tasks, jax.devices()[:1])


def _go(dispatch, state, learn=True, first=0):
    return dispatch(jax.tree.map(jnp.copy, state), jax.random.key(0), jnp.bool_(learn), jnp.uint32(first))


def test_loss_falls_and_one_program_serves_every_step(toy, dispatch):
    state = init_state(toy.RECIPE, 0, 40)
    losses = []
    for _ in range(10):
        state, numbers = _go(dispatch, state)
        losses.append(float(numbers["loss"].mean()))
    assert losses[-1] < losses[0] - 0.1
    assert int(state.step) == 40 and dispatch._cache_size() == 1


def test_measuring_changes_nothing_and_reads_the_average(toy, dispatch):
    state = init_state(toy.RECIPE, 0, 24)
    after, numbers = _go(dispatch, state, learn=False)
    assert toy.digest(after) == toy.digest(state)
    other = dataclasses.replace(state, params=jax.tree.map(jnp.zeros_like, state.params))
    _, same = _go(dispatch, other, learn=False)
    np.testing.assert_array_equal(numbers["loss"], same["loss"])
    assert np.isfinite(numbers["roc_auc"]).all() and dispatch._cache_size() == 1


@pytest.mark.heavy  # compiles a step with its blocks written out
def test_an_accelerator_learns_the_same(toy, as_on_an_accelerator):
    """It samples many steps ahead, writes the blocks out and computes again what a CPU keeps: the same losses and weights."""
    recipe = dataclasses.replace(toy.RECIPE, model=dataclasses.replace(toy.RECIPE.model, dtype="float32"))
    state, results = init_state(recipe, 0, 24), []
    for there in (False, True):
        if there:
            as_on_an_accelerator()
        dispatch = make_dispatch(recipe, recipe.shapes[0], None, toy.linear_tasks, jax.devices()[:1])
        trained, numbers = _go(dispatch, _go(dispatch, state)[0])
        _, measured = _go(dispatch, trained, learn=False, first=7)
        results.append((trained, numbers, measured))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_context_of_every_task_its_own_is_the_same_step(toy, dispatch):
    """Where all tasks happen to have as many context rows, the program that masks them learns what the other does."""
    shape = dataclasses.replace(toy.RECIPE.shapes[0], least_context=8)  # the toy tasks all have the most
    masked = make_dispatch(toy.RECIPE, shape, None, toy.linear_tasks, jax.devices()[:1])
    state = init_state(toy.RECIPE, 0, 24)
    a, b = _go(dispatch, state)[1], _go(masked, state)[1]
    for name in ("loss", "accuracy", "grad_norm"):
        np.testing.assert_allclose(a[name], b[name], rtol=2e-4)


@pytest.mark.slow  # a compilation of its own
def test_gradients_in_pieces_equal_gradients_at_once(toy, dispatch):
    whole = dataclasses.replace(toy.RECIPE, train=dataclasses.replace(toy.RECIPE.train, microbatch=None))
    at_once = make_dispatch(whole, whole.shapes[0], None, toy.linear_tasks, jax.devices()[:1])
    state = init_state(toy.RECIPE, 0, 24)
    a, b = _go(dispatch, state)[1], _go(at_once, state)[1]
    for name in ("loss", "accuracy", "grad_norm"):
        np.testing.assert_allclose(a[name], b[name], rtol=2e-4)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_a_bitwise_no_op(toy, kind):
    state = init_state(toy.RECIPE, 0, 24)
    optimizer = make_optimizer(toy.RECIPE.train)
    grads = jax.tree.map(jnp.ones_like, state.params)
    update = jax.jit(lambda s, loss, g: apply_gradients(toy.RECIPE, optimizer, s, loss, jnp.float32(0), g))
    state, numbers = update(state, jnp.float32(1), grads)
    assert not numbers["skipped"]
    bad_loss = jnp.float32(jnp.nan if kind == "loss" else 1.0)
    if kind == "gradient":
        grads["blocks"]["row_q"] = grads["blocks"]["row_q"].at[0, 0, 0].set(jnp.inf)
    after, numbers = update(state, bad_loss, grads)
    for name in ("params", "average", "opt_state"):
        assert toy.digest(getattr(after, name)) == toy.digest(getattr(state, name))
    assert numbers["skipped"] and int(after.skipped) == int(after.streak) == 1 and int(after.step) == 2
    again, numbers = update(after, jnp.float32(1), jax.tree.map(jnp.ones_like, state.params))
    assert not numbers["skipped"] and int(again.streak) == 0 and int(again.skipped) == 1
    assert toy.digest(again.params) != toy.digest(after.params)


@pytest.mark.slow  # a compilation of its own
def test_too_many_bad_steps_end_the_run_and_name_the_checkpoint(toy, tmp_path):
    def poisoned(prior, shape, tasks):
        good = toy.linear_tasks(prior, shape, tasks)

        def sampler(key, step):
            batch = good(key, step)
            return dataclasses.replace(batch, n_features=jnp.where(step >= 8, 0, batch.n_features))  # 0 / 0 in the mean

        return sampler

    recipe = dataclasses.replace(toy.RECIPE, train=dataclasses.replace(toy.RECIPE.train, max_bad_steps=6))
    with pytest.raises(NumericalError, match=r"8 steps in a row up to step 16.*step-000000012"):
        pretrain(recipe, tmp_path / "run", quiet=True, sampler_factory=poisoned)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert sum('"skipped"' in line and '"event"' in line for line in lines) == 8


def test_learning_rate_warms_up_stays_and_decays():
    cfg = TrainConfig(learning_rate=1.0, warmup_steps=10, schedule="wsd", decay=0.25, final_rate=0.1)
    rate = lambda s, c=cfg: float(learning_rate(c, jnp.int32(s), jnp.int32(100)))
    assert rate(0) == pytest.approx(0.1) and rate(9) == rate(50) == rate(75) == pytest.approx(1.0)
    assert rate(88) == pytest.approx(0.1 + 0.9 * 0.48) and rate(100) == rate(1000) == pytest.approx(0.1)
    cosine = dataclasses.replace(cfg, schedule="cosine")
    assert rate(50, cosine) == pytest.approx(0.55) and rate(100, cosine) == pytest.approx(0.1)


def test_muon_trains_every_trunk_matrix_by_itself(toy):
    params = init_state(toy.RECIPE, 0, 1).params
    flat, _ = jax.tree_util.tree_flatten_with_path(trunk_matrices(params), is_leaf=lambda v: v is None)
    chosen = {jax.tree_util.keystr(p) for p, v in flat if v is not None}
    assert {c.split("'")[3] for c in chosen} == {
        "feature_q", "feature_k", "feature_v", "feature_out", "row_q", "row_k", "row_v", "row_out", "mlp_in", "mlp_out"
    }  # fmt: skip
    cfg = dataclasses.replace(toy.RECIPE.train, muon_weight_decay=0.0)
    optimizer = make_optimizer(cfg)
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for layer in range(2):  # near-orthogonal updates of the announced size, each layer alone
        matrix = np.asarray(updates["blocks"]["row_q"][layer])
        singular = np.linalg.svd(matrix, compute_uv=False) / (0.2 * 16**0.5)
        assert 0.5 < singular.min() and singular.max() < 1.5
    huge = jax.tree.map(lambda a: a, grads)
    huge["blocks"]["row_q"] = grads["blocks"]["row_q"].at[1].multiply(100.0)
    again, _ = optimizer.update(huge, optimizer.init(params), params)
    np.testing.assert_allclose(again["blocks"]["row_q"][0], updates["blocks"]["row_q"][0], atol=2e-2)


def test_average_follows_then_smooths():
    assert float(average_decay(0.02, jnp.int32(0), jnp.int32(1000))) == 0.0
    assert float(average_decay(0.02, jnp.int32(999), jnp.int32(1000))) == pytest.approx(1 - 1 / 20)
    assert float(average_decay(0.0, jnp.int32(999), jnp.int32(1000))) == 0.0


def test_metrics_equal_scikit_learn():
    from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

    rng = np.random.default_rng(0)
    logits = np.round(rng.normal(size=(3, 40, 4)), 1).astype(np.float32)  # rounded: ties
    y = rng.integers(0, 4, (3, 40))
    y[1] %= 2
    logits[1, :, 2:] = -1e9
    weight = (np.arange(40) >= np.array([[0], [10], [20]])).astype(np.float32)
    wanted = {"loss": [], "hits": [], "auc": []}
    for b in range(3):
        rows = weight[b] > 0
        p = np.exp(logits[b, rows]) / np.exp(logits[b, rows]).sum(-1, keepdims=True)
        wanted["loss"].append(log_loss(y[b, rows], p, labels=range(4)))
        wanted["hits"].append(accuracy_score(y[b, rows], p.argmax(-1)))
        present = np.unique(y[b, rows])
        wanted["auc"].append(np.mean([roc_auc_score(y[b, rows] == c, p[:, c]) for c in present]))
    logits, y, weight = jnp.asarray(logits), jnp.asarray(y), jnp.asarray(weight)
    assert float(cross_entropy(logits, y, weight)) == pytest.approx(np.mean(wanted["loss"]), rel=1e-5)
    assert float(accuracy(logits, y, weight)) == pytest.approx(np.mean(wanted["hits"]), rel=1e-5)
    assert float(roc_auc(logits, y, weight)) == pytest.approx(np.mean(wanted["auc"]), rel=1e-5)


def test_shapes_come_in_proportion_and_in_their_phase():
    shapes = (TaskShape(weight=3.0), TaskShape(columns=20), TaskShape(columns=30, start=0.5))
    early = [pick_shape(shapes, i, 0.2) for i in range(400)]
    assert early.count(0) == pytest.approx(300, abs=3) and early.count(2) == 0
    late = [pick_shape(shapes, i, 1.0) for i in range(400)]
    assert [late.count(i) for i in range(3)] == pytest.approx([240, 80, 80], abs=3)
    assert early[:50] == [pick_shape(shapes, i, 0.2) for i in range(50)]
    with pytest.raises(ValueError, match="none is active at share 0"):
        Recipe("gap", shapes=(TaskShape(start=0.5),))


def test_pace_prices_shapes_it_has_not_seen():
    shapes = (TaskShape(columns=9, end=0.5), TaskShape(columns=19, start=0.5))
    pace = Pace(shapes)
    assert pace.dispatches(100, 0.0) is None
    for seconds in (30.0, 1.0, 1.0):  # the first one warms up
        pace.add(0, seconds)
    assert pace.dispatches(150, 0.0) == pytest.approx(100, abs=2)
    assert pace.dispatches(150, 0.5) == pytest.approx(75, abs=2)


def test_a_device_without_a_task_that_has_an_auc_takes_none_from_the_others():
    """The AUC of a step is that of its tasks, however many devices they are dealt out to."""
    rng = np.random.default_rng(1)
    logits, y, weight = rng.normal(size=(4, 8, 3)).astype(np.float32), rng.integers(0, 3, (4, 8)), np.ones((4, 8), np.float32)
    y[2:] = 1  # the second device's
    total, tasks = np.sum([roc_auc_sum(logits[part], y[part], weight[part]) for part in (slice(0, 2), slice(2, 4))], axis=0)
    assert tasks == 2
    assert total / tasks == pytest.approx(float(roc_auc(logits, y, weight)), abs=1e-6)
    assert np.isnan(roc_auc(logits[2:], y[2:], weight[2:]))
