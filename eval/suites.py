"""Suites of real data sets, loaded one at a time through the clients that own them.

OpenML tasks go through the official ``openml`` client. With an offline cache, the files a task needs are first copied
to a temporary folder: the client writes into its cache folder, and deletes parts of it when a download fails.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..configs.errors import ConfigError, DataError, MissingError, require
from ..configs.eval import SuiteConfig
from ..configs.load import load_preset, preset_names


@dataclasses.dataclass(frozen=True)
class Split:
    """One division into training and test rows (sorted or official order, i64)."""

    repeat: int
    fold: int
    train: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A classification table. n rows, d columns, K classes.

    Attributes:
      id: unique in its suite, e.g. ``"11"`` (OpenML task), ``"iris"``, ``"data.csv"``.
      name: for people.
      X: [n, d], NumPy array or pandas.DataFrame.
      y: i64[n], class codes 0 .. K-1.
      classes: K labels as text.
      categorical: bool[d].
      splits: official splits, or None.
      source: where it came from.
    """

    id: str
    name: str
    X: Any
    y: np.ndarray
    classes: tuple[str, ...]
    categorical: np.ndarray
    splits: tuple[Split, ...] | None = None
    source: str = ""

    def take_rows(self, rows: np.ndarray) -> DataSet:
        """Only these rows, in this order; classes that vanish lose their code, official splits are dropped."""
        kept, y = np.unique(self.y[rows], return_inverse=True)
        return dataclasses.replace(
            self,
            X=rows_of(self.X, rows),
            y=y.astype(np.int64),
            classes=tuple(self.classes[k] for k in kept),
            splits=None,
        )

    def take_columns(self, columns: np.ndarray) -> DataSet:
        """Only these columns, in this order."""
        X = self.X.iloc[:, columns] if hasattr(self.X, "iloc") else self.X[:, columns]
        return dataclasses.replace(self, X=X, categorical=self.categorical[columns])


def rows_of(X: Any, rows: np.ndarray) -> Any:
    """Rows of an array or frame by position."""
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


class Suite:
    """Tasks that are loaded when asked for.

    Args:
      config: the tasks.
      openml_cache: folder in the openml client's layout to read from instead of the network; never written to.

    Attributes:
      name, ids: the suite's name and task ids, as text.
    """

    def __init__(self, config: SuiteConfig, openml_cache: str | os.PathLike | None = None) -> None:
        self.config, self.name = config, config.name
        self.ids = [str(task) for task in config.tasks]
        self._cache = None if openml_cache is None else Path(openml_cache)
        if self._cache is not None and not (self._cache / "org" / "openml" / "www").is_dir():
            raise MissingError(f"{self._cache} is no OpenML cache: it has no folder org/openml/www")

    def load(self, task: str) -> DataSet:
        """The data set of one task.

        Raises:
          MissingError: it is not in the offline cache, a file is not there, or an optional package is missing.
          DataError: it is not a classification table.
        """
        if self.config.source == "sklearn":
            return _load_sklearn(task)
        if self.config.source == "files":
            return dataclasses.replace(load_file(task), id=task)
        return _load_openml(int(task), self._cache)

    def __iter__(self) -> Iterator[DataSet]:
        return map(self.load, self.ids)

    def __len__(self) -> int:
        return len(self.ids)


def load_suite(spec: Any, openml_cache: str | os.PathLike | None = None) -> Suite:
    """A suite by name, by list, or from a file.

    Args:
      spec: the name of a preset (``bundled``, ``dev32``, ``cc18``, ...), a YAML file of `SuiteConfig`, OpenML task ids
        (a list, or text like ``"11,37"``), local data files (``"a.csv"``, ``"a.parquet::target"``, or a list), a folder
        made by `prefetch`, a `SuiteConfig`, or a `Suite`.
      openml_cache: see `Suite`.

    Raises:
      ConfigError: no such suite.
    """
    if isinstance(spec, Suite):
        return spec
    if isinstance(spec, SuiteConfig):
        return Suite(spec, openml_cache)
    if isinstance(spec, (str, os.PathLike)):
        text = os.fspath(spec)
        if (Path(text).expanduser() / "manifest.json").is_file():
            from .snapshot import SnapshotSuite

            return SnapshotSuite(Path(text).expanduser())
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if parts and all(part.isdigit() for part in parts):
            spec = [int(part) for part in parts]
        elif parts and all(_is_data_file(part) for part in parts):
            spec = parts
        elif text in preset_names("suites") or text.endswith((".yaml", ".yml")):
            return Suite(load_preset("suites", text, SuiteConfig), openml_cache)
        else:
            raise ConfigError(
                f'"{text}" is no suite. Suites: {", ".join(preset_names("suites"))}. Also possible: OpenML task ids '
                '("11,37"), data files ("a.csv::target"), a folder made by prefetch, or a YAML file.'
            )
    if isinstance(spec, Sequence) and spec:
        if all(isinstance(task, (int, np.integer)) for task in spec):
            return Suite(SuiteConfig("openml-tasks", "openml", tuple(int(t) for t in spec), "official"), openml_cache)
        if all(isinstance(task, (str, os.PathLike)) and _is_data_file(os.fspath(task)) for task in spec):
            return Suite(SuiteConfig("files", "files", tuple(os.fspath(task) for task in spec)), openml_cache)
    raise ConfigError(f"cannot read a suite from {spec!r}: give a name, OpenML task ids, or data files")


