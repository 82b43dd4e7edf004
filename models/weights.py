"""Weights on disk: one safetensors file that says what it is, checks itself when read, and holds no code.

Layout: tensors named by their place in the parameter tree (``blocks/row_q``), in float16 by default, and one metadata
entry ``priorax`` with a JSON object: format version, model config, free ``meta``, the expected logits of a small
self-test, and a SHA-256 over all of it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import struct
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from ..configs.errors import DataError, MissingError, NumericalError
from ..configs.load import settings_in_use
from ..configs.model import ModelConfig
from .network import init_params, with_params

FORMAT_VERSION = 1
LICENCE = "Apache-2.0"
SELF_TEST_TOLERANCE = 2e-3
_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
# How pickles of protocol 2 to 5 and zip files begin. A safetensors file may begin so too: its length comes first.
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
_STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclasses.dataclass(frozen=True)
class LoadedWeights:
    """What a weights file holds.

    Attributes:
      cfg: shape of the network.
      params: nested dict of float32 arrays, for `priorax.models.with_params`.
      meta: licence, limits (``max_rows``, ``max_columns``, ``max_classes``) and whatever the writer recorded (recipe,
        seed, tasks_seen, ...).
      sha256: hex digest of the file.
    """

    cfg: ModelConfig
    params: dict[str, Any]
    meta: dict[str, Any]
    sha256: str


def default_weights_path() -> Path:
    """Path of the weights that ship with the package.

    Raises:
      MissingError: the package holds none.
    """
    path = Path(str(resources.files(__package__))) / "checkpoints" / "default.safetensors"
    if not path.is_file():
        raise MissingError(
            f"the package holds no weights ({path} is missing); reinstall it, or make weights with "
            "`priorax pretrain` and give their path"
        )
    return path


def save_weights(
    path: str | os.PathLike, cfg: ModelConfig, params: dict[str, Any], meta: dict[str, Any], dtype: str = "float16"
) -> str:
    """Writes a weights file under a temporary name, then renames it. Equal input gives equal bytes.

    Args:
      path: where to; its folder is made.
      cfg: shape of the network.
      params: the tree of `init_params`, any float dtype.
      meta: JSON-able facts to record beside licence and limits.
      dtype: precision on disk: "float16", "bfloat16" or "float32".

    Returns:
      The file's SHA-256 (hex).

    Raises:
      NumericalError: a parameter is not finite in ``dtype``.
    """
    if dtype not in _STORED:
        raise ValueError(f"dtype is {dtype!r}; allowed: {', '.join(_STORED)}")
    wide = {name: np.asarray(leaf, np.float32) for name, leaf in _flatten(params).items()}
    _check_tree(wide, cfg, str(path))
    with np.errstate(over="ignore"):
        tensors = {name: np.ascontiguousarray(leaf.astype(_STORED[dtype])) for name, leaf in wide.items()}
    for name, leaf in tensors.items():
        if not np.isfinite(leaf.astype(np.float32)).all():
            raise NumericalError(
                f"parameter {name} holds values that are not finite in {dtype}; nothing was written to {path}"
            )
    limits = {"max_rows": cfg.max_rows, "max_columns": cfg.max_columns, "max_classes": cfg.max_classes}
    stored = {name: leaf.astype(np.float32) for name, leaf in tensors.items()}
    header = {
        "format": FORMAT_VERSION,
        "config": settings_in_use(cfg),  # no newer ones without need: earlier versions read the file
        "meta": {"licence": LICENCE, "limits": limits} | meta,
        "self_test": [round(float(v), 6) for v in self_test_logits(cfg, _nest(stored)).ravel()],
    }
    header["sha256"] = _digest(tensors, header)
    data = safetensors.numpy.save(tensors, metadata={"priorax": json.dumps(header, sort_keys=True)})
    _write_atomically(Path(path), data)
    return hashlib.sha256(data).hexdigest()


def load_weights(path: str | os.PathLike, *, verify: bool = True) -> LoadedWeights:
    """Reads and checks a weights file.

    Args:
      path: a file made by `save_weights`.
      verify: also run the self-test: a small forward pass (under a second, mostly compiling) whose logits must equal
        the stored ones. Checksums are always compared.

    Raises:
      MissingError: no such file.
      DataError: the file is damaged, not a weights file of this package, or of a newer format.
      NumericalError: the self-test gives other logits on this machine.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MissingError(f"cannot read weights {path}: {error.strerror or error}; check the path") from None
    header, tensors = _parse(data, path)
    newer = sorted(header["config"].keys() - {field.name for field in dataclasses.fields(ModelConfig)})
    if newer:
        raise DataError(f"{path} is of a newer priorax: its network has the setting {newer[0]}, which this version lacks; upgrade")
    cfg = ModelConfig(**header["config"])
    wide = {name: leaf.astype(np.float32) for name, leaf in tensors.items()}
    _check_tree(wide, cfg, str(path))
    params = jax.tree.map(jnp.asarray, _nest(wide))
    if verify:
        expected = np.asarray(header["self_test"], np.float32)
        found = self_test_logits(cfg, params).ravel()
        error = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
        if not error <= SELF_TEST_TOLERANCE * (1.0 + float(np.abs(expected).max())):
            raise NumericalError(
                f"the self-test of {path} gave logits that differ by {error:.2g} from the stored ones: this version of "
                "the network or this device computes something else; load with another version or device"
            )
    return LoadedWeights(cfg, params, header["meta"], hashlib.sha256(data).hexdigest())


