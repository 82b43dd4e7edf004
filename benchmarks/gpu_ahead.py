"""A leg of pretraining on a GPU that is lent by the minute, with programs that were compiled before, on a machine without one.

    pip install "jax[cuda13]==VERSION" .                                  # the JAX of the machine with the GPU; no GPU is needed
    python benchmarks/gpu_ahead.py compile --recipe base --programs DIR
    python benchmarks/gpu_ahead.py run --recipe base --programs DIR --out OUT --run RUN --time-limit 9m [--keep DIR] [--total-time 12m45s]
    python benchmarks/gpu_ahead.py run ... --resume --timing none                                      # a further leg

``compile``, 16 minutes on two cores for four shapes, writes to DIR, for the H200 that `gpu_programs` describes: the dispatch of every
table shape with attention by `priorax.models.pallas_attention` (cuDNN's cannot be compiled without a GPU) and products by cuBLAS (Triton's
need trying out); the sampling in it; the prior ``default`` alone, 4,096 tables of 1024 x 20; and a comparison of both kinds of
attention. ``programs.json`` says of which recipe, prior, JAX and code they are, and ``run`` takes no others.

``run`` refuses at once programs that were made for something else, and a run directory that does not go with ``--resume``. It loads them, compares,
and spends the time on a leg of ``priorax pretrain``, which this is the same as but for the compiling (and the kernels: weights differ by
rounding). Then it packs the state into DIR, beside the weights and the metrics, and only then times what ``--timing`` leaves time for. All of
that goes on in a second process: where a program breaks it, hangs, or does not agree before the leg, a third one compiles its own, with cuDNN.
OUT/ahead.json is written as figures come. Limits count from the start, the trial included; ``--total-time`` is of all legs together, and without
it the learning rate is down at the end of the first and goes up again in the next. Takes one GPU, of compute capability 9.0, and its memory for itself.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

FLAGS = "--xla_gpu_enable_triton_gemm=false"
PRIOR = ("default", 1024, 20, 4096)
"""Preset, rows, columns and tasks of the sampler that is timed alone."""
CHECKED = (4, 192, 128)
"""Tasks, rows and context rows of the comparison; of columns as many as any shape has."""
PACKING = 5.0
"""Seconds kept back to pack the state after the leg."""
TRIAL = 150.0
"""Seconds after which programs that are not through their trial count as hanging."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=("compile", "run", "leg"), help="leg: what run starts")
    parser.add_argument("--recipe", default="base")
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="run: folder for figures")
    parser.add_argument("--run", type=Path, help="run: run directory")
    parser.add_argument("--time-limit", default="9m", help="run: of all of it")
    parser.add_argument("--total-time", default=None, help="run: of all legs together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--keep", type=Path, help="run: empty or absent folder for the packed state, weights, metrics and figures")
    parser.add_argument("--timing", default="25s", help="run: time kept to time programs after the leg, or none; what fails then costs no training")
    parser.add_argument("--compile-there", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--trace", type=int, nargs="*", default=[], help="run: shapes whose kernels are timed one by one")
    args = parser.parse_args()
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), FLAGS])
    if args.do == "compile":
        return compile_all(args)
    if args.out is None or args.run is None:
        parser.error("run needs --out and --run")
    if args.do == "run":
        return supervise(args)
    os.environ["XLA_FLAGS"] += " --xla_gpu_autotune_level=0"  # for what is compiled there, if anything
    return leg(args)


def supervise(args: argparse.Namespace) -> int:
    """Runs the leg in a process of its own, and another where that does not get past its trial: a kernel that breaks a GPU's context
    breaks it for the process, and one that hangs is heard by nobody."""
    from priorax.options import seconds

    began = time.monotonic()
    limit = seconds(args.time_limit, "--time-limit")
    refuse(args)
    args.out.mkdir(parents=True, exist_ok=True)
    passed = args.out / "passed"
    given = sys.argv[1:]
    given.remove("run")
    for more in ([], ["--compile-there"]):
        passed.unlink(missing_ok=True)
        gone = time.monotonic() - began
        command = [sys.executable, __file__, "leg", *given, *more, "--time-limit", f"{limit - gone:.0f}s"]  # the last one counts
        if args.total_time is not None:
            command += ["--total-time", f"{seconds(args.total_time, '--total-time') - gone:.0f}s"]
        process = subprocess.Popen(command)
        signal.signal(signal.SIGTERM, lambda number, _, process=process: process.send_signal(number))
        trial = time.monotonic() + TRIAL
        while process.poll() is None and (more or passed.exists() or time.monotonic() < trial):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        if more or passed.exists():
            return process.wait()
        process.kill()
        process.wait()
        print(f"not through its trial (exit code {process.returncode}); compiling there", flush=True)
    return 1


