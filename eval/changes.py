"""What changed between two evaluations of the same data sets under the same protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..configs.errors import DataError
from .metrics import HIGHER_IS_BETTER
from .problems import MOST_NAMES
from .result import POOLED, EvalResult
from .statistics import TIE, bootstrap_mean

COMPARED = ("roc_auc", "log_loss", "accuracy")


def changes(new: EvalResult, old: EvalResult, metrics: tuple[str, ...] = COMPARED, seed: int = 0) -> dict[str, Any]:
    """Compares two evaluations, method by method, over the data sets both finished.

    Methods are matched by name; the first method of each side is matched too when the names differ, since a network is
    often named after its weights.

    Returns:
      ``methods``: one row per pair and metric: method, before (its name there), metric, mean_before, mean_now,
      difference (in the metric's own direction: positive is better now), ci_low, ci_high (95 %, paired bootstrap over
      data sets), better, equal, worse (data sets), data_sets. ``sets``: one row per pair and data set: method, data,
      before, now, difference, by the first metric. ``other_data``: names of data sets whose rows or splits are not what
      they were; nothing above speaks of them. ``unchecked``: names of those for which that is not known, because an
      evaluation of an earlier version kept no digests.

    Raises:
      DataError: other protocol or seed (the splits differ, so nothing is paired), no data set or method in common, or
        the data sets in common all have other rows or splits.
    """
    if dataclasses.asdict(new.protocol) != dataclasses.asdict(old.protocol) or new.seed != old.seed:
        raise DataError(
            f"{old.out} was evaluated under protocol {old.protocol.name} with seed {old.seed}, this one under "
            f"{new.protocol.name} with seed {new.seed}: other splits, so the scores cannot be compared"
        )
    tasks = [task for task in new.tasks if task in old.tasks]
    pairs = [(method, method) for method in new.methods if method in old.methods]
    if new.methods[0] not in old.methods and old.methods[0] not in new.methods:
        pairs.insert(0, (new.methods[0], old.methods[0]))
    if not tasks or not pairs:
        raise DataError(f"{old.out} has no {'data set' if not tasks else 'method'} in common with this evaluation")
    now_known, old_known = _digests(new), _digests(old)
    # Two files, or two versions of a data set on a server, may go by one name.
    other = [task for task in tasks if _differ(now_known.get(task, {}), old_known.get(task, {}))]
    unchecked = [task for task in tasks if "" in {*now_known.get(task, {}).values(), *old_known.get(task, {}).values()}]
    name_of = lambda task: new.names.get(task, task)
    if len(other) == len(tasks):
        raise DataError(
            f"{old.out} was evaluated on other rows or splits of {_listed(map(name_of, other))}: data sets of the same "
            "name, but not the same data, so the scores cannot be compared. Evaluate the earlier methods again"
        )
    tasks = [task for task in tasks if task not in other]
    here, there = [new.tasks.index(t) for t in tasks], [old.tasks.index(t) for t in tasks]
    rows, sets = [], []
    for metric in metrics:
        now_table, old_table = new.table(metric)[:, here], old.table(metric)[:, there]
        sign = 1.0 if metric in HIGHER_IS_BETTER else -1.0
        for name, before_name in pairs:
            now, before = now_table[new.methods.index(name)], old_table[old.methods.index(before_name)]
            both = np.isfinite(now) & np.isfinite(before)
            gain = sign * (now - before)[both]
            low, high = bootstrap_mean(gain, seed)
            rows.append(
                {
                    "method": name,
                    "before": before_name,
                    "metric": metric,
                    "mean_before": float(before[both].mean()) if both.any() else float("nan"),
                    "mean_now": float(now[both].mean()) if both.any() else float("nan"),
                    "difference": float(gain.mean()) if both.any() else float("nan"),
                    "ci_low": low,
                    "ci_high": high,
                    "better": int((gain > TIE).sum()),
                    "equal": int((np.abs(gain) <= TIE).sum()),
                    "worse": int((gain < -TIE).sum()),
                    "data_sets": int(both.sum()),
                }
            )
            if metric == metrics[0]:
                sets += [
                    {"method": name, "data": name_of(t), "before": float(b), "now": float(n),
                     "difference": float(sign * (n - b))}
                    for t, n, b, ok in zip(tasks, now, before, both, strict=True) if ok
                ]  # fmt: skip
    return {
        "methods": rows,
        "sets": sets,
        "other_data": [name_of(task) for task in other],
        "unchecked": [name_of(task) for task in unchecked],
    }


def _digests(result: EvalResult) -> dict[str, dict[tuple[int, int, int], str]]:
    """Task -> repeat, fold, shots -> digest of rows and split, empty where it was not kept; of what was scored."""
    found: dict[str, dict[tuple[int, int, int], str]] = {}
    for row in result.rows:
        if row["status"] == "ok" and row["fold"] != POOLED:
            key = (row["repeat"], row["fold"], row.get("shots", 0))
            found.setdefault(row["task"], {})[key] = row.get("data_digest", "")
    return found


def _differ(one: dict[tuple[int, int, int], str], two: dict[tuple[int, int, int], str]) -> bool:
    """Whether a split that both sides scored, and both kept a digest of, is not the same."""
    return any(one[key] != two[key] for key in one.keys() & two.keys() if one[key] and two[key])


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def compared_on(compared: dict[str, Any]) -> list[str]:
    """Sentences on what two evaluations were not compared on, and on what is not known to be the same."""
    said = []
    if names := compared.get("other_data"):
        said.append(f"Left out, since their rows or splits are not what they were: {_listed(names)}.")
    if names := compared.get("unchecked"):
        said.append(
            f"Not known to be the same rows and splits, since an earlier version kept no digests of them: {_listed(names)}."
        )
    return said
