"""How the large programs of this package are compiled: on a CPU, in a way that takes a fraction of the time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .device import on_cpu

_ON_CPU = {"xla_cpu_use_fusion_emitters": False}


def compiler_options() -> dict[str, bool]:
    """For ``jax.jit(program, compiler_options=compiler_options())``; empty on other platforms than CPU.

    XLA's CPU backend can make its fused kernels in two ways. The newer one, its default, gives every fusion an MLIR context
    and keeps all of them until the program is done; what a new one costs grows with how many there are, and a sampler or
    a training step has hundreds of fusions. The older one has no such cost and, for these programs, gives the same bits at the
    same speed (docs/training.md, "Compiling"). A jaxlib that does not know the option gets none.
    """
    return dict(_ON_CPU) if on_cpu() and _is_known() else {}


@functools.cache
def _is_known() -> bool:
    try:
        jax.jit(lambda x: x, compiler_options=_ON_CPU).lower(np.float32(0)).compile()
    except jax.errors.JaxRuntimeError:  # "No such compile option"
        return False
    return True


def jit(fun: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    """``jax.jit(fun, **settings)`` with `compiler_options`, which JAX takes at the top level only.

    Inside another traced function the options are left to whoever compiles that one. No device is asked for before the
    first call, so it can be used when a module is imported.
    """
    inner = jax.jit(fun, **settings)

    @functools.cache
    def outer() -> Callable[..., Any]:
        return jax.jit(fun, compiler_options=compiler_options(), **settings)

    @functools.wraps(fun)
    def call(*args: Any) -> Any:
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args))
        return (inner if traced else outer())(*args)

    call.lower = lambda *args: outer().lower(*args)
    return call
