"""Stage one: the plan of a task, integers and small laws only. The plan is the true causal graph.

Tasks come in cohorts of `sizes.cohort` ids. A cohort shares what decides *which code runs*: the component of
the mixture, the numbers of roots and instructions, the family and activation of every instruction, the kinds of columns
and target. Everything else (graph, wiring, weights, noise, columns, target node, classes, sizes) is each task's own. So
inside a block of tasks every branch index is a scalar, XLA runs just the branch that is needed and just as many
instructions as there are, on a CPU as on a GPU; under one wide `vmap` it would compute every branch for every task.

A node is computed by one instruction when its parents are concatenated, or by several, one per parent, whose outputs are
folded by a sum, product, maximum or log-sum-exp. The last one closes the node.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..configs.prior import CATEGORICAL_COLUMNS, FAMILIES, NUMERIC_COLUMNS, Sizes
from . import keys
from .activations import N_ACTIVATIONS
from .graph import reachability, sample_graph
from .keys import Purpose, Stream
from .laws import LawArrays, component
from .task import TableShape

MAX_PARTS = 4


class CohortPlan(NamedTuple):
    """What the tasks of a cohort share. S instructions, F columns; scalars unless said."""

    component: jax.Array
    graph: jax.Array
    n_roots: jax.Array
    n_instructions: jax.Array
    root: jax.Array  # i32[roots], kind of each root's base law
    root_activation: jax.Array  # i32[roots]
    family: jax.Array  # i32[S]
    activation: jax.Array  # i32[S]
    combine: jax.Array  # i32[S], how the instruction folds into its node
    part: jax.Array  # i32[S], 0 for the first instruction of a node
    closes: jax.Array  # bool[S]
    end: jax.Array  # i32[S], the instruction that closes this one's node
    noise: jax.Array
    n_columns: jax.Array  # no task of the cohort has more
    column: jax.Array  # i32[F]: numeric kinds first, then categorical ones
    duplicate: jax.Array  # bool[F]: a near-copy of an earlier column
    target: jax.Array
    rule: jax.Array
    missing: jax.Array  # 0 none, else 1 + index into MISSINGNESS
    outliers: jax.Array  # bool
    rounded: jax.Array  # bool


class TaskPlan(NamedTuple):
    """What is one task's own. N node slots, S instructions, P inputs, F columns."""

    active: jax.Array  # bool[N]
    parents: jax.Array  # bool[N, N], (i, j): i is read by j's mechanism
    inputs: jax.Array  # i32[S, P], node * width + dimension
    has_parents: jax.Array  # bool[S]
    width: jax.Array  # i32[N], dimensions of a node in use
    noise_level: jax.Array  # f32[N], standard deviation beside the mechanism's unit variance
    heteroscedastic: jax.Array  # f32[N], 0 or the strength
    n_features: jax.Array
    column_node: jax.Array  # i32[F]
    column_dim: jax.Array  # i32[F, 2], flat coordinates
    column_mix: jax.Array  # f32[F], weight of the second coordinate
    column_source: jax.Array  # i32[F], the column a near-copy copies, else itself
    duplicate_noise: jax.Array  # f32[F], noise added to a near-copy
    target_node: jax.Array  # i32[2]; the second equals the first when one node decides the class
    n_causes: jax.Array  # columns whose node is the target's node or an ancestor of it
    n_effects: jax.Array  # columns whose node descends from the target's
    n_classes: jax.Array  # wanted; classes that no row falls into are dropped later
    n_context: jax.Array


