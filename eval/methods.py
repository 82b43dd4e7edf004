"""Which classifier a method's name stands for, and how it is run on one split."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..configs.errors import ConfigError
from ..configs.load import nearest
from .baselines import BASELINES, Baseline, check_params
from .identity import digest_of, estimator_digest, versions
from .memory import PeakMemory
from .prepare import prepare_speedrun
from .search import SPACES, RandomSearch
from .suites import DataSet, Split, rows_of

BUDGET = {"seconds", "trials"}
"""Options of a baseline that ask for a random search."""
_SET_BY_BUILD = {"weights", "categorical_features", "random_state"}
DEFAULT_BASELINES = ("logistic_regression", "knn", "random_forest")


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of a leaderboard.

    Attributes:
      name: shown in results; unique in an evaluation.
      kind: ``baseline``, ``network``, or ``custom``.
      weights: weights file of a network, None for the ones that ship with the package.
      options: arguments of `PFNClassifier` for a network; settings of the learner for a baseline, or the budget
        (``seconds``, ``trials``) of a random search over them.
      learner: the baseline behind a name of another kind; empty: the name.
      factory: ``() -> estimator`` with fit and predict_proba on raw tables, for ``custom``.
    """

    name: str
    kind: str
    weights: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    factory: Callable[[], Any] | None = None
    learner: str = ""

    def digest(self) -> str:
        """Changes when results of this method may change: its options, the bytes of its weights, the class and the settings
        of an estimator of the user's, or the version of what computes it."""
        learner = self.learner or self.name
        told = {"kind": self.kind, "name": self.name, "options": dict(self.options)}
        told["versions"] = versions(self.kind, learner)
        if self.kind == "network":
            from ..models.estimator import PFNClassifier
            from ..models.inference import get_engine

            # All settings, not those given: another default is another method.
            options = {k: v for k, v in PFNClassifier(**self.options).get_params().items() if k not in _SET_BY_BUILD}
            told = told | {"name": "", "weights": get_engine(self.weights).sha256, "options": options | dict(self.options)}
        if self.kind == "baseline":
            told = told | {"name": learner}
        if self.kind == "custom":
            told = told | {"estimator": estimator_digest(self.factory)}
        return digest_of(told)

    def build(self, categorical: np.ndarray, seed: int, threads: int) -> Any:
        """An unfitted estimator for a table with these categorical columns (bool[d])."""
        if self.kind == "baseline":
            learner = self.learner or self.name
            if self.options.keys() & BUDGET:
                return RandomSearch(learner, categorical, seed, threads, **self.options)
            return Baseline(learner, categorical, seed, threads, self.options)
        if self.kind == "custom":
            return self.factory()
        from ..models.estimator import PFNClassifier

        options = {"random_state": seed} | dict(self.options)
        return PFNClassifier(weights=self.weights, categorical_features=categorical, **options)


def parse_methods(specs: Sequence[Any] | Mapping[str, Any] | str, n_estimators: int | None = None) -> list[Method]:
    """Methods from their specifications.

    Args:
      specs: a list, or text with commas, of
        - the name of a baseline (see `BASELINES`), with ``?setting=value&...`` for settings of the learner, or with
          ``?seconds=60`` or ``?trials=20`` for a random search over them (see `search`),
        - ``priorax``, ``priorax:WEIGHTS``, each with ``?option=value&option=value`` for arguments of `PFNClassifier`,
        - ``LABEL=SPEC`` with any of these, to choose the name shown,
        - a `Method`;
        or a mapping of names to scikit-learn classifiers or functions that make one.
      n_estimators: for networks that do not say it themselves.

    Raises:
      ConfigError: unknown name or option, or the same name twice.
    """
    if isinstance(specs, Mapping):
        methods = [Method(name, "custom", factory=_factory(made)) for name, made in specs.items()]
    else:
        parts = [part for part in specs.split(",") if part.strip()] if isinstance(specs, str) else list(specs)
        methods = [part if isinstance(part, Method) else _parse(part.strip(), n_estimators) for part in parts]
    names = [method.name for method in methods]
    if not names:
        raise ConfigError("no methods given")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f'two methods are called "{repeated[0]}"; name them apart: "a=SPEC"')
    return methods


def _factory(made: Any) -> Callable[[], Any]:
    if hasattr(made, "fit") and not isinstance(made, type):
        from sklearn.base import clone

        return lambda: clone(made)
    return made


