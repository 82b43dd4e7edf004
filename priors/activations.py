"""The bank of scalar activations of random networks and roots. One call evaluates one member on a whole array."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda x: x,
    "tanh": jnp.tanh,
    "relu": lambda x: jnp.maximum(x, 0.0),
    "leaky_relu": lambda x: jnp.where(x > 0, x, 0.1 * x),
    "elu": lambda x: jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0.0)) - 1.0),
    "silu": lambda x: x * jax.nn.sigmoid(x),
    "softplus": lambda x: jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x))),
    "hard_tanh": lambda x: jnp.clip(x, -1.0, 1.0),
    "relu6": lambda x: jnp.clip(x, 0.0, 6.0),
    "sigmoid": jax.nn.sigmoid,
    "sign": jnp.sign,
    "step": lambda x: (x > 0).astype(x.dtype),
    "gaussian": lambda x: jnp.exp(-x * x),
    "exponential": lambda x: jnp.exp(jnp.clip(x, -10.0, 3.0)),
    "window": lambda x: (jnp.abs(x) <= 1.0).astype(x.dtype),
    "sine": jnp.sin,
    "cosine": lambda x: jnp.cos(2.0 * x),
    "square": lambda x: x * x,
    "absolute": jnp.abs,
    "log_absolute": lambda x: jnp.log(jnp.maximum(jnp.abs(x), 1e-3)),
    "round": jnp.round,
    "sawtooth": lambda x: x - jnp.floor(x),
    "signed_root": lambda x: jnp.sign(x) * jnp.sqrt(jnp.abs(x)),
    "cube": lambda x: x * x * x,
    "logit_bump": lambda x: x / (1.0 + x * x),
}
N_ACTIVATIONS = len(ACTIVATIONS)
_BANK = tuple(ACTIVATIONS.values())


def activate(index: jax.Array, x: jax.Array) -> jax.Array:
    """Applies activation `index` (i32 scalar shared by the block, so only that branch runs); |result| <= 1e4."""
    return jnp.clip(jax.lax.switch(index, _BANK, jnp.clip(x, -50.0, 50.0)), -1e4, 1e4)
