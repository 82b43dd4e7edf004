"""Learning curves, the speedrun's preparation, memory, and calibration data."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import sys

import numpy as np
import pytest
from priorax.configs.errors import DataError
from priorax.configs.eval import PROTOCOLS, Protocol
from priorax.eval import calibration_table, evaluate, evaluation_report, load_result, shot_curve
from priorax.eval.memory import PeakMemory
from priorax.eval.metrics import calibration_error
from priorax.eval.prepare import prepare_speedrun
from priorax.eval.splits import apply_protocol, few_shot
from priorax.eval.suites import DataSet, Split

CURVE = Protocol("curve", splits="holdout", folds=2, max_test=40, shots=(8, 16, 32, 64))


def make(y):
    y = np.asarray(y)
    return DataSet("d", "d", np.zeros((len(y), 1)), y, tuple(map(str, range(y.max() + 1))), np.zeros(1, bool))


def test_few_shot_subsets_are_nested_and_stratified():
    y = np.repeat([0, 1, 2], [600, 300, 100])
    train = np.random.default_rng(0).permutation(1000)[:900]
    split = Split(0, 2, np.sort(train), np.setdiff1d(np.arange(1000), train))
    few = few_shot(split, y, (8, 16, 64, 256, 512, 2048), seed=5)
    assert [s.shots for s in few] == [8, 16, 64, 256, 512] == [len(s.train) for s in few]  # 2048 has too few rows
    for small, large in itertools.pairwise(few):
        assert set(small.train) < set(large.train) <= set(split.train)
    for s in few:
        assert np.abs(np.bincount(y[s.train]) - len(s.train) * np.bincount(y[train]) / 900).max() < 2  # rows
        np.testing.assert_array_equal(s.test, split.test)
    other = few_shot(split, y, (64,), seed=6)[0]
    assert set(other.train) != set(few[2].train) and len({s.key for s in few}) == 5


def test_few_shots_show_as_many_classes_as_they_can():
    y = np.repeat(np.arange(20), np.arange(40, 20, -1))
    split = Split(0, 0, np.arange(len(y)), np.arange(5))
    eight, thirty = few_shot(split, y, (8, 32), seed=0)
    assert set(y[eight.train]) == set(range(8))  # the eight most frequent ones
    assert set(y[thirty.train]) == set(range(20))
    rare = few_shot(Split(0, 0, np.arange(1000), np.arange(5)), np.repeat([0, 1], [990, 10]), (8,), seed=0)[0]
    assert 1 in np.repeat([0, 1], [990, 10])[rare.train]  # a share of 1 % would round to none


def test_holdout():
    _data, splits, note = apply_protocol(make(np.arange(300) % 3), CURVE)
    assert len(splits) == 2 * 4 and note == ""
    first = [s for s in splits if s.fold == 0]
    assert all(len(s.test) == 40 for s in splits) and len({tuple(s.test) for s in splits}) == 2
    assert not set(first[-1].train) & set(first[-1].test)
    _, splits, note = apply_protocol(make(np.arange(60) % 3), CURVE)
    assert {s.shots for s in splits} == {8, 16, 32} and note == "sizes up to 32 of 64 training rows"
    single = np.append(np.arange(59) % 2, 2)  # a class of one row is never in the test part
    _, splits, _ = apply_protocol(make(single), CURVE)
    assert all(59 not in s.test for s in splits)
    with pytest.raises(DataError, match="fewer than 8 training rows"):
        apply_protocol(make(np.arange(9) % 2), CURVE)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shots": (16, 8)}, "rising"),
        ({"shots": (1, 8)}, "at least 2"),
        ({"shots": (8,), "pooled": True}, "neither pooled"),
        ({"splits": "holdout", "folds": 0}, "folds"),
        ({"max_test": 1}, "max_test"),
    ],
)
def test_wrong_protocols(settings, words):
    with pytest.raises(ValueError, match=words):
        Protocol("p", **settings)


@pytest.fixture(scope="module")
def curve(tmp_path_factory):
    out = tmp_path_factory.mktemp("curve")
    return evaluate("bundled", "knn,majority", dataclasses.replace(CURVE, folds=1), out, tasks=["iris", "wine"])


def test_learning_curves(curve):
    assert curve.problems == [] and curve.sizes == (8, 16, 32, 64)
    rows = shot_curve(curve)
    knn = [row for row in rows if row["method"] == "knn"]
    assert [row["shots"] for row in knn] == [8, 16, 32, 64] and {row["data_sets"] for row in knn} == {2}
    assert knn[-1]["mean"] > knn[0]["mean"] > 0.5 and knn[0]["ci_low"] <= knn[0]["mean"] <= knn[0]["ci_high"]
    assert all(row["mean"] == 0.5 for row in rows if row["method"] == "majority")
    by_size = np.stack([curve.table(shots=size) for size in curve.sizes])
    np.testing.assert_allclose(curve.table(), by_size.mean(0))  # what the leaderboard shows
    np.testing.assert_allclose(knn[1]["mean"], by_size[1, 0].mean())
    with open(curve.out / "many_shot.csv") as file:
        held = list(csv.DictReader(file))
    assert len(held) == 2 * 4 * 7 and held[0]["metric"] == "roc_auc"
    y, p = curve.predictions("knn", "iris")
    assert len(y) == 4 * 40 and p.shape == (160, 3)
    cells = sorted(path.name for path in (curve.out / "cells" / "knn" / "iris").iterdir())
    assert len(cells) == 4 and cells[0] == "r0f0s16.npz"


def test_curves_compare_the_same_data_sets_at_every_size(tmp_path):
    protocol = Protocol("curve", splits="holdout", folds=1, max_test=40, shots=(8, 64, 256))
    result = evaluate("bundled", "majority", protocol, tmp_path, tasks=["iris", "wine", "breast_cancer"])
    rows = shot_curve(result)
    # Only one of three sets has 256 rows: the curve ends at 64, over the same three sets.
    assert [(row["data_sets"], row["data_sets_all"]) for row in rows] == [(3, 3), (3, 3), (0, 1)]
    assert math.isnan(rows[2]["mean"]) and rows[2]["mean_all"] == 0.5
    assert load_result(tmp_path).sizes == (8, 64, 256)


def test_curves_in_the_report(curve, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    text = evaluation_report(curve, tmp_path / "r.html").read_text()
    assert "Learning curves" in text and "Learning curves in numbers" in text and "2 (2)" in text


def test_the_protocol_of_the_task():
    protocol = PROTOCOLS["many-shot"]
    assert protocol.shots == (8, 16, 32, 64, 128, 256, 512, 1024) and protocol.splits == "holdout"
    assert PROTOCOLS["tabpfn"].max_train == 1000 and PROTOCOLS["tabpfn"].folds == 5
    speedrun = PROTOCOLS["speedrun"]
    assert (speedrun.seed, speedrun.max_rows, speedrun.max_columns, speedrun.pooled) == (11, 1000, 100, True)
    assert speedrun.prepare == "speedrun"


def test_speedrun_preparation_by_hand():
    pd = pytest.importorskip("pandas", reason="the preparation needs pandas")
    train = pd.DataFrame({
        "constant": [3, 3, 3, np.nan], "number": [1.0, 3.0, np.nan, 5.0], "text": ["b", "a", None, "b"],
        "digits": ["1", "2", "10", None], "flag": [True, False, True, True], "level": pd.Categorical(["x", "y", "x", "x"]),
    })  # fmt: skip
    test = pd.DataFrame({
        "constant": [9], "number": [np.nan], "text": ["never seen"], "digits": ["7"], "flag": [False],
        "level": pd.Categorical(["y"]),
    })  # fmt: skip
    a, b = prepare_speedrun(train, test)
    # Numbers first (number, digits, flag), then codes (text, level); means 3, 13/3 and the most frequent code fill
    # gaps.
    np.testing.assert_allclose(
        a, [[1, 1, 1, 1, 0], [3, 2, 0, 0, 1], [3, 10, 1, 1, 0], [5, 13 / 3, 1, 1, 0]]
    )
    np.testing.assert_allclose(b, [[3, 7, 0, 1, 1]])
    with pytest.raises(DataError, match="no column has two different values"):
        prepare_speedrun(train[["constant"]], test[["constant"]])


def test_speedrun_equals_a_pipeline_of_scikit_learn():
    """The whole protocol on one set, against the same steps written down with scikit-learn alone."""
    pytest.importorskip("pandas", reason="the preparation needs pandas")
    from sklearn.datasets import load_digits
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, train_test_split
    from sklearn.neighbors import KNeighborsClassifier

    result = evaluate("bundled", {"knn": KNeighborsClassifier()}, "speedrun", tasks=["digits"], seed=99)
    X, y = load_digits(return_X_y=True)
    _, X, _, y = train_test_split(X, y, test_size=1000, stratify=y, random_state=11)
    truth, scores = [], []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=11).split(X, y):
        varies = X[train].std(0) > 0
        model = KNeighborsClassifier().fit(X[train][:, varies], y[train])
        truth.append(y[test])
        scores.append(model.predict_proba(X[test][:, varies]))
    expected = roc_auc_score(np.concatenate(truth), np.concatenate(scores), multi_class="ovr")
    assert result.table()[0, 0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_peak_memory():
    with PeakMemory() as none:
        pass
    with PeakMemory() as much:
        np.ones(60 * 2**17).sum()  # 60 MB, written and freed
    assert none.megabytes < 5 and 55 < much.megabytes < 75


def test_memory_is_in_the_results(curve):
    values = curve.memory()
    assert values.shape == (2, 2) and (np.isfinite(values).all() == (sys.platform == "linux"))


def test_calibration_data(tmp_path):
    result = evaluate("bundled", "knn", Protocol("k", folds=3), out=tmp_path, tasks=["wine", "iris"])
    rows = calibration_table(result)
    wine = [row for row in rows if row["task"] == "wine"]
    assert sum(row["rows"] for row in wine) == 178
    assert sum(row["rows"] for row in rows if not row["task"]) == 178 + 150
    y, p = result.predictions("knn", "wine")
    error = sum(abs(row["confidence"] - row["accuracy"]) * row["rows"] for row in wine) / 178
    assert error == pytest.approx(calibration_error(y, p))
    assert (tmp_path / "calibration.parquet").exists() or (tmp_path / "calibration.csv").exists()
