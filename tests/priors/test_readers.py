"""`inspect_dump` recognises dumps and names the rules they break, on files made without our writers too."""

from __future__ import annotations

import json
import pickle
import zipfile

import h5py
import numpy as np
import pytest
from priorax.configs.errors import DataError
from priorax.priors.readers import inspect_dump, read_tabicl
from priorax.priors.writers_tabicl import save_tensors


def hdf5(path, splits, names=("single_eval_pos", "train_test_split_index"), gap=False, skew=False):
    """A dump as other projects write it: N tasks of 10 rows and 3 columns."""
    n = len(splits)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 10, 3)).astype("f4")
    if gap:
        x[0, 0, 0] = np.nan
    y = np.tile(np.arange(10) % 2, (n, 1)).astype("f4")
    if skew:
        y[-1, :5], y[-1, 5:] = 0, 1
    with h5py.File(path, "w") as f:
        f["X"], f["y"] = x, y
        f["num_features"] = np.full(n, 3, "i4")
        f["num_datapoints"] = np.full(n, 10, "i4")
        for name in names:
            f[name] = np.array(splits, "i4")
        f["max_num_classes"] = np.array([2])
        f["original_batch_size"] = np.array([2])
        f["problem_type"] = "classification"
    return path


def test_a_good_foreign_dump(tmp_path):
    found = inspect_dump(hdf5(tmp_path / "a.h5", [5, 5, 6, 6]))
    assert found["problems"] == [] and found["tasks"] == 4 and found["batch_size"] == 2


@pytest.mark.parametrize(
    ("kwargs", "batch_size", "says"),
    [
        (dict(splits=[5, 5, 6, 6]), 4, "tasks 0-3 have different split positions"),
        (dict(splits=[5, 5, 6, 6]), 3, "no multiple of the batch size 3"),
        (dict(splits=[5, 5], names=("train_test_split_index",)), None, "nanoTabPFN cannot load"),
        (dict(splits=[5, 5], names=("single_eval_pos",)), None, "TFM-Playground since April 2026"),
        (dict(splits=[5, 5], gap=True), None, "missing values"),
        (dict(splits=[5, 5], skew=True), None, "task 1 asks for classes [1]"),
    ],
)
def test_broken_rules_are_named(tmp_path, kwargs, batch_size, says):
    problems = inspect_dump(hdf5(tmp_path / "a.h5", **kwargs), batch_size)["problems"]
    assert any(says in p for p in problems), problems


def test_a_regression_dump_has_no_classes(tmp_path):
    """Its targets were told to be class ids with gaps."""
    path = hdf5(tmp_path / "a.h5", [5, 5])
    with h5py.File(path, "r+") as f:
        del f["problem_type"]
        f["problem_type"] = "regression"
        f["y"][...] = np.random.default_rng(0).normal(size=(2, 10))
    found = inspect_dump(path)
    assert found["problems"] == [] and found["problem_type"] == "regression"
    with h5py.File(path, "r+") as f:
        f["y"][0, 0] = np.nan
    assert inspect_dump(path)["problems"] == ["y holds values that are not finite"]


def test_tabicl_rules(tmp_path):
    good = {
        "X": np.arange(2 * 4 * 3, dtype="<f4"), "y": np.array([[0, 1, 0, 1]] * 2, "<f4"), "d": np.array([3, 3], "<i8"),
        "seq_lens": np.array([4, 4], "<i8"), "train_sizes": np.array([2, 2], "<i8"), "batch_size": 2,
    }  # fmt: skip
    path = tmp_path / "batch_000000.pt"
    save_tensors(path, good)
    np.testing.assert_array_equal(read_tabicl(path)["X"], good["X"])
    assert inspect_dump(path)["problems"] == []
    save_tensors(path, {**good, "d": np.array([3, 2], "<i8")})
    assert any("X holds 24 values" in p for p in inspect_dump(path)["problems"])
    save_tensors(path, {**good, "y": np.array([[0, 0, 1, 1]] * 2, "<f4")})
    assert any("asks for classes [1]" in p for p in inspect_dump(path)["problems"])


