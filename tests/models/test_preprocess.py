"""Tables in, f32 matrices out: every kind of column, missing values, containers, bad input."""

from __future__ import annotations

import datetime
import decimal

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from priorax.models.preprocess import CLIP, TableEncoder
from priorax.models.tables import read_table

pd = pytest.importorskip("pandas", reason="frames need pandas")


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "number": [1.0, 2.0, None, 5.0],
            "text": ["x", "y", None, "x"],
            "level": pd.Categorical(["lo", "hi", "lo", None], categories=["lo", "mid", "hi"]),
            "day": pd.to_datetime(["2020-01-01", "2021-05-03 10:00", None, "2022-01-01"], format="mixed"),
            "flag": [True, False, True, True],
            "int_na": pd.array([1, None, 3, 4], dtype="Int64"),
            "flag_na": pd.array([True, None, False, True], dtype="boolean"),
            "string_na": pd.array(["u", pd.NA, "v", "u"], dtype="string"),
            "span": pd.to_timedelta([1, 2, 3, 5], unit="D"),
            "empty": [None] * 4,
            "same": [7] * 4,
        }
    )


def test_every_kind_of_column(frame):
    encoder = TableEncoder()
    x = encoder.fit_transform(frame)
    at = {name: k for k, name in enumerate(encoder.names_)}
    assert x.dtype == np.float32 and x.shape == (4, len(at))
    assert encoder.dropped_ == ["empty", "same"]
    nan = np.nan
    np.testing.assert_array_equal(x[:, at["text"]], [0, 1, nan, 0])
    np.testing.assert_array_equal(x[:, at["level"]], [0, 2, 0, nan])  # declared order, the unused level keeps its code
    np.testing.assert_array_equal(x[:, at["flag"]], [1, 0, 1, 1])
    np.testing.assert_array_equal(x[:, at["flag_na"]], [1, nan, 0, 1])
    np.testing.assert_array_equal(x[:, at["string_na"]], [0, nan, 1, 0])
    assert np.isnan(x[[2, 1], [at["number"], at["int_na"]]]).all()
    categories = {name for name, c in zip(encoder.names_, encoder.categorical_, strict=True) if c}
    assert categories == {"text", "level", "flag", "flag_na", "string_na"}
    assert encoder.cardinality_[at["level"]] == 3 and encoder.cardinality_[at["number"]] == 0
    np.testing.assert_array_equal(encoder.source_[[at["day:epoch"], at["day:month"]]], 3)
    np.testing.assert_array_equal(encoder.transform(frame), x)


def test_dates_become_parts_that_vary():
    days = pd.date_range("2024-01-29", periods=5, freq="D")
    encoder = TableEncoder()
    x = encoder.fit_transform(pd.DataFrame({"t": days}))
    assert encoder.names_ == ["t:epoch", "t:month", "t:day", "t:weekday"]  # the hour is always 0
    assert np.all(np.diff(x[:, 0]) > 0)
    assert encoder.transform(pd.DataFrame({"t": days.tz_localize("UTC")})).tolist() == x.tolist()
    column = read_table(np.array([[datetime.date(2024, 3, 5)], [None]], dtype=object))[0].values
    assert column[0] == np.datetime64("2024-03-05") and np.isnat(column[1])


def test_calendar_parts_are_right():
    days = pd.date_range("1965-02-27 05:30", periods=60, freq="613h")
    encoder = TableEncoder()
    encoder.fit(pd.DataFrame({"t": days}))
    from priorax.models.preprocess import _date_part

    values = days.to_numpy().astype("datetime64[us]")
    for part, want in (
        ("month", days.month - 1), ("day", days.day - 1), ("weekday", days.day_of_week), ("hour", days.hour)
    ):  # fmt: skip
        np.testing.assert_array_equal(_date_part("t:x", values, part), want)


