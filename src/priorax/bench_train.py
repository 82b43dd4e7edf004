"""Measures the training step of a recipe: sampling, gradients and update in one program."""

from __future__ import annotations

import statistics
import time
from typing import Any


def train_points(name: str, settings: dict[str, str], repeats: int, seed: int, every_shape: bool) -> list[dict[str, Any]]:
    """One benchmark point per table shape of a recipe: rates over dispatches, compile time apart.

    - ``gflop_per_task``: matrix products of the forward and the backward pass (`priorax.train.flops.training_flops`).
    - ``roofline_gflops``: products a second of plain square matrices of the same precision, measured on the same devices
      right before and after; the better of the two.
    - ``flop_utilisation``: tasks_per_s * gflop_per_task / roofline_gflops.
    - ``sampling_share``: time of the sampler alone, sharing out the same tasks among the same devices, over that of whole
      dispatches; the two are measured in turns.
    """
    import jax

    from priorax.configs import load_prior, load_recipe
    from priorax.models.threads import one_blas_thread
    from priorax.train.step import pick_devices

    jax.config.update("jax_enable_compilation_cache", False)
    recipe = load_recipe(name, overrides=settings)
    prior, devices = load_prior(recipe.prior), pick_devices(recipe)
    shapes = recipe.shapes if every_shape else recipe.shapes[:1]
    with one_blas_thread():  # as in `pretrain`
        return [_point(recipe, shape, prior, devices, repeats, seed) for shape in shapes]


def _point(recipe: Any, shape: Any, prior: Any, devices: list[Any], repeats: int, seed: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from priorax.configs.recipe import recipe_digest
    from priorax.models.network import numerics
    from priorax.priors import make_sampler
    from priorax.priors.keys import seed_key
    from priorax.train.flops import measure_roofline, tokens, training_flops
    from priorax.train.state import init_state
    from priorax.train.step import make_dispatch, make_sampling, place

    steps, key = recipe.train.steps_per_dispatch, seed_key(seed)
    dtype, kernel = numerics(recipe.model)
    state = place(init_state(recipe, seed, 10**6), devices)
    roofline = measure_roofline(devices, dtype)
    start = time.perf_counter()
    program = make_dispatch(recipe, shape, prior, make_sampler, devices)
    program = program.lower(state, key, jnp.bool_(True), jnp.uint32(0)).compile()
    compile_s = time.perf_counter() - start
    sampling = make_sampling(recipe, shape, prior, make_sampler, devices).lower(key, jnp.uint32(0)).compile()

    def dispatch(k: int) -> None:
        nonlocal state
        state, numbers = program(state, key, jnp.bool_(True), jnp.uint32(0))
        jax.block_until_ready(numbers)

    def sample(k: int) -> None:
        jax.block_until_ready(sampling(key, jnp.uint32(k * steps)))

    seconds: dict[str, list[float]] = {"dispatch": [], "sample": []}
    for k in range(repeats + 1):  # the first round warms up
        for what, work in (("dispatch", dispatch), ("sample", sample)):
            begin = time.perf_counter()
            work(k)
            seconds[what].append(time.perf_counter() - begin)
    whole, alone = seconds["dispatch"][1:], seconds["sample"][1:]
    roofline = max(roofline, measure_roofline(devices, dtype))
    rates = [steps * shape.tasks / s for s in whole]
    flops, middle = training_flops(recipe.model, shape), statistics.median(rates)
    memory = program.memory_analysis()
    peak = None if memory is None else round((memory.temp_size_in_bytes + memory.output_size_in_bytes) / 1e6, 1)
    return {
        "recipe": recipe.name, "recipe_sha256": recipe_digest(recipe)[:12], "rows": shape.rows, "columns": shape.columns, "context": shape.context,
        "least_context": shape.least_context, "score_columns": shape.score_columns,
        "tasks": shape.tasks, "devices": len(devices), "dtype": dtype.name, "attention": kernel,
        "tasks_per_s": _spread(rates),
        "tokens_per_s": round(middle * tokens(shape)),
        "step_ms": round(1e3 * statistics.median(whole) / steps, 2),
        "gflop_per_task": round(flops / 1e9, 4),
        "gflops": round(middle * flops / 1e9, 2),
        "roofline_gflops": round(roofline / 1e9, 2),
        "flop_utilisation": round(middle * flops / roofline, 4),
        "sampling_share": round(statistics.median(alone) / statistics.median(whole), 4),
        "compile_s": round(compile_s, 2), "peak_mb": peak,
    }  # fmt: skip


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 1), "min": round(min(values), 1), "max": round(max(values), 1)}
