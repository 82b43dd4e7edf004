"""Cross-fitted ridge scores: against scikit-learn, what they must not know, when they stay out, what members see."""

from __future__ import annotations

import contextlib
import pickle

import numpy as np
import pandas as pd
import pytest
from priorax.models import PFNClassifier, explain, kernel_ridge, linear_ridge, pair_ridge, ridge_scores
from priorax.models.effects import Effects
from priorax.models.folds import row_keys, spread_over_folds, stratified_part
from priorax.models.inference import get_engine
from priorax.models.kernel_ridge import CITY_BLOCK, KernelRidge
from priorax.models.linear_ridge import LinearRidge
from priorax.models.pair_ridge import PairRidge
from priorax.models.ridge_scores import KINDS, LEAST_ROWS, RidgeScores, scores_of_symbols
from sklearn import kernel_ridge as reference
from sklearn.base import clone
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import roc_auc_score


def _sums(n, columns, classes, seed, noise=0.5):
    """x f32[n, columns] and y, the class by a sum of as many faint effects."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, columns)).astype(np.float32)
    score = x @ rng.choice([-1, 1], columns) / np.sqrt(columns) + noise * rng.normal(size=n)
    return x, np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))


def _problem(n, columns, classes, seed):
    """What a regression is fitted to: centred rows, indicators, folds."""
    x, y = _sums(n, columns, classes, seed)
    target = (y[:, None] == np.arange(classes)).astype(np.float64)
    return x.astype(np.float64) - x.mean(0), target, spread_over_folds(row_keys(x, np.random.RandomState(0)), y, 10)


def _ridge(kind):
    kinds = {
        "linear": LinearRidge, "kernel": KernelRidge, "pairs": PairRidge, "blocks": lambda: KernelRidge(CITY_BLOCK),
    }  # fmt: skip
    return kinds[kind]()


@pytest.mark.parametrize("columns", [6, 150])  # fewer and more columns than rows
@pytest.mark.parametrize("classes", [2, 4])
def test_linear_scores_against_scikit_learn(columns, classes):
    d, target, fold = _problem(120, columns, classes, 1)
    ridge = LinearRidge()
    scores = ridge.fit(d, target, fold)
    chosen = RidgeCV(alphas=linear_ridge.PENALTIES * len(d)).fit(d, target)
    np.testing.assert_allclose(ridge.weights, chosen.coef_.T, rtol=1e-6, atol=1e-9)
    for k in range(10):
        out = fold == k
        wanted = d[out] @ Ridge(alpha=chosen.alpha_).fit(d[~out], target[~out]).coef_.T
        np.testing.assert_allclose(scores[out], wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("kind", "power"), [("kernel", 2), ("blocks", 1)])
@pytest.mark.parametrize("classes", [2, 4])
def test_kernel_scores_against_scikit_learn(kind, power, classes, monkeypatch):
    """Without stretching: every fold's scores, found there by leaving its rows out, and those of other rows."""
    monkeypatch.setattr(kernel_ridge, "WIDTHS", (1.0,))
    monkeypatch.setattr(kernel_ridge, "_stretch", lambda d, coefficients, scale, rng: np.ones(d.shape[1]))
    d, target, fold = _problem(120, 6, classes, 2)
    d[:, 2] = np.where(d[:, 2] > 0.4, 1.3, -0.2)  # effects of two values are counted in a way of their own
    ridge = _ridge(kind)
    scores = ridge.fit(d, target, fold)

    def wanted(rows, at):
        between = np.linalg.norm(d[rows][:, None] - d[rows], ord=power, axis=2)
        gamma = 1 / np.median(between[np.triu_indices(rows.sum(), 1)])
        kernel = lambda a, b: np.exp(-gamma * np.linalg.norm(a - b, ord=power))
        fitted = reference.KernelRidge(alpha=ridge.penalty, kernel=kernel).fit(d[rows], target[rows] - target[rows].mean(0))
        return fitted.predict(at)

    for k in (0, 7):
        np.testing.assert_allclose(scores[fold == k], wanted(fold != k, d[fold == k]), rtol=1e-5, atol=1e-7)
    other = d[:9] + np.array([0.1, 0.1, 0, 0.1, 0.1, 0.1])
    np.testing.assert_allclose(ridge.apply(other), wanted(fold >= 0, other), rtol=1e-5, atol=1e-7)


