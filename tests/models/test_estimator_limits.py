"""Tables beyond what the network takes at once, and how members share them."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from priorax.configs.errors import MemoryLimitError
from priorax.models import LimitWarning, ModelConfig, PFNClassifier, inference
from priorax.models.compile_cache import cache_dir
from priorax.models.ensemble import Limits, Member, ValueTransform, combine, plan_members, stratified_rows


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_members_cover_everything_within_limits(data):
    n_classes = data.draw(st.integers(2, 30))
    extra = data.draw(st.integers(0, 60))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    y = rng.permutation(np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, extra)]))
    n_columns = data.draw(st.integers(1, 40))
    limits = Limits(data.draw(st.integers(n_classes, 80)), data.draw(st.integers(1, 20)), data.draw(st.integers(2, 10)))
    wanted = data.draw(st.integers(1, 5))
    members, notes = plan_members(wanted, rng.normal(size=(len(y), n_columns)), y, limits, np.random.RandomState(0), ("none", "power"))
    assert len(members) >= wanted
    exceeded = (n_columns > limits.columns) + (len(y) > limits.rows) + (n_classes > limits.classes)
    assert len(notes) == exceeded
    if not exceeded:
        assert len(members) == wanted
        np.testing.assert_array_equal(members[0].columns, np.arange(n_columns))
        np.testing.assert_array_equal(members[0].symbol, np.arange(n_classes))
    assert set(np.concatenate([m.columns for m in members])) == set(range(n_columns))
    assert np.all(np.sum([m.own for m in members], axis=0) >= 1)
    for m in members:
        assert len(set(m.columns)) == len(m.columns) == min(n_columns, limits.columns)
        assert len(set(m.rows)) == len(m.rows) == min(len(y), limits.rows)
        assert m.n_symbols <= limits.classes
        assert set(m.symbol[y[m.rows]]) == set(range(m.n_symbols))  # no gaps: every symbol is in the context
        shared = m.symbol[~m.own]
        assert len(set(m.symbol[m.own])) == m.own.sum() and len(set(shared)) <= 1
        assert not set(shared) & set(m.symbol[m.own])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 60), st.integers(0, 5))
def test_stratified_rows_keep_proportions(counts, size, seed):
    y = np.repeat(np.arange(len(counts)), counts)
    size = min(size, len(y))
    keys = np.random.default_rng(seed).integers(2**64, size=len(y), dtype=np.uint64)
    rows = stratified_rows(y, size, keys)
    assert len(np.unique(rows)) == size == len(rows)
    got = np.bincount(y[rows], minlength=len(counts))
    share = np.array(counts) * size / len(y)
    if size >= len(counts):
        assert got.min() >= 1
        assert np.abs(got - np.maximum(share, 1)).max() <= len(counts)


def test_combine_by_hand():
    plain = Member(np.arange(1), np.arange(1), np.array([1, 0, 2]), np.ones(3, bool), 3, "none")
    rest = Member(np.arange(1), np.arange(1), np.array([0, 1, 1]), np.array([True, False, False]), 2, "none")
    p = combine([plain, rest], [np.array([[0.2, 0.5, 0.3]]), np.array([[0.9, 0.1]])])
    # The second member says nothing about b against c, so the first decides how their share is dealt out; the shares
    # themselves maximise log-likelihood: p(a) is the mean of what both say.
    a = (0.5 + 0.9) / 2
    np.testing.assert_allclose(p[0], [a, (1 - a) * 0.4, (1 - a) * 0.6], atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.integers(3, 25), st.integers(3, 10))
def test_codes_give_back_what_all_members_agree_on(seed, n_classes, alphabet):
    """If every member's answer is the true distribution summed over its symbols, the true distribution comes out."""
    rng = np.random.default_rng(seed)
    members, _ = plan_members(
        2, np.zeros((n_classes, 2)), np.arange(n_classes), Limits(n_classes, 5, alphabet), np.random.RandomState(seed), ("none",)
    )
    truth = rng.dirichlet(np.full(n_classes, 0.7), size=3)
    said = [np.stack([truth[:, m.symbol == s].sum(1) for s in range(m.n_symbols)], axis=1) for m in members]
    p = combine(members, said)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(p, truth, atol=1e-3)


