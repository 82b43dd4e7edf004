"""Makes ``tiny.safetensors``, the small network the estimator's tests use.

    python tests/models/make_tiny.py

About 90 seconds on two CPU cores. Needed again only when the parameter tree of the network changes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from priorax.configs import load_prior
from priorax.models import ModelConfig, init_params, save_weights, with_params
from priorax.priors import TableShape, make_sampler

STEPS, TASKS, ROWS, CONTEXT = 400, 16, 128, 96


def main() -> None:
    cfg = ModelConfig(width=32, heads=1, layers=2, hidden=64, decoder_hidden=64, thinking_rows=4)
    sampler = make_sampler(load_prior("mlp_scm"), TableShape(ROWS, 8, CONTEXT), TASKS)
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(4e-3, STEPS), weight_decay=0.01)
    )

    def loss(params, task):
        logits = with_params(cfg, params)(
            task.x, task.y, task.n_features, task.n_classes, task.n_context, task.categorical, context=CONTEXT
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, task.y[:, CONTEXT:]).mean()

    @jax.jit
    def step(params, state, key, i):
        value, gradient = jax.value_and_grad(loss)(params, sampler(key, i))
        update, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, update), state, value

    params = init_params(cfg)
    state = optimiser.init(params)
    for i in range(STEPS):
        params, state, value = step(params, state, jax.random.key(0), jnp.int32(i))
        if i % 50 == 49:
            print(f"step {i + 1} loss {float(value):.3f}", file=sys.stderr)
    save_weights(Path(__file__).parent / "tiny.safetensors", cfg, params, {"made_by": "tests/models/make_tiny.py"})


if __name__ == "__main__":
    main()
