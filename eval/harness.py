"""Runs methods on suites: every finished (task, split, method) is stored at once, so a killed run goes on where it was.

Nothing is silent: what was skipped or failed is in the results with its reason.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from ..configs.errors import ConfigError, PrioraxError
from ..configs.eval import PROTOCOLS, Protocol
from ..configs.files import replacing, write_text
from ..configs.load import nearest, to_dict
from .baselines import default_threads
from .methods import DEFAULT_BASELINES, Method, parse_methods, run_method
from .metrics import METRICS, error_of, score
from .splits import apply_protocol
from .suites import DataSet, Split, Suite, load_suite

COLUMNS = (
    "method", "task", "data", "repeat", "fold", "seed", "metric", "value", "metric_error", "time_train_s",
    "time_warmup_s", "time_infer_s", "n_train", "n_test", "n_features", "n_classes", "status", "reason",
)  # fmt: skip
"""Columns of the results, one row per method, task, fold and metric. ``fold`` -1: all test rows of a repeat pooled."""

POOLED = -1
TIMES = ("time_train_s", "time_warmup_s", "time_infer_s")


@dataclasses.dataclass(frozen=True)
class EvalResult:
    """What an evaluation gave.

    Attributes:
      rows: one dict per method, task, fold and metric, with the keys `COLUMNS`. ``status`` is ``ok``, ``skipped`` or
        ``failed``; the last two have no metric and say why in ``reason``.
      methods, tasks: in the order asked for; tasks as ids.
      names: task id -> name of the data set.
      suite: name of the suite.
      protocol: as used.
      seed: as given.
      out: folder of the results.
    """

    rows: list[dict[str, Any]]
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    names: dict[str, str]
    suite: str
    protocol: Protocol
    seed: int
    out: Path
    _keep: Any = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def problems(self) -> list[dict[str, Any]]:
        """Rows that were skipped or failed."""
        return [row for row in self.rows if row["status"] != "ok"]

    def table(self, metric: str = "roc_auc") -> np.ndarray:
        """f64[methods, tasks], means over folds (or the pooled score where the protocol pools); NaN = no result."""
        sums = np.zeros((len(self.methods), len(self.tasks)))
        counts = np.zeros_like(sums)
        at_m = {m: i for i, m in enumerate(self.methods)}
        at_t = {t: i for i, t in enumerate(self.tasks)}
        failed = {(row["method"], row["task"]) for row in self.problems}
        for row in self.rows:
            counted = row["metric"] == metric and (row["fold"] == POOLED) == self.protocol.pooled
            if counted and (row["method"], row["task"]) not in failed and np.isfinite(row["value"]):
                sums[at_m[row["method"]], at_t[row["task"]]] += row["value"]
                counts[at_m[row["method"]], at_t[row["task"]]] += 1
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def seconds(self) -> np.ndarray:
        """f64[methods, tasks, 2], mean seconds to fit and to predict a fold; NaN = no result."""
        out = np.full((len(self.methods), len(self.tasks), 2), np.nan)
        for i, method in enumerate(self.methods):
            for j, task in enumerate(self.tasks):
                times = {
                    (r["repeat"], r["fold"]): (r["time_train_s"], r["time_infer_s"])
                    for r in self.rows
                    if r["method"] == method and r["task"] == task and r["status"] == "ok" and r["fold"] != POOLED
                }
                if times:
                    out[i, j] = np.mean(list(times.values()), axis=0)
        return out

    def predictions(self, method: str, task: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Class codes i64[q] and probabilities f64[q, K] of all test rows, folds in order; None if there are none."""
        store = _Store(self.out)
        cells = sorted(store.cells(method, task), key=lambda cell: (cell.meta["repeat"], cell.meta["fold"]))
        cells = [cell for cell in cells if cell.meta["status"] == "ok"]
        if not cells:
            return None
        return np.concatenate([cell.y for cell in cells]), np.concatenate([cell.p for cell in cells])


