"""Every baseline on a mixed table with missing values, and method specifications."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from priorax.configs.errors import ConfigError, MissingError
from priorax.eval.baselines import BASELINES, Baseline
from priorax.eval.methods import Method, parse_methods, run_method
from priorax.eval.suites import DataSet, Split

OPTIONAL = {"xgboost", "lightgbm", "catboost", "tabicl", "tabpfn"}
FEWER = {"hist_gradient_boosting": {"max_iter": 20}, "catboost": {"iterations": 40}}  # of 100 and 1,000: enough here


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 240)
    X = np.empty((240, 4), dtype=object)
    X[:, 0] = rng.normal(size=240) + y
    X[:, 1] = np.array(["red", "green", "blue"])[np.where(rng.random(240) < 0.7, y, rng.integers(0, 3, 240))]
    X[:, 2] = rng.integers(0, 4, 240)
    X[:, 3] = None
    X[rng.random((240, 4)) < 0.1] = None
    return X, y


@pytest.mark.parametrize("name", BASELINES)
def test_baseline(name, table):
    if name in OPTIONAL and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    X, y = table
    mask, params = np.array([False, False, True, False]), FEWER.get(name)
    model = Baseline(name, mask, seed=1, params=params).fit(X[:160], y[:160])
    p = model.predict_proba(X[160:])
    assert p.shape == (80, 3) and model.classes_.tolist() == [0, 1, 2]
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    accuracy = (p.argmax(1) == y[160:]).mean()
    assert accuracy > (0.2 if name == "majority" else 0.6)
    again = Baseline(name, mask, seed=1, params=params).fit(X[:160], y[:160]).predict_proba(X[160:])
    np.testing.assert_array_equal(again, p)
    test = X[160:].copy()
    test[:, 1] = np.where(np.arange(80) % 2 == 0, "never seen", test[:, 1])
    assert np.isfinite(model.predict_proba(test)).all()
    gap = Baseline(name, mask, params=params).fit(X[:80], np.where(y[:80] == 1, 2, y[:80]))  # class 1 is absent
    assert gap.predict_proba(X[80:90]).shape == (10, 2)
    one = Baseline(name).fit(X[:20], np.ones(20, int))
    np.testing.assert_array_equal(one.predict_proba(X[:2]), [[1], [1]])


@pytest.mark.parametrize("name", [name for name in BASELINES if name not in ("tabicl", "tabpfn", "knn")])
def test_class_frequencies_where_no_column_varies(name):
    if name in OPTIONAL and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    y = np.array([0] * 6 + [1] * 14)
    model = Baseline(name, params=FEWER.get(name)).fit(np.full((20, 2), 3.0), y)
    np.testing.assert_allclose(model.predict_proba(np.ones((2, 2))), [[0.3, 0.7]] * 2, atol=0.02)


def test_nothing_of_the_test_rows_is_used(table):
    X, y = table
    model = Baseline("logistic_regression").fit(X[:160], y[:160])
    alone = model.predict_proba(X[160:161])
    np.testing.assert_allclose(model.predict_proba(X[160:])[:1], alone, atol=1e-12)


def test_specifications():
    methods = parse_methods("random_forest, priorax, big=priorax:/w/big.safetensors?n_estimators=8", n_estimators=2)
    assert [m.name for m in methods] == ["random_forest", "priorax", "big"]
    assert methods[1].options == {"n_estimators": 2} and methods[1].weights is None
    assert methods[2].options == {"n_estimators": 8} and methods[2].weights == "/w/big.safetensors"
    spec = "priorax:/runs/a/model.safetensors?softmax_temperature=0.8&numeric_transforms=none+quantile&max_context=null"
    (method,) = parse_methods([spec])
    assert method.name.startswith("priorax:a?")
    assert method.options == {
        "softmax_temperature": 0.8,
        "numeric_transforms": ("none", "quantile"),
        "max_context": None,
    }
    same, other = parse_methods(["a=priorax?n_estimators=4", "b=priorax?category_encodings=codes"])
    assert same.digest() == parse_methods("priorax")[0].digest() != other.digest()
    alone, both = parse_methods(["priorax?ridge_scores=none", "priorax?ridge_scores=linear+kernel"])
    assert (alone.options, both.options) == ({"ridge_scores": ()}, {"ridge_scores": ("linear", "kernel")})


def test_settings_of_baselines(table):
    methods = parse_methods("nn=knn, knn?n_neighbors=3&weights=distance, logistic_regression?C=0.01, knn?trials=4")
    assert [m.name for m in methods] == ["nn", "knn?n_neighbors=3&weights=distance", "logistic_regression?C=0.01", "knn?trials=4"]
    assert methods[1].options == {"n_neighbors": 3, "weights": "distance"} and methods[3].options == {"trials": 4}
    assert len({m.digest() for m in methods}) == 4
    assert methods[0].digest() == parse_methods("knn")[0].digest()  # a label changes no result
    X, y = table
    built = methods[1].build(np.array([False, False, True, False]), 0, 1).fit(X[:100], y[:100])
    assert built._model[-1].n_neighbors == 3 and methods[2].build(None, 0, 1).fit(X[:100], y[:100])._model[-1].C == 0.01


def test_absent_pretrained_baselines_say_how_to_get_them():
    for name in ("tabicl", "tabpfn"):
        if importlib.util.find_spec(name) is not None:
            continue
        with pytest.raises(MissingError, match=f"pip install {name}"):
            Baseline(name).fit(np.eye(4), np.arange(4) % 2)


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ("random_forrest", 'Did you mean "random_forest"'),
        ("knn?n_neighbours=3", 'Did you mean "n_neighbors"'),
        ("knn?seconds=0", "seconds is 0; give a number above 0"),
        ("knn?trials=2.5", "whole number"),
        ("knn?trials=2&p=1", "leave out p"),
        ("majority?trials=2", "cannot be tuned"),
        ("knn,knn", "two methods are called"),
        ("priorax?n_estimator=2", 'Did you mean "n_estimators"'),
        ("", "no methods"),
    ],
)
def test_wrong_specifications(specs, words):
    with pytest.raises(ConfigError, match=words):
        parse_methods(specs)


def test_own_estimators_and_absent_classes():
    from sklearn.dummy import DummyClassifier

    (method,) = parse_methods({"mine": DummyClassifier()})
    data = DataSet("d", "d", np.zeros((9, 1)), np.array([0, 2] * 4 + [1]), ("a", "b", "c"), np.zeros(1, bool))
    answer = run_method(method, data, Split(0, 0, np.arange(8), np.array([8])), seed=0, threads=1)
    np.testing.assert_array_equal(answer.probabilities, [[0.5, 0, 0.5]])
    assert isinstance(method, Method) and answer.time_train_s >= 0
