"""Measures the training step of a recipe: sampling, gradients and update in one program."""

from __future__ import annotations

import statistics
import time
from typing import Any


def train_point(name: str, settings: dict[str, str], repeats: int, seed: int) -> dict[str, Any]:
    """One benchmark point per recipe, its first table shape: rates over dispatches, compile time apart.

    ``sampling_share`` compares the median dispatch with the sampler alone on the same tasks.
    """
    import jax
    import jax.numpy as jnp

    from priorax.configs import load_prior, load_recipe
    from priorax.priors import TableShape, make_sampler
    from priorax.train.state import init_state
    from priorax.train.step import make_dispatch, pick_devices, place

    jax.config.update("jax_enable_compilation_cache", False)
    recipe = load_recipe(name, overrides=settings)
    shape, steps = recipe.shapes[0], recipe.train.steps_per_dispatch
    prior, devices, key = load_prior(recipe.prior), pick_devices(recipe), jax.random.key(seed)
    state = place(init_state(recipe, seed, 10**6), devices)
    start = time.perf_counter()
    program = make_dispatch(recipe, shape, prior, make_sampler, devices)
    program = program.lower(state, key, jnp.bool_(True), jnp.uint32(0)).compile()
    compile_s = time.perf_counter() - start

    def dispatch() -> float:
        nonlocal state
        begin = time.perf_counter()
        state, numbers = program(state, key, jnp.bool_(True), jnp.uint32(0))
        jax.block_until_ready(numbers)
        return time.perf_counter() - begin

    dispatch()
    seconds = [dispatch() for _ in range(repeats)]
    sampler = jax.jit(
        make_sampler(prior, TableShape(shape.rows, shape.columns, shape.context, shape.least_columns), shape.tasks)
    )
    jax.block_until_ready(sampler(key, jnp.uint32(0)))
    begin = time.perf_counter()
    for k in range(steps):
        jax.block_until_ready(sampler(key, jnp.uint32(k)))
    alone = time.perf_counter() - begin
    rates = [steps * shape.tasks / s for s in seconds]
    memory = program.memory_analysis()
    peak = None if memory is None else round((memory.temp_size_in_bytes + memory.output_size_in_bytes) / 1e6, 1)
    return {
        "recipe": recipe.name, "rows": shape.rows, "columns": shape.columns, "tasks": shape.tasks,
        "devices": len(devices),
        "tasks_per_s": {"median": round(statistics.median(rates), 1), "min": round(min(rates), 1), "max": round(max(rates), 1)},
        "step_ms": round(1e3 * statistics.median(seconds) / steps, 1),
        "sampling_share": round(alone / statistics.median(seconds), 4), "compile_s": round(compile_s, 2), "peak_mb": peak,
    }  # fmt: skip