def refuse(args: argparse.Namespace) -> None:
    """Ends with a reason what would fail, or train something else than was meant, after minutes on the GPU."""
    import importlib.util

    from priorax.train.checkpoints import list_checkpoints

    from priorax.options import seconds

    made = args.programs / "programs.json"
    if not made.is_file():
        raise SystemExit(f"no {made}: nothing was compiled there, or not to the end")
    known = json.loads(made.read_text(encoding="utf-8"))["identity"]
    here = identity(recipe_of(args.recipe, "pallas"))
    if known != here:
        other = ", ".join(f"{name} {known.get(name)} there, {here[name]} here" for name in here if known.get(name) != here[name])
        raise SystemExit(f"{args.programs} was compiled for something else ({other}); compile again")
    found = list_checkpoints(args.run / "checkpoints")
    if args.resume and not found:
        raise SystemExit(f"--resume, but {args.run} has no checkpoint")
    if not args.resume and args.run.exists() and any(args.run.iterdir()):
        raise SystemExit(f"{args.run} is not empty; go on with --resume, or choose another --run")
    if args.keep is not None and args.keep.exists() and any(args.keep.iterdir()):
        raise SystemExit(f"{args.keep} is not empty; choose another --keep")
    if seconds(args.time_limit, "--time-limit") < spare(args) + 60:
        raise SystemExit(f"--time-limit {args.time_limit} leaves no minute beside {spare(args):g} s for packing and --timing")
    if lacking := [name for name in ("tyro", "orbax") if importlib.util.find_spec(name) is None]:
        raise SystemExit(f"not installed: {', '.join(lacking)}")


def spare(args: argparse.Namespace) -> float:
    """Seconds of a leg that are kept for what comes after it."""
    from priorax.options import seconds

    timing = 0.0 if args.timing == "none" or args.compile_there else seconds(args.timing, "--timing")
    return timing + (PACKING if args.keep else 0.0)


def recipe_of(name: str, attention: str) -> Any:
    from priorax.configs import load_recipe

    recipe = load_recipe(name)
    model = dataclasses.replace(recipe.model, attention=attention)
    return dataclasses.replace(recipe, model=model, train=dataclasses.replace(recipe.train, fast_compile=False))


def identity(recipe: Any) -> dict[str, str]:
    """What compiled programs depend on."""
    import jax
    from priorax.configs import load_prior
    from priorax.configs.load import config_digest

    import priorax
    from priorax import configs, models, priors, train

    code = hashlib.sha256(Path(__file__).read_bytes())
    for package in (priorax, configs, priors, models, train):
        for file in sorted(Path(package.__file__).parent.glob("*.py")):
            code.update(file.name.encode() + file.read_bytes())
    prior = load_prior(recipe.prior)
    return {"jax": jax.__version__, "device": "NVIDIA H200", "code": code.hexdigest(), "recipe": config_digest(recipe),
            "prior": config_digest(prior), "other_prior": config_digest(load_prior(PRIOR[0]))}  # fmt: skip


def sampler_alone(key: Any, step: Any) -> list[Any]:
    import jax
    from priorax.configs import load_prior
    from priorax.priors import TableShape, make_sampler

    preset, rows, columns, tasks = PRIOR
    return jax.tree.leaves(make_sampler(load_prior(preset), TableShape(rows, columns), tasks)(key, step))


def widths(recipe: Any) -> list[int]:
    return sorted({shape.all_columns for shape in recipe.shapes})


def small_model(recipe: Any) -> Any:
    """The network with two blocks and a layer over rows: it has all kernels of the whole one, and compiles in a fraction of the time."""
    return dataclasses.replace(recipe.model, layers=min(2, recipe.model.layers), row_layers=min(1, recipe.model.row_layers))


