"""Classes from sums over columns: that they are sums, of the columns they say, and known to graphs and models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from priorax.configs import load_prior
from priorax.configs.prior import TARGETS, CategoricalWeights
from priorax.priors import check_tasks, sample
from priorax.priors.additive import additive_columns, additive_scores
from priorax.priors.records import graphs
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder

ADDITIVE = TARGETS.index("additive")
scores = jax.jit(additive_scores, static_argnums=0)


def only_additive(**laws):
    """The default prior, every component the additive one: equal sizes, so the program other tests compiled serves."""
    prior = load_prior("default")
    (component,) = [c for c in prior.components if c.name == "additive"]
    changed = dataclasses.replace(component.laws, **laws)
    return dataclasses.replace(prior, components=tuple(dataclasses.replace(c, laws=changed) for c in prior.components))


@pytest.fixture(scope="module")
def batch():
    return sample(only_additive(), 5, range(0, 32 * 64, 64), rows=64, columns=8, with_scm=True)


def first(batch, i):
    """What `additive_scores` reads of task i, as a block of one."""
    scm = batch.scm.task(i)
    return scm.sizes, jax.tree.map(lambda v: v[0], scm.cohort), scm.plan, scm.stream


def test_tasks_are_valid_and_say_what_they_are(batch):
    check_tasks(batch)
    assert (np.asarray(batch.info["target"]) == ADDITIVE).all()
    assert (np.asarray(batch.info["n_effects"]) == 0).all()


def test_score_is_a_sum_of_one_function_per_column(batch):
    """f(a, b) + f(c, d) = f(a, d) + f(c, b) for any split of the columns into two groups: no term has two of them."""
    rng = np.random.default_rng(0)
    for i in range(8):
        sizes, cohort, plan, stream = first(batch, i)
        f = cohort.column.shape[0]
        categorical = np.asarray(batch.categorical)[i][:, None]
        table = lambda n, c=categorical, f=f: np.where(c, rng.integers(0, 2, (f, n)), rng.normal(size=(f, n)))
        reference, a, b = table(sizes.reference_rows), table(50), table(50)
        left = (np.arange(f) < f // 2)[:, None]
        run = lambda *parts, s=sizes, c=cohort, p=plan, t=stream, r=reference: np.asarray(
            scores(s, c, p, t, jnp.asarray(np.concatenate([r, np.where(*parts)], axis=1), jnp.float32)[None])[..., r.shape[1] :]
        )
        straight = run(left, a, a) + run(left, b, b)
        crossed = run(left, a, b) + run(left, b, a)
        assert np.abs(straight).max() > 0.1
        np.testing.assert_allclose(straight, crossed, atol=2e-5)


def test_only_the_columns_it_names_are_read(batch):
    found = 0
    for i in range(batch.n_tasks):
        sizes, cohort, plan, stream = first(batch, i)
        reads = np.asarray(additive_columns(cohort, plan, stream))[0]
        f = len(reads)
        assert reads.any() and not reads[int(plan.n_features[0]) :].any()
        coin = int(batch.info["fallback"][i]) == 2  # such a class reads nothing
        assert batch.scm.label_columns(i) == ([] if coin else np.flatnonzero(reads).tolist())
        assert int(batch.info["n_causes"][i]) == (0 if coin else reads.sum())
        rng = np.random.default_rng(i)
        x = rng.integers(0, 2, (f, sizes.reference_rows)).astype(np.float32)
        run = lambda v, s=sizes, c=cohort, p=plan, t=stream, r=x: np.asarray(
            scores(s, c, p, t, jnp.asarray(np.concatenate([r, v], axis=1), jnp.float32)[None])[..., r.shape[1] :]
        )
        before = run(x)
        assert np.array_equal(before, run(np.where(reads[:, None], x, 1 - x)))
        for c in np.flatnonzero(reads)[:2]:
            found += not np.array_equal(before, run(np.where(np.arange(f)[:, None] == c, 1 - x, x)))
    # A step whose threshold both values pass says nothing; nearly all columns do say something.
    assert found > batch.n_tasks


def test_half_the_tasks_read_every_column():
    scm = sample(only_additive(), 6, range(0, 256 * 64, 64), rows=64, columns=8, with_scm=True).scm
    reads = np.asarray(additive_columns(scm.cohort, scm.plan, scm.stream)).sum(1)
    width = np.asarray(scm.plan.n_features)
    # Half of them, and of the rest those whose share happens to reach all.
    assert 0.4 < np.mean((reads == width)[width > 4]) < 0.75


def test_graph_has_edges_from_the_nodes_of_the_columns_read(batch):
    for i, graph in enumerate(graphs(batch.scm)):
        assert list(graph.rule_columns) == batch.scm.label_columns(i)
        causes = {int(n) for n in graph.node_of_feature[list(graph.rule_columns)] if n >= 0}
        assert {int(s) for s, d, _ in graph.edges if d == graph.target_node} == causes
        assert graph.mechanism[-1] == ("additive", "median_split", "coin")[int(batch.info["fallback"][i])]


def test_model_gives_the_rows_of_the_table_and_interventions_act_through_columns(batch):
    cut_off = 0
    for i in range(8):
        scm = batch.scm.task(i)
        rows = np.asarray(scm.order)[0]
        seen = scm.sample(rows)
        # Classes are renamed and those without rows dropped, so they agree up to one name each.
        pairs = {(int(a), int(b)) for a, b in zip(np.asarray(seen["y"])[0], np.asarray(batch.y)[i], strict=True)}
        if int(batch.info["fallback"][i]) == 0:
            assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
        read = {int(n) for n in np.asarray(scm.node_of_column)[0][batch.scm.label_columns(i)]} - {-1}
        reach = set(read)
        parents = np.asarray(scm.parents)[0]
        for node in reversed(range(len(parents))):
            if any(parents[node, other] for other in reach):
                reach.add(node)
        for node in np.flatnonzero(np.asarray(scm.plan.active)[0]):
            other = scm.sample(rows, scm.do({int(node): 3.0}))
            if int(node) not in reach:
                cut_off += 1
                assert np.array_equal(np.asarray(other["y"]), np.asarray(seen["y"]))
    assert cut_off > 0


def test_levels_that_share_a_sum_share_a_class():
    """Sums of few categories take few values, and the edge of a class lies between two of them, not on one."""
    prior = only_additive(
        temperature=(1e-4, 1e-4), label_noise_rate=0.0, categorical_share=(1.0, 1.0), columns_least=1, columns_log=1.0,
        levels=(2, 3), categorical_column=CategoricalWeights(ordered=1), missing_rate=0.0,
    )  # fmt: skip
    batch = sample(prior, 8, range(0, 64 * 64, 64), rows=64, columns=8)
    checked = 0
    for i in range(64):
        if int(batch.n_features[i]) > 2 or int(batch.info["fallback"][i]):
            continue
        rows = np.asarray(batch.x[i])[:, : int(batch.n_features[i])]
        classes = {tuple(row): set() for row in rows}
        for row, y in zip(rows, np.asarray(batch.y[i]), strict=True):
            classes[tuple(row)].add(int(y))
        assert all(len(c) == 1 for c in classes.values())
        checked += 1
    assert checked > 10


@pytest.mark.slow  # tables long enough to learn from need a sampler of their own
def test_logistic_regression_on_levels_finds_sums_of_levels():
    """Without noise, numbers or many levels the class is a sum over levels, which a linear model of them can learn."""
    prior = only_additive(
        temperature=(0.001, 0.001), label_noise_rate=0.0, categorical_share=(1.0, 1.0), levels=(3, 5), classes_two_rate=1.0,
        missing_rate=0.0,
    )  # fmt: skip
    batch = sample(prior, 7, range(0, 24 * 64, 64), rows=1000, columns=8)
    reached = []
    for i in range(24):
        f, y = int(batch.n_features[i]), np.asarray(batch.y[i])
        x = OneHotEncoder(handle_unknown="ignore").fit_transform(np.asarray(batch.x[i])[:, :f])
        model = LogisticRegression(C=10.0, max_iter=2000).fit(x[:600], y[:600])
        reached.append(roc_auc_score(y[600:], model.predict_proba(x[600:])[:, 1]))
    assert np.median(reached) > 0.98
