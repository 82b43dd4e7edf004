"""BLAS has one thread while scores are made, and as many as before afterwards."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from priorax.models import ridge_scores
from priorax.models.threads import one_blas_thread
from threadpoolctl import ThreadpoolController, threadpool_limits


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()}


@pytest.fixture
def two_threads():
    """Other tests run under one thread already."""
    import scipy.linalg.blas  # noqa: F401

    with threadpool_limits(2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("threadpoolctl cannot set the threads of this BLAS")
        yield


def test_one_inside_and_as_many_as_before_afterwards(two_threads):
    with one_blas_thread():
        assert blas_threads() == {1}
        with one_blas_thread():
            assert blas_threads() == {1}
        assert blas_threads() == {1}
    assert blas_threads() == {2}


def test_after_an_error_too(two_threads):
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        1 / 0  # noqa: B018
    assert blas_threads() == {2}


def test_two_threads_of_the_user_that_overlap(two_threads):
    """The first to enter leaves first, and the second must not restore the single thread that it found."""
    second_is_in, first_is_out = threading.Event(), threading.Event()

    def second():
        with one_blas_thread():
            second_is_in.set()
            assert first_is_out.wait(60)

    other = threading.Thread(target=second)
    with one_blas_thread():
        other.start()
        assert second_is_in.wait(60)
        assert blas_threads() == {1}
    first_is_out.set()
    other.join(60)
    assert blas_threads() == {2}


def test_scores_are_made_on_one(two_threads, monkeypatch):
    x = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    scores = ridge_scores.RidgeScores(("linear",), 0)
    seen = []
    whole = ridge_scores.Effects.__call__

    def watched(self, rows):
        seen.append(blas_threads())
        return whole(self, rows)

    monkeypatch.setattr(ridge_scores.Effects, "__call__", watched)
    scores.fit_transform(x, y, np.zeros(3, np.int32))
    scores.apply(x[:5])
    scores.shares(x[:5])
    assert len(seen) >= 3
    assert set.union(*seen) == {1}
