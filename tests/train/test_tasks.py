"""Tables with ridge scores behind their columns: where they stand, which fit in, that nothing else changes."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from priorax.configs.recipe import TaskShape
from priorax.models import ModelConfig
from priorax.priors.task import TaskBatch
from priorax.train import pretrain
from priorax.train.ridge import ridge_scores
from priorax.train.state import init_state
from priorax.train.step import make_dispatch
from priorax.train.tasks import make_tasks, task_key, with_scores
from sklearn.metrics import roc_auc_score

_SHAPE = TaskShape(rows=128, columns=6, tasks=4, context=96, score_columns=4)


def _batch(classes):
    """A task per number of classes, 5 columns in use of 6: the class by a sum of the columns."""
    rng, n = np.random.default_rng(3), len(classes)
    x = rng.normal(size=(n, 128, 6)).astype(np.float32)
    x[..., 5] = 0
    score = x.sum(2) + 0.1 * rng.normal(size=(n, 128))
    y = [np.digitize(s, np.quantile(s, np.arange(1, k) / k)) for s, k in zip(score, classes, strict=True)]
    each = lambda v: jnp.full(n, v, jnp.int32)
    return TaskBatch(
        x=jnp.asarray(x), y=jnp.asarray(np.stack(y), jnp.int32), n_features=each(5), n_classes=jnp.asarray(classes, jnp.int32),
        n_context=each(96), categorical=jnp.zeros((n, 6), bool), cardinality=jnp.zeros((n, 6), jnp.int32),
    )  # fmt: skip


_fit = jax.jit(ridge_scores, static_argnums=(4, 5))


def _scores(batch, i):
    return np.asarray(_fit(batch.x[i], batch.y[i], batch.categorical[i], batch.n_classes[i], 96, 5)[0])


def test_scores_stand_behind_the_columns_and_nothing_else_changes():
    batch = _batch([2, 2, 3])
    wide = with_scores(batch, jax.random.key(0), jnp.uint32(0), _SHAPE, 5)
    assert wide.x.shape == (3, 128, 10) and wide.categorical.shape == wide.cardinality.shape == (3, 10)
    np.testing.assert_array_equal(wide.n_features, [9, 9, 8])  # four columns of two classes; one regression of three
    np.testing.assert_array_equal(wide.x[..., :5], batch.x[..., :5])
    assert (np.asarray(wide.x)[np.arange(10) >= np.asarray(wide.n_features)[:, None, None] + np.zeros((3, 128, 1))] == 0).all()
    for name in ("y", "n_classes", "n_context"):
        assert getattr(wide, name) is getattr(batch, name)
    np.testing.assert_allclose(np.asarray(wide.x)[1, :, 5:9].T, _scores(batch, 1)[:, :, 1], atol=0.01)
    for part in (slice(0, 96), slice(96, 128)):  # both see through the noise of single columns
        assert roc_auc_score(batch.y[0, part], wide.x[0, part, 5]) > 0.95
    assert not (np.asarray(wide.x)[2, :, 5:8].std(0) == 0).any()


def test_of_regressions_that_do_not_fit_in_together_some_are_drawn():
    batch = _batch([4] * 8)
    wide = with_scores(batch, jax.random.key(1), jnp.uint32(0), _SHAPE, 5)
    np.testing.assert_array_equal(wide.n_features, 9)
    drawn = []
    for i in range(8):
        apart = [np.abs(np.asarray(wide.x)[i, :, 5:9] - s[:, :4]).max() for s in _scores(batch, i)]
        assert min(apart) < 0.01 < 0.05 < max(apart)
        drawn.append(int(np.argmin(apart)))
    assert set(drawn) == {0, 1, 2, 3}
    batch = _batch([2] * 8)
    wide = with_scores(batch, jax.random.key(1), jnp.uint32(0), dataclasses.replace(_SHAPE, score_columns=2), 5)
    np.testing.assert_array_equal(wide.n_features, 7)
    pairs = set()
    for i in range(8):
        s, columns = _scores(batch, i)[..., 1], np.asarray(wide.x)[i, :, 5:7].T
        fits = [p for p in itertools.combinations(range(4), 2) if np.abs(columns - s[list(p)]).max() < 0.01]  # in their order
        assert len(fits) == 1
        pairs.update(fits)
    assert len(pairs) > 1


def test_no_scores_where_they_do_not_fit_or_say_nothing_or_there_is_no_room():
    batch = _batch([5, 2])
    noise = dataclasses.replace(batch, x=batch.x.at[1, :, :5].set(0.0))
    wide = with_scores(noise, jax.random.key(0), jnp.uint32(0), _SHAPE, 5)
    np.testing.assert_array_equal(wide.n_features, [5, 5])
    assert (np.asarray(wide.x)[..., 5:] == 0).all()
    assert with_scores(batch, jax.random.key(0), jnp.uint32(0), dataclasses.replace(_SHAPE, score_columns=0), 5) is batch


@pytest.mark.heavy
def test_a_step_learns_from_tables_with_scores(toy):
    shape = TaskShape(rows=72, columns=3, tasks=8, context=56, score_columns=2)
    recipe = dataclasses.replace(toy.RECIPE, shapes=(shape,))
    tasks = jax.jit(make_tasks(None, shape, 8, 3, toy.linear_tasks))
    key = jax.random.key(0)
    one, again, next_ = (tasks(key, jnp.uint32(i)) for i in (4, 4, 5))
    np.testing.assert_array_equal(one.x, again.x)
    assert not np.array_equal(one.x, next_.x)
    plain = toy.linear_tasks(None, shape, 8)(key, jnp.uint32(4))
    np.testing.assert_array_equal(one.y, plain.y)
    assert set(np.asarray(one.n_features - plain.n_features)) <= {1, 2}
    dispatch = make_dispatch(recipe, shape, None, toy.linear_tasks, jax.devices()[:1])
    state, losses = init_state(recipe, 0, 40), []
    for _ in range(6):
        state, numbers = dispatch(state, key, jnp.bool_(True), jnp.uint32(0))
        losses.append(float(numbers["loss"].mean()))
    assert losses[-1] < losses[0] - 0.1 and int(state.skipped) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score_columns": 4, "context": 48}, "at least 50"),
        ({"score_columns": 4, "context": None}, "at least 50"),
        ({"score_columns": 4, "context": 96, "least_context": 8}, "no shape.least_context"),
        ({"score_columns": -1}, "allowed: 0 to 1000"),
    ],
)
def test_shapes_that_cannot_have_scores_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TaskShape(**{"rows": 128, "context": 96} | settings)


def test_a_shape_says_how_wide_it_is():
    assert _SHAPE.all_columns == 10 and _SHAPE.label == "128 x 6 with scores"
    assert dataclasses.replace(_SHAPE, score_columns=0).label == "128 x 6"


def test_shapes_draw_with_keys_of_their_own(toy, tmp_path):
    """Under one key a step of 16 tasks would meet the ids of two steps of 8, and with them the same graphs and mechanisms."""
    seen = set()

    def factory(prior, shape, tasks):
        draw = toy.linear_tasks(prior, shape, tasks)

        def sampler(key, step):
            jax.debug.callback(lambda words: seen.add((shape.rows, *words.tolist())), jax.random.key_data(key))
            return draw(key, step)

        return sampler

    (shape,) = toy.RECIPE.shapes
    recipe = dataclasses.replace(
        toy.RECIPE, shapes=(shape, dataclasses.replace(shape, rows=40)),
        model=ModelConfig(width=8, heads=1, layers=1, hidden=8, decoder_hidden=8, thinking_rows=1, max_classes=3),
        train=dataclasses.replace(toy.RECIPE.train, steps=8, microbatch=None),
    )  # fmt: skip
    pretrain(recipe, tmp_path, seed=3, quiet=True, sampler_factory=factory)
    jax.effects_barrier()
    keys = [tuple(jax.random.key_data(task_key(seed, which)).tolist()) for seed in (3, recipe.train.validation_seed) for which in (0, 1)]
    assert len(set(keys)) == 4
    assert seen == {(rows, *key) for rows, key in zip((32, 40) * 2, keys, strict=True)}


def test_lapack_is_never_asked_for_a_batch():
    """A batch is shared out among the threads that run the program, and several devices wait for one another for ever."""
    fill = jax.jit(lambda batch, key, step: with_scores(batch, key, step, _SHAPE, 5).x)
    lowered = fill.trace(_batch([2, 3]), jax.random.key(0), jnp.uint32(0)).lower(lowering_platforms=("cpu",))
    calls = [line for line in lowered.as_text().splitlines() if re.search("custom_call @(lapack|blas)_", line)]
    assert any("potrf" in call for call in calls) and any("syevd" in call for call in calls)
    for call in calls:
        for matrix in re.findall(r"tensor<(\d+(?:x\d+)+)xf32>", call):
            *batch, _, _ = map(int, matrix.split("x"))
            assert math.prod(batch) == 1, call
