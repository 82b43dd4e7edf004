"""The rules every task keeps, and the promise that a task depends on nothing but its address."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from priorax.configs import load_prior
from priorax.configs.prior import FAMILIES, TARGETS, PriorConfig, Sizes
from priorax.configs.recipe import TaskShape
from priorax.priors import TableShape, TaskBatch, check_tasks, keys, law_arrays, make_sampler, sample, stream
from priorax.priors.sampler import SPREAD, UNIT, block_tasks, locate

PRESETS = ("default", "graph_scm", "mlp_scm")
SHAPE = dict(rows=64, columns=8)  # the shape most tests of the prior share, so that it compiles once


def leaves_equal(a, b):
    return all(np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


@pytest.mark.parametrize("preset", PRESETS)
def test_tasks_keep_their_rules(preset):
    batch = sample(load_prior(preset), 3, range(256), **SHAPE)
    check_tasks(batch)
    assert len(np.unique(np.asarray(batch.n_features))) > 2
    assert len(np.unique(np.asarray(batch.n_classes))) > 3
    assert len(np.unique(np.asarray(batch.n_context))) > 10


def test_context_rows_drawn_per_task():
    """Log-uniform between the bounds, every class shown, and few classes where there are few rows."""
    draw = jax.jit(make_sampler(load_prior("default"), TableShape(**SHAPE, context=48, least_context=6), 256))
    batches = [jax.device_get(draw(jax.random.key(3), i)) for i in range(4)]
    for batch in batches:
        check_tasks(batch)
    rows, classes = (np.concatenate([getattr(b, name) for b in batches]) for name in ("n_context", "n_classes"))
    assert rows.min() == 6 and rows.max() == 48
    # Of floor(v), v log-uniform on [6, 49): 17 and less has the share log(18 / 6) / log(49 / 6) = 0.523.
    assert np.mean(rows <= 17) == pytest.approx(0.523, abs=0.05)
    assert (classes <= np.maximum(rows // 2, 2)).all() and classes[rows > 24].max() == 10


@pytest.mark.parametrize("least", [3, 33])
def test_fewest_context_rows_lie_below_the_most(least):
    for make in (TableShape, TaskShape):
        with pytest.raises(ValueError, match="least_context"):
            make(rows=64, columns=8, context=32, least_context=least)
        with pytest.raises(ValueError, match="least_context"):
            make(rows=64, columns=8, context=None, least_context=8)


_BREAKS = {
    "an infinity": lambda b: {"x": _set(b.x, (3, 0, 0), np.inf)},
    "target is not finite": lambda b: {"target": _set(b.target, (3, 5), np.nan)},
    "padded column is not zero": lambda b: {"x": _set(b.x, (3, 2, 7), 1.0)},
    "task 3 of the batch: a padded column is not zero": lambda b: {"x": _set(b.x, (3, 2, 7), np.nan)},
    "sizes out of range": lambda b: {"n_context": _set(b.n_context, 3, 64)},
    "expected 0..2": lambda b: {"y": np.where(np.arange(64) == 1, 0, b.y), "n_classes": _set(b.n_classes, 3, 3)},
    "query row has a class outside 0..1": lambda b: {"y": _set(b.y, (3, 60), 2)},
    "the context holds classes": lambda b: {"y": _set(b.y, (3, 20), 7)},
    "column 1 holds codes outside 0..2": lambda b: {"x": _set(b.x, (3, 0, 1), 3.0)},
    "task 3 of the batch: categorical column 1": lambda b: {"x": _set(b.x, (3, 0, 1), 0.5)},
}


def _set(array, where, value):
    out = np.array(array)
    out[where] = value
    return out


@pytest.mark.parametrize("why", _BREAKS)
def test_every_broken_rule_is_named(why):
    """Eight good tables of three columns, the second one categorical and with a missing value; then one cell is changed."""
    x = np.zeros((8, 64, 8), np.float32)
    x[:, :, 0], x[:, :, 1] = np.linspace(-1, 1, 64), np.arange(64) % 3
    x[:, 9, 1] = np.nan
    each = lambda v: np.full(8, v, np.int32)
    good = TaskBatch(
        x=x, y=np.tile(np.arange(64, dtype=np.int32) % 2, (8, 1)), n_features=each(3), n_classes=each(2), n_context=each(40),
        categorical=np.tile(np.arange(8) == 1, (8, 1)), cardinality=np.tile(3 * (np.arange(8) == 1), (8, 1)),
        target=np.zeros((8, 64), np.float32),
    )  # fmt: skip
    check_tasks(good)
    with pytest.raises(ValueError, match=why):
        check_tasks(dataclasses.replace(good, **_BREAKS[why](good)))


def test_classes_whose_random_numbers_are_equal_keep_names_of_their_own():
    """Task 137478 of seed 99 draws the same number for two of its ten classes; they were once given one name."""
    batch = sample(load_prior("default"), 99, [137478], **SHAPE)
    assert int(batch.n_classes[0]) == 10 and set(np.asarray(batch.y)[0].tolist()) == set(range(10))
    check_tasks(batch)


def test_mixture_draws_all_components_kinds_and_corruptions():
    info = sample(load_prior("default"), 0, range(0, 4096, 8), **SHAPE).info
    assert set(np.asarray(info["component"])) == set(range(5))
    assert set(np.asarray(info["graph"])) == set(range(6))
    assert set(np.asarray(info["target"])) == set(range(7))
    assert set(np.asarray(info["missing"])) == {0, 1, 2, 3}


def test_priors_with_few_components_share_a_program_and_never_draw_the_spare_ones():
    laws = [law_arrays(load_prior(name)) for name in PRESETS]
    assert {tuple((k, v.shape) for k, v in sorted(a.items())) for a in laws} == {
        tuple((k, v.shape) for k, v in sorted(laws[0].items()))
    }
    batch = sample(load_prior("mlp_scm"), 0, range(0, 2048, 8), **SHAPE)
    assert (np.asarray(batch.info["component"]) == 0).all()


def test_a_task_does_not_depend_on_its_company():
    prior = load_prior("default")
    whole = sample(prior, 1, range(64), **SHAPE)
    alone = sample(prior, 1, [37], **SHAPE)
    mixed = sample(prior, 1, [62, 37, 500, 37], **SHAPE)
    assert np.array_equal(whole.x[37], alone.x[0], equal_nan=True)
    assert np.array_equal(mixed.x[1], alone.x[0], equal_nan=True)
    assert np.array_equal(mixed.x[3], alone.x[0], equal_nan=True)
    assert np.array_equal(mixed.y[1], whole.y[37])


def test_other_seeds_and_ids_are_other_tasks():
    prior = load_prior("default")
    a, b = sample(prior, 1, range(8), **SHAPE), sample(prior, 2, range(8), **SHAPE)
    assert not np.array_equal(a.x, b.x, equal_nan=True)
    for i in range(8):
        for j in range(i):
            assert not np.array_equal(a.x[i], a.x[j], equal_nan=True)


@pytest.mark.slow  # two samplers more
def test_lane_count_changes_at_most_rounding():
    """Other block shapes may take another order of summation; a threshold can then flip a cell, rarely."""
    prior = load_prior("default")
    a = sample(prior, 5, range(32), lanes=8, **SHAPE)
    for lanes in (1, 16):
        b = sample(prior, 5, range(32), lanes=lanes, **SHAPE)
        assert np.array_equal(a.n_features, b.n_features) and np.array_equal(a.n_context, b.n_context)
        close = np.isclose(a.x, b.x, rtol=1e-3, atol=1e-3, equal_nan=True)
        assert close.mean() > 0.999
        assert (np.asarray(a.y) == np.asarray(b.y)).mean() > 0.999


@pytest.mark.heavy
def test_rows_are_addressed_so_a_longer_table_starts_with_the_shorter_one():
    prior = load_prior("mlp_scm")
    short = sample(prior, 0, range(8), rows=64, columns=8, context=48, with_scm=True)
    long = sample(prior, 0, range(8), rows=96, columns=8, context=48, with_scm=True)
    plain = [
        i for i in range(8)
        if np.array_equal(short.scm.order[i], np.arange(64)) and np.array_equal(long.scm.order[i][:64], np.arange(64))
    ]  # fmt: skip
    assert len(plain) >= 4
    for i in plain:
        assert np.allclose(short.x[i], long.x[i, :64], rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.heavy
def test_the_training_stream_is_the_sampled_tasks_in_order():
    prior = load_prior("default")
    third = jax.jit(make_sampler(prior, TableShape(**SHAPE), 32))(jax.random.key(4), 2)
    named = sample(prior, 4, range(64, 96), **SHAPE)
    assert np.array_equal(third.info["task_id"], np.arange(64, 96))
    assert np.array_equal(third.x, named.x, equal_nan=True) and np.array_equal(third.y, named.y)


def test_laws_are_traced(compiled):
    """Another law, key or step, and another number of tasks, runs the same program."""
    laws = law_arrays(load_prior("default"))
    first = compiled(jax.random.key(0), 0, laws)
    compiled(jax.random.key(1), 5, laws)
    sample(load_prior("default"), 0, [3], **SHAPE)
    two = compiled(jax.random.key(0), 0, {**laws, "classes_two_rate": laws["classes_two_rate"] * 0 + 1, "missing_rate": laws["missing_rate"] * 0})
    assert compiled.program._cache_size() == 1
    assert (np.asarray(two.n_classes) == 2).all() and not np.isnan(two.x).any()
    assert not np.array_equal(first.y, two.y)


@pytest.mark.parametrize("lanes", [1, 2, 8, 16, 64])
def test_blocks_cover_every_id_once(lanes):
    sizes = Sizes()
    total = SPREAD * sizes.cohort * 2
    ids, cohorts = jax.jit(jax.vmap(lambda b: block_tasks(sizes, lanes, b)))(np.arange(total // lanes, dtype=np.uint32))
    ids = np.asarray(ids)
    assert np.array_equal(np.sort(ids.ravel()), np.arange(total))
    block, lane = locate(sizes, lanes, ids.ravel())
    assert np.array_equal(block, np.repeat(np.arange(total // lanes), lanes))
    assert np.array_equal(lane, np.tile(np.arange(lanes), total // lanes))
    by_id = np.empty(total, np.int64)
    by_id[ids.ravel()] = np.repeat(np.asarray(cohorts), lanes)
    runs = sizes.cohort // UNIT
    unit = np.arange(total) // UNIT
    assert np.array_equal(by_id, unit // (SPREAD * runs) * SPREAD + unit % SPREAD)


def test_columns_never_equal_the_target():
    batch = sample(load_prior("default"), 11, range(512), **SHAPE)
    x, y = np.nan_to_num(np.asarray(batch.x)), np.asarray(batch.y)
    same = 0
    for b in range(512):
        for j in range(int(batch.n_features[b])):
            same += np.array_equal(x[b, :, j], y[b])
    # A binary column and a two-class rule over it, or a sum of nothing else, may coincide; nothing else may.
    rules = np.isin(np.asarray(batch.info["target"]), [TARGETS.index("rule"), TARGETS.index("additive")]).sum()
    assert same <= 0.1 * rules


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(task_ids=[]), "empty"),
        (dict(task_ids=[-1]), "task_ids"),
        (dict(task_ids=[2**32]), "task_ids"),
        (dict(task_ids=[2**70]), "task_ids"),
        (dict(task_ids=[0.9, 1.7]), "float64.*whole numbers"),
        (dict(task_ids=[True]), "whole numbers"),
        (dict(task_ids=[[1, 2], [3, 4]]), "one axis"),
        (dict(task_ids=[[1], [2, 3]]), "list of whole numbers"),
        (dict(task_ids=5), "range\\(64\\)"),
        (dict(seed=-1), "seed"),
        (dict(seed=2**63), "seed"),
        (dict(seed=1.5), "whole number"),
        (dict(rows=4), "rows"),
        (dict(columns=0), "column"),
        (dict(context=64), "context"),
        (dict(lanes=3), "lanes"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        sample(PriorConfig(), **{**SHAPE, **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(seed=-1), "seed"),
        (dict(seed=2**63), "seed"),
        (dict(start=-1), "start"),
        (dict(start=2**29), "536,870,912 batches of 8"),
        (dict(start=0.5), "start"),
        (dict(tasks=0), "at least 1"),
        (dict(tasks=2.5), "whole number"),
        (dict(rows=4), "rows"),
    ],
)
def test_bad_arguments_of_a_stream_are_refused_at_once(kwargs, message):
    with pytest.raises(ValueError, match=message):
        stream(PriorConfig(), **{**SHAPE, "tasks": 8, **kwargs})
    if "start" in kwargs:  # three times the candidates use the ids up sooner
        with pytest.raises(ValueError, match="178,956,970"):
            stream(PriorConfig(oversample=3.0), **SHAPE, tasks=8, start=178_956_970)


@pytest.mark.slow  # a sampler more
def test_a_stream_ends_with_its_ids():
    """It went on with task 0."""
    batches = stream(PriorConfig(), 0, **SHAPE, tasks=8, start=2**29 - 1)
    assert np.array_equal(next(batches).info["task_id"], 2**32 - 8 + np.arange(8))
    with pytest.raises(ValueError, match="used up"):
        next(batches)


def test_every_bit_of_a_seed_counts():
    """Keys have 32 bits of a seed: 5 and 5 + 2**32 once drew the same tasks. Small seeds keep the keys they had."""
    for seed in (0, 5, 2**31, 2**32 - 1):
        assert np.array_equal(jax.random.key_data(keys.seed_key(seed)), jax.random.key_data(jax.random.key(seed)))
    large = [5, 5 + 2**32, 5 + 2**33, 5 + (0x5EED << 32), 2**63 - 1, 2**62 - 1]
    found = {tuple(np.asarray(jax.random.key_data(keys.seed_key(s))).tolist()) for s in large}
    assert len(found) == len(large)
    small, big = (sample(load_prior("default"), s, range(8), **SHAPE) for s in (5, 5 + 2**32))
    assert not np.array_equal(small.x, big.x, equal_nan=True)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**31), two=st.floats(0, 1), missing=st.floats(0, 1), noise=st.floats(0.001, 3.0),
    mix=st.floats(0, 1), gain=st.floats(0.1, 20.0), family=st.integers(0, len(FAMILIES) - 1), least=st.integers(1, 6),
)  # fmt: skip
def test_any_law_gives_valid_tasks(compiled, graph_scm_laws, seed, two, missing, noise, mix, gain, family, least):
    """Laws are traced, so hypothesis moves through them without compiling."""
    laws = dict(graph_scm_laws)
    one = lambda v: np.asarray([v], np.float32)
    laws |= {
        "classes_two_rate": one(two), "missing_rate": one(missing), "mix_rate": one(mix), "columns_least": one(least),
        "noise_level": one([noise / 2, noise]), "activation_gain": one([gain / 2, gain]),
        "family": np.eye(len(FAMILIES), dtype=np.float32)[family][None],
    }  # fmt: skip
    batch = compiled(jax.random.key(seed), seed % 1000, compiled.alike(laws))
    check_tasks(batch)


_DEVICES = """
import sys, jax, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from priorax.configs import load_prior
from priorax.priors import TableShape, law_arrays
from priorax.priors.sampler import sample_blocks
prior = load_prior("default")
laws = law_arrays(prior)
def local(key, blocks):
    return sample_blocks(prior.sizes, TableShape(64, 8), 8, False, laws, key, blocks)
