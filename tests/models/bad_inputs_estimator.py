"""Bad inputs of the estimator: tables, cells, labels, sizes, parameters and weights."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import fractions
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from bad_input_case import TINY, case
from priorax.configs.errors import DataError, MemoryLimitError, MissingError, NumericalError
from priorax.models import LimitWarning, PFNClassifier, inference
from sklearn.exceptions import DataConversionWarning, NotFittedError

N, D = 24, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D))
Y = np.arange(N) % 2
Q = X[:4]


def model(**options: Any) -> PFNClassifier:
    return PFNClassifier(**({"n_estimators": 1, "weights": TINY} | options))


def fit(x: Any = X, y: Any = Y, **options: Any) -> PFNClassifier:
    return model(**options).fit(x, y)


def proba(x_train: Any, x_test: Any, y: Any = Y, **options: Any) -> np.ndarray:
    """Probabilities after checking that they are some."""
    p = fit(x_train, y, **options).predict_proba(x_test)
    assert np.isfinite(p).all() and np.allclose(p.sum(1), 1)
    return p


def with_cell(value: Any) -> np.ndarray:
    x = X.astype(object)
    x[5, 1] = value
    return x


def frame(**columns: Any):
    pd = pytest.importorskip("pandas", reason="frames need pandas")
    return pd.DataFrame({"a": X[:, 0], "b": X[:, 1]} | columns)


def pandas():
    return pytest.importorskip("pandas", reason="frames need pandas")


def polars():
    return pytest.importorskip("polars", reason="polars is not installed")


# --- the table as a whole ---------------------------------------------------------------------------------------------

WHOLE = "The table"
case(WHOLE, "a path instead of a table", TypeError, "X is a str, not a table")(lambda: fit("train.csv"))
case(WHOLE, "a dict of columns", TypeError, "turn it into a data frame first")(lambda: fit({"a": [1, 2]}))
case(WHOLE, "None", ValueError, "Expected 2D array, got 0D")(lambda: fit(None))
case(WHOLE, "one dimension", ValueError, "Reshape your data")(lambda: fit(X[:, 0]))
case(WHOLE, "three dimensions", ValueError, "Expected 2D array, got 3D")(lambda: fit(X[None]))
case(WHOLE, "rows of unequal length", ValueError, "not a rectangular table")(lambda: fit([[1, 2], [3]], [0, 1]))
case(WHOLE, "no rows", ValueError, "0 sample(s)")(lambda: fit(X[:0], Y[:0]))
case(WHOLE, "no columns", ValueError, "0 feature(s)")(lambda: fit(X[:, :0]))
case(WHOLE, "a pandas Series", ValueError, "Expected 2D array, got 1D")(lambda: fit(frame()["a"]))
case(WHOLE, "a sparse matrix in fit", TypeError, "X.toarray()")(lambda: fit(scipy.sparse.csr_matrix(X)))
case(WHOLE, "a sparse array in predict", TypeError, "TruncatedSVD")(lambda: fit().predict(scipy.sparse.csc_array(Q)))
case(WHOLE, "a polars LazyFrame", TypeError, "call .collect() first")(lambda: fit(polars().DataFrame(X).lazy()))
case(WHOLE, "a structured array", ValueError, "Expected 2D array")(
    lambda: fit(np.zeros(N, dtype=[("a", "f8"), ("b", "f8")]))
)
case(WHOLE, "no rows in predict", ValueError, "0 sample(s)")(lambda: fit().predict(X[:0]))
case(WHOLE, "one row in predict", None, "one row of probabilities, the same as among others")(
    lambda: np.array_equal(fit().predict_proba(Q[:1]), fit().predict_proba(Q)[:1])
)
case(WHOLE, "predict before fit", NotFittedError, "not fitted yet")(lambda: model().predict(Q))
case(WHOLE, "fewer columns than in fit", ValueError, "2 features")(lambda: fit().predict(Q[:, :2]))
case(WHOLE, "more columns than in fit", ValueError, "4 features")(lambda: fit().predict(np.c_[Q, Q[:, 0]]))
case(WHOLE, "another column name than in fit", ValueError, "feature names should match")(
    lambda: fit(frame()).predict(frame().rename(columns={"a": "c"}))
)
case(WHOLE, "columns in another order than in fit", ValueError, "must be in the same order")(
    lambda: fit(frame()).predict(frame()[["b", "a"]])
)
case(WHOLE, "names in fit, none in predict", UserWarning, "does not have valid feature names")(
    lambda: fit(frame()).predict(Q[:, :2])
)
case(WHOLE, "the same column name twice", ValueError, "give every column a name of its own")(
    lambda: fit(frame().set_axis(["a", "a"], axis=1))
)
case(WHOLE, "column names that are text and numbers", TypeError, "all input features have string names")(
    lambda: fit(frame().set_axis(["a", 1], axis=1))
)
case(WHOLE, "a masked array", None, "masked cells are missing")(
    lambda: np.allclose(
        proba(np.ma.masked_array(X, X > 1), Q), proba(np.where(X > 1, np.nan, X), Q)
    )
)
case(WHOLE, "a masked array of whole numbers", None, "masked cells are missing")(
    lambda: np.allclose(
        proba(np.ma.masked_array((9 * X).astype(int), X > 1), Q), proba(np.where(X > 1, np.nan, (9 * X).astype(int)), Q)
    )
)
case(WHOLE, "a NumPy matrix", None, "read as an array")(lambda: np.allclose(proba(np.asmatrix(X), Q), proba(X, Q)))
case(WHOLE, "a read-only array", None, "not written to")(lambda: len(proba(_frozen(X), _frozen(Q))))
case(WHOLE, "a JAX array", None, "read as an array")(lambda: len(proba(_jax(X), _jax(Q))))
case(WHOLE, "float16, uint8, big-endian numbers", None, "read as numbers")(
    lambda: all(len(proba((X * 9).astype(t), (Q * 9).astype(t))) for t in ("f2", "u1", ">f4"))
)
case(WHOLE, "a polars frame", None, "as from pandas")(
    lambda: np.allclose(proba(polars().DataFrame(X), polars().DataFrame(Q)), proba(X, Q))
)
case(WHOLE, "a pyarrow table", None, "as from pandas")(lambda: _arrow())
case(WHOLE, "pandas columns of sparse dtype", None, "made dense, column by column")(
    lambda: len(proba(frame().round().astype(pandas().SparseDtype("float", 0.0)), frame()))
)


def _frozen(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.setflags(write=False)
    return x


def _jax(x: np.ndarray):
    import jax.numpy as jnp

    return jnp.asarray(x)


def _arrow() -> bool:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    train, test = (pa.table({str(j): x[:, j] for j in range(D)}) for x in (X, Q))
    return np.allclose(proba(train, test), proba(X, Q))


# --- cells ------------------------------------------------------------------------------------------------------------

CELLS = "Cells"
case(CELLS, "infinity in fit", ValueError, "infinity in column '1' (first in row 5)")(lambda: fit(with_cell(np.inf)))
case(CELLS, "minus infinity in predict", ValueError, "Replace infinities with NaN")(
    lambda: fit().predict(np.where(Q == Q.max(), -np.inf, Q))
)
case(CELLS, "complex numbers", ValueError, "Complex data not supported")(lambda: fit(X + 1j))
case(CELLS, "a complex number in an object column", ValueError, "Complex data not supported")(
    lambda: fit(with_cell(1j))
)
case(CELLS, "a dict in a cell", TypeError, "column '1', row 5")(lambda: fit(with_cell({"a": 1})))
case(CELLS, "a list in a cell", TypeError, "Turn such cells into numbers or text first")(lambda: fit(frame(c=[[1, 2]] * N)))
case(CELLS, "an array in a cell", TypeError, "must be a string or a real number")(lambda: fit(frame(c=[np.eye(2)] * N)))
case(CELLS, "a polars column of lists", TypeError, "not 'list'")(
    lambda: fit(polars().DataFrame({"a": [[1, 2]] * N}))
)
case(CELLS, "a whole number beyond the range of doubles", ValueError, "does not fit into a double")(
    lambda: fit(with_cell(10**400))
)
case(CELLS, "a fraction beyond the range of doubles", ValueError, "does not fit into a double")(
    lambda: fit(with_cell(fractions.Fraction(10**5000)))
)
case(CELLS, "values of 1e300 beside values of 1e-300", None, "scaled in double precision first")(
    lambda: len(proba(X * [1e300, 1e-300, 1], Q * [1e300, 1e-300, 1]))
)
case(CELLS, "NaN", None, "missing, an input of its own for the network")(lambda: len(proba(with_cell(np.nan), Q)))
case(CELLS, "None in a column of numbers", None, "missing")(
    lambda: np.allclose(proba(with_cell(None), Q), proba(with_cell(np.nan), Q))
)
case(CELLS, "pandas.NA in numbers, text and truth values", None, "missing")(lambda: _with_na())
case(CELLS, "NaT in dates", None, "missing")(
    lambda: len(proba(frame(d=_days().where(Y > 0)), frame(d=_days().where(Y < 1))))
)
case(CELLS, "a column all missing in fit", None, "dropped")(
    lambda: np.allclose(proba(np.c_[X, np.full(N, np.nan)], np.c_[Q, Q[:, 0]]), proba(X, Q))
)
case(CELLS, "a column all missing in predict", None, "missing")(lambda: len(proba(X, Q * [1, np.nan, 1])))
case(CELLS, "every cell missing in predict", None, "one answer for all rows")(
    lambda: len(np.unique(proba(X, np.full_like(Q, np.nan)), axis=0)) == 1
)
case(CELLS, "a constant column", None, "dropped")(
    lambda: np.allclose(proba(np.c_[X, np.full(N, 7.0)], np.c_[Q, Q[:, 0]]), proba(X, Q))
)
case(CELLS, "nothing but constant columns", None, "one answer for all rows")(
    lambda: len(np.unique(proba(np.ones_like(X), Q), axis=0)) == 1
)
case(CELLS, "text", None, "categories")(lambda: len(proba(frame(t=_words()), frame(t=_words()))))
case(CELLS, "numbers and text in one column", None, "categories")(
    lambda: len(proba(frame(t=[*["x"] * 12, *range(12)]), frame(t=[*["x"] * 12, *range(12)])))
)
case(CELLS, "bytes", None, "categories, decoded as UTF-8")(lambda: len(proba(*[frame(t=[b"u", b"\xff", b"w", b"w"] * 6)] * 2)))
case(CELLS, "free text", UserWarning, "better encoded first")(lambda: _free_text())
case(CELLS, "truth values", None, "two categories")(lambda: len(proba(frame(t=Y > 0), frame(t=Y > 0))))
case(CELLS, "a category not seen in fit", None, "missing")(
    lambda: np.allclose(proba(frame(t=_words()), _unseen("new")), proba(frame(t=_words()), _unseen(None)))
)
case(CELLS, "no category of a column seen in fit", UserWarning, "none of its values occurred in fit")(
    lambda: fit(frame(t=_words())).predict(frame(t=["new"] * N))
)
case(CELLS, "a declared category that never occurs", None, "keeps its place in the order")(
    lambda: len(proba(*[frame(t=pandas().Categorical(_words(), ["u", "unused", "v", "w"]))] * 2))
)
case(CELLS, "text where fit had numbers", ValueError, "held numbers in fit but holds 'many'")(
    lambda: fit(X.astype(object)).predict(with_cell("many"))
)
case(CELLS, "numbers as text where fit had numbers", ValueError, "encode it the same way")(
    lambda: fit(X.astype(object)).predict(with_cell("1.5"))
)
case(CELLS, "dates where fit had numbers", ValueError, "held numbers in fit but holds dates now")(
    lambda: fit(frame(d=X[:, 0])).predict(frame(d=_days()))
)
case(CELLS, "numbers where fit had durations", ValueError, "held durations in fit but holds numbers now")(
    lambda: fit(frame(d=_days() - _days()[0])).predict(frame(d=X[:, 0]))
)
case(CELLS, "nothing but missing dates where fit had numbers", None, "missing")(
    lambda: len(fit(frame(d=X[:, 0], e=X[:, 1])).predict(frame(d=pandas().Series([pandas().NaT] * N), e=X[:, 1])))
)
case(CELLS, "a stray text in a column of numbers", UserWarning, "23 of 24 different values read as numbers, but '-', for one, does not")(
    lambda: fit(np.column_stack([[f"{v:.4f}" if i else "-" for i, v in enumerate(X[:, 0])], X[:, 1].astype(object)]))
)
case(CELLS, "numbers that are all text", UserWarning, "24 of 24 different values read as numbers, but are text")(lambda: fit(X.astype(str)))
case(CELLS, "the same in a column declared categorical", None, "a category, without a warning")(
    lambda: len(proba(*[frame(a=X[:, 0].astype(str), b=X[:, 1])] * 2, categorical_features=["a"]))
)
case(CELLS, "codes with leading zeros or underscores", None, "categories, without a warning")(
    lambda: len(proba(*[frame(a=[f"{i:05}" for i in range(N)], b=[f"2000_{i + 10}" for i in range(N)])] * 2))
)
case(CELLS, "dates and times", None, "a number and calendar parts")(lambda: len(proba(frame(d=_days()), frame(d=_days()))))
case(CELLS, "dates of the years 1 and 9999", None, "the same")(lambda: len(proba(*[frame(d=_far_days())] * 2)))
case(CELLS, "dates with a time zone", None, "converted to UTC")(
    lambda: np.allclose(
        proba(frame(d=_days()), frame(d=_days().dt.tz_localize("UTC"))), proba(frame(d=_days()), frame(d=_days()))
    )
)
case(CELLS, "text where fit had dates", ValueError, "held dates in fit but not now")(
    lambda: fit(frame(d=_days())).predict(frame(d=["2020-01-01"] * N))
)
case(CELLS, "durations and periods", None, "seconds; calendar parts")(
    lambda: len(proba(*[frame(s=_days() - _days()[0], p=_days().dt.to_period("D"))] * 2))
)
case(CELLS, "decimal numbers", None, "numbers")(
    lambda: np.allclose(proba(with_cell(decimal.Decimal(1)), Q), proba(with_cell(1.0), Q))
)


def _with_na() -> int:
    pd = pandas()
    table = frame(
        i=pd.array([1, pd.NA, 3] * 8, dtype="Int64"), s=pd.array(["u", pd.NA, "v"] * 8, dtype="string"),
        b=pd.array([True, False, pd.NA] * 8, dtype="boolean"), o=np.array(["u", pd.NA, "w"] * 8, dtype=object),
    )  # fmt: skip
    return len(proba(table, table))


def _days():
    return pandas().Series(pandas().date_range("2024-01-01", periods=N, freq="31h"))


def _far_days() -> np.ndarray:
    days = np.array([datetime.date(2000, 1, 1 + k) for k in range(N)], dtype=object)
    days[0], days[1] = datetime.date(1, 1, 1), datetime.date(9999, 12, 31)
    return days


def _words() -> list[str]:
    return ["u", "v", "w", "v"] * 6


def _unseen(value: Any):
    return frame(t=[value, *_words()[1:]])


def _free_text() -> None:
    rows = [[f"a story of its own, number {i}"] for i in range(210)]
    model(max_context=24).fit(rows, np.arange(210) % 2)


# --- labels -----------------------------------------------------------------------------------------------------------

LABELS = "Labels"
case(LABELS, "no labels", ValueError, "requires y to be passed")(lambda: fit(y=None))
case(LABELS, "fewer labels than rows", ValueError, "inconsistent numbers of samples")(lambda: fit(y=Y[:-1]))
case(LABELS, "a missing label among numbers", ValueError, "Input y contains NaN")(
    lambda: fit(y=np.where(np.arange(N) == 3, np.nan, Y))
)
case(LABELS, "a missing label among text", ValueError, "1 of 24 labels are missing (first in row 3)")(
    lambda: fit(y=np.array(["u", "v", "u", None] + ["v"] * 20, dtype=object))
)
case(LABELS, "an infinite label", ValueError, "Input y contains infinity")(
    lambda: fit(y=np.where(np.arange(N) == 3, np.inf, Y))
)
case(LABELS, "text and numbers", TypeError, "y mixes numbers and text")(
    lambda: fit(y=np.array(["u", 1] * 12, dtype=object))
)
case(LABELS, "continuous values", ValueError, "Unknown label type: continuous")(lambda: fit(y=X[:, 0]))
case(LABELS, "several labels per row", ValueError, "y should be a 1d array")(lambda: fit(y=np.c_[Y, Y]))
case(LABELS, "one column of a matrix", DataConversionWarning, "column-vector y was passed")(lambda: fit(y=Y[:, None]))
case(LABELS, "one class only", None, "that class, with probability 1")(
    lambda: fit(y=["only"] * N).predict(Q).tolist() == ["only"] * 4
)
case(LABELS, "one training row", None, "its class")(lambda: fit(X[:1], ["u"]).predict(Q[:1]).tolist() == ["u"])
case(LABELS, "a class with a single row", None, "kept")(
    lambda: proba(X, Q, y=np.r_[2, Y[1:]]).shape == (4, 3)
)
case(LABELS, "nullable truth values and whole numbers beyond 2^53", None, "kept as they are")(
    lambda: [fit(y=pandas().Series(y).convert_dtypes()).classes_.tolist() for y in (Y > 0, Y + 2**53)]
    == [[False, True], [2**53, 2**53 + 1]]
)
case(LABELS, "truth values, categories, negative numbers", None, "kept as they are")(
    lambda: (
        fit(y=Y > 0).classes_.tolist() == [False, True]
        and fit(y=pandas().Series(["u", "v"] * 12, dtype="category")).classes_.tolist() == ["u", "v"]
        and fit(y=Y - 5).classes_.tolist() == [-5, -4]
    )
)


# --- sizes ------------------------------------------------------------------------------------------------------------

SIZES = "Beyond the limits of the weights"
case(SIZES, "more classes than outputs", LimitWarning, "12 classes, these weights handle 10 at a time")(
    lambda: fit(y=np.arange(N) % 12)
)
case(SIZES, "more columns than max_columns", LimitWarning, "3 columns, these weights handle 2 at a time")(
    lambda: fit(max_columns=2)
)
case(SIZES, "more rows than max_context", LimitWarning, "24 training rows, these weights take 10 as context")(
    lambda: fit(max_context=10)
)
case(SIZES, "fewer context rows than classes", ValueError, "max_context is 2, fewer rows than the 3 classes")(
    lambda: fit(y=np.arange(N) % 3, max_context=2)
)
case(SIZES, "a context that cannot fit into memory", MemoryLimitError, "Cause: 24 context rows")(
    lambda: _in_little_memory(total=10_000)
)
case(SIZES, "a context that may not fit into free memory", LimitWarning, "Lower max_context if this fails")(
    lambda: _in_little_memory(free=10_000)
)


def _in_little_memory(total: int | None = None, free: int | None = None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if total is not None:
            patch.setattr(inference, "total_memory", lambda: total)
        if free is not None:
            patch.setattr(inference, "free_memory", lambda: free)
        fit()


# --- parameters -------------------------------------------------------------------------------------------------------

PARAMETERS = "Parameters"
for _options, _words_of_error in (
    ({"n_estimators": 0}, "n_estimators is 0"),
    ({"n_estimators": 1.5}, "n_estimators is 1.5"),
    ({"n_estimators": True}, "n_estimators is True"),
    ({"max_context": 1}, "max_context is 1"),
    ({"max_columns": "all"}, "max_columns is 'all'"),
    ({"softmax_temperature": 0}, "softmax_temperature is 0"),
    ({"softmax_temperature": float("nan")}, "softmax_temperature is nan"),
    ({"softmax_temperature": "hot"}, "softmax_temperature is 'hot'"),
    ({"numeric_transforms": ("log",)}, "choose from none, quantile, power"),
    ({"numeric_transforms": "none"}, "choose from none, quantile, power"),
    ({"numeric_transforms": None}, "choose from none, quantile, power"),
    ({"category_encodings": ("onehot",)}, "choose from codes, target"),
    ({"category_encodings": "target"}, "choose from codes, target"),
    ({"ridge_scores": ("forest",)}, "choose from linear, kernel, pairs, blocks, or () for none"),
    ({"ridge_scores": "linear"}, "choose from linear, kernel, pairs, blocks, or () for none"),
    ({"ridge_scores": None}, "choose from linear, kernel, pairs, blocks, or () for none"),
    ({"stack_weight": 1.2}, "it must be a number from 0 to 1"),
    ({"stack_weight": float("nan")}, "it must be a number from 0 to 1"),
    ({"stack_weight": "all"}, "it must be a number from 0 to 1"),
    ({"cache_context": "yes"}, "cache_context is 'yes'"),
    ({"random_state": "seed"}, "cannot be used to seed"),
    ({"categorical_features": "auto"}, "categorical_features is 'auto'"),
    ({"categorical_features": ["colour"]}, "names 'colour'"),
    ({"categorical_features": [7]}, "position 7"),
    ({"categorical_features": [True]}, "mask of length 1"),
    ({"categorical_features": [0.5]}, "must hold truth values, positions or names"),
):
    _name, _value = next(iter(_options.items()))
    case(PARAMETERS, f"`{_name}={_value!r}`", ValueError, _words_of_error)(lambda options=_options: fit(**options))


# --- weights ----------------------------------------------------------------------------------------------------------

WEIGHTS = "Weights"


def _weights(change: Callable[[bytes], bytes], name: str = "w.safetensors") -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(change(Path(TINY).read_bytes()))
        fit(weights=path)


def _foreign(data: bytes) -> bytes:
    import safetensors.numpy

    return safetensors.numpy.save({"a": np.zeros(3, np.float32)})


case(WEIGHTS, "a file that is not there", MissingError, "cannot read weights nowhere.safetensors")(
    lambda: fit(weights="nowhere.safetensors")
)
case(WEIGHTS, "a folder", MissingError, "cannot read weights")(lambda: fit(weights=str(Path(__file__).parent)))
case(WEIGHTS, "a pickle", DataError, "weights are never unpickled")(
    lambda: _weights(lambda data: pickle.dumps({"w": 1}), "w.pkl")
)
case(WEIGHTS, "a zip of pickles, as torch saves", DataError, "weights are never unpickled")(
    lambda: _weights(lambda data: b"PK\x03\x04" + data, "w.pt")
)
case(WEIGHTS, "a file cut short", DataError, "not an intact safetensors file")(lambda: _weights(lambda data: data[:-9]))
case(WEIGHTS, "a flipped bit", DataError, "do not match its checksum")(
    lambda: _weights(lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
)
case(WEIGHTS, "safetensors of another program", DataError, "not weights of this package")(lambda: _weights(_foreign))
case(WEIGHTS, "a newer format", DataError, "upgrade priorax")(
    lambda: _weights(lambda data: data.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
)
case(WEIGHTS, "other weights under the same path when a pickled estimator predicts", DataError, "was fitted with weights")(
    lambda: _other_weights()
)
case(WEIGHTS, "a network that answers NaN", NumericalError, "NaN or infinite")(lambda: _nan_network())


def _other_weights() -> None:
    fitted = fit()
    fitted.weights_hash_ = "0" * 64
    pickle.loads(pickle.dumps(fitted)).predict(Q)


def _nan_network() -> None:
    import jax
    from priorax.models import load_weights

    loaded = load_weights(TINY)
    broken = dataclasses.replace(loaded, params=jax.tree.map(lambda a: a * np.nan, loaded.params))
    fitted = fit()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("priorax.models.estimator.get_engine", lambda weights: _engine(broken))
        fitted.predict(Q)


def _engine(weights: Any) -> inference.Engine:
    return inference.Engine(weights)
