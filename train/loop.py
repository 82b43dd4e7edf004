"""Pretraining from a recipe to a weights file: the host's side of it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..configs.errors import ConfigError, NumericalError
from ..configs.files import write_text
from ..configs.interrupt import StopFlag
from ..configs.load import config_digest, load_yaml, to_dict, to_yaml
from ..configs.prior import PriorConfig, load_prior
from ..configs.recipe import Recipe
from ..models.network import count_params
from ..models.weights import save_weights
from ..priors import make_sampler
from .checkpoints import list_checkpoints, restore_latest, save_checkpoint
from .curriculum import Pace, pick_shape
from .logs import MetricsFile, Progress
from .state import TrainState, init_state
from .step import SamplerFactory, make_dispatch, pick_devices, place

_UNKNOWN_HORIZON = 10**8
_MAY_CHANGE = ("time_limit", "checkpoint_steps", "keep_checkpoints", "validate_steps")
WEIGHTS = "model.safetensors"


@dataclasses.dataclass(frozen=True)
class PretrainResult:
    """What a run came to.

    Attributes:
      weights_path: the averaged weights (safetensors, float16).
      steps, horizon: optimiser steps done and planned.
      tasks_seen: tasks sampled and learned from, over all sessions of the run.
      seconds: time of all sessions, compilation included; ``train_seconds`` of training dispatches only.
      train_seconds: see ``seconds``.
      tasks_per_s: tasks_seen / train_seconds of this session.
      loss: mean training loss of the last dispatch.
      validation: held-out results of the averaged weights: "loss", "accuracy", "roc_auc" (means over shapes) and
        "shapes", a list of the same per shape.
      skipped: steps skipped because a loss or gradient was not finite.
      interrupted: number of the signal that ended the run early, or None.
      resumed_from: step of the checkpoint this session started from, or None.
    """

    weights_path: Path
    steps: int
    horizon: int
    tasks_seen: int
    seconds: float
    train_seconds: float
    tasks_per_s: float
    loss: float
    validation: dict[str, Any]
    skipped: int
    interrupted: int | None
    resumed_from: int | None


def pretrain(
    recipe: Recipe,
    out: str | os.PathLike,
    *,
    seed: int = 0,
    resume: bool = False,
    time_limit: float | None = None,
    log: Callable[[dict[str, Any]], None] | None = None,
    quiet: bool = False,
    sampler_factory: SamplerFactory | None = None,
    prior: PriorConfig | None = None,
) -> PretrainResult:
    """Trains a network on a stream of sampled tasks and writes its weights.

    The run directory gets config.yaml (the resolved recipe), prior.yaml, env.json, metrics.jsonl, checkpoints/ and
    model.safetensors. With ``train.steps`` set and no time limit, the result is a function of recipe, seed, JAX version
    and devices; a run that was killed and resumed gives the same bits as one that was not.

    Args:
      recipe: from `load_recipe`.
      out: run directory, made if absent.
      seed: of the weights and of the stream of tasks.
      resume: go on from the newest intact checkpoint in ``out`` (from the start if there is none).
      time_limit: seconds for everything, compilation included; replaces ``recipe.train.time_limit``. With a limit the
        learning-rate horizon is set from measured speed, so that the decay ends when the time does.
      log: called with every record that goes to metrics.jsonl.
      quiet: print nothing.
      sampler_factory: replaces `priorax.priors.make_sampler`: ``(prior, TableShape, tasks)`` to
        ``(key, step) -> TaskBatch``.
      prior: replaces the prior named in the recipe.

    Raises:
      ConfigError: settings that do not go together; ``out`` holds another run.
      DataError: resuming, and no checkpoint is intact.
      NumericalError: too many steps in a row without a finite loss; the message names the last good checkpoint.
    """
    cfg = recipe.train
    limit = time_limit if time_limit is not None else cfg.time_limit
    if limit is None and cfg.steps is None:
        raise ConfigError("train.steps is null, which needs a time limit: give one, or set train.steps")
    if seed == cfg.validation_seed:
        raise ConfigError(f"seed {seed} is also train.validation_seed; held-out tasks would be training tasks")
    prior = load_prior(recipe.prior) if prior is None else prior
    run = _Run(recipe, Path(out), seed, limit, prior, sampler_factory or make_sampler, log, quiet)
    with contextlib.ExitStack() as stack:
        return run.execute(resume, stack)


class _Run:
    """One session of a run. Attributes that change: state, tasks_seen, train_seconds."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        seed: int,
        limit: float | None,
        prior: PriorConfig,
        sampler_factory: SamplerFactory,
        log: Callable[[dict[str, Any]], None] | None,
        quiet: bool,
    ):
        self.started = time.monotonic()
        self.recipe, self.cfg, self.out, self.seed, self.limit = recipe, recipe.train, out, seed, limit
        self.prior, self.sampler_factory, self.log, self.quiet = prior, sampler_factory, log, quiet
        self.folder = out / "checkpoints"
        self.pace = Pace(recipe.shapes)
        self.tasks_seen, self.train_seconds, self.session_tasks, self.earlier_seconds = 0, 0.0, 0, 0.0

    def execute(self, resume: bool, stack: contextlib.ExitStack) -> PretrainResult:
        progress = stack.enter_context(Progress(self.quiet))
        flag = stack.enter_context(StopFlag())
        self._open_directory(resume)
        k = self.cfg.steps_per_dispatch
        fixed = None if self.cfg.steps is None else math.ceil(self.cfg.steps / k) * k
        devices = pick_devices(self.recipe)
        state = init_state(self.recipe, self.seed, fixed if self.limit is None else _UNKNOWN_HORIZON)
        start = self._restore(state, progress) if resume else None
        state = place(start or state, devices)
        self.metrics = MetricsFile(self.out / "metrics.jsonl", int(state.step) if start else None)
        stack.callback(self.metrics.close)
        parameters = count_params(state.params)
        progress.say(
            f"{self.recipe.name}: {parameters:,} parameters on {len(devices)} x {devices[0].device_kind}; compiling "
            f"{len(self.recipe.shapes)} program(s)"
        )
        programs = self._compile(state, devices)
        progress.say(f"compiled after {self._elapsed():.0f} s")
        key, step, horizon = jax.random.key(self.seed), int(state.step), int(state.horizon)
        loss, done_at_start = float("nan"), step
        while step < horizon and not flag and not self._out_of_time():
            which = pick_shape(self.recipe.shapes, step // k, step / horizon)
            began = time.monotonic()
            state, numbers = programs[which](state, key, jnp.bool_(True), jnp.uint32(0))
            numbers = jax.device_get(numbers)
            seconds = time.monotonic() - began
            before, step = step, step + k
            self.pace.add(which, seconds)
            tasks = self.recipe.shapes[which].tasks * k
            self.tasks_seen, self.session_tasks = self.tasks_seen + tasks, self.session_tasks + tasks
            self.train_seconds += seconds
            loss = self._record(step, which, numbers, state, tasks / seconds)
            note = f"loss {loss:.3f}  accuracy {float(numbers['accuracy'].mean()):.3f}  {tasks / seconds:.0f} tasks/s"
            progress.update(step, horizon if horizon < _UNKNOWN_HORIZON else step, note)
            self._stop_when_bad(numbers, step)
            if self.limit is not None:
                state, horizon = self._plan(state, step, horizon, fixed)
            if _crossed(before, step, self.cfg.checkpoint_steps) and step < horizon:
                self._save(state)
            if self.cfg.validate_steps and _crossed(before, step, self.cfg.validate_steps) and step < horizon:
                state, found = self._validate(programs, state)
                progress.say(f"step {step}: held-out loss {found['loss']:.4f}, ROC AUC {found['roc_auc']:.4f}")
        if step > done_at_start or not list_checkpoints(self.folder):
            self._save(state)
        state, found = self._validate(programs, state)
        path = self._export(state, found)
        if flag:
            progress.say(f"stopped by signal {flag.signal} at step {step}; go on with resume")
        progress.say(f"held-out loss {found['loss']:.4f}, ROC AUC {found['roc_auc']:.4f}; weights in {path}")
        return PretrainResult(
            weights_path=path,
            steps=step,
            horizon=horizon,
            tasks_seen=self.tasks_seen,
            seconds=self._elapsed() + self.earlier_seconds,
            train_seconds=self.train_seconds,
            tasks_per_s=self.session_tasks / self.train_seconds if self.train_seconds else 0.0,
            loss=loss,
            validation=found,
            skipped=int(state.skipped),
            interrupted=flag.signal,
            resumed_from=done_at_start if start else None,
        )

    def _open_directory(self, resume: bool) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        config = self.out / "config.yaml"
        if list_checkpoints(self.folder) and not resume:
            raise ConfigError(f"{self.out} already holds a run; resume it (--resume) or choose another directory")
        if resume and config.is_file():
            before = load_yaml(config, Recipe)
            if _essence(before) != _essence(self.recipe):
                key = _first_difference(to_dict(_neutral(before)), to_dict(_neutral(self.recipe)))
                raise ConfigError(f"{self.out} was started with another recipe ({key} differs); use that of {config}")
        write_text(config, to_yaml(self.recipe))
        write_text(self.out / "prior.yaml", to_yaml(self.prior))
        if not (self.out / "env.json").is_file():
            write_text(self.out / "env.json", json.dumps(_environment(), indent=1) + "\n")

    def _restore(self, like: TrainState, progress: Progress) -> TrainState | None:
        found = restore_latest(self.folder, like, progress.say)
        if found is None:
            progress.say(f"no checkpoint in {self.folder} yet: starting from step 0")
            return None
        if found.meta["seed"] != self.seed:
            raise ConfigError(f"{self.out} was started with seed {found.meta['seed']}; resume with that seed")
        if found.meta["prior"] != config_digest(self.prior):
            raise ConfigError(f"{self.out} was started with another prior; see {self.out / 'prior.yaml'}")
        self.tasks_seen, self.earlier_seconds = found.meta["tasks_seen"], found.meta["seconds"]
        progress.say(f"resuming from step {found.step}")
        return found.state

    def _compile(self, state: TrainState, devices: list[jax.Device]) -> list[Any]:
        arguments = (state, jax.random.key(0), jnp.bool_(True), jnp.uint32(0))
        lowered = [
            make_dispatch(self.recipe, shape, self.prior, self.sampler_factory, devices).lower(*arguments)
            for shape in self.recipe.shapes
        ]
        with concurrent.futures.ThreadPoolExecutor(max_workers=min(len(lowered), os.cpu_count() or 1)) as pool:
            return list(pool.map(lambda program: program.compile(), lowered))

    def _plan(self, state: TrainState, step: int, horizon: int, fixed: int | None) -> tuple[TrainState, int]:
        """Sets the horizon so that the run ends with its time: freely at first, later only to shorten it."""
        k = self.cfg.steps_per_dispatch
        assert self.limit is not None
        reserve = 2.0 + 0.4 * self.train_seconds / max(self.session_tasks, 1) * self._validation_tasks()
        fits = self.pace.dispatches(self.limit - self._elapsed() - self.earlier_seconds - reserve, step / horizon)
        planned = step + (fits or 0) * k
        planned = min(planned, fixed) if fixed else planned
        early = step < 0.6 * horizon and abs(planned - horizon) > 0.02 * horizon
        late = planned < 0.98 * horizon - k
        if not (early or late) or planned <= step:
            return state, horizon
        self._write(step=step, event="horizon", horizon=planned)
        value = jax.device_put(jnp.asarray(planned, jnp.int32), state.horizon.sharding)
        return dataclasses.replace(state, horizon=value), planned

    def _record(self, step: int, which: int, numbers: dict[str, np.ndarray], state: TrainState, speed: float) -> float:
        good = ~numbers["skipped"]
        mean = lambda name: float(numbers[name][good].mean()) if good.any() else float("nan")
        self._write(
            step=step, loss=mean("loss"), accuracy=mean("accuracy"), learning_rate=numbers["learning_rate"][-1],
            grad_norm=mean("grad_norm"), tasks_seen=self.tasks_seen, tasks_per_s=round(speed, 2),
            skipped=int(state.skipped), shape=which, seconds=round(self._elapsed() + self.earlier_seconds, 3),
        )  # fmt: skip
        for i in np.flatnonzero(numbers["skipped"]):
            first = (step - len(good) + int(i)) * self.recipe.shapes[which].tasks
            last = first + self.recipe.shapes[which].tasks - 1
            self._write(step=step, event="skipped", at=step - len(good) + int(i), shape=which, tasks=[first, last])
        return mean("loss")

    def _stop_when_bad(self, numbers: dict[str, np.ndarray], step: int) -> None:
        worst = int(numbers["streak"].max())
        if worst < self.cfg.max_bad_steps:
            return
        saved = list_checkpoints(self.folder)
        where = f"the last good checkpoint is {saved[-1][1]}" if saved else "no checkpoint was written yet"
        raise NumericalError(
            f"{worst} steps in a row up to step {step} had no finite loss or gradient (train.max_bad_steps is "
            f"{self.cfg.max_bad_steps}); {where}. Lower train.learning_rate or train.clip, or look at the prior; the "
            f"steps are listed in {self.out / 'metrics.jsonl'}"
        )

    def _validate(self, programs: list[Any], state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        key, k = jax.random.key(self.cfg.validation_seed), self.cfg.steps_per_dispatch
        rows = []
        for shape, program in zip(self.recipe.shapes, programs, strict=True):
            parts = []
            for i in range(math.ceil(self.cfg.validation_tasks / (shape.tasks * k))):
                state, numbers = program(state, key, jnp.bool_(False), jnp.uint32(i * k))
                parts.append(jax.device_get(numbers))
            names = ("loss", "accuracy", "roc_auc")
            row = {n: float(np.nanmean(np.concatenate([p[n] for p in parts]))) for n in names}
            rows.append({"rows": shape.rows, "columns": shape.columns, "tasks": len(parts) * shape.tasks * k} | row)
        found = {n: float(np.mean([r[n] for r in rows])) for n in ("loss", "accuracy", "roc_auc")} | {"shapes": rows}
        self._write(step=int(state.step), event="validation", **{f"validation_{n}": found[n] for n in names})
        return state, found

    def _validation_tasks(self) -> int:
        k = self.cfg.steps_per_dispatch
        return sum(math.ceil(self.cfg.validation_tasks / (s.tasks * k)) * s.tasks * k for s in self.recipe.shapes)

    def _save(self, state: TrainState) -> None:
        meta = {
            "seed": self.seed, "prior": config_digest(self.prior), "tasks_seen": self.tasks_seen,
            "seconds": round(self._elapsed() + self.earlier_seconds, 3), "jax": jax.__version__,
        }  # fmt: skip
        save_checkpoint(self.folder, jax.device_get(state), meta, self.cfg.keep_checkpoints)

    def _export(self, state: TrainState, found: dict[str, Any]) -> Path:
        meta = {
            "recipe": self.recipe.name, "recipe_sha256": config_digest(self.recipe), "prior": self.prior.name,
            "prior_sha256": config_digest(self.prior), "seed": self.seed, "steps": int(state.step),
            "tasks_seen": self.tasks_seen,
            "validation": {n: round(found[n], 6) for n in ("loss", "accuracy", "roc_auc")},
            "trained_columns": max(s.columns for s in self.recipe.shapes),
            "trained_rows": max(s.rows for s in self.recipe.shapes),
        }  # fmt: skip
        average = jax.device_get(state.average)
        save_weights(self.out / WEIGHTS, self.recipe.model, average, meta)
        return self.out / WEIGHTS

    def _write(self, **values: Any) -> None:
        self.metrics.write(**values)
        if self.log is not None:
            self.log(values)

    def _elapsed(self) -> float:
        return time.monotonic() - self.started

    def _out_of_time(self) -> bool:
        return self.limit is not None and self._elapsed() + self.earlier_seconds >= self.limit


def _crossed(before: int, now: int, every: int) -> bool:
    return before // every != now // every


def _neutral(recipe: Recipe) -> Recipe:
    defaults = {name: getattr(type(recipe.train)(), name) for name in _MAY_CHANGE}
    return dataclasses.replace(recipe, description="", train=dataclasses.replace(recipe.train, **defaults))


def _essence(recipe: Recipe) -> str:
    return config_digest(_neutral(recipe))


def _first_difference(a: Any, b: Any, path: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            if a.get(key) != b.get(key):
                return _first_difference(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    return path


def _environment() -> dict[str, Any]:
    packages = ("priorax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "safetensors")
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in packages},
        "platform": platform.platform(),
        "device_kind": device.device_kind,
        "device_platform": device.platform,
        "device_count": jax.device_count(),
    }
