"""Target statistics of categories of many levels: what they say, what they must not give away, when they stay out."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from priorax.models import PFNClassifier
from priorax.models.level_encoding import LEAST_ROWS, MANY_LEVELS, LevelEncoding
from sklearn.metrics import roc_auc_score

FLAGS = np.array([False, True, True])


def _table(n, levels, classes, rng):
    """x f32[n, 3] (a number, a category of ``levels``, one of three levels) and y that only the large category decides."""
    code = rng.integers(0, levels, n)
    score = np.linspace(-2, 2, levels)[rng.permutation(levels)][code] + 0.3 * rng.normal(size=n)
    y = np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))
    return np.stack([rng.normal(size=n), code, rng.integers(0, 3, n)], 1).astype(np.float32), y, score


@pytest.mark.parametrize("classes", [2, 5])
def test_levels_are_ordered_by_their_classes(classes):
    x, y, score = _table(900, 40, classes, np.random.default_rng(0))
    encoding = LevelEncoding("target", 0)
    inside = encoding.fit_transform(x[:600], y[:600], FLAGS)
    outside = encoding.apply(x[600:])
    assert encoding.columns_.tolist() == [1] and encoding.still_categories(FLAGS).tolist() == [False, False, True]
    assert inside.dtype == outside.dtype == np.float32
    for got, wanted in ((inside[:, 1], score[:600]), (outside[:, 1], score[600:])):
        assert abs(np.corrcoef(got, wanted)[0, 1]) > 0.85
    np.testing.assert_array_equal(outside[:, [0, 2]], x[600:, [0, 2]])
    # A level has one value outside, and one a fold inside.
    for level in range(40):
        assert len(np.unique(outside[x[600:, 1] == level, 1])) <= 1
        assert len(np.unique(inside[x[:600, 1] == level, 1])) <= 5


def test_two_classes_against_plain_arithmetic():
    """Without noise in the labels of a level, shrinking leaves nothing: the share of class 1 itself."""
    x = np.repeat(np.arange(12.0, dtype=np.float32), 20)[:, None]
    y = (x[:, 0] % 2).astype(np.int64)
    encoding = LevelEncoding("target", 0)
    np.testing.assert_allclose(encoding.fit_transform(x, y, np.array([True]))[:, 0], y, atol=1e-6)
    np.testing.assert_allclose(encoding.apply(x)[:, 0], y, atol=1e-6)


def test_no_row_is_given_its_own_label():
    rng = np.random.default_rng(1)
    x = rng.integers(0, 150, 300).astype(np.float32)[:, None]
    y = rng.integers(0, 2, 300)
    encoding = LevelEncoding("target", 0)
    inside = encoding.fit_transform(x, y, np.array([True]))[:, 0]
    assert roc_auc_score(y, encoding.apply(x)[:, 0]) > 0.75  # what leaking would look like
    assert roc_auc_score(y, inside) < 0.6


def test_missing_stays_missing():
    x, y, _ = _table(300, 20, 3, np.random.default_rng(2))
    x[::7, 1] = np.nan
    encoding = LevelEncoding("target", 0)
    np.testing.assert_array_equal(np.isnan(encoding.fit_transform(x, y, FLAGS)), np.isnan(x))
    np.testing.assert_array_equal(np.isnan(encoding.apply(x)), np.isnan(x))


@pytest.mark.parametrize(
    ("kind", "rows", "levels", "classes"),
    [
        ("codes", 300, 40, 2), ("target", LEAST_ROWS - 1, 40, 2), ("target", 300, MANY_LEVELS - 1, 2), ("target", 300, 40, 1),
    ],
)  # fmt: skip
def test_otherwise_nothing_changes(kind, rows, levels, classes):
    x, y, _ = _table(rows, levels, classes, np.random.default_rng(3))
    encoding = LevelEncoding(kind, 0)
    assert encoding.fit_transform(x, y, FLAGS) is x and encoding.apply(x) is x
    np.testing.assert_array_equal(encoding.still_categories(FLAGS), FLAGS)


def test_a_class_of_one_row_and_columns_all_missing():
    x, y, _ = _table(120, 30, 3, np.random.default_rng(4))
    y[0] = 3
    encoding = LevelEncoding("target", 0)
    assert np.isfinite(encoding.fit_transform(x, y, FLAGS)).all()
    x[:, 1] = np.nan
    assert encoding.fit_transform(x, y, FLAGS) is x


def test_members_take_turns_and_agree_where_levels_are_few(tiny_weights):
    pd = pytest.importorskip("pandas", reason="frames need pandas")
    x, y, _ = _table(200, 25, 2, np.random.default_rng(5))
    X = pd.DataFrame({"a": x[:, 0], "b": [f"level {c:.0f}" for c in x[:, 1]], "c": x[:, 2].astype(int).astype(str)})
    make = lambda **options: PFNClassifier(weights=tiny_weights, n_estimators=2, **options)
    model = make().fit(X[:150], y[:150])
    assert [m.encoding for m in model.members_] == ["codes", "target"]
    both = model._logits(model._encode(X[150:]))
    plain = make(category_encodings=("codes",)).fit(X[:150], y[:150])
    apart = plain._logits(plain._encode(X[150:]))
    np.testing.assert_array_equal(both[0], apart[0])
    assert np.abs(both[1] - apart[1]).max() > 1e-3
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X[150:]), model.predict_proba(X[150:]))
    few = X.drop(columns="b")
    answers = [make(category_encodings=kinds).fit(few[:150], y[:150]).predict_proba(few[150:]) for kinds in (("codes",), ("codes", "target"))]
    np.testing.assert_array_equal(*answers)
