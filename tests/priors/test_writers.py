"""Dump formats: what is written is what independent readers get back, and equal tasks give equal bytes."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import pickle
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from priorax.configs.errors import ConfigError, DataError
from priorax.priors.records import INFO, TaskGraph, TaskRecord, group_equal, impute
from priorax.priors.writers import FORMATS, PartInfo, read_parquet
from priorax.priors.writers_text import prompt

ROWS, COLUMNS = 24, 6


def make_task(task_id: int, width: int = 4, context: int = 12, classes: int = 3, missing: bool = True) -> TaskRecord:
    rng = np.random.default_rng(task_id)
    x = rng.normal(size=(ROWS, width)).astype(np.float32)
    categorical = np.arange(width) % 3 == 1
    x[:, categorical] = rng.integers(0, 5, size=(ROWS, categorical.sum()))
    if missing:
        x[rng.random(x.shape) < 0.2] = np.nan
    y = (np.arange(ROWS) % classes).astype(np.int32)
    graph = TaskGraph(
        n_nodes=width + 2,
        edges=np.array([(i, i + 1, 0) for i in range(width + 1)], np.int32),
        node_of_feature=np.arange(width, dtype=np.int32),
        target_node=width + 1,
        mechanism=("root", *["linear"] * (width + 1)),
        rule_columns=(1,) if task_id % 2 else (),
    )
    facts = {k: kind(task_id) for k, kind in INFO.items()}
    return TaskRecord(
        task_id, x, y, context, classes, categorical, np.where(categorical, 5, 0).astype(np.int32), graph, facts
    )


@pytest.fixture
def tasks() -> list[TaskRecord]:
    return [make_task(i, width=2 + i % 4, context=8 + i % 5, classes=2 + i % 3) for i in range(12)]


def info(**changes) -> PartInfo:
    base = dict(stem="part-00000-of-00001", index=0, rows=ROWS, columns=COLUMNS, max_classes=10, group_size=4,
                with_graph=True, metadata={"priorax.engine": "1"})  # fmt: skip
    return PartInfo(**{**base, **changes})


def write(name, folder, tasks, **changes):
    folder.mkdir(exist_ok=True)
    return FORMATS[name].write(folder, iter([tasks[:8], tasks[8:]]), info(**changes))


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_equal_tasks_give_equal_bytes(name, tasks, tmp_path):
    digests = []
    for run in ("a", "b"):
        files = write(name, tmp_path / run, tasks)
        digests.append([(f, hashlib.sha256((tmp_path / run / f).read_bytes()).hexdigest()) for f in files])
    assert digests[0] == digests[1] and digests[0]


def same(a: TaskRecord, b: TaskRecord) -> None:
    assert (a.task_id, a.n_context, a.n_classes) == (b.task_id, b.n_context, b.n_classes)
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(a.y, b.y)
    np.testing.assert_array_equal(a.categorical, b.categorical)
    np.testing.assert_array_equal(a.cardinality, b.cardinality)


def test_parquet_round_trip_with_graphs(tasks, tmp_path):
    (file,) = write("parquet", tmp_path, tasks)
    back = list(read_parquet(tmp_path / file))
    assert len(back) == len(tasks)
    for a, b in zip(tasks, back, strict=True):
        same(a, b)
        np.testing.assert_array_equal(a.graph.edges, b.graph.edges)
        np.testing.assert_array_equal(a.graph.node_of_feature, b.graph.node_of_feature)
        assert (a.graph.target_node, a.graph.mechanism) == (b.graph.target_node, b.graph.mechanism)


def test_facts_about_tasks_come_back(tasks, tmp_path):
    (file,) = write("parquet", tmp_path / "p", tasks, with_info=True)
    assert [t.info for t in read_parquet(tmp_path / "p" / file)] == [t.info for t in tasks]
    (file,) = write("npz", tmp_path / "n", tasks, with_info=True)
    with np.load(tmp_path / "n" / file, allow_pickle=False) as f:
        assert f["info_component"].tolist() == [t.info["component"] for t in tasks]
        np.testing.assert_array_equal(f["info_noise_share"], [t.info["noise_share"] for t in tasks])
    files = write("csv", tmp_path / "c", tasks, with_info=True)
    sidecars = [json.loads((tmp_path / "c" / f).read_text()) for f in files if f.endswith(".json")]
    assert [s["info"] for s in sidecars] == [t.info for t in tasks]
    bare = [dataclasses.replace(t, info=None) for t in tasks]
    with pytest.raises(DataError, match="carries no facts"):
        write("parquet", tmp_path / "p", bare, with_info=True)


def test_parquet_needs_only_pyarrow(tasks, tmp_path):
    import pyarrow.parquet as pq

    (file,) = write("parquet", tmp_path, tasks, with_graph=False)
    table = pq.read_table(tmp_path / file)
    assert "edges" not in table.column_names
    assert table.schema.metadata[b"priorax.engine"] == b"1"
    row = table.slice(3, 1).to_pylist()[0]
    x = np.array(row["X"], np.float32).reshape(row["n_rows"], row["n_features"])
    np.testing.assert_array_equal(x, tasks[3].x)


def test_hdf5_keeps_the_rules_of_both_readers(tasks, tmp_path):
    (file,) = write("hdf5", tmp_path, tasks)
    with h5py.File(tmp_path / file) as f:
        assert f["X"].shape == (12, ROWS, COLUMNS) and f["X"].dtype == np.float32 and f["X"].compression == "lzf"
        assert f["y"].dtype == np.float32 and f["num_features"].dtype == np.int32
        assert f["single_eval_pos"] == f["train_test_split_index"]  # one object, two names
        assert f["max_num_classes"][:].tolist() == [10] and f["problem_type"][()] == b"classification"
        assert f["problem_type"].shape == () and h5py.check_string_dtype(f["problem_type"].dtype).encoding == "utf-8"
        x, y = f["X"][:], f["y"][:]
        assert np.isfinite(x).all()
        widths, splits, counts = f["num_features"][:], f["single_eval_pos"][:], f["num_datapoints"][:]
        for start in range(0, 12, 4):
            block = slice(start, start + 4)
            assert len(set(widths[block])) == len(set(splits[block])) == len(set(counts[block])) == 1
            assert not x[block, :, widths[start] :].any()
            for labels in y[block]:
                assert set(labels[splits[start] :]) <= set(labels[: splits[start]])


def nano_loader(path, batch_size):
    """What nanoTabPFN's loader does with a dump: consecutive blocks, width of the widest, split of the first."""
    with h5py.File(path) as f:
        for start in range(0, f["X"].shape[0], batch_size):
            block = slice(start, start + batch_size)
            width, rows = f["num_features"][block].max(), f["num_datapoints"][block].max()
            yield f["X"][block, :rows, :width], f["y"][block, :rows], int(f["single_eval_pos"][start])


