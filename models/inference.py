"""Runs a network on tables of any size with a bounded number of compiled programs.

Shapes are padded to buckets, context rows, query rows and columns each on their own; padding is masked inside the
network and changes nothing. The context of every member is encoded once, query rows are answered in chunks against it.
Since the chunk size is one of few constants, a row gets the same answer, but for rounding, alone or among thousands.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from ..configs.errors import MemoryLimitError, NumericalError
from ..configs.model import ModelConfig
from ..priors.device import default_device, on_cpu
from .attention import rows_at_once, scores_at_once
from .compile_cache import enable_compile_cache
from .network import ContextCache, with_params
from .weights import LoadedWeights, default_weights_path, load_weights

QUERY_BUCKETS = (32, 128, 512)
COLUMN_BUCKETS = (8, 16, 24, 32, 48, 64, 88, 104, 120)
CPU_BUDGET = 2 << 30  # bytes one program may use on CPU before members are run one after the other
CACHE_BUDGET = 1 << 30  # bytes of encoded context an estimator keeps between two calls of predict


class LimitWarning(UserWarning):
    """The table exceeds what the weights handle in one pass, or the memory that is free; the message names the limit
    and what is done."""


def context_bucket(rows: int) -> int:
    """Smallest of 32, 64, 96, 128, 192, 256, 384, ... (halves between powers of two) that holds ``rows``."""
    size = 32
    while size < rows:
        size = size * 3 // 2 if size & (size - 1) == 0 and size >= 64 else _next_power(size)
    return size


def column_bucket(columns: int) -> int:
    """Smallest column bucket that holds ``columns``; multiples of 50 past the last one."""
    return next((size for size in COLUMN_BUCKETS if size >= columns), -(-columns // 50) * 50)


def query_chunks(rows: int) -> list[int]:
    """Bucket sizes that together hold ``rows`` query rows, with at most half of any chunk (or 31 rows) wasted."""
    chunks = []
    while rows > 0:
        up = next((size for size in QUERY_BUCKETS if size >= rows), QUERY_BUCKETS[-1])
        if up > QUERY_BUCKETS[0] and 2 * rows < up:
            up = max(size for size in QUERY_BUCKETS if size <= rows) if rows >= QUERY_BUCKETS[0] else QUERY_BUCKETS[0]
        chunks.append(up)
        rows -= up
    return chunks


@dataclasses.dataclass(frozen=True)
class Contexts:
    """The contexts of M members, unpadded. n rows, at most F columns.

    Attributes:
      x: f32[M, n, F]; columns at or past ``n_features`` are 0.
      y: i32[M, n].
      n_features, n_classes: i32[M].
      categorical: bool[M, F].
    """

    x: np.ndarray
    y: np.ndarray
    n_features: np.ndarray
    n_classes: np.ndarray
    categorical: np.ndarray


class Engine:
    """A network ready to predict. Get one with `get_engine`; equal weights share one engine in a process.

    Attributes:
      cfg: shape of the network.
      sha256: digest of the weights file.
      meta: what the weights file says about itself.
    """

    def __init__(self, weights: LoadedWeights) -> None:
        self.cfg, self.sha256, self.meta = weights.cfg, weights.sha256, weights.meta
        self._params = jax.device_put(weights.params)
        self._programs: set[tuple[int, ...]] = set()  # shapes that have run


class Session:
    """Answers query rows given fixed contexts; keeps the encoded contexts if they are small enough.

    Args:
      engine: the network.
      contexts: what each member has seen.
      keep: keep encoded contexts between calls of `logits`: True, False, or None for yes up to `CACHE_BUDGET` bytes.
    """

    def __init__(self, engine: Engine, contexts: Contexts, keep: bool | None = None) -> None:
        self._engine, self._contexts = engine, contexts
        members, rows, columns = contexts.x.shape
        self._rows, self._columns = context_bucket(rows), column_bucket(columns)
        per_member = estimate_memory(engine.cfg, self._rows, self._columns, QUERY_BUCKETS[-1]).total
        at_once = max(1, min(members, memory_budget() // per_member))
        groups = -(-members // at_once)
        self._group = -(-members // groups)
        cache = members * cache_bytes(engine.cfg, self._rows, self._columns)
        self._keep = cache <= CACHE_BUDGET if keep is None else keep
        self._encoded: dict[int, ContextCache] = {}

    def logits(self, queries: Callable[[int, slice], np.ndarray], n_queries: int) -> np.ndarray:
        """Logits of every query row under every member.

        Args:
          queries: ``(member, rows) -> f32[len(rows), f]``, the encoded query rows as that member sees them.
          n_queries: rows in all.

        Returns:
          f32[M, n_queries, C].

        Raises:
          NumericalError: a logit is NaN or infinite.
        """
        out = self.run(_answer, queries, n_queries, query_chunks(n_queries))
        shape = (self._group, self._rows, self._columns)
        self._engine._programs.update((*shape, size) for size in query_chunks(n_queries))
        if not np.isfinite(out).all():
            raise NumericalError(
                f"the network gave logits that are NaN or infinite for {int((~np.isfinite(out)).any((0, 2)).sum())} of "
                f"{n_queries} rows (weights {self._engine.sha256[:12]}); please report this with the data's shape"
            )
        return out

    def run(
        self,
        program: Callable[..., jax.Array],
        queries: Callable[[int, slice], np.ndarray],
        n_queries: int,
        chunks: list[int],
    ) -> np.ndarray:
        """Calls ``program(cfg, params, cache, x) -> [group, chunk, K]`` on every chunk of query rows for every member.

        Args:
          queries, n_queries: see `logits`.
          chunks: sizes that together hold ``n_queries`` rows; the last rows of the last one are padding.

        Returns:
          f32[M, n_queries, K].
        """
        members = len(self._contexts.x)
        out = np.empty((members, n_queries, 0), dtype=np.float32)
        for start in range(0, members, self._group):
            group = [min(start + k, members - 1) for k in range(self._group)]  # the last one repeats to fill the shape
            cache = self._encode(start, group)
            row = 0
            for size in chunks:
                stop = min(row + size, n_queries)
                x = np.zeros((len(group), size, self._columns), dtype=np.float32)
                for k, member in enumerate(group):
                    piece = queries(member, slice(row, stop))
                    x[k, : stop - row, : piece.shape[1]] = piece
                answer = np.asarray(program(self._engine.cfg, self._engine._params, cache, x))
                if not out.shape[2]:
                    out = np.empty((members, n_queries, answer.shape[2]), dtype=np.float32)
                used = min(len(group), members - start)
                out[start : start + used, row:stop] = answer[:used, : stop - row]
                row = stop
        return out

    def is_compiled(self, n_queries: int) -> bool:
        """True when a call of `logits` with this many rows would compile nothing new."""
        shape = (self._group, self._rows, self._columns)
        return {(*shape, size) for size in query_chunks(n_queries)} <= self._engine._programs

    def _encode(self, start: int, group: list[int]) -> ContextCache:
        if start in self._encoded:
            return self._encoded[start]
        c = self._contexts
        x = np.zeros((len(group), self._rows, self._columns), dtype=np.float32)
        y = np.zeros((len(group), self._rows), dtype=np.int32)
        categorical = np.zeros((len(group), self._columns), dtype=bool)
        rows, columns = c.x.shape[1:]
        x[:, :rows, :columns], y[:, :rows], categorical[:, :columns] = c.x[group], c.y[group], c.categorical[group]
        n_context = np.full(len(group), rows, dtype=np.int32)
        cache = _encode(
            self._engine.cfg,
            self._engine._params,
            x,
            y,
            c.n_features[group],
            c.n_classes[group],
            n_context,
            categorical,
        )
        if self._keep:
            self._encoded[start] = cache
        return cache


def check_memory(cfg: ModelConfig, rows: int, columns: int) -> None:
    """Compares the estimate for a context with the memory there is, before anything runs.

    Raises:
      MemoryLimitError: one member alone needs more than the device has; names the largest cause and what shrinks it.

    Warns:
      LimitWarning: it needs more than is free now.
    """
    padded = context_bucket(rows), column_bucket(columns)
    need = estimate_memory(cfg, *padded, QUERY_BUCKETS[-1])
    have, free = total_memory(), free_memory()
    device = default_device().platform
    # What halving either size would save tells which one to blame.
    fewer_rows = estimate_memory(cfg, padded[0] // 2, padded[1], QUERY_BUCKETS[-1]).total
    fewer_columns = estimate_memory(cfg, padded[0], padded[1] // 2, QUERY_BUCKETS[-1]).total
    cause, remedy = f"{rows:,} context rows", "max_context"
    if fewer_columns < fewer_rows:
        cause, remedy = f"{columns:,} columns", "max_columns"
    text = (
        f"for {rows:,} context rows x {columns:,} columns. Cause: {cause} (query rows are already chunked). "
        f"Lower {remedy}"
    )
    if have and need.total > have:
        raise MemoryLimitError(f"{need.total / 1e9:.1f} GB needed, {have / 1e9:.1f} GB on {device}, {text}.")
    if free and need.total > free:
        warnings.warn(
            f"{need.total / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free on {device}, {text} if this fails.",
            LimitWarning,
            stacklevel=3,  # the caller of fit
        )


@functools.partial(jax.jit, static_argnums=0)
def _encode(cfg: ModelConfig, params, x, y, n_features, n_classes, n_context, categorical) -> ContextCache:
    return with_params(cfg, params).encode_context(x, y, n_features, n_classes, n_context, categorical)


@functools.partial(jax.jit, static_argnums=0)
def _answer(cfg: ModelConfig, params, cache: ContextCache, x) -> jax.Array:
    return with_params(cfg, params).predict_queries(cache, x)


def get_engine(weights: str | os.PathLike | None = None) -> Engine:
    """The engine of a weights file (None: the weights that ship with the package), loaded once per process.

    Raises:
      MissingError, DataError, NumericalError: see `priorax.models.load_weights`.
    """
    enable_compile_cache()
    path = Path(default_weights_path() if weights is None else weights).expanduser()
    try:
        stat = path.stat()
    except OSError:
        return _by_digest(load_weights(path))  # raises the error that says what is wrong
    return _by_file(str(path.resolve()), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=16)
def _by_file(path: str, mtime: int, size: int) -> Engine:
    return _by_digest(load_weights(path))


# Files of the same weights share an engine as long as anything uses it; who loads hundreds of files need not keep them all.
_ENGINES: weakref.WeakValueDictionary[str, Engine] = weakref.WeakValueDictionary()


def _by_digest(weights: LoadedWeights) -> Engine:
    engine = _ENGINES.get(weights.sha256)
    if engine is None:
        engine = _ENGINES.setdefault(weights.sha256, Engine(weights))
    return engine


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Upper estimates in bytes of what one member needs.

    Attributes:
      cache: its encoded context.
      activations: the largest intermediate arrays of a block.
      scores: attention scores held at once.
    """

    cache: int
    activations: int
    scores: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.cache + self.activations + self.scores


