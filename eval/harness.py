"""Runs methods on suites: every finished (task, split, method) is stored at once, so a killed run goes on where it was.

Nothing is silent: what was skipped or failed is in the results with its reason.
"""

from __future__ import annotations

import dataclasses
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from ..configs.errors import ConfigError, MemoryLimitError, PrioraxError
from ..configs.eval import PROTOCOLS, Protocol
from ..configs.load import nearest, to_dict
from .baselines import default_threads
from .identity import data_digest, split_digest
from .methods import DEFAULT_BASELINES, Method, parse_methods, run_method
from .metrics import METRICS, error_of, score
from .result import COLUMNS, POOLED, TIMES, EvalResult, write_csv, write_table
from .splits import apply_protocol
from .store import Cell, Store
from .suites import DataSet, Split, Suite, load_suite, pick_tasks


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
    """Evaluates methods on a suite and writes ``results.parquet`` and ``calibration.parquet`` (``.csv`` without
    pyarrow), ``leaderboard.csv`` and, for learning curves, ``many_shot.csv``.

    Args:
      suite: see `load_suite`.
      methods: see `parse_methods`.
      protocol: a name in `PROTOCOLS`, a `Protocol`, or None for the suite's own.
      out: folder; results already in it are kept where data, splits, methods and versions are the same, failures are
        tried again. None: temporary.
      seed: fixes subsets, splits and everything random in methods; 0 to 2**31 - 1.
      openml_cache: folder in the openml client's layout to read instead of the network.
      jobs: processes.
      n_estimators: ensemble size of networks that do not say it themselves.
      tasks: only these task ids of the suite.
      log: called as ``log(event, **fields)`` with events ``eval.start``, ``eval.task`` (a method finished a task),
        ``eval.fail``, ``eval.server_error`` (a server did not answer as it should while data were loaded),
        ``eval.target`` (which column of a file is the class), ``eval.outdated`` (stored results of other rows, settings
        or versions are computed again).

    Returns:
      All results, in an order that depends on the arguments only.

    Raises:
      ConfigError: unknown suite, method or protocol; or ``out`` holds another evaluation.
    """
    suite = load_suite(suite, openml_cache)
    chosen = parse_methods(methods, n_estimators)
    protocol, seed = _settled(suite, protocol, seed)
    ids = pick_tasks(suite, tasks)
    temporary = None
    if out is None:
        temporary = tempfile.TemporaryDirectory(prefix="priorax-eval-")
        out = temporary.name
    out = Path(out)
    store = Store(out)
    store.claim(_identity(suite, protocol, seed))
    tell = log or (lambda event, **fields: None)
    tell("eval.start", suite=suite.name, tasks=len(ids), methods=[m.name for m in chosen], protocol=protocol.name)
    digests = {method.name: method.digest() for method in chosen}
    names: dict[str, str] = {}

    def server_error(fields: dict[str, Any]) -> None:
        store.add_server_error(fields)
        tell("eval.server_error", **fields)

    suite.on_server_error = server_error
    done: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def work() -> Iterator[Any]:
        for task in ids:
            for unit in _units(suite, task, protocol, seed, chosen, digests, store, names, done, tell):
                yield joblib.delayed(_run_unit)(unit, default_threads(jobs), protocol.prepare)

    for unit in joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", pre_dispatch=2 * jobs)(work()):
        method, task, records = unit
        done.setdefault((method, task), []).extend(records)
        _report(tell, method, names.get(task, task), records)
    rows = _rows(store, [m.name for m in chosen], ids, names, done, protocol)
    result = EvalResult(
        rows, tuple(m.name for m in chosen), tuple(ids), names, suite.name, protocol, seed, out,
        tuple(store.server_errors()), _exit_codes(done), _keep=temporary,
    )  # fmt: skip
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
    data_digests: Mapping[tuple[int, int, int], str]
    note: str
    out: Path