def test_containers_agree(frame):
    pl = pytest.importorskip("polars", reason="polars is not installed")
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    plain = frame[["number", "text", "day", "flag", "string_na"]]
    want = TableEncoder().fit_transform(plain)
    np.testing.assert_array_equal(TableEncoder().fit_transform(pl.from_pandas(plain)), want)
    np.testing.assert_array_equal(TableEncoder().fit_transform(pa.Table.from_pandas(plain)), want)
    np.testing.assert_array_equal(TableEncoder().fit_transform(plain.astype(object)), want)
    levels = pl.DataFrame({"a": pl.Series(["b", "a", None], dtype=pl.Enum(["b", "z", "a"]))})
    np.testing.assert_array_equal(TableEncoder().fit_transform(levels)[:, 0], [0, 2, np.nan])


@pytest.mark.parametrize("kind", ["date32", "date64", "timestamp"])
def test_arrow_dates_with_gaps_in_pandas(kind):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    dtype = pd.ArrowDtype(pa.timestamp("ns") if kind == "timestamp" else getattr(pa, kind)())
    days = pd.Series(pd.to_datetime(["2020-01-01", None, "2021-06-30", "1999-12-31"]))
    arrow = (days if kind == "timestamp" else days.dt.date.where(days.notna(), None)).astype(dtype)
    want = TableEncoder().fit_transform(pd.DataFrame({"d": days}))
    np.testing.assert_array_equal(TableEncoder().fit_transform(pd.DataFrame({"d": arrow})), want)
    assert np.isnan(want[1]).all() and not np.isnan(want[[0, 2, 3]]).any()


def test_arrow_time_zones_in_pandas():
    arrow = pytest.importorskip("pyarrow")
    plain = pd.Series(pd.to_datetime(["2020-01-01 05:00", None, "2021-07-01 06:00"])).dt.tz_localize("Europe/Berlin")
    want = TableEncoder().fit_transform(pd.DataFrame({"t": plain}))
    zoned = plain.astype(pd.ArrowDtype(arrow.timestamp("us", tz="Europe/Berlin")))
    np.testing.assert_array_equal(TableEncoder().fit_transform(pd.DataFrame({"t": zoned})), want)


def test_lists_and_object_arrays():
    rows = [[1, "a", decimal.Decimal("0.5")], [2, "b", 1], [None, "a", 2]]
    want = TableEncoder().fit_transform(rows)
    assert want.shape == (3, 3) and np.isnan(want[2, 0])
    np.testing.assert_array_equal(TableEncoder().fit_transform(np.array(rows, dtype=object)), want)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8", "u1", "bool", ">f8"])
def test_number_dtypes_and_memory_layouts(dtype):
    a = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    want = TableEncoder().fit_transform(a)
    for same in (np.asfortranarray(a), a[::1], np.repeat(a, 2, 0)[::2]):
        np.testing.assert_array_equal(TableEncoder().fit_transform(same), want)
    frozen = a.copy()
    frozen.setflags(write=False)
    np.testing.assert_array_equal(TableEncoder().fit_transform(frozen), want)


def test_unseen_and_vanished_categories():
    encoder = TableEncoder().fit(pd.DataFrame({"a": ["u", "v", "u"], "b": [0.0, 1.0, 2.0]}))
    x = encoder.transform(pd.DataFrame({"a": ["w", "v", None], "b": [0.0, 1.0, 2.0]}))
    np.testing.assert_array_equal(x[:, 0], [np.nan, 1, np.nan])
    with pytest.warns(UserWarning, match="none of its values occurred in fit"):
        encoder.transform(pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0.0, 1.0, 2.0]}))


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        (None, [False, False]),
        ("from_dtype", [False, True]),
        ([True, False], [True, False]),
        ([0], [True, False]),
        ([-2], [True, False]),
        (["a"], [True, False]),
        ([], [False, False]),
    ],
)
def test_categorical_features(spec, want):
    table = pd.DataFrame({"a": [3, 5, 3], "b": pd.Categorical([1, 2, 1])})
    encoder = TableEncoder(spec).fit(table)
    assert encoder.categorical_.tolist() == want
    if want[0]:
        np.testing.assert_array_equal(encoder.transform(table)[:, 0], [0, 1, 0])


IDS = [2**60 + step for step in (0, 1, 300, 301, 1)]  # as doubles the first two are one, the next two another


