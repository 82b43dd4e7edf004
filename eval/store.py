"""Finished work on disk, so that a killed evaluation goes on where it was.

One file per method, task and split, written whole or not at all: ``cells/METHOD/TASK/rREPEATfFOLD.npz`` (``...sSHOTS``
on learning curves). It holds the predictions and everything measured.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..configs.errors import ConfigError
from ..configs.files import replacing, write_text


@dataclasses.dataclass(frozen=True)
class Cell:
    """One method on one split: what was measured, class codes i64[q], probabilities f64[q, K]."""

    meta: dict[str, Any]
    y: np.ndarray
    p: np.ndarray

    @property
    def key(self) -> tuple[int, int, int]:
        """Repeat, fold, shots."""
        return self.meta["repeat"], self.meta["fold"], self.meta.get("shots", 0)


class Store:
    """The folder of an evaluation."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def check(self, identity: Mapping[str, Any]) -> bool:
        """Whether the folder is bound to this evaluation already; raises ConfigError if it belongs to another."""
        path = self.folder / "evaluation.json"
        if not path.exists():
            return False
        if json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(identity)):
            raise ConfigError(
                f"{self.folder} holds the results of another suite, protocol or seed (see {path.name}). "
                "Use another folder, or delete this one."
            )
        return True

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Binds the folder to one evaluation; raises ConfigError if it belongs to another."""
        if not self.check(identity):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "evaluation.json", json.dumps(identity, indent=1, sort_keys=True) + "\n")

    def put(self, meta: dict[str, Any], y: np.ndarray, p: np.ndarray) -> None:
        """Stores a cell."""
        shots = f"s{meta['shots']}" if meta.get("shots") else ""
        path = self._at(meta["method"], meta["task"]) / f"r{meta['repeat']}f{meta['fold']}{shots}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, meta=json.dumps(meta), y=y.astype(np.int32), p=p.astype(np.float32))
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    def cells(self, method: str, task: str) -> Iterator[Cell]:
        """Stored cells; damaged files are passed over and so computed again."""
        return _read(self._at(method, task))

    def others(self, methods: Iterable[str], tasks: Iterable[str]) -> tuple[list[str], list[str]]:
        """Methods and tasks that have a finished cell here and are none of these."""
        methods, tasks = set(methods), set(tasks)
        known = {self._at(method, task) for method in methods for task in tasks}
        more: tuple[set[str], set[str]] = set(), set()
        for folder in (self.folder / "cells").glob("*/*"):
            if folder in known:
                continue
            meta = next((cell.meta for cell in _read(folder) if cell.meta["status"] == "ok"), None)
            if meta is not None:
                more[0].add(meta["method"])
                more[1].add(meta["task"])
        return sorted(more[0] - methods), sorted(more[1] - tasks)

    def add_server_error(self, fields: Mapping[str, Any]) -> None:
        """Appends one server error to ``server_errors.jsonl``."""
        with open(self.folder / "server_errors.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(fields, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def server_errors(self) -> Iterator[dict[str, Any]]:
        """Server errors so far, those of interrupted runs included."""
        path = self.folder / "server_errors.jsonl"
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    yield json.loads(line)
                except ValueError:
                    continue  # cut off by a kill

    def _at(self, method: str, task: str) -> Path:
        return self.folder / "cells" / _slug(method) / _slug(task)


def _read(folder: Path) -> Iterator[Cell]:
    for path in sorted(folder.glob("r*f*.npz")):
        try:
            with np.load(path, allow_pickle=False) as held:
                yield Cell(json.loads(str(held["meta"])), held["y"].astype(np.int64), held["p"].astype(np.float64))
        # All that damage was seen to raise; a RuntimeError where a changed bit says that a file is encrypted or packed otherwise.
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
            continue


def _slug(text: str) -> str:
    """A file name that no other text shares."""
    plain = re.sub(r"[^\w.\-]+", "_", text)[:60]
    return plain if plain == text else f"{plain}-{zlib.crc32(text.encode()):08x}"
