"""Checkpoints that are whole, verified, and never the last one standing.

Arrays are written by orbax into a temporary folder, every file of which is then hashed into ``manifest.json``; a
rename makes the folder a checkpoint. Orbax by itself restores flipped bits without a word and takes an empty folder
for the latest step, so nothing is restored that does not match its manifest: a damaged checkpoint is reported and the
one before it is used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..configs.errors import DataError
from ..configs.files import sha256_of
from .state import TrainState

MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{9})")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its folder, the state (host arrays) and what was noted with it."""

    path: Path
    state: TrainState
    meta: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.state.step)


def save_checkpoint(folder: Path, state: TrainState, meta: dict[str, Any], keep: int = 2) -> Path:
    """Writes ``folder/step-NNNNNNNNN`` and removes all but the newest ``keep``.

    A crash at any moment leaves the older checkpoints and at most a folder named ``.tmp-...``, which the next save
    removes.

    Args:
      state: device or host arrays.
      meta: JSON-able notes (elapsed seconds, tasks seen, ...).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)
    arrays = {name: np.asarray(leaf) for name, leaf in zip(_names(state), jax.tree.leaves(state), strict=True)}
    final = folder / f"step-{int(arrays['.step']):09d}"
    temporary = folder / f".tmp-{final.name}"
    try:
        with _orbax() as checkpointer:
            checkpointer.save(temporary.absolute() / "state", arrays)
        # Orbax's mark of a finished write holds the path it was written to, which is nobody's business once a state is
        # packed and handed on; here the manifest is that mark.
        (temporary / "state" / "commit_success.txt").unlink(missing_ok=True)
        files = {str(p.relative_to(temporary)): sha256_of(p) for p in sorted(temporary.rglob("*")) if p.is_file()}
        manifest = {"format": 1, "meta": meta, "files": files}
        manifest["sha256"] = _seal(manifest)
        with open(temporary / MANIFEST, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        _remove(temporary)  # a full disk needs the room
        raise
    if final.exists():  # left by a run that was resumed from an earlier step
        shutil.rmtree(final)
    os.replace(temporary, final)
    found = list_checkpoints(folder)
    # Later steps than this one are damaged, or those of a future that was given up; they must not outlast it.
    ours = [path for _, path in found if path <= final]
    for old in {path for _, path in found} - set(ours[-keep:]):
        shutil.rmtree(old, ignore_errors=True)
    return final


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of the checkpoints in ``folder``, oldest first; not verified."""
    found = [(int(m.group(1)), p) for p in folder.glob("step-*") if (m := _NAME.fullmatch(p.name))]
    return sorted(found)


def restore_checkpoint(path: Path, like: TrainState) -> Checkpoint:
    """Reads one checkpoint.

    Args:
      like: a state with the structure, shapes and dtypes expected (abstract leaves are fine).

    Raises:
      DataError: the checkpoint is damaged or belongs to another network or optimiser; the message says how.
    """
    manifest = verify_checkpoint(path)
    names, leaves = _names(like), jax.tree.leaves(like)
    target = {n: np.zeros(leaf.shape, leaf.dtype) for n, leaf in zip(names, leaves, strict=True)}
    try:
        with _orbax() as checkpointer:
            arrays = checkpointer.restore(path.absolute() / "state", target)
    except Exception as error:  # orbax raises many kinds; all mean that this is not the state asked for
        raise DataError(f"{path} does not fit this recipe's network and optimiser: {str(error)[:300]}") from None
    for name, leaf in target.items():
        if arrays[name].shape != leaf.shape or arrays[name].dtype != leaf.dtype:
            raise DataError(f"{path}: {name} has shape {arrays[name].shape}, this recipe needs {leaf.shape}")
    state = jax.tree.unflatten(jax.tree.structure(like), [np.asarray(arrays[n]) for n in names])
    return Checkpoint(path, state, manifest["meta"])


def restore_latest(folder: Path, like: TrainState, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that verifies, or None when there is none at all; each damaged one is reported to ``warn``.

    Raises:
      DataError: there are checkpoints and none of them verifies.
    """
    found = list_checkpoints(folder)
    for _, path in reversed(found):
        try:
            return restore_checkpoint(path, like)
        except DataError as error:
            warn(f"checkpoint refused: {error}")
    if found:
        raise DataError(
            f"none of the {len(found)} checkpoints in {folder} can be used (see the messages above); remove the folder "
            "to start again, or put back an intact copy"
        )
    return None


def verify_checkpoint(path: Path) -> dict[str, Any]:
    """Compares every file of a checkpoint with its manifest and returns the manifest; DataError says what differs."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        listed, seal = manifest["files"], manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} has no readable {MANIFEST} ({error})") from None
    if seal != _seal(manifest):
        raise DataError(f"{path / MANIFEST} was changed after it was written")
    present = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()} - {MANIFEST}
    if odd := sorted(present ^ set(listed)):
        raise DataError(f"{path}: {odd[0]} is {'not listed in the manifest' if odd[0] in present else 'missing'}")
    for name, digest in listed.items():
        if sha256_of(path / name) != digest:
            raise DataError(f"{path / name} is damaged: its SHA-256 is not the one in the manifest")
    return manifest


def _orbax() -> Any:
    """Orbax as one process uses it by itself: among several it would wait for the others at every call."""
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def _remove(folder: Path, patience: float = 10.0) -> None:
    """Removes what a failed save left.

    Orbax raises the first error while its other writers go on, so files may appear while the folder is being emptied,
    or the folder again after it: it is removed until it stays away, for ``patience`` seconds at most. What then
    remains is removed by the next save.
    """
    end, absent = time.monotonic() + patience, 0
    while absent < 5 and time.monotonic() < end:
        absent = 0 if folder.exists() else absent + 1
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)


def _seal(manifest: dict[str, Any]) -> str:
    told = {key: manifest[key] for key in ("format", "meta", "files")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _names(state: TrainState) -> list[str]:
    return [jax.tree_util.keystr(path).replace("/", "|") for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