def comparison(recipe: Any) -> Callable[..., Any]:
    """``(params, tables) -> (largest difference of a probability, least cosine of an array's gradients)`` between both kinds of
    attention, over tables of all widths. By array: those of queries and keys are two hundredths of the square of the whole gradient, whose
    cosine is 0.99 with nothing but noise in them."""
    import jax
    import jax.numpy as jnp
    from priorax.models import with_params

    tasks, _, context = CHECKED
    each = lambda v: jnp.full(tasks, v, jnp.int32)

    def loss(params: Any, x: Any, y: Any, attention: str) -> tuple[Any, Any]:
        cfg, columns = dataclasses.replace(small_model(recipe), attention=attention), x.shape[2]
        used, shown = jnp.array([columns, columns, 3, 1]), jnp.array([context, 5, context, 70])
        nothing = jnp.zeros((tasks, columns), bool)
        logits = with_params(cfg, params)(x, y, used, each(3), shown, nothing, context=context)
        told = jax.nn.log_softmax(logits.astype(jnp.float32)[..., :3])
        return -jnp.take_along_axis(told, y[:, context:, None], axis=-1).mean(), jnp.exp(told)

    def compare(params: Any, tables: Any) -> tuple[Any, Any]:
        apart, cosines = [], []
        for x, y in tables:
            (_, a), da = jax.value_and_grad(loss, has_aux=True)(params, x, y, "pallas")
            (_, b), db = jax.value_and_grad(loss, has_aux=True)(params, x, y, "xla")
            apart.append(jnp.abs(a - b).max())
            for one, other in zip(jax.tree.leaves(da), jax.tree.leaves(db), strict=True):
                one, other = one.ravel(), other.ravel()
                cosines.append((one @ other) / jnp.sqrt((one @ one) * (other @ other)))
        return jnp.stack(apart).max(), jnp.stack(cosines).min()

    return compare


def checked(recipe: Any, params: Any) -> tuple[Any, Any]:
    """Arguments of `comparison`: weights none of which is zero, made of the whole network's; tables and labels."""
    import jax
    import numpy as np
    from priorax.models import init_params

    rng = np.random.default_rng(0)
    tasks, rows, _ = CHECKED
    small = jax.eval_shape(lambda: init_params(small_model(recipe)))
    first = lambda a, like: a[: like.shape[0]] + 0.05 * rng.standard_normal(like.shape, np.float32)
    params = jax.tree.map(first, jax.device_get(params), small)
    table = lambda columns: (rng.standard_normal((tasks, rows, columns), np.float32), rng.integers(0, 3, (tasks, rows)).astype(np.int32))
    return params, [table(columns) for columns in widths(recipe)]