def test_thresholds_are_found_by_blocks():
    """Classes by three cuts across columns, nine others saying nothing: straight distances blur the corners."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1600, 12)).astype(np.float32)
    y = ((x[:, 1] > 0.3) & (x[:, 4] < 0.8) | (x[:, 7] > 1.0)).astype(int)
    found = {}
    for kind in ("kernel", "blocks"):
        scores = RidgeScores((kind,), 0)
        scores.fit_transform(x[:600], y[:600], np.zeros(12, int))
        found[kind] = roc_auc_score(y[600:], scores.apply(x[600:])[:, 0, 1])
    assert found["blocks"] > found["kernel"] + 0.01 and found["blocks"] > 0.95, found


def test_blocks_of_many_columns_are_counted_along_those_that_matter(monkeypatch):
    a = np.random.default_rng(0).normal(size=(20, 6)) * [1, 5, 1, 1, 4, 1]
    a[:, 3] = np.arange(20) % 2  # of two values: always counted
    every = kernel_ridge.CITY_BLOCK.distances(a, a)
    np.testing.assert_allclose(every, np.abs(a[:, None] - a).sum(2), atol=1e-9)
    monkeypatch.setattr(kernel_ridge, "MOST_AXES", 2)
    np.testing.assert_allclose(kernel_ridge.CITY_BLOCK.distances(a, a), np.abs(a[:, None] - a)[..., [1, 3, 4]].sum(2), atol=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
def test_pair_scores_against_products_written_down(classes):
    """Plain ridge regressions on the effects and all their products, with scikit-learn."""
    d, target, fold = _problem(120, 6, classes, 2)
    ridge = PairRidge()
    scores = ridge.fit(d, target, fold)
    scale = pair_ridge.PAIR_SCALE / pair_ridge.typical(d @ d.T)

    def wide(d):
        pairs = (d[:, :, None] * d[:, None]).reshape(len(d), -1)
        return np.concatenate([np.sqrt(2 * scale) * d, scale * pairs], axis=1)

    x = wide(d)
    length = (x**2).sum(1).mean()
    chosen = _least_left_out(x, target, pair_ridge.PENALTIES * length)
    for k in range(10):
        out = fold == k
        fitted = Ridge(alpha=chosen, fit_intercept=False).fit(x[~out], target[~out] - target[~out].mean(0))
        np.testing.assert_allclose(scores[out], fitted.predict(x[out]), rtol=1e-6, atol=1e-8)
    fitted = Ridge(alpha=chosen, fit_intercept=False).fit(x, target - target.mean(0))
    np.testing.assert_allclose(ridge.apply(d[:9] + 0.1), fitted.predict(wide(d[:9] + 0.1)), rtol=1e-6, atol=1e-8)


def _least_left_out(x, target, penalties):
    """The penalty under which rows predicted from all others, one fit each, have the least squared error."""
    errors = []
    for penalty in penalties:
        centred, error = target - target.mean(0), 0.0
        for i in range(len(x)):
            rest = np.arange(len(x)) != i
            fitted = Ridge(alpha=penalty, fit_intercept=False).fit(x[rest], centred[rest])
            error += ((fitted.predict(x[i : i + 1]) - centred[i]) ** 2).sum()
        errors.append(error)
    return penalties[np.argmin(errors)]


def test_what_two_columns_say_together_is_found():
    """Which of two rows of a table of teams wins, by a number for every pair; neither column says anything alone."""
    rng = np.random.default_rng(4)
    teams = rng.integers(0, 6, size=(900, 2))
    x, y = teams.astype(np.float32), rng.permutation(np.arange(36) % 2).reshape(6, 6)[tuple(teams.T)]
    found = {}
    for kind in ("linear", "pairs"):
        scores = RidgeScores((kind,), 0)
        scores.fit_transform(x[:600], y[:600], np.array([6, 6]))
        found[kind] = roc_auc_score(y[600:], scores.apply(x[600:])[:, 0, 1]) if scores.kinds_ else 0.5
    assert found["pairs"] > 0.99 and found["linear"] < 0.85, found


@pytest.mark.parametrize("kind", ["kernel", "pairs", "blocks"])
def test_slopes_are_derivatives(kind):
    d, target, fold = _problem(90, 4, 3, 3)
    ridge = _ridge(kind)
    ridge.fit(d, target, fold)
    at, step = np.random.default_rng(0).normal(size=(5, 4)), 1e-5
    moves = [ridge.apply(at + step * side) - ridge.apply(at - step * side) for side in np.eye(4)]
    wanted = np.stack([np.abs(move).sum(1) / (2 * step) for move in moves], axis=1)
    np.testing.assert_allclose(ridge.contributions(at), wanted, rtol=1e-4, atol=1e-8)


def test_many_classes_are_stretched_by_few_directions():
    d, target, _ = _problem(200, 5, 2, 11)
    both = np.concatenate([target, np.random.default_rng(0).normal(size=(200, 1))], 1) @ np.random.default_rng(1).normal(size=(3, 60))
    found = [kernel_ridge._stretch(d, c, 1.0, np.random.RandomState(0)) for c in (both, np.linalg.svd(both)[0][:, :3] * np.linalg.svd(both)[1][:3])]
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_rows_that_are_mostly_the_same():
    x = np.zeros((300, 3), np.float32)
    x[:40] = np.random.default_rng(0).normal(size=(40, 3))
    y = (x.sum(1) > 0).astype(int)
    scores = RidgeScores(("kernel",), 0)
    own = scores.fit_transform(x, y, np.zeros(3, int))
    assert scores.kinds_ and np.isfinite(own).all() and np.isfinite(scores.shares(x)).all()
    assert roc_auc_score(y[:40], own[:40, 0, 1]) > 0.9
    d = np.zeros((60, 2))
    d[7] = 1.0
    assert np.isfinite(KernelRidge().fit(d, np.eye(2)[np.arange(60) % 2], np.arange(60) // 6)).all()


def test_columns_that_matter_are_stretched():
    """XOR of two columns among eight: no column says anything alone, and distances over ten columns little."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(900, 10)).astype(np.float32)
    y = ((x[:, 3] > 0) ^ (x[:, 8] > 0)).astype(int)
    scores = RidgeScores(("kernel",), 0)
    scores.fit_transform(x[:500], y[:500], np.zeros(10, int))
    found = roc_auc_score(y[500:], scores.apply(x[500:])[:, 0, 1])
    stretch = scores._parts[0]._ridge._fit._stretch
    assert set(np.argsort(-stretch)[:2]) == {3, 8} and stretch[[3, 8]].min() > 1.5 * np.sort(stretch)[-3]
    assert found > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_does_not_know_its_label(kind, monkeypatch):
    for module in (linear_ridge, kernel_ridge, pair_ridge):
        monkeypatch.setattr(module, "PENALTIES", np.array([0.01]))
    monkeypatch.setattr(kernel_ridge, "WIDTHS", (1.0,))
    d, target, fold = _problem(100, 5, 2, 5)
    before = _ridge(kind).fit(d, target, fold)
    for row in range(0, 100, 17):
        other = target.copy()
        other[row] = 1 - other[row]
        after = _ridge(kind).fit(d, other, fold)
        same = fold == fold[row]
        np.testing.assert_allclose(after[same], before[same], atol=1e-6)
        assert np.abs(after[~same] - before[~same]).max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_training_rows_and_others_have_scores_of_the_same_kind(kind, monkeypatch):
    """Were labels to leak, training rows would be told apart better than rows to predict. (Also where they say little:
    choosing the tables in which they seem to say something would choose the lucky ones.)"""
    monkeypatch.setattr(ridge_scores, "_says_something", lambda scores, target, fold: True)
    inside, outside = [], []
    for seed in range(20):
        x, y = _sums(400, 20, 2, 100 + seed, noise=2.0)
        scores = RidgeScores((kind,), seed)
        own = scores.fit_transform(x[:200], y[:200], np.zeros(20, int))
        inside.append(roc_auc_score(y[:200], own[:, 0, 1]))
        outside.append(roc_auc_score(y[200:], scores.apply(x[200:])[:, 0, 1]))
    assert abs(np.mean(inside) - np.mean(outside)) < 0.03, (np.mean(inside), np.mean(outside))


