"""Metrics against scikit-learn and by hand; classes without test rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from priorax.eval.metrics import METRICS, calibration_error, error_of, reliability, score
from sklearn import metrics


def _draw(seed, k, q=60):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), rng.integers(0, k, q)])
    p = rng.dirichlet(np.ones(k), len(y))
    p[np.arange(len(y)), y] += rng.random(len(y))
    return y, p / p.sum(1, keepdims=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_agrees_with_scikit_learn(seed, k):
    y, p = _draw(seed, k)
    got, note = score(y, p)
    assert note == "" and set(got) == set(METRICS)
    if k == 2:
        assert got["roc_auc"] == pytest.approx(metrics.roc_auc_score(y, p[:, 1]))
    else:
        for name, multi in (("roc_auc", "ovr"), ("roc_auc_ovo", "ovo")):
            assert got[name] == pytest.approx(metrics.roc_auc_score(y, p, multi_class=multi))
    assert got["log_loss"] == pytest.approx(metrics.log_loss(y, p))
    assert got["accuracy"] == pytest.approx(metrics.accuracy_score(y, p.argmax(1)))
    assert got["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, p.argmax(1)))
    assert got["brier"] == pytest.approx(np.mean(np.sum((p - np.eye(k)[y]) ** 2, 1)))


def test_missing_classes_are_said_and_left_out():
    y, p = _draw(0, 4)
    keep = y != 2
    got, note = score(y[keep], p[keep])
    assert note == "1 of 4 classes have no test row"
    others = [metrics.roc_auc_score(y[keep] == c, p[keep][:, c]) for c in (0, 1, 3)]
    assert got["roc_auc"] == pytest.approx(np.mean(others))
    got, note = score(np.zeros(5, int), np.full((5, 2), 0.5))
    assert np.isnan(got["roc_auc"]) and np.isnan(got["roc_auc_ovo"]) and "only one class" in note
    assert got["accuracy"] == 1


def test_certain_and_wrong_is_finite():
    got, _ = score(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert 15 < got["log_loss"] < 20


def test_calibration_error_by_hand():
    y = np.array([0, 0, 1, 1])
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
    # bin of 0.9: 3 rows, 2 right, gap 0.9 - 2/3; bin of 0.8: 1 row, right, gap 0.2
    assert calibration_error(y, p) == pytest.approx((3 * (0.9 - 2 / 3) + 0.2) / 4)
    confidence, accuracy, rows = reliability(y, p, bins=10)
    assert rows.sum() == 4 and accuracy[8] == 1 and confidence[9] == pytest.approx(0.9)


def test_errors_are_lower_is_better():
    assert error_of("roc_auc", 0.9) == pytest.approx(0.1) and error_of("log_loss", 0.4) == 0.4


@pytest.mark.parametrize(
    "p", [np.full((3, 2), 0.4), np.array([[np.nan, 1]] * 3), np.array([[-0.5, 1.5]] * 3), np.full((2, 2), 0.5)]
)
def test_refuses_what_is_not_a_distribution(p):
    with pytest.raises(ValueError, match="shape|distributions"):
        score(np.zeros(3, int), p)