def _units(suite: Suite, task, protocol, seed, methods, digests, store, names, done, tell) -> Iterator[_Unit]:
    """What is left to do for a task. Problems with the data set itself are recorded for every method at once."""
    try:
        data = dataclasses.replace(suite.load(task), id=task)
        names[task] = data.name
        if data.target:
            tell("eval.target", data=data.name, target=data.target)
        data, splits, note = apply_protocol(data, protocol, seed)
    except PrioraxError as error:
        status = "skipped" if task in names else "failed"
        names.setdefault(task, task)
        for method in methods:
            done[method.name, task] = [_problem(method.name, task, names[task], seed, status, error)]
        return
    whole = data_digest(data)
    wanted = {split.key: split_digest(whole, split) for split in splits}
    for method in methods:
        stored = [cell.meta for cell in store.cells(method.name, task) if cell.meta["status"] == "ok" and cell.key in wanted]
        # A file may have been rewritten, or a server may give another version, under the same name.
        have = {
            _key_of(meta): meta
            for meta in stored
            if (meta.get("method_digest"), meta.get("data_digest")) == (digests[method.name], wanted[_key_of(meta)])
        }
        if len(have) < len(stored):
            tell("eval.outdated", method=method.name, data=data.name, folds=len(stored) - len(have))
        left = [split for split in splits if split.key not in have]
        done[method.name, task] = list(have.values())
        if left:
            yield _Unit(method, data, left, seed, digests[method.name], wanted, note, store.folder)


def _run_unit(unit: _Unit, threads: int, prepare: str) -> tuple[str, str, list[dict[str, Any]]]:
    store = Store(unit.out)
    records = []
    for split in unit.splits:
        data = unit.data
        place = f"{unit.seed}/{data.id}/{split.repeat}/{split.fold}" + (f"/{split.shots}" if split.shots else "")
        seed = zlib.crc32(place.encode()) & 0x7FFFFFFF
        meta: dict[str, Any] = {
            "method": unit.method.name, "task": data.id, "data": data.name, "group": data.group, "repeat": split.repeat,
            "fold": split.fold, "shots": split.shots, "seed": seed, "n_train": len(split.train), "n_test": len(split.test),
            "n_features": int(data.X.shape[1]), "n_classes": len(data.classes),
            "status": "ok", "reason": "", "note": unit.note, "method_digest": unit.digest,
            "data_digest": unit.data_digests[split.key],
        }  # fmt: skip
        y, p = data.y[split.test], np.zeros((0, len(data.classes)))
        try:
            answer = run_method(unit.method, data, split, seed, threads, prepare)
            meta |= {name: round(getattr(answer, name), 6) for name in TIMES}
            p = answer.probabilities
            values, note = score(y, p.astype(np.float32))
            meta |= {"values": values, "reason": "; ".join(filter(None, (note, answer.note)))}
        except Exception as error:  # a method may fail in any way; the reason is recorded, the evaluation goes on
            meta |= {"status": "failed", **_reason(error)}
        store.put(meta, y, p)
        records.append(meta)
    return unit.method.name, unit.data.id, records


def _rows(store, methods, ids, names, done, protocol) -> list[dict[str, Any]]:
    rows = []
    for task in ids:
        for method in methods:
            records = sorted(done.get((method, task), []), key=_key_of)
            for meta in records:
                rows += _metric_rows(meta, meta.get("values", {}))
            if protocol.pooled and records and all(meta["status"] == "ok" for meta in records):
                wanted = {_key_of(meta) for meta in records}
                cells = [c for c in store.cells(method, task) if c.key in wanted]
                for repeat in sorted({c.meta["repeat"] for c in cells}):
                    rows += _pooled(sorted((c for c in cells if c.key[0] == repeat), key=lambda c: c.key), repeat)
    return rows


def _key_of(meta: Mapping[str, Any]) -> tuple[int, int, int]:
    return meta["repeat"], meta["fold"], meta.get("shots", 0)


