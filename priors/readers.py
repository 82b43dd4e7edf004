"""Recognises dumps, ours and foreign, and checks the rules their readers rely on."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..configs.errors import DataError, PrioraxError, require
from .writers import read_parquet


@dataclasses.dataclass
class _Facts:
    """What a reader finds in one file.

    Attributes:
      format: its name.
      problems: the rules it breaks, as sentences.
      tasks: how many it holds.
      widths, rows, splits: columns, rows and context rows of each; None where the format does not say.
      more: facts of this format alone.
    """

    format: str
    problems: list[str]
    tasks: int
    widths: np.ndarray | None = None
    rows: np.ndarray | None = None
    splits: np.ndarray | None = None
    more: dict[str, Any] = dataclasses.field(default_factory=dict)


def inspect_dump(
    path: Path, batch_size: int | None = None, on_file: Callable[[int, int], None] = lambda done, files: None
) -> dict[str, Any]:
    """Facts about a dump, with the rules it breaks.

    Args:
      path: a file, or a folder as `generate` makes it (all its data files are read).
      batch_size: training batch size an HDF5 dump is meant for.
      on_file: called after every file with the number of files read and to read.

    Returns:
      dict with ``path``, ``file`` (the first), ``files``, ``format``, ``tasks`` of all files, facts of the format, and
      ``problems``: a list of at most 20 sentences, empty when all rules hold. In a folder each names its file, and a file
      that is missing, cannot be read or has another size than its manifest says is a problem like any other.

    Raises:
      DataError: no such file, a format that is not known, or nothing that can be read.
    """
    path = Path(path)
    manifest = _manifest(path)
    files = _files(path, manifest)
    sizes = {path / f["path"]: f.get("bytes") for f in manifest.get("files", ())}
    found: list[_Facts] = []
    problems: list[str] = []
    for done, file in enumerate(files, 1):
        name = "" if path.is_file() else f"{file.relative_to(path)}: "
        size, wanted = file.stat().st_size if file.is_file() else None, sizes.get(file)
        if wanted not in (None, size):
            problems.append(f"{name}missing" if size is None else f"{name}{size} bytes, manifest.json says {wanted}")
        try:
            facts = _read(file, batch_size)
        except DataError as error:
            if path.is_file() or (not manifest and len(files) == 1):
                raise
            if size is not None:
                problems.append(name + str(error).removeprefix(f"{file} "))
        else:
            found.append(facts)
            problems += [name + p for p in facts.problems]
        on_file(done, len(files))
    if not found and not manifest:
        raise DataError(f"{path} holds no file that can be read as a dump; the first: {problems[0]}")
    told = _joined(found)
    if manifest.get("n_tasks", told["tasks"]) != told["tasks"]:
        problems.append(f"the files that can be read hold {told['tasks']} tasks, manifest.json says {manifest['n_tasks']}")
    return {"path": str(path), "file": files[0].name, "files": len(files), **told, "problems": problems[:20]}


def _manifest(path: Path) -> dict[str, Any]:
    """What `generate` noted about a folder; empty for everything else."""
    file = path / "manifest.json"
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        [entry["path"] for entry in found["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({error}); put back an intact copy, or give a data file instead") from None
    return found


def _files(path: Path, manifest: dict[str, Any]) -> list[Path]:
    """The data files of a dump, in order; what an unfinished run keeps in hidden folders is none of it."""
    if not path.exists():
        raise DataError(f"no file or folder {path}")
    if path.is_file():
        return [path]
    every = [path / f["path"] for f in manifest["files"]] if manifest else sorted(p for p in path.rglob("*") if p.is_file())
    shown = [p for p in every if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    found = [p for p in shown if p.suffix.lower() in _READERS]
    if not found:
        raise DataError(f"{path} holds no dump")
    return found


def _read(file: Path, batch_size: int | None) -> _Facts:
    kind = file.suffix.lower()
    if kind not in _READERS:
        raise DataError(f"{file}: no dump format known for the suffix {kind or '(none)'}; known: {', '.join(_READERS)}")
    try:
        found = _READERS[kind](file, batch_size) if _READERS[kind] is _hdf5 else _READERS[kind](file)
    except (PrioraxError, MemoryError):
        raise
    except Exception as error:  # five libraries read damaged and foreign files here; each has errors of its own
        raise DataError(f"{file} cannot be read as a dump: {error or type(error).__name__}") from None
    if not found.tasks:
        raise DataError(f"{file} holds no task")
    return found


def _joined(found: list[_Facts]) -> dict[str, Any]:
    """The facts of all files as one."""
    told: dict[str, Any] = {"format": ", ".join(dict.fromkeys(f.format for f in found)) or "unknown"}
    told["tasks"] = sum(f.tasks for f in found)
    for name, field in (("rows", "rows"), ("columns", "widths"), ("context", "splits")):
        values = [v for f in found if (v := getattr(f, field)) is not None]
        if values:
            told[name] = f"{min(v.min() for v in values)} to {max(v.max() for v in values)}"
    for name in dict.fromkeys(name for f in found for name in f.more):
        values = [(f.more[name], f.tasks) for f in found if name in f.more]
        if name == "missing_share":
            told[name] = round(sum(v * n for v, n in values) / sum(n for _, n in values), 4)
        elif name == "graphs":
            told[name] = all(v for v, _ in values)
        elif name == "schemas":
            told[name] = {k: sum(v[k] for v, _ in values) for k in values[0][0]}
        else:
            told[name] = values[0][0]
    return told


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


def _parquet(file: Path) -> _Facts:
    tasks = list(read_parquet(file))
    problems = _each(_class_problem(f"task {t.task_id}", t.y, t.n_context) for t in tasks)
    problems += _each(f"task {t.task_id} holds an infinity" if np.isinf(t.x).any() else None for t in tasks)
    sizes = (np.array([getattr(t, k) for t in tasks]) for k in ("n_features", "n_rows", "n_context"))
    missing = float(np.mean([np.isnan(t.x).mean() for t in tasks]))
    return _Facts("priorax parquet", problems, len(tasks), *sizes, {"missing_share": missing, "graphs": tasks[0].graph is not None})


def _npz(file: Path) -> _Facts:
    with np.load(file, allow_pickle=False) as f:
        widths, splits, y = f["n_features"], f["n_context"], f["y"]
        problems = _each(_class_problem(f"task {t}", y[i], splits[i]) for i, t in enumerate(f["task_id"]))
        return _Facts("priorax npz", problems, len(y), widths, np.full(len(y), y.shape[1]), splits)


def _csv(file: Path) -> _Facts:
    lines = file.read_text(encoding="utf-8").splitlines()
    header = lines[0].split(",")
    if header[-2:] != ["target", "split"]:
        raise DataError(f"{file} is not a task written by priorax: its last columns are not target and split")
    cells = [line.split(",") for line in lines[1:]]
    y = np.array([int(c[-2]) for c in cells])
    split = sum(c[-1] == "train" for c in cells)
    problem = _class_problem(file.stem, y, split)
    sizes = (np.array([n]) for n in (len(header) - 2, len(y), split))
    return _Facts("priorax csv", [problem] if problem else [], 1, *sizes)


def _hdf5(file: Path, batch_size: int | None) -> _Facts:
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
        kind = f["problem_type"][()] if "problem_type" in names else b"classification"
        kind = kind.decode() if isinstance(kind, bytes) else str(kind)
        if kind == "classification":  # the numbers of a regression are no classes
            problems += _each(
                _class_problem(f"task {i}", y[i, : rows[i]].astype(int), int(splits[i])) for i in range(min(len(y), 2000))
            )
        elif not np.isfinite(y[: min(len(y), 2000)]).all():
            problems.append("y holds values that are not finite")
        name = "HDF5 prior dump (nanoTabPFN, TFM-Playground)"
        return _Facts(name, problems, len(widths), widths, rows, splits, {"batch_size": size, "problem_type": kind})


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


def _tabicl(file: Path) -> _Facts:
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
    return _Facts("TabICL saved batch", problems, len(y), widths, rows, splits, {"batch_size": batch["batch_size"]})


def _jsonl(file: Path) -> _Facts:
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
    return _Facts("MachineLearningLM prompts", problems[:20], sum(counts.values()), more={"schemas": counts})


_READERS: dict[str, Callable[..., _Facts]] = {
    ".parquet": _parquet, ".h5": _hdf5, ".hdf5": _hdf5, ".pt": _tabicl, ".npz": _npz, ".jsonl": _jsonl, ".csv": _csv,
}  # fmt: skip
