"""The device that arrays of this package land on unless told otherwise, and how much of it one program should fill."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax

T = TypeVar("T")

MAX_CELLS = 1 << 27
"""Cells of tables that an accelerator samples at once; the sampler holds some hundred bytes for each."""

MAX_BATCH = 2**16 - 1
"""Products of small matrices that an accelerator does as one batch: cuBLAS takes fewer than 2^16."""


def default_device() -> jax.Device:
    """The one chosen with ``jax.default_device`` or ``jax_default_device``, else the first of the default platform.

    `jax.default_backend` knows nothing of that choice: on a machine with a GPU it says so inside
    ``with jax.default_device(jax.devices("cpu")[0])`` too.
    """
    chosen = jax.config.jax_default_device
    if chosen is None:
        return jax.local_devices()[0]
    return jax.local_devices(backend=chosen)[0] if isinstance(chosen, str) else chosen


def on_cpu() -> bool:
    """Whether that device is a CPU."""
    return default_device().platform == "cpu"


def abreast(count: int, cells: int, products: int = 1) -> int:
    """How many of ``count`` equal pieces of work, with tables of ``cells`` cells and ``products`` of small matrices each, to do side
    by side.

    On a CPU one, whose working set stays in cache and whose branches and loops end where they may. An accelerator spends
    its time on starting kernels, thousands for a block of tasks however few these are; there it is as many as `MAX_CELLS`
    and `MAX_BATCH` allow, among the divisors of ``count``.
    """
    if on_cpu():
        return 1
    most = max(1, min(count, MAX_CELLS // max(cells, 1), MAX_BATCH // max(products, 1)))
    return max(n for n in range(1, most + 1) if count % n == 0)


def trips(needed: jax.Array, most: int) -> jax.Array | int:
    """How often a loop runs whose body changes nothing from ``needed`` on: so often on a CPU, ``most`` times elsewhere.

    Where blocks go side by side (`abreast`) each would have an end of its own, and a loop that waits for the last one copies all it
    carries, in every round and for every block, to hold back those that are done.
    """
    return needed if on_cpu() else most


def each(function: Callable[..., T], xs: object, cells: int, products: int = 1) -> T:
    """``function`` of every entry along the first axis of ``xs``, results stacked, `abreast` of one another."""
    count = jax.tree.leaves(xs)[0].shape[0]
    together = abreast(count, cells, products)
    if together == 1:
        return jax.lax.map(function, xs)
    if together == count:
        return jax.vmap(function)(xs)
    grouped = jax.tree.map(lambda a: a.reshape(count // together, together, *a.shape[1:]), xs)
    out = jax.lax.map(jax.vmap(function), grouped)
    return jax.tree.map(lambda a: a.reshape(count, *a.shape[2:]), out)
