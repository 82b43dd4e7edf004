"""Observations and interventions side by side: what trainers of causal-discovery networks read.

AVICI (arXiv 2205.12934) and its successors learn graphs from rows of which some were drawn under known interventions; they
read a graph, a table and a mask of intervened cells. With the preset `causal` every node is a scalar and all are observed,
so the graph is over exactly the columns of the table.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..configs.prior import PriorConfig
from . import keys
from .propagate import Intervention
from .scm import SCM, sample_nodes
from .stream import checked_ids, sample


class InterventionalBatch(NamedTuple):
    """Rows of B models over N nodes (those past `active` are zero everywhere).

    Attributes:
      g: bool[B, N, N]; (i, j): i is a cause of j. Strictly upper triangular: shuffle nodes before training.
      x: f32[B, R, N]; the first `observed` rows are observations, then one group of rows per intervention.
      interv: bool[B, R, N]; the cells that were set from outside.
      active: bool[B, N].
    """

    g: jax.Array
    x: jax.Array
    interv: jax.Array
    active: jax.Array


def interventional(
    prior: PriorConfig,
    seed: int = 0,
    task_ids=range(8),
    *,
    observed: int = 128,
    interventions: int = 8,
    rows_each: int = 16,
    spread: float = 2.0,
) -> InterventionalBatch:
    """Draws models, observations and hard interventions on single nodes, each on rows (units) of its own.

    Every intervention picks a node in use at random and sets it, row by row the same, to a normal value with standard
    deviation `spread`. Which node and value is a function of (seed, task id, number of the intervention).

    Args:
      prior: laws.node_width must be (1, 1) in every component (preset `causal`).
      seed, task_ids: as in `priors.sample`.
      observed: rows without intervention, at least 1.
      interventions, rows_each: groups of rows under intervention; 0 interventions for observations alone.

    Returns:
      InterventionalBatch with R = observed + interventions * rows_each rows.

    Raises:
      ValueError: vector-valued nodes; counts, ids or `seed` out of range; a `spread` that is negative or not finite.
    """
    for component in prior.components:
        if component.weight > 0 and component.laws.node_width != (1.0, 1.0):
            raise ValueError(
                f"component {component.name}: laws.node_width is {component.laws.node_width}; scalar nodes need (1, 1). "
                "Start from load_prior('causal')."
            )
    if observed < 1 or interventions < 0 or rows_each < 1:
        raise ValueError(
            f"observed {observed}, interventions {interventions}, rows_each {rows_each}: need at least 1, 0 and 1"
        )
    if not (math.isfinite(spread) and spread >= 0):
        raise ValueError(f"spread is {spread}; it must be finite and not negative")
    ids, key = checked_ids(task_ids), keys.seed_key(seed)
    scm = sample(prior, seed, ids, rows=64, columns=8, with_scm=True).scm  # the table itself is not used
    active = scm.plan.active
    groups = [_rows(scm, np.arange(observed), None)]
    masks = [jnp.zeros((len(ids), observed, active.shape[1]), bool)]
    for k in range(interventions):
        node, value = _choose(key, jnp.asarray(ids, jnp.uint32), jnp.uint32(k), active, spread)
        hot = jax.nn.one_hot(node, active.shape[1], dtype=jnp.float32)[:, :, None]
        hot = jnp.broadcast_to(hot, (*hot.shape[:2], scm.sizes.width))
        first = observed + k * rows_each
        groups.append(_rows(scm, np.arange(first, first + rows_each), Intervention(1.0 - hot, hot * value[:, None, None])))
        masks.append(jnp.broadcast_to(hot[:, None, :, 0] > 0, (len(ids), rows_each, active.shape[1])))
    return InterventionalBatch(scm.parents, jnp.concatenate(groups, 1), jnp.concatenate(masks, 1), active)


def _rows(scm: SCM, rows: np.ndarray, do: Intervention | None) -> jax.Array:
    """f32[B, r, N]: the first coordinate of every node."""
    return jnp.swapaxes(sample_nodes(scm, rows, do)[:, :, 0], 1, 2)


@jax.jit
def _choose(key: jax.Array, ids: jax.Array, k: jax.Array, active: jax.Array, spread: float):
    """The node i32[B] and value f32[B] of intervention k of every task."""
    stream = jax.vmap(lambda i: keys.sub(keys.sub(keys.task_stream(key, i), keys.Purpose.INTERVENTIONS), k))(ids)
    u = jax.vmap(lambda s: keys.uniform(s, (2,)))(stream)
    return keys.choose(u[:, 0], active.astype(jnp.float32)), spread * keys.to_normal(u[:, 1])
