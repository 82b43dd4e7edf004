"""TabICL's saved prior batches (`batch_000000.pt`), written without torch.

A `.pt` file is a zip of a small pickle and of raw tensor bytes. The pickle only names
`torch._utils._rebuild_tensor_v2`, storage types and sizes, so it is assembled here opcode by opcode;
`torch.load(path, weights_only=True)` reads it. Keys and dtypes as in TabICL 2.2.0
`tabicl.prior._genload.SavePriorDataset`, dense mode: every task of a file has the same number of rows, and X is one
flat vector, task by task, row by row, holding only the columns a task has.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .records import TaskRecord, impute

if TYPE_CHECKING:
    from .writers import PartInfo

_STORAGE = {np.dtype("<f4"): "FloatStorage", np.dtype("<i8"): "LongStorage"}


def write_tabicl(folder: Path, chunks: Iterable[list[TaskRecord]], info: PartInfo) -> list[str]:
    """Writes `batch_NNNNNN.pt` (NNNNNN is the number of the part). Missing values are filled from the context rows.

    TabICL's reader joins files only when their widest tasks are equally wide; set its batch size to the shard size.
    """
    tasks = [impute(t) for chunk in chunks for t in chunk]
    name = f"batch_{info.index:06d}.pt"
    save_tensors(
        folder / name,
        {
            "X": np.concatenate([t.x.ravel() for t in tasks]).astype("<f4"),
            "y": np.stack([t.y for t in tasks]).astype("<f4"),
            "d": np.array([t.n_features for t in tasks], "<i8"),
            "seq_lens": np.array([t.n_rows for t in tasks], "<i8"),
            "train_sizes": np.array([t.n_context for t in tasks], "<i8"),
            "batch_size": len(tasks),
        },
    )
    return [name]


def save_tensors(path: Path, values: dict[str, np.ndarray | int]) -> None:
    """Writes a dict of tensors (f32 or i64, C order) and ints in the format of `torch.save`."""
    out, data = bytearray(b"\x80\x02}("), []  # protocol 2, empty dict, mark
    for key, value in values.items():
        out += _text(key)
        if isinstance(value, int):
            out += _int(value)
            continue
        array = np.ascontiguousarray(value)
        out += b"ctorch._utils\n_rebuild_tensor_v2\n("  # global, mark for its arguments
        # persistent id: ("storage", storage type, key, device, number of elements)
        out += b"(" + _text("storage") + f"ctorch\n{_STORAGE[array.dtype]}\n".encode() + _text(str(len(data)))
        out += _text("cpu") + _int(array.size) + b"tQ"
        strides = tuple(s // array.itemsize for s in array.strides)
        out += _int(0) + _ints(array.shape) + _ints(strides) + b"\x89"  # offset, sizes, strides, no gradient
        out += b"ccollections\nOrderedDict\n)R"  # no backward hooks
        out += b"tR"
        data.append(array.tobytes())
    out += b"u."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "archive/data.pkl", bytes(out))
        _add(archive, "archive/byteorder", b"little")
        for i, raw in enumerate(data):
            _add(archive, f"archive/data/{i}", raw)
        _add(archive, "archive/version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, raw: bytes) -> None:
    """Stores one record with its data aligned to 64 bytes, as torch's memory mapping expects; no time stamp."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    start = archive.fp.tell() + 30 + len(name)
    padding = (-(start + 4)) % 64
    entry.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(entry, raw)


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _int(value: int) -> bytes:
    if 0 <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def _ints(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"
