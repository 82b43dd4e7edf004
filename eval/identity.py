"""What stored results depend on, as digests: the rows and splits of a data set, an estimator's settings, versions.

A stored cell is taken up again only where all of them are what they were, so each digest leans to the safe side: what
cannot be told for certain counts as changed and is computed again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import secrets
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from .suites import DataSet, Split

LIBRARIES = {"xgboost": "xgboost", "lightgbm": "lightgbm", "catboost": "catboost", "tabicl": "tabicl", "tabpfn": "tabpfn"}
"""Baselines whose learner is not scikit-learn's, and the distribution it comes from."""


def digest_of(told: Any) -> str:
    """16 hexadecimal digits for a value that JSON can hold (other objects by their text)."""
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


def versions(kind: str, learner: str = "") -> dict[str, str]:
    """Versions of what computes a method's results: this package, and a baseline's library, or a network's JAX and what its ridge
    scores and their regression are computed with."""
    libraries = {
        "network": ["jax", "numpy", "scipy", "scikit-learn"],
        "baseline": ["scikit-learn", LIBRARIES.get(learner, "scikit-learn")],
    }.get(kind, [])
    return {name: _version(name) for name in ("priorax", *libraries)}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def data_digest(data: DataSet) -> str:
    """Changes with anything a method is shown or scored by: cells, column names and dtypes, classes, categories."""
    held = hashlib.sha256()
    y = np.ascontiguousarray(data.y, dtype=np.int64)
    mask = np.asarray(data.categorical, dtype=bool)
    for part in (repr(tuple(data.classes)).encode(), y.tobytes(), mask.tobytes()):
        held.update(hashlib.sha256(part).digest())
    if hasattr(data.X, "iloc"):
        for j, name in enumerate(data.X.columns):
            held.update(hashlib.sha256(f"{name!r}".encode()).digest() + _column_digest(data.X.iloc[:, j]))
    else:
        held.update(_array_digest(np.asarray(data.X)))
    return held.hexdigest()[:16]


def split_digest(data: str, split: Split) -> str:
    """The digest of a data set together with the rows of one split."""
    rows = [np.ascontiguousarray(part, dtype=np.int64).tobytes() for part in (split.train, split.test)]
    return hashlib.sha256(data.encode() + b"".join(hashlib.sha256(part).digest() for part in rows)).hexdigest()[:16]


def _column_digest(column: Any) -> bytes:
    """Of a pandas Series. Text counts alike in every dtype that holds it, since versions of pandas differ there."""
    import pandas

    dtype = column.dtype
    text = pandas.api.types.is_string_dtype(dtype)  # object dtypes too
    kind = "text" if text else str(dtype)
    if isinstance(dtype, pandas.CategoricalDtype):  # codes follow the declared order, and tell the levels 1 and "1" apart
        kind = f"category {dtype.ordered} {list(dtype.categories)!r}"
        values = column.cat.codes.to_numpy().tobytes()
    elif text and pandas.api.types.infer_dtype(column, skipna=True) not in ("string", "empty"):
        # Cells of several kinds: pandas would hash their text and so mistake 1 for "1".
        values = _texts(column)
    else:
        try:
            values = pandas.util.hash_pandas_object(column, index=False).to_numpy().tobytes()
        except (TypeError, ValueError):  # pandas has no hash for nested pyarrow columns; nor for long doubles and lone surrogates
            values = _texts(column)
    return hashlib.sha256(f"{kind} {len(column)} ".encode() + values).digest()


def _texts(cells: Any) -> bytes:
    return "\x1f".join(map(repr, cells.tolist())).encode("utf-8", "surrogatepass")


def _array_digest(array: np.ndarray) -> bytes:
    values = _texts(array) if array.dtype.kind == "O" else np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode() + values).digest()


def estimator_digest(factory: Any) -> str:
    """Of what a factory makes: its class, the class's code, and its settings, those of estimators inside it too.

    Where that does not tell (no ``get_params``, settings such as functions or generators) every call gives another
    digest, so that nothing stored is taken for this estimator's.
    """
    try:
        return digest_of(_told(factory()))
    except Exception:  # whatever a stranger's class does; a factory that fails is reported when it is run
        return secrets.token_hex(8)


def _told(value: Any) -> Any:
    """A setting as something JSON can hold; raises TypeError for one that cannot be told apart by its content."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
        return [type(value).__name__, repr(value)]
    if isinstance(value, np.ndarray):
        return ["array", _array_digest(value).hex()]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(_told, value)]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted(repr(_told(item)) for item in value)]
    if isinstance(value, Mapping):
        return ["mapping", *([_told(key), _told(item)] for key, item in value.items())]
    if isinstance(value, type):
        return ["class", _class_told(value)]
    if not hasattr(value, "get_params"):
        raise TypeError(f"{type(value).__name__} has no settings to tell")
    told = ["estimator", _class_told(type(value)), _told(value.get_params(deep=False))]
    from ..models.estimator import PFNClassifier

    if isinstance(value, PFNClassifier):  # its settings name a file, or none for the weights that ship
        from ..models.inference import get_engine

        told.append(get_engine(value.weights).sha256)
    return told


def _class_told(kind: type) -> list[Any]:
    package = kind.__module__.partition(".")[0]
    version = getattr(sys.modules.get(package), "__version__", None)
    sources = [_source(base) for base in kind.__mro__ if base.__module__ != "builtins"]
    if version is None and sources[0] is None:
        raise TypeError(f"the code of {kind.__qualname__} cannot be read")
    return [kind.__module__, kind.__qualname__, str(version), digest_of(sources)]


def _source(kind: type) -> str | None:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return None
