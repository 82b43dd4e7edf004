"""Interventional batches, levels as shared by column and mechanism, and what scores and counts say about the graph."""

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest
from priorax.configs import load_prior
from priorax.configs.prior import CATEGORICAL_COLUMNS, FAMILIES, NUMERIC_COLUMNS, ROOTS
from priorax.priors import interventional, keys, sample
from priorax.priors.graph import reachability
from priorax.priors.levels import Quantiser, level_effects, level_of, rename
from priorax.priors.scm import sample_nodes


def test_levels_are_zipf_like_and_names_a_permutation():
    v = np.random.default_rng(0).normal(size=(1, 200_000)).astype(np.float32)
    level = jax.jit(lambda steep: level_of(Quantiser(jnp.array([50]), steep), jnp.asarray(v)))
    for steep in (1.0, 2.0):
        code = np.asarray(level(np.array([steep], np.float32)))[0]
        share = np.bincount(code, minlength=50) / code.size
        # P(level < k) = (k / count) ** (1 / steep)
        assert np.allclose(np.cumsum(share), (np.arange(1, 51) / 50) ** (1 / steep), atol=0.005)
    draws = np.random.default_rng(1).random((1, 256), np.float32)
    names = np.asarray(jax.jit(rename)(jnp.arange(50)[None], jnp.array([50]), draws))
    assert sorted(names[0]) == list(range(50))


def test_every_level_has_an_effect_of_its_own():
    def effects():
        table = jax.tree.map(lambda w: w[None], keys.task_stream(jax.random.key(2), 3))
        return level_effects(table, jnp.arange(200)[None], 4)

    effect = np.asarray(jax.jit(effects)())[0]
    assert len(np.unique(effect)) == effect.size
    assert abs(effect.mean()) < 0.15 and abs(effect.std() - 1) < 0.1


def test_a_column_with_many_levels_shows_what_a_levels_mechanism_reads():
    batch = sample(load_prior("default"), 2, range(512), rows=64, columns=8, with_scm=True)
    plan, cohort = jax.device_get((batch.scm.plan, batch.scm.cohort))
    many = len(NUMERIC_COLUMNS) + CATEGORICAL_COLUMNS.index("many")
    checked = 0
    for b in range(512):
        s = np.arange(cohort.family.shape[1])
        readers = (cohort.family[b] == FAMILIES.index("levels")) & (s < cohort.n_instructions[b]) & plan.has_parents[b]
        for c in np.flatnonzero(cohort.column[b][: plan.n_features[b]] == many):
            if readers.any():
                assert plan.column_dim[b, c, 0] in plan.inputs[b, readers, 0]
                checked += 1
    assert checked > 20
    # Counts of causes and effects against networkx, on tasks whose class reads no columns.
    for b in range(0, 512, 16):
        if batch.scm.label_columns(b):
            continue
        graph = batch.scm.to_networkx(b)
        targets = set(np.asarray(batch.scm.target_nodes)[b].tolist())
        above = set().union(*({t} | networkx.ancestors(graph, t) for t in targets))
        below = set().union(*(networkx.descendants(graph, t) - {t} for t in targets))
        shown = np.asarray(batch.scm.node_of_column)[b]
        assert int(batch.info["n_causes"][b]) == sum(int(n) in above for n in shown if n >= 0)
        nodes_below = {n for n in below if not isinstance(n, str)}
        assert int(batch.info["n_effects"][b]) == sum(int(n) in nodes_below for n in shown if n >= 0)


def test_interventional_batch():
    out = interventional(load_prior("causal"), 1, range(12), observed=10, interventions=3, rows_each=10)
    g, x, interv, active = (np.asarray(v) for v in out)
    assert x.shape == interv.shape == (12, 40, g.shape[1]) and np.isfinite(x).all()
    assert not np.tril(g).any() and not x[~np.broadcast_to(active[:, None], x.shape)].any()
    assert not interv[:, :10].any()
    scm = sample(load_prior("causal"), 1, range(12), rows=64, columns=8, with_scm=True).scm
    parts = [np.asarray(sample_nodes(scm, np.arange(10 * k, 10 * k + 10)))[:, :, 0] for k in range(4)]
    again = np.swapaxes(np.concatenate(parts, axis=-1), 1, 2)
    assert np.allclose(x[:, :10], again[:, :10], atol=1e-4)
    checked = 0
    for k in range(3):
        rows = slice(10 + 10 * k, 20 + 10 * k)
        assert (interv[:, rows].sum(axis=2) == 1).all()
        for b in range(12):
            node = int(np.flatnonzero(interv[b, rows][0])[0])
            assert active[b, node] and len(np.unique(x[b, rows, node])) == 1
        # The same units without the intervention agree wherever it does not reach.
        node = int(np.flatnonzero(interv[7, rows][0])[0])
        reach = np.asarray(reachability(jnp.asarray(g[7])))[node]
        assert np.allclose(x[7, rows][:, ~reach], again[7, rows][:, ~reach], atol=1e-4)
        checked += int((~reach & active[7]).sum())
    assert checked > 0
    spread = again.std(axis=1)[active]
    assert 0.5 < np.median(spread) < 1.5


def test_interventional_refuses_vector_nodes_and_empty_requests():
    with pytest.raises(ValueError, match="load_prior\\('causal'\\)"):
        interventional(load_prior("graph_scm"))
    with pytest.raises(ValueError, match="observed 0"):
        interventional(load_prior("causal"), observed=0)
    for bad, says in ((dict(spread=float("nan")), "spread"), (dict(spread=-1.0), "spread"), (dict(task_ids=[]), "empty"),
                      (dict(task_ids=[0.5]), "whole numbers"), (dict(seed=-1), "seed")):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            interventional(load_prior("causal"), **bad)


def test_causal_models_have_no_cause_beside_their_nodes():
    """Grouped roots share the group of a row. These are tasks of 64 cohorts, of which all of a kind share their roots."""
    scm = sample(load_prior("causal"), 3, range(0, 512, 8), rows=64, columns=8, with_scm=True).scm
    root, count = np.asarray(scm.cohort.root), np.asarray(scm.cohort.n_roots)
    used = np.arange(root.shape[1]) < count[:, None]
    assert not (used & (root == ROOTS.index("grouped"))).any() and (used & (root == ROOTS.index("zipf"))).any()


def test_interventions_tell_large_seeds_apart():
    few = dict(observed=1, interventions=2, rows_each=1)
    small, large = (interventional(load_prior("causal"), s, range(4), **few) for s in (5, 5 + 2**32))
    assert not np.array_equal(small.interv, large.interv)


def test_dowhy_takes_the_graph():
    gcm = pytest.importorskip("dowhy.gcm", reason="dowhy is not installed")
    batch = sample(load_prior("default"), 2, range(8), rows=64, columns=8, with_scm=True)
    graph = batch.scm.to_networkx(0)
    model = gcm.StructuralCausalModel(graph)
    assert set(model.graph.nodes) == set(graph.nodes)
