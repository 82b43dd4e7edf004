"""Suites of data sets, loaded one at a time: from scikit-learn, OpenML, files, a prior, or probes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..configs.errors import ConfigError, DataError, MissingError, require
from ..configs.eval import SuiteConfig
from ..configs.load import load_preset, preset_names
from ..models.tables import read_table


@dataclasses.dataclass(frozen=True)
class Split:
    """One division into training and test rows (sorted or official order, i64).

    ``shots`` is the number of training rows on a learning curve, and 0 where all are used.
    """

    repeat: int
    fold: int
    train: np.ndarray
    test: np.ndarray
    shots: int = 0

    @property
    def key(self) -> tuple[int, int, int]:
        """Repeat, fold, shots: unique among the splits of a data set."""
        return self.repeat, self.fold, self.shots


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
      group: the family of a synthetic task, else empty.
      target: of a file: which column is the class, and "(last column)" where it is for want of another.
    """

    id: str
    name: str
    X: Any
    y: np.ndarray
    classes: tuple[str, ...]
    categorical: np.ndarray
    splits: tuple[Split, ...] | None = None
    source: str = ""
    group: str = ""
    target: str = ""

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
      retry: how often a server is asked, an `openml_source.Retry`; None for its defaults.
      on_server_error: called with every error of a server while a task is loaded, see `openml_source.load_openml`.
    """

    def __init__(self, config: SuiteConfig, openml_cache: str | os.PathLike | None = None) -> None:
        self.config, self.name = config, config.name
        self.ids = [str(task) for task in config.tasks]
        self.retry: Any = None
        self.on_server_error: Callable[[dict[str, Any]], None] | None = None
        self._drawn: Any = None
        if config.source in ("synthetic", "probes"):
            self._drawn = _drawn(config)
            self.ids = self._drawn.ids
        self._cache = None if openml_cache is None else Path(openml_cache)
        if self._cache is not None and not (self._cache / "org" / "openml" / "www").is_dir():
            raise MissingError(f"{self._cache} is no OpenML cache: it has no folder org/openml/www")

    def load(self, task: str) -> DataSet:
        """The data set of one task.

        Raises:
          MissingError: it is not in the offline cache, a server does not give it, a file is not there, or an optional
            package is missing.
          DataError: it is not a classification table.
        """
        if self._drawn is not None:
            return self._drawn.load(task)
        if self.config.source == "sklearn":
            return _load_sklearn(task)
        if self.config.source == "files":
            return dataclasses.replace(load_file(task), id=task)
        from .openml_source import Retry, load_openml

        return load_openml(int(task), self._cache, self.retry or Retry(), self.on_server_error)

    def __iter__(self) -> Iterator[DataSet]:
        return map(self.load, self.ids)

    def __len__(self) -> int:
        return len(self.ids)


def _drawn(config: SuiteConfig) -> Any:
    """The maker of a suite's tasks: an object with ``ids`` and ``load``."""
    if config.source == "probes":
        from .probes import Probes

        return Probes(config)
    from .synthetic import HeldOut

    return HeldOut(config)


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
        if len(set(map(str, spec))) != len(spec):
            raise ConfigError(f"the suite {', '.join(map(str, spec))} names a task twice")
        if all(isinstance(task, (int, np.integer)) for task in spec):
            return Suite(SuiteConfig("openml-tasks", "openml", tuple(int(t) for t in spec), "official"), openml_cache)
        if all(isinstance(task, (str, os.PathLike)) and _is_data_file(os.fspath(task)) for task in spec):
            return Suite(SuiteConfig("files", "files", tuple(os.fspath(task) for task in spec)), openml_cache)
    raise ConfigError(f"cannot read a suite from {spec!r}: give a name, OpenML task ids, or data files")


def pick_tasks(suite: Suite, tasks: Sequence[str] | None) -> list[str]:
    """The ids of a suite, or those of them that are named, in the suite's order; ConfigError for one it lacks."""
    if tasks is None:
        return list(suite.ids)
    unknown = [str(task) for task in tasks if str(task) not in suite.ids]
    if unknown:
        raise ConfigError(f'task "{unknown[0]}" is not in suite {suite.name}. Tasks: {", ".join(suite.ids[:40])}')
    return [task for task in suite.ids if task in set(map(str, tasks))]


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
            # By default pandas reads in pieces, and a column of codes that are not all numbers comes out mixed.
            frame = pandas.read_csv(file, sep="\t" if file.suffix.lower() == ".tsv" else ",", low_memory=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    told, target = (target, target) if target else (f"{frame.columns[-1]} (last column)", str(frame.columns[-1]))
    if target not in frame.columns:
        raise DataError(f'column "{target}" is not in {file}. Columns: {", ".join(map(str, frame.columns[:30]))}.')
    X = frame.drop(columns=[target])
    try:
        # As the encoder reads them: text, truth values and category dtypes, but neither dates nor decimal numbers.
        columns = read_table(X)
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: {error}") from None
    categorical = [c.levels is not None or c.values.dtype.kind in "bO" for c in columns]
    for column in columns:
        if column.values.dtype.kind == "f" and np.isinf(column.values).any():
            row = int(np.flatnonzero(np.isinf(column.values))[0])
            raise DataError(f'{file}, row {row + 1}: column "{column.name}" holds infinity; leave the cell empty or the row out')
    held = frame[target]
    if pandas.api.types.is_float_dtype(held) and not held.isna().any() and len(decimals := held[held % 1 != 0]):
        raise DataError(
            f'column "{target}" of {file} holds decimal numbers ({decimals.iloc[0]}, for one); regression is not supported. Turn them into '
            "classes first, e.g. low, middle and high"
        )
    data = make_data_set(file.name, file.stem, X, frame[target], categorical, None, str(file))
    return dataclasses.replace(data, target=told)


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


def make_data_set(id: str, name: str, X: Any, y: Any, categorical: Any, splits: Any, source: str) -> DataSet:
    """A `DataSet` of a pandas frame and a target series; raises DataError if it is no classification table."""
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