def cache_bytes(cfg: ModelConfig, rows: int, columns: int) -> int:
    """Memory of the encoded context of one member."""
    width = 4 if on_cpu() else 2
    of_rows = 2 * cfg.row_layers * rows * 2 * cfg.width
    return (2 * cfg.layers * (columns + 1) * (rows + cfg.thinking_rows) * cfg.width + of_rows) * width


def estimate_memory(cfg: ModelConfig, rows: int, columns: int, queries: int) -> MemoryEstimate:
    """What one member needs for this many context rows, columns and query rows at once."""
    width = 4 if on_cpu() else 2
    keys = rows + cfg.thinking_rows
    seen = max(keys, queries)
    cells = (columns + 1) * seen
    between_columns = rows_at_once(1, seen, columns + 1, cfg.heads) * (columns + 1) ** 2 * cfg.heads
    activations = cells * (8 * cfg.width + 2 * cfg.hidden) * width + 8 * between_columns
    scores = scores_at_once((columns + 1) * cfg.heads, seen, keys)
    if cfg.row_layers > 1:  # one token, twice the heads
        scores = max(scores, scores_at_once(2 * cfg.heads, seen, rows))
    # Scores and their exponentials; the fused kernel of NVIDIA GPUs holds neither.
    return MemoryEstimate(cache_bytes(cfg, rows, columns), activations, 8 * scores if on_cpu() else 0)


