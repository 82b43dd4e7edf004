"""Tasks a second of our sampler against TabICL v2's public graph prior, on the same cores, in one run.

    python benchmarks/prior_vs_tabicl.py --tabicl-python VENV/bin/python [--shapes 1024x20 128x5] [--out result.json]

TabICL needs torch, so it lives in an environment of its own (`pip install tabicl xgboost`), and this script runs it
there in a subprocess. The two sides take turns, round by round, so that a busy machine hurts both; medians and ranges
are reported. Tables have between 70 % and all of the columns on both sides. Both are measured without and with their
filter for learnable tasks (TabICL: ExtraTrees for every table, drawn again when refused; ours: half as many
candidates more, the learnable ones first). Each side may use all cores: TabICL with the better of one process and one
per core, ours with one JAX device per core. Compiling and starting processes are not counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

TABICL = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
rows, columns, jobs, filtered, seconds = (int(v) for v in sys.argv[1:])
import torch
from tabicl.prior import PriorDataset
from tabicl.prior._dataset import PriorConfig
config = PriorConfig()
config.filter_unpredictable_datasets = bool(filtered)
data = PriorDataset(batch_size=2 * jobs, batch_size_per_gp=1, min_features=-(-7 * columns // 10), max_features=columns, max_seq_len=rows,
                    min_train_size=0.5, max_train_size=0.5, prior_type="graph_scm", config=config, n_jobs=jobs)
data.get_batch()  # starts worker processes
tasks, start = 0, time.perf_counter()
while time.perf_counter() - start < seconds:
    tasks += len(data.get_batch()[0])
print(json.dumps({"rate": tasks / (time.perf_counter() - start)}))
"""

OURS = """
import json, sys, time
rows, columns, filtered, seconds = (int(v) for v in sys.argv[1:])
import dataclasses, jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from priorax import TableShape, load_prior, make_sampler
from priorax.priors import compiler_options
prior = load_prior("default")
wide = tuple(dataclasses.replace(c, laws=dataclasses.replace(c.laws, columns_least=float(columns))) for c in prior.components)
prior = dataclasses.replace(prior, components=wide, oversample=1.5 if filtered else 1.0)
tasks, devices = 256, len(jax.devices())
sampler = make_sampler(prior, TableShape(rows, columns), tasks)
def share(key, step):
    return sampler(key, step * devices + jax.lax.axis_index("d").astype(jnp.uint32))
mesh = Mesh(np.array(jax.devices()), ("d",))
spread = jax.shard_map(share, mesh=mesh, in_specs=(P(), P()), out_specs=P("d"), check_vma=False)
run = jax.jit(spread, compiler_options=compiler_options())
key = jax.random.key(0)
batch = jax.block_until_ready(run(key, jnp.uint32(0)))
assert 0.7 * columns <= int(np.asarray(batch.n_features).min())
step, start = 1, time.perf_counter()
while time.perf_counter() - start < seconds:
    jax.block_until_ready(run(key, jnp.uint32(step)))
    step += 1
print(json.dumps({"rate": (step - 1) * tasks * devices / (time.perf_counter() - start)}))
"""


def run(python: str, code: str, *args: int, env: dict[str, str] | None = None) -> dict:
    """Runs code in a subprocess and returns the JSON of its last line."""
    words = [python, "-c", code, *map(str, args)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **(env or {})})
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


@dataclasses.dataclass(frozen=True)
class Side:
    """One competitor: how to run it once on a shape, for some seconds."""

    name: str
    python: str
    filtered: int = 0

    def rate(self, rows: int, columns: int, seconds: int, jobs: int) -> float:
        if self.python == sys.executable:
            flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={CORES}".strip()
            return run(
                self.python,
                OURS,
                rows,
                columns,
                self.filtered,
                seconds,
                env={"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            )["rate"]
        return run(self.python, TABICL, rows, columns, jobs, self.filtered, seconds)["rate"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tabicl-python", required=True, help="Python of an environment that has tabicl")
    parser.add_argument("--shapes", nargs="+", default=["1024x20", "128x5", "256x10", "1024x100"])
    parser.add_argument("--seconds", type=int, default=10, help="timed seconds of one side in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="JSON file for the result")
    args = parser.parse_args()
    sides = [
        Side("priorax", sys.executable), Side("tabicl graph_scm", args.tabicl_python),
        Side("priorax + filter", sys.executable, 1), Side("tabicl graph_scm + filter", args.tabicl_python, 1),
    ]  # fmt: skip
    points = []
    for text in args.shapes:
        rows, columns = map(int, text.split("x"))
        trial = {jobs: sides[1].rate(rows, columns, 4, jobs) for jobs in {1, CORES}}
        jobs = max(trial, key=trial.__getitem__)
        rates: dict[str, list[float]] = {side.name: [] for side in sides}
        for _ in range(args.rounds):
            for side in sides:
                rates[side.name].append(side.rate(rows, columns, args.seconds, jobs))
        for side in sides:
            rival = "tabicl graph_scm + filter" if side.filtered else "tabicl graph_scm"
            ratio = statistics.median(rates[side.name]) / statistics.median(rates[rival])
            r = spread(rates[side.name])
            points.append({"rows": rows, "columns": columns, "sampler": side.name, "tasks_per_s": r, "ratio": ratio})
            print(f"{text:>9}  {side.name:26} {r['median']:10.1f} tasks/s ({r['min']:.1f} to {r['max']:.1f})   {ratio:8.1f} x",
                  flush=True)  # fmt: skip
    if args.out:
        with open(args.out, "w") as file:
            json.dump({"cores": CORES, "date": time.strftime("%Y-%m-%d"), "points": points}, file, indent=1)


if __name__ == "__main__":
    main()