def plan_cohort(sizes: Sizes, shape: TableShape, laws: LawArrays, stream: Stream) -> tuple[CohortPlan, LawArrays]:
    """Draws what a cohort shares, and the laws of its component."""
    s, f = sizes.instructions, shape.columns
    u = keys.uniform(keys.sub(stream, 0), (16,))
    index = keys.choose(u[0], laws["weight"])
    law = component(laws, index)
    n_instructions = jnp.minimum(keys.log_integer(u[1], *law["instructions"]), s)
    n_roots = jnp.minimum(keys.log_integer(u[2], *law["roots"]), sizes.roots)

    # A cohort favours a few families: weights times exp(spread * N(0, 1)).
    spread = keys.between(u[3], *law["family_spread"])
    tilt = jnp.exp(spread * keys.normal(keys.sub(stream, 1), law["family"].shape))
    family = keys.choose(keys.uniform(keys.sub(stream, 2), (s,)), law["family"] * tilt)

    fold = keys.choose(keys.uniform(keys.sub(stream, 3), (s,)), law["combine"])
    more = keys.uniform(keys.sub(stream, 4), (s,)) < 0.6

    def step(carry, x):
        op, part, open_ = carry
        i, wish_i, more_i = x
        op = jnp.where(open_, op, wish_i)
        part = jnp.where(open_, part + 1, 0)
        last = i >= n_instructions - 1
        closes = last | (op == 0) | (part >= MAX_PARTS - 1) | ((part > 0) & ~more_i)
        return (op, part, ~closes), (op, part, closes)

    start = (jnp.int32(0), jnp.int32(0), jnp.bool_(False))
    _, (combine, part, closes) = jax.lax.scan(step, start, (jnp.arange(s), fold, more))
    position = jnp.where(closes, jnp.arange(s), s - 1)
    end = jax.lax.cummin(position, axis=0, reverse=True)

    columns_u = jnp.where(u[4] < law["columns_log"], 1.0, 0.0)
    wish = law["columns_least"] if shape.least_columns is None else jnp.float32(shape.least_columns)
    least = jnp.minimum(wish, float(f))
    n_log = keys.log_integer(u[5], least, jnp.float32(f))
    n_flat = jnp.floor(keys.between(u[5], least, f + 1.0)).astype(jnp.int32)
    n_columns = jnp.clip(jnp.where(columns_u > 0, n_log, n_flat), 1, f)

    share = jnp.clip(keys.between(u[6], *law["categorical_share"]), 0.0, 1.0)
    column_u = keys.uniform(keys.sub(stream, 5), (f, 3))
    # Columns of a real table tend to be of a kind (all counts, all shares, all amounts): weights are tilted as for families.
    spread = keys.between(u[15], *law["column_spread"])
    tilted = lambda i, weights: weights * jnp.exp(spread * keys.normal(keys.sub(stream, i), weights.shape))
    numeric = keys.choose(column_u[:, 1], tilted(10, law["numeric_column"]))
    categorical = keys.choose(column_u[:, 2], tilted(11, law["categorical_column"])) + law["numeric_column"].shape[0]

    is_categorical = column_u[:, 0] < share
    duplicate_u = keys.uniform(keys.sub(stream, 8), (f,))
    copies = jnp.where(u[13] < law["duplicate_rate"], keys.between(u[14], *law["duplicate_share"]), 0.0)
    corrupt_u = keys.uniform(keys.sub(stream, 9), (2,))

    root_u = keys.uniform(keys.sub(stream, 6), (sizes.roots, 3))
    root_activation = jnp.floor(root_u[:, 1] * N_ACTIVATIONS).astype(jnp.int32)
    missing = jnp.where(u[7] < law["missing_rate"], 1 + keys.choose(u[8], law["missing"]), 0)
    plan = CohortPlan(
        component=index,
        graph=keys.choose(u[9], law["graph"]),
        n_roots=n_roots,
        n_instructions=n_instructions,
        root=keys.choose(root_u[:, 0], law["root"]),
        root_activation=jnp.where(root_u[:, 2] < law["root_activation_rate"], root_activation, 0),
        family=family,
        activation=jnp.floor(keys.uniform(keys.sub(stream, 7), (s,)) * N_ACTIVATIONS).astype(jnp.int32),
        combine=combine,
        part=part,
        closes=closes,
        end=end,
        noise=keys.choose(u[10], law["noise"]),
        n_columns=n_columns,
        column=jnp.where(is_categorical, categorical, numeric),
        duplicate=(duplicate_u < copies) & ~is_categorical & (jnp.arange(f) > 0),
        target=keys.choose(u[11], law["target"]),
        rule=keys.choose(u[12], law["rule"]),
        missing=missing,
        outliers=corrupt_u[0] < law["outlier_rate"],
        rounded=corrupt_u[1] < law["rounding_rate"],
    )
    return plan, law


