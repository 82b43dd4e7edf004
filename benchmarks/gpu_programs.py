"""What the compiler makes of the training programs on an H200, on a machine that has none.

    pip install "jax[cuda13]" .        # or cuda12; no GPU and no driver is needed
    python benchmarks/gpu_programs.py --recipe base --out programs.json [--shapes 0 3] [--keep DIR]

XLA compiles for a GPU that is only described (below, by figures that NVIDIA publishes), so everything up to machine code happens but
nothing runs. For every table shape of a recipe, for the whole dispatch and for the sampling in it alone:

- ``compile_s``, ``compile_cpu_s``: here, without the timing of kernels that a real GPU adds;
- ``scratch_gb``: device memory beside arguments and results;
- ``kernels``: how many the program starts for a step of training;
- ``traffic_gb``: what the results of these kernels write, counted twice for what was read to make it; an estimate, good for
  comparing one version of a program with another; ``traffic_ms`` is that at the memory bandwidth of the card;
- ``fused_attention``: calls of cuDNN's kernel;
- ``waits_for_host``: branches and loops whose course the host must ask for.

A branch counts as its most expensive side, a loop of unknown length as one round.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax
import jax.numpy as jnp
from jax.experimental import topologies

BANDWIDTH = 4.8e12
"""Bytes a second of an H200's memory, by its data sheet."""
TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448  shared_memory_per_core: 233472
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024  thread_dim_limit_y: 1024  thread_dim_limit_z: 64
  memory_bandwidth: 4800000000000  l2_cache_size: 52428800  device_memory_size: 151397597184
  cuda_compute_capability { major: 9  feature_extension: ACCELERATED_FEATURES }
  device_vendor: "NVIDIA Corporation"  name: "NVIDIA H200"  device_address_bits: 64
  runtime_version: "12.8.0"  driver_version: "13.0.0"  compile_time_toolkit_version: "12.8.0"  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9  minor: 10 }
