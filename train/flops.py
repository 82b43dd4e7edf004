"""How much arithmetic the network does, counted from its shapes, and how much the devices can do, measured.

Only matrix products count, a multiplication and an addition as two operations, at the padded sizes that are computed:
what a masked column or row costs is counted as work. Norms, softmax, ranks, the sampler and the optimiser are not, so that
utilisation says which share of a device's products per second goes into the network.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..configs.model import ModelConfig
from ..configs.recipe import TaskShape
from ..models.embedding import CHANNELS


def forward_flops(cfg: ModelConfig, rows: int, columns: int, context: int | None) -> int:
    """Floating-point operations of the matrix products of one forward pass over one task.

    Args:
      cfg: the network.
      rows, columns: size of the table, padding included.
      context: rows with room for context; None when any row may be one, and all are computed as both.
    """
    e, room = cfg.width, rows if context is None else context
    tokens, keys, stream = columns + 1, cfg.thinking_rows + room, cfg.thinking_rows + rows
    asked = rows if context is None else rows - context  # rows that get logits, all that the last block asks for
    projection = 2 * tokens * e * e  # of one row
    over_columns = stream * (4 * projection + 4 * tokens * tokens * e)
    key_value = 2 * keys * projection

    def over_rows(queries: int) -> int:
        return queries * (2 * projection + 4 * tokens * keys * e + 4 * tokens * e * cfg.hidden)

    # The last block asks for no other rows than those with logits, unless rows meet once more after it.
    after_last = rows if cfg.row_layers else asked
    trunk = cfg.layers * (over_columns + key_value) + (cfg.layers - 1) * over_rows(stream) + over_rows(after_last)
    wide = 2 * e
    keys_of_rows, each = 4 * room * wide * wide, 4 * wide * wide + 4 * room * wide + 8 * wide * cfg.hidden
    trunk += cfg.row_layers * keys_of_rows + (max(cfg.row_layers - 1, 0) * rows + (asked if cfg.row_layers else 0)) * each
    inner = cfg.decoder_hidden
    decoder = 2 * asked * inner * (2 * e + cfg.max_classes)
    if cfg.decoder == "retrieval":
        decoder = 2 * (asked + room) * 2 * e * inner + 2 * asked * room * (inner + cfg.max_classes)
    return _embedding(cfg, rows, columns) + trunk + decoder


def training_flops(cfg: ModelConfig, shape: TaskShape) -> int:
    """Operations of one task's forward and backward pass; what the backward pass computes again is not counted.

    A product has two in the backward pass, one per operand; the embedding has one, since nothing below it learns.
    """
    return 3 * forward_flops(cfg, shape.rows, shape.all_columns, shape.fixed_context) - _embedding(cfg, shape.rows, shape.all_columns)


def _embedding(cfg: ModelConfig, rows: int, columns: int) -> int:
    cells = 2 * rows * columns * CHANNELS * len(cfg.group_offsets) * cfg.width
    labels = 2 * 2 * rows * cfg.max_classes * cfg.width
    return cells + labels


def tokens(shape: TaskShape) -> int:
    """Tokens of one task: its cells and one label a row, padding included, thinking rows not."""
    return shape.rows * (shape.all_columns + 1)


def measure_roofline(devices: list[jax.Device], dtype: Any, size: int | None = None, repeats: int = 7) -> float:
    """Operations a second of square matrix products on all devices at once, the best of ``repeats``.

    Args:
      devices: each multiplies matrices of its own.
      dtype: of the operands.
      size: rows of a matrix; None for 1024 on a CPU and 8192 elsewhere.
    """
    on_cpu = devices[0].platform == "cpu"
    size = size or (1024 if on_cpu else 8192)
    chain = 2 if on_cpu else 8  # products a call, so that the call itself costs nothing
    mesh = Mesh(np.asarray(devices), ("d",))
    spread = PartitionSpec("d")
    sharding = NamedSharding(mesh, spread)

    def products(a: jax.Array, b: jax.Array) -> jax.Array:
        for _ in range(chain):
            a = jnp.matmul(a, b)
        return a

    program = jax.jit(jax.shard_map(products, mesh=mesh, in_specs=(spread, spread), out_specs=spread, check_vma=False))
    shape = (len(devices), size, size)
    # Random numbers: GPUs multiply constants faster, having fewer bits to switch.
    a = np.random.default_rng(0).standard_normal(shape, np.float32) / np.float32(np.sqrt(size))
    a = jax.device_put(a, sharding).astype(dtype)
    jax.block_until_ready(program(a, a))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(program(a, a))
        best = min(best, time.perf_counter() - start)
    return len(devices) * chain * 2 * size**3 / best
