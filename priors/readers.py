"""Recognises dumps, ours and foreign, and checks the rules their readers rely on."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..configs.errors import DataError, require
from .writers import read_parquet


def inspect_dump(path: Path, batch_size: int | None = None) -> dict[str, Any]:
    """Facts about a dump, with the rules it breaks.

    Args:
      path: a file, or a folder as `generate` makes it (its first data file is looked into).
      batch_size: training batch size an HDF5 dump is meant for.

    Returns:
      dict with ``path``, ``format``, ``tasks``, facts of the format, and ``problems``: a list of sentences, empty
      when all rules hold.

    Raises:
      DataError: no such file, or a format that is not known.
    """
    path = Path(path)
    file = _first_file(path)
    kind = file.suffix.lower()
    readers = {".parquet": _parquet, ".h5": _hdf5, ".hdf5": _hdf5, ".pt": _tabicl, ".npz": _npz, ".jsonl": _jsonl,
               ".csv": _csv}  # fmt: skip
    if kind not in readers:
        raise DataError(f"{file}: no dump format known for the suffix {kind or '(none)'}; known: {', '.join(readers)}")
    try:
        facts = readers[kind](file, batch_size) if kind in (".h5", ".hdf5") else readers[kind](file)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise DataError(f"{file} cannot be read as a dump: {error}") from None
    return {"path": str(path), "file": file.name, **facts}


def _first_file(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"no file or folder {path}")
    if path.is_file():
        return path
    manifest = path / "manifest.json"
    if manifest.is_file():
        return path / json.loads(manifest.read_text())["files"][0]["path"]
    found = sorted(p for p in path.rglob("*") if p.suffix in (".parquet", ".h5", ".pt", ".npz", ".jsonl", ".csv"))
    if not found:
        raise DataError(f"{path} holds no dump")
    return found[0]


def _sizes(widths: np.ndarray, rows: np.ndarray, splits: np.ndarray) -> dict[str, Any]:
    return {
        "tasks": len(widths),
        "rows": f"{rows.min()} to {rows.max()}",
        "columns": f"{widths.min()} to {widths.max()}",
        "context": f"{splits.min()} to {splits.max()}",
    }


def _class_problem(name: str, y: np.ndarray, split: int) -> str | None:
    """The rule every reader relies on: classes 0 .. C-1, those of the query among those of the context."""
    seen, asked = set(np.unique(y[:split]).tolist()), set(np.unique(y[split:]).tolist())
    if seen | asked != set(range(len(seen | asked))):
        return f"{name} has class ids {sorted(seen | asked)}; they must run from 0 without gaps"
    if not asked <= seen:
        return f"{name} asks for classes {sorted(asked - seen)} that its context rows do not show"
    return None


def _each(checks: Iterator[str | None]) -> list[str]:
    return [c for c in checks if c][:20]


def _parquet(file: Path) -> dict[str, Any]:
    tasks = list(read_parquet(file))
    problems = _each(_class_problem(f"task {t.task_id}", t.y, t.n_context) for t in tasks)
    problems += _each(f"task {t.task_id} holds an infinity" if np.isinf(t.x).any() else None for t in tasks)
    return {
        "format": "priorax parquet",
        **_sizes(*(np.array([getattr(t, k) for t in tasks]) for k in ("n_features", "n_rows", "n_context"))),
        "missing_share": round(float(np.mean([np.isnan(t.x).mean() for t in tasks])), 4),
        "graphs": tasks[0].graph is not None,
        "problems": problems,
    }


def _npz(file: Path) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as f:
        widths, splits, y = f["n_features"], f["n_context"], f["y"]
        problems = _each(_class_problem(f"task {t}", y[i], splits[i]) for i, t in enumerate(f["task_id"]))
        return {"format": "priorax npz", **_sizes(widths, np.full(len(y), y.shape[1]), splits), "problems": problems}


def _csv(file: Path) -> dict[str, Any]:
    lines = file.read_text(encoding="utf-8").splitlines()
    header = lines[0].split(",")
    if header[-2:] != ["target", "split"]:
        raise DataError(f"{file} is not a task written by priorax: its last columns are not target and split")
    cells = [line.split(",") for line in lines[1:]]
    y = np.array([int(c[-2]) for c in cells])
    split = sum(c[-1] == "train" for c in cells)
    problem = _class_problem(file.stem, y, split)
    return {"format": "priorax csv", "tasks": 1, "rows": len(y), "columns": len(header) - 2, "context": split,
            "problems": [problem] if problem else []}  # fmt: skip


def _hdf5(file: Path, batch_size: int | None) -> dict[str, Any]:
    h5py = require("h5py", "dumps", "HDF5")
    with h5py.File(file) as f:
        names = set(f)
        problems = []
        if "single_eval_pos" not in names:
            problems.append("no field single_eval_pos: nanoTabPFN cannot load this dump (KeyError)")
        if "train_test_split_index" not in names:
            problems.append("no field train_test_split_index: TFM-Playground since April 2026 cannot load this dump")
        problems += [f"no field {n}" for n in ("max_num_classes", "num_datapoints", "problem_type") if n not in names]
        split_name = "single_eval_pos" if "single_eval_pos" in names else "train_test_split_index"
        x, y, widths, splits = f["X"], f["y"], f["num_features"][:], f[split_name][:]
        rows = f["num_datapoints"][:] if "num_datapoints" in names else np.full(len(widths), x.shape[1])
        stored = int(f["original_batch_size"][0]) if "original_batch_size" in names else 1
        size = batch_size or stored
        if len(widths) % size:
            problems.append(
                f"{len(widths)} tasks are no multiple of the batch size {size}; the last batch comes out short"
            )
        for start in range(0, len(widths), size):
            block = slice(start, min(start + size, len(widths)))
            last = block.stop - 1
            if len(set(splits[block])) > 1:
                problems.append(
                    f"tasks {start}-{last} have different split positions; both readers use the first one for the whole "
                    f"batch. Generate with --group-size a multiple of {size}, or train with a smaller batch"
                )
                break
            if len(set(rows[block])) > 1:
                problems.append(
                    f"tasks {start}-{last} have different row counts; padding would be counted as test rows"
                )
                break
            if not np.isfinite(x[block]).all():
                problems.append(
                    f"tasks {start}-{last} hold missing values; one reader skips the batch, one gets a NaN loss"
                )
                break
        problems += _each(
            _class_problem(f"task {i}", y[i, : rows[i]].astype(int), int(splits[i])) for i in range(min(len(y), 2000))
        )
        return {"format": "HDF5 prior dump (nanoTabPFN, TFM-Playground)", **_sizes(widths, rows, splits),
                "batch_size": size, "problems": problems}  # fmt: skip


class _TensorReader(pickle.Unpickler):
    """Reads a dict of dense torch tensors as NumPy arrays, and nothing else; no class of the file is ever called."""

    STORAGE = {"FloatStorage": "<f4", "LongStorage": "<i8", "IntStorage": "<i4", "DoubleStorage": "<f8"}

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.root = next(n for n in archive.namelist() if n.endswith("/data.pkl")).removesuffix("data.pkl")
        super().__init__(io.BytesIO(archive.read(f"{self.root}data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in self.STORAGE:
            return np.dtype(self.STORAGE[name])
        raise pickle.UnpicklingError(f"it names {module}.{name}, which a dump of dense tensors does not need")

    def persistent_load(self, pid: Any) -> np.ndarray:
        return np.frombuffer(self.archive.read(f"{self.root}data/{pid[2]}"), pid[1])

    @staticmethod
    def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *rest: Any) -> np.ndarray:
        count = int(np.prod(size))
        if tuple(stride) != tuple(int(np.prod(size[i + 1 :])) for i in range(len(size))):
            raise pickle.UnpicklingError("a tensor is not contiguous")
        return storage[offset : offset + count].reshape(size)


def read_tabicl(file: Path) -> dict[str, Any]:
    """The arrays of a TabICL batch in dense mode, without torch."""
    with zipfile.ZipFile(file) as archive:
        return _TensorReader(archive).load()


def _tabicl(file: Path) -> dict[str, Any]:
    batch = read_tabicl(file)
    widths, rows, splits, y = batch["d"], batch["seq_lens"], batch["train_sizes"], batch["y"]
    problems = []
    if len(set(rows.tolist())) > 1:
        problems.append("tasks have different row counts; the reader uses the first one for all")
    if batch["X"].size != int((rows * widths).sum()):
        problems.append(f"X holds {batch['X'].size} values, rows times columns is {int((rows * widths).sum())}")
    if not np.isfinite(batch["X"]).all():
        problems.append("X holds values that are not finite")
    problems += _each(_class_problem(f"task {i}", labels.astype(int), int(splits[i])) for i, labels in enumerate(y))
    return {"format": "TabICL saved batch", **_sizes(widths, rows, splits), "batch_size": batch["batch_size"],
            "problems": problems}  # fmt: skip


def _jsonl(file: Path) -> dict[str, Any]:
    problems, counts = [], {"messages": 0, "alpaca": 0}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        schema = "messages" if "messages" in row else "alpaca"
        counts[schema] += 1
        user, answer = (
            (row["messages"][1]["content"], row["messages"][2]["content"])
            if schema == "messages"
            else (row["input"], row["output"])
        )
        labels = re.search(r"Label set = \[([^\]]+)\]", user)
        if not labels:
            problems.append(f"line {number}: no 'Label set = [...]', which the evaluator looks for")
            continue
        allowed = {int(v) for v in labels.group(1).split(",")}
        if not {a["label"] for a in json.loads(answer)} <= allowed:
            problems.append(f"line {number}: the answer holds a label outside the label set")
    return {"format": "MachineLearningLM prompts", "tasks": sum(counts.values()), "schemas": counts,
            "problems": problems[:20]}  # fmt: skip
