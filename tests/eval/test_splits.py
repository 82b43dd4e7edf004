"""Protocols: sizes, strata, determinism, reasons for skipping."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from priorax.configs.errors import DataError
from priorax.configs.eval import PROTOCOLS, Protocol, SuiteConfig
from priorax.eval.splits import apply_protocol
from priorax.eval.suites import DataSet, Split
from sklearn.model_selection import StratifiedKFold, train_test_split


def make(counts=(40, 30, 10), columns=4, splits=None):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    X = np.random.default_rng(1).normal(size=(len(y), columns))
    return DataSet("d", "d", X, y, tuple("abcdefgh"[: len(counts)]), np.zeros(columns, bool), splits)


@pytest.mark.parametrize("name", ["kfold", "small", "tabpfn", "repeated", "speedrun"])
def test_splits_are_disjoint_stratified_and_repeatable(name):
    data = make((700, 500, 100), columns=120)
    cut, splits, note = apply_protocol(data, PROTOCOLS[name], seed=3)
    again = apply_protocol(data, PROTOCOLS[name], seed=3)
    np.testing.assert_array_equal(cut.X, again[0].X)
    for one, two in zip(splits, again[1], strict=True):
        np.testing.assert_array_equal(one.train, two.train)
        assert not set(one.train) & set(one.test)
        share = np.bincount(cut.y[one.test], minlength=3) / len(one.test)
        np.testing.assert_allclose(share, np.array([7, 5, 1]) / 13, atol=0.02)
    if name in ("small", "speedrun"):
        assert cut.X.shape == (1000, 100) and "100 random of 120 columns" in note and "1000 stratified of 1300" in note
    if name == "tabpfn":
        assert len(splits) == 5 and all(len(s.train) == 650 for s in splits)
    if name == "repeated":
        assert len(splits) == 15
        for repeat in range(3):
            tests = np.concatenate([s.test for s in splits if s.repeat == repeat])
            assert sorted(tests) == list(range(1300))


def test_speedrun_protocol_follows_the_published_script():
    """Columns, rows and folds exactly as the evaluation script of arXiv 2606.03681 draws them, whatever the seed."""
    data = make((700, 500, 100), columns=120)
    cut, splits, _ = apply_protocol(data, PROTOCOLS["speedrun"], seed=999)
    columns = np.random.default_rng(11).choice(120, size=100, replace=False)
    _, X, _, y = train_test_split(data.X[:, columns], data.y, test_size=1000, stratify=data.y, random_state=11)
    np.testing.assert_array_equal(cut.X, X)
    np.testing.assert_array_equal(cut.y, y)
    for split, (train, test) in zip(splits, StratifiedKFold(5, shuffle=True, random_state=11).split(X, y), strict=True):
        np.testing.assert_array_equal(split.train, train)
        np.testing.assert_array_equal(split.test, test)


def test_official_splits():
    given = tuple(Split(r, f, np.arange(0, 40) + f, np.arange(60, 80)) for r in range(2) for f in range(2))
    data = make(splits=given)
    assert apply_protocol(data, PROTOCOLS["official"])[1] == list(given)
    assert apply_protocol(data, PROTOCOLS["official-first"])[1] == [given[0]]
    once = dataclasses.replace(PROTOCOLS["official"], repeats=1)
    assert len(apply_protocol(data, once)[1]) == 2
    _, splits, note = apply_protocol(make(), PROTOCOLS["official"])
    assert len(splits) == 5 and "no official splits" in note


def test_training_rows_are_cut_stratified():
    data = make((700, 500, 100))
    _, splits, _ = apply_protocol(data, Protocol("p", max_train=130))
    for split in splits:
        assert len(split.train) == 130 and np.bincount(data.y[split.train]).tolist() == [70, 50, 10]


def test_rare_classes():
    data = make((60, 39, 1))
    cut, splits, note = apply_protocol(data, Protocol("p", max_rows=50))
    assert len(cut.y) == 50 and len(cut.classes) == 3 and "rarest class has 1 rows" in note and len(splits) == 5
    with pytest.raises(DataError, match='class "c" has one row'):
        apply_protocol(data, PROTOCOLS["tabpfn"])
    with pytest.raises(DataError, match="no class has 5 rows"):
        apply_protocol(make((3, 3)), PROTOCOLS["kfold"])
    with pytest.raises(DataError, match="3 classes, the protocol takes at most 2"):
        apply_protocol(data, Protocol("p", max_classes=2))


def test_classes_that_vanish_lose_their_code():
    data = make((5, 5, 5))
    cut = data.take_rows(np.flatnonzero(data.y != 1))
    assert cut.classes == ("a", "c") and set(cut.y) == {0, 1}


@pytest.mark.parametrize(
    "wrong", [{"folds": 1}, {"repeats": 0}, {"max_rows": 1}, {"max_columns": 0}, {"max_train": 1}, {"max_classes": 1}]
)
def test_wrong_protocols(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Protocol("p", **wrong)


@pytest.mark.parametrize("wrong", [{"tasks": ()}, {"tasks": (1, 1)}, {"tasks": (1,), "protocol": "none"}])
def test_wrong_suites(wrong):
    with pytest.raises(ValueError, match=next(reversed(wrong))):
        SuiteConfig(**({"name": "s", "source": "openml"} | wrong))
