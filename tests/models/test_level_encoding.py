"""Target statistics of categories of many levels: what they say, what they must not give away, when they stay out."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from priorax.models import PFNClassifier
from priorax.models.ensemble import Limits, plan_members
from priorax.models.folds import row_keys, spread_over_folds
from priorax.models.inference import get_engine
from priorax.models.level_encoding import LEAST_ROWS, MANY_LEVELS, SHRINKAGE, LevelEncoding
from sklearn.metrics import roc_auc_score


def _table(n, levels, classes, rng):
    """x f32[n, 3] (a number, a category of ``levels``, one of three levels), y that only the large category decides, the levels
    of each column, and the score behind y."""
    code = rng.integers(0, levels, n)
    score = np.linspace(-2, 2, levels)[rng.permutation(levels)][code] + 0.3 * rng.normal(size=n)
    y = np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))
    return np.stack([rng.normal(size=n), code, rng.integers(0, 3, n)], 1).astype(np.float32), y, np.array([0, levels, 3]), score


@pytest.mark.parametrize("classes", [2, 5])
def test_levels_are_ordered_by_their_classes(classes):
    x, y, sizes, score = _table(900, 40, classes, np.random.default_rng(0))
    encoding = LevelEncoding("target", 0)
    inside = encoding.fit_transform(x[:600], y[:600], sizes)
    outside = encoding.apply(x[600:])
    assert encoding.columns_.tolist() == [1]
    assert encoding.still_categories(sizes > 0).tolist() == [False, False, True]
    assert inside.dtype == outside.dtype == np.float32
    for got, wanted in ((inside[:, 1], score[:600]), (outside[:, 1], score[600:])):
        assert abs(np.corrcoef(got, wanted)[0, 1]) > 0.85
    np.testing.assert_array_equal(outside[:, [0, 2]], x[600:, [0, 2]])
    # A level has one value outside, and one a fold inside.
    for level in range(40):
        assert len(np.unique(outside[x[600:, 1] == level, 1])) <= 1
        assert len(np.unique(inside[x[:600, 1] == level, 1])) <= 5


def test_two_classes_against_plain_arithmetic():
    x, y, sizes, _ = _table(300, 20, 2, np.random.default_rng(6))
    code = x[:, 1]
    encoding = LevelEncoding("target", 0)
    inside = encoding.fit_transform(x, y, sizes)[:, 1]
    fold = spread_over_folds(row_keys(x, np.random.RandomState(0)), y, 5)

    def share(rows, level):
        here = rows & (code == level)
        return (y[here].sum() + SHRINKAGE * y[rows].mean()) / (here.sum() + SHRINKAGE)

    every = np.ones(300, bool)
    np.testing.assert_allclose(encoding.apply(x)[:, 1], [share(every, level) for level in code], rtol=1e-6)
    np.testing.assert_allclose(inside, [share(fold != fold[i], code[i]) for i in range(300)], rtol=1e-6)


def test_folds_hold_every_class_evenly():
    y = np.repeat([0, 1, 2], [101, 52, 7])
    x = np.random.default_rng(8).integers(0, 9, (160, 4)).astype(np.float32)
    x[::7, 0] = np.nan
    fold = spread_over_folds(row_keys(x, np.random.RandomState(0)), y, 5)
    for label in range(3):
        counts = np.bincount(fold[y == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert (fold != spread_over_folds(row_keys(x, np.random.RandomState(1)), y, 5)).any()


def test_folds_do_not_depend_on_the_order_of_rows_nor_on_scale():
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(200, 3)).astype(np.float32), rng.integers(0, 3, 200)
    x[rng.random(x.shape) < 0.1] = np.nan
    order = rng.permutation(200)
    fold = spread_over_folds(row_keys(x, np.random.RandomState(0)), y, 5)
    np.testing.assert_array_equal(spread_over_folds(row_keys(x[order], np.random.RandomState(0)), y[order], 5), fold[order])
    np.testing.assert_array_equal(spread_over_folds(row_keys(x * 8 + 1, np.random.RandomState(0)), y, 5), fold)
    assert abs(np.corrcoef(fold, np.nan_to_num(x[:, 0]))[0, 1]) < 0.2


def test_no_row_is_given_its_own_label():
    rng = np.random.default_rng(1)
    x = np.repeat(np.arange(100.0, dtype=np.float32), 3)[:, None]
    y = rng.integers(0, 2, 300)
    encoding = LevelEncoding("target", 0)
    inside = encoding.fit_transform(x, y, np.array([100]))[:, 0]
    assert roc_auc_score(y, encoding.apply(x)[:, 0]) > 0.75  # what leaking would look like
    assert roc_auc_score(y, inside) < 0.6


def test_missing_stays_missing_and_a_level_without_rows_says_what_the_table_says():
    x, y, sizes, _ = _table(300, 20, 3, np.random.default_rng(2))
    x[::7, 1] = np.nan
    sizes[1] = 21  # a level that was declared and never occurs
    encoding = LevelEncoding("target", 0)
    np.testing.assert_array_equal(np.isnan(encoding.fit_transform(x, y, sizes)), np.isnan(x))
    outside = encoding.apply(x)
    np.testing.assert_array_equal(np.isnan(outside), np.isnan(x))
    x[0, 1] = 20
    unknown = encoding.apply(x)[0, 1]
    assert np.nanmin(outside[:, 1]) < unknown < np.nanmax(outside[:, 1])


@pytest.mark.parametrize(
    ("kind", "rows", "levels", "classes"),
    [
        ("codes", 300, 40, 2), ("target", LEAST_ROWS - 1, 12, 2), ("target", 300, MANY_LEVELS - 1, 2), ("target", 300, 40, 1),
        ("target", 300, 250, 2),
    ],
)  # fmt: skip
def test_otherwise_nothing_changes(kind, rows, levels, classes):
    x, y, sizes, _ = _table(rows, levels, classes, np.random.default_rng(3))
    encoding = LevelEncoding(kind, 0)
    assert encoding.fit_transform(x, y, sizes) is x and encoding.apply(x) is x
    np.testing.assert_array_equal(encoding.still_categories(sizes > 0), sizes > 0)


@pytest.mark.parametrize("classes", [20, 80])
def test_classes_of_few_rows_and_columns_all_missing(classes):
    x, _, sizes, _ = _table(80, 12, 2, np.random.default_rng(4))
    y = np.arange(80) % classes
    encoding = LevelEncoding("target", 0)
    assert np.isfinite(encoding.fit_transform(x, y, sizes)).all() and encoding.columns_.tolist() == [1]
    x[:, 1] = np.nan
    assert encoding.fit_transform(x, y, sizes) is x


@pytest.fixture(scope="module")
def frame():
    pd = pytest.importorskip("pandas", reason="frames need pandas")
    x, y, _, _ = _table(200, 25, 2, np.random.default_rng(5))
    X = pd.DataFrame({"a": x[:, 0], "b": [f"level {c:02.0f}" for c in x[:, 1]], "c": x[:, 2].astype(int).astype(str)})
    return X, y


def test_members_see_what_was_encoded_without_their_labels(frame, tiny_weights):
    X, y = frame
    model = PFNClassifier(weights=tiny_weights, n_estimators=4, ridge_scores=()).fit(X[:150], y[:150])
    assert [m.encoding for m in model.members_] == ["codes", "target", "target", "codes"]
    contexts = model._contexts(get_engine(tiny_weights))
    codes = model._encoder.fit_transform(X[:150])
    for m, member in enumerate(model.members_):
        encoding = LevelEncoding(member.encoding, model._levels["target"].seed)
        wanted = encoding.fit_transform(codes, y[:150], model._encoder.cardinality_)
        np.testing.assert_array_equal(contexts.x[m], wanted[:, member.columns])
        flags = encoding.still_categories(model._encoder.categorical_)
        np.testing.assert_array_equal(contexts.categorical[m], flags[member.columns])
    assert contexts.categorical.sum(1).tolist() == [2, 1, 1, 2]
    smaller = PFNClassifier(weights=tiny_weights, n_estimators=2, ridge_scores=()).fit(X[:150], y[:150])
    np.testing.assert_array_equal(smaller._contexts(get_engine(tiny_weights)).x, contexts.x[:2])


def test_members_take_turns_and_agree_where_levels_are_few(frame, tiny_weights):
    X, y = frame
    make = lambda **options: PFNClassifier(weights=tiny_weights, n_estimators=2, **options)
    model = make().fit(X[:150], y[:150])
    both = model._logits(x := model._encode(X[150:]), model._ridge.apply(x))
    plain = make(category_encodings=("codes",)).fit(X[:150], y[:150])
    apart = plain._logits(x := plain._encode(X[150:]), plain._ridge.apply(x))
    np.testing.assert_array_equal(both[0], apart[0])
    assert np.abs(both[1] - apart[1]).max() > 1e-3
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X[150:]), model.predict_proba(X[150:]))
    few = X.drop(columns="b")
    answers = [make(category_encodings=kinds).fit(few[:150], y[:150]).predict_proba(few[150:]) for kinds in (("codes",), ("codes", "target"))]
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize(
    ("n_columns", "n_classes", "transforms"), [(30, 3, ("none",)), (150, 3, ("none",)), (30, 15, ("none", "power")), (150, 15, ("none",))]
)
def test_every_column_class_and_transform_meets_every_encoding(n_columns, n_classes, transforms):
    limits = Limits(rows=1000, columns=100, classes=10)
    members, _ = plan_members(
        8, np.zeros((60, n_columns), np.float32), np.arange(60) % n_classes, limits, np.random.RandomState(0), transforms, ("codes", "target")
    )
    assert members[0].encoding == "codes"
    for encoding in ("codes", "target"):
        own = [m for m in members if m.encoding == encoding]
        assert set(np.concatenate([m.columns for m in own])) == set(range(n_columns))
        assert np.any([m.own for m in own], axis=0).all()
        assert {m.transform for m in own} == set(transforms)


def test_memory_grows_with_rows_and_not_with_rows_times_levels():
    """A column of user numbers, four rows each: a table of all levels for every row would be 7 GB here."""
    x = (np.arange(60_000) % 15_000).astype(np.float32)[:, None]
    y = np.random.default_rng(7).integers(0, 2, len(x))
    encoding = LevelEncoding("target", 0)
    tracemalloc.start()
    encoding.fit_transform(x, y, np.array([15_000]))
    encoding.apply(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert encoding.columns_.tolist() == [0] and peak < 50e6
