"""Everything to check and to measure on an accelerator, in one call that fits a time limit and loses nothing when cut short.

    python benchmarks/accelerator.py --out OUT --time-limit 9m [--steps agreement prior pretrain train predict] [--recipe base]
                                     [--start-from FILE] [--quick]

Steps, each a process of its own whose output is kept whatever becomes of it:

- ``doctor``: versions and devices.
- ``agreement``: the same tasks, logits and gradients on the accelerator and on the CPU of the same machine (labels and
  categories that are equal, largest difference of numbers, 16 bit and the fused kernel against float32), and the rates at which
  the device copies memory and multiplies matrices of 16 bit.
- ``prior``: `priorax bench prior`, as JSON.
- ``pretrain``: the time that is left goes into a leg of ``--recipe``, from random weights or from ``--start-from``. Its run
  directory is ``--run``; called again with the same one, the leg goes on where the last ended. Its result has ``shapes``: the
  median rate of every table shape and the share of the products' rate that is.
- ``train``, ``predict``: `priorax bench`, as JSON; only where named, and time is kept back for them.

``agreement``, ``prior`` and ``pretrain`` start together, each with a part of the device's memory: a training program takes minutes to
compile, which keeps CPU cores busy and the device idle. What the other two measure meanwhile may be disturbed by kernels that are
tried out. ``OUT/summary.json`` is written anew after every step, with its exit code, seconds and result; ``OUT/*.log`` is what
a step printed; ``OUT/model.safetensors`` are the weights. ``--quick`` makes everything small, to try the script on a CPU.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

STEPS = ("doctor", "agreement", "prior", "pretrain", "train", "predict")
TOGETHER = {"agreement": 0.1, "prior": 0.25, "pretrain": 0.6}
"""Steps that run side by side, and the share of the device's memory that each may take."""
AFTER = {"train": 150.0, "predict": 60.0}
"""Seconds kept back for steps that come after the leg."""
CLOSING = 20.0
"""Seconds kept back from the last step, to copy and to write."""
PLATFORMS = {"there": os.environ.get("JAX_PLATFORMS", ""), "cpu": "cpu"}


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """The command of every step but the last."""
    priorax = [sys.executable, "-m", "priorax"]
    shapes = ["64x5"] if args.quick else ["1024x20", "256x10"]
    few = ["--repeats", "1"] if args.quick else []
    return {
        "doctor": [*priorax, "doctor", "--json"],
        "agreement": [sys.executable, __file__, "--out", str(args.out), *(["--quick"] if args.quick else []), "--compare"],
        "prior": [*priorax, "bench", "prior", "--json", "--shapes", *shapes, *few,
                  "--tasks", "16" if args.quick else "4096"],
        "train": [*priorax, "bench", "train", "--json", "--recipes", args.recipe, *few],
        "predict": [*priorax, "bench", "predict", "--json", "--no-fresh", "--no-tabicl", *few,
                    *(["--shapes", "20x3", "--queries", "10"] if args.quick else [])],
    }  # fmt: skip


