"""Held-out synthetic tasks, and what a network makes of each one of them.

Validation inside a run gives means; comparing two networks needs the same tasks for both, one number a task, and to
know which family a task comes from.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..configs.model import ModelConfig
from ..configs.prior import TARGETS, PriorConfig
from ..configs.recipe import TaskShape
from ..priors import compiler_options, make_sampler
from ..priors.device import on_cpu
from ..priors.keys import seed_key
from ..priors.task import TaskBatch
from .curriculum import table_shape
from .loss import accuracy, cross_entropy, query_logits, roc_auc
from .tasks import with_scores

CHUNK = 32
"""Tasks that are sampled together, and measured by one call."""
CPU_PIECE = 2
"""Tasks a CPU measures at once: as in training, small pieces stay in its cache."""


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Tasks of one table shape, on the host. N tasks.

    Attributes:
      shape: the table shape.
      batches: the tasks, `CHUNK` at a time.
      component: str[N], the component of the prior each task was drawn from.
      target: str[N], how its classes were made.
    """

    shape: TaskShape
    batches: tuple[TaskBatch, ...]
    component: np.ndarray
    target: np.ndarray


def sample_held_out(prior: PriorConfig, shape: TaskShape, tasks: int, seed: int) -> HeldOut:
    """Draws ``tasks`` tasks of a shape, rounded up to whole chunks, from the stream of ``seed``, which no training run
    may use."""
    draw = make_sampler(prior, table_shape(shape), CHUNK)

    def scored(key: jax.Array, step: jax.Array) -> TaskBatch:
        return with_scores(draw(key, step), key, step, shape, prior.sizes.classes)

    sampler = jax.jit(scored, compiler_options=compiler_options())
    key = seed_key(seed)
    found = [jax.device_get(sampler(key, jnp.uint32(i))) for i in range(math.ceil(tasks / CHUNK))]
    component, target = (np.concatenate([b.info[name] for b in found]) for name in ("component", "target"))
    return HeldOut(
        shape=shape,
        batches=tuple(dataclasses.replace(b, target=None, info={}, scm=None) for b in found),
        component=np.array([c.name for c in prior.components])[component],
        target=np.array(TARGETS)[target],
    )


def measure_tasks(cfg: ModelConfig, params: dict[str, Any], held_out: HeldOut) -> dict[str, np.ndarray]:
    """Loss, accuracy and ROC AUC of every task, f64[N] each; the AUC is NaN where the query rows are of one class.

    Chunks are shared out among the devices of this process.
    """
    devices = jax.local_devices()
    copies = [jax.device_put(params, device) for device in devices]
    measured = []
    for i, batch in enumerate(held_out.batches):
        device = i % len(devices)
        batch = jax.device_put(batch, devices[device])
        measured.append(_measure(cfg, held_out.shape.fixed_context, copies[device], batch))
    measured = jax.device_get(measured)
    return {
        name: np.concatenate([np.asarray(m[i], np.float64) for m in measured])
        for i, name in enumerate(("loss", "accuracy", "roc_auc"))
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure(cfg: ModelConfig, context: int | None, params: dict[str, Any], batch: TaskBatch) -> tuple[jax.Array, ...]:
    piece = CPU_PIECE if on_cpu() else CHUNK
    pieces = jax.tree.map(lambda a: a.reshape(CHUNK // piece, piece, *a.shape[1:]), batch)

    def one(part: TaskBatch) -> tuple[jax.Array, ...]:
        told = query_logits(cfg, params, part, context)
        each = lambda f: jax.vmap(lambda *task: f(*(a[None] for a in task)))(*told)  # a number a task
        return each(cross_entropy), each(accuracy), each(roc_auc)

    return jax.tree.map(jnp.ravel, jax.lax.map(one, pieces))


def other_tasks_held_out(prior: PriorConfig, before: str | None, now: str) -> str | None:
    """What to tell whoever compares the held-out losses of legs on different devices; None when they can be compared.

    A prior that chooses among candidates does so among those of one device, so their number decides which tasks it keeps.
    """
    if prior.oversample <= 1 or before in (None, now):
        return None
    return (
        f"the leg before ran on {before}, this one runs on {now}: prior {prior.name} keeps other tasks there, so the held-out "
        "losses of the two cannot be compared; priorax evaluate --suite held-out compares weights on the same tasks"
    )
