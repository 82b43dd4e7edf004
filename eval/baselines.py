"""Other learners with their default settings, on raw tables: classical ones, and pretrained ones the user has.

Every one gets the same `TableEncoder` output as the network (fitted on training rows only), then what it needs:
linear models and neighbours get medians with missing indicators, one-hot categories and unit scales; trees and boosters
get codes with missing values left in, told which columns are categories where they can use it.
"""

from __future__ import annotations

import importlib
import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from ..configs.errors import ConfigError, MissingError, require
from ..configs.load import nearest
from ..models.preprocess import TableEncoder


class Baseline:
    """A named learner with ``fit`` and ``predict_proba`` on raw tables.

    Args:
      name: one of `BASELINES`.
      categorical: bool[d], numeric columns that hold categories; or None.
      seed: fixes everything random.
      threads: threads it may use.
      params: settings other than the defaults, by the learner's own names.

    Attributes:
      classes_: class codes of the training rows, after `fit`.
    """

    def __init__(
        self,
        name: str,
        categorical: Any = None,
        seed: int = 0,
        threads: int = 1,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        if name not in BASELINES:
            raise ConfigError(f'unknown method "{name}"; baselines: {", ".join(BASELINES)}')
        self.name, self.categorical, self.seed, self.threads = name, categorical, seed, threads
        self.params = dict(params or {})

    def fit(self, X: Any, y: np.ndarray) -> Baseline:
        """X: table of n rows; y: i64[n]."""
        self._encoder = TableEncoder(self.categorical)
        z = self._encoder.fit_transform(X)
        self.classes_, codes = np.unique(y, return_inverse=True)
        model, prepare, options = BASELINES[self.name](self._encoder, self.seed, self.threads)
        _learner(model).set_params(**self.params)
        varies = len(self._encoder.dropped_) < self._encoder.n_features_in_
        # Boosters refuse a single class, and CatBoost a table in which no column varies.
        if len(self.classes_) < 2 or (self.name == "catboost" and not varies):
            model, prepare, options = DummyClassifier(strategy="prior"), _keep, {}
        self._model, self._prepare = model, prepare
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model.fit(prepare(z), codes, **options)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """f64[q, len(classes_)]."""
        with warnings.catch_warnings():
            # Sent by scikit-learn for LightGBM, which names columns when it is given arrays.
            warnings.filterwarnings("ignore", "X does not have valid feature names")
            return np.asarray(self._model.predict_proba(self._prepare(self._encoder.transform(X))), dtype=np.float64)


def check_params(name: str, params: Mapping[str, Any]) -> None:
    """Raises ConfigError if a baseline has no such settings (and MissingError if its package is not installed)."""
    encoder = TableEncoder().fit(np.eye(2))
    learner = _learner(BASELINES[name](encoder, 0, 1)[0])
    # CatBoost's get_params tells only what was set; its constructor names the rest.
    named = [p.name for p in inspect.signature(type(learner)).parameters.values() if p.kind is not p.VAR_KEYWORD]
    known = list(dict.fromkeys([*learner.get_params(deep=False), *named]))
    for key in params:
        if key not in known:
            near = nearest(key, known)
            raise ConfigError(f'{name} has no setting "{key}".' + (f' Did you mean "{near}"?' if near else ""))


def _learner(model: Any) -> Any:
    return model[-1] if isinstance(model, Pipeline) else model


Recipe = tuple[Any, Callable[[np.ndarray], Any], dict[str, Any]]
"""A model, what turns encoded rows into its input, and extra arguments of its fit."""


def _keep(z: np.ndarray) -> np.ndarray:
    return z


def _dense(encoder: TableEncoder) -> ColumnTransformer:
    categories = encoder.categorical_
    one_hot = make_pipeline(
        SimpleImputer(strategy="constant", fill_value=-1, keep_empty_features=True),
        OneHotEncoder(handle_unknown="ignore", min_frequency=2, sparse_output=False),
    )
    numbers = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()
    )
    return ColumnTransformer([("numbers", numbers, ~categories), ("categories", one_hot, categories)])


def _logistic_regression(encoder: TableEncoder, seed: int, threads: int) -> Recipe:
    return make_pipeline(_dense(encoder), LogisticRegression(max_iter=1000)), _keep, {}


