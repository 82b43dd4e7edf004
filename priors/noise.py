"""Exogenous noise by row address: the noise of row r is a function of (task, node, r) alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from . import keys
from .keys import Stream


def rows_uniform(stream: Stream, rows: jax.Array) -> jax.Array:
    """f32 uniforms in (0, 1). stream: words of shape [...]; rows: u32[r] row addresses. Returns [..., r]."""
    return keys.to_uniform(keys.bits(Stream(stream.a[..., None], stream.b[..., None]), rows))


def rows_normal(stream: Stream, rows: jax.Array) -> jax.Array:
    return keys.to_normal(rows_uniform(stream, rows))


def _laplace(u: jax.Array) -> jax.Array:
    centred = u - 0.5
    return -jnp.sign(centred) * jnp.log(jnp.maximum(1.0 - 2.0 * jnp.abs(centred), 1e-7)) * (0.5**0.5)


def _student_t4(u: jax.Array) -> jax.Array:
    """Student t with 4 degrees of freedom in closed form (W. T. Shaw, J. Comput. Finance 9(4), 2006), unit variance."""
    alpha = jnp.clip(4.0 * u * (1.0 - u), 1e-6, 1.0)
    root = jnp.sqrt(alpha)
    q = jnp.cos(jnp.arccos(root) / 3.0) / root
    return jnp.sign(u - 0.5) * jnp.sqrt(2.0 * jnp.maximum(q - 1.0, 0.0))


def _mixture(u: jax.Array) -> jax.Array:
    """Nine parts narrow, one part wide normal (a contaminated normal), unit variance. The part is read off the uniform's
    low digits, the value off the uniform itself."""
    wide = jnp.mod(u * 65536.0, 1.0) < 0.1
    return keys.to_normal(u) * jnp.where(wide, 2.4, 0.6843)


def noise_from_uniform(kind: jax.Array, u: jax.Array) -> jax.Array:
    """Unit-variance noise of family `kind` (index into `configs.prior.NOISES`, shared by the block) from uniforms."""
    families = (keys.to_normal, _laplace, _student_t4, lambda u: (u - 0.5) * 12.0**0.5, _mixture)
    return jax.lax.switch(kind, families, u)
