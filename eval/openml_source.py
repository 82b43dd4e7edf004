"""OpenML tasks through the official ``openml`` client.

With an offline cache, the files a task needs are first copied to a temporary folder: the client writes into its cache
folder, and deletes parts of it when a download fails. Without one the client downloads; what a server answers wrongly
is tried again after a pause, and every such answer is reported, never hidden.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ..configs.errors import DataError, MissingError, require
from .suites import DataSet, Split, make_data_set

DATABASE_BUSY = 107
"""The one error code of the OpenML server that means "later", by its own documentation; others are final answers."""


@dataclasses.dataclass(frozen=True)
class Retry:
    """How often a server is asked, and how long to wait: after the k-th failure ``first_wait_s * 2**(k-1)`` seconds."""

    attempts: int = 4
    first_wait_s: float = 2.0


def load_openml(
    task_id: int,
    cache: Path | None = None,
    retry: Retry = Retry(),
    note: Callable[[dict[str, Any]], None] | None = None,
) -> DataSet:
    """Loads a task with its official splits.

    Args:
      task_id: an OpenML classification task.
      cache: folder in the client's layout to read instead of the network; never written to.
      retry: for errors of the server or of the connection; a cache is read once.
      note: called with every such error: task, attempt, error, and ``again``, whether another attempt follows.

    Raises:
      MissingError: not in the cache, refused by the server, or still failing after the last attempt.
      DataError: not a classification table.
    """
    openml = require("openml", "eval", f"OpenML task {task_id}")
    require("pandas", "eval", f"OpenML task {task_id}")
    with contextlib.ExitStack() as stack:
        if cache is not None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="priorax-openml-"))
            _copy_task(cache, Path(folder), task_id)
            stack.enter_context(_client(openml, folder))
            retry = Retry(1)
        else:
            stack.enter_context(_client(openml))
        for attempt in range(1, retry.attempts + 1):
            try:
                return _through_client(openml, task_id)
            except DataError:
                raise
            except Exception as error:
                wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                if not _may_pass(openml, error):
                    if isinstance(error, (OSError, openml.exceptions.PyOpenMLError)):
                        raise MissingError(f"OpenML task {task_id} could not be loaded ({wrong})") from None
                    raise
                again = attempt < retry.attempts
                if cache is None and note is not None:
                    note({"task": str(task_id), "attempt": attempt, "error": wrong, "again": again})
                if again:
                    time.sleep(retry.first_wait_s * 2 ** (attempt - 1))
        tried = "" if cache is not None else f" after {retry.attempts} attempts"
        raise MissingError(
            f"OpenML task {task_id} could not be loaded{tried} ({wrong}). OpenML may be down: try again later, or give "
            "an offline cache"
        )


@contextlib.contextmanager
def _client(openml: Any, folder: str | None = None) -> Iterator[None]:
    """The client with one try per request, since we count tries ourselves, and with its cache in ``folder``."""
    config = openml.config
    before = (config._root_cache_directory, config.retry_policy, config.connection_n_retries)
    try:
        config.set_retry_policy("human", 1)
        if folder is not None:
            config.set_root_cache_directory(folder)
        yield
    finally:
        config.set_root_cache_directory(before[0])
        config.set_retry_policy(before[1], before[2])


def _may_pass(openml: Any, error: Exception) -> bool:
    """Whether asking again can help: the server or the connection failed, and not because of what was asked."""
    if isinstance(error, openml.exceptions.OpenMLServerException):
        return error.code in (None, DATABASE_BUSY)
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return False
    known = (openml.exceptions.OpenMLServerError, openml.exceptions.OpenMLHashException, OSError)
    return isinstance(error, known) or type(error).__module__.partition(".")[0] in ("urllib3", "minio")


def _copy_task(cache: Path, folder: Path, task_id: int) -> None:
    """Copies the files of one task and its data set."""
    base = Path("org") / "openml" / "www"
    task = cache / base / "tasks" / str(task_id)
    if not (task / "task.xml").is_file():
        raise MissingError(f"OpenML task {task_id} is not in the offline cache {cache}")
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
    task = openml.tasks.get_task(task_id, download_splits=True)
    data = task.get_dataset()
    X, y, categorical, _ = data.get_data(target=task.target_name, dataset_format="dataframe")
    repeats, folds, _ = task.get_split_dimensions()
    splits = []
    for repeat in range(repeats):
        for fold in range(folds):
            train, test = task.get_train_test_split_indices(repeat=repeat, fold=fold)
            splits.append(Split(repeat, fold, np.asarray(train), np.asarray(test)))
    if y is None:
        raise DataError(f"OpenML task {task_id} has no target column")
    return make_data_set(str(task_id), data.name, X, y, categorical, tuple(splits), f"OpenML data set {data.dataset_id}")
