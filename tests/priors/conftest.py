"""One compiled training sampler for all tests of the prior: laws are traced, so it serves every law, member and seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pytest
from priorax.configs import load_prior
from priorax.priors import TableShape, law_arrays, make_sampler


class Compiled(NamedTuple):
    """A sampler of 32 tasks of 64 rows and 8 columns: ``run(key, step, laws)``, with the laws of `default`'s components."""

    run: Callable
    traces: list  # grows by one with every trace

    def alike(self, laws):
        """Laws of one component, as those of every component of `default`."""
        count = len(load_prior("default").components)
        return {k: np.repeat(np.asarray(v)[:1], count, axis=0) for k, v in laws.items()}


@pytest.fixture(scope="session")
def training_sampler() -> Compiled:
    traces = []
    sampler = make_sampler(load_prior("default"), TableShape(64, 8), 32)

    def run(key, step, laws):
        traces.append(1)
        return sampler(key, step, laws)

    return Compiled(jax.jit(run), traces)


@pytest.fixture(scope="session")
def graph_scm_laws() -> dict:
    return {k: np.asarray(v) for k, v in law_arrays(load_prior("graph_scm")).items()}
