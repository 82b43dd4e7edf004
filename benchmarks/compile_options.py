"""What `priorax.priors.compiler_options` is worth: compile time, speed and bits of programs with and without it.

    python benchmarks/compile_options.py [--programs sampler step] [--recipe small] [--repeats 20]

One process, programs one after the other, without the compile cache. ``sampler`` is the sampler of the prior ``default`` at 64 rows
x 8 columns; ``step`` one gradient of the recipe's network on two tasks of its first shape; ``dispatch`` the recipe's whole
training program. CPU seconds are user and system time of all threads.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from priorax.configs import load_prior, load_recipe
from priorax.priors import TableShape, TaskBatch, compiler_options, law_arrays, make_sampler, sample_blocks
from priorax.train.loss import cross_entropy, query_logits
from priorax.train.state import init_state
from priorax.train.step import make_dispatch


def sampler(recipe: Any) -> tuple[Any, tuple]:
    prior = load_prior("default")

    def run(laws, key, blocks):
        return sample_blocks(prior.sizes, TableShape(64, 8), 8, False, laws, key, blocks)

    return jax.jit(run), (law_arrays(prior), jax.random.key(0), jnp.arange(8, dtype=jnp.uint32))


def step(recipe: Any) -> tuple[Any, tuple]:
    shape = recipe.shapes[0]
    x = np.random.default_rng(0).standard_normal((2, shape.rows, shape.columns), dtype=np.float32)
    y = (x[..., 0] > 0).astype(np.int32)
    columns, classes, context = (jnp.full(2, n, jnp.int32) for n in (shape.columns, 2, shape.context))
    kinds = jnp.zeros((2, shape.columns), jnp.int32)
    tasks = TaskBatch(jnp.asarray(x), jnp.asarray(y), columns, classes, context, kinds.astype(bool), kinds)

    def run(params, batch):
        return jax.value_and_grad(lambda p: cross_entropy(*query_logits(recipe.model, p, batch, shape.fixed_context)))(params)

    return jax.jit(run), (init_state(recipe, 0, 1000).params, tasks)


def dispatch(recipe: Any) -> tuple[Any, tuple]:
    program = make_dispatch(recipe, recipe.shapes[0], load_prior(recipe.prior), make_sampler, jax.devices()[:1])
    return program, (init_state(recipe, 0, 1000), jax.random.key(0), jnp.bool_(True), jnp.uint32(0))


PROGRAMS = {"sampler": sampler, "step": step, "dispatch": dispatch}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def compare(name: str, recipe: Any, repeats: int) -> None:
    program, arguments = PROGRAMS[name](recipe)
    lowered = program.lower(*arguments)
    compiled = {}
    for label, options in (("with", compiler_options()), ("without", dict.fromkeys(compiler_options(), True))):
        wall, cpu = time.perf_counter(), _cpu()
        compiled[label] = lowered.compile(compiler_options=options)
        print(f"{name:8} {label:8} compile {time.perf_counter() - wall:7.1f} s, {_cpu() - cpu:7.1f} CPU s", flush=True)
    seconds: dict[str, list[float]] = {label: [] for label in compiled}
    results = {}
    for _ in range(repeats):
        for label, run in compiled.items():  # in turns, so that both meet the same machine
            fresh = jax.tree.map(jnp.array, arguments)  # a dispatch consumes its state
            start = time.perf_counter()
            results[label] = jax.block_until_ready(run(*fresh))
            seconds[label].append(time.perf_counter() - start)
    for label, times in seconds.items():
        print(f"{name:8} {label:8} run     {np.median(times):9.4f} s (median of {repeats}), least {min(times):.4f}")
    pairs = zip(jax.tree.leaves(results["with"]), jax.tree.leaves(results["without"]), strict=True)
    same = all(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=a.dtype.kind == "f") for a, b in pairs)
    print(f"{name:8} results {'equal in every bit' if same else 'DIFFER'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=["sampler", "step"])
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--repeats", type=int, default=20)
    asked = parser.parse_args()
    if not compiler_options():
        raise SystemExit("no options on this platform, or this jaxlib does not know them: nothing to compare")
    jax.config.update("jax_enable_compilation_cache", False)
    for name in asked.programs:
        compare(name, load_recipe(asked.recipe), asked.repeats)


if __name__ == "__main__":
    main()