def _pooled(cells: list[Cell], repeat: int) -> list[dict[str, Any]]:
    values, note = score(np.concatenate([c.y for c in cells]), np.concatenate([c.p for c in cells]))
    first = cells[0].meta
    total = {name: (max if name == "memory_mb" else sum)(c.meta[name] for c in cells) for name in TIMES}
    whole = {"repeat": repeat, "fold": POOLED, "n_test": sum(c.meta["n_test"] for c in cells), "reason": note}
    whole["data_digest"] = ""  # of one split only
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


def _reason(error: Exception) -> dict[str, Any]:
    """What is kept of an error. Ours are sentences; of others the kind is told too, since it often says more than the
    text."""
    if isinstance(error, PrioraxError):
        return {"reason": str(error), "exit_code": error.exit_code}
    code = MemoryLimitError.exit_code if isinstance(error, MemoryError) else PrioraxError.exit_code
    return {"reason": f"{type(error).__name__}: {str(error)[:500]}", "exit_code": code}


def _exit_codes(done: Mapping[Any, list[dict[str, Any]]]) -> dict[str, int]:
    bad = [meta for records in done.values() for meta in records if meta["status"] != "ok"]
    return {meta["reason"]: meta["exit_code"] for meta in bad}


def _problem(method: str, task: str, name: str, seed: int, status: str, error: PrioraxError) -> dict[str, Any]:
    sizes = dict.fromkeys(("n_train", "n_test", "n_features", "n_classes"), 0)
    where = {"method": method, "task": task, "data": name, "repeat": 0, "fold": 0, "shots": 0, "seed": seed}
    return where | sizes | {"status": status, **_reason(error)}


def _report(tell, method: str, name: str, records: list[dict[str, Any]]) -> None:
    bad = [r for r in records if r["status"] != "ok"]
    for record in bad[:1]:
        tell("eval.fail", method=method, data=name, folds=len(bad), reason=record["reason"])
    good = [r["values"]["roc_auc"] for r in records if r["status"] == "ok"]
    if good:
        seconds = sum(r["time_train_s"] + r["time_infer_s"] for r in records if r["status"] == "ok")
        tell("eval.task", method=method, data=name, roc_auc=float(np.mean(good)), folds=len(good), seconds=seconds)


def check_evaluation(
    suite: Any, methods: Any, protocol: str | Protocol | None = None, out: str | Path | None = None, *, seed: int = 0,
    openml_cache: str | Path | None = None, n_estimators: int | None = None, tasks: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Finds out whether `evaluate` would refuse these arguments, and changes nothing.

    Raises:
      ConfigError: unknown suite, task, method or protocol; a seed out of range; or ``out`` holds another evaluation.
    """
    suite = load_suite(suite, openml_cache)
    parse_methods(methods, n_estimators)
    pick_tasks(suite, tasks)
    identity = _identity(suite, *_settled(suite, protocol, seed))
    if out is not None:
        Store(Path(out)).check(identity)


def _identity(suite: Suite, protocol: Protocol, seed: int) -> dict[str, Any]:
    """What all results of a folder have in common."""
    return {"suite": to_dict(suite.config), "protocol": to_dict(protocol), "seed": seed}


def _settled(suite: Suite, protocol: str | Protocol | None, seed: int) -> tuple[Protocol, int]:
    """The protocol, the suite's own unless one is given, and the seed, which a protocol may fix."""
    if not 0 <= seed < 2**31:
        raise ConfigError(f"the seed of an evaluation is {seed}; it must lie in [0, 2**31)")
    protocol = _protocol(protocol or suite.config.protocol)
    return protocol, seed if protocol.seed is None else protocol.seed


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
    from .statistics import calibration_table, leaderboard, shot_curve

    write_table(result.out / "results", result.rows)
    write_table(result.out / "calibration", calibration_table(result))
    write_csv(result.out / "leaderboard.csv", leaderboard(result))
    if result.sizes:
        write_csv(result.out / "many_shot.csv", [row for metric in METRICS for row in shot_curve(result, metric)])
