"""The compiled programs of a run, one for each table shape, made side by side."""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections.abc import Callable
from typing import Any

import jax

from ..configs.prior import PriorConfig
from ..configs.recipe import Recipe, TaskShape
from .step import make_dispatch
from .tasks import SamplerFactory


def compile_programs(
    recipe: Recipe, prior: PriorConfig, sampler_factory: SamplerFactory, devices: list[jax.Device],
    arguments: tuple[Any, ...], say: Callable[[str], None],
) -> list[Any]:  # fmt: skip
    """Compiles the dispatch of every shape of a recipe for ``arguments``, in the order of the shapes.

    Args:
      say: told of every program when it is done, with the seconds that tracing and compiling it took.
    """
    shapes = recipe.shapes

    def traced(shape: TaskShape) -> tuple[Any, float]:
        began = time.monotonic()
        return make_dispatch(recipe, shape, prior, sampler_factory, devices).lower(*arguments), time.monotonic() - began

    def compiled(lowered: Any, seconds: float) -> tuple[Any, float]:
        began = time.monotonic()
        return lowered.compile(), seconds + time.monotonic() - began

    programs: list[Any] = [None] * len(shapes)
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(len(shapes), os.cpu_count() or 1)) as pool:
        # Tracing is Python, one thread at a time; compiling is not, and need not wait for the last one to be traced.
        running = {pool.submit(compiled, *traced(shape)): i for i, shape in enumerate(shapes)}
        for future in concurrent.futures.as_completed(running):
            i = running[future]
            programs[i], seconds = future.result()
            say(f"program {i + 1} of {len(shapes)} ({shapes[i].rows} rows, {shapes[i].columns} columns) compiled in {seconds:.0f} s")
    return programs