def answers(quick: bool) -> dict[str, np.ndarray]:
    """What this process's platform makes of fixed tasks: of the sampler, and of the shipped weights in 32 and 16 bit."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    from priorax.models import default_weights_path, load_weights, with_params
    from priorax.train.flops import measure_roofline

    from priorax import load_prior, sample

    tasks, rows, columns = (8, 32, 4) if quick else (256, 256, 10)
    batch = sample(load_prior("default"), seed=3, task_ids=range(tasks), rows=rows, columns=columns)
    out = {f"task/{name}": np.asarray(getattr(batch, name)) for name in ("x", "y", "n_features", "n_classes", "categorical")}
    rng = np.random.Generator(np.random.Philox(7))
    x = rng.standard_normal((4, rows, columns), dtype=np.float32)
    y = ((x[:, :, 0] + x[:, :, 1] * x[:, :, 2]) > 0).astype(np.int32)
    each = lambda v: jnp.full(4, v, jnp.int32)
    weights, context = load_weights(default_weights_path(), verify=False), rows * 3 // 4

    def loss(params: Any, cfg: Any) -> tuple[jax.Array, jax.Array]:
        told = with_params(cfg, params)(
            x, y, each(columns), each(2), each(context), jnp.zeros((4, columns), bool), context=context
        )
        told = jax.nn.log_softmax(told.astype(jnp.float32)[:, :, :2])
        return -jnp.take_along_axis(told, y[:, context:, None], axis=-1).mean(), jnp.exp(told)

    for dtype in ("float32", "bfloat16"):
        cfg = dataclasses.replace(weights.cfg, dtype=dtype, attention="auto")
        run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
        (_, probabilities), slope = run(weights.params, cfg)
        out[f"probability/{dtype}"] = np.asarray(probabilities)
        out[f"gradient/{dtype}"] = np.concatenate([np.asarray(a, np.float32).ravel() for a in jax.tree.leaves(slope)])
    out["tflops"] = np.float64(measure_roofline(jax.devices()[:1], jnp.dtype("bfloat16"), 256 if quick else None) / 1e12)
    out["copy_gb_per_s"] = np.float64(copy_rate(1 << (16 if quick else 28)))
    out["bytes_per_task"] = np.float64(sum(a.nbytes for a in jax.tree.leaves((batch.x, batch.y))) / tasks)
    return out


def copy_rate(numbers: int) -> float:
    """GB/s read and written by adding 1 to so many float32, the best of five times."""
    import jax
    import jax.numpy as jnp

    add = jax.jit(lambda a: a + 1.0, donate_argnums=0)
    a = jax.block_until_ready(add(jnp.zeros(numbers, jnp.float32)))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a = jax.block_until_ready(add(a))
        best = min(best, time.perf_counter() - start)
    return 8 * numbers / best / 1e9


def compare(out: Path, quick: bool) -> dict[str, Any]:
    """`answers` of both platforms, each in a process of its own, and how far they agree."""
    found, running = {}, {}
    for name, platform in PLATFORMS.items():
        command = [sys.executable, __file__, "--out", str(out / f"answers-{name}.npz"), "--answers", *(["--quick"] if quick else [])]
        running[name] = subprocess.Popen(command, env={**os.environ, "JAX_PLATFORMS": platform})
    for name, process in running.items():
        if process.wait() != 0:
            raise SystemExit(f"the answers of platform {name} ended with exit code {process.returncode}")
        file = out / f"answers-{name}.npz"
        with np.load(file) as data:
            found[name] = dict(data)
        file.unlink()
    a, b = found["there"], found["cpu"]
    x, z = a["task/x"], b["task/x"]
    both = np.isfinite(x) & np.isfinite(z)
    apart = np.abs(x - z)[both] / np.maximum(1.0, np.abs(z[both]))
    cosine = lambda u, v: float(u @ v / np.sqrt((u @ u) * (v @ v)))
    return {
        "labels_equal": float((a["task/y"] == b["task/y"]).mean()),
        "tasks_with_equal_labels": float((a["task/y"] == b["task/y"]).all(1).mean()),
        "missing_equal": float((np.isfinite(x) == np.isfinite(z)).mean()),
        "sizes_equal": bool(all((a[f"task/{n}"] == b[f"task/{n}"]).all() for n in ("n_features", "n_classes"))),
        "cells_within_1e-4": float((apart <= 1e-4).mean()),
        "probability_float32": float(np.abs(a["probability/float32"] - b["probability/float32"]).max()),
        "probability_bfloat16": float(np.abs(a["probability/bfloat16"] - b["probability/float32"]).max()),
        "gradient_cosine_float32": cosine(a["gradient/float32"], b["gradient/float32"]),
        "gradient_cosine_bfloat16": cosine(a["gradient/bfloat16"], b["gradient/float32"]),
        "gradients_finite": bool(all(np.isfinite(a[f"gradient/{d}"]).all() for d in ("float32", "bfloat16"))),
        "tflops_bfloat16": float(a["tflops"]),
        "copy_gb_per_s": float(a["copy_gb_per_s"]),
        "bytes_per_task": float(a["bytes_per_task"]),
    }


def run_step(name: str, command: list[str], out: Path, seconds: float, memory: float | None = None) -> dict[str, Any]:
    """Runs a command with a limit; its exit code (None: cut off), seconds, and the JSON it printed last, if any.

    ``memory`` is the share of the device's memory that it may take, JAX's own default where None.
    """
    start, log = time.monotonic(), out / f"{name}.log"
    env = os.environ if memory is None else {**os.environ, "XLA_PYTHON_CLIENT_MEM_FRACTION": str(memory)}
    with open(log, "w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True, env=env
        )
        try:
            told, _ = process.communicate(timeout=max(seconds, 1.0))
        except subprocess.TimeoutExpired:
            told = _end(process)
            process.returncode = None
    with open(log, "a", encoding="utf-8") as file:
        file.write(told)
    try:
        result = json.loads(told)
    except ValueError:
        result = None
    return {"code": process.returncode, "seconds": round(time.monotonic() - start, 1), "result": result}


def _end(process: subprocess.Popen) -> str:
    """Ends a step with all processes it started, politely at first; what it had printed."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        return process.communicate(timeout=CLOSING / 2)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]


