"""Random directed acyclic graphs over padded node slots.

Nodes are numbered in a topological order, so every graph is a strictly upper triangular parent mask. Slots that are not
`active` have no arrows. Roots (the first slots) have no parents.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from . import keys
from .keys import Stream
from .laws import LawArrays


def _cauchy(stream: Stream, n: int) -> jax.Array:
    """P(i -> j) = sigmoid(A + B_j + C_i), all standard Cauchy: hubs, isolated nodes, near-empty and near-full graphs
    (TabICLv2, arXiv 2602.11139, appendix on the prior)."""
    cauchy = jnp.tan(jnp.pi * (keys.uniform(keys.sub(stream, 0), (2 * n + 1,)) - 0.5))
    logit = jnp.clip(cauchy[0] + cauchy[1 : n + 1][None, :] + cauchy[n + 1 :][:, None], -30, 30)
    return keys.uniform(keys.sub(stream, 1), (n, n)) < jax.nn.sigmoid(logit)


def _earlier(active: jax.Array) -> jax.Array:
    """bool[n, n]: i is an active slot before the active slot j."""
    n = active.shape[0]
    return (jnp.arange(n)[:, None] < jnp.arange(n)[None, :]) & active[:, None] & active[None, :]


def _pick_earlier(u: jax.Array, rank: jax.Array, active: jax.Array) -> jax.Array:
    """bool[n, n]: for each active j one uniformly drawn active i of lower rank."""
    wanted = jnp.floor(u * rank)
    return _earlier(active) & (rank[:, None] == wanted[None, :])


def sample_graph(stream: Stream, kind: jax.Array, active: jax.Array, is_root: jax.Array, laws: LawArrays) -> jax.Array:
    """Draws one DAG.

    Args:
      stream: this task's graph stream.
      kind: i32 scalar, index into `configs.prior.GRAPHS`. Shared by a cohort, so only one branch runs.
      active: bool[n], the slots in use.
      is_root: bool[n], slots without parents.
      laws: component laws (`edge_rate`, `redirect_rate`).

    Returns:
      bool[n, n]; entry (i, j) says that i is a parent of j. Strictly upper triangular.
    """
    n = active.shape[0]
    rank = (jnp.cumsum(active) - 1).astype(jnp.float32)
    count = jnp.maximum(jnp.sum(active), 1).astype(jnp.float32)
    u = keys.uniform(keys.sub(stream, 2), (4,))
    rate = keys.between(u[0], *laws["edge_rate"])

    def layered(_):
        per_layer = jnp.floor(keys.log_between(u[1], jnp.float32(1.0), jnp.maximum(count / 2, 1.0) + 1.0))
        layer = jnp.floor(rank / per_layer)
        near = (layer[None, :] - layer[:, None] == 1) | ((layer[None, :] == 0) & is_root[:, None])
        return near & (keys.uniform(keys.sub(stream, 3), (n, n)) < rate)

    def cauchy(_):
        return _cauchy(keys.sub(stream, 4), n)

    def erdos_renyi(_):
        sparse = rate * jnp.minimum(1.0, 4.0 / count)
        return keys.uniform(keys.sub(stream, 5), (n, n)) < jnp.where(u[1] < 0.5, sparse, rate)

    def redirection(_):
        # Growing network with redirection (Krapivsky & Redner, Phys. Rev. E 63, 066123): attach to a uniform earlier
        # node, or with some probability to that node's own first parent, up to three times.
        redirect = keys.between(u[1], *laws["redirect_rate"])
        draws = keys.uniform(keys.sub(stream, 6), (3, 2, n))
        first = _pick_earlier(draws[0, 0], rank, active)
        ancestor = (first.astype(jnp.float32) @ first.astype(jnp.float32)) > 0  # the parent's first parent
        out = jnp.zeros((n, n), bool)
        for k in range(3):
            direct = _pick_earlier(draws[k, 0], rank, active)
            onward = (first.astype(jnp.float32) @ direct.astype(jnp.float32)) > 0
            use = (draws[k, 1] < redirect) & onward.any(axis=0)
            keep = (k == 0) | (u[2] * 3 > k)
            out = out | (jnp.where(use[None, :], onward, direct) & keep)
        return out | (ancestor & (u[3] < 0.2))

    def chain(_):
        return _earlier(active) & (rank[None, :] - rank[:, None] == 1)

    def tree(_):
        return _pick_earlier(keys.uniform(keys.sub(stream, 7), (n,)), rank, active)

    parents = jax.lax.switch(kind, [layered, cauchy, erdos_renyi, redirection, chain, tree], None)
    return parents & _earlier(active) & ~is_root[None, :]


def reachability(parents: jax.Array) -> jax.Array:
    """bool[n, n]: i is j or an ancestor of j (closure by repeated squaring)."""
    n = parents.shape[0]
    reach = parents | jnp.eye(n, dtype=bool)
    for _ in range(max(1, (n - 1).bit_length())):
        r = reach.astype(jnp.float32)
        reach = (r @ r) > 0
    return reach