def memory_budget() -> int:
    """Bytes one program may use: `CPU_BUDGET`, or half of an accelerator's memory."""
    if on_cpu():
        return CPU_BUDGET
    return total_memory() // 2 or CPU_BUDGET


def total_memory() -> int:
    """Memory of the default device in bytes, within the limit of this process's control group; 0 when unknown."""
    if on_cpu():
        try:
            have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return 0
        return min(have, _number_in("/sys/fs/cgroup/memory.max") or have)
    return int((default_device().memory_stats() or {}).get("bytes_limit", 0))


def free_memory() -> int:
    """Bytes of the default device that are free now; 0 when the system does not say."""
    if not on_cpu():
        stats = default_device().memory_stats() or {}
        return int(stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0))
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    except (OSError, StopIteration, ValueError):
        return 0
    limit, used = _number_in("/sys/fs/cgroup/memory.max"), _number_in("/sys/fs/cgroup/memory.current")
    if not limit or not used:
        return free
    return min(free, max(limit - used + _reclaimable(), 0))


def _reclaimable() -> int:
    """Bytes that this control group holds as a cache of files not in use, which the kernel gives up when asked."""
    try:
        lines = Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("inactive_file ")).split()[1])
    except (OSError, StopIteration, ValueError, IndexError):
        return 0


def _number_in(path: str) -> int:
    """The number in a one-number file; 0 when there is none."""
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return 0


def _next_power(size: int) -> int:
    return 1 << size.bit_length()
