"""What the weights that ship have learned, through the estimator with no arguments."""

from __future__ import annotations

import numpy as np
import pytest
from priorax.configs.errors import MissingError
from priorax.models import PFNClassifier, default_weights_path
from sklearn.datasets import load_breast_cancer, load_iris, load_wine, make_blobs
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

pytestmark = pytest.mark.usefixtures("few_programs")
LEAST_ROWS = 256  # contexts of 256 rows and up to 16 columns: two programs for all of these tables


@pytest.fixture(scope="module", autouse=True)
def shipped():
    try:
        return default_weights_path()
    except MissingError:
        pytest.skip("this checkout holds no weights to ship yet: models/checkpoints/default.safetensors")


def out_of_fold(X, y, **options):
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    return cross_val_predict(PFNClassifier(**options), X, y, cv=folds, method="predict_proba")


def auc(y, p):
    return roc_auc_score(y, p[:, 1]) if p.shape[1] == 2 else roc_auc_score(y, p, multi_class="ovr")


def test_small_real_sets():
    scores = []
    for load in (load_breast_cancer, load_wine, load_iris):
        X, y = load(return_X_y=True)
        X, y = X[:384, :16], y[:384]
        scores.append(auc(y, out_of_fold(X, y)))
    assert min(scores) > 0.95 and np.mean(scores) > 0.975


def test_missing_values_and_noise_columns_cost_little():
    X, y = load_wine(return_X_y=True)
    rng = np.random.default_rng(0)
    X = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    X = np.concatenate([X, rng.normal(size=(len(X), 3))], axis=1)
    assert auc(y, out_of_fold(X, y, n_estimators=2)) > 0.95


def test_categories_are_used():
    rng = np.random.default_rng(0)
    X = np.empty((300, 3), dtype=object)
    X[:, 0], X[:, 1] = rng.choice(["a", "b", "c", "d"], 300), rng.choice(["u", "v"], 300)
    X[:, 2] = rng.normal(size=300)
    y = np.isin(X[:, 0], ["b", "d"]).astype(int)  # codes 1 and 3 of 0 to 3: no threshold tells them apart
    flip = rng.random(300) < 0.05
    assert auc(np.where(flip, 1 - y, y), out_of_fold(X, np.where(flip, 1 - y, y))) > 0.85


def test_probabilities_are_honest():
    """Confidence against accuracy on overlapping clouds. One draw of 384 rows says it to 0.02 (a standard error), four
    to 0.01."""
    gaps = []
    for seed in range(1, 5):
        X, y = make_blobs(384, centers=3, cluster_std=4.0, random_state=seed)
        p = out_of_fold(X, y)
        gaps.append(p.max(1).mean() - (p.argmax(1) == y).mean())
    assert abs(np.mean(gaps)) < 0.06, gaps


def test_labels_can_be_renamed():
    X, y = load_wine(return_X_y=True)
    train, test = np.arange(0, 178, 2), np.arange(1, 178, 2)
    names = np.array(["zz", "aa", "mm"])
    plain = PFNClassifier().fit(X[train], y[train]).predict_proba(X[test])
    renamed = PFNClassifier().fit(X[train], names[y][train])
    assert renamed.classes_.tolist() == ["aa", "mm", "zz"]
    back = renamed.predict_proba(X[test])[:, np.searchsorted(renamed.classes_, names)]
    assert np.abs(back - plain).mean() < 0.02 and (back.argmax(1) == plain.argmax(1)).mean() > 0.97


@pytest.mark.slow
def test_scikit_learn_checks_with_the_shipped_weights():
    from sklearn.utils.estimator_checks import check_estimator

    results = check_estimator(PFNClassifier(), on_skip=None)
    assert {r["status"] for r in results} <= {"passed", "skipped"} and len(results) >= 50
