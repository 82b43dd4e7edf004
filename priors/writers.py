"""Dump formats: one writer each, streaming, same bytes for the same tasks.

A writer gets an iterator over chunks of tasks and writes one part into a folder; it returns the names of the files it
made. Nothing in a file depends on the time or the machine, so equal tasks give equal bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..configs.errors import DataError, require
from .records import INFO, TaskGraph, TaskRecord, graph_to_dict
from .writers_hdf5 import write_hdf5
from .writers_tabicl import write_tabicl
from .writers_text import write_mllm

FORMAT_VERSION = "1"
Chunks = Iterable[list[TaskRecord]]


@dataclasses.dataclass(frozen=True)
class PartInfo:
    """What a writer must know besides the tasks.

    Attributes:
      stem: file name without suffix, e.g. ``part-00000-of-00004``.
      index: number of the part.
      rows, columns, max_classes: the room the tasks were drawn into.
      group_size: tasks that share one width and one split (HDF5).
      with_graph, with_info: whether tasks carry graphs and facts.
      metadata: text written into the file where the format has a place for it.
      schema: variant of a text format.
      token_budget: prompts longer than this are left out (text formats).
    """

    stem: str
    index: int
    rows: int
    columns: int
    max_classes: int
    group_size: int = 1
    with_graph: bool = False
    with_info: bool = False
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    schema: str = "messages"
    token_budget: int = 110_000


Writer = Callable[[Path, Chunks, PartInfo], list[str]]


@dataclasses.dataclass(frozen=True)
class Format:
    """A dump format: its writer, whether it can hold missing values, whether it needs equal groups, whether it has a place
    for graphs and facts about tasks; and the modules of the extra ``dumps`` that writing it needs."""

    write: Writer
    holds_nan: bool
    grouped: bool = False
    with_extras: bool = False
    about: str = ""
    needs: tuple[str, ...] = ()


# --- Parquet: one row per task ------------------------------------------------------------------------------------


def parquet_schema(with_graph: bool, metadata: dict[str, str], with_info: bool = False) -> Any:
    """The Arrow schema of our own format; its metadata is part of every file."""
    pa = require("pyarrow", "dumps", "Parquet")
    fields = [
        ("task_id", pa.int64()), ("n_rows", pa.int32()), ("n_features", pa.int32()), ("n_classes", pa.int32()),
        ("split", pa.int32()), ("task_type", pa.string()), ("X", pa.list_(pa.float32())), ("y", pa.list_(pa.float32())),
        ("feature_types", pa.list_(pa.int8())), ("cardinalities", pa.list_(pa.int32())),
    ]  # fmt: skip
    if with_graph:
        edge = pa.struct([("src", pa.int32()), ("dst", pa.int32()), ("lag", pa.int32())])
        fields += [
            ("n_nodes", pa.int32()), ("edges", pa.list_(edge)), ("node_of_feature", pa.list_(pa.int32())),
            ("target_node", pa.int32()), ("mechanism", pa.list_(pa.string())),
            ("rule_columns", pa.list_(pa.int32())),
        ]  # fmt: skip
    if with_info:
        kinds = {str: pa.string(), int: pa.int32(), float: pa.float32()}
        fields += [(f"info_{name}", kinds[kind]) for name, kind in INFO.items()]
    return pa.schema(fields, metadata={"priorax.format": FORMAT_VERSION, **metadata})


def write_parquet(folder: Path, chunks: Chunks, info: PartInfo) -> list[str]:
    """Our own format: `NAME.parquet`, one row per task, one row group per chunk, zstd."""
    pq = require("pyarrow.parquet", "dumps", "Parquet")
    name = f"{info.stem}.parquet"
    schema = parquet_schema(info.with_graph, info.metadata, info.with_info)
    text = ["task_type", *(["mechanism.list.element"] if info.with_graph else [])]
    text += [f"info_{name}" for name, kind in INFO.items() if kind is str] if info.with_info else []
    with pq.ParquetWriter(
        folder / name, schema, compression="zstd", compression_level=3, use_dictionary=text,
        write_statistics=["task_id"], column_encoding={"X.list.element": "BYTE_STREAM_SPLIT"},
    ) as writer:  # fmt: skip
        for chunk in chunks:
            writer.write_batch(_arrow_batch(chunk, schema, info.with_graph, info.with_info))
    return [name]


def _arrow_batch(tasks: list[TaskRecord], schema: Any, with_graph: bool, with_info: bool) -> Any:
    import pyarrow as pa

    def lists(parts: list[np.ndarray], kind: Any) -> Any:
        offsets = np.concatenate([[0], np.cumsum([p.size for p in parts])]).astype(np.int32)
        flat = np.concatenate([p.ravel() for p in parts]) if parts else np.zeros(0)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, type=kind, from_pandas=False))

    columns = [
        pa.array([t.task_id for t in tasks], pa.int64()),
        pa.array([t.n_rows for t in tasks], pa.int32()),
        pa.array([t.n_features for t in tasks], pa.int32()),
        pa.array([t.n_classes for t in tasks], pa.int32()),
        pa.array([t.n_context for t in tasks], pa.int32()),
        pa.array(["classification"] * len(tasks), pa.string()),
        lists([t.x for t in tasks], pa.float32()),
        lists([t.y.astype(np.float32) for t in tasks], pa.float32()),
        lists([t.categorical.astype(np.int8) for t in tasks], pa.int8()),
        lists([t.cardinality.astype(np.int32) for t in tasks], pa.int32()),
    ]
    if with_graph:
        graphs = [_graph(t) for t in tasks]
        columns += [
            pa.array([g.n_nodes for g in graphs], pa.int32()),
            pa.array([[{"src": s, "dst": d, "lag": lag} for s, d, lag in g.edges.tolist()] for g in graphs],
                     schema.field("edges").type),
            lists([g.node_of_feature.astype(np.int32) for g in graphs], pa.int32()),
            pa.array([g.target_node for g in graphs], pa.int32()),
            pa.array([list(g.mechanism) for g in graphs], pa.list_(pa.string())),
            pa.array([list(g.rule_columns) for g in graphs], pa.list_(pa.int32())),
        ]  # fmt: skip
    if with_info:
        infos = [_info(t) for t in tasks]
        columns += [pa.array([i[name] for i in infos], schema.field(f"info_{name}").type) for name in INFO]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _info(task: TaskRecord) -> dict[str, Any]:
    if task.info is None:
        raise DataError(f"task {task.task_id} carries no facts, but they were asked for")
    return task.info


def _graph(task: TaskRecord) -> TaskGraph:
    if task.graph is None:
        raise DataError(f"task {task.task_id} carries no graph, but graphs were asked for")
    return task.graph


def read_parquet(path: Path) -> Iterator[TaskRecord]:
    """Reads a file written by `write_parquet`, row group by row group.

    Raises:
      DataError: the file is not of this format.
    """
    pq = require("pyarrow.parquet", "dumps", "Parquet")
    file = pq.ParquetFile(path)
    metadata = file.schema_arrow.metadata or {}
    if metadata.get(b"priorax.format") != FORMAT_VERSION.encode():
        raise DataError(f"{path} is not a task dump of format version {FORMAT_VERSION}")
    with_graph = "edges" in file.schema_arrow.names
    with_info = "info_component" in file.schema_arrow.names
    for batch in file.iter_batches(batch_size=64):
        for row in range(batch.num_rows):
            cell = {name: batch.column(i)[row] for i, name in enumerate(batch.schema.names)}
            n_rows, width = cell["n_rows"].as_py(), cell["n_features"].as_py()
            graph = None
            if with_graph:
                edges = [(e["src"], e["dst"], e["lag"]) for e in cell["edges"].as_py()]
                graph = TaskGraph(
                    cell["n_nodes"].as_py(), np.array(edges, np.int32).reshape(-1, 3),
                    np.array(cell["node_of_feature"].as_py(), np.int32), cell["target_node"].as_py(),
                    tuple(cell["mechanism"].as_py()), tuple(cell["rule_columns"].as_py()),
                )  # fmt: skip
            yield TaskRecord(
                task_id=cell["task_id"].as_py(),
                x=np.array(cell["X"].values.to_numpy(zero_copy_only=False), np.float32).reshape(n_rows, width),
                y=np.array(cell["y"].values.to_numpy(zero_copy_only=False)).astype(np.int32),
                n_context=cell["split"].as_py(),
                n_classes=cell["n_classes"].as_py(),
                categorical=np.array(cell["feature_types"].as_py(), np.int8) == 1,
                cardinality=np.array(cell["cardinalities"].as_py(), np.int32),
                graph=graph,
                info={k: cell[f"info_{k}"].as_py() for k in INFO} if with_info else None,
            )


# --- npz and CSV --------------------------------------------------------------------------------------------------


def write_npz(folder: Path, chunks: Chunks, info: PartInfo) -> list[str]:
    """`NAME.npz`: padded arrays x f32[N, R, F] (0 past a task's columns), y i32[N, R], n_features, n_classes,
    n_context, categorical, cardinality, task_id; with facts info_NAME of each (`records.INFO`); with graphs also edges i32[E, 4] (task row, source, destination, lag),
    n_nodes, node_of_feature (-1 past a task's columns), target_node, rule_columns bool[N, F]. Holds a whole part in memory."""
    tasks = [t for chunk in chunks for t in chunk]
    n, rows, columns = len(tasks), info.rows, info.columns
    arrays: dict[str, np.ndarray] = {
        "task_id": np.array([t.task_id for t in tasks], np.int64),
        "x": np.zeros((n, rows, columns), np.float32),
        "y": np.zeros((n, rows), np.int32),
        "n_features": np.array([t.n_features for t in tasks], np.int32),
        "n_classes": np.array([t.n_classes for t in tasks], np.int32),
        "n_context": np.array([t.n_context for t in tasks], np.int32),
        "categorical": np.zeros((n, columns), bool),
        "cardinality": np.zeros((n, columns), np.int32),
    }
    for i, t in enumerate(tasks):
        f = t.n_features
        arrays["x"][i, :, :f], arrays["y"][i] = t.x, t.y
        arrays["categorical"][i, :f], arrays["cardinality"][i, :f] = t.categorical, t.cardinality
    if info.with_graph:
        graphs = [_graph(t) for t in tasks]
        arrays["edges"] = np.concatenate(
            [np.column_stack([np.full(len(g.edges), i), g.edges]) for i, g in enumerate(graphs)]
        ).astype(np.int32)
        arrays["n_nodes"] = np.array([g.n_nodes for g in graphs], np.int32)
        arrays["target_node"] = np.array([g.target_node for g in graphs], np.int32)
        arrays["node_of_feature"] = np.full((n, columns), -1, np.int32)
        for i, g in enumerate(graphs):
            arrays["node_of_feature"][i, : len(g.node_of_feature)] = g.node_of_feature
        reads = [np.isin(np.arange(columns), g.rule_columns) for g in graphs]
        arrays["rule_columns"] = np.array(reads, bool).reshape(n, columns)
    if info.with_info:
        infos = [_info(t) for t in tasks]
        arrays |= {f"info_{name}": np.array([i[name] for i in infos]) for name in INFO}
    arrays["metadata"] = np.array(json.dumps(info.metadata, sort_keys=True))
    name = f"{info.stem}.npz"
    with open(folder / name, "wb") as file:
        np.savez_compressed(file, **arrays)
    return [name]


def _csv_column(values: np.ndarray, codes: bool) -> list[str]:
    """Cells of a column f32[R]: the fewest digits that give the same f32 again, or whole numbers; empty where missing."""
    missing = np.isnan(values)
    if codes:
        values = np.where(missing, 0, values).astype(np.int64)
    return np.where(missing, "", values.astype(str)).tolist()


def write_csv(folder: Path, chunks: Chunks, info: PartInfo) -> list[str]:
    """One folder per part; for each task `task-ID.csv` (columns num_0, cat_1, ..., target, split; empty cell = missing)
    and a sidecar `task-ID.json` (classes, cardinalities and, where asked for, the causal graph and facts)."""
    names = []
    (folder / info.stem).mkdir(parents=True, exist_ok=True)
    for chunk in chunks:
        for t in chunk:
            base = f"{info.stem}/task-{t.task_id:09d}"
            header = [f"{'cat' if c else 'num'}_{j}" for j, c in enumerate(t.categorical)]
            split = ["train"] * t.n_context + ["test"] * (t.n_rows - t.n_context)
            columns = [_csv_column(t.x[:, j], bool(c)) for j, c in enumerate(t.categorical)]
            rows = zip(*columns, map(str, t.y.tolist()), split, strict=True)
            lines = [",".join([*header, "target", "split"]), *map(",".join, rows)]
            (folder / f"{base}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
            sidecar = {
                "task_id": t.task_id, "n_classes": t.n_classes, "n_context": t.n_context,
                "cardinality": t.cardinality.tolist(), "columns": header, **info.metadata,
            }  # fmt: skip
            if info.with_graph:
                sidecar["graph"] = graph_to_dict(_graph(t))
            if info.with_info:
                sidecar["info"] = _info(t)
            (folder / f"{base}.json").write_text(json.dumps(sidecar, sort_keys=True) + "\n", encoding="utf-8")
            names += [f"{base}.csv", f"{base}.json"]
    return names


FORMATS: dict[str, Format] = {
    "parquet": Format(
        write_parquet, holds_nan=True, with_extras=True, about="one row per task; reading needs only pyarrow",
        needs=("pyarrow.parquet",),
    ),
    "hdf5": Format(write_hdf5, holds_nan=False, grouped=True, about="prior dump for nanoTabPFN and TFM-Playground",
                   needs=("h5py",)),  # fmt: skip
    "tabicl": Format(write_tabicl, holds_nan=False, about="saved prior batches of TabICL (.pt)"),
    "npz": Format(write_npz, holds_nan=True, with_extras=True, about="padded NumPy arrays"),
    "csv": Format(write_csv, holds_nan=True, with_extras=True, about="one CSV per task with a JSON sidecar"),
    "mllm-jsonl": Format(write_mllm, holds_nan=False, about="MachineLearningLM prompts, one JSON object per line"),
}