def self_test_logits(cfg: ModelConfig, params: dict[str, Any]) -> np.ndarray:
    """Logits f32[Q, 2] of a fixed small task with a missing value and a categorical column, in full float32."""
    rng = np.random.Generator(np.random.Philox(20_250_101))
    x = rng.standard_normal((1, 12, 3), dtype=np.float32)
    y = (x[:, :, 0] + x[:, :, 1] > 0).astype(np.int32)
    x[0, :, 2] = rng.integers(0, 3, 12)
    x[0, 1, 0] = x[0, 10, 1] = np.nan
    exact = dataclasses.replace(cfg, dtype="float32", attention="xla")
    with jax.default_matmul_precision("highest"):
        return np.asarray(_self_test(exact, params, x, y)[0, :, :2])


@functools.partial(jax.jit, static_argnums=0)
def _self_test(cfg: ModelConfig, params: dict[str, Any], x: jax.Array, y: jax.Array) -> jax.Array:
    one = jnp.ones(1, jnp.int32)
    categorical = jnp.asarray([[False, False, True]])
    return with_params(cfg, params)(x, y, 3 * one, 2 * one, 8 * one, categorical, context=8)


def _parse(data: bytes, path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    again = "make it again or fetch an intact copy"
    try:
        (length,) = struct.unpack("<Q", data[:8])
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        raw = safetensors.deserialize(data)
    except (struct.error, ValueError, AttributeError, safetensors.SafetensorError) as error:
        if data.startswith(_PICKLES):
            raise DataError(
                f"{path} is a pickle or a zip of pickles (.pkl, .pt, .joblib), not an intact safetensors file. Pickles can "
                "run any code when read, so weights are never unpickled; convert them to safetensors where they come from."
            ) from None
        raise DataError(f"{path} is not an intact safetensors file ({error}); {again}") from None
    if "priorax" not in metadata:
        raise DataError(f"{path} is a safetensors file but not weights of this package (no 'priorax' entry)")
    try:
        header = json.loads(metadata["priorax"])
        version = header["format"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: the 'priorax' entry is damaged; {again}") from None
    if version != FORMAT_VERSION:
        raise DataError(f"{path} has weights format {version}; this version reads {FORMAT_VERSION}: upgrade priorax")
    try:
        tensors = {name: np.frombuffer(t["data"], _DTYPES[t["dtype"]]).reshape(t["shape"]) for name, t in raw}
        if header["sha256"] != _digest(tensors, header):
            raise DataError(f"{path} is damaged: its contents do not match its checksum; {again}")
    except KeyError as error:
        raise DataError(f"{path}: {error} is missing or of an unknown kind; {again}") from None
    return header, tensors


def _digest(tensors: dict[str, np.ndarray], header: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    told = {key: header[key] for key in ("format", "config", "meta", "self_test")}
    digest.update(json.dumps(told, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype.name} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def _check_tree(tensors: dict[str, np.ndarray], cfg: ModelConfig, path: str) -> None:
    expected = {name: leaf.shape for name, leaf in _flatten(jax.eval_shape(lambda: init_params(cfg))).items()}
    found = {name: leaf.shape for name, leaf in tensors.items()}
    if wrong := sorted(set(expected.items()) ^ set(found.items())):
        name = wrong[0][0]
        raise DataError(
            f"{path}: parameter {name} has shape {found.get(name, 'none')}, the model config asks for "
            f"{expected.get(name, 'none')}; the file belongs to another version of the network"
        )


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
