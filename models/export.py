"""The network as a portable program: StableHLO with the weights inside, run by JAX without this package.

What is exported is the whole way from an encoded context and encoded query rows to logits; turning a table into numbers
(`priorax.models.TableEncoder`) stays in Python. The file is what ``jax.export`` writes (StableHLO in its versioned,
portable form plus the calling convention); ``jax.export.deserialize`` reads it, and
``deserialize(...).mlir_module_serialized`` is the bare StableHLO for other compilers.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export  # not loaded by `import jax`
import jax.numpy as jnp
import numpy as np

from ..configs.errors import ConfigError, DataError, ThresholdError, require
from ..configs.files import replacing
from ..configs.model import ModelConfig
from .attention import MAX_SCORES
from .network import with_params
from .weights import LoadedWeights

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
MAX_QUERIES = 4096
TOLERANCE = 1e-4
# What flatbuffers and the MLIR reader raise on bytes that are not theirs.
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RuntimeError, struct.error, OverflowError)
INPUTS = ("x_context", "y_context", "x_query", "n_context", "n_features", "n_classes", "categorical")


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
      path, bytes, sha256: the file.
      platforms: where it may run.
      inputs: name -> type and shape, in the order of the arguments; q is any number up to ``max_queries``.
      output: type and shape of the logits.
      max_queries: most query rows of one call.
      largest_difference: between its logits, read back from the file, and those of the network in this package, over
        ``checked`` query rows of random tables; relative to 1 + the largest logit.
      checked: query rows compared.
      weights_sha256: of the weights file.
    """

    path: Path
    bytes: int
    sha256: str
    platforms: tuple[str, ...]
    inputs: dict[str, str]
    output: str
    max_queries: int
    largest_difference: float
    checked: int
    weights_sha256: str


