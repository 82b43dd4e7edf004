"""What a network makes of held-out tasks, one number a task."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from priorax.configs.prior import load_prior
from priorax.configs.recipe import TaskShape
from priorax.models import init_params
from priorax.priors import TableShape
from priorax.train.heldout import CHUNK, HeldOut, measure_tasks, sample_held_out
from priorax.train.loss import accuracy, cross_entropy, query_logits, roc_auc


def test_every_task_is_measured_by_itself(toy):
    """Against the losses of training, which are means, on one task at a time."""
    shape, cfg = toy.RECIPE.shapes[0], toy.RECIPE.model
    sampler = toy.linear_tasks(None, TableShape(shape.rows, shape.columns, shape.context), CHUNK)
    batches = tuple(jax.device_get(sampler(jax.random.key(0), step)) for step in (0, 1))
    names = np.full(2 * CHUNK, "toy")
    params = init_params(cfg, 0)
    found = measure_tasks(cfg, params, HeldOut(shape, batches, names, names))
    answer = jax.jit(lambda task: query_logits(cfg, params, task, shape.context))
    for i in (0, 13, 2 * CHUNK - 1):
        task = jax.tree.map(lambda a, i=i: a[i % CHUNK : i % CHUNK + 1], batches[i // CHUNK])
        told = answer(task)
        for name, measure in (("loss", cross_entropy), ("accuracy", accuracy), ("roc_auc", roc_auc)):
            assert found[name].shape == (2 * CHUNK,)
            assert found[name][i] == pytest.approx(float(measure(*told)), abs=1e-5)
    assert len(np.unique(found["loss"])) == 2 * CHUNK


@pytest.mark.slow  # a sampler with regressions behind it, which no other test compiles
def test_held_out_tasks_of_a_shape_with_scores_have_them():
    """The scores a step would show, on tasks of the prior, with what is known about each."""
    shape = TaskShape(rows=72, columns=4, tasks=2, context=56, score_columns=6)
    held_out = sample_held_out(load_prior("default"), shape, CHUNK, seed=7)
    (batch,) = held_out.batches
    assert batch.x.shape == (CHUNK, 72, 10) and len(held_out.component) == len(held_out.target) == CHUNK
    used = np.arange(10) < batch.n_features[:, None]
    assert batch.n_features.max() > 4 and not batch.x[~np.broadcast_to(used[:, None], batch.x.shape)].any()
