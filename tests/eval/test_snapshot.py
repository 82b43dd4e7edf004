"""Snapshots of suites: the same data and splits without the source, damage noticed, problems listed."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from priorax.configs.errors import ConfigError, DataError, MissingError
from priorax.eval import evaluate, load_suite, prefetch

pytest.importorskip("pandas", reason="snapshots need pandas")
pytest.importorskip("pyarrow", reason="snapshots need pyarrow")


@pytest.fixture
def files(tmp_path):
    rows = "\n".join(f"{i},{'u' if i % 3 else ''},{'a' if i % 2 else 'b'}" for i in range(30))
    (tmp_path / "one.csv").write_text("x,empty,y\n" + rows.replace("u", "") + "\n")
    (tmp_path / "two.csv").write_text("x,kind,y\n" + rows + "\n")
    return [str(tmp_path / "one.csv"), str(tmp_path / "two.csv"), str(tmp_path / "later.csv")]


def test_a_snapshot_stands_for_its_suite(files, tmp_path):
    out = tmp_path / "snap"
    manifest = prefetch(files, out)
    assert set(manifest["tasks"]) == set(files[:2])
    assert "no data file" in manifest["missing"][files[2]]
    before = evaluate(files[:2], "knn,logistic_regression")
    assert before.problems == [] and np.isfinite(before.table()).all()
    shutil.copy(files[0], files[2])
    times = {p: p.stat().st_mtime_ns for p in out.glob("*.parquet")}
    prefetch(files, out)  # the missing one is tried again, the others are kept
    assert all(p.stat().st_mtime_ns == t for p, t in times.items()) and len(list(out.glob("*.parquet"))) == 3
    for file in files:
        (tmp_path / file).unlink()
    suite = load_suite(out)
    after = evaluate(suite, "knn,logistic_regression", tasks=files[:2])
    np.testing.assert_array_equal(after.table(), before.table())
    assert suite.load(files[1]).categorical.tolist() == [False, True]


def test_some_tasks_of_a_suite(files, tmp_path):
    with pytest.raises(ConfigError, match="is not in suite"):
        prefetch(files, tmp_path / "snap", tasks=["nowhere"])
    assert not (tmp_path / "snap").exists()
    for tasks in (files[1:2], files[:1]):
        prefetch(files, tmp_path / "snap", tasks=tasks)
        assert set(tasks) <= set(load_suite(tmp_path / "snap").ids)
    assert load_suite(tmp_path / "snap").ids == files[:2]
    prefetch(files, tmp_path / "all")  # the last one is not there
    manifest = prefetch(files, tmp_path / "all", tasks=files[:1])
    assert manifest["ids"] == files and set(manifest["missing"]) == {files[2]}, "what was asked for before is still missing"


def test_damage_is_noticed(files, tmp_path):
    out = tmp_path / "snap"
    prefetch(files[:2], out)
    file = out / json.loads((out / "manifest.json").read_text())["tasks"][files[0]]["table"]
    file.chmod(0o644)  # snapshots are read-only
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="damaged"):
        load_suite(out).load(files[0])
    with pytest.raises(MissingError, match="not in the snapshot"):
        load_suite(out).load("other.csv")
    with pytest.raises(ConfigError, match='holds the suite "files"'):
        prefetch("bundled", out)
    (out / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="no manifest"):
        load_suite(out)


def test_a_damaged_table_is_replaced_and_no_other(tmp_path):
    out = tmp_path / "snap"
    prefetch("bundled", out)
    held = json.loads((out / "manifest.json").read_text())
    damaged = min(held["tasks"], key=lambda task: held["tasks"][task]["table"])
    file = out / held["tasks"][damaged]["table"]
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match="delete its entry"):
        load_suite(out).load(damaged)
    del held["tasks"][damaged]  # what the message says
    (out / "manifest.json").write_text(json.dumps(held))
    prefetch("bundled", out)
    shapes = {data.id: data.X.shape for data in load_suite(out)}
    assert shapes == {data.id: data.X.shape for data in load_suite("bundled")}


def test_a_table_that_parquet_cannot_hold_is_listed_as_missing(tmp_path):
    import pandas

    suite = load_suite("bundled")
    load = suite.load

    def mixed(task):
        data = load(task)
        return dataclasses.replace(data, X=pandas.DataFrame(data.X).astype({0: object}).replace({0: {data.X[0, 0]: "?"}}))

    suite.load = lambda task: mixed(task) if task == suite.ids[0] else load(task)
    manifest = prefetch(suite, tmp_path)
    assert set(manifest["tasks"]) == set(suite.ids[1:])
    assert "cannot be written as Parquet" in manifest["missing"][suite.ids[0]]
    assert not list(tmp_path.glob("*.tmp")) and len(list(tmp_path.glob("*.parquet"))) == len(suite.ids) - 1


def test_official_splits_survive(openml_cache, tmp_path):
    pytest.importorskip("openml", reason="the openml client is not installed")
    prefetch([11, 29], tmp_path, openml_cache=openml_cache)
    direct = load_suite([29], openml_cache).load("29")
    held = load_suite(tmp_path).load("29")
    assert held.classes == direct.classes and held.name == direct.name
    np.testing.assert_array_equal(held.y, direct.y)
    np.testing.assert_array_equal(held.categorical, direct.categorical)
    for one, two in zip(held.splits, direct.splits, strict=True):
        assert (one.repeat, one.fold) == (two.repeat, two.fold)
        np.testing.assert_array_equal(one.train, two.train)
        np.testing.assert_array_equal(one.test, two.test)
    from priorax.models import TableEncoder

    np.testing.assert_array_equal(
        TableEncoder(held.categorical).fit_transform(held.X), TableEncoder(direct.categorical).fit_transform(direct.X)
    )