def evaluate(
    suite: Any = "bundled",
    methods: Any = ("priorax", *DEFAULT_BASELINES),
    protocol: str | Protocol | None = None,
    out: str | Path | None = None,
    *,
    seed: int = 0,
    openml_cache: str | Path | None = None,
    jobs: int = 1,
    n_estimators: int | None = None,
    tasks: Sequence[str] | None = None,
    log: Callable[..., None] | None = None,
) -> EvalResult:
    """Evaluates methods on a suite and writes ``results.parquet`` (or ``.csv``) and ``leaderboard.csv``.

    Args:
      suite: see `load_suite`.
      methods: see `parse_methods`.
      protocol: a name in `PROTOCOLS`, a `Protocol`, or None for the suite's own.
      out: folder; results already in it from the same evaluation are kept, failures are tried again. None: temporary.
      seed: fixes subsets, splits and everything random in methods.
      openml_cache: folder in the openml client's layout to read instead of the network.
      jobs: processes.
      n_estimators: ensemble size of networks that do not say it themselves.
      tasks: only these task ids of the suite.
      log: called as ``log(event, **fields)`` with events ``eval.start``, ``eval.task`` (a method finished a task),
        ``eval.skip``, ``eval.fail``.

    Returns:
      All results, in an order that depends on the arguments only.

    Raises:
      ConfigError: unknown suite, method or protocol; or ``out`` holds another evaluation.
    """
    suite = load_suite(suite, openml_cache)
    chosen = parse_methods(methods, n_estimators)
    protocol = _protocol(protocol or suite.config.protocol)
    seed = seed if protocol.seed is None else protocol.seed
    ids = _pick_tasks(suite, tasks)
    temporary = None
    if out is None:
        temporary = tempfile.TemporaryDirectory(prefix="priorax-eval-")
        out = temporary.name
    out = Path(out)
    store = _Store(out)
    store.claim({"suite": to_dict(suite.config), "protocol": to_dict(protocol), "seed": seed})
    tell = log or (lambda event, **fields: None)
    tell("eval.start", suite=suite.name, tasks=len(ids), methods=[m.name for m in chosen], protocol=protocol.name)
    digests = {method.name: method.digest() for method in chosen}
    names: dict[str, str] = {}
    done: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def work() -> Iterator[Any]:
        for task in ids:
            for unit in _units(suite, task, protocol, seed, chosen, digests, store, names, done):
                yield joblib.delayed(_run_unit)(unit, default_threads(jobs))

    for unit in joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", pre_dispatch=2 * jobs)(work()):
        method, task, records = unit
        done.setdefault((method, task), []).extend(records)
        _report(tell, method, names.get(task, task), records)
    rows = _rows(store, [m.name for m in chosen], ids, names, done, protocol)
    result = EvalResult(
        rows, tuple(m.name for m in chosen), tuple(ids), names, suite.name, protocol, seed, out, _keep=temporary
    )
    _write(result)
    return result


@dataclasses.dataclass(frozen=True)
class _Unit:
    """One method on some splits of one data set, run in one process."""

    method: Method
    data: DataSet
    splits: list[Split]
    seed: int
    digest: str
    note: str
    out: Path


def _units(suite: Suite, task, protocol, seed, methods, digests, store, names, done) -> Iterator[_Unit]:
    """What is left to do for a task. Problems with the data set itself are recorded for every method at once."""
    try:
        data = dataclasses.replace(suite.load(task), id=task)
        names[task] = data.name
        data, splits, note = apply_protocol(data, protocol, seed)
    except PrioraxError as error:
        status = "skipped" if task in names else "failed"
        names.setdefault(task, task)
        for method in methods:
            done[method.name, task] = [_problem(method.name, task, names[task], seed, status, str(error))]
        return
    for method in methods:
        have = {
            (cell.meta["repeat"], cell.meta["fold"]): cell.meta
            for cell in store.cells(method.name, task)
            if cell.meta["status"] == "ok" and cell.meta["digest"] == digests[method.name]
        }
        left = [split for split in splits if (split.repeat, split.fold) not in have]
        wanted = {(split.repeat, split.fold) for split in splits}
        done[method.name, task] = [meta for key, meta in have.items() if key in wanted]
        if left:
            yield _Unit(method, data, left, seed, digests[method.name], note, store.folder)


