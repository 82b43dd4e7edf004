"""The optimiser: Muon for the matrices of the trunk, AdamW for the rest, one learning-rate curve for both.

Muon (K. Jordan, 2024; optax.contrib.muon) orthogonalises the momentum of a matrix. Trunk matrices are stacked over
layers and query, key and value projections are separate leaves, so each matrix of each layer is orthogonalised by
itself. ``consistent_rms`` 0.2 gives every update the size AdamW would (Moonlight, arXiv 2502.16982, section 2.2).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from ..configs.train import TrainConfig


def make_optimizer(cfg: TrainConfig) -> optax.GradientTransformation:
    """Clipping, then Muon and AdamW, both at a rate of 1 relative to `learning_rate`.

    The caller multiplies the updates by the current rate: the rate then depends on a horizon that is data, so that
    changing it recompiles nothing.
    """
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip),
        muon(
            learning_rate=1.0,
            beta=cfg.muon_momentum,
            weight_decay=cfg.muon_weight_decay,
            adam_b2=cfg.adam_b2,
            adam_weight_decay=cfg.adam_weight_decay,
            adam_learning_rate=cfg.adam_learning_rate / cfg.learning_rate,
            muon_weight_dimension_numbers=trunk_matrices,
            consistent_rms=0.2,
        ),
    )


def trunk_matrices(params: dict[str, Any]) -> dict[str, Any]:
    """Which leaves Muon trains: the stacked matrices [layer, in, out] of the trunk and of layers over rows; None elsewhere."""
    spec = MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    flat, tree = jax.tree_util.tree_flatten_with_path(params)
    chosen = [spec if path[0].key in ("blocks", "row_blocks") and leaf.ndim == 3 else None for path, leaf in flat]
    return jax.tree.unflatten(tree, chosen)


def learning_rate(cfg: TrainConfig, step: jax.Array, horizon: jax.Array) -> jax.Array:
    """The rate of step ``step`` (i32, from 0) of a run of ``horizon`` steps (i32), f32."""
    done = step.astype(jnp.float32) / jnp.maximum(horizon.astype(jnp.float32), 1.0)
    done = jnp.clip(done, 0.0, 1.0)
    warm = jnp.minimum(1.0, (step.astype(jnp.float32) + 1.0) / max(cfg.warmup_steps, 1))
    if cfg.schedule == "cosine":
        shape = 0.5 * (1.0 + jnp.cos(jnp.pi * done))
    else:
        shape = jnp.minimum(1.0, (1.0 - done) / cfg.decay) if cfg.decay > 0 else jnp.float32(1.0)
    return cfg.learning_rate * warm * (cfg.final_rate + (1.0 - cfg.final_rate) * shape)
