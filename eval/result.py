"""What an evaluation gave: one row per method, task, split and metric, and the tables made from it."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..configs.errors import DataError, MissingError
from ..configs.eval import Protocol
from ..configs.files import replacing, write_text
from .store import Store

COLUMNS = (
    "method", "task", "data", "group", "repeat", "fold", "shots", "seed", "metric", "value", "metric_error",
    "time_train_s", "time_warmup_s", "time_infer_s", "memory_mb", "n_train", "n_test", "n_features", "n_classes",
    "status", "reason", "method_digest", "data_digest",
)  # fmt: skip
"""Columns of the results, one row per method, task, split and metric. ``fold`` -1: all test rows of a repeat pooled.
``shots`` is the number of training rows where the protocol varies it, else 0. ``group`` is the family of a synthetic
task, else empty. ``memory_mb`` is the growth of the process's memory at its peak while fitting and predicting (Linux;
NaN elsewhere, and on a GPU what lies on the device is not in it). ``method_digest`` and ``data_digest`` change with the
method (options, weights, versions) and with the rows and the split it was run on; empty where nothing was run."""

POOLED = -1
TIMES = ("time_train_s", "time_warmup_s", "time_infer_s", "memory_mb")
"""What is measured by the clock or by the system: the only columns that differ between two equal runs."""


@dataclasses.dataclass(frozen=True)
class EvalResult:
    """What an evaluation gave.

    Attributes:
      rows: one dict per method, task, split and metric, with the keys `COLUMNS`. ``status`` is ``ok``, ``skipped`` or
        ``failed``; the last two have no metric and say why in ``reason``.
      methods, tasks: in the order asked for; tasks as ids.
      names: task id -> name of the data set.
      suite: name of the suite.
      protocol: as used.
      seed: as given.
      out: folder of the results.
      server_errors: every error a server answered while data were loaded: dicts with task, attempt, error and whether
        another attempt followed.
      exit_codes: reason of a problem -> exit code of the error behind it; empty when read from a folder.
    """

    rows: list[dict[str, Any]]
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    names: dict[str, str]
    suite: str
    protocol: Protocol
    seed: int
    out: Path
    server_errors: tuple[dict[str, Any], ...] = ()
    exit_codes: dict[str, int] = dataclasses.field(default_factory=dict)
    _keep: Any = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def problems(self) -> list[dict[str, Any]]:
        """Rows that were skipped or failed."""
        return [row for row in self.rows if row["status"] != "ok"]

    @property
    def groups(self) -> dict[str, str]:
        """Task id -> family of a synthetic task; empty where the suite has none."""
        return {row["task"]: row["group"] for row in self.rows if row.get("group")}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of training rows of a learning curve, rising; empty where the protocol has none."""
        return tuple(sorted({row["shots"] for row in self.rows if row.get("shots")}))

    def table(self, metric: str = "roc_auc", shots: int | None = None) -> np.ndarray:
        """f64[methods, tasks], means over folds (or the pooled score where the protocol pools); NaN = no result.

        Args:
          metric: one of `METRICS`.
          shots: one size of a learning curve; None averages over the sizes, which on a logarithmic axis is the area
            under the curve.
        """
        sums = np.zeros((len(self.methods), len(self.tasks)))
        counts = np.zeros_like(sums)
        at_m = {m: i for i, m in enumerate(self.methods)}
        at_t = {t: i for i, t in enumerate(self.tasks)}
        failed = {(row["method"], row["task"]) for row in self.problems}
        for row in self.rows:
            counted = row["metric"] == metric and (row["fold"] == POOLED) == self.protocol.pooled
            if shots is not None and row.get("shots") != shots:
                continue
            if counted and (row["method"], row["task"]) not in failed and np.isfinite(row["value"]):
                sums[at_m[row["method"]], at_t[row["task"]]] += row["value"]
                counts[at_m[row["method"]], at_t[row["task"]]] += 1
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def seconds(self) -> np.ndarray:
        """f64[methods, tasks, 2], mean seconds to fit and to predict a fold; NaN = no result."""
        return self._measured(("time_train_s", "time_infer_s"))

    def memory(self) -> np.ndarray:
        """f64[methods, tasks], mean megabytes a fold needed at its peak; NaN = no result or not measured."""
        return self._measured(("memory_mb",))[..., 0]

    def _measured(self, names: Sequence[str]) -> np.ndarray:
        folds: dict[tuple[str, str], dict[tuple, list[float]]] = {}
        for row in self.rows:
            if row["status"] == "ok" and row["fold"] != POOLED:
                key = (row["repeat"], row["fold"], row.get("shots", 0))
                folds.setdefault((row["method"], row["task"]), {})[key] = [row.get(n, math.nan) for n in names]
        out = np.full((len(self.methods), len(self.tasks), len(names)), np.nan)
        for i, method in enumerate(self.methods):
            for j, task in enumerate(self.tasks):
                if held := folds.get((method, task)):
                    out[i, j] = np.mean(list(held.values()), axis=0)
        return out

    @functools.cached_property
    def _digests(self) -> dict[tuple[str, str], dict[tuple[int, int, int], tuple[str, str]]]:
        """What was run: (method, task) -> repeat, fold, shots -> digests."""
        found: dict[tuple[str, str], dict[tuple[int, int, int], tuple[str, str]]] = {}
        for row in self.rows:
            if row["status"] == "ok" and row["fold"] != POOLED:
                key = (row["repeat"], row["fold"], row.get("shots", 0))
                found.setdefault((row["method"], row["task"]), {})[key] = _digests_in(row)
        return found

    def predictions(self, method: str, task: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Class codes i64[q] and probabilities f64[q, K] of all test rows, splits in order; None if there are none.

        Of this result alone: what other evaluations left in the folder, or put in the place of these, is passed over.
        """
        ours = self._digests.get((method, task), {})
        cells = sorted(Store(self.out).cells(method, task), key=lambda cell: cell.key)
        cells = [cell for cell in cells if cell.meta["status"] == "ok" and ours.get(cell.key) == _digests_in(cell.meta)]
        if not cells:
            return None
        return np.concatenate([cell.y for cell in cells]), np.concatenate([cell.p for cell in cells])


def _digests_in(held: Mapping[str, Any]) -> tuple[str, str]:
    """Of the method and of the data, from a row or a cell's notes; empty in those of versions that had none."""
    return held.get("method_digest", ""), held.get("data_digest", "")


def load_result(folder: str | Path) -> EvalResult:
    """Reads what `evaluate` left in a folder.

    Raises:
      MissingError: there is no such folder, or pyarrow is needed and not installed.
      DataError: the folder holds no finished evaluation.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingError(f"no folder {folder}; give the --out of an earlier evaluation")
    try:
        identity = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        protocol = Protocol(**identity["protocol"])
        rows = _read_rows(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder} holds no finished evaluation of this version ({error})") from None
    return EvalResult(
        rows=rows,
        methods=tuple(dict.fromkeys(row["method"] for row in rows)),
        tasks=tuple(dict.fromkeys(row["task"] for row in rows)),
        names={row["task"]: row["data"] for row in rows},
        suite=identity["suite"]["name"],
        protocol=protocol,
        seed=identity["seed"],
        out=folder,
        server_errors=tuple(Store(folder).server_errors()),
    )


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    if (folder / "results.parquet").is_file():
        from ..configs.errors import require

        parquet = require("pyarrow.parquet", "eval", "reading results.parquet")
        return parquet.read_table(folder / "results.parquet").to_pylist()
    if not (folder / "results.csv").is_file():
        raise DataError(f"{folder} holds no results: the evaluation did not finish. Run it again with --resume")
    whole = {"repeat", "fold", "shots", "seed", "n_train", "n_test", "n_features", "n_classes"}
    real = {"value", "metric_error", *TIMES}
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        return [
            {k: int(v) if k in whole else float(v or "nan") if k in real else v for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def write_table(stem: Path, rows: list[dict[str, Any]]) -> Path | None:
    """Rows as ``stem.parquet``, or as ``stem.csv`` where pyarrow is not installed; nothing when there are none."""
    if not rows:
        return None
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        return write_csv(stem.with_name(stem.name + ".csv"), rows)
    path = stem.with_name(stem.name + ".parquet")
    with replacing(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), temporary, compression="zstd")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as CSV, whole or not at all; the keys of the first row are the columns."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else list(COLUMNS))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())
    return path
