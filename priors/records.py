"""Tasks on the host, one by one: what the writers write and the readers give back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ..configs.prior import COMBINES, FAMILIES, GRAPHS, MISSINGNESS, ROOTS, TARGETS, Sizes
from .plan import CohortPlan, TaskPlan
from .scm import SCM
from .target import label_columns
from .task import TaskBatch


@dataclasses.dataclass(frozen=True)
class TaskGraph:
    """The causal graph behind a task. Nodes are numbered 0 .. n_nodes-1 in a topological order.

    An edge says that a mechanism reads the source, not that every source has an effect: a tree may split on none of its
    values. The label of a task whose rows all fell into one class (`info["fallback"]`) is a `median_split`, with edges from
    what the score is made of, or a `coin` without edges.

    Attributes:
      n_nodes: nodes in use, hidden ones and the label included.
      edges: i32[E, 3], rows (source, destination, lag); the lag is 0 for tables without time.
      node_of_feature: i32[F], the node each column shows; -1 for an irrelevant column, which is noise of its own.
      target_node: the label, always the last node.
      mechanism: for each node, how it is made: the law of a root, the families of a mechanism, the kind of the label. Roots
        that are `grouped` share one group for every row, a common cause that has no node here.
      rule_columns: columns the label reads directly, when it is a rule or a sum over columns; its edges then come from the
        nodes these columns show (an irrelevant one among them is a cause without a node).
    """

    n_nodes: int
    edges: np.ndarray
    node_of_feature: np.ndarray
    target_node: int
    mechanism: tuple[str, ...]
    rule_columns: tuple[int, ...] = ()


INFO: dict[str, type] = {
    "component": str, "graph": str, "target": str, "missing": str, "n_nodes": int, "n_edges": int, "n_causes": int,
    "n_effects": int, "label_noise": float, "noise_share": float, "fallback": int, "learnability_z": float,
    "learnability_r2": float,
}  # fmt: skip
"""What a dump can say about each task (see `priors.sample`, `info`), indices replaced by names."""


@dataclasses.dataclass(frozen=True)
class TaskRecord:
    """One task, cropped to the rows and columns it uses.

    Attributes:
      task_id: its number in the stream of the seed.
      x: f32[R, F]; NaN marks a missing value; categorical columns hold codes.
      y: i32[R], classes 0 .. n_classes-1.
      n_context: rows before it are context (training) rows.
      n_classes: classes of the task.
      categorical: bool[F].
      cardinality: i32[F], levels of a categorical column, 0 for a numeric one.
      graph: the causal graph, when it was asked for.
      info: the fields of `INFO`, when they were asked for.
    """

    task_id: int
    x: np.ndarray
    y: np.ndarray
    n_context: int
    n_classes: int
    categorical: np.ndarray
    cardinality: np.ndarray
    graph: TaskGraph | None = None
    info: dict[str, Any] | None = None

    @property
    def n_rows(self) -> int:
        return self.x.shape[0]

    @property
    def n_features(self) -> int:
        return self.x.shape[1]


def records(
    batch: TaskBatch,
    task_ids: Sequence[int],
    graphs: Sequence[TaskGraph | None] | None = None,
    infos: Sequence[dict[str, Any]] | None = None,
) -> list[TaskRecord]:
    """Splits a batch (host or device) into records. One per task id; tasks of the batch beyond them are left out."""
    x, y = np.asarray(batch.x), np.asarray(batch.y)
    widths, classes = np.asarray(batch.n_features), np.asarray(batch.n_classes)
    context = np.asarray(batch.n_context)
    categorical, cardinality = np.asarray(batch.categorical), np.asarray(batch.cardinality)
    found = []
    for b, task_id in enumerate(task_ids):
        f = int(widths[b])
        found.append(
            TaskRecord(
                task_id=int(task_id),
                x=np.ascontiguousarray(x[b, :, :f]),
                y=y[b],
                n_context=int(context[b]),
                n_classes=int(classes[b]),
                categorical=categorical[b, :f],
                cardinality=cardinality[b, :f],
                graph=graphs[b] if graphs is not None else None,
                info=infos[b] if infos is not None else None,
            )
        )
    return found


def task_infos(batch: TaskBatch, components: Sequence[str]) -> list[dict[str, Any]]:
    """The fields of `INFO` for every task of a batch sampled with ``score=True``. components: names in the prior's order."""
    names = {"component": components, "graph": GRAPHS, "target": TARGETS, "missing": ("none", *MISSINGNESS)}
    values = {k: np.asarray(batch.info[k]).tolist() for k in INFO}
    return [
        {k: names[k][values[k][b]] if kind is str else kind(values[k][b]) for k, kind in INFO.items()}
        for b in range(batch.n_tasks)
    ]


