"""Ridge scores in the training step: against those of the estimator, and what they must not know."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from priorax.models import kernel_ridge, linear_ridge, pair_ridge
from priorax.models.effects import Effects
from priorax.models.kernel_ridge import CITY_BLOCK, KernelRidge
from priorax.models.linear_ridge import LinearRidge
from priorax.models.pair_ridge import PairRidge
from priorax.models.ridge_scores import FOLDS
from priorax.train import ridge

_CONTEXT, _ROWS = 120, 160


def _table(seed, numbers, levels, classes, gaps=0.0):
    """x f32[160, numbers + levels' columns] and y, the class by a sum of effects; categorical columns of few levels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(_ROWS, numbers + len(levels))).astype(np.float32)
    for j, k in enumerate(levels, numbers):
        x[:, j] = rng.integers(0, k, _ROWS)
    score = np.sin(2 * x[:, 0]) + x[:, 1:].sum(1) + 0.3 * rng.normal(size=_ROWS)
    y = np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))
    x[rng.random(x.shape) < gaps] = np.nan
    return x, y, np.arange(numbers + len(levels)) >= numbers


@functools.cache
def _compiled(classes):
    return jax.jit(lambda x, y, categorical, n: ridge.ridge_scores(x, y, categorical, n, _CONTEXT, classes))


def _reference(x, y, categorical, classes):
    """Effects and scores of all rows as the estimator computes them, on the same folds."""
    shown = y[:_CONTEXT]
    learned = Effects(x[:_CONTEXT], categorical * 100, np.random.RandomState(0))
    d = learned(x)
    fold = np.argmin(np.asarray(ridge.folds(jnp.asarray(shown))), axis=0)
    target = (shown[:, None] == np.arange(classes)).astype(float)
    scores = []
    for regression in (LinearRidge(), KernelRidge(), PairRidge(), KernelRidge(CITY_BLOCK)):
        own = regression.fit(d[:_CONTEXT], target, fold)
        scores.append(np.concatenate([own, regression.apply(d[_CONTEXT:])]))
    return d, np.stack(scores)


@pytest.mark.parametrize(
    ("numbers", "levels", "gaps"), [(4, (), 0.0), (3, (2, 5, 12), 0.0), (3, (4,), 0.15)], ids=["numbers", "categories", "gaps"]
)
@pytest.mark.parametrize("classes", [2, 4])
def test_scores_are_those_of_the_estimator(numbers, levels, gaps, classes):
    x, y, categorical = _table(7, numbers, levels, classes, gaps)
    d, wanted = _reference(x, y, categorical, classes)
    here = np.asarray(ridge.effects(jnp.asarray(x), jnp.asarray(categorical), _CONTEXT))
    np.testing.assert_allclose(here @ here.T, d @ d.T, atol=2e-3)  # whatever the order of effects
    scores, told = _compiled(classes)(x, y, categorical, classes)
    assert told.all()
    for ours, theirs in zip(np.asarray(scores), wanted, strict=True):
        # The scale is a median, here of all pairs and there between the middle two; numbers are f32.
        np.testing.assert_allclose(ours, theirs, atol=0.02 * theirs.std())


def test_labels_of_query_rows_and_unused_columns_and_classes_change_nothing():
    x, y, categorical = _table(1, 4, (3,), 2)
    scores, _ = _compiled(4)(x, y, categorical, 2)
    hidden = np.where(np.arange(_ROWS) < _CONTEXT, y, 1 - y)
    np.testing.assert_array_equal(_compiled(4)(x, hidden, categorical, 2)[0], scores)
    wider = np.concatenate([x, np.zeros((_ROWS, 3), np.float32)], axis=1)
    again, _ = _compiled(4)(wider, y, np.append(categorical, [False] * 3), 2)
    np.testing.assert_allclose(again, scores, atol=2e-3)
    assert (np.asarray(scores)[..., 2:] == 0).all()


