"""Random search: the defaults are among the trials, budgets hold, nothing but the training rows is used."""

from __future__ import annotations

import time

import numpy as np
import pytest
from priorax.configs.errors import ConfigError
from priorax.eval.baselines import Baseline, check_params
from priorax.eval.search import SPACES, RandomSearch


@pytest.fixture(scope="module")
def needle():
    """Nearest neighbours need few neighbours here: a class sits in many small clusters."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(-10, 10, size=(40, 2))
    which = rng.integers(40, size=160)
    X = centres[which] + 0.05 * rng.normal(size=(160, 2))
    return X, (which % 2).astype(np.int64)


def test_the_best_trial_is_refitted(needle):
    X, y = needle
    search = RandomSearch("knn", seed=3, trials=12).fit(X, y)
    assert len(search.history_) == 12 and search.history_[0][0] == {}  # the defaults are a trial
    losses = [loss for _, loss in search.history_]
    assert dict(search.params_) == search.history_[int(np.argmin(losses))][0] != {}
    assert min(losses) < losses[0]
    refitted = Baseline("knn", seed=3, params=search.params_).fit(X, y)
    np.testing.assert_array_equal(search.predict_proba(X), refitted.predict_proba(X))
    assert search.note_ == "search: 12 trials"


def test_trials_fix_the_result(needle):
    X, y = needle
    one, two = (RandomSearch("knn", seed=1, trials=3).fit(X, y) for _ in range(2))
    assert one.history_ == two.history_ != RandomSearch("knn", seed=2, trials=3).fit(X, y).history_


def test_time_ends_the_search(needle):
    X, y = needle
    start = time.monotonic()
    search = RandomSearch("knn", seed=0, seconds=0.3).fit(X, y)
    assert 1 <= len(search.history_) and time.monotonic() - start < 30
    none = RandomSearch("knn", seed=0, seconds=1e-9, trials=50).fit(X, y)
    assert len(none.history_) == 1 and none.params_ == {}  # the defaults are always tried


def test_classes_too_rare_for_validation():
    X = np.arange(6.0)[:, None]
    assert RandomSearch("knn", trials=3).fit(X, np.arange(6)).history_ == []
    rare = RandomSearch("knn", trials=2).fit(np.arange(12.0)[:, None], np.array([0] * 11 + [1]))
    assert rare.predict_proba([[3.0]]).shape == (1, 2)
    one = RandomSearch("knn", trials=3).fit(X, np.zeros(6, int))
    np.testing.assert_array_equal(one.predict_proba(X[:2]), [[1], [1]])


@pytest.mark.parametrize("name", SPACES)
def test_spaces_hold_settings_the_learner_has(name):
    pytest.importorskip(name, reason=f"{name} is not installed") if name in ("xgboost", "lightgbm", "catboost") else None
    rng = np.random.default_rng(0)
    draws = [SPACES[name](rng) for _ in range(20)]
    check_params(name, {key: None for draw in draws for key in draw})
    assert len({str(draw) for draw in draws}) > 10


def test_settings_a_learner_refuses_are_counted(needle, monkeypatch):
    X, y = needle
    monkeypatch.setitem(SPACES, "knn", lambda rng: {"n_neighbors": -1})
    search = RandomSearch("knn", trials=4).fit(X, y)
    assert search.params_ == {} and search.note_ == "search: 1 trials, 3 failed"


@pytest.mark.parametrize(("budget", "words"), [({}, "needs a budget"), ({"trials": 0}, "at least 1"), ({"seconds": -1}, "at least")])
def test_wrong_budgets(budget, words):
    with pytest.raises(ConfigError, match=words):
        RandomSearch("knn", **budget)
