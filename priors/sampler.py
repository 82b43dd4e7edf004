"""From keys to tables: blocks of tasks, sampled inside jit."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ..configs.prior import PriorConfig, Sizes
from . import keys
from .corrupt import disturb, missing_mask
from .device import abreast
from .laws import LawArrays, law_arrays
from .learnability import select_learnable
from .observe import observe
from .plan import crowded, plan_cohort, plan_task
from .propagate import noise_share, propagate, row_addresses
from .scm import SCM
from .target import assign_classes, label_columns, numeric_target, settle_classes
from .task import TableShape, TaskBatch

LANES = 8
"""Tasks in one compiled block unless told otherwise; part of the promise of equal bits."""
UNIT = 8
"""Neighbouring task ids of one cohort. Part of the engine version."""
SPREAD = 64
"""Cohorts that neighbouring runs of ids cycle through. Part of the engine version."""


def block_tasks(sizes: Sizes, lanes: int, block: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The task ids u32[lanes] of a block, and the cohort they belong to.

    Ids run through `SPREAD` cohorts in runs of `UNIT`: tasks 0-7 belong to cohort 0, tasks 8-15 to cohort 1, and so on, then
    cohort 0 again; so a batch of neighbours is diverse. Blocks of up to `UNIT` lanes are neighbours, wider blocks (for
    wide devices) gather several runs of one cohort.
    """
    runs = sizes.cohort // UNIT
    block = block.astype(jnp.uint32)
    if lanes <= UNIT:
        ids = block * jnp.uint32(lanes) + jnp.arange(lanes, dtype=jnp.uint32)
        run = ids[0] // jnp.uint32(UNIT)
        return ids, run // jnp.uint32(SPREAD * runs) * jnp.uint32(SPREAD) + run % jnp.uint32(SPREAD)
    per_cohort = jnp.uint32(sizes.cohort // lanes)
    cohort = block // per_cohort
    member = block % per_cohort * jnp.uint32(lanes) + jnp.arange(lanes, dtype=jnp.uint32)
    run = member // jnp.uint32(UNIT)
    window, inside = cohort // jnp.uint32(SPREAD), cohort % jnp.uint32(SPREAD)
    return ((window * jnp.uint32(runs) + run) * jnp.uint32(SPREAD) + inside) * jnp.uint32(UNIT) + member % jnp.uint32(
        UNIT
    ), cohort


def locate(sizes: Sizes, lanes: int, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The block and lane of every task id: the inverse of `block_tasks`, on the host."""
    ids = np.asarray(ids, np.int64)
    if lanes <= UNIT:
        return ids // lanes, ids % lanes
    runs = sizes.cohort // UNIT
    run, offset = ids // UNIT, ids % UNIT
    window, place = run // (SPREAD * runs), run % (SPREAD * runs)
    cohort = window * SPREAD + place % SPREAD
    member = place // SPREAD * UNIT + offset
    return cohort * (sizes.cohort // lanes) + member // lanes, member % lanes


def sample_block(
    sizes: Sizes, shape: TableShape, lanes: int, with_scm: bool, laws: LawArrays, key: jax.Array, block: jax.Array
) -> TaskBatch:
    """Samples the tasks of one block (see `block_tasks`). Pure; `block` is a traced u32 scalar.

    `lanes` must divide `sizes.cohort`. A task depends on (sizes, shape, laws, key, task id) alone.
    """
    ids, cohort_id = block_tasks(sizes, lanes, block)
    cohort, law = plan_cohort(sizes, shape, laws, keys.cohort_stream(key, cohort_id))
    stream = jax.vmap(lambda i: keys.task_stream(key, i))(ids)
    plan = jax.vmap(lambda s: plan_task(sizes, shape, cohort, law, s))(stream)

    every = row_addresses(sizes, shape.rows)
    rows = every[sizes.reference_rows :]
    values, params = propagate(sizes, cohort, plan, law, stream, every)
    columns, cardinality = observe(sizes, cohort, plan, law, stream, every, values)
    y, score, moments, label_noise = assign_classes(sizes, cohort, plan, law, stream, every, values, columns)
    target = numeric_target(stream, rows, score, moments)
    reference, shown = columns[..., : sizes.reference_rows], columns[..., sizes.reference_rows :]
    columns = disturb(cohort, law, stream, rows, reference, shown, cardinality == 0)

    def blank(x):
        return jnp.where(missing_mask(cohort, plan, law, stream, rows, reference, shown), jnp.nan, x)

    columns = jax.lax.cond(cohort.missing > 0, blank, lambda x: x, columns)
    order, y, n_classes, settled = settle_classes(plan, stream, rows, y, score, sizes.classes, crowded(sizes, shape))
    columns = jax.lax.cond(
        (order != jnp.arange(shape.rows, dtype=jnp.int32)).any(),
        lambda x: jnp.take_along_axis(x, order[:, None, :], axis=2),
        lambda x: x,
        columns,
    )
    target = jnp.take_along_axis(target, order, axis=1)
    each = lambda v: jnp.broadcast_to(v, (lanes,))
    read = label_columns(sizes, cohort, plan, stream, settled.fallback)
    n_label_columns = jnp.sum(read, axis=1).astype(jnp.int32)
    by_nodes = (n_label_columns == 0) & (settled.fallback < 2)
    info = {
        "task_id": ids,
        "component": each(cohort.component),
        "graph": each(cohort.graph),
        "target": each(cohort.target),
        "missing": each(cohort.missing),
        "n_nodes": jnp.sum(plan.active, axis=1).astype(jnp.int32),
        "n_edges": jnp.sum(plan.parents, axis=(1, 2)).astype(jnp.int32),
        "n_causes": jnp.where(by_nodes, plan.n_causes, n_label_columns),
        "n_effects": jnp.where(by_nodes, plan.n_effects, 0),
        "label_noise": label_noise,
        "noise_share": noise_share(sizes, plan, stream),
        "fallback": settled.fallback,
    }
    scm = None
    if with_scm:
        shared = jax.tree.map(lambda v: jnp.broadcast_to(v, (lanes, *v.shape)), (cohort, law))
        scm = SCM(*shared, plan, params, stream, values[..., : sizes.reference_rows], order, settled, sizes)
    return TaskBatch(
        x=jnp.swapaxes(columns, 1, 2),
        y=y,
        n_features=plan.n_features,
        n_classes=n_classes,
        n_context=plan.n_context,
        categorical=cardinality > 0,
        cardinality=cardinality,
        target=target,
        info=info,
        scm=scm,
    )


def sample_blocks(
    sizes: Sizes, shape: TableShape, lanes: int, with_scm: bool, laws: LawArrays, key: jax.Array, blocks: jax.Array,
    wanted: jax.Array | None = None,
) -> TaskBatch:  # fmt: skip
    """Samples several blocks (blocks: u32[n]); the result has n * lanes tasks.

    With `wanted` (i32 scalar, may be traced) only the first so many blocks need be sampled and the rest of the result is
    anything: one compiled program serves any number of blocks up to n. On a CPU a loop, not a vmap: a block's branches stay
    scalars, and its working set stays in cache. On an accelerator blocks go side by side (`abreast`).
    """
    one = lambda b: sample_block(sizes, shape, lanes, with_scm, laws, key, b)
    flat = lambda tree: jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), tree)
    count = blocks.shape[0]
    together = abreast(count, lanes * shape.rows * shape.columns)
    if together == count > 1:
        return flat(jax.vmap(one)(blocks))
    if together > 1:
        block, one = one, lambda group: flat(jax.vmap(block)(group))
        blocks, count = blocks.reshape(-1, together), count // together
        wanted = None if wanted is None else -(-wanted // together)
    out = jax.tree.map(
        lambda v: jnp.zeros((count, *v.shape), v.dtype), jax.eval_shape(one, jax.ShapeDtypeStruct(blocks.shape[1:], blocks.dtype))
    )

    def body(i, out):
        return jax.tree.map(lambda o, v: jax.lax.dynamic_update_index_in_dim(o, v, i, 0), out, one(blocks[i]))

    # The barrier hides the trip count: a loop known to run once would be inlined and fused with what surrounds it, and its
    # sums would round otherwise than in a longer loop.
    trips = jax.lax.optimization_barrier(jnp.int32(count) if wanted is None else jnp.minimum(wanted, count))
    return flat(jax.lax.fori_loop(0, trips, body, out))


def _lanes(prior: PriorConfig, tasks: int) -> int:
    """The lanes of a training stream unless told otherwise."""
    if not isinstance(tasks, numbers.Integral) or tasks < 1:
        raise ValueError(f"tasks is {tasks!r}; a batch needs at least 1, a whole number")
    return min(LANES // 2 if prior.oversample > 1 else LANES, prior.sizes.cohort, int(tasks) & -int(tasks))


def candidates(prior: PriorConfig, tasks: int, lanes: int | None = None) -> int:
    """Task ids that one step of a training stream of `tasks` tasks uses up."""
    lanes = _lanes(prior, tasks) if lanes is None else lanes
    return math.ceil(tasks * prior.oversample / lanes) * lanes


def make_sampler(
    prior: PriorConfig, shape: TableShape, tasks: int, lanes: int | None = None, with_scm: bool = False
) -> Callable[..., TaskBatch]:
    """Builds the training stream of a prior: ``sampler(key, step, laws=None) -> TaskBatch`` with `tasks` tasks.

    The sampler is pure and jittable; `step` is a traced integer and steps never repeat a task (up to 2**32 of them). `laws`
    (see `law_arrays`) may be given to change probabilities without recompiling. With `prior.oversample` above 1 that many
    times more candidates are drawn and the learnable ones kept (`learnability.select_learnable`).

    Raises:
      ValueError: if `lanes` (default: the largest power of two up to 8 dividing `tasks`) does not divide both
        `tasks` and the cohort.
    """
    sizes = prior.sizes
    lanes = _lanes(prior, tasks) if lanes is None else lanes
    if tasks % lanes or sizes.cohort % lanes:
        raise ValueError(f"lanes is {lanes}; it must divide tasks ({tasks}) and sizes.cohort ({sizes.cohort})")
    default = law_arrays(prior)
    count = candidates(prior, tasks, lanes) // lanes

    def sampler(key: jax.Array, step: jax.Array, laws: LawArrays | None = None) -> TaskBatch:
        place = jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(count) + jnp.arange(count, dtype=jnp.uint32)
        batch = sample_blocks(sizes, shape, lanes, with_scm, default if laws is None else laws, key, place)
        return select_learnable(batch, tasks, sizes.classes) if prior.oversample > 1 else batch

    return sampler
