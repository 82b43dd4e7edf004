"""Held-out tasks by family, and probes: what a group holds, and that a task is always the same."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from priorax.configs.errors import ConfigError, MissingError
from priorax.configs.eval import SuiteConfig, SyntheticConfig
from priorax.configs.load import load_preset
from priorax.configs.prior import load_prior
from priorax.eval import by_group, evaluate, evaluation_report, load_suite
from priorax.eval.probes import PROBES, make_probe
from priorax.eval.synthetic import expand_groups, group_names, group_prior

# 64 rows and 8 columns: a shape that other tests compile anyway.
SMALL = SyntheticConfig(per_group=3, context=32, query=32, columns=8, learnable=False)


def suite(*groups, source="synthetic", **changes):
    config = dataclasses.replace(SMALL, **changes)
    return load_suite(SuiteConfig("s", source, groups, "official", synthetic=config))


def test_groups_of_a_prior():
    prior = load_prior("default")
    names = group_names(prior)
    assert "component/rules" in names and "mechanism/mlp" in names and "graph/tree" in names
    assert {"component/additive", "target/rule", "target/additive"} < set(names)
    assert expand_groups(prior, ["mechanism/*", "mechanism/mlp"]) == [n for n in names if n.startswith("mechanism/")]
    narrowed = group_prior(prior, "graph/chain")
    (laws,) = {component.laws for component in narrowed.components}  # the same for all, so no task has others
    graph = dataclasses.asdict(laws.graph)
    assert graph.pop("chain") == 1 and not any(graph.values())
    assert laws == dataclasses.replace(prior.components[0].laws, graph=laws.graph)
    (rules,) = [c for c in prior.components if c.name == "rules"]
    assert {c.laws for c in group_prior(prior, "component/rules").components} == {rules.laws}
    with pytest.raises(ConfigError, match='Did you mean "mechanism/linear"'):
        expand_groups(prior, ["mechanism/liner"])
    with pytest.raises(ConfigError, match="is no group"):
        expand_groups(prior, ["weather/*"])


def test_tasks_are_the_same_however_they_are_asked_for():
    one, two = suite("mechanism/linear", "graph/tree"), suite("graph/tree")
    assert one.ids == [f"{g}/{k:03d}" for g in ("mechanism/linear", "graph/tree") for k in range(3)]
    first, again = one.load("graph/tree/001"), two.load("graph/tree/001")
    np.testing.assert_array_equal(first.X, again.X)
    np.testing.assert_array_equal(first.y, again.y)
    assert first.name == first.id == "graph/tree/001"  # what tables show is what --tasks takes
    (split,) = first.splits
    assert len(split.train) == len(split.test) == 32 and first.X.shape == (64, len(first.categorical))
    assert set(first.y[split.train]) == set(range(len(first.classes))) and first.group == "graph/tree"
    other = suite("graph/tree", seed=1).load("graph/tree/001")
    assert other.X.shape != first.X.shape or not np.array_equal(other.X, first.X)
    chosen = suite("graph/tree", learnable=True).load("graph/tree/000")  # the first of six candidates that is learnable
    assert chosen.source.startswith("prior default, seed 1099511627776, task ")
    for task in ("graph/tree/003", "graph/chain/000", "graph/tree", "x"):
        with pytest.raises(MissingError, match="not one of this suite"):
            two.load(task)


def test_families_evaluate_like_any_suite(tmp_path):
    result = evaluate(suite("mechanism/linear", "target/rule"), "majority,logistic_regression", out=tmp_path)
    assert result.problems == [] and set(result.groups.values()) == {"mechanism/linear", "target/rule"}
    rows = by_group(result)
    assert len(rows) == 4 and all(row["tasks"] == 3 for row in rows)
    of = {(row["group"], row["method"]): row["mean"] for row in rows}
    assert of["mechanism/linear", "majority"] == 0.5 < of["mechanism/linear", "logistic_regression"]
    again = evaluate(suite("mechanism/linear", "target/rule"), "majority,logistic_regression", out=tmp_path)
    assert np.array_equal(again.table(), result.table())


@pytest.mark.parametrize("name", [name for name in PROBES if "sum" not in name])
def test_no_column_of_a_probe_tells_the_class(name):
    data = make_probe(PROBES[name], 0, 4000, 4000, seed=1)
    assert data.X.shape == (8000, PROBES[name].drivers + PROBES[name].noise) and len(np.bincount(data.y)) in (2, 4)
    hot = data.y[:, None] == np.arange(len(data.classes))
    np.testing.assert_allclose(hot.mean(0), 1 / len(data.classes), atol=0.03)
    for column in data.X.T:
        kinds = np.unique(column) if PROBES[name].levels else [None]
        bins = [column == v for v in kinds] if PROBES[name].levels else [column > t for t in (-1, 0, 1)]
        for inside in bins:
            np.testing.assert_allclose(hot[inside].mean(0), hot.mean(0), atol=0.06)


@pytest.mark.parametrize("name", [name for name in PROBES if "sum" in name])
def test_every_column_of_a_sum_counts_and_together_they_say_all(name):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import OneHotEncoder

    data = make_probe(PROBES[name], 0, 4000, 4000, seed=1)
    assert np.bincount(data.y).tolist() == [4000, 4000]
    x = OneHotEncoder(sparse_output=False).fit_transform(data.X) if PROBES[name].levels else data.X
    model = lambda keep: LogisticRegression(C=1e3, max_iter=1000).fit(x[:, keep], data.y).score(x[:, keep], data.y)
    every, width = np.arange(x.shape[1]), max(PROBES[name].levels, 1)
    assert model(every) > 0.99
    assert max(model(every[k : k + width]) for k in every[::width]) < 0.9
    assert sum(model(np.setdiff1d(every, every[k : k + width])) < 0.995 for k in every[::width]) > 0.7 * len(every[::width])


def test_probes_are_functions_of_their_columns():
    from sklearn.tree import DecisionTreeClassifier

    for name in ("lookup-4-classes", "binary-parity-3"):
        data = make_probe(PROBES[name], 3, 500, 500)
        again = make_probe(PROBES[name], 3, 500, 500)
        np.testing.assert_array_equal(data.X, again.X)
        assert not np.array_equal(data.X, make_probe(PROBES[name], 4, 500, 500).X)
        tree = DecisionTreeClassifier(random_state=0).fit(data.X, data.y)
        assert tree.score(data.X, data.y) == 1.0
        # The rule alone, found by brute force over subsets of columns: equal cells have equal classes.
        import itertools

        d = PROBES[name].drivers
        pure = [
            c for c in itertools.combinations(range(data.X.shape[1]), d)
            if len({(*row, y) for row, y in zip(map(tuple, data.X[:, c]), data.y, strict=True)}) == PROBES[name].levels ** d
        ]  # fmt: skip
        assert len(pure) == 1


def test_probe_suite_and_its_report(tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    config = load_preset("suites", "probes", SuiteConfig)
    assert set(config.tasks) == set(PROBES)
    small = suite("xor-10", "lookup-2-classes", source="probes", per_group=2)
    result = evaluate(small, "majority,knn", out=tmp_path / "e")
    assert result.names == {task: task for task in small.ids}
    text = evaluation_report(result, tmp_path / "r.html").read_text()
    assert "Families of tasks" in text and "Every data set" not in text and "4 tasks" in text
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())["suite"]["synthetic"]["per_group"] == 2
    with pytest.raises(ConfigError, match='Did you mean "xor-10"'):
        suite("xor10", source="probes")


@pytest.mark.parametrize("wrong", [{"per_group": 0}, {"context": 4}, {"columns": 0}, {"seed": -1}])
def test_wrong_sizes(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(SMALL, **wrong)
