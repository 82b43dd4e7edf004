"""The pretraining race: how little training it takes to reach a random forest on real tables.

Protocol of the nanoTabPFN speedrun (arXiv 2606.03681): every data set is cut to at most 1,000 rows (stratified) and 100
columns (random), five stratified shuffled folds, all with seed 11. In every fold, fitted on its training rows alone:
constant columns are dropped, numbers get the mean where missing, categories are coded and get the most frequent code
where missing or unknown (`eval.prepare`). Test predictions of the five folds are put together and scored once, ROC AUC
of two classes or the mean of one class versus the rest; the result is the mean over data sets. The bar is the random
forest of scikit-learn at its defaults on the same folds.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import queue
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from sklearn.ensemble import RandomForestClassifier

from ..configs.errors import DataError, PrioraxError
from ..configs.eval import PROTOCOLS
from ..configs.model import ModelConfig
from ..models.inference import Contexts, Engine, Session
from ..models.weights import LoadedWeights
from .metrics import score
from .prepare import prepare_speedrun
from .splits import apply_protocol
from .suites import DataSet, Suite, pick_tasks, rows_of

PUBLISHED_BAR = 0.8068462330697953
"""What the authors of the race measured for the random forest on the 38 tasks of TabArena."""


@dataclasses.dataclass(frozen=True)
class Fold:
    """One fold after preprocessing. n training rows, q test rows, d columns that vary.

    Attributes:
      x, y: f64[n, d], i64[n]; class codes of the data set.
      x_test: f64[q, d].
      test: i64[q], the rows of the data set that are predicted.
    """

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(frozen=True)
class Course:
    """One data set of the race: its classes, its folds and the classes of all rows."""

    id: str
    name: str
    y: np.ndarray
    n_classes: int
    folds: tuple[Fold, ...]


def prepare(
    suite: Suite, tasks: Sequence[str] | None = None, max_classes: int = 10
) -> tuple[list[Course], list[dict[str, str]]]:
    """Loads, cuts, splits and preprocesses the data sets of a suite.

    Args:
      suite: from `load_suite`.
      tasks: only these ids; all when None.
      max_classes: what the network takes; data sets with more classes are left out.

    Returns:
      The data sets, and one record ``{"task", "reason"}`` for each that was left out.

    Raises:
      ConfigError: the suite has no such task.
      DataError: no data set is left.
    """
    protocol = dataclasses.replace(PROTOCOLS["speedrun"], max_classes=max_classes)
    courses, left_out = [], []
    for task in pick_tasks(suite, tasks):
        try:
            data, splits, _ = apply_protocol(suite.load(task), protocol)
            folds = tuple(_fold(data, split.train, split.test) for split in splits)
        except PrioraxError as error:
            left_out.append({"task": task, "reason": str(error)})
            continue
        courses.append(Course(task, data.name, data.y, len(data.classes), folds))
    if not courses:
        raise DataError(f"no data set of the suite {suite.name} can be used: {left_out[0]['reason']}")
    return courses, left_out


def _fold(data: DataSet, train: np.ndarray, test: np.ndarray) -> Fold:
    x, x_test = prepare_speedrun(rows_of(data.X, train), rows_of(data.X, test))
    return Fold(x, data.y[train], x_test, test)


Predictor = Callable[[Course, Fold], np.ndarray]
"""Class probabilities f64[q, K] of the test rows of a fold."""


def race_score(courses: Sequence[Course], predictors: Sequence[Predictor]) -> tuple[float, dict[str, float]]:
    """The mean ROC AUC over data sets, and that of each, by id.

    Args:
      predictors: one or several that answer alike; folds are shared out among them, each in a thread of its own.
    """
    answers = {course.id: np.zeros((len(course.y), course.n_classes)) for course in courses}
    # The largest first, so that no thread is left with one at the end.
    work = sorted(((c, fold) for c in courses for fold in c.folds), key=lambda job: -job[1].x.size)
    free: queue.SimpleQueue[Predictor] = queue.SimpleQueue()
    for predictor in predictors:
        free.put(predictor)

    def answer(job: tuple[Course, Fold]) -> None:
        course, fold = job
        predict = free.get()
        try:
            answers[course.id][fold.test] = predict(course, fold)
        finally:
            free.put(predict)

    with concurrent.futures.ThreadPoolExecutor(len(predictors)) as pool:
        list(pool.map(answer, work))
    found = {course.id: score(course.y, answers[course.id])[0]["roc_auc"] for course in courses}
    return float(np.mean(list(found.values()))), found


def forests(seed: int = 0, jobs: int = 1) -> list[Predictor]:
    """scikit-learn's random forest at its defaults, ``jobs`` at a time."""

    def predict(course: Course, fold: Fold) -> np.ndarray:
        model = RandomForestClassifier(random_state=seed).fit(fold.x, fold.y)
        p = np.zeros((len(fold.x_test), course.n_classes))
        p[:, model.classes_] = model.predict_proba(fold.x_test)
        return p

    return [predict] * jobs


def networks(cfg: ModelConfig, params: Any) -> list[Predictor]:
    """A network, one pass, no ensemble: on every device of this process. Weights of one shape share their programs."""
    return [_network(cfg, params, device) for device in jax.local_devices()]


def _network(cfg: ModelConfig, params: Any, device: jax.Device) -> Predictor:
    with jax.default_device(device):
        engine = Engine(LoadedWeights(cfg, params, {}, ""))

    def predict(course: Course, fold: Fold) -> np.ndarray:
        classes, y = np.unique(fold.y, return_inverse=True)
        columns = fold.x.shape[1]
        contexts = Contexts(
            x=fold.x[None].astype(np.float32),
            y=y[None].astype(np.int32),
            n_features=np.array([columns], np.int32),
            n_classes=np.array([max(2, len(classes))], np.int32),
            categorical=np.zeros((1, columns), bool),
        )
        x = fold.x_test.astype(np.float32)
        with jax.default_device(device):
            logits = Session(engine, contexts, keep=False).logits(lambda _, rows: x[rows], len(x))[0]
        z = logits[:, : len(classes)].astype(np.float64)
        e = np.exp(z - z.max(1, keepdims=True))
        p = np.zeros((len(x), course.n_classes))
        p[:, classes] = e / e.sum(1, keepdims=True)
        return p

    return predict
