"""What is taken up again from a folder: never results of other rows, other splits or another estimator."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from priorax.configs.eval import Protocol
from priorax.eval import calibration_table, evaluate, identity
from priorax.eval.identity import data_digest, estimator_digest, split_digest
from priorax.eval.methods import parse_methods
from priorax.eval.suites import DataSet, Split
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

FEW = Protocol("few", folds=2)


def table(path, x, y):
    path.write_text("x,y\n" + "\n".join(f"{a:.4f},{b}" for a, b in zip(x, y, strict=True)) + "\n")
    return str(path)


def cells(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "cells").rglob("*.npz")}


def test_a_rewritten_file_is_computed_again(tmp_path):
    pytest.importorskip("pandas", reason="reading files needs pandas")
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    y = (x > 0).astype(int)
    file = table(tmp_path / "d.csv", x, y)
    events = []
    run = lambda **more: evaluate(file, "knn", FEW, tmp_path / "out", log=lambda e, **k: events.append((e, k)), **more)
    first = run()
    kept = cells(tmp_path / "out")
    assert run().rows == first.rows and cells(tmp_path / "out") == kept  # nothing changed, nothing computed
    assert "eval.outdated" not in dict(events)
    table(tmp_path / "d.csv", x, rng.permutation(y))  # the same shape, other labels
    again, fresh = run(), evaluate(file, "knn", FEW)
    np.testing.assert_array_equal(again.table(), fresh.table())
    assert again.table()[0, 0] < 0.8 < first.table()[0, 0]
    assert dict(events)["eval.outdated"] == {"method": "knn", "data": "d", "folds": 2}
    table(tmp_path / "d.csv", x[:40], y[:40])
    assert {row["n_test"] for row in run().rows} == {20}


def test_predictions_are_those_of_the_result(tmp_path):
    pytest.importorskip("pandas", reason="reading files needs pandas")
    x = np.random.default_rng(0).normal(size=60)
    file = table(tmp_path / "d.csv", x, (x > 0).astype(int))
    first = evaluate(file, "knn", FEW, tmp_path / "out")
    assert len(first.predictions("knn", file)[0]) == 60
    table(tmp_path / "d.csv", -x, (x > 0).astype(int))
    second = evaluate(file, "knn", FEW, tmp_path / "out")
    assert first.predictions("knn", file) is None  # another evaluation's lie in their place
    assert len(second.predictions("knn", file)[0]) == 60
    (tmp_path / "d.csv").unlink()
    gone = evaluate(file, "knn", FEW, tmp_path / "out")
    assert gone.problems and gone.predictions("knn", file) is None and calibration_table(gone) == []


def test_another_estimator_under_the_same_name_is_computed_again(tmp_path):
    def accuracy(estimator):
        return evaluate("bundled", {"mine": estimator}, FEW, tmp_path, tasks=["iris"]).table("accuracy")[0, 0]

    assert accuracy(DummyClassifier()) < 0.5 < accuracy(LogisticRegression(max_iter=500))
    kept = cells(tmp_path)
    accuracy(LogisticRegression(max_iter=500))
    assert cells(tmp_path) == kept
    accuracy(LogisticRegression(max_iter=499))
    assert cells(tmp_path) != kept


def test_estimators_are_told_apart_by_their_settings():
    chain = lambda c: lambda: make_pipeline(StandardScaler(), LogisticRegression(C=c))
    assert estimator_digest(chain(1.0)) == estimator_digest(chain(1.0)) != estimator_digest(chain(2.0))
    priors = lambda value: lambda: DummyClassifier(constant=np.r_[np.zeros(2000), value])
    assert estimator_digest(priors(1)) == estimator_digest(priors(1)) != estimator_digest(priors(2))
    for unclear in (  # a function's code, a generator's state, a class without settings, a factory that fails
        lambda: FunctionTransformer(np.log1p),
        lambda: DummyClassifier(random_state=np.random.RandomState(0)),
        object,
        lambda: 1 / 0,
    ):
        assert estimator_digest(unclear) != estimator_digest(unclear)


@pytest.mark.parametrize("changed", ["priorax", "scikit-learn", "lightgbm"])
def test_versions_count(monkeypatch, changed):
    digests = lambda: [method.digest() for method in parse_methods("knn,majority,lightgbm")]
    before = digests()
    assert digests() == before
    real = identity._version
    monkeypatch.setattr(identity, "_version", lambda name: "99" if name == changed else real(name))
    differ = [one != two for one, two in zip(before, digests(), strict=True)]
    assert differ == [changed != "lightgbm"] * 2 + [True]


def test_a_networks_results_are_those_of_the_libraries_its_scores_are_computed_with():
    assert {"priorax", "jax", "numpy", "scipy", "scikit-learn"} == identity.versions("network").keys()


def test_every_part_of_a_data_set_counts():
    x, y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1])
    data = DataSet("a", "a", x, y, ("n", "p"), np.zeros(2, bool))
    changed = [
        {"X": x + 1}, {"X": x.astype(np.float32)}, {"X": x[:, ::-1]}, {"y": 1 - y}, {"classes": ("n", "q")},
        {"categorical": np.array([True, False])}, {"X": x.astype(object)},
    ]  # fmt: skip
    digests = [data_digest(data), *(data_digest(dataclasses.replace(data, **part)) for part in changed)]
    assert len(set(digests)) == len(digests)
    assert data_digest(dataclasses.replace(data, X=x.copy())) == digests[0]
    rows = np.arange(3), np.arange(3, 6)
    assert split_digest("d", Split(0, 0, *rows)) != split_digest("d", Split(0, 0, *rows[::-1]))


def test_frames_of_any_cells_are_told_apart():
    pandas = pytest.importorskip("pandas")
    y = np.array([0, 1, 0])
    digest = lambda *column, **names: data_digest(
        DataSet("a", "a", pandas.DataFrame({names.get("name", "c"): column[0]}), y, ("n", "p"), np.zeros(1, bool))
    )
    levels = lambda order: pandas.Series(pandas.Categorical(["u", "v", "u"], categories=order))
    columns = [
        [1, "1", 2], ["1", "1", 2], ["1", "1", "2"], [1, 1, 2], [1.0, 1.0, 2.0], [[1], [1], [2]], [[1], [1], [3]],
        [None, "1", "2"], levels(["u", "v"]), levels(["v", "u"]), ["u", "v", "u"],
        pandas.Series(pandas.to_datetime(["2020", "2021", "2020"])),
    ]  # fmt: skip
    digests = [digest(column) for column in columns]
    assert len(set(digests)) == len(digests) and digests == [digest(column) for column in columns]
    assert digest(columns[2], name="d") != digests[2]
    text = pandas.Series(["u", "v", "u"])
    assert digest(text.astype(object)) == digest(text.astype("string"))  # text is text


def test_levels_that_read_alike_are_told_apart():
    pandas = pytest.importorskip("pandas", reason="columns with levels are pandas'")
    kept, swapped = (pandas.Categorical(cells, categories=[1, "1"]) for cells in ([1, "1"], ["1", 1]))
    found = {identity._column_digest(pandas.Series(cells)) for cells in (kept, swapped, kept.reorder_categories(["1", 1]))}
    assert len(found) == 3


def test_columns_that_pandas_cannot_hash_have_a_digest_too():
    pandas = pytest.importorskip("pandas", reason="such columns are pandas'")
    pyarrow = pytest.importorskip("pyarrow", reason="nested columns are pyarrow's")
    nested = lambda *cells: pandas.Series(pandas.arrays.ArrowExtensionArray(pyarrow.array([*cells, None])))
    with pytest.raises(TypeError):
        pandas.util.hash_pandas_object(nested([1], [2]), index=False)
    one, again, other = (identity._column_digest(nested(*cells)) for cells in (([1], [2]), ([1], [2]), ([2], [1])))
    assert one == again != other
    lone = [identity._column_digest(pandas.Series([cell, "b"], dtype=object)) for cell in ("\ud800", "\ud801")]
    assert lone[0] != lone[1]