def test_a_row_of_many_classes_is_answered_alone_as_among_others():
    members, _ = plan_members(1, np.zeros((40, 2)), np.arange(40) % 20, Limits(40, 5, 10), np.random.RandomState(0), ("none",))
    rng = np.random.default_rng(1)
    said = [rng.dirichlet(np.full(m.n_symbols, 0.3), size=30) for m in members]
    together = combine(members, said)
    alone = np.concatenate([combine(members, [s[i : i + 1] for s in said]) for i in range(30)])
    np.testing.assert_allclose(alone, together, rtol=1e-9)


def test_members_that_share_nothing_are_averaged():
    rng = np.random.default_rng(0)
    order = rng.permutation(4)
    plain = Member(np.arange(1), np.arange(1), np.arange(4), np.ones(4, bool), 4, "none")
    moved = Member(np.arange(1), np.arange(1), order, np.ones(4, bool), 4, "none")
    a, b = rng.dirichlet(np.ones(4), size=(2, 5))
    np.testing.assert_allclose(combine([plain, moved], [a, b]), (a + b[:, order]) / 2)


def test_a_larger_ensemble_begins_with_the_smaller_one():
    x, y = np.random.default_rng(0).normal(size=(60, 7)), np.arange(60) % 13
    for limits in (Limits(100, 50, 20), Limits(40, 50, 20), Limits(100, 3, 20), Limits(100, 50, 10)):
        few, many = (plan_members(n, x, y, limits, np.random.RandomState(3))[0] for n in (3, 6))
        for a, b in zip(few, many, strict=False):
            for name in ("columns", "rows", "symbol", "own"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_more_classes_than_context_rows():
    y = np.arange(300) % 60
    members, _ = plan_members(1, np.zeros((300, 2)), y, Limits(30, 10, 10), np.random.RandomState(0))
    for m in members:
        assert len(m.rows) == 30 and set(m.symbol[y[m.rows]]) == set(range(m.n_symbols))


@pytest.mark.parametrize("distinct", [400, 6])
def test_the_order_of_rows_does_not_decide_which_are_drawn(distinct):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(distinct, 3))[np.arange(400) % distinct].astype(np.float32)
    y = rng.integers(0, 3, 400)
    order = rng.permutation(400)
    shown = lambda x, y: [
        sorted(map(tuple, np.column_stack([x, y])[m.rows].tolist()))
        for m in plan_members(4, x, y, Limits(120, 10, 10), np.random.RandomState(1))[0]
    ]
    members = shown(x, y)
    assert members == shown(x[order], y[order])
    assert distinct == 6 or len({str(rows) for rows in members}) == 4  # every member has its own
    for rows in members:  # of rows that hold the same about as many as of others, not all of some
        assert distinct == 400 or min(sum(row[0] == value for row in rows) for value in x[:6, 0].tolist()) > 8


def test_buckets():
    sizes = sorted({inference.context_bucket(n) for n in range(1, 3000)})
    assert sizes == [32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072]
    assert all(inference.context_bucket(n) >= n for n in range(1, 3000))
    assert [inference.column_bucket(d) for d in (1, 8, 9, 88, 100, 121, 150)] == [8, 8, 16, 88, 104, 150, 150]
    for n in range(1, 2000):
        chunks = inference.query_chunks(n)
        waste = sum(chunks) - n
        assert set(chunks) <= set(inference.QUERY_BUCKETS) and 0 <= waste and (waste < 32 or waste <= chunks[-1] / 2)


@pytest.mark.usefixtures("few_programs")
def test_more_classes_than_the_network_has(tiny_weights):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(14, 4)) * 4
    y = np.arange(112) % 14
    X = centres[y] + rng.normal(size=(112, 4)) * 0.5
    model = PFNClassifier(weights=tiny_weights)
    with pytest.warns(LimitWarning, match="14 classes, these weights handle 10 at a time: 8 passes"):
        model.fit(X[:56], y[:56])
    p = model.predict_proba(X[56:])
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
    assert p.shape == (56, 14)
    assert (p.argmax(1) == y[56:]).mean() > 0.35  # guessing: 0.07


@pytest.mark.usefixtures("few_programs")
def test_more_columns_and_rows_than_the_limits(tiny_weights):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 19))
    y = (X[:, 17] > 0).astype(int)
    X[:, 17] *= 4
    model = PFNClassifier(n_estimators=2, max_columns=8, max_context=60, weights=tiny_weights)
    with pytest.warns(LimitWarning) as seen:
        model.fit(X[:100], y[:100])
    text = " ".join(str(w.message) for w in seen)
    assert "19 columns, these weights handle 8 at a time: each of 3 ensemble members" in text
    assert "100 training rows, these weights take 60 as context" in text
    assert len(model.members_) == 3 and all(len(m.rows) == 60 for m in model.members_)
    assert np.isfinite(model.predict_proba(X[100:])).all()


