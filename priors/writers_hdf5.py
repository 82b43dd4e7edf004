"""HDF5 prior dump that both nanoTabPFN and TFM-Playground load.

Field names, shapes and traps as read from TFM-Playground's `dump_prior_to_h5` (commit 98e33be) and nanoTabPFN's loader
(commit 6bb3ca5). Both loaders take consecutive blocks, crop each to its widest task and use the split of its *first*
task for all, so tasks come in groups of equal width and split; a training batch size must divide the group size.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..configs.errors import ConfigError, DataError, require
from .records import TaskRecord, group_equal, impute

if TYPE_CHECKING:
    from .writers import PartInfo


def write_hdf5(folder: Path, chunks: Iterable[list[TaskRecord]], info: PartInfo) -> list[str]:
    """Writes `NAME.h5`. Missing values are filled from the context rows: a NaN in a dump makes one reader skip the
    batch and turns the other's loss into NaN.

    Raises:
      ConfigError: a chunk of tasks does not divide into groups.
    """
    h5py = require("h5py", "dumps", "HDF5")
    name, rows, columns, group = f"{info.stem}.h5", info.rows, info.columns, info.group_size
    with h5py.File(folder / name, "w") as f:
        x = f.create_dataset("X", (0, rows, columns), "f4", maxshape=(None, rows, columns),
                             chunks=(group, rows, columns), compression="lzf")  # fmt: skip
        y = f.create_dataset("y", (0, rows), "f4", maxshape=(None, rows), chunks=(group, rows))
        counts = {
            key: f.create_dataset(key, (0,), "i4", maxshape=(None,), chunks=(group,))
            for key in ("num_features", "num_datapoints", "train_test_split_index")
        }
        f["single_eval_pos"] = f["train_test_split_index"]  # a hard link: the two readers use different names
        f.create_dataset("max_num_classes", data=np.array([info.max_classes], np.int64), chunks=(1,))
        f.create_dataset("original_batch_size", data=np.array([group], np.int64), chunks=(1,))
        f.create_dataset("problem_type", data="classification", dtype=h5py.string_dtype("utf-8"))
        for chunk in chunks:
            try:
                tasks = group_equal([impute(t) for t in chunk], group)
            except ValueError as error:
                raise ConfigError(f"{error}; choose --n-tasks and --shard-size as multiples of --group-size") from None
            start, end = x.shape[0], x.shape[0] + len(tasks)
            block = np.zeros((len(tasks), rows, columns), np.float32)
            for i, t in enumerate(tasks):
                block[i, : t.n_rows, : t.n_features] = t.x
            if not np.isfinite(block).all():
                raise DataError("a task holds a value that is not finite; HDF5 dumps cannot carry it")
            x.resize(end, axis=0)
            x[start:end] = block
            y.resize(end, axis=0)
            y[start:end] = np.stack([t.y for t in tasks]).astype(np.float32)
            for key, values in (
                ("num_features", [t.n_features for t in tasks]),
                ("num_datapoints", [t.n_rows for t in tasks]),
                ("train_test_split_index", [t.n_context for t in tasks]),
            ):
                counts[key].resize(end, axis=0)
                counts[key][start:end] = np.array(values, np.int32)
    return [name]