@pytest.mark.parametrize("kind", KINDS)
def test_no_scores_where_columns_say_nothing(kind):
    kept = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(100, 12)).astype(np.float32), rng.integers(0, 2, 100)
        kept += RidgeScores((kind,), seed).fit_transform(x, y, np.zeros(12, int)).shape[1] > 0
    assert kept <= 18  # a standard error is exceeded by chance in one of six; more than 18 of 60 in one of a thousand


def test_a_kind_is_the_same_alone_and_beside_others():
    x, y = _sums(150, 4, 3, 8)
    together = RidgeScores(KINDS, 3)
    own, asked = together.fit_transform(x, y, np.zeros(4, int)), together.apply(x[:20] + 0.1)
    assert together.kinds_ == KINDS
    for i, kind in enumerate(KINDS):
        alone = RidgeScores((kind,), 3)
        np.testing.assert_array_equal(alone.fit_transform(x, y, np.zeros(4, int))[:, 0], own[:, i])
        np.testing.assert_array_equal(alone.apply(x[:20] + 0.1)[:, 0], asked[:, i])


def test_no_scores_for_few_rows_or_one_class_or_unknown_levels_or_when_not_wanted():
    x, y = _sums(LEAST_ROWS, 3, 2, 3, noise=0.1)
    numbers = np.zeros(3, int)
    assert RidgeScores(KINDS, 0).fit_transform(x, y, numbers).shape == (LEAST_ROWS, len(KINDS), 2)
    names = np.arange(LEAST_ROWS, dtype=np.float32)[:, None]  # one row a level: no effect can be learned
    for kinds, table, label, levels in (
        (KINDS, x[1:], y[1:], numbers), (KINDS, x, 0 * y, numbers), ((), x, y, numbers), (KINDS, names, y, np.array([LEAST_ROWS])),
    ):  # fmt: skip
        scores = RidgeScores(kinds, 0)
        found = scores.fit_transform(table, label, levels)
        assert scores.kinds_ == () and found.shape == (len(table), 0, label.max() + 1)
        assert scores_of_symbols(scores.apply(table), np.arange(2), 2).shape == (len(table), 0)


