"""A training state as files small enough for anywhere: parts of at most 16 MB with checksums, and back.

What is packed is the newest intact checkpoint of a run with its recipe, prior and metrics, so that whoever unpacks it
can go on training exactly where it stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from ..configs.errors import ConfigError, DataError
from ..configs.files import replacing, sha256_of, write_text
from .checkpoints import list_checkpoints, verify_checkpoint

INDEX = "parts.json"
PART_BYTES = 16_000_000
_FILES = ("config.yaml", "prior.yaml", "env.json", "metrics.jsonl", "model.safetensors", "start.safetensors")


def pack(run: str | Path, out: str | Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """Splits the state of a run into ``out/state.000``, ``out/state.001``, ... and ``out/parts.json``.

    Args:
      run: directory of `pretrain`.
      out: empty or absent directory.
      part_bytes: most bytes of a part.

    Returns:
      The files written. Equal runs give equal bytes.

    Raises:
      DataError: the run has no intact checkpoint.
      ConfigError: ``out`` holds something.
    """
    run, out = Path(run), Path(out)
    if part_bytes < 1:
        raise ConfigError(f"part_bytes is {part_bytes}; it must be at least 1")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; choose another directory")
    step, checkpoint = _newest_intact(run / "checkpoints")
    names = [name for name in _FILES if (run / name).is_file()]
    names += sorted(str(p.relative_to(run)) for p in checkpoint.rglob("*") if p.is_file())
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            data = (run / name).read_bytes()
            entry = tarfile.TarInfo(name)  # no times, no owners: equal runs give equal bytes
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    blob = archive.getvalue()
    out.mkdir(parents=True, exist_ok=True)
    parts, written = [], []
    for i, start in enumerate(range(0, len(blob), part_bytes)):
        piece = blob[start : start + part_bytes]
        path = out / f"state.{i:03d}"
        with replacing(path) as temporary:
            temporary.write_bytes(piece)
        parts.append({"name": path.name, "bytes": len(piece), "sha256": hashlib.sha256(piece).hexdigest()})
        written.append(path)
    index = {"format": 1, "step": step, "sha256": hashlib.sha256(blob).hexdigest(), "parts": parts}
    write_text(out / INDEX, json.dumps(index, indent=1) + "\n")
    return [*written, out / INDEX]


def unpack(packed: str | Path, run: str | Path) -> Path:
    """Puts the parts together again as a run directory that `pretrain` can resume.

    Args:
      packed: directory of `pack`.
      run: absent or empty directory.

    Returns:
      ``run``.

    Raises:
      DataError: a part is missing or damaged.
      ConfigError: ``run`` holds something.
    """
    packed, run = Path(packed), Path(run)
    if run.exists() and any(run.iterdir()):
        raise ConfigError(f"{run} is not empty; choose another directory")
    try:
        index = json.loads((packed / INDEX).read_text(encoding="utf-8"))
        parts, whole = index["parts"], index["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{packed} has no readable {INDEX} ({error}); it is not a packed training state") from None
    digest, blob = hashlib.sha256(), io.BytesIO()
    for part in parts:
        path = packed / part["name"]
        if not path.is_file():
            raise DataError(f"{path} is missing; fetch it and try again")
        if sha256_of(path) != part["sha256"]:
            raise DataError(f"{path} is damaged: its SHA-256 is not the one in {INDEX}; fetch it again")
        data = path.read_bytes()
        digest.update(data)
        blob.write(data)
    if digest.hexdigest() != whole:
        raise DataError(f"the parts in {packed} do not add up to the packed state; {INDEX} belongs to other parts")
    blob.seek(0)
    run.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=run.parent, prefix=f".{run.name}."))
    try:
        with tarfile.open(fileobj=blob, mode="r") as tar:
            tar.extractall(temporary, filter="data")
        if run.exists():
            run.rmdir()
        temporary.chmod(0o755)
        temporary.rename(run)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return run


def _newest_intact(folder: Path) -> tuple[int, Path]:
    problems = []
    for step, path in reversed(list_checkpoints(folder)):
        try:
            verify_checkpoint(path)
            return step, path
        except DataError as error:
            problems.append(str(error))
    raise DataError(f"{folder} holds no intact checkpoint{': ' + problems[0] if problems else ''}")