@pytest.mark.usefixtures("few_programs")
def test_the_order_of_rows_changes_nothing_beyond_the_context(tiny_weights):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(230, 4))
    X[:, 3] = rng.integers(0, 12, 230)  # target statistics too
    y = (X[:, 0] + X[:, 1] > 0).astype(int)
    order = rng.permutation(200)
    model = PFNClassifier(n_estimators=2, max_context=60, categorical_features=[3], weights=tiny_weights)
    answers = []
    for rows in (np.arange(200), order):
        with pytest.warns(LimitWarning, match="200 training rows"):
            answers.append(model.fit(X[rows], y[rows]).predict_proba(X[200:]))
    np.testing.assert_allclose(*answers, atol=1e-4)
    assert set(model.members_[0].rows) != set(model.members_[1].rows)


def test_limits_come_from_the_weights(random_weights):
    X = np.random.default_rng(0).normal(size=(60, 3))
    with pytest.warns(LimitWarning, match="6 classes, these weights handle 5"):
        PFNClassifier(weights=random_weights).fit(X, np.arange(60) % 6)


def test_impossible_memory_is_refused_before_running(tiny_weights, monkeypatch):
    monkeypatch.setattr(inference, "total_memory", lambda: 1_000_000)
    with pytest.raises(MemoryLimitError, match="40 context rows x 40 columns.*Lower max_co"):
        PFNClassifier(weights=tiny_weights).fit(np.eye(40), np.arange(40) % 2)


@pytest.mark.parametrize(("rows", "columns", "cause"), [(1500, 8, "1,500 context rows"), (40, 90, "90 columns")])
def test_memory_errors_name_the_cause(rows, columns, cause, tiny_weights, monkeypatch):
    cfg = inference.get_engine(tiny_weights).cfg
    monkeypatch.setattr(inference, "QUERY_BUCKETS", (32, 128, 512))  # a fixture of this module makes them smaller
    need = inference.estimate_memory(cfg, inference.context_bucket(rows), inference.column_bucket(columns), 512).total
    monkeypatch.setattr(inference, "total_memory", lambda: need - 1)
    with pytest.raises(MemoryLimitError, match=f"GB needed.*Cause: {cause}"):
        inference.check_memory(cfg, rows, columns)
    monkeypatch.setattr(inference, "total_memory", lambda: need)
    monkeypatch.setattr(inference, "free_memory", lambda: need - 1)
    with pytest.warns(LimitWarning, match=f"GB free.*Cause: {cause}"):
        inference.check_memory(cfg, rows, columns)


def test_memory_of_the_machine_is_known():
    if not os.path.exists("/proc/meminfo"):
        pytest.skip("this system does not say")
    assert 0 < inference.free_memory() <= inference.total_memory()


