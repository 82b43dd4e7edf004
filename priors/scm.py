"""The structural causal model behind a task: sample it anew, intervene on it, ask counterfactual questions.

Exogenous noise is addressed by row (see `keys`), so "the same units under another world" is the same row addresses with an
intervention: abduction is exact by construction, and rows that the intervention does not reach are bitwise unchanged.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..configs.prior import COMBINES, FAMILIES, NUMERIC_COLUMNS, ROOTS, Sizes
from .activations import ACTIVATIONS
from .compiling import jit
from .corrupt import disturb
from .device import each
from .keys import Stream
from .laws import LawArrays
from .observe import observe
from .plan import CohortPlan, TaskPlan
from .propagate import REFERENCE_ROWS, Intervention, MechanismParams, propagate
from .target import Settled, assign_classes, label_columns, settled_classes

MOST_VALUE = 1e4
"""Size that an intervention may give a node; mechanisms end there too."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SCM:
    """Structural causal models of B tasks (every array has leading axis B; `task(i)` picks one).

    Nodes are vectors of up to `sizes.width` coordinates in padded topological order: roots first, then one slot per
    instruction. A node in use has `plan.active`; `plan.parents[i, j]` says that node i is read by node j's mechanism, not
    that it has an effect: a deep tree may split on none of a parent's coordinates. Roots of the kind `grouped` share one group for
    every row, a common cause that is no node (no `grouped` in the preset `causal`).
    Columns show coordinates of nodes (`node_of_column`), the class is decided by `target_nodes`, or by columns where the
    target is a rule or a sum over them (`label_columns`).
    """

    cohort: CohortPlan
    law: LawArrays
    plan: TaskPlan
    params: MechanismParams
    stream: Stream
    reference: jax.Array  # f32[B, N * W, m]
    order: jax.Array  # i32[B, R], table row -> row address
    settled: Settled  # what was done to the classes for the table to keep its rules
    sizes: Sizes = dataclasses.field(metadata=dict(static=True))

    @property
    def n_tasks(self) -> int:
        return self.plan.active.shape[0]

    @property
    def parents(self) -> jax.Array:
        """bool[B, N, N]; lag 0. A model with lags would stack further masks on a leading lag axis."""
        return self.plan.parents

    @property
    def node_of_column(self) -> jax.Array:
        """i32[B, F]; -1 for padded columns and for irrelevant ones, which show noise of their own."""
        f = self.plan.column_node.shape[-1]
        used = (jnp.arange(f) < self.plan.n_features[..., None]) & (self.cohort.column != _IRRELEVANT)
        return jnp.where(used, self.plan.column_node, -1)

    @property
    def target_nodes(self) -> jax.Array:
        """i32[B, 2]; the nodes whose values decide the class (equal when it is one); -1 where it is a coin's."""
        return jnp.where(self.settled.fallback[..., None] < 2, self.plan.target_node, -1)

    def task(self, i: int) -> SCM:
        """The model of task i alone, still with a leading axis of 1."""
        if not -self.n_tasks <= i < self.n_tasks:
            raise IndexError(f"task {i} of {self.n_tasks}")
        i = i % self.n_tasks
        return jax.tree.map(lambda v: v[i : i + 1], self)

    def sample(self, rows: int | np.ndarray, do: Intervention | None = None) -> dict[str, jax.Array]:
        """Draws rows of the (intervened) model.

        Args:
          rows: how many rows (addresses 0 .. rows-1, the ones the task's own table was made of), or u32 row addresses.
            Asking for the same addresses again, with another `do`, gives the same units in another world.
          do: an intervention from `do()`, or None.

        Returns:
          dict of `nodes` f32[B, N, W, r], `columns` f32[B, r, F] (rounding and outliers included, before values go missing) and `y` i32[B, r] (class codes before the table renames
          them). Where the rows of the table all fell into one class, `y` splits the score where the table did, or throws the
          table's coin, which no intervention moves; classes that the table merged for want of context rows are merged.

        Raises:
          ValueError: ``rows`` is not a whole number, or addresses are not whole numbers in [0, 2**32).
        """
        asked = rows if isinstance(rows, jax.core.Tracer) else np.asarray(rows)
        whole = np.dtype(asked.dtype).kind in "iu" and asked.ndim <= 1
        if not whole or not isinstance(asked, jax.core.Tracer) and ((asked < 0).any() or (asked >= 2**32).any()):
            raise ValueError(f"rows is {rows!r}; give how many, or row addresses: whole numbers from 0 to 2**32 - 1")
        address = jnp.arange(rows, dtype=jnp.uint32) if np.ndim(rows) == 0 else jnp.asarray(rows, jnp.uint32)
        return _sample(self, address, _nothing(self) if do is None else do)

    def do(self, assignments: Mapping[Any, float], *, shift: bool = False) -> Intervention:
        """Builds an intervention for `sample`.

        Args:
          assignments: {node: value} or {(node, dimension): value}; a node alone sets all its coordinates. Values are on the
            standardised scale of nodes (mean 0, variance 1 in the observed world).
          shift: add the values instead of setting them.

        Raises:
          ValueError: for a node or dimension outside the model, or a value that is not finite or beyond `MOST_VALUE` in size.
        """
        n, w = self.sizes.nodes, self.sizes.width
        keep, add = np.ones((n, w), np.float32), np.zeros((n, w), np.float32)
        for where, value in assignments.items():
            node, *rest = where if isinstance(where, tuple) else (where,)
            dims = rest or range(w)
            if len(dims) not in (1, w) or not all(isinstance(v, numbers.Integral) for v in (node, *dims)):
                raise ValueError(
                    f"do({where!r}): write a node as a whole number, or (node, dimension). Columns cannot be set; `node_of_column` "
                    "says which node a column shows"
                )
            if not 0 <= node < n or not all(0 <= d < w for d in dims):
                raise ValueError(f"do({where!r}): the model has nodes 0..{n - 1} with dimensions 0..{w - 1}")
            if not bool(np.asarray(self.plan.active)[:, node].all()):
                raise ValueError(f"do({where!r}): node {node} is not in use in this task")
            if not isinstance(value, numbers.Real) or not abs(value) <= MOST_VALUE:
                raise ValueError(
                    f"do({where!r}): value {value!r} is not a number from {-MOST_VALUE:g} to {MOST_VALUE:g}; nodes have variance 1"
                )
            for d in dims:
                keep[node, d], add[node, d] = (1.0 if shift else 0.0), value
        tile = lambda v: jnp.broadcast_to(v, (self.n_tasks, n, w))
        return Intervention(tile(keep), tile(add))

    def counterfactual(self, rows: int | np.ndarray, do: Intervention) -> tuple[dict, dict]:
        """The same units in the observed world and under `do`: two results of `sample` with equal exogenous noise."""
        return self.sample(rows), self.sample(rows, do)

    def describe(self, i: int = 0) -> list[dict[str, Any]]:
        """Plain description of task i's nodes in use: parents, mechanism, activation, noise, columns shown, and whether the class
        reads the node itself (``target``; see `label_columns` where it reads columns).

        ``noise_level`` is a standard deviation beside the mechanism's 1; each coordinate multiplies it by a normal number of
        its own. A node without parents is noise and nothing else."""
        plan, cohort = (jax.tree.map(lambda v: np.asarray(v[i]), t) for t in (self.plan, self.cohort))
        names, reads_nodes, targets = list(ACTIVATIONS), not self.label_columns(i), np.asarray(self.target_nodes[i])
        out = []
        for node in np.flatnonzero(plan.active):
            entry: dict[str, Any] = {"node": int(node), "parents": np.flatnonzero(plan.parents[:, node]).tolist()}
            if node < self.sizes.roots:
                entry |= {"kind": "root", "law": ROOTS[cohort.root[node]], "activation": names[cohort.root_activation[node]]}
            else:
                mine = [s for s in range(cohort.n_instructions) if cohort.end[s] + self.sizes.roots == node]
                entry |= {
                    "kind": "mechanism" if entry["parents"] else "noise",
                    "combine": COMBINES[cohort.combine[mine[0]]],
                    "families": [FAMILIES[cohort.family[s]] for s in mine],
                    "activations": [names[cohort.activation[s]] for s in mine],
                    "noise_level": float(plan.noise_level[node]) if entry["parents"] else 1.0,
                }
            used = (np.arange(len(plan.column_node)) < plan.n_features) & (cohort.column != _IRRELEVANT)
            entry["columns"] = np.flatnonzero(used & (plan.column_node == node)).tolist()
            entry["target"] = reads_nodes and bool(node in targets)
            out.append(entry)
        return out

    def to_networkx(self, i: int = 0):
        """Task i as a networkx.DiGraph over nodes, columns ("x0", ...) and the target ("y").

        Latent nodes are integers with the fields of `describe`. A graph that DoWhy reads: pass it to
        `dowhy.gcm.StructuralCausalModel`.

        Raises:
          ImportError: if networkx is not installed.
        """
        try:
            import networkx
        except ImportError as error:
            raise ImportError('to_networkx needs networkx: pip install "priorax[plots]"') from error
        graph = networkx.DiGraph()
        graph.add_node("y")  # no arrow may lead to it
        for entry in self.describe(i):
            graph.add_node(entry["node"], **{k: v for k, v in entry.items() if k not in ("node", "parents")})
            graph.add_edges_from((p, entry["node"]) for p in entry["parents"])
            graph.add_edges_from((entry["node"], f"x{c}") for c in entry["columns"])
            if entry["target"]:
                graph.add_edge(entry["node"], "y")
        graph.add_nodes_from(f"x{c}" for c in range(int(self.plan.n_features[i])))  # irrelevant ones have no arrows
        graph.add_edges_from((f"x{c}", "y") for c in self.label_columns(i))
        return graph

    def label_columns(self, i: int = 0) -> list[int]:
        """Columns that task i's class reads, where it is a rule or a sum over columns; empty where it reads nodes or nothing."""
        one = self.task(i)
        return np.flatnonzero(np.asarray(label_columns(one.sizes, one.cohort, one.plan, one.stream, one.settled.fallback))[0]).tolist()


