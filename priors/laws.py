"""Laws as traced arrays: a mixture's components stacked, and the one a cohort draws from."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ..configs.prior import Laws, PriorConfig

LawArrays = dict[str, jax.Array]

ROOM = 8


def _numbers(value) -> np.ndarray:
    return np.asarray(dataclasses.astuple(value) if dataclasses.is_dataclass(value) else value, np.float32)


def law_arrays(prior: PriorConfig) -> LawArrays:
    """Stacks the laws of all components: every entry has leading axis C (components); `weight` is f32[C].

    The result is a pytree of plain arrays. Pass it to the sampler as a traced argument: changing any probability or
    range re-uses the compiled program. C is the number of components rounded up to a multiple of `ROOM`, filled with
    components of weight 0 (never drawn), so that priors with few components, which most are, share one program.
    """
    out = {
        f.name: np.stack([_numbers(getattr(c.laws, f.name)) for c in prior.components])
        for f in dataclasses.fields(Laws)
    }
    spare = -len(prior.components) % ROOM
    out = {k: np.concatenate([v, np.repeat(v[-1:], spare, axis=0)]) for k, v in out.items()}
    out["weight"] = np.asarray([c.weight for c in prior.components] + [0.0] * spare, np.float32)
    return {k: jnp.asarray(v) for k, v in out.items()}


def component(laws: LawArrays, index: jax.Array) -> LawArrays:
    """The laws of one component (index: traced i32 scalar)."""
    return {k: v[index] for k, v in laws.items() if k != "weight"}
