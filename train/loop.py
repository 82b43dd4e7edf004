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
from .checkpoints import Checkpoint, list_checkpoints, restore_latest, save_checkpoint
from .clock import Clock, whole_run
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
        "shapes", a list of the same per shape. NaN and empty when a signal or the time limit left no time to measure.
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
    total_time: float | None = None,
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
      time_limit: seconds of this session, compiling, validating and writing included, on resuming too. It ends after the
        last dispatch that fits, with everything saved.
      total_time: seconds of the whole run, all sessions together; replaces ``recipe.train.time_limit``. Without
        ``train.steps`` the learning rate is planned for it from measured speed, so that the decay ends when the time
        does. When it is not given, a run that starts is planned for ``time_limit`` if that is given; a run that is
        resumed keeps its plan, or is planned anew for the time it has taken and ``time_limit``, whichever is longer.
      log: called with every record that goes to metrics.jsonl.
      quiet: print nothing.
      sampler_factory: replaces `priorax.priors.make_sampler`: ``(prior, TableShape, tasks)`` to
        ``(key, step) -> TaskBatch``.
      prior: replaces the prior named in the recipe.

    Raises:
      ConfigError: settings that do not go together; ``out`` holds another run; ``total_time`` is over already.
      DataError: resuming, and no checkpoint is intact.
      NumericalError: too many steps in a row without a finite loss; the message names the last good checkpoint.
    """
    cfg = recipe.train
    clock = Clock(time_limit)
    for name, value in (("time_limit", time_limit), ("total_time", total_time)):
        if value is not None and not value > 0:
            raise ConfigError(f"{name} is {value}; it must be above 0")
    if cfg.steps is None and time_limit is None and total_time is None and cfg.time_limit is None:
        raise ConfigError("train.steps is null, which needs a time limit: give one, or set train.steps")
    if seed == cfg.validation_seed:
        raise ConfigError(f"seed {seed} is also train.validation_seed; held-out tasks would be training tasks")
    prior = load_prior(recipe.prior) if prior is None else prior
    run = _Run(recipe, Path(out), seed, clock, total_time, prior, sampler_factory or make_sampler, log, quiet)
    with contextlib.ExitStack() as stack:
        return run.execute(resume, stack)


class _Run:
    """One session of a run. Attributes that change: state, tasks_seen, train_seconds."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        seed: int,
        clock: Clock,
        total_time: float | None,
        prior: PriorConfig,
        sampler_factory: SamplerFactory,
        log: Callable[[dict[str, Any]], None] | None,
        quiet: bool,
    ):
        self.clock, self.total_time = clock, total_time
        self.recipe, self.cfg, self.out, self.seed = recipe, recipe.train, out, seed
        self.prior, self.sampler_factory, self.log, self.quiet = prior, sampler_factory, log, quiet
        self.folder = out / "checkpoints"
        self.pace, self.settled = Pace(recipe.shapes), False
        self.tasks_seen, self.train_seconds, self.session_tasks = 0, 0.0, 0
        self.validation_seconds: float | None = None
        self.save_seconds = 0.0

    def execute(self, resume: bool, stack: contextlib.ExitStack) -> PretrainResult:
        progress = stack.enter_context(Progress(self.quiet))
        flag = stack.enter_context(StopFlag())
        self._open_directory(resume)
        k = self.cfg.steps_per_dispatch
        fixed = None if self.cfg.steps is None else math.ceil(self.cfg.steps / k) * k
        devices = self.devices = pick_devices(self.recipe)
        state = init_state(self.recipe, self.seed, fixed or _UNKNOWN_HORIZON)
        found = self._restore(state, progress) if resume else None
        state, horizon = self._horizon_at_start(found, state, fixed)
        state = place(state, devices)
        self.metrics = MetricsFile(self.out / "metrics.jsonl", int(state.step) if found else None)
        stack.callback(self.metrics.close)
        parameters = count_params(state.params)
        progress.say(
            f"{self.recipe.name}: {parameters:,} parameters on {len(devices)} x {devices[0].device_kind}; compiling "
            f"{len(self.recipe.shapes)} program(s)"
        )
        programs = self._compile(state, devices)
        progress.say(f"compiled after {self.clock.elapsed():.0f} s")
        self.clock.startup = self.clock.elapsed()
        key, step = jax.random.key(self.seed), int(state.step)
        loss, done_at_start, cut = float("nan"), step, False
        if found and horizon != int(found.state.horizon):
            self._write(step=step, event="horizon", horizon=horizon)
        self.clock.closing = self._closing_seconds()
        while step < horizon and not flag:
            which = pick_shape(self.recipe.shapes, step // k, step / horizon)
            if cut := not self.clock.fits(self.pace.price(which)):
                break
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
            self.clock.closing = self._closing_seconds()
            if self.clock.budget is not None:
                state, horizon = self._plan(state, step, horizon, fixed)
            if _crossed(before, step, self.cfg.checkpoint_steps) and step < horizon:
                self._save(state)
            if self.cfg.validate_steps and _crossed(before, step, self.cfg.validate_steps) and step < horizon:
                state, held = self._validate(programs, state)
                progress.say(f"step {step}: held-out loss {held['loss']:.4f}, ROC AUC {held['roc_auc']:.4f}")
        if step > done_at_start or not list_checkpoints(self.folder):
            self._save(state)
        held = dict.fromkeys(("loss", "accuracy", "roc_auc"), float("nan")) | {"shapes": []}
        if not flag and not (cut and self.clock.left() < self._validation_seconds()):
            state, held = self._validate(programs, state)
        path = self._export(state, held)
        if flag:
            progress.say(f"stopped by signal {flag.signal} at step {step}; go on with resume")
        elif cut:
            planned = f"{horizon:,}" if horizon < _UNKNOWN_HORIZON else "an unknown number"
            progress.say(f"time is over at step {step:,} of {planned} planned; resume goes on from there")
            if step == done_at_start:
                progress.say(f"no step fitted in: starting took {self.clock.startup:.0f} s; give a longer time limit")
        progress.say(f"held-out loss {held['loss']:.4f}, ROC AUC {held['roc_auc']:.4f}; weights in {path}")
        return PretrainResult(
            weights_path=path,
            steps=step,
            horizon=horizon,
            tasks_seen=self.tasks_seen,
            seconds=self.clock.total(),
            train_seconds=self.train_seconds,
            tasks_per_s=self.session_tasks / self.train_seconds if self.train_seconds else 0.0,
            loss=loss,
            validation=held,
            skipped=int(state.skipped),
            interrupted=flag.signal,
            resumed_from=done_at_start if found else None,
        )

    def _open_directory(self, resume: bool) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        config = self.out / "config.yaml"
        if list_checkpoints(self.folder) and not resume:
            raise ConfigError(f"{self.out} already holds a run; resume it (--resume) or choose another directory")
        if resume and config.is_file():
            before = load_yaml(config, Recipe)
            if before.train.time_limit != self.cfg.time_limit and self.total_time is None:
                self.total_time = self.cfg.time_limit  # another plan than before was asked for
            if _essence(before) != _essence(self.recipe):
                key = _first_difference(to_dict(_neutral(before)), to_dict(_neutral(self.recipe)))
                raise ConfigError(f"{self.out} was started with another recipe ({key} differs); use that of {config}")
        write_text(config, to_yaml(self.recipe))
        write_text(self.out / "prior.yaml", to_yaml(self.prior))
        if not (self.out / "env.json").is_file():
            write_text(self.out / "env.json", json.dumps(_environment(), indent=1) + "\n")

    def _restore(self, like: TrainState, progress: Progress) -> Checkpoint | None:
        found = restore_latest(self.folder, like, progress.say)
        if found is None:
            progress.say(f"no checkpoint in {self.folder} yet: starting from step 0")
            return None
        if found.meta["seed"] != self.seed:
            raise ConfigError(f"{self.out} was started with seed {found.meta['seed']}; resume with that seed")
        if found.meta["prior"] != config_digest(self.prior):
            raise ConfigError(f"{self.out} was started with another prior; see {self.out / 'prior.yaml'}")
        self.tasks_seen, self.clock.earlier = found.meta["tasks_seen"], found.meta["seconds"]
        progress.say(f"resuming from step {found.step}")
        return found

    def _horizon_at_start(
        self, found: Checkpoint | None, state: TrainState, fixed: int | None
    ) -> tuple[TrainState, int]:
        """The state to start from, with the horizon the run is planned for as far as that is known yet."""
        clock, k = self.clock, self.cfg.steps_per_dispatch
        planned = found.meta.get("planned_seconds") if found else None
        clock.budget = whole_run(
            total=self.total_time, leg=clock.leg, recipe=self.cfg.time_limit, steps=fixed, planned=planned,
            earlier=clock.earlier if found else None,
        )  # fmt: skip
        if found is None:
            horizon = fixed if fixed and clock.budget is None else _UNKNOWN_HORIZON
            return dataclasses.replace(state, horizon=jnp.asarray(horizon, jnp.int32)), horizon
        state, step = found.state, found.step
        timed = found.meta.get("dispatch_seconds")
        if timed and timed["devices"] == _kind(self.devices):
            self.pace = Pace(self.recipe.shapes, {int(i): s for i, s in timed["seconds"].items()})
        horizon = int(state.horizon)
        if clock.budget is None:
            horizon = fixed or horizon
        elif step and clock.budget != planned:  # another end: at the speed so far, until that of this session is known
            fits = self.pace.dispatches(clock.trainable(), step / horizon)
            ahead = step * (clock.budget / clock.earlier - 1.0) if fits is None and clock.earlier else (fits or 1) * k
            horizon = step + max(1, math.ceil(ahead / k)) * k
            horizon = min(horizon, fixed) if fixed else horizon
        return dataclasses.replace(state, horizon=np.asarray(horizon, np.int32)), horizon

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
        settled = self.pace.settled(step / horizon)
        if not settled and self.clock.earlier and step < horizon:
            return state, horizon  # a resumed run keeps its plan until the speed of this session is known
        done = step / horizon
        planned = step + (self.pace.dispatches(self.clock.trainable(), done) or 0) * k
        planned = min(planned, fixed) if fixed else planned
        free = (done < 0.6 or not self.settled) and abs(planned - horizon) > 0.02 * horizon
        late = planned < horizon - max(k, 0.05 * (horizon - step))
        self.settled |= settled
        if not (free or late) or planned <= step:
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
            skipped=int(state.skipped), shape=which, seconds=round(self.clock.total(), 3),
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
        rows, began = [], time.monotonic()
        for shape, program in zip(self.recipe.shapes, programs, strict=True):
            parts = []
            for i in range(math.ceil(self.cfg.validation_tasks / (shape.tasks * k))):
                state, numbers = program(state, key, jnp.bool_(False), jnp.uint32(i * k))
                parts.append(jax.device_get(numbers))
            names = ("loss", "accuracy", "roc_auc")
            row = {n: float(np.nanmean(np.concatenate([p[n] for p in parts]))) for n in names}
            rows.append({"rows": shape.rows, "columns": shape.columns, "tasks": len(parts) * shape.tasks * k} | row)
        found = {n: float(np.mean([r[n] for r in rows])) for n in ("loss", "accuracy", "roc_auc")} | {"shapes": rows}
        self.validation_seconds = time.monotonic() - began
        self._write(step=int(state.step), event="validation", **{f"validation_{n}": found[n] for n in names})
        return state, found

    def _closing_seconds(self) -> float:
        """What validating and writing take after the last dispatch, with a second to spare."""
        return 1.0 + max(1.0, 1.5 * self.save_seconds) + self._validation_seconds()

    def _validation_seconds(self) -> float:
        """What a validation takes; a guess from the cost of training (sampling and a forward pass) before the first."""
        if self.validation_seconds is not None:
            return self.validation_seconds
        k = self.cfg.steps_per_dispatch
        rounds = {i: math.ceil(self.cfg.validation_tasks / (s.tasks * k)) for i, s in enumerate(self.recipe.shapes)}
        return 0.5 * sum(count * self.pace.price(i) for i, count in rounds.items())

    def _save(self, state: TrainState) -> None:
        meta = {
            "seed": self.seed, "prior": config_digest(self.prior), "tasks_seen": self.tasks_seen,
            "seconds": round(self.clock.total(), 3), "planned_seconds": self.clock.budget, "jax": jax.__version__,
            "dispatch_seconds": {
                "devices": _kind(self.devices),
                "seconds": {str(i): round(s, 4) for i, s in self.pace.seconds.items()},
            },
        }  # fmt: skip
        began = time.monotonic()
        save_checkpoint(self.folder, jax.device_get(state), meta, self.cfg.keep_checkpoints)
        self.save_seconds = time.monotonic() - began

    def _export(self, state: TrainState, found: dict[str, Any]) -> Path:
        meta = {
            "recipe": self.recipe.name, "recipe_sha256": config_digest(self.recipe), "prior": self.prior.name,
            "prior_sha256": config_digest(self.prior), "seed": self.seed, "steps": int(state.step),
            "tasks_seen": self.tasks_seen,
            "validation": {n: round(found[n], 6) for n in ("loss", "accuracy", "roc_auc") if math.isfinite(found[n])},
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


def _crossed(before: int, now: int, every: int) -> bool:
    return before // every != now // every


def _kind(devices: list[jax.Device]) -> str:
    return f"{len(devices)} x {devices[0].device_kind}"


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
