"""Baselines tuned by random search inside the training rows, within a budget of time or of trials."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from ..configs.errors import ConfigError
from .baselines import Baseline
from .suites import rows_of

Rng = np.random.Generator
FOLDS = 5


class RandomSearch:
    """A baseline whose settings are chosen by cross-validated log loss on the training rows.

    The default settings are the first trial, so that the search can only lose by chance of the validation. Encoding and
    imputation are part of what is cross-validated: nothing of a validation row is learned from. The settings found are
    refitted on all training rows.

    Args:
      name: a baseline with an entry in `SPACES`.
      categorical, seed, threads: see `Baseline`.
      seconds: no trial is begun after so many seconds, and one that is running is dropped at the next fold (the first
        is always finished). What is found then depends on the machine.
      trials: most trials; with this alone the result depends on the arguments only.

    Attributes (after `fit`):
      classes_: see `Baseline`.
      params_: the settings chosen; {} are the defaults.
      history_: (settings, mean log loss) of every finished trial.
      note_: a line for the results.
    """

    def __init__(
        self,
        name: str,
        categorical: Any = None,
        seed: int = 0,
        threads: int = 1,
        seconds: float | None = None,
        trials: int | None = None,
    ) -> None:
        if name not in SPACES:
            raise ConfigError(f'no search space for "{name}"; there are some for: {", ".join(SPACES)}')
        if seconds is None and trials is None:
            raise ConfigError("a search needs a budget: seconds, trials, or both")
        for what, value, low in (("seconds", seconds, 0.0), ("trials", trials, 1)):
            if value is not None and not low <= value < math.inf:
                raise ConfigError(f"{what} is {value}; a search needs at least {low:g}")
        self.name, self.categorical, self.seed, self.threads = name, categorical, seed, threads
        self.seconds, self.trials = seconds, trials

    def fit(self, X: Any, y: np.ndarray) -> RandomSearch:
        """X: table of n rows; y: i64[n]."""
        start = time.monotonic()
        rng = np.random.default_rng(self.seed)
        folds = self._folds(y)
        self.history_: list[tuple[dict[str, Any], float]] = []
        failed = 0
        begun = 0
        while folds and begun < (math.inf if self.trials is None else self.trials):
            spent = time.monotonic() - start
            if begun and self.seconds is not None and spent >= self.seconds:
                break
            params = SPACES[self.name](rng) if begun else {}
            begun += 1
            deadline = None if self.seconds is None or begun == 1 else start + self.seconds
            try:
                loss = self._validate(X, y, folds, params, deadline)
            except Exception:  # settings a learner refuses; the defaults must work
                if begun == 1:
                    raise
                failed += 1
                continue
            if loss is not None:
                self.history_.append((params, loss))
        self.params_ = min(self.history_, key=lambda held: held[1])[0] if self.history_ else {}
        self._model = self._baseline(self.params_).fit(X, y)
        self.classes_ = self._model.classes_
        self.note_ = f"search: {len(self.history_)} trials" + (f", {failed} failed" if failed else "")
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """f64[q, len(classes_)]."""
        return self._model.predict_proba(X)

    def _baseline(self, params: dict[str, Any]) -> Baseline:
        return Baseline(self.name, self.categorical, self.seed, self.threads, params)

    def _folds(self, y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Up to five stratified folds; none where no class has two rows."""
        most = int(np.bincount(y).max())
        if most < 2 or len(np.unique(y)) < 2:
            return []
        splitter = StratifiedKFold(min(FOLDS, most), shuffle=True, random_state=self.seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class")
            return list(splitter.split(np.zeros(len(y)), y))

    def _validate(
        self, X: Any, y: np.ndarray, folds: list, params: dict[str, Any], deadline: float | None
    ) -> float | None:
        """Mean log loss over all training rows, each predicted by a model that did not see it; None: out of time."""
        total = 0.0
        for train, test in folds:
            if deadline is not None and time.monotonic() > deadline:
                return None
            model = self._baseline(params).fit(rows_of(X, train), y[train])
            p = np.zeros((len(test), int(y.max()) + 1))
            p[:, model.classes_] = model.predict_proba(rows_of(X, test))
            chosen = np.clip(p[np.arange(len(test)), y[test]], 1e-7, None)
            total -= float(np.log(chosen).sum())
        return total / len(y)


def _log(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _whole(rng: Rng, low: int, high: int) -> int:
    """Log-uniform whole number, both ends included."""
    return int(np.clip(np.floor(_log(rng, low, high + 1)), low, high))


def _logistic_regression(rng: Rng) -> dict[str, Any]:
    return {"C": _log(rng, 1e-3, 1e3), "fit_intercept": bool(rng.random() < 0.8)}


def _knn(rng: Rng) -> dict[str, Any]:
    return {
        "n_neighbors": _whole(rng, 1, 64),
        "weights": ("uniform", "distance")[rng.integers(2)],
        "p": (1, 2)[rng.integers(2)],
    }


def _forest(rng: Rng) -> dict[str, Any]:
    return {
        "n_estimators": _whole(rng, 50, 500),
        "max_features": ("sqrt", 0.25, 0.5, 0.75, 1.0)[rng.integers(5)],
        "max_depth": (None, _whole(rng, 2, 32))[rng.integers(2)],
        "min_samples_leaf": _whole(rng, 1, 16),
    }


def _hist_gradient_boosting(rng: Rng) -> dict[str, Any]:
    return {
        "learning_rate": _log(rng, 0.01, 0.5),
        "max_iter": _whole(rng, 25, 400),
        "max_leaf_nodes": _whole(rng, 4, 64),
        "min_samples_leaf": _whole(rng, 2, 64),
        "l2_regularization": _log(rng, 1e-6, 10),
    }


def _xgboost(rng: Rng) -> dict[str, Any]:
    return {
        "learning_rate": _log(rng, 0.005, 0.5),
        "n_estimators": _whole(rng, 50, 1000),
        "max_depth": _whole(rng, 1, 10),
        "min_child_weight": _log(rng, 1e-3, 32),
        "subsample": rng.uniform(0.4, 1.0),
        "colsample_bytree": rng.uniform(0.4, 1.0),
        "reg_alpha": _log(rng, 1e-6, 10),
        "reg_lambda": _log(rng, 1e-3, 10),
    }


def _lightgbm(rng: Rng) -> dict[str, Any]:
    return {
        "learning_rate": _log(rng, 0.005, 0.5),
        "n_estimators": _whole(rng, 50, 1000),
        "num_leaves": _whole(rng, 4, 64),
        "min_child_samples": _whole(rng, 2, 64),
        "subsample": rng.uniform(0.4, 1.0),
        "subsample_freq": 1,
        "colsample_bytree": rng.uniform(0.4, 1.0),
        "reg_alpha": _log(rng, 1e-6, 10),
        "reg_lambda": _log(rng, 1e-6, 10),
    }


def _catboost(rng: Rng) -> dict[str, Any]:
    return {
        "learning_rate": _log(rng, 0.005, 0.3),
        "iterations": _whole(rng, 50, 1000),
        "depth": int(rng.integers(2, 9)),
        "l2_leaf_reg": _log(rng, 1, 30),
        "random_strength": _log(rng, 0.1, 20),
        "bagging_temperature": rng.uniform(0.0, 1.0),
    }


SPACES: dict[str, Callable[[Rng], dict[str, Any]]] = {
    "logistic_regression": _logistic_regression,
    "knn": _knn,
    "random_forest": _forest,
    "extra_trees": _forest,
    "hist_gradient_boosting": _hist_gradient_boosting,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "catboost": _catboost,
}
"""One draw of settings for every baseline that can be tuned. The ranges are ours, in the order of those that the TabPFN
paper (arXiv 2207.01848, appendix on baselines) and TabArena search; learners are scored on one log loss for all."""
