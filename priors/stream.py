"""The host-side ways in: `sample` for chosen task ids, `stream` for an endless run of batches."""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ..configs.prior import PriorConfig
from . import keys
from .compiling import compiler_options
from .device import on_cpu
from .laws import law_arrays
from .learnability import learnability
from .sampler import LANES, candidates, locate, make_sampler, sample_blocks
from .task import TableShape, TaskBatch

MAX_TASK_ID = 2**32 - 1


CHUNK, WIDE_CHUNK = 8, 64
"""Blocks a call of the compiled program, on a CPU and on an accelerator; fewer run where fewer are asked for, on a CPU one by one."""


@functools.lru_cache(maxsize=32)
def _compiled(sizes, shape: TableShape, lanes: int, with_scm: bool):
    def run(laws, key, blocks, wanted):
        return sample_blocks(sizes, shape, lanes, with_scm, laws, key, blocks, wanted)

    return jax.jit(run, compiler_options=compiler_options())


@functools.lru_cache(maxsize=8)
def _scorer(classes: int):
    return jax.jit(lambda batch: learnability(batch, classes), compiler_options=compiler_options())


def checked_ids(task_ids: Iterable[int]) -> np.ndarray:
    """Task ids as i64[n].

    Raises:
      ValueError: none, or something else than whole numbers in [0, 2**32).
    """
    try:
        ids = np.asarray(list(task_ids))
    except (TypeError, ValueError):
        raise ValueError(f"task_ids is {task_ids!r}; give a list of whole numbers, e.g. range(64)") from None
    if ids.size == 0:
        raise ValueError("task_ids is empty; ask for at least one task")
    if ids.ndim != 1:
        raise ValueError(f"task_ids has the shape {ids.shape}; give a list of one axis")
    # Numbers beyond 64 bits make an array of objects.
    if ids.dtype.kind not in "iu" and not (ids.dtype == object and all(isinstance(i, int) for i in ids)):
        raise ValueError(f"task_ids are of type {ids.dtype}, the first is {ids[0]!r}; they must be whole numbers")
    if ids.min() < 0 or ids.max() > MAX_TASK_ID:
        raise ValueError(f"task_ids reach from {ids.min()} to {ids.max()}; they must lie in [0, 2**32)")
    return ids.astype(np.int64)


def sample(
    prior: PriorConfig,
    seed: int = 0,
    task_ids: Iterable[int] = range(64),
    *,
    rows: int = 256,
    columns: int = 20,
    context: int | None = None,
    with_scm: bool = False,
    score: bool = False,
    lanes: int = LANES,
) -> TaskBatch:
    """Samples the named tasks of a seed. Task k is the same whatever else is asked for beside it.

    Args:
      prior: from `load_prior`.
      seed: any integer in [0, 2**63).
      task_ids: integers in [0, 2**32), any order, repeats allowed.
      rows, columns, context: the table shape (see `TableShape`); part of what a task is.
      with_scm: also return the structural causal models (`batch.scm`), about 120 KB a task at the default sizes.
      score: also say how much of each task can be learned (`info` gets learnability_z and learnability_r2, see
        `priors.learnability`); costs several times the sampling itself.
      lanes: tasks computed together. Equal bits are promised for equal lanes, JAX version and kind of device; another
        value changes last bits only.

    Returns:
      TaskBatch with one task per id, in the order given. `info` holds task_id, component (index into ``prior.components``), graph and
      target (into `GRAPHS` and `TARGETS` of `configs.prior`), missing (0 none, else 1 + the index into its `MISSINGNESS`), n_nodes,
      n_edges, n_causes and n_effects (columns upstream of the target's nodes or on one, and downstream of one: where two nodes decide and
      one descends from the other, a column may count twice; for a class that reads columns, a rule or a sum, their number and 0),
      label_noise, noise_share (of the target node's variance, by the plan; 0 for a root, 1 for a node without parents; it
      says nothing where the class reads columns) and fallback (0 none, 1 class by a median split, 2 class at random, when a
      task's rows all fell into one class; n_causes and n_effects are of what made the class then). Where `context` has fewer
      rows than a task has classes, those without a context row are merged with others.

    Raises:
      ValueError: for ids, seed or shape out of range.
    """
    ids, key = checked_ids(task_ids), keys.seed_key(seed)
    if lanes < 1 or prior.sizes.cohort % lanes:
        raise ValueError(f"lanes is {lanes}; it must divide sizes.cohort ({prior.sizes.cohort})")
    shape = TableShape(rows, columns, context)
    block, lane = locate(prior.sizes, lanes, ids)
    blocks, inverse = np.unique(block, return_inverse=True)
    run = _compiled(prior.sizes, shape, lanes, with_scm)
    laws = law_arrays(prior)
    parts, size = [], CHUNK if on_cpu() else WIDE_CHUNK
    for start in range(0, len(blocks), size):
        chunk = blocks[start : start + size]
        padded = np.pad(chunk, (0, size - len(chunk)), mode="edge")
        part = run(laws, key, jnp.asarray(padded, jnp.uint32), jnp.int32(len(chunk)))
        if score:
            z, r2 = _scorer(prior.sizes.classes)(dataclasses.replace(part, scm=None))
            part = dataclasses.replace(part, info=part.info | {"learnability_z": z, "learnability_r2": r2})
        parts.append(part)
    place = inverse.reshape(-1) * lanes + lane
    if len(parts) == 1 and np.array_equal(place, np.arange(size * lanes)):
        return parts[0]

    # On the host: picked out on the device, every field would compile two small programs for every number of tasks.
    def picked(*values: jax.Array) -> jax.Array:
        return jnp.asarray(np.concatenate([np.asarray(v) for v in values])[place])

    return jax.tree.map(picked, *parts)


def stream(
    prior: PriorConfig,
    seed: int = 0,
    *,
    tasks: int = 64,
    rows: int = 256,
    columns: int = 20,
    context: int | None = None,
    start: int = 0,
) -> Iterator[TaskBatch]:
    """Yields batches of `tasks` tasks; batch `start + n` is the same in every run.

    For use on the host. Inside a training step call `make_sampler` and keep everything on the device.

    Raises:
      ValueError: for a seed, shape, number of tasks or `start` out of range, at once; and, in the place of a batch, when the
        2**32 tasks of the seed are used up.
    """
    drawn = candidates(prior, tasks)
    last = 2**32 // drawn
    if not isinstance(start, numbers.Integral) or not 0 <= start < last:
        raise ValueError(
            f"start is {start!r}; a seed has {last:,} batches of {drawn} tasks drawn, so it must be a whole number in [0, {last})"
        )
    sampler = make_sampler(prior, TableShape(rows, columns, context), tasks)
    sampler = jax.jit(sampler, compiler_options=compiler_options())
    key = keys.seed_key(seed)

    def batches() -> Iterator[TaskBatch]:
        for step in range(int(start), last):
            yield sampler(key, jnp.uint32(step))
        raise ValueError(f"batch {last:,}: the 2**32 tasks of seed {seed} are used up; go on with another seed")

    return batches()
