"""Shapley values: they add up to the prediction, find the column that decides, and take tables as the user has them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from priorax.configs.errors import MissingError
from priorax.models import PFNClassifier
from sklearn.exceptions import NotFittedError

from priorax import explain

pytestmark = pytest.mark.usefixtures("few_programs")


@pytest.fixture
def shap():
    return pytest.importorskip("shap", reason="Shapley values need shap (extra explain)")


@pytest.fixture(scope="module")
def table():
    """60 + 20 rows; column 2 decides the class, column 1 has holes, column 4 never varies."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 5))
    y = np.array(["no", "yes"])[(X[:, 2] > 0).astype(int)]
    X[:, 4] = 1.0
    X[::17, 1] = np.nan
    return X, y


@pytest.fixture(scope="module")
def model(table, tiny_weights, few_programs):
    return PFNClassifier(2, weights=tiny_weights).fit(table[0][:60], table[1][:60])


def add_up(found, model, X):
    np.testing.assert_allclose(found.base_values + found.values.sum(1), model.predict_proba(X), atol=1e-5)


def test_they_add_up_and_find_the_column_that_decides(shap, model, table):
    X = table[0][60:66]
    state = np.random.get_state()[1].copy()
    found = explain.shap_values(model, X, background=10, max_evals=22)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # NumPy's global generator is as it was
    assert isinstance(found, shap.Explanation) and found.values.shape == (6, 5, 2) and found.base_values.shape == (6, 2)
    add_up(found, model, X)
    np.testing.assert_allclose(found.values.sum(2), 0, atol=1e-6)  # what one class gains the others lose
    size = np.abs(found.values[:, :, 1]).mean(0)
    assert np.argmax(size) == 2 and size[2] > 5 * max(size[0], size[3])
    assert (found.values[:, 4] == 0).all()
    assert (np.sign(found.values[:, 2, 1]) == np.sign(X[:, 2])).mean() > 0.8
    np.testing.assert_array_equal(found.data[:, :4], X[:, :4])
    assert list(found[:, :, "yes"].feature_names) == ["0", "1", "2", "3", "4"]
    np.testing.assert_array_equal(found[:, :, "yes"].values, found.values[..., 1])
    again = explain.shap_values(model, X, background=10, max_evals=22)
    np.testing.assert_array_equal(again.values, found.values)
    assert (explain.shap_values(model, X, background=10, max_evals=22, random_state=1).values != found.values).any()


def test_two_columns_equal_the_definition(shap, tiny_weights):
    """With two columns every order is tried: the values are those of the formula, computed from predict_proba alone."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(48, 2))
    X[::9, 0] = np.nan
    model = PFNClassifier(1, weights=tiny_weights).fit(X, X[:, 1] > 0)
    rows, background = X[:3], X[20:26]

    def masked(row, known):
        filled = background.copy()
        filled[:, known] = row[known]
        return model.predict_proba(filled).mean(0)

    found = explain.shap_values(model, rows, background=background, max_evals=5)
    for i, row in enumerate(rows):
        nothing, first, second, both = (masked(row, known) for known in ([], [0], [1], [0, 1]))
        expected = [(first - nothing + both - second) / 2, (second - nothing + both - first) / 2]
        np.testing.assert_allclose(found.values[i], expected, atol=1e-5)
        np.testing.assert_allclose(found.base_values[i], nothing, atol=1e-5)


def test_frames_with_text_dates_and_holes(shap, tiny_weights):
    pd = pytest.importorskip("pandas", reason="frames need pandas")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "text": rng.choice(["u", "v"], 64),
            "day": pd.date_range("2024", periods=64, freq="31h"),
            "n": rng.normal(size=64),
        }
    )
    y = (frame["text"] == "u").to_numpy()
    frame.loc[::7, "n"] = None
    frame.loc[5, "text"] = None
    model = PFNClassifier(1, weights=tiny_weights).fit(frame[:56], y[:56])
    rows = pd.concat([frame[56:], frame[5:6], frame[:1].assign(text="never seen")])
    found = explain.shap_values(model, rows, background=frame[8:24], max_evals=14)
    assert found.values.shape == (10, 3, 2) and list(found.feature_names) == ["text", "day", "n"]
    add_up(found, model, rows)
    assert np.argmax(np.abs(found.values[:8, :, 1]).mean(0)) == 0
    assert (np.sign(found.values[:8, 0, 1]) == np.where(y[56:], 1, -1)).all()
    assert found.display_data[0].tolist()[0] in ("u", "v") and found.display_data[9, 0] == "never seen"
    assert np.isnan(found.data[8:, 0]).all() and set(found.data[:8, 0]) == {0.0, 1.0}


def test_one_class_and_its_plot(shap, tiny_weights):
    plots = pytest.importorskip("matplotlib.pyplot", reason="plots need matplotlib")
    X = np.random.default_rng(0).normal(size=(48, 3))
    one = PFNClassifier(1, weights=tiny_weights).fit(X, ["u"] * 48)
    found = explain.shap_values(one, X[:3], background=100)
    assert found.values.shape == (3, 3, 1) and (found.values == 0).all() and (found.base_values == 1).all()
    two = explain.shap_values(
        PFNClassifier(1, weights=tiny_weights).fit(X, X[:, 0] > 0), X[:3], background=4, max_evals=7
    )
    shap.plots.waterfall(two[0, :, "True"], show=False)
    shap.plots.beeswarm(two[:, :, "True"], show=False)
    plots.close("all")


def test_what_is_not_possible_is_said(shap, model, table, tiny_weights):
    with pytest.raises(NotFittedError):
        explain.shap_values(PFNClassifier(weights=tiny_weights), table[0])
    with pytest.raises(ValueError, match="5 features"):
        explain.shap_values(model, table[0][:, :2])
    with pytest.raises(ValueError, match="at least 11"):
        explain.shap_values(model, table[0][60:62], max_evals=10)
    with pytest.raises(ValueError, match="max_evals"):
        explain.shap_values(model, table[0][60:62], max_evals="all")
    with pytest.raises(ValueError, match="background is 0"):
        explain.shap_values(model, table[0][60:62], background=0)
    with pytest.raises(ValueError, match="5 features"):
        explain.shap_values(model, table[0][60:62], background=table[0][:, :2])


def test_without_shap_the_error_names_the_extra(monkeypatch, model, table):
    monkeypatch.setitem(sys.modules, "shap", None)  # as if it were not installed
    with pytest.raises(MissingError, match=r'pip install "priorax\[explain\]"'):
        explain.shap_values(model, table[0][60:62])
