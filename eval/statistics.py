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

from .metrics import HIGHER_IS_BETTER, error_of

if TYPE_CHECKING:
    from .harness import EvalResult

TIE = 1e-9
BOOTSTRAPS = 2000
ELO_DATA_SETS = 5  # with fewer, Elo says nothing


def leaderboard(result: EvalResult, metric: str = "roc_auc", seed: int = 0) -> list[dict[str, Any]]:
    """One row per method, best mean rank first.

    Keys: method, data_sets (that all methods finished), missing (that this one did not), metric, mean, ci_low, ci_high
    (95 %, bootstrap over data sets), mean_rank, wins, ties, losses (pairs of method and data set), time_train_s,
    time_infer_s (median over data sets of the mean per fold); elo and improvability when ``bencheval`` is installed
    and there are at least two methods and five data sets.
    """
    table = result.table(metric)
    shared = np.isfinite(table).all(0)
    seconds = result.seconds()
    errors = error_of(metric, table[:, shared])
    extra = _bencheval(result, errors, shared)
    ranks = mean_ranks(errors)
    rows = []
    for i, method in enumerate(result.methods):
        wins, ties, losses = wins_ties_losses(errors, i)
        low, high = bootstrap_mean(table[i, shared], seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice|All-NaN slice", RuntimeWarning)
            times = np.nanmedian(seconds[i], axis=0)
        rows.append(
            {
                "method": method,
                "data_sets": int(shared.sum()),
                "missing": int((~np.isfinite(table[i])).sum()),
                "metric": metric,
                "mean": float(table[i, shared].mean()) if shared.any() else float("nan"),
                "ci_low": low,
                "ci_high": high,
                "mean_rank": float(ranks[i]),
                "wins": wins,
                "ties": ties,
                "losses": losses,
                "time_train_s": float(times[0]),
                "time_infer_s": float(times[1]),
            }
            | extra.get(method, {})
        )
    return sorted(rows, key=lambda row: (np.nan_to_num(row["mean_rank"], nan=np.inf), row["method"]))


def mean_ranks(errors: np.ndarray) -> np.ndarray:
    """errors f64[methods, data sets], lower is better -> mean rank f64[methods], 1 is best, ties share."""
    if not errors.shape[1]:
        return np.full(len(errors), np.nan)
    return rankdata(np.round(errors / TIE) * TIE, axis=0).mean(1)


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        board = BenchmarkEvaluator().leaderboard(frame, average_seeds=False)
    return {
        str(method): {name: float(row[name]) for name in ("elo", "improvability") if name in board.columns}
        for method, row in board.iterrows()
    }
