"""The learnability score against tasks whose answer is known, and the selection rule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from priorax.configs import load_prior
from priorax.priors import TableShape, check_tasks, make_sampler, sample
from priorax.priors.learnability import ACCEPT_Z, learnability, select_learnable


@pytest.fixture(scope="module")
def batch():
    return sample(load_prior("default"), 0, range(0, 512, 8), rows=64, columns=8)


def with_labels(batch, y):
    return dataclasses.replace(batch, y=jnp.asarray(y, jnp.int32), n_classes=jnp.full(batch.n_tasks, 2))


def test_labels_drawn_at_random_are_unlearnable(batch):
    y = np.random.default_rng(0).integers(0, 2, (batch.n_tasks, 64))
    z, r2 = learnability(with_labels(batch, y), 10)
    assert (np.asarray(z) > ACCEPT_Z).mean() <= 0.1
    assert np.median(r2) < 0.05


def test_a_threshold_on_a_column_is_learnable(batch):
    first = np.random.default_rng(1).normal(size=(batch.n_tasks, 64)).astype(np.float32)
    clean = dataclasses.replace(batch, x=batch.x.at[:, :, 0].set(first))
    z, r2 = learnability(with_labels(clean, first > 0), 10)
    assert (np.asarray(z) > ACCEPT_Z).mean() > 0.95
    assert np.median(r2) > 0.3


def test_score_belongs_to_the_task(batch):
    z, _ = learnability(batch, 10)
    turned, _ = learnability(jax.tree.map(lambda v: v[::-1], batch), 10)
    np.testing.assert_allclose(np.asarray(z)[::-1], turned, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [64, 50])
def test_bytes_and_floats_count_alike(batch, rows, monkeypatch):
    """Processors multiply bytes, accelerators floats; both sums are exact, so the scores are equal bit for bit."""
    short = dataclasses.replace(batch, x=batch.x[:, :rows], y=batch.y[:, :rows])
    found = []
    for dtype in (jnp.int8, jnp.float32):
        monkeypatch.setattr("priorax.priors.learnability._counting_dtype", lambda dtype=dtype: dtype)
        found.append(learnability(short, 10))
    assert np.isfinite(found[0]).all()
    np.testing.assert_array_equal(found[0], found[1])


def test_selection_keeps_learnable_tasks_first_and_in_order(batch):
    z = np.asarray(learnability(batch, 10)[0])
    kept = select_learnable(batch, 48, 10)
    good, bad = np.flatnonzero(z > ACCEPT_Z), np.flatnonzero(z <= ACCEPT_Z)
    want = np.concatenate([good, bad])[:48]
    assert np.array_equal(kept.info["task_id"], np.asarray(batch.info["task_id"])[want])
    assert (np.asarray(kept.info["accepted"]) == len(good)).all()
    check_tasks(kept)


@pytest.mark.heavy
def test_an_oversampling_prior_gives_the_asked_number_of_learnable_tasks():
    prior = load_prior("pretraining")
    kept = jax.jit(make_sampler(prior, TableShape(64, 8, least_columns=3), 16))(jax.random.key(0), 3)
    assert kept.n_tasks == 16 and (np.asarray(kept.n_features) >= 2).all()
    good = np.asarray(kept.info["learnability_z"]) > ACCEPT_Z
    assert good.sum() == min(16, int(kept.info["accepted"][0]))
    assert np.isin(np.asarray(kept.info["task_id"]), np.arange(3 * 24, 4 * 24)).all()


def test_scores_come_with_tasks_on_request():
    prior = load_prior("default")
    plain = sample(prior, 3, range(16), rows=64, columns=8)
    scored = sample(prior, 3, range(16), rows=64, columns=8, score=True)
    assert "learnability_z" not in plain.info
    assert np.isfinite(np.asarray(scored.info["learnability_z"])).all()
    assert np.array_equal(plain.y, scored.y)
