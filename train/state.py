"""Everything a run must remember on the device."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ..configs.recipe import Recipe
from ..models.network import init_params
from .optimizer import make_optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """State of a run, a pytree; with the recipe and the seed it decides everything that follows.

    Attributes:
      step: i32[]; optimiser steps done, skipped ones included.
      horizon: i32[]; steps the learning rate is planned for.
      skipped: i32[]; steps whose loss or gradients were not finite and that changed nothing else.
      streak: i32[]; how many of the last steps in a row were skipped.
      params: the weights (nested dict of f32).
      average: their exponential average, what is validated and saved.
      opt_state: state of the optimiser.
    """

    step: jax.Array
    horizon: jax.Array
    skipped: jax.Array
    streak: jax.Array
    params: dict[str, Any]
    average: dict[str, Any]
    opt_state: Any


def init_state(recipe: Recipe, seed: int, horizon: int, params: dict[str, Any] | None = None) -> TrainState:
    """A fresh state; weights from ``seed``, or those given."""
    if params is None:
        params = init_params(recipe.model, seed)

    def zero() -> jax.Array:  # one buffer each: a donated state must not hold the same buffer twice
        return jnp.zeros((), jnp.int32)

    return TrainState(
        step=zero(),
        horizon=jnp.asarray(horizon, jnp.int32),
        skipped=zero(),
        streak=zero(),
        params=params,
        average=jax.tree.map(jnp.copy, params),
        opt_state=make_optimizer(recipe.train).init(params),
    )