def _knn(encoder: TableEncoder, seed: int, threads: int) -> Recipe:
    return make_pipeline(_dense(encoder), KNeighborsClassifier()), _keep, {}


def _random_forest(encoder: TableEncoder, seed: int, threads: int) -> Recipe:
    return RandomForestClassifier(random_state=seed, n_jobs=threads), _keep, {}


def _extra_trees(encoder: TableEncoder, seed: int, threads: int) -> Recipe:
    return ExtraTreesClassifier(random_state=seed, n_jobs=threads), _keep, {}


def _hist_gradient_boosting(encoder: TableEncoder, seed: int, threads: int) -> Recipe:
    categories = encoder.categorical_ & (encoder.cardinality_ <= 255)  # its own limit
    return HistGradientBoostingClassifier(categorical_features=categories, random_state=seed), _keep, {}


def _xgboost(encoder: TableEncoder, seed: int, threads: int) -> Recipe:
    xgboost = require("xgboost", "eval", "the baseline xgboost")
    kinds = ["c" if c else "q" for c in encoder.categorical_]
    model = xgboost.XGBClassifier(
        enable_categorical=True, feature_types=kinds, random_state=seed, n_jobs=threads, verbosity=0
    )
    return model, _keep, {}


def _lightgbm(encoder: TableEncoder, seed: int, threads: int) -> Recipe:
    lightgbm = require("lightgbm", "eval", "the baseline lightgbm")
    model = lightgbm.LGBMClassifier(random_state=seed, n_jobs=threads, verbose=-1)
    columns = [int(j) for j in np.flatnonzero(encoder.categorical_)]
    return model, _keep, {"categorical_feature": columns} if columns else {}


def _catboost(encoder: TableEncoder, seed: int, threads: int) -> Recipe:
    catboost = require("catboost", "eval", "the baseline catboost")
    columns = [int(j) for j in np.flatnonzero(encoder.categorical_)]
    model = catboost.CatBoostClassifier(
        random_seed=seed, thread_count=threads, verbose=False, allow_writing_files=False, cat_features=columns or None
    )
    return model, _Texts(columns), {}


class _Texts:
    """Category codes as text, which is what CatBoost asks for; missing is a category of its own."""

    def __init__(self, columns: list[int]) -> None:
        self.columns = columns

    def __call__(self, z: np.ndarray) -> np.ndarray:
        if not self.columns:
            return z
        out = z.astype(object)
        for j in self.columns:
            out[:, j] = ["missing" if v != v else str(int(v)) for v in z[:, j]]
        return out


def _tabicl(encoder: TableEncoder, seed: int, threads: int) -> Recipe:
    tabicl = _pretrained("tabicl")
    return tabicl.TabICLClassifier(random_state=seed, n_jobs=threads), _keep, {}


def _tabpfn(encoder: TableEncoder, seed: int, threads: int) -> Recipe:
    tabpfn = _pretrained("tabpfn")
    columns = [int(j) for j in np.flatnonzero(encoder.categorical_)]
    # The protocol decides about sizes, so that all methods see the same rows.
    model = tabpfn.TabPFNClassifier(
        categorical_features_indices=columns or None, ignore_pretraining_limits=True, random_state=seed
    )
    return model, _keep, {}


def _pretrained(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingError(
            f"the baseline {package} needs the package {package!r}, which brings its own weights and licence and is in "
            f"none of our extras; install it with: pip install {package}"
        ) from None


def _majority(encoder: TableEncoder, seed: int, threads: int) -> Recipe:
    return DummyClassifier(strategy="prior"), _keep, {}


BASELINES: dict[str, Callable[[TableEncoder, int, int], Recipe]] = {
    "majority": _majority,
    "logistic_regression": _logistic_regression,
    "knn": _knn,
    "random_forest": _random_forest,
    "extra_trees": _extra_trees,
    "hist_gradient_boosting": _hist_gradient_boosting,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "catboost": _catboost,
    "tabicl": _tabicl,
    "tabpfn": _tabpfn,
}
"""Baselines by name. The boosters need the ``eval`` extra; TabICL and TabPFN need their own packages, which fetch their
weights from the network when first used."""


def default_threads(jobs: int = 1) -> int:
    """Threads per learner when ``jobs`` run at once."""
    return max(1, (os.cpu_count() or 1) // max(1, jobs))