@pytest.mark.parametrize("most", [1000, 400])
def test_order_of_rows_and_scale_of_columns_change_nothing(most, monkeypatch):
    monkeypatch.setattr(KernelRidge, "most_rows", most)
    x, y = _sums(700, 5, 3, 12)
    order = np.random.default_rng(0).permutation(700)
    scores, other = RidgeScores(KINDS, 0), RidgeScores(KINDS, 0)
    own = scores.fit_transform(x, y, np.zeros(5, int))
    np.testing.assert_allclose(other.fit_transform(8 * x[order] + 1, y[order], np.zeros(5, int)), own[order], atol=1e-4)
    np.testing.assert_allclose(other.apply(8 * x[:9] + 1), scores.apply(x[:9]), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_symbol_has_the_score_of_its_classes_together(kind, monkeypatch):
    for module in (linear_ridge, kernel_ridge, pair_ridge):
        monkeypatch.setattr(module, "PENALTIES", np.array([0.01]))
    monkeypatch.setattr(kernel_ridge, "_stretch", lambda d, coefficients, scale, rng: np.ones(d.shape[1]))
    monkeypatch.setattr(kernel_ridge, "WIDTHS", (1.0,))
    symbol = np.array([0, 1, 1, 2, 1])
    d, target, fold = _problem(300, 4, 5, 4)
    apart = _ridge(kind).fit(d, target, fold)[:, None]
    together = _ridge(kind).fit(d, target @ np.eye(3)[symbol], fold)
    np.testing.assert_allclose(scores_of_symbols(apart, symbol, 3), together, rtol=1e-5, atol=1e-7)
    two = scores_of_symbols(apart, np.array([0, 1, 1, 0, 1]), 2)
    assert two.shape == (300, 1) and two.dtype == np.float32
    np.testing.assert_allclose(two[:, 0], apart[:, 0, [1, 2, 4]].sum(1), rtol=1e-5, atol=1e-7)


def test_effects_of_gaps_levels_rare_values_and_outliers():
    rng = np.random.default_rng(5)
    n = 600
    numbers = np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n))
    numbers[np.flatnonzero(~np.isnan(numbers))[0]] = 1e5  # an outlier alone would set the scale
    level, rare = rng.integers(0, 6, n).astype(float), (rng.random(n) < 0.008).astype(float)
    level[:5], level[5] = np.nan, 6  # a level with one row
    x = np.stack([numbers, level, rare, np.full(n, np.nan)], 1).astype(np.float32)
    effects = Effects(x, np.array([0, 7, 0, 0]), np.random.RandomState(0))
    d = effects(x)
    assert np.isfinite(d).all() and np.abs(d.mean(0)).max() < 1e-9
    assert effects.column.tolist() == [0, 2, 3, 0, 1, 1, 1, 1, 1, 1]
    assert 0.5 < d[:, 0].std() < 2 and d[:, 1].std() == pytest.approx(1)  # a value that a hundredth of the rows have counts
    assert (d[:, 2] == 0).all()  # never known
    np.testing.assert_allclose(d[:, 3] + np.isnan(numbers).mean(), np.isnan(numbers))
    of = lambda *row: effects(np.array([row], np.float32))[0]
    nan = np.nan
    np.testing.assert_array_equal(of(1e5, 1, 0, nan), of(50, 1, 0, 3))  # beyond the winsorised range nothing changes
    np.testing.assert_array_equal(of(0, 77, 0, nan), of(0, nan, 0, nan))  # unseen is missing
    np.testing.assert_array_equal(of(0, 6, 0, nan), of(0, nan, 0, nan))  # one row is not enough
    assert effects.by_column(np.ones((2, 10)), 4).tolist() == [[2, 6, 1, 1]] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_large_tables_are_fitted_to_a_part(kind, monkeypatch):
    from priorax.models import effects

    monkeypatch.setattr(LinearRidge, "most_rows", 300)
    monkeypatch.setattr(KernelRidge, "most_rows", 300)
    monkeypatch.setattr(PairRidge, "most_rows", 300)
    monkeypatch.setattr(effects, "MOST_EFFECTS", 30)
    x, y = _sums(2000, 40, 3, 6)
    scores = RidgeScores((kind,), 0)
    own = scores.fit_transform(x, y, np.zeros(40, int))
    assert own.shape == (2000, 1, 3) and len(scores._parts[0]._effects.column) == 30
    p = np.exp(own[:, 0])
    assert roc_auc_score(y, p / p.sum(1, keepdims=True), multi_class="ovr") > 0.68
    # Exactly 300 rows are fitted to; the others have the scores of rows to predict.
    assert (~np.isclose(own, scores.apply(x), atol=1e-6).all((1, 2))).sum() == 300
    np.testing.assert_array_equal(own, RidgeScores((kind,), 0).fit_transform(x, y, np.zeros(40, int)))