def load_file(spec: str) -> DataSet:
    """A CSV or Parquet file ``path`` or ``path::target``; without a target the last column is it."""
    path, _, target = spec.partition("::")
    file = Path(path).expanduser()
    if not file.is_file():
        raise MissingError(f"no data file {file}")
    pandas = require("pandas", "eval", f"reading {file.name}")
    try:
        if file.suffix.lower() in (".parquet", ".pq"):
            require("pyarrow", "eval", f"reading {file.name}")
            frame = pandas.read_parquet(file)
        else:
            frame = pandas.read_csv(file, sep="\t" if file.suffix.lower() == ".tsv" else ",")
    except (ValueError, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    target = target or str(frame.columns[-1])
    if target not in frame.columns:
        raise DataError(f'column "{target}" is not in {file}. Columns: {", ".join(map(str, frame.columns[:30]))}.')
    X = frame.drop(columns=[target])
    categorical = [not pandas.api.types.is_numeric_dtype(X[name]) for name in X.columns]
    return _data_set(file.name, file.stem, X, frame[target], categorical, None, str(file))


def _is_data_file(text: str) -> bool:
    return text.partition("::")[0].lower().endswith((".csv", ".tsv", ".parquet", ".pq"))


def _load_sklearn(name: str) -> DataSet:
    from sklearn import datasets

    loaders = ("breast_cancer", "wine", "iris", "digits")
    if name not in loaders:
        raise ConfigError(f'"{name}" does not ship with scikit-learn as a classification set; there are {loaders}')
    bunch = getattr(datasets, f"load_{name}")()
    return DataSet(
        id=name,
        name=name,
        X=bunch.data.astype(np.float64),
        y=bunch.target.astype(np.int64),
        classes=tuple(map(str, bunch.target_names)),
        categorical=np.zeros(bunch.data.shape[1], dtype=bool),
        source="scikit-learn",
    )


def _load_openml(task_id: int, cache: Path | None) -> DataSet:
    openml = require("openml", "eval", f"OpenML task {task_id}")
    require("pandas", "eval", f"OpenML task {task_id}")
    if cache is None:
        return _through_client(openml, task_id)
    with tempfile.TemporaryDirectory(prefix="priorax-openml-") as folder:
        _copy_task(cache, Path(folder), task_id)
        before = (openml.config._root_cache_directory, openml.config.retry_policy, openml.config.connection_n_retries)
        openml.config.set_root_cache_directory(folder)
        openml.config.set_retry_policy("human", 1)  # fail at once instead of waiting for a network that is not wanted
        try:
            return _through_client(openml, task_id)
        finally:
            openml.config.set_root_cache_directory(before[0])
            openml.config.set_retry_policy(before[1], before[2])


def _copy_task(cache: Path, folder: Path, task_id: int) -> None:
    """Copies the files of one task and its data set."""
    base = Path("org") / "openml" / "www"
    task = cache / base / "tasks" / str(task_id)
    if not (task / "task.xml").is_file():
        raise MissingError(f"OpenML task {task_id} is not in the offline cache {cache}")
    from xml.etree import ElementTree

    found = ElementTree.parse(task / "task.xml").getroot().findtext(".//{http://openml.org/openml}data_set_id")
    data = cache / base / "datasets" / str(found)
    if not data.is_dir():
        raise MissingError(f"OpenML task {task_id} is in the offline cache {cache}, but its data set {found} is not")
    for source in (task, data):
        copy = folder / source.relative_to(cache)
        shutil.copytree(source, copy)
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


def _through_client(openml: Any, task_id: int) -> DataSet:
    try:
        task = openml.tasks.get_task(task_id, download_splits=True)
        data = task.get_dataset()
        X, y, categorical, _ = data.get_data(target=task.target_name, dataset_format="dataframe")
        repeats, folds, _ = task.get_split_dimensions()
        splits = []
        for repeat in range(repeats):
            for fold in range(folds):
                train, test = task.get_train_test_split_indices(repeat=repeat, fold=fold)
                splits.append(Split(repeat, fold, np.asarray(train), np.asarray(test)))
    except (OSError, openml.exceptions.PyOpenMLError) as error:
        raise MissingError(
            f"OpenML task {task_id} could not be loaded ({type(error).__name__}: {str(error)[:200]}). OpenML may be "
            "down: try again, or give an offline cache"
        ) from None
    if y is None:
        raise DataError(f"OpenML task {task_id} has no target column")
    return _data_set(str(task_id), data.name, X, y, categorical, tuple(splits), f"OpenML data set {data.dataset_id}")


def _data_set(id: str, name: str, X: Any, y: Any, categorical: Any, splits: Any, source: str) -> DataSet:
    missing = np.asarray(y.isna())
    if missing.any():
        raise DataError(f"{name}: {int(missing.sum())} of {len(y)} rows have no class; fill or drop them")
    classes, codes = np.unique(np.asarray(y.astype(str), dtype=object), return_inverse=True)
    if not 2 <= len(classes) <= max(2, len(y) // 2):
        raise DataError(
            f"{name}: the target has {len(classes)} different values in {len(y)} rows; not a classification"
        )
    return DataSet(
        id=id,
        name=name,
        X=X.reset_index(drop=True),
        y=codes.astype(np.int64),
        classes=tuple(map(str, classes)),
        categorical=np.asarray(categorical, dtype=bool),
        splits=splits,
        source=source,
    )