def test_the_estimate_is_above_what_the_compiler_says(tiny_weights):
    """XLA's own account of the largest program, encoding the context, against the estimate."""
    import jax
    import jax.numpy as jnp

    engine = inference.get_engine(tiny_weights)
    rows, columns = 256, 8

    def shape(*size, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(size, dtype)

    program = inference._encode.lower(
        engine.cfg, engine._params, shape(1, rows, columns, dtype=jnp.float32), shape(1, rows), shape(1), shape(1),
        shape(1), shape(1, columns, dtype=jnp.bool_),
    ).compile()  # fmt: skip
    used = program.memory_analysis()
    used = used.temp_size_in_bytes + used.output_size_in_bytes
    assert 0.2 * inference.estimate_memory(engine.cfg, rows, columns, 512).total < used
    assert used < inference.estimate_memory(engine.cfg, rows, columns, 32).total


def test_the_estimator_tells_its_memory(tiny_weights):
    X = np.random.default_rng(0).normal(size=(60, 3))
    found = PFNClassifier(2, weights=tiny_weights).fit(X, np.arange(60) % 2).estimate_memory()
    assert found["one_member"] == found["cache"] + found["activations"] + found["scores"]
    assert found["kept"] == 2 * found["cache"] > 0


@pytest.mark.parametrize("at_once", [1, 7, 21, 35, 70, 150])
def test_attention_in_pieces_is_the_same(at_once, monkeypatch):
    """2 tasks, 3 columns, 2 heads make 12 pieces of 5 rows and 7 keys, 35 scores each: some rows of one, one, several of them."""
    import jax
    from priorax.models import attention

    q, k, v = (
        jax.random.normal(key, (2, 3, rows, 8))
        for key, rows in zip(jax.random.split(jax.random.key(0), 3), (5, 7, 7), strict=True)
    )
    lengths, factor = np.array([7, 4], np.int32), np.ones((2, 2), np.float32)

    def total(q, k, v):
        return (attention.row_attention(q, k, v, lengths, factor, "xla") ** 2).sum()

    assert attention.scores_at_once(12, 5, 7) == 12 * 35
    want = attention.row_attention(q, k, v, lengths, factor, "xla")
    slopes = jax.grad(total, argnums=(0, 1, 2))(q, k, v)
    monkeypatch.setattr(attention, "LEARNING_SCORES", at_once)
    monkeypatch.setattr(attention, "CPU_SCORES", at_once)
    assert attention.scores_at_once(12, 5, 7) == {1: 7, 7: 7, 21: 21, 35: 35, 70: 70, 150: 140}[at_once]
    np.testing.assert_allclose(attention.row_attention(q, k, v, lengths, factor, "xla"), want, atol=1e-6)
    for found, slope in zip(jax.grad(total, argnums=(0, 1, 2))(q, k, v), slopes, strict=True):
        np.testing.assert_allclose(found, slope, atol=1e-5)


def test_attention_holds_what_the_device_is_good_at(as_on_an_accelerator):
    from priorax.models import attention

    assert attention.scores_at_once(62, 1040, 1040) <= attention.CPU_SCORES
    assert attention.scores_at_once(8, 300, 300) == 8 * 300 * 300  # few enough for one go
    as_on_an_accelerator()
    assert attention.scores_at_once(62, 1040, 1040) == 62 * 1040 * 1040
    assert attention.scores_at_once(62, 100_000, 100_000) <= attention.MAX_SCORES


@pytest.mark.parametrize(("at_once", "rows"), [(1, 1), (140, 2), (640, 10), (704, 11)])
def test_attention_over_columns_in_blocks_of_rows_is_the_same(at_once, rows, monkeypatch):
    """2 tasks, 4 tokens, 2 heads: 64 scores a row, of which there are 11."""
    import jax
    from priorax.models import attention, blocks
    from priorax.models.network import init_params, with_params

    cfg = ModelConfig(width=8, heads=2, layers=2, hidden=8)
    w = jax.tree.map(lambda a: a[0] + 0.1, with_params(cfg, init_params(cfg)).blocks.stacked())
    h = jax.random.normal(jax.random.key(1), (2, 4, 11, 8))
    lengths = np.array([4, 2], np.int32)
    want = blocks.feature_step(w, h, lengths, 2)
    monkeypatch.setattr(attention, "CPU_SCORES", at_once)
    assert attention.rows_at_once(2, 11, 4, 2) == rows
    np.testing.assert_allclose(blocks.feature_step_by_rows(w, h, lengths, 2), want, atol=1e-6)


def test_memory_estimate_grows_with_every_size():
    cfg = ModelConfig()
    def estimate_bytes(*sizes):
        return inference.estimate_memory(cfg, *sizes).total

    base = estimate_bytes(512, 32, 512)
    assert base > inference.cache_bytes(cfg, 512, 32)
    for bigger in ((1024, 32, 512), (512, 64, 512), (512, 32, 2048)):
        assert estimate_bytes(*bigger) > base


@pytest.mark.parametrize("kind", ["quantile", "power"])
def test_value_transforms_keep_order_and_missing(kind):
    rng = np.random.default_rng(0)
    x = np.exp(rng.normal(size=(60, 3))).astype(np.float32)
    x[::7, 0] = np.nan
    x[:, 2] = rng.integers(0, 3, 60)
    transform = ValueTransform(kind).fit(x, np.array([False, False, True]))
    z = transform.apply(x)
    np.testing.assert_array_equal(np.isnan(z), np.isnan(x))
    np.testing.assert_array_equal(z[:, 2], x[:, 2])
    for j in (0, 1):
        kept = ~np.isnan(x[:, j])
        assert (np.diff(z[kept, j][np.argsort(x[kept, j])]) >= 0).all()
    assert abs(np.mean(z[:, 1])) < 0.2 and math.isclose(np.std(z[:, 1]), 1, abs_tol=0.3)


def test_place_of_the_compile_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PRIORAX_CACHE_DIR", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("PRIORAX_CACHE_DIR", "off")
    assert cache_dir() is None
    monkeypatch.delenv("PRIORAX_CACHE_DIR")
    assert cache_dir().name == "priorax"
