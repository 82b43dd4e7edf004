"""Compares methods over data sets: ranks, wins, bootstrap intervals; Elo and improvability through ``bencheval``.

Means and ranks are taken over the data sets that every method finished, so that all rows of a leaderboard speak of the
same data; how many that are, and how many a method lacks, is in the row.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from .metrics import ECE_BINS, HIGHER_IS_BETTER, error_of, reliability

if TYPE_CHECKING:
    from .result import EvalResult

TIE = 1e-9
BOOTSTRAPS = 2000
ELO_DATA_SETS = 5  # with fewer, Elo says nothing
ELO_REFERENCE = ("random_forest", 1000)  # TabArena sets its default random forest to 1,000 as well


def leaderboard(result: EvalResult, metric: str = "roc_auc", seed: int = 0) -> list[dict[str, Any]]:
    """One row per method, best mean rank first.

    Keys: method, data_sets (that all methods finished), missing (that this one did not), metric, mean, ci_low, ci_high
    (95 %, bootstrap over data sets), mean_rank, wins, ties, losses (pairs of method and data set), time_train_s,
    time_infer_s, memory_mb (median over data sets of the mean per fold); elo, elo_low, elo_high (95 %, bootstrap over
    data sets; the random forest, where it takes part, is at 1,000) and improvability (mean share of a method's error
    that the best method of a data set does without) when ``bencheval`` is installed and there are at least two methods
    and five data sets.
    """
    table = result.table(metric)
    shared = np.isfinite(table).all(0)
    measured = np.concatenate([result.seconds(), result.memory()[..., None]], axis=2)
    errors = error_of(metric, table[:, shared])
    extra = _bencheval(result, errors, shared)
    mean_rank = mean_ranks(errors)
    rows = []
    for i, method in enumerate(result.methods):
        wins, ties, losses = wins_ties_losses(errors, i)
        low, high = bootstrap_mean(table[i, shared], seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice|All-NaN slice", RuntimeWarning)
            medians = np.nanmedian(measured[i], axis=0)
        rows.append(
            {
                "method": method,
                "data_sets": int(shared.sum()),
                "missing": int((~np.isfinite(table[i])).sum()),
                "metric": metric,
                "mean": float(table[i, shared].mean()) if shared.any() else float("nan"),
                "ci_low": low,
                "ci_high": high,
                "mean_rank": float(mean_rank[i]),
                "wins": wins,
                "ties": ties,
                "losses": losses,
                "time_train_s": float(medians[0]),
                "time_infer_s": float(medians[1]),
                "memory_mb": float(medians[2]),
            }
            | extra.get(method, {})
        )
    return sorted(rows, key=lambda row: (np.nan_to_num(row["mean_rank"], nan=np.inf), row["method"]))


def mean_ranks(errors: np.ndarray) -> np.ndarray:
    """errors f64[methods, data sets], lower is better -> mean rank f64[methods], 1 is best, ties share."""
    if not errors.shape[1]:
        return np.full(len(errors), np.nan)
    return ranks(errors).mean(1)


def ranks(errors: np.ndarray) -> np.ndarray:
    """errors f64[methods, data sets], lower is better -> the rank of every method on every data set, ties share."""
    return rankdata(rounded(errors), axis=0)


def rounded(errors: np.ndarray) -> np.ndarray:
    """Errors that differ by rounding alone made equal. Whatever compares methods by order starts from these, so that a
    tie is one in ranks, Elo, tests and figures alike."""
    return np.round(errors / TIE) * TIE


def wins_ties_losses(errors: np.ndarray, i: int) -> tuple[int, int, int]:
    """Pairs (other method, data set) in which method i is better, equal within 1e-9, worse."""
    others = np.delete(errors, i, axis=0) - errors[i]
    return int((others > TIE).sum()), int((np.abs(others) <= TIE).sum()), int((others < -TIE).sum())


def bootstrap_mean(values: np.ndarray, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over data sets; NaN when there are fewer than two."""
    if len(values) < 2:
        return float("nan"), float("nan")
    picks = np.random.default_rng(seed).integers(len(values), size=(BOOTSTRAPS, len(values)))
    low, high = np.quantile(values[picks].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval_text(low: float, high: float, data_sets: int, form: str = "+.4f") -> str:
    """An interval of `bootstrap_mean` for people, or why there is none."""
    if data_sets < 2:
        return f"no interval with {'one data set' if data_sets else 'no data set'}"
    return f"{low:{form}} to {high:{form}}"


def compare(result: EvalResult, a: str, b: str, metric: str = "roc_auc", seed: int = 0) -> dict[str, float]:
    """Paired comparison of two methods over the data sets both finished.

    Returns:
      ``difference``: mean of a minus b in the metric's own direction (positive: a is better); ``ci_low``, ``ci_high``:
      its 95 % paired bootstrap interval over data sets; ``wins``, ``ties``, ``losses`` of a; ``data_sets``.
    """
    table = result.table(metric)
    first, second = table[result.methods.index(a)], table[result.methods.index(b)]
    both = np.isfinite(first) & np.isfinite(second)
    sign = 1.0 if metric in HIGHER_IS_BETTER else -1.0
    difference = sign * (first - second)[both]
    low, high = bootstrap_mean(difference, seed)
    return {
        "difference": float(difference.mean()) if both.any() else float("nan"),
        "ci_low": low,
        "ci_high": high,
        "wins": int((difference > TIE).sum()),
        "ties": int((np.abs(difference) <= TIE).sum()),
        "losses": int((difference < -TIE).sum()),
        "data_sets": int(both.sum()),
    }


def _bencheval(result: EvalResult, errors: np.ndarray, shared: np.ndarray) -> dict[str, dict[str, float]]:
    """Elo and improvability per method, as TabArena computes them; {} where that is not possible."""
    if importlib.util.find_spec("bencheval") is None or len(errors) < 2 or errors.shape[1] < ELO_DATA_SETS:
        return {}
    import pandas
    from bencheval.evaluator import BenchmarkEvaluator

    errors = rounded(errors)
    tasks = [task for task, used in zip(result.tasks, shared, strict=True) if used]
    seconds = np.nan_to_num(result.seconds()[:, shared])
    frame = pandas.DataFrame(
        {
            "method": method,
            "task": task,
            "metric_error": max(float(errors[i, j]), 0.0),
            "time_train_s": float(seconds[i, j, 0]),
            "time_infer_s": float(seconds[i, j, 1]),
        }
        for i, method in enumerate(result.methods)
        for j, task in enumerate(tasks)
    )
    logging.getLogger("bencheval").setLevel(logging.ERROR)
    name, rating = ELO_REFERENCE
    anchor = {"calibration_framework": name, "calibration_elo": rating} if name in result.methods else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        board = BenchmarkEvaluator().leaderboard(frame, metrics=["elo", "improvability"], elo_kwargs=anchor)
    found = {}
    for method, row in board.iterrows():
        elo = float(row["elo"])
        found[str(method)] = {
            "elo": elo,
            "elo_low": elo - float(row["elo-"]),
            "elo_high": elo + float(row["elo+"]),
            "improvability": float(row["improvability"]),
        }
    return found


def shot_curve(result: EvalResult, metric: str = "roc_auc", seed: int = 0) -> list[dict[str, Any]]:
    """The learning curves of an evaluation whose protocol varies the number of training rows.

    Small data sets have no large sizes, so plain means per size would compare different data sets along a curve.
    ``mean`` is therefore taken over the *core*: the data sets that all methods finished at every size up to a common
    one, the largest that at least half of the data sets reach; ``mean_all`` is over whatever data sets have the size.

    Returns:
      One row per method and size: method, metric, shots, mean, ci_low, ci_high (95 %, bootstrap over data sets),
      data_sets of the core (NaN and 0 beyond its largest size), mean_all, data_sets_all.
    """
    sizes = result.sizes
    if not sizes:
        return []
    tables = np.stack([result.table(metric, shots=size) for size in sizes])  # [sizes, methods, tasks]
    finished = np.isfinite(tables).all(axis=1)  # [sizes, tasks]
    reach = np.logical_and.accumulate(finished, axis=0)
    enough = np.flatnonzero(reach.sum(1) * 2 >= max(1, reach[0].sum()))
    last = int(enough[-1]) if reach[0].any() else -1
    core = reach[last] if last >= 0 else np.zeros(len(result.tasks), dtype=bool)
    rows = []
    for i, method in enumerate(result.methods):
        for k, size in enumerate(sizes):
            inside, every = tables[k, i, core], tables[k, i, finished[k]]
            used = k <= last and inside.size > 0
            low, high = bootstrap_mean(inside, seed) if used else (float("nan"), float("nan"))
            rows.append(
                {
                    "method": method,
                    "metric": metric,
                    "shots": size,
                    "mean": float(inside.mean()) if used else float("nan"),
                    "ci_low": low,
                    "ci_high": high,
                    "data_sets": int(core.sum()) if used else 0,
                    "mean_all": float(every.mean()) if every.size else float("nan"),
                    "data_sets_all": int(every.size),
                }
            )
    return rows


def by_group(result: EvalResult, metric: str = "roc_auc", seed: int = 0) -> list[dict[str, Any]]:
    """Scores by family of synthetic tasks, over the tasks that all methods finished.

    Returns:
      One row per group and method: group, method, metric, mean, ci_low, ci_high (95 %, bootstrap over tasks), tasks.
    """
    table = result.table(metric)
    shared = np.isfinite(table).all(0)
    of_task = result.groups
    rows = []
    for group in dict.fromkeys(of_task.get(task, "") for task in result.tasks):
        inside = shared & np.array([of_task.get(task, "") == group for task in result.tasks])
        if not group:
            continue
        for i, method in enumerate(result.methods):
            values = table[i, inside]
            low, high = bootstrap_mean(values, seed)
            mean = float(values.mean()) if values.size else float("nan")
            rows.append(
                {"group": group, "method": method, "metric": metric, "mean": mean, "ci_low": low, "ci_high": high,
                 "tasks": int(values.size)}
            )  # fmt: skip
    return rows


def calibration_table(result: EvalResult) -> list[dict[str, Any]]:
    """What reliability diagrams are drawn from, and what calibration error sums up.

    Returns:
      One row per method, task and bin of confidence that holds a test row: method, task (empty: all together), low,
      high (the bin of the top probability), confidence, accuracy (means over its rows), rows.
    """
    rows = []
    for method in result.methods:
        total = np.zeros((3, ECE_BINS))  # sums of confidence and of right answers, rows
        for task in (*result.tasks, ""):
            if task:
                held = result.predictions(method, task)
                if held is None:
                    continue
                confidence, accuracy, count = reliability(*held)
                sums = np.stack([np.nan_to_num(confidence) * count, np.nan_to_num(accuracy) * count, count])
                total += sums
            else:
                sums = total
            for k in np.flatnonzero(sums[2]):
                rows.append(
                    {"method": method, "task": task, "low": k / ECE_BINS, "high": (k + 1) / ECE_BINS,
                     "confidence": float(sums[0, k] / sums[2, k]), "accuracy": float(sums[1, k] / sums[2, k]),
                     "rows": int(sums[2, k])}
                )  # fmt: skip
    return rows