def _run_unit(unit: _Unit, threads: int) -> tuple[str, str, list[dict[str, Any]]]:
    store = _Store(unit.out)
    records = []
    for split in unit.splits:
        data = unit.data
        seed = zlib.crc32(f"{unit.seed}/{data.id}/{split.repeat}/{split.fold}".encode()) & 0x7FFFFFFF
        meta: dict[str, Any] = {
            "method": unit.method.name, "task": data.id, "data": data.name, "repeat": split.repeat, "fold": split.fold,
            "seed": seed, "digest": unit.digest, "n_train": len(split.train), "n_test": len(split.test),
            "n_features": int(data.X.shape[1]), "n_classes": len(data.classes),
            "status": "ok", "reason": "", "note": unit.note,
        }  # fmt: skip
        y, p = data.y[split.test], np.zeros((0, len(data.classes)))
        try:
            answer = run_method(unit.method, data, split, seed, threads)
            meta |= {
                name: round(getattr(answer, name), 6) for name in TIMES
            }
            p = answer.probabilities
            values, note = score(y, p.astype(np.float32))
            meta |= {"values": values, "reason": note}
        except Exception as error:  # a method may fail in any way; the reason is recorded, the evaluation goes on
            meta |= {"status": "failed", "reason": f"{type(error).__name__}: {str(error)[:500]}"}
        store.put(meta, y, p)
        records.append(meta)
    return unit.method.name, unit.data.id, records


@dataclasses.dataclass(frozen=True)
class _Cell:
    meta: dict[str, Any]
    y: np.ndarray
    p: np.ndarray