def test_a_pickle_that_wants_more_than_tensors_is_refused(tmp_path):
    """A hostile file must not run code when it is looked at."""
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    path = tmp_path / "batch_000000.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"X": Evil()}))
    with pytest.raises(DataError, match="does not need"):
        inspect_dump(path)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["x.h5", "x.pt", "x.npz", "x.parquet", "x.csv", "x.jsonl"])
def test_nonsense_is_refused_with_a_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(b"nonsense\nnonsense\n")
    with pytest.raises(DataError, match="x\\."):
        inspect_dump(tmp_path / name)


def test_unknown_kinds_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match="holds no dump"):
        inspect_dump(tmp_path)
    (tmp_path / "x.doc").write_text("")
    with pytest.raises(DataError, match="no dump format known"):
        inspect_dump(tmp_path / "x.doc")


def csv_task(path, labels="0101", split=2):
    """One task as `generate --format csv` writes it."""
    rows = [f"{i}.5,{c},{'train' if i < split else 'test'}" for i, c in enumerate(labels)]
    path.write_text("\n".join(["x0,target,split", *rows]) + "\n")


def noted(folder, tasks):
    """The manifest of what a folder holds now."""
    files = [{"path": str(p.relative_to(folder)), "bytes": p.stat().st_size} for p in sorted(folder.rglob("*.csv"))]
    (folder / "manifest.json").write_text(json.dumps({"files": files, "n_tasks": tasks}))


def test_all_files_of_a_folder_are_read(tmp_path):
    for i, labels in enumerate(("0101", "010101", "0101010101")):
        csv_task(tmp_path / f"task-{i}.csv", labels)
    (tmp_path / ".progress").mkdir()
    (tmp_path / ".progress" / "torn.csv").write_text("x0,tar")  # what an unfinished run is about to write
    seen = []
    found = inspect_dump(tmp_path, on_file=lambda *at: seen.append(at))
    assert (found["files"], found["tasks"], found["rows"], found["problems"]) == (3, 3, "4 to 10", [])
    assert seen == [(1, 3), (2, 3), (3, 3)]
    csv_task(tmp_path / "task-1.csv", "0022")
    csv_task(tmp_path / "task-2.csv", "0011")
    found = inspect_dump(tmp_path)
    assert found["tasks"] == 3 and [p.split(" ")[0] for p in found["problems"]] == ["task-1.csv:", "task-2.csv:"]
    assert "class ids [0, 2]" in found["problems"][0] and "asks for classes [1]" in found["problems"][1]


def test_a_manifest_says_what_a_folder_must_hold(tmp_path):
    for i in range(3):
        csv_task(tmp_path / f"task-{i}.csv")
    noted(tmp_path, 3)
    assert inspect_dump(tmp_path)["problems"] == []
    (tmp_path / "task-0.csv").unlink()
    (tmp_path / "task-2.csv").write_text("x0,target,split\n0.5,0")
    found = inspect_dump(tmp_path)
    assert found["tasks"] == 1
    assert found["problems"][0] == "task-0.csv: missing"
    assert "task-2.csv: 21 bytes, manifest.json says" in found["problems"][1]
    assert found["problems"][2].startswith("task-2.csv: cannot be read as a dump")
    assert found["problems"][3] == "the files that can be read hold 1 tasks, manifest.json says 3"
    (tmp_path / "task-1.csv").unlink()  # nothing is left to read: still a dump, still named
    assert inspect_dump(tmp_path)["problems"][0] == "task-0.csv: missing"
    (tmp_path / "manifest.json").write_text('{"files"')
    with pytest.raises(DataError, match="manifest.json cannot be read"):
        inspect_dump(tmp_path)


def test_a_folder_of_files_that_are_no_dump_is_refused(tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no file that can be read as a dump; the first: 0.csv: is not a task"):
        inspect_dump(tmp_path)