_IRRELEVANT = NUMERIC_COLUMNS.index("irrelevant")


def _nothing(scm: SCM) -> Intervention:
    shape = (scm.n_tasks, scm.sizes.nodes, scm.sizes.width)
    return Intervention(jnp.ones(shape), jnp.zeros(shape))


def sample_nodes(scm: SCM, rows: np.ndarray, do: Intervention | None = None) -> jax.Array:
    """Node coordinates f32[B, N, W, r] alone, for row addresses `rows` (u32[r]); see `SCM.sample`."""
    return _sample_nodes(scm, jnp.asarray(rows, jnp.uint32), _nothing(scm) if do is None else do)


@jit
def _sample_nodes(scm: SCM, rows: jax.Array, do: Intervention) -> jax.Array:
    def one(args):
        cohort, law, *each = args
        plan, params, stream, do = (jax.tree.map(lambda v: v[None], t) for t in each)
        values, _ = propagate(scm.sizes, cohort, plan, law, stream, rows, params, do)
        return values.reshape(scm.sizes.nodes, scm.sizes.width, -1)

    return each(one, (scm.cohort, scm.law, scm.plan, scm.params, scm.stream, do), rows.size * scm.sizes.nodes)


@jit
def _sample(scm: SCM, rows: jax.Array, do: Intervention) -> dict[str, jax.Array]:
    sizes, m = scm.sizes, scm.sizes.reference_rows
    addresses = jnp.concatenate([jnp.arange(m, dtype=jnp.uint32) + jnp.uint32(REFERENCE_ROWS), rows])

    def one(args):
        cohort, law, plan, params, stream, reference, settled, do = args
        lane = lambda t: jax.tree.map(lambda v: v[None], t)
        plan, params, stream, do = lane(plan), lane(params), lane(stream), lane(do)
        values, _ = propagate(sizes, cohort, plan, law, stream, rows, params, do)
        both = jnp.concatenate([reference[None], values], axis=2)
        columns, cardinality = observe(sizes, cohort, plan, law, stream, addresses, both)
        y, score, _, _ = assign_classes(sizes, cohort, plan, law, stream, addresses, both, columns)
        y = settled_classes(lane(settled), stream, rows, y, score)
        table = disturb(cohort, law, stream, rows, columns[..., :m], columns[..., m:], cardinality == 0)
        nodes = values.reshape(sizes.nodes, sizes.width, -1)
        return {"nodes": nodes, "columns": table[0].T, "y": y[0]}

    given = (scm.cohort, scm.law, scm.plan, scm.params, scm.stream, scm.reference, scm.settled, do)
    return each(one, given, rows.size * scm.sizes.nodes)