class _Store:
    """Finished cells on disk: ``cells/METHOD/TASK/rREPEATfFOLD.npz``, each written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Binds the folder to one evaluation; raises ConfigError if it belongs to another."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "evaluation.json"
        text = json.dumps(identity, indent=1, sort_keys=True)
        if path.exists():
            if json.loads(path.read_text(encoding="utf-8")) != json.loads(text):
                raise ConfigError(
                    f"{self.folder} holds the results of another suite, protocol or seed (see {path.name}). "
                    "Use another folder, or delete this one."
                )
            return
        write_text(path, text + "\n")

    def put(self, meta: dict[str, Any], y: np.ndarray, p: np.ndarray) -> None:
        path = self._at(meta["method"], meta["task"]) / f"r{meta['repeat']}f{meta['fold']}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, meta=json.dumps(meta), y=y.astype(np.int32), p=p.astype(np.float32))
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    def cells(self, method: str, task: str) -> Iterator[_Cell]:
        for path in sorted(self._at(method, task).glob("r*f*.npz")):
            try:
                with np.load(path, allow_pickle=False) as held:
                    yield _Cell(json.loads(str(held["meta"])), held["y"].astype(np.int64), held["p"].astype(np.float64))
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                continue  # damaged: computed again

    def _at(self, method: str, task: str) -> Path:
        return self.folder / "cells" / _slug(method) / _slug(task)


def _slug(text: str) -> str:
    """A file name that no other text shares."""
    plain = re.sub(r"[^\w.\-]+", "_", text)[:60]
    return plain if plain == text else f"{plain}-{zlib.crc32(text.encode()):08x}"


def _rows(store, methods, ids, names, done, protocol) -> list[dict[str, Any]]:
    rows = []
    for task in ids:
        for method in methods:
            records = sorted(done.get((method, task), []), key=lambda r: (r["repeat"], r["fold"]))
            for meta in records:
                rows += _metric_rows(meta, meta.get("values", {}))
            if protocol.pooled and records and all(meta["status"] == "ok" for meta in records):
                wanted = {(meta["repeat"], meta["fold"]) for meta in records}
                cells = [c for c in store.cells(method, task) if (c.meta["repeat"], c.meta["fold"]) in wanted]
                for repeat in sorted({c.meta["repeat"] for c in cells}):
                    rows += _pooled(sorted((c for c in cells if c.meta["repeat"] == repeat), key=_fold_of), repeat)
    return rows


def _fold_of(cell: _Cell) -> int:
    return cell.meta["fold"]


def _pooled(cells: list[_Cell], repeat: int) -> list[dict[str, Any]]:
    values, note = score(np.concatenate([c.y for c in cells]), np.concatenate([c.p for c in cells]))
    first = cells[0].meta
    total = {name: sum(c.meta[name] for c in cells) for name in TIMES}
    whole = {"repeat": repeat, "fold": POOLED, "n_test": sum(c.meta["n_test"] for c in cells), "reason": note}
    return _metric_rows(first | total | whole, values)


def _metric_rows(meta: Mapping[str, Any], values: Mapping[str, float]) -> list[dict[str, Any]]:
    base = {name: meta.get(name, "") for name in COLUMNS}
    for name in ("value", "metric_error", *TIMES):
        base[name] = meta.get(name, float("nan"))
    if meta["status"] != "ok":
        return [base]
    reason = "; ".join(filter(None, (meta.get("reason"), meta.get("note"))))
    return [
        base | {"metric": m, "value": values[m], "metric_error": error_of(m, values[m]), "reason": reason}
        for m in METRICS
    ]


def _problem(method: str, task: str, name: str, seed: int, status: str, reason: str) -> dict[str, Any]:
    sizes = dict.fromkeys(("n_train", "n_test", "n_features", "n_classes"), 0)
    where = {"method": method, "task": task, "data": name, "repeat": 0, "fold": 0, "seed": seed}
    return where | sizes | {"status": status, "reason": reason}


def _report(tell, method: str, name: str, records: list[dict[str, Any]]) -> None:
    bad = [r for r in records if r["status"] != "ok"]
    for record in bad[:1]:
        tell("eval.fail", method=method, data=name, folds=len(bad), reason=record["reason"])
    good = [r["values"]["roc_auc"] for r in records if r["status"] == "ok"]
    if good:
        seconds = sum(r["time_train_s"] + r["time_infer_s"] for r in records if r["status"] == "ok")
        tell("eval.task", method=method, data=name, roc_auc=float(np.mean(good)), folds=len(good), seconds=seconds)


def _pick_tasks(suite: Suite, tasks: Sequence[str] | None) -> list[str]:
    if tasks is None:
        return list(suite.ids)
    unknown = [str(task) for task in tasks if str(task) not in suite.ids]
    if unknown:
        raise ConfigError(f'task "{unknown[0]}" is not in suite {suite.name}. Tasks: {", ".join(suite.ids[:40])}')
    return [task for task in suite.ids if task in set(map(str, tasks))]


def _protocol(protocol: str | Protocol) -> Protocol:
    if isinstance(protocol, Protocol):
        return protocol
    if protocol in PROTOCOLS:
        return PROTOCOLS[protocol]
    close = nearest(protocol, list(PROTOCOLS))
    raise ConfigError(
        f'unknown protocol "{protocol}". '
        + (f'Did you mean "{close}"? ' if close else "")
        + f"There are: {', '.join(PROTOCOLS)}"
    )


def _write(result: EvalResult) -> None:
    from .statistics import leaderboard

    write_table(result.out / "results", result.rows)
    board = leaderboard(result)
    if board:
        _write_csv(result.out / "leaderboard.csv", board)


def write_table(stem: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as ``stem.parquet``, or as ``stem.csv`` where pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        return _write_csv(stem.with_name(stem.name + ".csv"), rows)
    path = stem.with_name(stem.name + ".parquet")
    with replacing(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), temporary, compression="zstd")
    return path


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else list(COLUMNS))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())
    return path