@pytest.mark.parametrize(
    ("table", "spec"),
    [
        (pd.DataFrame({"a": pd.Series(IDS, dtype="category")}), "from_dtype"),
        (pd.DataFrame({"a": IDS}), [0]),
        (np.array(IDS)[:, None], [0]),
        (np.array(IDS, np.uint64)[:, None], [0]),
        ([[value] for value in IDS], [0]),
    ],
)
def test_large_identifiers_stay_apart(table, spec):
    encoder = TableEncoder(spec)
    np.testing.assert_array_equal(encoder.fit_transform(table)[:, 0], [0, 1, 2, 3, 1])
    assert encoder.cardinality_.tolist() == [4]


@pytest.mark.parametrize("kind", ["Int64", "int64[pyarrow]", "object", "polars", "arrow"])
def test_large_identifiers_with_gaps_stay_apart(kind):
    held = [IDS[0], None, IDS[1], IDS[2]]
    if kind == "polars":
        table = pytest.importorskip("polars").DataFrame({"a": held})
    elif kind == "arrow":
        table = pytest.importorskip("pyarrow").table({"a": held})
    else:
        if "arrow" in kind:
            pytest.importorskip("pyarrow")
        table = pd.DataFrame({"a": pd.array(held, dtype=kind)})
    encoder = TableEncoder([0])
    np.testing.assert_array_equal(encoder.fit_transform(table)[:, 0], [0, np.nan, 1, 2])
    assert TableEncoder(None).fit(table).cardinality_.tolist() == [0]  # undeclared they are numbers as ever


def test_levels_are_compared_by_value():
    encoder = TableEncoder([0]).fit(np.array([[1.0], [2.0], [1.5]]))
    np.testing.assert_array_equal(encoder.transform(np.array([[1], [2]]))[:, 0], [0, 2])
    encoder = TableEncoder().fit(pd.DataFrame({"a": pd.Series([1, 2], dtype="category")}))
    np.testing.assert_array_equal(encoder.transform(pd.DataFrame({"a": [2.0, 1.0]}))[:, 0], [1, 0])
    encoder = TableEncoder([0]).fit(np.array([[True], [False]]))
    np.testing.assert_array_equal(encoder.transform(np.array([[1.0], [0.0]]))[:, 0], [1, 0])


def test_levels_of_one_text_are_one_level():
    class Named:
        def __str__(self):
            return "same"

    kinds = pd.CategoricalDtype([Named(), Named(), "other"])
    values = pd.Series(pd.Categorical.from_codes([0, 1, 2], dtype=kinds))
    encoder = TableEncoder()
    np.testing.assert_array_equal(encoder.fit_transform(pd.DataFrame({"a": values}))[:, 0], [0, 0, 1])
    assert encoder.cardinality_.tolist() == [2]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("auto", "from_dtype"),
        ([True], "mask of length 1"),
        ([5], "position 5"),
        (["c"], "names 'c'"),
        ([[0]], "one-dimensional"),
        ([0.5], "float64"),
    ],
)
def test_wrong_categorical_features(spec, words):
    with pytest.raises(ValueError, match=words):
        TableEncoder(spec).fit(np.eye(2))


