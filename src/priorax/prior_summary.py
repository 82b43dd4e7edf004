"""Numbers that describe what a prior draws, from a sample of its tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from priorax.configs.errors import ConfigError
from priorax.configs.prior import PriorConfig
from priorax.priors import TableShape, keys, sample
from priorax.priors.records import TaskRecord, graphs, impute, records


def check_draw(seed: int, tasks: int, rows: int, columns: int) -> None:
    """ConfigError for what `sample` would refuse: to be asked before an --out is emptied."""
    try:
        keys.seed_key(seed)
        TableShape(rows, columns)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not 1 <= tasks <= 2**32:
        raise ConfigError(f"--n-tasks is {tasks}; it must lie in [1, 2**32]")


def draw(
    prior: PriorConfig, seed: int, ids: Sequence[int], rows: int, columns: int, graph: bool = False
) -> list[TaskRecord]:
    """Tasks of a prior as host records."""
    batch = sample(prior, seed, ids, rows=rows, columns=columns, with_scm=graph)
    found = graphs(batch.scm) if graph else None
    return records(jax.device_get(batch), ids, found)


def per_task(tasks: Sequence[TaskRecord]) -> dict[str, np.ndarray]:
    """One number per task for each property, in a dict of arrays [tasks]."""
    out: dict[str, list] = {k: [] for k in (
        "columns", "classes", "context share", "share of categorical columns", "share of missing cells",
        "share of the smallest class", "mean |correlation| of columns", "largest |correlation| with a class",
    )}  # fmt: skip
    for t in tasks:
        filled = impute(t)
        ranks = np.argsort(np.argsort(filled.x, axis=0), axis=0).astype(float)
        counts = np.bincount(t.y, minlength=t.n_classes)
        with np.errstate(invalid="ignore", divide="ignore"):
            hot = (t.y[:, None] == np.arange(t.n_classes)).astype(float)
            c = np.abs(np.nan_to_num(np.corrcoef(np.column_stack([ranks, hot]).T)))
        f = t.n_features
        pairs = c[:f, :f][np.triu_indices(f, 1)]
        out["columns"].append(f)
        out["classes"].append(t.n_classes)
        out["context share"].append(t.n_context / t.n_rows)
        out["share of categorical columns"].append(t.categorical.mean())
        out["share of missing cells"].append(np.isnan(t.x).mean())
        out["share of the smallest class"].append(counts[counts > 0].min() / t.n_rows)
        out["mean |correlation| of columns"].append(pairs.mean() if pairs.size else 0.0)
        out["largest |correlation| with a class"].append(c[:f, f:].max(initial=0.0))
    return {k: np.array(v) for k, v in out.items()}


def per_graph(tasks: Sequence[TaskRecord]) -> dict[str, np.ndarray]:
    """One number per task for each property of its graph."""
    from priorax.pictures import layers

    shown = [len(set(t.graph.node_of_feature.tolist()) - {-1}) / t.graph.n_nodes for t in tasks]
    return {
        "nodes": np.array([t.graph.n_nodes for t in tasks]),
        "edges": np.array([len(t.graph.edges) for t in tasks]),
        "longest path": np.array([layers(t.graph).max() for t in tasks]),
        "share of nodes shown": np.array(shown),
    }


def learnability(tasks: Sequence[TaskRecord], seed: int) -> np.ndarray:
    """f64[tasks], ROC AUC (one versus rest) of a random forest on the query rows; NaN where undefined."""
    from sklearn.ensemble import RandomForestClassifier

    from priorax.eval.metrics import score

    found = []
    for t in map(impute, tasks):
        forest = RandomForestClassifier(60, min_samples_leaf=2, random_state=seed % 2**32).fit(
            t.x[: t.n_context], t.y[: t.n_context]
        )
        values, _ = score(t.y[t.n_context :], forest.predict_proba(t.x[t.n_context :]))
        found.append(values.get("roc_auc", np.nan))
    return np.array(found, float)


def spread(values: np.ndarray) -> dict[str, Any]:
    """Mean and quantiles of finite values."""
    v = np.asarray(values, float)
    v = v[np.isfinite(v)]
    if not v.size:
        return {"mean": None}
    q = np.quantile(v, [0.05, 0.5, 0.95])
    return {"mean": round(float(v.mean()), 4), "q05": round(float(q[0]), 4), "median": round(float(q[1]), 4),
            "q95": round(float(q[2]), 4)}  # fmt: skip


def rate(prior: PriorConfig, seed: int, rows: int, columns: int, tasks: int = 64, seconds: float = 3.0) -> float:
    """Tasks a second of `sample` with causal models on this machine, once compiled: the median call."""

    def work(k: int) -> float:
        ids = range(k * tasks, (k + 1) * tasks)
        start = time.perf_counter()
        jax.block_until_ready(sample(prior, seed, ids, rows=rows, columns=columns, with_scm=True))
        return time.perf_counter() - start

    work(0)
    stop, times = time.perf_counter() + seconds, [work(1)]
    while time.perf_counter() < stop:
        times.append(work(len(times) + 1))
    return tasks / float(np.median(times))