def most_classes(sizes: Sizes, shape: TableShape) -> int:
    """Classes that a task of this shape wants at most."""
    return min(sizes.classes, shape.rows // 4)


def crowded(sizes: Sizes, shape: TableShape) -> bool:
    """Whether the context may hold fewer rows than a task has classes: a fixed context can, a drawn one cannot."""
    fixed = shape.context is not None and shape.least_context is None
    return fixed and shape.context < most_classes(sizes, shape)


def plan_task(sizes: Sizes, shape: TableShape, cohort: CohortPlan, law: LawArrays, stream: Stream) -> TaskPlan:
    """Draws one task's own plan (vmapped over the tasks of a block)."""
    n, s, w, f = sizes.nodes, sizes.instructions, sizes.width, shape.columns
    slot = jnp.arange(n)
    is_root = slot < sizes.roots
    alive = jnp.arange(s) < cohort.n_instructions
    active = jnp.concatenate([slot[: sizes.roots] < cohort.n_roots, alive & cohort.closes])
    wanted = sample_graph(keys.sub(stream, Purpose.GRAPH), cohort.graph, active, is_root, law)

    # Inputs: instruction k of a node reads its parents in rotation, so that all are read (as far as inputs reach)
    # without a sort. A concatenating node rotates over its inputs, an aggregating one over its instructions.
    node = sizes.roots + cohort.end  # [S]
    mine = wanted[:, node].T  # [S, N] parents of each instruction's node
    rank = jnp.cumsum(mine, axis=1)
    degree = rank[:, -1]
    inputs_stream = keys.sub(stream, Purpose.INPUTS)
    offset_u = keys.uniform(keys.sub(inputs_stream, 0), (s,))[cohort.end]  # one rotation per node
    offset = jnp.floor(offset_u * degree).astype(jnp.int32)
    place = jnp.where(cohort.combine[:, None] == 0, jnp.arange(sizes.inputs)[None, :], cohort.part[:, None])
    wanted_rank = (place + offset[:, None]) % jnp.maximum(degree, 1)[:, None]  # [S, P]
    pick = mine[:, None, :] & (rank[:, None, :] == wanted_rank[:, :, None] + 1)  # [S, P, N]
    parent = jnp.sum(pick * slot, axis=-1).astype(jnp.int32)

    nodes_u = keys.uniform(keys.sub(stream, Purpose.NODES), (n, 4))
    width = keys.log_integer(nodes_u[:, 0], *law["node_width"])
    dim_u = keys.uniform(keys.sub(inputs_stream, 1), (s, sizes.inputs))
    inputs = parent * w + jnp.floor(dim_u * width[parent]).astype(jnp.int32)
    has_parents = degree > 0
    read = (pick & alive[:, None, None]).any(axis=1)  # [S, N]
    belongs = (node[:, None] == slot[None, :]) & alive[:, None]  # [S, N]
    parents = (read.astype(jnp.float32).T @ belongs.astype(jnp.float32)) > 0

    noisy = nodes_u[:, 1] >= law["noiseless_rate"]
    noise_level = jnp.where(noisy, keys.log_between(nodes_u[:, 2], *law["noise_level"]), 0.0)
    heteroscedastic = jnp.where(nodes_u[:, 3] < law["heteroscedastic_rate"], 0.9, 0.0)

    # Columns: distinct coordinates of the carrier nodes while they last, then the same ones again.
    u = keys.uniform(keys.sub(stream, Purpose.TABLE), (12,))
    n_features = jnp.maximum(jnp.ceil(cohort.n_columns * keys.between(u[0], 0.7, 1.0)), 1).astype(jnp.int32)
    column_stream = keys.sub(stream, Purpose.COLUMNS)
    carrier_share = keys.between(u[1], *law["carriers"])
    carrier_u = keys.uniform(keys.sub(column_stream, 0), (n,))
    # A clique of carriers: those nearest in topological order to a random node, instead of scattered ones.
    position = jnp.cumsum(active) - 1
    total = jnp.sum(active)
    far = jnp.abs(position - u[6] * total) / total
    carrier_u = jnp.where(u[7] < law["clique_rate"], jnp.clip(1.5 * far + 0.01 * carrier_u, 0.0, 1.0), carrier_u)
    carrier = active & ((carrier_u < carrier_share) | (carrier_u <= jnp.min(jnp.where(active, carrier_u, 2.0))))
    free = (carrier[:, None] & (jnp.arange(w)[None, :] < width[:, None])).reshape(-1)
    score = keys.uniform(keys.sub(column_stream, 1), (n * w,)) + jnp.where(free, 0.0, 2.0)
    order = jnp.argsort(score)
    column_u = keys.uniform(keys.sub(column_stream, 2), (f, 3))
    flat = order[jnp.arange(f) % jnp.maximum(jnp.sum(free), 1)]
    column_node = (flat // w).astype(jnp.int32)
    second = column_node * w + jnp.floor(column_u[:, 0] * width[column_node]).astype(jnp.int32)
    again = jnp.arange(f) >= jnp.sum(free)
    mix = jnp.where((column_u[:, 1] < law["mix_rate"]) | again, 2.0 * column_u[:, 2] - 1.0, 0.0)

    # A column with many levels shows the coordinate that a `levels` mechanism reads, where there is one.
    reader = (cohort.family == FAMILIES.index("levels")) & alive & has_parents
    many = cohort.column == len(NUMERIC_COLUMNS) + CATEGORICAL_COLUMNS.index("many")
    many_u = keys.uniform(keys.sub(column_stream, 3), (f, 3))
    read_by = keys.choose(many_u[:, 0], jnp.broadcast_to(reader.astype(jnp.float32), (f, s)))
    flat = jnp.where(many & reader.any(), inputs[read_by, 0], flat)
    mix = jnp.where(many, 0.0, mix)
    source = jnp.where(cohort.duplicate, jnp.floor(many_u[:, 1] * jnp.arange(f)).astype(jnp.int32), jnp.arange(f))
    for _ in range((f - 1).bit_length()):
        source = source[source]  # a copy of a copy is a copy of the first one
    flat, second, mix = flat[source], second[source], mix[source]
    column_node = (flat // w).astype(jnp.int32)
    duplicate_noise = jnp.where(cohort.duplicate, keys.log_between(many_u[:, 2], *law["duplicate_noise"]), 0.0)

    # Target: a node with parents that shares an ancestor with some column, where there is one.
    reach = reachability(parents)
    linked = (reach & (reach & carrier[None, :]).any(axis=1)[:, None]).any(axis=0) & active
    target_u = keys.uniform(keys.sub(stream, Purpose.TARGET), (n, 2))
    prefer = jnp.where(parents.any(axis=0), 2.0, 0.0) + jnp.where(linked, 4.0, 0.0) + jnp.where(active, 8.0, 0.0)
    target = jnp.argmax(prefer[:, None] + target_u, axis=0).astype(jnp.int32)
    target_node = jnp.where(u[2] < 0.3, target, target[0])
    used = (jnp.arange(f) < n_features) & (cohort.column != NUMERIC_COLUMNS.index("irrelevant"))
    causes = jnp.sum((reach[:, target_node[0]] | reach[:, target_node[1]])[column_node] & used)
    effects = (reach[target_node[0]] & (slot != target_node[0])) | (reach[target_node[1]] & (slot != target_node[1]))
    effects = jnp.sum(effects[column_node] & used)

    most = most_classes(sizes, shape)
    many = keys.log_integer(u[3], jnp.float32(min(3, most)), jnp.float32(most))
    n_classes = jnp.where(u[4] < law["classes_two_rate"], 2, many)
    if shape.context is None:
        n_context = jnp.round(shape.rows * keys.between(u[5], *law["context"])).astype(jnp.int32)
        n_context = jnp.clip(n_context, max(most, 4), shape.rows - 1)
    elif shape.least_context is not None:
        n_context = keys.log_integer(u[5], jnp.float32(shape.least_context), jnp.float32(shape.context))
        # Every class occurs in the context; two rows a class in the mean, that there is something to learn from.
        n_classes = jnp.minimum(n_classes, jnp.maximum(n_context // 2, 2))
    else:
        n_context = jnp.int32(shape.context)
    return TaskPlan(
        active=active, parents=parents, inputs=inputs, has_parents=has_parents, width=width, noise_level=noise_level,
        heteroscedastic=heteroscedastic, n_features=n_features, column_node=column_node,
        column_dim=jnp.stack([flat.astype(jnp.int32), second], axis=1), column_mix=mix, column_source=source,
        duplicate_noise=duplicate_noise, target_node=target_node, n_causes=causes.astype(jnp.int32),
        n_effects=effects.astype(jnp.int32),
        n_classes=n_classes, n_context=n_context,
    )  # fmt: skip