def test_the_part_fitted_to_is_stratified_and_as_large_as_allowed():
    rng = np.random.default_rng(13)
    y = np.repeat([0, 1, 2], [900, 90, 11])
    x = rng.normal(size=(1001, 2)).astype(np.float32)
    for size in (1000, 300, 2000):
        rows = stratified_part(row_keys(x, np.random.RandomState(0)), y, size)
        assert len(np.unique(rows)) == len(rows) == min(size, 1001)
        np.testing.assert_allclose(np.bincount(y[rows]), np.bincount(y) * len(rows) / 1001, atol=1)
        order = rng.permutation(1001)
        again = stratified_part(row_keys(x[order], np.random.RandomState(0)), y[order], size)
        np.testing.assert_array_equal(order[again], rows)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_of_one_row_has_no_score(kind):
    """Its row's folds do not know it and all others do, which would give the row away."""
    for seed in range(12):
        x = np.random.default_rng(seed).normal(size=(60, 5)).astype(np.float32)
        assert RidgeScores((kind,), seed).fit_transform(x, np.eye(60, dtype=int)[7], np.zeros(5, int)).shape[1] == 0
    x, y = _sums(150, 4, 2, 14, noise=0.1)
    y[3] = 2
    own = RidgeScores((kind,), 0).fit_transform(x, y, np.zeros(4, int))
    assert own.shape == (150, 1, 3) and (own[..., 2] == 0).all() and np.abs(own[..., :2]).min(0).max() > 0


