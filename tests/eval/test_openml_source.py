"""The OpenML client against a cache on disk and against a server that fails: nothing is lost, nothing is silent."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from priorax.configs.errors import MissingError
from priorax.eval import evaluate, load_suite, prefetch
from priorax.eval.openml_source import Retry, load_openml

pytest.importorskip("openml", reason="the openml client is not installed")


def _load(name: str):
    """A helper beside this file; tests are collected by path, not as a package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


files = _load("openml_files")
NOW = Retry(attempts=3, first_wait_s=0.0)


@pytest.fixture
def cache(tmp_path):
    root = files.write_task(tmp_path / "cache")
    for path in [*root.rglob("*"), root]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return root


def same(a, b):
    assert a.classes == b.classes and a.name == b.name and [s.key for s in a.splits] == [s.key for s in b.splits]
    np.testing.assert_array_equal(a.y, b.y)
    np.testing.assert_array_equal(a.X["size"].to_numpy(float), b.X["size"].to_numpy(float))
    for one, two in zip(a.splits, b.splits, strict=True):
        np.testing.assert_array_equal(one.test, two.test)


def test_a_read_only_cache(cache):
    data = load_openml(files.TASK, cache)
    assert data.name == "toy" and data.X.shape == (24, 2) and data.classes == ("no", "yes")
    assert data.categorical.tolist() == [False, True] and np.isnan(data.X["size"].to_numpy(float)).sum() == 1
    assert len(data.splits) == 3 and sorted(np.concatenate([s.test for s in data.splits])) == list(range(24))
    with pytest.raises(MissingError, match="7 is not in the offline cache"):
        load_openml(7, cache)


def test_a_cache_with_a_gap_is_no_reason_to_ask_again(cache):
    folder = cache / "org" / "openml" / "www" / "datasets" / str(files.DATA)
    folder.chmod(0o755)
    (folder / "dataset.arff").unlink()
    errors = []
    with pytest.raises(MissingError, match="could not be loaded"):
        load_openml(files.TASK, cache, NOW, errors.append)
    assert errors == []


def test_errors_of_the_server_are_retried_and_told(cache, tmp_path):
    errors = []
    with files.serving(tmp_path / "server", tmp_path / "client", failures=2) as server:
        data = load_openml(files.TASK, None, NOW, errors.append)
    same(data, load_openml(files.TASK, cache))
    assert [(e["task"], e["attempt"], e["again"]) for e in errors] == [("900001", 1, True), ("900001", 2, True)]
    assert all("503" in e["error"] for e in errors) and server.failures == 0


def test_a_server_that_stays_down(tmp_path):
    errors = []
    with files.serving(tmp_path / "server", tmp_path / "client", failures=99) as server:
        with pytest.raises(MissingError, match="after 3 attempts.*503"):
            load_openml(files.TASK, None, NOW, errors.append)
        assert server.requests == 3
    assert [e["again"] for e in errors] == [True, True, False]
    import openml

    with files.serving(tmp_path / "other", tmp_path / "client2"):
        openml.config.server = "http://127.0.0.1:9/api/v1/xml"  # nobody listens there
        with pytest.raises(MissingError, match="after 3 attempts"):
            load_openml(files.TASK, None, NOW)


def test_a_refusal_is_final(tmp_path):
    with files.serving(tmp_path / "server", tmp_path / "client") as server:
        with pytest.raises(MissingError, match="151"):
            load_openml(4711, None, NOW)
        assert server.requests == 1


def suite_of(*ids):
    suite = load_suite(list(ids))
    suite.retry = NOW
    return suite


def test_prefetch_then_no_network(cache, tmp_path):
    pytest.importorskip("pyarrow", reason="snapshots need pyarrow")
    events = []
    with files.serving(tmp_path / "server", tmp_path / "client", failures=1):
        manifest = prefetch(suite_of(files.TASK, 4711), tmp_path / "snap", log=lambda e, **k: events.append((e, k)))
    assert list(manifest["tasks"]) == ["900001"] and "151" in manifest["missing"]["4711"]
    assert len(manifest["server_errors"]) == 1 and "eval.server_error" in [e for e, _ in events]
    for path in (tmp_path / "snap").glob("0000.*"):
        assert path.stat().st_mode & 0o222 == 0  # read-only
    suite = load_suite(tmp_path / "snap")
    same(suite.load("900001"), load_openml(files.TASK, cache))
    result = evaluate(suite, "majority,knn")
    assert np.isfinite(result.table()[:, 0]).all() and result.problems[0]["task"] == "4711"


def test_evaluations_keep_what_servers_answered(tmp_path):
    from priorax.eval import load_result

    with files.serving(tmp_path / "server", tmp_path / "client", failures=2):
        result = evaluate(suite_of(files.TASK), "majority", out=tmp_path / "e")
        assert len(result.server_errors) == 2 and result.problems == []
        evaluate(suite_of(files.TASK), "majority,knn", out=tmp_path / "e")  # goes on; the errors of before are not forgotten
    again = load_result(tmp_path / "e")
    assert len(again.server_errors) == 2 and again.methods == ("majority", "knn")
