"""The one type that leaves the prior: a batch of labelled tables."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaskBatch:
    """A batch of tabular classification tasks.

    Sizes: B tasks, R rows, F columns. Rows ``[0, n_context)`` of a task are context (labels shown), the rest are
    query rows. A frozen pytree: any field may be traced, sharded or mapped over.

    Attributes:
      x: f32[B, R, F]; NaN marks a missing value, columns at or past ``n_features`` are 0. Categorical columns hold
        codes 0 .. cardinality-1.
      y: i32[B, R]; class ids 0 .. n_classes-1. Every class occurs in the context.
      n_features: i32[B], columns in use.
      n_classes: i32[B], classes in use (at least 2).
      n_context: i32[B], rows that are context.
      categorical: bool[B, F].
      cardinality: i32[B, F]; levels of a categorical column, 0 for a numeric one.
      target: f32[B, R] a numeric target of the same nodes, finite, for regression (see `priors.target.numeric_target`);
        None where it was not drawn.
      info: what the engine knows about each task besides the table (dict of arrays with leading axis B), see
        `priors.sample`.
      scm: the structural causal models behind the tasks (leading axis B) when asked for, else None.
    """

    x: jax.Array
    y: jax.Array
    n_features: jax.Array
    n_classes: jax.Array
    n_context: jax.Array
    categorical: jax.Array
    cardinality: jax.Array
    target: jax.Array | None = None
    info: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    scm: Any = None

    @property
    def n_tasks(self) -> int:
        return self.x.shape[0]


@dataclasses.dataclass(frozen=True)
class TableShape:
    """The static shape tasks are drawn into.

    Attributes:
      rows: rows of every table (context and query together), at least 8.
      columns: columns the table has room for; a task uses 1 .. columns of them.
      context: context rows of every task, or None to draw the number per task.
      least_columns: fewest columns of a task's cohort, or None for the law's own number. Close to `columns` for training, where
        padded columns cost as much as real ones.
    """

    rows: int
    columns: int
    context: int | None = None
    least_columns: int | None = None

    def __post_init__(self) -> None:
        if self.least_columns is not None and not 1 <= self.least_columns <= self.columns:
            raise ValueError(f"shape.least_columns is {self.least_columns}; it must lie in [1, columns={self.columns}]")
        if self.rows < 8:
            raise ValueError(f"shape.rows is {self.rows}; a table needs at least 8 rows")
        if self.columns < 1:
            raise ValueError(f"shape.columns is {self.columns}; a table needs at least 1 column")
        if self.context is not None and not 4 <= self.context < self.rows:
            raise ValueError(f"shape.context is {self.context}; it must lie in [4, rows={self.rows})")


def check_tasks(batch: TaskBatch) -> None:
    """Checks on the host that a batch keeps the rules every task must keep; raises ValueError naming the first break.

    Rules: no infinities; NaN only inside used columns; padded columns zero; classes 0 .. C-1 without gaps, each in the
    context, query classes among them; categorical codes integral and below their cardinality.
    """
    x, y = np.asarray(batch.x), np.asarray(batch.y)
    rows = x.shape[1]
    for b in range(x.shape[0]):
        f, c, n = int(batch.n_features[b]), int(batch.n_classes[b]), int(batch.n_context[b])
        where = f"task {b} of the batch"
        if not 1 <= f <= x.shape[2] or not 0 < n < rows or c < 2:
            raise ValueError(f"{where}: sizes out of range (columns {f}, classes {c}, context {n})")
        if np.isinf(x[b]).any():
            raise ValueError(f"{where}: x holds an infinity")
        if batch.target is not None and not np.isfinite(np.asarray(batch.target[b])).all():
            raise ValueError(f"{where}: the numeric target is not finite")
        if x[b, :, f:].any():
            raise ValueError(f"{where}: a padded column is not zero")
        if set(np.unique(y[b, :n])) != set(range(c)):
            raise ValueError(f"{where}: the context holds classes {np.unique(y[b, :n])}, expected 0..{c - 1}")
        if not set(np.unique(y[b, n:])) <= set(range(c)):
            raise ValueError(f"{where}: a query row has a class outside 0..{c - 1}")
        for j in np.flatnonzero(np.asarray(batch.categorical[b, :f])):
            codes = x[b, :, j][~np.isnan(x[b, :, j])]
            top = int(batch.cardinality[b, j])
            if ((codes != np.round(codes)) | (codes < 0) | (codes >= top)).any():
                raise ValueError(f"{where}: categorical column {j} holds codes outside 0..{top - 1}")