def graphs(scm: SCM) -> list[TaskGraph]:
    """The causal graphs of a batch of models, on the host."""
    sizes = scm.sizes
    plan, cohort, shows, targets = jax.device_get((scm.plan, scm.cohort, scm.node_of_column, scm.target_nodes))
    reads = np.asarray(label_columns(sizes, scm.cohort, scm.plan, scm.stream, scm.settled.fallback))
    fallback = np.asarray(scm.settled.fallback)
    found = []
    for b in range(scm.n_tasks):
        active = np.flatnonzero(plan.active[b])
        number = np.full(sizes.nodes, -1, np.int32)
        number[active] = np.arange(len(active))
        target = len(active)
        columns = shows[b, : plan.n_features[b]]
        kind = (TARGETS[cohort.target[b]], "median_split", "coin")[fallback[b]]
        read = tuple(np.flatnonzero(reads[b]).tolist())
        causes = columns[list(read)] if read else targets[b]
        sources, destinations = np.nonzero(plan.parents[b])
        edges = [(number[s], number[d], 0) for s, d in zip(sources, destinations, strict=True)]
        edges += [(number[c], target, 0) for c in sorted(set(causes.tolist()) - {-1})]
        mechanism = [_mechanism(sizes, cohort, plan, b, int(node)) for node in active]
        found.append(
            TaskGraph(
                n_nodes=target + 1,
                edges=np.array(edges, np.int32).reshape(-1, 3),
                node_of_feature=np.where(columns >= 0, number[columns], -1).astype(np.int32),
                target_node=target,
                mechanism=(*mechanism, kind),
                rule_columns=read,
            )
        )
    return found


def _mechanism(sizes: Sizes, cohort: CohortPlan, plan: TaskPlan, b: int, node: int) -> str:
    if node < sizes.roots:
        return ROOTS[cohort.root[b, node]]
    closing = node - sizes.roots
    if not plan.parents[b, :, node].any():
        return "noise"
    mine = np.flatnonzero(cohort.end[b] == closing)
    mine = mine[mine < cohort.n_instructions[b]]
    names = [FAMILIES[f] for f in cohort.family[b, mine]]
    return names[0] if len(names) == 1 else f"{COMBINES[cohort.combine[b, closing]]}({', '.join(names)})"


def impute(record: TaskRecord) -> TaskRecord:
    """Fills missing values from the context rows: the mean of a numeric column, the most frequent code of a
    categorical one, 0 where the context shows no value at all."""
    if not np.isnan(record.x).any():
        return record
    x = record.x.copy()
    for j in range(record.n_features):
        column = x[:, j]
        gaps = np.isnan(column)
        if not gaps.any():
            continue
        seen = column[: record.n_context]
        seen = seen[~np.isnan(seen)]
        if seen.size == 0:
            value = 0.0
        elif record.categorical[j]:
            value = float(np.bincount(seen.astype(np.int64)).argmax())
        else:
            value = float(seen.astype(np.float64).mean())
        column[gaps] = value
    return dataclasses.replace(record, x=x)


def crop_columns(record: TaskRecord, width: int) -> TaskRecord:
    """Keeps the first ``width`` columns."""
    if width == record.n_features:
        return record
    graph = record.graph
    if graph is not None:
        read = tuple(c for c in graph.rule_columns if c < width)
        graph = dataclasses.replace(graph, node_of_feature=graph.node_of_feature[:width], rule_columns=read)
    return dataclasses.replace(
        record,
        x=np.ascontiguousarray(record.x[:, :width]),
        categorical=record.categorical[:width],
        cardinality=record.cardinality[:width],
        graph=graph,
    )


def group_equal(tasks: Sequence[TaskRecord], size: int) -> list[TaskRecord]:
    """Arranges tasks so that each consecutive block of ``size`` has one width and one split.

    Readers of HDF5 dumps take the width of a block from its widest task and the split from its first one. Tasks are
    sorted by (width, split) and cut into blocks; a block that still mixes widths keeps the smallest, and one that mixes
    splits takes the largest, which keeps every class in the context. Blocks are then put back in the order of their
    smallest task id, so that widths come mixed.

    Raises:
      ValueError: the number of tasks is not a multiple of ``size``.
    """
    if len(tasks) % size:
        raise ValueError(f"{len(tasks)} tasks do not divide into groups of {size}")
    order = sorted(tasks, key=lambda t: (t.n_features, t.n_context, t.task_id))
    blocks = []
    for start in range(0, len(order), size):
        block = order[start : start + size]
        width, split = min(t.n_features for t in block), max(t.n_context for t in block)
        block = [dataclasses.replace(crop_columns(t, width), n_context=split) for t in block]
        blocks.append(sorted(block, key=lambda t: t.task_id))
    blocks.sort(key=lambda block: block[0].task_id)
    return [task for block in blocks for task in block]


def graph_to_dict(graph: TaskGraph) -> dict[str, Any]:
    """A graph as plain JSON values."""
    return {
        "n_nodes": graph.n_nodes,
        "edges": graph.edges.tolist(),
        "node_of_feature": graph.node_of_feature.tolist(),
        "target_node": graph.target_node,
        "mechanism": list(graph.mechanism),
        "rule_columns": list(graph.rule_columns),
    }