def compile_all(args: argparse.Namespace) -> int:
    import gpu_programs  # sets the platform, so not where there is a GPU
    import jax
    import jax.numpy as jnp
    from jax.experimental import serialize_executable
    from priorax.configs import load_prior
    from priorax.models import init_params
    from priorax.priors import make_sampler
    from priorax.train.state import init_state
    from priorax.train.step import make_dispatch, make_sampling

    recipe = recipe_of(args.recipe, "pallas")
    device, prior = gpu_programs.described_gpu(), load_prior(recipe.prior)
    here = jax.sharding.SingleDeviceSharding(device)
    put = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), tree)
    state = jax.eval_shape(lambda: init_state(recipe, 0, 100))
    key, word = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.uint32)
    flag = jax.ShapeDtypeStruct((), bool)
    inputs = checked(recipe, init_params(recipe.model))
    wanted: dict[str, tuple[Callable[[], Any], Any]] = {"check": (lambda: jax.jit(comparison(recipe)), inputs)}
    for i, shape in enumerate(recipe.shapes):
        wanted[f"dispatch-{i}"] = (lambda shape=shape: make_dispatch(recipe, shape, prior, make_sampler, [device]), (state, key, flag, word))
    wanted["prior"] = (lambda: jax.jit(sampler_alone), (key, word))
    for i, shape in enumerate(recipe.shapes):
        wanted[f"sampling-{i}"] = (lambda shape=shape: make_sampling(recipe, shape, prior, make_sampler, [device]), (key, word))
    before = identity(recipe)
    args.programs.mkdir(parents=True, exist_ok=True)
    (args.programs / "programs.json").unlink(missing_ok=True)

    def compiled(name: str, lowered: Any) -> dict[str, Any]:
        start = time.perf_counter()
        program = lowered.compile()
        data, _, _ = serialize_executable.serialize(program)
        (args.programs / f"{name}.bin").write_bytes(pickle.dumps((data, program.out_tree.num_leaves)))
        cost = gpu_programs.Program(program.as_text()).cost()
        return {"name": name, "seconds": round(time.perf_counter() - start), "mb": round(len(data) / 1e6, 1),
                "traffic_gb": round(cost.traffic / 1e9, 1), "kernels": round(cost.kernels),
                "scratch_gb": round(program.memory_analysis().temp_size_in_bytes / 1e9, 2)}  # fmt: skip

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        running = []
        for name, (make, given) in wanted.items():
            with gpu_programs.tracing_for(device):
                lowered = make().trace(*put(given)).lower(lowering_platforms=("cuda",))
            running.append(pool.submit(compiled, name, lowered))
        told = []
        for future in concurrent.futures.as_completed(running):
            told.append(future.result())
            print(json.dumps(told[-1]), flush=True)
    if identity(recipe) != before:
        raise SystemExit("the code changed while it was compiled; compile again")
    record = {"identity": before, "programs": told}
    (args.programs / "programs.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def leg(args: argparse.Namespace) -> int:
    began = time.monotonic()
    import jax
    import orbax.checkpoint  # noqa: F401  (its import is not to count as the time that the first checkpoint takes)
    from priorax.train.loop import pretrain
    from priorax.train.programs import compile_programs

    from priorax.options import seconds

    limit, after = seconds(args.time_limit, "--time-limit"), spare(args)
    total = None if args.total_time is None else seconds(args.total_time, "--total-time") - after
    devices = jax.devices()
    found: dict[str, Any] = {"device": devices[0].device_kind, "jax": jax.__version__, "recipe": args.recipe, "ahead": not args.compile_there}

    def say(**what: Any) -> None:
        found.update(what)
        print(f"[{time.monotonic() - began:.0f} s] {what}"[:600], flush=True)
        (args.out / "ahead.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    make: Callable[..., list[Any]] = compile_programs
    if not args.compile_there:
        programs = tried(args, devices, say)
        (args.out / "passed").touch()
        make = lambda *_: programs
    recipe = recipe_of(args.recipe, "auto" if args.compile_there else "pallas")
    result = pretrain(
        recipe, args.run, seed=args.seed, resume=args.resume, time_limit=limit - after, total_time=total, may_exit=True, programs=make,
        began=began,
    )  # fmt: skip
    say(steps=result.steps, tasks_seen=result.tasks_seen, seconds=result.seconds, train_seconds=result.train_seconds,
        validation=result.validation, skipped=result.skipped)  # fmt: skip
    if args.keep is not None:
        keep(args)
    if not args.compile_there and args.timing != "none":
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))  # in the middle of a program too: the leg has ended well
        signal.setitimer(signal.ITIMER_REAL, max(limit - (time.monotonic() - began), 1.0))
        try:
            timed(args, programs, devices, say)
        except Exception:  # figures are missing, and why is said
            traceback.print_exc()
        if args.keep is not None:
            shutil.copy(args.out / "ahead.json", args.keep)
    return 0


def keep(args: argparse.Namespace) -> None:
    """The packed state, and beside it what is looked at without unpacking."""
    from priorax.train.pack import pack

    pack(args.run, args.keep)
    for file in (args.run / "model.safetensors", args.run / "metrics.jsonl", args.out / "ahead.json"):
        if file.exists():
            shutil.copy(file, args.keep)


def tried(args: argparse.Namespace, devices: list[Any], say: Callable[..., None]) -> list[Any]:
    """The dispatches of all shapes, each of which has run once, after the comparison."""
    import jax
    import numpy as np
    from priorax.train.step import _metrics

    recipe = recipe_of(args.recipe, "pallas")
    if len(devices) != 1 or str(getattr(devices[0], "compute_capability", None)) != "9.0":
        raise SystemExit(f"the programs are for one GPU of compute capability 9.0; this is {devices}")
    state = _state(recipe, devices)
    trees = jax.tree.structure(((state, *_given(recipe, 0)), {})), jax.tree.structure((state, _metrics(*range(7))))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        programs = list(pool.map(lambda i: _load(args.programs, f"dispatch-{i}", *trees), range(len(recipe.shapes))))
    say(loaded=len(programs))
    inputs = jax.device_put(checked(recipe, state.params), devices[0])
    check = _load(args.programs, "check", jax.tree.structure((inputs, {})), jax.tree.structure((0, 0)))
    apart, cosine = map(float, check(*inputs))
    say(probability_apart=apart, gradient_cosine=cosine)
    if not (apart < 0.05 and cosine > 0.99):
        raise SystemExit("the two kinds of attention do not agree")
    for i, program in enumerate(programs):
        state, numbers = program(state, *_given(recipe, i))
        losses = np.asarray(numbers["loss"])
        say(**{f"first_losses_{i}": [float(losses[0]), float(losses[-1])]})
        if not np.isfinite(losses).all() or np.asarray(numbers["skipped"]).any() or losses[0] > 3:  # of ten classes chance has 2.3
            raise SystemExit("the loss is not that of a network that begins")
    return programs


