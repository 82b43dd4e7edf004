"""A prior that anyone can learn in seconds, and a run of it as a program, for tests that kill or signal a process.

    python tests/train/toy.py OUT [--resume] [--steps N] [--delay SECONDS] [--loud] [--full-from STEP] [--team PORT,PROCESSES,ID]
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from priorax.configs.recipe import Recipe, TaskShape
from priorax.configs.train import TrainConfig
from priorax.models import ModelConfig
from priorax.priors import TableShape, TaskBatch

RECIPE = Recipe(
    name="toy",
    model=ModelConfig(width=16, heads=1, layers=2, hidden=32, decoder_hidden=16, thinking_rows=2, max_classes=3),
    shapes=(TaskShape(rows=32, columns=3, tasks=8, context=24),),
    train=TrainConfig(
        steps=24, steps_per_dispatch=4, microbatch=4, warmup_steps=4, checkpoint_steps=4, keep_checkpoints=3,
        validation_tasks=32, learning_rate=1e-2, adam_learning_rate=1e-2,
    ),
)  # fmt: skip


def linear_tasks(prior: object, shape: TableShape, tasks: int):
    """Two classes, split at the median of a random direction."""

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        a, b, c = jax.random.split(key, 3)
        x = jax.random.normal(a, (shape.rows, shape.columns))
        n_features = jax.random.randint(c, (), 1, shape.columns + 1)
        used = jnp.arange(shape.columns) < n_features
        x = jnp.where(used, x, 0.0)
        score = x @ jnp.where(used, jax.random.normal(b, (shape.columns,)), 0.0)
        return x, (score > jnp.median(score)).astype(jnp.int32), n_features

    def sampler(key: jax.Array, step: jax.Array) -> TaskBatch:
        ids = jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(tasks) + jnp.arange(tasks, dtype=jnp.uint32)
        x, y, n_features = jax.vmap(lambda i: one(jax.random.fold_in(key, i)))(ids)
        each = lambda v: jnp.full(tasks, v, jnp.int32)

        return TaskBatch(
            x=x, y=y, n_features=n_features, n_classes=each(2), n_context=each(shape.context or shape.rows // 2),
            categorical=jnp.zeros((tasks, shape.columns), bool),
            cardinality=jnp.zeros((tasks, shape.columns), jnp.int32),
        )  # fmt: skip

    return sampler


def digest(tree: object) -> str:
    """SHA-256 over all leaves of a tree of arrays, bit for bit."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        sha.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return sha.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--steps", type=int, default=RECIPE.train.steps)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds to wait after each record, to be killed in")
    parser.add_argument("--loud", action="store_true", help="say on stderr what the command line says")
    parser.add_argument("--full-from", type=int, help="step from which no file can grow past 4 KB, as on a full disk")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", type=int, default=RECIPE.shapes[0].tasks)
    parser.add_argument("--team", help="PORT,PROCESSES,ID: one of several processes on this machine")
    args = parser.parse_args()
    from priorax.train import join, leave, pretrain

    if args.team:
        port, processes, index = map(int, args.team.split(","))
        join(f"127.0.0.1:{port}", processes, index, timeout=float(os.environ.get("TOY_TIMEOUT", "300")))
    shape = dataclasses.replace(RECIPE.shapes[0], tasks=args.tasks)
    recipe = dataclasses.replace(RECIPE, shapes=(shape,), train=dataclasses.replace(RECIPE.train, steps=args.steps))

    def log(record: dict) -> None:
        print(json.dumps({"step": record["step"]}), flush=True)
        if record["step"] == args.full_from:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        time.sleep(args.delay)

    result = pretrain(
        recipe, args.out, seed=args.seed, resume=args.resume, log=log, quiet=not args.loud, sampler_factory=linear_tasks
    )
    told = {"done": result.steps, "interrupted": result.interrupted, "from": result.resumed_from}
    print(json.dumps(told | {"validation": result.validation["loss"]}), flush=True)
    leave()


if __name__ == "__main__":
    main()