def test_only_rows_that_are_wanted_are_scored(monkeypatch):
    monkeypatch.setattr(LinearRidge, "most_rows", 100)
    x, y = _sums(400, 4, 2, 15)
    every = RidgeScores(("linear",), 0).fit_transform(x, y, np.zeros(4, int))
    some = RidgeScores(("linear",), 0).fit_transform(x, y, np.zeros(4, int), np.arange(50))
    np.testing.assert_array_equal(some[:50], every[:50])
    assert (some == 0).all((1, 2)).sum() > 200


@pytest.mark.parametrize(("columns", "classes"), [(9, 2), (9, 3), (120, 3), (9, 14)])
def test_members_see_their_columns_then_the_scores_of_their_symbols(columns, classes, tiny_weights):
    x, y = _sums(300, columns, classes, 7)
    with pytest.warns() if columns > 100 or classes > 10 else contextlib.nullcontext():
        model = PFNClassifier(weights=tiny_weights, n_estimators=4).fit(x[:200], y[:200])
    assert "linear" in model._ridge.kinds_
    contexts = model._contexts(get_engine(tiny_weights))
    outside = model._ridge.apply(model._encode(x[200:]))
    views = model._views(model._encode(x[200:]), outside)
    for m, member in enumerate(model.members_):
        f = len(member.columns)
        width = len(model._ridge.kinds_) * (1 if member.n_symbols == 2 else member.n_symbols)
        assert contexts.n_features[m] == f + width and f <= 100
        np.testing.assert_array_equal(contexts.x[m, :, :f], model._x[:, member.columns])
        for table, scores in ((contexts.x[m, :, f : f + width], model._scores), (views(m, slice(0, 100))[:, f:], outside)):
            np.testing.assert_array_equal(table, scores_of_symbols(scores, member.symbol, member.n_symbols))
        assert not contexts.categorical[m, f:].any() and views(m, slice(0, 100)).shape == (100, f + width)
    proba = model.predict_proba(x[200:])
    np.testing.assert_allclose(proba.sum(1), 1)
    np.testing.assert_allclose(model.predict_proba(x[200:201]), proba[:1], atol=1e-5)  # 14 classes: solved to 1e-5
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(x[200:]), proba)


def test_switched_off_members_see_the_table_alone(tiny_weights):
    x, y = _sums(200, 7, 2, 8)
    model = PFNClassifier(weights=tiny_weights, ridge_scores=()).fit(x, y)
    contexts = model._contexts(get_engine(tiny_weights))
    assert contexts.x.shape[-1] == 7 and (contexts.n_features == 7).all()
    assert clone(model).ridge_scores == ()
    with_scores = PFNClassifier(weights=tiny_weights).fit(x, y)
    assert with_scores.estimate_memory()["one_member"] > model.estimate_memory()["one_member"]
    assert np.abs(with_scores.predict_proba(x) - model.predict_proba(x)).max() > 1e-4


def test_sums_of_faint_effects_are_read():
    """What they are for: without them the network that ships is far behind a linear model on such tables."""
    with_scores, without = [], []
    for seed in range(4):
        x, y = _sums(700, 30, 2, 200 + seed)
        for found, kinds in ((with_scores, KINDS), (without, ())):
            model = PFNClassifier(1, ridge_scores=kinds).fit(x[:400], y[:400])
            found.append(roc_auc_score(y[400:], model.predict_proba(x[400:])[:, 1]))
    assert np.mean(with_scores) > np.mean(without) + 0.02, (with_scores, without)


def test_attention_to_a_score_is_attention_to_its_columns(tiny_weights):
    x, y = _sums(200, 6, 3, 9)
    table = pd.DataFrame(x, columns=list("abcdef")).assign(text=np.where(y > 0, "hi", "lo"), never=1.0)
    model = PFNClassifier(weights=tiny_weights, n_estimators=2).fit(table, y)
    assert model._ridge.kinds_ == KINDS
    shares = model._ridge.shares(model._encode(table[:40]))
    assert shares.shape == (40, len(KINDS), 7)
    np.testing.assert_allclose(shares.sum(2), 1)
    assert (shares.mean(0).argmax(1) == 6).all()  # the text says most
    found = explain.attention(model, table[:40])
    assert found.values.shape == (40, 8)
    np.testing.assert_allclose(found.values.sum(1), 1)
    assert (found.values[:, 7] == 0).all() and (found.values[:, :7] > 0).all()