device_description_str: "NVIDIA H200"
"""


def described_gpu() -> jax.Device:
    """A device to compile for that is not there."""
    try:
        return topologies.get_topology_desc(platform="cuda", target_config=TARGET, topology="1x1x1").devices[0]
    except NotImplementedError as error:  # what JAX says without the CUDA plugin
        raise SystemExit(f'this JAX cannot compile for CUDA ({error}); install it with: pip install "jax[cuda13]" (or cuda12)') from None


@contextlib.contextmanager
def tracing_for(device: jax.Device) -> Iterator[None]:
    """Programs traced inside are those that ``device`` would be given as the default one."""
    import jax._src.cudnn.fused_attention_stablehlo as fused
    from priorax.models import device as capabilities
    from priorax.priors import device as default

    # JAX asks the GPU of this machine what it is; there is none.
    places: list[tuple[Any, str, Any]] = [(place, "default_device", lambda: device) for place in (default, capabilities)]
    with contextlib.suppress(ImportError):  # from JAX 0.11 on; for kernels of Pallas
        from jax._src.pallas.triton import gpu_info

        kind = gpu_info.get_gpu_info_from_version(gpu_info.GpuVersion.H200)
        places += [(gpu_info, "get_gpu_info", lambda: kind)]
    places += [(fused, "check_compute_capability", lambda _: True), (fused, "is_cuda_compute_capability_equal", lambda _: False)]
    before = [getattr(place, name, None) for place, name, _ in places]
    for place, name, value in places:
        setattr(place, name, value)
    try:
        yield
    finally:
        for (place, name, _), value in zip(places, before, strict=True):
            setattr(place, name, value)


_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)")
_TYPE = re.compile(r"\b(pred|[sufb]+\d+)\[([\d,]*)\]")
_KERNELS = ("fusion", "custom-call", "copy", "sort", "dot", "convolution", "reduce", "scatter")


@dataclasses.dataclass
class Cost:
    kernels: float = 0
    traffic: float = 0
    fused_attention: float = 0
    waits: float = 0

    def add(self, other: Cost, times: float) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + times * getattr(other, field.name))


class Program:
    """Costs of a compiled module, from its text."""

    def __init__(self, text: str) -> None:
        self._parts: dict[str, list[tuple[str, str, str, str, str]]] = {}
        self._known: dict[str, Cost] = {}
        part: list[tuple[str, str, str, str, str]] = []
        for line in text.splitlines():
            if head := _HEAD.match(line):
                part = self._parts.setdefault(head[2], [])
                if head[1]:
                    self._entry = head[2]
            elif found := _LINE.match(line):
                part.append((found[1] or "", found[2], found[3], found[4], found[5]))

    def cost(self, name: str | None = None) -> Cost:
        name = self._entry if name is None else name
        if name not in self._known:
            self._known[name] = total = Cost()
            for _, _, made, op, rest in self._parts.get(name, []):
                self._add(total, made, op, rest)
        return self._known[name]

    def _add(self, total: Cost, made: str, op: str, rest: str) -> None:
        if op == "while":
            rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
            total.add(self.cost(_named("body", rest)), int(rounds[1]) if rounds else 1)
            total.waits += not rounds
        elif op == "conditional":
            sides = re.search(r"branch_computations=\{([^}]*)\}", rest)
            names = sides[1].replace("%", "").split(", ") if sides else [_named(f"{s}_computation", rest) for s in ("true", "false")]
            total.add(max((self.cost(n) for n in names), key=lambda c: c.traffic), 1)
            total.waits += 1
        elif op in ("call", "async-start"):
            total.add(self.cost(_named("to_apply|calls", rest)), 1)
        elif op in _KERNELS:
            total.kernels += 1
            total.traffic += 2 * self._written(made, op, rest)
            total.fused_attention += "__cudnn$fmha" in rest

    def _written(self, made: str, op: str, rest: str) -> int:
        """Bytes a kernel writes; of one that changes a part of a larger array in place, the part."""
        if op != "fusion":
            return _bytes(made)
        inside = self._parts.get(_named("calls", rest), [])
        types = {name: kind for _, name, kind, _, _ in inside}
        whole, part = _bytes(made), 0
        for _, _, kind, step, given in inside:
            which = {"dynamic-update-slice": 1, "scatter": 2}.get(step)
            if which is not None and _bytes(kind) <= whole:
                whole -= _bytes(kind)
                part += _bytes(types.get(re.findall(r"%?([\w.\-]+)", given.split(")")[0])[which], ""))
        return whole + part


def _named(key: str, rest: str) -> str:
    return re.search(rf"(?:{key})=%?([\w.\-]+)", rest)[1]


def _bytes(text: str) -> int:
    total = 0
    for kind, sizes in _TYPE.findall(text):
        count = 1
        for size in filter(None, sizes.split(",")):
            count *= int(size)
        total += count * (1 if kind == "pred" else int(re.sub(r"\D", "", kind)[:2]) // 8)
    return total


def compiled(lowered: Any, steps: int, keep: Path | None) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    program = lowered.compile()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    text = program.as_text()
    if keep:
        keep.write_text(text, encoding="utf-8")
    cost = Program(text).cost()
    each = lambda value, digits: round(value / steps, digits)
    return {
        "compile_s": round(wall, 1), "compile_cpu_s": round(cpu, 1),
        "scratch_gb": round(program.memory_analysis().temp_size_in_bytes / 1e9, 2),
        "kernels": each(cost.kernels, 1), "traffic_gb": each(cost.traffic / 1e9, 3),
        "traffic_ms": each(1e3 * cost.traffic / BANDWIDTH, 2), "fused_attention": each(cost.fused_attention, 1),
        "waits_for_host": each(cost.waits, 2),
    }  # fmt: skip


def measure(name: str, index: int, device: jax.Device, keep: Path | None) -> dict[str, Any]:
    """Figures of one shape of a recipe, by step."""
    from priorax.configs import load_prior, load_recipe
    from priorax.priors import make_sampler
    from priorax.train.flops import training_flops
    from priorax.train.state import init_state
    from priorax.train.step import make_dispatch, make_sampling

    recipe = load_recipe(name)
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, fast_compile=False))
    shape, prior, steps = recipe.shapes[index], load_prior(recipe.prior), recipe.train.steps_per_dispatch
    state = jax.eval_shape(lambda: init_state(recipe, 0, 100))
    here = jax.sharding.SingleDeviceSharding(device)
    put = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), tree)
    key, word = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.uint32)
    out: dict[str, Any] = {"recipe": recipe.name, "rows": shape.rows, "columns": shape.columns, "tasks": shape.tasks,
                           "tflop": round(shape.tasks * training_flops(recipe.model, shape) / 1e12, 3)}  # fmt: skip
    programs = {
        "dispatch": (make_dispatch, (state, key, jax.ShapeDtypeStruct((), bool), word)),
        "sampling": (make_sampling, (key, word)),
    }
    for what, (make, given) in programs.items():
        with tracing_for(device):
            traced = make(recipe, shape, prior, make_sampler, [device]).trace(*put(given))
            lowered = traced.lower(lowering_platforms=("cuda",))
        out[what] = compiled(lowered, steps, keep and keep / f"{recipe.name}-{index}-{what}.txt")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="base")
    parser.add_argument("--shapes", type=int, nargs="+", help="their numbers; all when left out")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="folder for the text of the compiled programs")
    args = parser.parse_args()
    from priorax.configs import load_recipe

    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    device, points = described_gpu(), []
    for i in args.shapes or range(len(load_recipe(args.recipe).shapes)):
        points.append(measure(args.recipe, i, device, args.keep))
        print(json.dumps(points[-1]), flush=True)
        record = {"jax": jax.__version__, "device": device.device_kind, "points": points}
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