def pretraining(args: argparse.Namespace, seconds: float) -> list[str]:
    """The command of the last step: a leg that ends by itself within ``seconds``."""
    command = [sys.executable, "-m", "priorax", "pretrain", "--recipe", args.recipe, "--out", str(args.run), "--json",
               "--time-limit", f"{seconds:.0f}s"]  # fmt: skip
    if (args.run / "checkpoints").is_dir():
        return [*command, "--resume"]
    return command + (["--start-from", str(args.start_from)] if args.start_from else [])


def rates(recipe: str, run: Path) -> list[dict[str, Any]]:
    """Of every table shape that the leg met: its median rate, and the products that rate makes."""
    from priorax.configs import load_recipe
    from priorax.train.flops import training_flops

    cfg = load_recipe(recipe)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = []
    for i, shape in enumerate(cfg.shapes):
        seen = [line["tasks_per_s"] for line in lines if line.get("shape") == i and line.get("tasks_per_s")]
        if seen:
            median = statistics.median(seen)
            tflops = median * training_flops(cfg.model, shape) / 1e12
            found.append({"shape": i, "rows": shape.rows, "columns": shape.columns, "dispatches": len(seen),
                          "tasks_per_s": round(median, 2), "tflops": round(tflops, 3)})  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--time-limit", default="9m")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=[s for s in STEPS if s not in AFTER])
    parser.add_argument("--recipe", default=None, help="base; smoke with --quick")
    parser.add_argument("--run", type=Path, default=None, help="run directory; OUT/run when left out")
    parser.add_argument("--start-from", default=None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--answers", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--compare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.answers:
        np.savez(args.out, **answers(args.quick))
        return 0
    if args.compare:
        print(json.dumps(compare(args.out, args.quick)))
        return 0
    from priorax.options import seconds

    end = time.monotonic() + seconds(args.time_limit, "--time-limit")
    args.recipe = args.recipe or ("smoke" if args.quick else "base")
    args.run = args.run or args.out / "run"
    args.out.mkdir(parents=True, exist_ok=True)
    known = commands(args)
    summary: dict[str, Any] = {}
    lock = threading.Lock()

    def work(name: str) -> None:
        left = end - time.monotonic() - CLOSING
        memory = TOGETHER.get(name) if len(beside) > 1 else None
        if name == "pretrain":
            left -= sum(AFTER[step] for step in args.steps if step in AFTER)
        if left <= 0:
            step = {"code": None, "seconds": 0.0, "result": None}
        elif name == "pretrain":
            step = run_step(name, pretraining(args, left), args.out, left + CLOSING / 2, memory)
            if step["result"]:
                step["result"]["shapes"] = rates(args.recipe, args.run)
        else:
            step = run_step(name, known[name], args.out, left, memory)
        with lock:
            summary[name] = step
            print(f"{name}: code {step['code']}, {step['seconds']} s", flush=True)
            (args.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")

    beside = [name for name in args.steps if name in TOGETHER]
    if "doctor" in args.steps:
        work("doctor")
    with concurrent.futures.ThreadPoolExecutor(max_workers=len(TOGETHER)) as pool:
        list(pool.map(work, beside))
    for name in [name for name in args.steps if name in AFTER]:
        work(name)
    if "agreement" in summary and summary.get("pretrain", {}).get("result"):
        told = summary["agreement"]["result"] or {}
        for point in summary["pretrain"]["result"]["shapes"]:
            point["flop_utilisation"] = round(point["tflops"] / told["tflops_bfloat16"], 4) if told else None
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    weights = args.run / "model.safetensors"
    if weights.is_file():
        shutil.copyfile(weights, args.out / weights.name)
    return int(any(step["code"] != 0 for step in summary.values()))


if __name__ == "__main__":
    raise SystemExit(main())
