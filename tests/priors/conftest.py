"""One compiled sampler for all tests of the prior: laws are traced, so it serves every law, member and seed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from priorax.configs import load_prior
from priorax.priors import TableShape, law_arrays
from priorax.priors.stream import _compiled

TASKS = 32


class Compiled:
    """The program behind ``sample(rows=64, columns=8)``, run with other laws: 32 tasks a step."""

    def __init__(self):
        self.components = len(law_arrays(load_prior("default"))["weight"])
        self.program = _compiled(load_prior("default").sizes, TableShape(64, 8), 8, False)

    def __call__(self, key, step, laws):
        blocks = jnp.arange(8, dtype=jnp.uint32) + jnp.uint32(step * TASKS // 8)
        batch = self.program(laws, key, blocks, jnp.int32(TASKS // 8))
        return jax.tree.map(lambda v: jnp.asarray(np.asarray(v)[:TASKS]), batch)

    def alike(self, laws):
        """Laws of one component, as those of every component the program was compiled for."""
        return {k: np.repeat(np.asarray(v)[:1], self.components, axis=0) for k, v in laws.items()}


@pytest.fixture(scope="session")
def compiled() -> Compiled:
    return Compiled()


@pytest.fixture(scope="session")
def graph_scm_laws() -> dict:
    return {k: np.asarray(v) for k, v in law_arrays(load_prior("graph_scm")).items()}