def timed(args: argparse.Namespace, programs: list[Any], devices: list[Any], say: Callable[..., None]) -> None:
    """Rates and utilisation of the dispatches, as the run has measured them; then those of the sampling in them and of the prior alone."""
    import jax
    import jax.numpy as jnp
    from priorax.models.network import numerics
    from priorax.priors.keys import seed_key
    from priorax.train.flops import measure_roofline, training_flops

    recipe = recipe_of(args.recipe, "pallas")
    tflops = measure_roofline(devices, numerics(recipe.model)[0]) / 1e12
    say(tflops=tflops)
    steps = [json.loads(line) for line in (args.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for i, shape in enumerate(recipe.shapes):
        rates = [step["tasks_per_s"] for step in steps if step.get("shape") == i and "tasks_per_s" in step]
        if rates:
            rate = statistics.median(rates)
            share = rate * training_flops(recipe.model, shape) / 1e12 / tflops
            say(**{f"shape_{i}": {"rows": shape.rows, "columns": shape.columns, "tasks": shape.tasks, "dispatches": len(rates),
                                  "tasks_per_s": [min(rates), rate, max(rates)], "flop_utilisation": share}})  # fmt: skip
    key = seed_key(0)
    names = ["prior", *(f"sampling-{i}" for i in range(len(recipe.shapes)))]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda name: _load(args.programs, name, jax.tree.structure(((0, 0), {})), None), names))
    for name, program in zip(names, loaded, strict=True):
        times = []
        for n in range(6):
            start = time.monotonic()
            jax.block_until_ready(program(key, jnp.uint32(n)))
            times.append(time.monotonic() - start)
        rate = PRIOR[3] / statistics.median(times[1:]) if name == "prior" else None
        say(**{name: {"seconds": times[1:], "tasks_per_s": rate}})
    for i in args.trace:
        say(**{f"trace_{i}": _traced(recipe, programs[i], devices, _given(recipe, i))})


def _state(recipe: Any, devices: list[Any]) -> Any:
    """A state to try programs with."""
    from priorax.train.state import init_state
    from priorax.train.step import place

    return place(init_state(recipe, 0, 10**4), devices)


def _given(recipe: Any, shape: int) -> tuple[Any, ...]:
    """What a dispatch takes beside the state, of tasks that no run with a seed of its own learns from."""
    import jax.numpy as jnp
    from priorax.train.tasks import task_key

    return task_key(recipe.train.validation_seed - 1, shape), jnp.bool_(True), jnp.uint32(0)


def _load(folder: Path, name: str, arguments: Any, results: Any | None) -> Any:
    """A program, for arguments and results of these tree structures (None: a list, or one array)."""
    import jax
    from jax.experimental import serialize_executable

    data, leaves = pickle.loads((folder / f"{name}.bin").read_bytes())
    if results is None:
        results = jax.tree.structure([0] * leaves if leaves > 1 else 0)
    return serialize_executable.deserialize_and_load(data, arguments, results)


def _traced(recipe: Any, program: Any, devices: list[Any], given: tuple[Any, ...]) -> dict[str, Any]:
    """Kernels of one dispatch by the time they took, ms, those of the same name together."""
    import tempfile

    import jax
    state = _state(recipe, devices)
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(state, *given))
        file = next(Path(folder).rglob("*.xplane.pb"))
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines if "GPU" in plane.name else ():
                sums: dict[str, list[float]] = {}
                for event in line.events:
                    entry = sums.setdefault(event.name, [0, 0.0])
                    entry[0] += 1
                    entry[1] += event.duration_ns / 1e6
                out[line.name] = sorted(([name, *entry] for name, entry in sums.items()), key=lambda row: -row[2])[:60]
    return out


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
