"""The logistic regression of ridge scores: against scikit-learn, what it must not depend on, how it joins the network."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from priorax.models import PFNClassifier, score_stack
from priorax.models.ridge_scores import KINDS, RidgeScores
from priorax.models.score_stack import ScoreStack, pool
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def _table(n, classes, seed):
    """x f32[n, 6] and y, the class by a sum and a product."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    score = x[:, 0] + x[:, 1] * x[:, 2] + 0.5 * rng.normal(size=n)
    return x, np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))


def _scored(n, classes, seed, kinds=KINDS):
    x, y = _table(n, classes, seed)
    ridge = RidgeScores(kinds, 0)
    return ridge, ridge.fit_transform(x, y, np.zeros(6, int)), x, y


def _stack(scores, x, y):
    return ScoreStack().fit(scores, x, y, np.random.RandomState(0))


@pytest.mark.parametrize("classes", [2, 4])
def test_it_is_scikit_learns_regression_on_standardised_scores(classes):
    _, scores, x, y = _scored(300, classes, 0)
    inputs = (scores[..., 1:] if classes == 2 else scores).reshape(300, -1)
    wanted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(inputs, y).predict_proba(inputs)
    found = _stack(scores, x, y).probabilities(scores)
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    np.testing.assert_allclose(found.sum(1), 1)


@pytest.mark.parametrize("most", [2000, 200])
def test_rows_in_another_order_change_nothing(most, monkeypatch):
    monkeypatch.setattr(score_stack, "MOST_ROWS", most)
    _, scores, x, y = _scored(500, 3, 1)
    order = np.random.default_rng(0).permutation(500)
    stack, other = _stack(scores, x, y), _stack(scores[order], x[order], y[order])
    np.testing.assert_allclose(other.probabilities(scores), stack.probabilities(scores), atol=1e-6)


def test_classes_of_other_names_change_nothing():
    _, scores, x, y = _scored(500, 3, 1)
    names = np.array([2, 0, 1])
    moved = scores[..., np.argsort(names)]
    np.testing.assert_allclose(
        _stack(moved, x, names[y]).probabilities(moved)[:, names], _stack(scores, x, y).probabilities(scores), atol=1e-6
    )


def test_training_rows_are_not_better_told_than_others():
    """Its few coefficients know the labels; the scores do not."""
    inside, outside = [], []
    for seed in range(10):
        ridge, scores, _, _ = _scored(200, 2, 20 + seed)
        x, y = _table(200, 2, 20 + seed)
        other, label = _table(400, 2, 120 + seed)
        stack = _stack(scores, x, y)
        inside.append(log_loss(y, stack.probabilities(scores)))
        outside.append(log_loss(label, stack.probabilities(ridge.apply(other))))
    assert abs(np.mean(inside) - np.mean(outside)) < 0.12, (np.mean(inside), np.mean(outside))


def test_a_class_of_one_row_is_possible_and_one_without_rows_is_not():
    _, scores, x, y = _scored(300, 3, 3)
    y[:] = np.where(y == 2, 1, y)
    y[5] = 2
    p = _stack(scores, x, y).probabilities(scores)
    assert p.shape == (300, 3) and (p[:, 2] > 0).all() and p[:, 2].mean() < 0.05
    assert (_stack(scores[y != 2], x[y != 2], y[y != 2]).probabilities(scores)[:, 2] == 0).all()


def test_a_class_whose_share_of_the_rows_drawn_is_less_than_one_keeps_one(monkeypatch):
    monkeypatch.setattr(score_stack, "MOST_ROWS", 200)
    _, scores, x, _ = _scored(500, 2, 3)
    y = np.ones(500, int)
    y[[7, 9]] = 0  # 0.8 of 200 rows
    assert (_stack(scores, x, y).probabilities(scores)[:, 0] > 0).all()
    y[[100, 200]] = 2
    three = np.concatenate([scores, scores[..., :1]], axis=2)
    assert (_stack(three, x, y).probabilities(three) > 0).all()


def test_the_pool_averages_logarithms():
    p, q = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]), np.array([[0.1, 0.8, 0.1], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(pool(p, q, 0.0), np.maximum(p, 1e-7) / np.maximum(p, 1e-7).sum(1, keepdims=True))
    np.testing.assert_allclose(pool(p, q, 1.0), q, atol=1e-6)
    middle = np.sqrt(np.maximum(p, 1e-7) * np.maximum(q, 1e-7))
    np.testing.assert_allclose(pool(p, q, 0.5), middle / middle.sum(1, keepdims=True))
    assert (pool(p, q, 0.3) > 0).all()


@pytest.mark.parametrize("classes", [2, 3, 14])  # fewer and more than the network tells apart
@pytest.mark.filterwarnings("ignore::priorax.models.estimator.LimitWarning")
def test_the_estimator_answers_with_both(classes, tiny_weights):
    x, y = _table(500, classes, 4)
    model = PFNClassifier(2, weights=tiny_weights).fit(x[:300], y[:300])
    alone = PFNClassifier(2, weights=tiny_weights, stack_weight=0).fit(x[:300], y[:300])
    assert alone._stack is None and model.members_[1].columns.tolist() == alone.members_[1].columns.tolist()
    scores = model._ridge.apply(model._encode(x[300:]))
    p, q = alone.predict_proba(x[300:]), model._stack.probabilities(scores)
    found = model.predict_proba(x[300:])
    np.testing.assert_allclose(found, pool(p, q, score_stack.WEIGHT), atol=1e-6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(x[300:]), found)
    # Tiny weights know little, so that what the scores say must help.
    assert log_loss(y[300:], found, labels=np.arange(classes)) < log_loss(y[300:], p, labels=np.arange(classes)) - 0.01


def test_without_scores_the_network_answers(tiny_weights):
    x, y = _table(40, 2, 5)  # too few rows for scores
    model = PFNClassifier(1, weights=tiny_weights).fit(x, y)
    assert model._stack is None
    other = PFNClassifier(1, weights=tiny_weights, ridge_scores=()).fit(x, y)
    np.testing.assert_array_equal(model.predict_proba(x), other.predict_proba(x))
    constant = PFNClassifier(1, weights=tiny_weights).fit(np.zeros((80, 2)), np.arange(80) % 2)
    assert constant._stack is None and constant.predict_proba(np.zeros((1, 2))).shape == (1, 2)
