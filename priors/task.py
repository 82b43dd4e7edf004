"""The one type that leaves the prior: a batch of labelled tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
      least_context: fewest context rows; every task then draws its number log-uniformly from here to `context`. None: all have
        `context`.
    """

    rows: int
    columns: int
    context: int | None = None
    least_columns: int | None = None
    least_context: int | None = None

    def __post_init__(self) -> None:
        if self.least_columns is not None and not 1 <= self.least_columns <= self.columns:
            raise ValueError(f"shape.least_columns is {self.least_columns}; it must lie in [1, columns={self.columns}]")
        if self.rows < 8:
            raise ValueError(f"shape.rows is {self.rows}; a table needs at least 8 rows")
        if self.columns < 1:
            raise ValueError(f"shape.columns is {self.columns}; a table needs at least 1 column")
        if self.context is not None and not 4 <= self.context < self.rows:
            raise ValueError(f"shape.context is {self.context}; it must lie in [4, rows={self.rows})")
        if self.least_context is not None and (self.context is None or not 4 <= self.least_context <= self.context):
            raise ValueError(f"shape.least_context is {self.least_context}; it must lie in [4, context={self.context}]")


def check_tasks(batch: TaskBatch) -> None:
    """Checks on the host that a batch keeps the rules every task must keep; raises ValueError naming the first break.

    Rules: no infinities; NaN only inside used columns; padded columns zero; classes 0 .. C-1 without gaps, each in the
    context, query classes among them; categorical codes integral and below their cardinality.
    """
    host = jax.device_get(dataclasses.replace(batch, scm=None, info={}))
    x, y, cardinality = host.x, host.y, host.cardinality
    tasks, rows, columns = x.shape
    f, c, n = (np.asarray(v).astype(np.int64) for v in (host.n_features, host.n_classes, host.n_context))

    def refuse(bad: np.ndarray, why: Callable[[int], str]) -> None:
        """bad: bool[B]; the first task that breaks the rule is named."""
        if bad.any():
            b = int(np.argmax(bad))
            raise ValueError(f"task {b} of the batch: {why(b)}")

    refuse(
        (f < 1) | (f > columns) | (n < 1) | (n >= rows) | (c < 2),
        lambda b: f"sizes out of range (columns {f[b]}, classes {c[b]}, context {n[b]})",
    )
    refuse(np.isinf(x).any((1, 2)), lambda b: "x holds an infinity")
    if host.target is not None:
        refuse(~np.isfinite(host.target).all(1), lambda b: "the numeric target is not finite")
    used = np.arange(columns) < f[:, None]
    # NaN is not zero either: a missing value in a padded column is refused too.
    refuse(((x != 0).any(1) & ~used).any(1), lambda b: "a padded column is not zero")
    context = np.arange(rows) < n[:, None]
    outside = (y < 0) | (y >= c[:, None])
    refuse((outside & ~context).any(1), lambda b: f"a query row has a class outside 0..{c[b] - 1}")
    most = int(c.max())
    seen = np.zeros((tasks, most + 1), bool)
    seen[np.arange(tasks)[:, None], np.where(context & ~outside, y, most)] = True
    lacking = (~seen[:, :most] & (np.arange(most) < c[:, None])).any(1)
    refuse(
        lacking | (outside & context).any(1),
        lambda b: f"the context holds classes {np.unique(y[b, : n[b]])}, expected 0..{c[b] - 1}",
    )
    coded = host.categorical & used
    with np.errstate(invalid="ignore"):
        wrong = ~np.isnan(x) & ((x != np.round(x)) | (x < 0) | (x >= cardinality[:, None, :]))
    wrong = wrong.any(1) & coded
    first = lambda b: int(np.argmax(wrong[b]))
    refuse(
        wrong.any(1),
        lambda b: f"categorical column {first(b)} holds codes outside 0..{cardinality[b, first(b)] - 1}",
    )