@pytest.mark.parametrize("kind", ["_linear", "_kernels", "_pairs"])
def test_a_score_does_not_know_its_label(kind, monkeypatch):
    for module in (linear_ridge, kernel_ridge, pair_ridge):
        monkeypatch.setattr(module, "PENALTIES", np.array([0.01]))
    monkeypatch.setattr(kernel_ridge, "WIDTHS", (1.0,))
    x, y, categorical = _table(5, 5, (), 2)
    d, kept = ridge.effects(jnp.asarray(x), jnp.asarray(categorical), _CONTEXT), ridge.folds(jnp.asarray(y[:_CONTEXT]))
    target = np.eye(2, dtype=np.float32)[y[:_CONTEXT]]
    more = (jnp.int32(2),) if kind == "_kernels" else ()
    fit = jax.jit(lambda target: jnp.stack(jax.tree.leaves(getattr(ridge, kind)(d, target, kept, *more))))
    before, fold = np.asarray(fit(target)), np.argmin(kept, axis=0)
    for row in (0, 50, 119):
        other = target.copy()
        other[row] = 1 - other[row]
        same = np.append(fold == fold[row], np.zeros(_ROWS - _CONTEXT, bool))
        for change in np.abs(np.asarray(fit(other)) - before):
            assert change[same].max() < 1e-5 and change[~same].max() > 1e-3


def test_nothing_is_said_where_columns_say_nothing():
    told = []
    for seed in range(40):
        x, _, categorical = _table(seed, 4, (), 2)
        told.append(_compiled(4)(x, np.random.default_rng(seed).integers(0, 2, _ROWS), categorical, 2)[1])
    assert np.mean(told) < 0.35  # a standard error is exceeded by chance in one of six
    x, y, categorical = _table(0, 4, (), 2)
    assert not _compiled(4)(np.zeros_like(x), y, categorical, 2)[1].any()


def test_a_class_of_one_row_has_no_scores():
    x, y, categorical = _table(2, 4, (), 2)
    y[3] = 2
    scores, told = _compiled(4)(x, y, categorical, 3)
    assert told.all() and (np.asarray(scores)[..., 2] == 0).all()


@pytest.mark.parametrize("columns", [1, 10])
def test_single_precision_is_enough(columns):
    """One column with heavy tails, ten that are all but the same: near rows among distant ones."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x = np.exp(3 * rng.normal(size=(_ROWS, 1))) if columns == 1 else rng.normal(size=(_ROWS, 1))
        x = (x + (1e-4 * rng.normal(size=(_ROWS, columns)) if columns > 1 else 0)).astype(np.float32)
        y = (x[:, 0] > np.median(x[:, 0])).astype(int)
        scores, told = _compiled(2)(x, y, np.zeros(columns, bool), 2)
        assert np.isfinite(scores).all() and told.all(), seed


def test_products_are_taken_in_full_precision_on_every_platform():
    x, y, categorical = _table(0, 3, (2,), 2)
    fit = lambda x, y: ridge.ridge_scores(x, y, jnp.asarray(categorical), jnp.int32(2), _CONTEXT, 2)
    program = jax.jit(fit).trace(x, y).lower(lowering_platforms=("cuda",)).as_text()
    products = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) > 10 and all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_folds_share_every_class_evenly():
    y = np.random.default_rng(0).choice(3, 120, p=[0.6, 0.3, 0.1])
    kept = np.asarray(ridge.folds(jnp.asarray(y)))
    assert (kept.sum(0) == FOLDS - 1).all()
    left = (1 - kept) @ np.eye(3)[y]
    assert (np.ptp(left, axis=0) <= 1).all()


def test_the_middle_distance_is_the_median():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 3))
    distances = np.linalg.norm(rows[:, None] - rows, axis=2)
    weight = (rng.random(40) < 0.7).astype(np.float32)
    some = distances[np.ix_(weight > 0, weight > 0)]
    wanted = np.median(some[np.triu_indices(len(some), 1)])
    assert float(ridge.middle_distance(jnp.asarray(distances), jnp.asarray(weight))) == pytest.approx(wanted, rel=0.01)
    assert float(ridge.middle_distance(jnp.zeros((4, 4)), jnp.ones(4))) == 1.0