for n in (1, 2, 8):
    mesh = Mesh(np.array(jax.devices()[:n]), ("data",))
    run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"), check_vma=False))
    batch = run(jax.random.key(7), np.arange(8, dtype=np.uint32))
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    np.savez(f"{sys.argv[1]}/{n}.npz", **{jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves})
"""


@pytest.mark.heavy
def test_one_two_and_eight_devices_give_the_same_tasks(tmp_path):
    """Two and eight devices give equal bits. One device compiles another program around the same block, and a few numeric
    cells differ in their last bit; labels, categories, missing cells and sizes are equal bits there too."""
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", _DEVICES, str(tmp_path)], env=env, capture_output=True, text=True, check=True)
    one, two, eight = (dict(np.load(tmp_path / f"{n}.npz")) for n in (1, 2, 8))
    assert len(one) > 10
    for name in one:
        a, b, c = one[name], two[name], eight[name]
        floats = a.dtype.kind == "f"
        assert np.array_equal(b, c, equal_nan=floats)
        if floats:
            assert np.array_equal(np.isnan(a), np.isnan(b))
            # An exponential on top of the score multiplies the last bit of the numeric target.
            tolerance = 2e-5 if "target" in name and "info" not in name else 2e-6
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        else:
            assert np.array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("prior", (*PRESETS, "causal", "many_classes", *(f"family:{name}" for name in FAMILIES)))
def test_a_million_tasks_keep_their_rules(prior):
    """1,003,520 tasks of every preset and of every family of mechanisms: python -m pytest -m slow tests/priors -k million."""
    sampler = jax.jit(make_sampler(load_prior(prior), TableShape(64, 8), 4096))
    for step in range(245):
        check_tasks(sampler(jax.random.key(99), step))


def test_no_number_is_one_and_what_has_no_weight_is_never_chosen():
    """The largest of the 2**24 numbers would round to 1, past every weight."""
    ends = keys.to_uniform(jnp.array([0, 0xFFFFFFFF], jnp.uint32))
    assert 0 < float(ends[0]) < float(ends[1]) < 1
    for weights in ([0.5, 0.12, 0.1, 0.08, 0.2, 0, 0, 0], [3.0, 0.0], [0.7, 1e-3, 0.0]):
        last = np.flatnonzero(weights)[-1]
        assert int(keys.choose(ends[1], jnp.array(weights, jnp.float32))) == last
