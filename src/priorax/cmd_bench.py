"""`priorax bench`: medians with their spread, compile time apart, on this machine."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from priorax import options, output, runtime
from priorax.configs.errors import ConfigError, DataError, MissingError, ThresholdError


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bench(options.Common):
    repeats: int = 7
    """Timed repeats; the median, least and most are reported."""
    out: Path | None = None
    """Also write the points, with versions and hardware, to this JSON file."""
    overwrite: options.Switch = False
    """Replace --out."""
    compare: Path | None = None
    """A JSON file of an earlier run; points that both have are compared."""
    max_regression: float = 10.0
    """With --compare: percent by which a median may be worse before the exit code is 7."""
    seed: int = 0
    """Seed of the tasks."""

    def _finish(self, kind: str, points: list[dict[str, Any]], measure: str, higher_is_better: bool) -> None:
        out = output.check_out_file(self.out, self.overwrite) if self.out else None
        base = _base(self.compare) if self.compare else None  # before --out, which may be the same file, is written
        if out:
            record = {"kind": kind, "environment": runtime.environment(), "points": points}
            output.write_text(out, json.dumps(output.jsonable(record), indent=1) + "\n")
        if self.json:
            output.emit_json(points)
        else:
            print(_table(points))
        if base is not None:
            _compare(points, base, self.compare, measure, higher_is_better, self.max_regression)

    def _check(self) -> None:
        if self.repeats < 1:
            raise ConfigError(f"--repeats is {self.repeats}; it must be at least 1")
        if self.out:
            output.check_out_file(self.out, self.overwrite)
        if self.compare:
            _base(self.compare)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchPrior(_Bench):
    """Tasks a second of the sampler, whole tables made on the device, by shape.

    On a CPU one device per core is set up and the stream is shared out among them, as on several GPUs. The compile
    time is that of a first run: the cache of compiled programs is off. tasks_per_cpu_s counts processor time, which a
    busy machine does not change much. peak_mb is the scratch and output of one call on a device.
    """

    KEEPS_MEMORY = True
    HOST_DEVICES = 0  # one per core

    shapes: tuple[str, ...] = ("1024x20",)
    """Shapes, ROWSxCOLUMNS."""
    presets: tuple[str, ...] = ("default",)
    """Priors, by name or path."""
    tasks: int = 256
    """Tasks of one call on one device."""

    def run(self, settings: dict[str, str]) -> None:
        self._check()
        points = []
        for preset in self.presets:
            for rows, columns in map(_shape, self.shapes):
                output.log(f"bench prior {preset} {rows}x{columns}")
                points.append(_prior_point(preset, rows, columns, self.tasks, self.repeats, self.seed))
        self._finish("prior", points, "tasks_per_s", True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchTrain(_Bench):
    """Tasks and tokens a second of the training step (sampling inside), by recipe.

    gflop_per_task counts the matrix products of a forward and a backward pass; flop_utilisation sets their rate against
    that of plain square matrices on the same devices in the same run; sampling_share is the time of the sampler alone.
    """

    TAKES_SETTINGS = True

    recipes: tuple[str, ...] = ("nano",)
    """Recipes, by name or path."""
    host_devices: int = 0
    """Parts to split a CPU into; 0: one per core."""
    every_shape: options.Switch = False
    """Measure all table shapes of a recipe, not the first one only."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.bench_train import train_points

        self._check()
        points = []
        for recipe in self.recipes:
            output.log(f"bench train {recipe}")
            points += train_points(recipe, settings, self.repeats, self.seed, self.every_shape)
        self._finish("train", points, "tasks_per_s", True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchPredict(_Bench):
    """Latency of the classifier by shape: p50 and p95 over repeats, least and most.

    process_s is a new process (import, fit, predict), process_no_cache_s the same with an empty compile cache, first_s
    the first call in this process. fit_predict_s encodes the training rows and answers all queries; predict_s answers
    them against the cached context, one_row_s a single one.

    Where the package tabicl is installed, and on a CPU, rows of their own give the same times for the network of TabICL
    v2: its published configuration with random weights, one member, as many threads, in a process of its own right
    after ours. Its preparation of tables is not counted.
    """

    KEEPS_MEMORY = True

    shapes: tuple[str, ...] = ("500x30", "1000x20")
    """Shapes, CONTEXT_ROWSxCOLUMNS."""
    queries: int = 500
    """Query rows."""
    n_estimators: int = 1
    """Members of the ensemble."""
    classes: int = 2
    """Classes of the table."""
    model: str | None = None
    """Weights file; the shipped ones when left out."""
    fresh: bool = True
    """Also time new processes."""
    tabicl: bool = True
    """Also time TabICL's network, where it is installed."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.bench_predict import predict_point

        self._check()
        for name, low in (("queries", 1), ("n_estimators", 1), ("classes", 2)):
            if getattr(self, name) < low:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least {low}")
        beside = self.tabicl and _can_time_tabicl()
        points = []
        for rows, columns in map(_shape, self.shapes):
            output.log(f"bench predict {rows}x{columns}, {self.queries} queries")
            sizes = {"context": rows, "columns": columns}
            asked = {name: getattr(self, name) for name in ("queries", "classes", "n_estimators", "model", "seed", "repeats")}
            point = predict_point(sizes | asked, fresh=self.fresh)
            points.append(point)
            if beside:
                points[-1] = {"network": "priorax"} | point
                points += self._tabicl(point, sizes | asked)
        self._finish("predict", points, "fit_predict_s", False)

    def _tabicl(self, point: dict[str, Any], settings: dict[str, Any]) -> list[dict[str, Any]]:
        """TabICL's point, or none and a line that says why: what another package does must not cost our own figures."""
        from priorax.bench_predict import tabicl_beside

        try:
            return [tabicl_beside(point, settings, fresh=self.fresh)]
        except MissingError as error:
            output.log(f"TabICL's network is left out: {error}")
            return []


def _can_time_tabicl() -> bool:
    """Whether TabICL's network can be timed here; if not, one line says why."""
    import importlib.util

    import jax

    if importlib.util.find_spec("tabicl") is None:
        output.log("TabICL's network is not timed beside ours: tabicl is not installed (pip install tabicl)")
    elif jax.default_backend() != "cpu":
        output.log("TabICL's network is not timed beside ours: that is done on a CPU only (--device cpu)")
    else:
        return True
    return False


def _shape(text: str) -> tuple[int, int]:
    try:
        rows, columns = (int(v) for v in text.lower().split("x"))
    except ValueError:
        raise ConfigError(f"shape {text!r}; write it as ROWSxCOLUMNS, e.g. 1024x20") from None
    return rows, columns


def _prior_point(preset: str, rows: int, columns: int, tasks: int, repeats: int, seed: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, PartitionSpec

    from priorax.configs import load_prior
    from priorax.priors import TableShape, compiler_options, make_sampler
    from priorax.priors.keys import seed_key

    jax.config.update("jax_enable_compilation_cache", False)
    try:
        key = seed_key(seed)
        sampler = make_sampler(load_prior(preset), TableShape(rows, columns), tasks)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    devices = jax.devices()
    count = jnp.uint32(len(devices))

    def share(key: Any, step: Any) -> Any:
        return sampler(key, step * count + jax.lax.axis_index("d").astype(jnp.uint32))

    spread, whole = PartitionSpec("d"), PartitionSpec()
    program = jax.shard_map(share, mesh=Mesh(np.array(devices), ("d",)), in_specs=(whole, whole), out_specs=spread,
                            check_vma=False)  # fmt: skip
    start = time.perf_counter()
    compiled = jax.jit(program, compiler_options=compiler_options()).lower(key, jnp.uint32(0)).compile()
    compile_s = time.perf_counter() - start
    jax.block_until_ready(compiled(key, jnp.uint32(0)))
    step = iter(range(1, 10**9))
    cpu = time.process_time()
    seconds = _repeat(lambda: jax.block_until_ready(compiled(key, jnp.uint32(next(step)))), repeats)
    cpu = time.process_time() - cpu
    made = tasks * len(devices)
    memory = compiled.memory_analysis()
    peak = None if memory is None else round((memory.temp_size_in_bytes + memory.output_size_in_bytes) / 1e6, 1)
    return {
        "preset": preset, "rows": rows, "columns": columns, "devices": len(devices), "tasks_per_call": made,
        "tasks_per_s": _spread([made / s for s in seconds], 1),
        "tasks_per_cpu_s": round(made * repeats / cpu, 1) if devices[0].platform == "cpu" else None, "compile_s": round(compile_s, 2), "peak_mb": peak,
    }  # fmt: skip


def _repeat(work: Callable[[], Any], repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def _spread(values: list[float], digits: int = 4) -> dict[str, float]:
    return {"median": round(statistics.median(values), digits), "min": round(min(values), digits),
            "max": round(max(values), digits)}  # fmt: skip


def _table(points: list[dict[str, Any]]) -> str:
    def show(value: Any) -> str:
        if value is None:
            return "-"
        if isinstance(value, dict):
            p95 = f", p95 {value['p95']:,g}" if "p95" in value else ""
            return f"{value['median']:,g} ({value['min']:,g}-{value['max']:,g}{p95})"
        return str(value)

    return output.table([[show(v) for v in p.values()] for p in points], list(points[0]))


def _base(path: Path) -> list[dict[str, Any]]:
    """The points of an earlier run."""
    try:
        old = json.loads(path.read_text())
        old = old["points"] if isinstance(old, dict) else old
        return [dict(p) for p in old if _is_ours(p)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"--compare {path} cannot be read as a benchmark result: {error}") from None


def _compare(points: list[dict[str, Any]], old: list[dict[str, Any]], base: Path, measure: str, higher: bool, percent: float) -> None:
    # What no point of an earlier version says of itself cannot be compared.
    names = [name for name in _MEASURED if name == "score_columns" or any(name in p for p in old)]
    key = lambda point: _key(point, names)
    try:
        table = {key(point): point[measure]["median"] for point in old}
    except (KeyError, TypeError) as error:
        raise DataError(f"--compare {base} is the result of another benchmark: its points have no {error}") from None
    ours = [p for p in points if _is_ours(p)]
    if ours and not any(key(p) in table for p in ours):
        raise DataError(f"--compare {base} holds none of the points measured ({'; '.join(map(key, ours))}): nothing to compare with")
    worse = []
    for p in ours:
        if key(p) not in table:
            output.log(f"warning: {key(p)} is not in {base} and is not compared")
            continue
        before, now = table[key(p)], p[measure]["median"]
        change = 100 * (now / before - 1) * (1 if higher else -1)
        output.log(f"{key(p)}: {measure} {before:g} -> {now:g} ({change:+.1f} %)")
        if change < -percent:
            worse.append(f"{key(p)}: {measure} {before:g} -> {now:g}")
    if worse:
        raise ThresholdError(f"worse than {base} by more than {percent:g} %: {'; '.join(worse)}")


def _is_ours(point: dict[str, Any]) -> bool:
    return point.get("network", "priorax") == "priorax"


_MEASURED = (
    "preset", "recipe", "recipe_sha256", "devices", "tasks_per_call", "weights", "rows", "context", "columns", "score_columns",
    "queries", "classes", "n_estimators",
)  # fmt: skip
"""What must be equal of two points for their rates to be compared."""


def _key(point: dict[str, Any], names: Sequence[str]) -> str:
    # Results from before there were scores do not say that they have none.
    return " ".join(f"{n}={point[n]}" for n in names if n in point and (point[n] or n != "score_columns"))
