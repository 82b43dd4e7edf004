"""Read-only copies of suites: Parquet tables, splits and checksums, made once so that later runs need no network."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..configs.errors import ConfigError, DataError, MissingError, PrioraxError, require
from ..configs.files import replacing, sha256_of, write_text
from .suites import DataSet, Split, Suite, load_suite, pick_tasks

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


def prefetch(
    suite: Any, out: str | Path, *, openml_cache: str | Path | None = None, tasks: Sequence[str] | None = None,
    log: Callable[..., None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Copies every task of a suite into a folder that `load_suite` reads without network.

    Tasks already there are kept; tasks that cannot be loaded are listed under ``missing`` with their reason, and tried
    again by the next call.

    Args:
      suite, openml_cache: see `load_suite`.
      out: the folder.
      tasks: only these; the folder then holds a suite of those alone, and further calls add to it.
      log: called as ``log("prefetch.task", task=..., status=...)``, and for every error of a server as
        ``log("eval.server_error", ...)``.

    Returns:
      The manifest: ``suite``, ``tasks`` (id -> name, files, sha256, sizes), ``missing`` (id -> reason) and
      ``server_errors`` (those of this call, also those after which another attempt succeeded).

    Raises:
      ConfigError: the folder holds another suite, or the suite has no such task.
    """
    pyarrow = require("pyarrow", "eval", "writing a snapshot")
    pandas = require("pandas", "eval", "writing a snapshot")
    suite = load_suite(suite, openml_cache)
    wanted = pick_tasks(suite, tasks)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    path, earlier = out / MANIFEST, set()
    manifest: dict[str, Any] = {"format": FORMAT_VERSION, "suite": suite.name, "tasks": {}, "missing": {}}
    if path.exists():
        held = read_manifest(out)
        if held["suite"] != suite.name:
            raise ConfigError(f'{out} holds the suite "{held["suite"]}", not "{suite.name}"; use another folder')
        manifest["tasks"], earlier = held["tasks"], set(held["ids"])
        manifest["missing"] = {task: why for task, why in held["missing"].items() if task not in wanted}
    ids = [task for task in suite.ids if task in {*wanted, *earlier}]
    manifest |= {"protocol": suite.config.protocol, "ids": ids, "server_errors": []}

    def server_error(fields: dict[str, Any]) -> None:
        manifest["server_errors"].append(fields)
        if log:
            log("eval.server_error", **fields)

    suite.on_server_error = server_error
    for task in wanted:
        if task not in manifest["tasks"]:
            try:
                manifest["tasks"][task] = _write(suite.load(task), out, _free_stem(manifest["tasks"]), pandas, pyarrow)
            except PrioraxError as error:
                manifest["missing"][task] = str(error)
        if log:
            log("prefetch.task", task=task, status=manifest["missing"].get(task, "ok"))
        write_text(path, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a snapshot; raises DataError if it is not one."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT_VERSION:
            raise DataError(
                f"{folder} is a snapshot of format {manifest['format']}; this version reads {FORMAT_VERSION}"
            )
        return manifest
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder / MANIFEST} is no manifest of a snapshot ({error}); make it with prefetch") from None


class SnapshotSuite(Suite):
    """A suite read from a folder made by `prefetch`; every file is checked against its checksum when read."""

    def __init__(self, folder: str | Path) -> None:
        from ..configs.eval import SuiteConfig

        self._folder, self._manifest = Path(folder), read_manifest(Path(folder))
        ids = self._manifest["ids"]
        super().__init__(SuiteConfig(self._manifest["suite"], "files", tuple(ids), self._manifest["protocol"]))

    def load(self, task: str) -> DataSet:
        """See `Suite.load`."""
        entry = self._manifest["tasks"].get(task)
        if entry is None:
            why = self._manifest["missing"].get(task, "it was not part of the suite")
            raise MissingError(f"task {task} is not in the snapshot {self._folder}: {why}")
        pandas = require("pandas", "eval", "reading a snapshot")
        require("pyarrow", "eval", "reading a snapshot")
        for name, digest in entry["sha256"].items():
            file = self._folder / name
            if not file.is_file() or sha256_of(file) != digest:
                raise DataError(f"{file} is missing or damaged; delete its entry in {MANIFEST} and prefetch again")
        frame = pandas.read_parquet(self._folder / entry["table"])
        with np.load(self._folder / entry["splits"], allow_pickle=False) as held:
            y, keys = held["y"], [name for name in held.files if name.startswith("train_")]
            splits = tuple(
                Split(*map(int, key.split("_")[1:]), held[key], held[key.replace("train", "test")])
                for key in sorted(keys)
            )
        return DataSet(
            id=task,
            name=entry["name"],
            X=frame,
            y=y.astype(np.int64),
            classes=tuple(entry["classes"]),
            categorical=np.asarray(entry["categorical"], dtype=bool),
            splits=splits or None,
            source=entry["source"],
            group=entry.get("group", ""),
        )


def _free_stem(tasks: dict[str, Any]) -> str:
    """A file name that no task uses. Counting tasks would not do: entries of damaged files are deleted."""
    return f"{1 + max((int(Path(held['table']).stem) for held in tasks.values()), default=-1):04d}"


def _write(data: DataSet, out: Path, stem: str, pandas: Any, pyarrow: Any) -> dict[str, Any]:
    frame = data.X if hasattr(data.X, "iloc") else pandas.DataFrame(data.X)
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    for name in frame.columns[frame.isna().all()]:  # an all-missing object column has no Parquet type
        frame = frame.assign(**{name: np.full(len(frame), np.nan)})
    table, splits = f"{stem}.parquet", f"{stem}.npz"
    with replacing(out / table) as temporary:
        try:
            frame.to_parquet(temporary, index=False, compression="zstd")
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
            wrong = " ".join(str(error).split())[:300]
            raise DataError(
                f"{data.name} cannot be written as Parquet ({wrong}). Give every column cells of one kind, for example text"
            ) from None
    arrays: dict[str, np.ndarray] = {"y": data.y}
    for split in data.splits or ():
        arrays[f"train_{split.repeat:03d}_{split.fold:03d}"] = split.train
        arrays[f"test_{split.repeat:03d}_{split.fold:03d}"] = split.test
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    with replacing(out / splits) as temporary:
        temporary.write_bytes(buffer.getvalue())
    for name in (table, splits):
        (out / name).chmod(0o444)
    return {
        "name": data.name,
        "table": table,
        "splits": splits,
        "classes": list(data.classes),
        "categorical": data.categorical.tolist(),
        "source": data.source,
        "group": data.group,
        "rows": len(data.y),
        "columns": int(frame.shape[1]),
        "sha256": {name: sha256_of(out / name) for name in (table, splits)},
    }