def test_hdf5_values_survive_the_reader(tasks, tmp_path):
    (file,) = write("hdf5", tmp_path, tasks)
    seen = 0
    expected = {arr.tobytes(): t for t in map(impute, tasks) for arr in [t.x[:, :2]]}
    for x, y, split in nano_loader(tmp_path / file, batch_size=2):
        assert 0 < split < ROWS
        for xi, yi in zip(x, y, strict=True):
            task = expected[np.ascontiguousarray(xi[:, :2]).tobytes()]
            np.testing.assert_array_equal(xi, task.x[:, : xi.shape[1]])
            np.testing.assert_array_equal(yi, task.y)
            seen += 1
    assert seen == 12


def test_hdf5_refuses_a_ragged_group(tasks, tmp_path):
    with pytest.raises(ConfigError, match="multiples of --group-size"):
        write("hdf5", tmp_path, tasks, group_size=5)


class _Unpickler(pickle.Unpickler):
    """Reads a torch file with NumPy alone, so that the bytes are checked where torch is not installed."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        super().__init__(io.BytesIO(archive.read("archive/data.pkl")))
        self.archive = archive

    def find_class(self, module, name):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, grad, hooks: np.lib.stride_tricks.as_strided(
                storage[offset:], size, [s * storage.itemsize for s in stride]
            )
        if module == "collections":
            return super().find_class(module, name)
        return {"FloatStorage": np.float32, "LongStorage": np.int64}[name]

    def persistent_load(self, pid):
        kind, dtype, key, device, size = pid
        assert (kind, device) == ("storage", "cpu")
        values = np.frombuffer(self.archive.read(f"archive/data/{key}"), dtype)
        assert values.size == size
        return values


def test_tabicl_batch(tasks, tmp_path):
    (file,) = write("tabicl", tmp_path, tasks)
    assert file == "batch_000000.pt"
    with zipfile.ZipFile(tmp_path / file) as archive:
        for entry in archive.infolist():  # torch maps tensors straight from the file: data must start aligned
            start = entry.header_offset + 30 + len(entry.filename) + len(entry.extra)
            assert start % 64 == 0
        batch = _Unpickler(archive).load()
    assert batch["batch_size"] == 12
    assert batch["d"].tolist() == [t.n_features for t in tasks]
    assert batch["train_sizes"].tolist() == [t.n_context for t in tasks]
    assert set(batch["seq_lens"].tolist()) == {ROWS}
    np.testing.assert_array_equal(batch["X"], np.concatenate([impute(t).x.ravel() for t in tasks]))
    np.testing.assert_array_equal(batch["y"], np.stack([t.y for t in tasks]))


def test_torch_reads_the_tabicl_batch(tasks, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is no dependency; the bytes are checked without it above")
    (file,) = write("tabicl", tmp_path, tasks)
    batch = torch.load(tmp_path / file, weights_only=True)
    assert batch["X"].dtype == torch.float32 and batch["d"].dtype == torch.int64
    assert batch["X"].numel() == sum(t.x.size for t in tasks)


def test_npz(tasks, tmp_path):
    (file,) = write("npz", tmp_path, tasks)
    with np.load(tmp_path / file) as f:
        assert f["x"].shape == (12, ROWS, COLUMNS)
        for i, t in enumerate(tasks):
            np.testing.assert_array_equal(f["x"][i, :, : t.n_features], t.x)
            edges = f["edges"][f["edges"][:, 0] == i][:, 1:]
            np.testing.assert_array_equal(edges, t.graph.edges)
            assert tuple(np.flatnonzero(f["rule_columns"][i])) == t.graph.rule_columns


def test_csv_and_sidecar(tasks, tmp_path):
    files = write("csv", tmp_path, tasks)
    assert len(files) == 24
    task = tasks[5]
    with open(tmp_path / "part-00000-of-00001" / "task-000000005.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for j, c in enumerate(task.categorical):
        name = f"{'cat' if c else 'num'}_{j}"
        column = np.array([float(r[name]) if r[name] else np.nan for r in rows], np.float32)
        np.testing.assert_array_equal(column, task.x[:, j])
    assert [int(r["target"]) for r in rows] == task.y.tolist()
    assert sum(r["split"] == "train" for r in rows) == task.n_context
    sidecar = json.loads((tmp_path / "part-00000-of-00001" / "task-000000005.json").read_text())
    assert sidecar["graph"]["edges"] == task.graph.edges.tolist()


def test_prompts_hold_what_the_evaluator_parses(tasks, tmp_path):
    import re

    (file,) = write("mllm-jsonl", tmp_path, tasks)
    lines = (tmp_path / file).read_text().splitlines()
    assert len(lines) == 12
    for line, task in zip(lines, tasks, strict=True):
        system, user, assistant = json.loads(line)["messages"]
        assert (system["role"], user["role"], assistant["role"]) == ("system", "user", "assistant")
        labels = re.search(r"Label set = \[([^\]]+)\]", user["content"]).group(1)
        assert [int(v) for v in labels.split(",")] == list(range(task.n_classes))
        answers = json.loads(assistant["content"])
        assert [a["label"] for a in answers] == task.y[task.n_context :].tolist()
        assert "." not in re.sub(r"[a-zA-Z\]]\.", "", user["content"].split("[Training set]")[1].split("[Output")[0])
    alpaca = prompt(tasks[0], "alpaca")
    assert set(alpaca) == {"instruction", "input", "output"}


def test_prompt_budget_keeps_every_class(tasks):
    text = prompt(tasks[2], token_budget=300)["messages"][1]["content"]
    full = prompt(tasks[2])["messages"][1]["content"]
    assert len(text) < len(full)
    shown = {line.split("|")[1] for line in text.splitlines() if "|" in line and line[0].isdigit()}
    assert shown == {str(c) for c in range(tasks[2].n_classes)}


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, COLUMNS), st.integers(4, ROWS - 1)), min_size=1, max_size=6), st.integers(1, 4)
)
def test_grouping_loses_no_task_and_only_trims(shapes, size):
    tasks = [make_task(i, width=w, context=c) for i, (w, c) in enumerate(shapes * size)]
    grouped = group_equal(tasks, size)
    assert sorted(t.task_id for t in grouped) == list(range(len(tasks)))
    for start in range(0, len(tasks), size):
        block = grouped[start : start + size]
        assert len({(t.n_features, t.n_context) for t in block}) == 1
    for t in grouped:
        original = tasks[t.task_id]
        assert t.n_features <= original.n_features and t.n_context >= original.n_context
        np.testing.assert_array_equal(t.x, original.x[:, : t.n_features])


def test_impute_uses_context_rows_only():
    task = make_task(3)
    changed = task.x.copy()
    changed[task.n_context :][~np.isnan(changed[task.n_context :])] = 1e6
    other = impute(TaskRecord(3, changed, task.y, task.n_context, 3, task.categorical, task.cardinality))
    gaps = np.isnan(task.x)
    assert gaps.any() and np.isfinite(impute(task).x).all()
    np.testing.assert_array_equal(impute(task).x[gaps], other.x[gaps])