@pytest.mark.parametrize("where", ["fit", "transform"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinities_are_refused_with_their_place(where, bad):
    good, table = np.arange(6.0).reshape(3, 2), np.arange(6.0).reshape(3, 2)
    table[2, 1] = bad
    with pytest.raises(ValueError, match=r"infinity in column '1' \(first in row 2\)"):
        TableEncoder().fit(table) if where == "fit" else TableEncoder().fit(good).transform(table)
    with pytest.raises(ValueError, match="infinity"):
        TableEncoder([1]).fit(table)


def test_bad_tables():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="toarray"):
        TableEncoder().fit(sparse.eye(3, format="csr"))
    with pytest.raises(TypeError, match="row 1: argument must be a string or a real number, not 'dict'"):
        TableEncoder().fit(np.array([[1], [{}]], dtype=object))
    with pytest.raises(ValueError, match="Complex"):
        TableEncoder().fit(np.array([[1j]]))
    with pytest.raises(ValueError, match="Expected 2D array"):
        TableEncoder().fit(np.arange(3.0))
    with pytest.raises(ValueError, match="rectangular"):
        TableEncoder().fit([[1, 2], [3]])
    with pytest.raises(ValueError, match="3 columns, but the table seen in fit had 2"):
        TableEncoder().fit(np.eye(2)).transform(np.eye(3))
    with pytest.raises(ValueError, match="held numbers in fit but holds 'x'"):
        TableEncoder().fit([[1.0], [2.0]]).transform([["x"], [1]])
    with pytest.raises(ValueError, match="held dates in fit"):
        TableEncoder().fit(pd.DataFrame({"d": pd.date_range("2020", periods=3)})).transform(pd.DataFrame({"d": ["a"]}))


def test_free_text_is_pointed_out():
    with pytest.warns(UserWarning, match="skrub"):
        TableEncoder().fit(pd.DataFrame({"t": [f"a long story, number {i}" for i in range(300)]}))


def test_scales_that_break_single_precision():
    n = np.arange(50.0)
    table = np.stack([1.7e9 + n, 1e-300 * n, 1e300 * (n - 25), np.where(n == 3, 1e308, n)], 1)
    x = TableEncoder().fit_transform(table)
    assert np.isfinite(x).all() and np.abs(x).max() <= CLIP
    for j in range(3):
        np.testing.assert_allclose(x[:, j] - x[0, j], n / 24.5, rtol=1e-5, atol=1e-5)
    assert len(np.unique(x[:, 3])) == 50  # one outlier does not flatten the others


@pytest.mark.parametrize("residue", [0.1 + 0.2 - 0.3, 1e-6, 1e-25])
def test_far_outliers_of_a_column_that_is_nearly_one_value_stay_apart(residue):
    """Most rows hold noise around 0, some hold what matters."""
    rng = np.random.default_rng(0)
    column = np.where(rng.random(400) < 0.8, residue * rng.integers(0, 3, 400), rng.uniform(1, 10, 400))
    x = TableEncoder().fit_transform(column[:, None])[:, 0]
    assert np.isfinite(x).all() and len(np.unique(x)) == len(np.unique(column.astype(np.float32)))
    assert (np.argsort(x, kind="stable") == np.argsort(column.astype(np.float32), kind="stable")).all()


def test_small_values_of_many_orders_stay_apart():
    p_values = 10 ** np.random.default_rng(0).uniform(-40, 0, 400)
    x = TableEncoder().fit_transform(p_values[:, None])[:, 0]
    assert len(np.unique(x)) == 400 and (np.argsort(x) == np.argsort(p_values)).all()


def test_nothing_varies():
    x = TableEncoder().fit_transform(np.full((3, 2), np.nan))
    np.testing.assert_array_equal(x, np.zeros((3, 1), np.float32))
    encoder = TableEncoder().fit(np.array([[1.0, np.nan], [1.0, 1.0]]))
    assert encoder.names_ == ["1"]  # being missing is what varies


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float64, st.tuples(st.integers(1, 12), st.integers(1, 4)),
        elements=st.floats(allow_nan=True, allow_infinity=False, width=64),
    )
)  # fmt: skip
def test_any_numbers_give_finite_or_missing(table):
    encoder = TableEncoder()
    x = encoder.fit_transform(table)
    assert not np.isinf(x).any()
    np.testing.assert_array_equal(encoder.transform(table), x)
    kept = np.array([int(name) for name in encoder.names_ if name != "constant"], dtype=int)
    np.testing.assert_array_equal(np.isnan(x[:, : len(kept)]), np.isnan(table[:, kept]))
    for k, j in enumerate(kept):  # order within a column is kept
        order = np.argsort(table[:, j], kind="stable")
        values = x[order, k][~np.isnan(table[order, j])]
        assert (np.diff(values) >= 0).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.text(max_size=3), st.integers(-3, 3), st.booleans(), st.floats(-2, 2)),
        min_size=1,
        max_size=8,
    )
)
def test_any_cells_are_encoded(cells):
    encoder = TableEncoder()
    table = np.empty((len(cells), 1), dtype=object)
    table[:, 0] = cells
    x = encoder.fit_transform(table)
    np.testing.assert_array_equal(encoder.transform(table), x)
    assert not np.isinf(x).any()