def _parse(spec: str, n_estimators: int | None) -> Method:
    label, _, rest = spec.partition("=")
    named = bool(rest) and re.fullmatch(r"[\w.+\- ]+", label) is not None
    body = rest if named else spec
    head, _, query = body.partition("?")
    if head in BASELINES:
        return _parse_baseline(spec, head, query, label if named else body)
    kind, _, weights = head.partition(":")
    if kind != "priorax":
        close = nearest(head, [*BASELINES, "priorax"])
        hint = f'Did you mean "{close}"? ' if close else ""
        raise ConfigError(
            f'unknown method "{head}". {hint}Baselines: {", ".join(BASELINES)}; networks: "priorax", "priorax:WEIGHTS"'
        )
    options = _options(spec, query)
    if n_estimators is not None:
        options = {"n_estimators": n_estimators} | options
    name = label if named else "priorax" if not weights else f"priorax:{_short(weights)}"
    if not named and query:
        name += f"?{query}"
    return Method(name, "network", str(Path(weights).expanduser()) if weights else None, options)


def _parse_baseline(spec: str, learner: str, query: str, name: str) -> Method:
    options = {key: _value(text) for key, text in _pairs(query)}
    if budget := options.keys() & BUDGET:
        if other := sorted(options.keys() - BUDGET):
            raise ConfigError(f'"{spec}": a search chooses the settings itself; leave out {other[0]}')
        if learner not in SPACES:
            raise ConfigError(f'"{spec}": {learner} cannot be tuned; these can: {", ".join(SPACES)}')
        for key in budget:
            if isinstance(options[key], bool) or not isinstance(options[key], (int, float)) or options[key] <= 0:
                raise ConfigError(f'"{spec}": {key} is {options[key]!r}; give a number above 0')
        if not isinstance(options.get("trials", 1), int):
            raise ConfigError(f'"{spec}": trials is {options["trials"]!r}; give a whole number')
    elif options:
        check_params(learner, options)
    return Method(name, "baseline", options=options, learner=learner)


def _pairs(query: str) -> list[tuple[str, str]]:
    return [(part.partition("=")[0], part.partition("=")[2]) for part in query.split("&") if part]


def _value(text: str) -> Any:
    """A number, truth value or null as JSON writes them (True, False and None too), else the text."""
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        return text


def _short(weights: str) -> str:
    """A readable name of a weights file: its stem, or its folder's name when the stem says nothing."""
    path = Path(weights)
    return path.parent.name if path.stem in ("model", "weights", "default") and path.parent.name else path.stem


def _options(spec: str, query: str) -> dict[str, Any]:
    from ..models.estimator import PFNClassifier

    known = [name for name in PFNClassifier().get_params() if name not in ("weights", "categorical_features")]
    options: dict[str, Any] = {}
    for key, text in _pairs(query):
        if key not in known:
            close = nearest(key, known)
            raise ConfigError(f'"{spec}": unknown option "{key}". ' + (f'Did you mean "{close}"?' if close else ""))
        several = key in ("numeric_transforms", "category_encodings", "ridge_scores")
        options[key] = () if (key, text) == ("ridge_scores", "none") else tuple(text.split("+")) if several else _value(text)
    return options


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a method did on one split: f64[q, K] probabilities, seconds, megabytes at the peak, and what it says
    itself."""

    probabilities: np.ndarray
    time_train_s: float
    time_warmup_s: float
    time_infer_s: float
    memory_mb: float = float("nan")
    note: str = ""


def run_method(
    method: Method, data: DataSet, split: Split, seed: int, threads: int, prepare: str = "none"
) -> Answer:
    """Fits on the training rows and predicts the test rows, timing both.

    Compiling a network for a new shape happens between the two and is timed apart, as benchmarks with a warm-up stage
    (TabArena) do. Classes absent from the training rows get probability 0. With ``prepare="speedrun"`` the method gets
    numbers instead of the raw table (`prepare.prepare_speedrun`).
    """
    X, y = rows_of(data.X, split.train), data.y[split.train]
    test, categorical = rows_of(data.X, split.test), data.categorical
    if prepare == "speedrun":
        X, test = prepare_speedrun(X, test)
        categorical = np.zeros(X.shape[1], dtype=bool)
    model = method.build(categorical, seed, threads)
    with PeakMemory() as memory:
        start = time.perf_counter()
        model.fit(X, y)
        fitted = time.perf_counter()
        if hasattr(model, "warmup"):
            model.warmup(len(split.test), compile_only=True)
        warm = time.perf_counter()
        p = np.asarray(model.predict_proba(test), dtype=np.float64)
        done = time.perf_counter()
    full = np.zeros((len(split.test), len(data.classes)))
    full[:, np.asarray(model.classes_).astype(int)] = p
    return Answer(full, fitted - start, warm - fitted, done - warm, memory.megabytes, getattr(model, "note_", ""))