def export_stablehlo(
    path: str | os.PathLike,
    weights: LoadedWeights,
    *,
    rows: int = 1024,
    columns: int = 32,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> Exported:
    """Writes a weights file as a StableHLO program, reads it back and compares.

    The program's arguments, in this order (N = ``rows``, F = ``columns``, any q from 1 to the ``max_queries`` of the
    result): ``x_context`` f32[N, F], NaN = missing; ``y_context`` i32[N]; ``x_query`` f32[q, F]; ``n_context``,
    ``n_features``, ``n_classes`` i32[], how many of N, F and the network's classes are in use; ``categorical`` bool[F].
    It returns logits f32[q, C]; classes at or past ``n_classes`` have -1e9. Everything is computed in float32.

    Args:
      path: file to write; it is renamed into place only after the comparison.
      weights: what `load_weights` gave.
      rows, columns: room for context rows and columns; smaller tables are padded (any value) and masked.
      platforms: any of `PLATFORMS`.

    Raises:
      ConfigError: a size or a platform is not possible.
      MissingError: the package flatbuffers, with which JAX writes such files, is not installed.
      ThresholdError: the file's logits differ from the network's by more than 1e-4; nothing is kept.
    """
    _check(rows, columns, platforms)
    require("flatbuffers", "export", "writing or reading a program")  # JAX does not say what brings it
    cfg = _exact(weights.cfg)
    most = _most_queries(cfg, rows, columns)
    (q,) = jax.export.symbolic_shape("q", constraints=(f"q <= {most}",))
    exported = jax.export.export(_program(cfg, weights.params), platforms=list(platforms))(
        *_arguments(rows, columns, q)
    )
    data = bytes(exported.serialize())
    path = Path(path)
    with replacing(path) as temporary:
        Path(temporary).write_bytes(data)
        error, checked = compare(Path(temporary), weights, rows, columns)
        if not error <= TOLERANCE:
            raise ThresholdError(
                f"the exported program's logits differ from the network's by {error:.2g}, allowed is {TOLERANCE:g}; "
                f"{path} was not written. Export again with another version of JAX, and please report this."
            )
    shapes = {name: f"{a.str_short()}" for name, a in zip(INPUTS, exported.in_avals, strict=True)}
    (out,) = exported.out_avals
    return Exported(
        path,
        len(data),
        hashlib.sha256(data).hexdigest(),
        tuple(exported.platforms),
        shapes,
        out.str_short(),
        most,
        error,
        checked,
        weights.sha256,
    )


def read_stablehlo(path: str | os.PathLike) -> jax.export.Exported:
    """The program in a file written by `export_stablehlo`; ``.call(...)`` runs it.

    Raises:
      DataError: the file is no such program.
      MissingError: the package flatbuffers is not installed.
    """
    require("flatbuffers", "export", "writing or reading a program")  # JAX does not say what brings it
    try:
        return jax.export.deserialize(bytearray(Path(path).read_bytes()))
    except _DAMAGE as error:
        raise DataError(f"{path} is not a program written by jax.export: {error}") from None


def compare(path: Path, weights: LoadedWeights, rows: int, columns: int) -> tuple[float, int]:
    """(largest difference of logits relative to 1 + the largest logit, query rows compared) between the program in a
    file and the network's plain forward pass, on random tables: full and padded, missing values, categories."""
    call = jax.jit(read_stablehlo(path).call)
    cfg = _exact(weights.cfg)
    worst, checked = 0.0, 0
    rng = np.random.Generator(np.random.Philox(20_260_201))
    for n, f, classes, queries in (
        (rows, columns, cfg.max_classes, 7),
        (max(2, rows // 3), max(1, columns // 2), 2, 7),
        (max(2, rows // 2), max(1, columns - 1), min(3, cfg.max_classes), 1),  # another number of query rows
    ):
        context, query = (rng.normal(size=(size, columns)).astype(np.float32) for size in (rows, 7))
        for x in (context, query):
            x[:, 0] = rng.integers(0, 3, len(x))
            x[rng.random(x.shape) < 0.05] = np.nan
        y = rng.integers(0, classes, rows).astype(np.int32)
        sizes = [np.int32(n), np.int32(f), np.int32(classes)]
        categorical = np.arange(columns) == 0
        found = np.asarray(call(context, y, query[:queries], *sizes, categorical))
        expected = np.asarray(_plain(cfg, weights.params, context, y, query, *sizes, categorical))[:queries]
        scale = 1.0 + float(np.abs(expected[:, :classes]).max())
        error = np.abs(found - expected)[:, :classes].max() / scale
        masked = np.array_equal(found[:, classes:], expected[:, classes:])
        worst = max(worst, float(error) if np.isfinite(error) and masked else float("inf"))
        checked += queries
    return worst, checked


def _exact(cfg: ModelConfig) -> ModelConfig:
    return dataclasses.replace(cfg, dtype="float32", attention="xla")


@functools.partial(jax.jit, static_argnums=0)
def _plain(cfg, params, context, y, query, n_context, n_features, n_classes, categorical) -> jax.Array:
    """The forward pass that knows no cache: f32[q, C]."""
    x = jnp.concatenate([context, query])[None]
    labels = jnp.concatenate([y, jnp.zeros(len(query), jnp.int32)])[None]
    sizes = (n_features[None], n_classes[None], n_context[None])
    with jax.default_matmul_precision("highest"):
        return with_params(cfg, params)(x, labels, *sizes, categorical[None], context=len(context))[0]


def _program(cfg: ModelConfig, params: dict[str, Any]):
    """A jitted function of `INPUTS`; the weights are constants in it."""

    @jax.jit
    def priorax(x_context, y_context, x_query, n_context, n_features, n_classes, categorical):
        model = with_params(cfg, params)
        sizes = (n_features[None], n_classes[None], n_context[None])
        with jax.default_matmul_precision("highest"):
            cache = model.encode_context(x_context[None], y_context[None], *sizes, categorical[None])
            return model.predict_queries(cache, x_query[None])[0]

    return priorax


def _arguments(rows: int, columns: int, q: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
    f32, i32 = jnp.float32, jnp.int32
    shapes = [((rows, columns), f32), ((rows,), i32), ((q, columns), f32), *[((), i32)] * 3, ((columns,), jnp.bool_)]
    return tuple(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes)


def _most_queries(cfg: ModelConfig, rows: int, columns: int) -> int:
    """Query rows whose attention scores, all held at once, are not too many."""
    return max(1, min(MAX_QUERIES, MAX_SCORES // ((columns + 1) * cfg.heads * (rows + cfg.thinking_rows))))


def _check(rows: int, columns: int, platforms: Sequence[str]) -> None:
    for name, value, low, high in (("rows", rows, 2, 1_000_000), ("columns", columns, 1, 10_000)):
        if not low <= value <= high:
            raise ConfigError(f"{name} is {value}; allowed: {low} to {high}")
    wrong = [p for p in platforms if p not in PLATFORMS]
    if wrong or not platforms:
        raise ConfigError(f"platforms are {', '.join(platforms) or 'none'}; choose from {', '.join(PLATFORMS)}")
