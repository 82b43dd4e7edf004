"""Pretraining from a recipe to a weights file: the host's side of it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..configs.errors import ConfigError, NumericalError
from ..configs.interrupt import StopFlag
from ..configs.load import config_digest
from ..configs.prior import PriorConfig, load_prior
from ..configs.recipe import Recipe, recipe_digest
from ..models.network import count_params
from ..models.threads import one_blas_thread
from ..priors import make_sampler
from .checkpoints import Checkpoint, list_checkpoints
from .clock import Clock, whole_run, worth_replanning
from .curriculum import Pace, pick_shape
from .heap import release_free_memory
from .heldout import other_tasks_held_out
from .logs import Progress
from .programs import compile_programs
from .result import UNKNOWN_HORIZON, Moment, PretrainResult
from .rundir import WEIGHTS, RunDirectory, check_request
from .state import TrainState, init_state
from .step import idle, kind_of, mean_of_good, pick_devices, place, put, replicate
from .tasks import SamplerFactory, task_key
from .team import Team
from .watchdog import Watchdog


def pretrain(
    recipe: Recipe,
    out: str | os.PathLike,
    *,
    seed: int = 0,
    resume: bool = False,
    time_limit: float | None = None,
    total_time: float | None = None,
    training_only: bool = False,
    log: Callable[[dict[str, Any]], None] | None = None,
    watch: Callable[[Moment], bool] | None = None,
    quiet: bool = False,
    sampler_factory: SamplerFactory | None = None,
    prior: PriorConfig | None = None,
    may_exit: bool = False,
    programs: Callable[..., list[Any]] = compile_programs,
    began: float | None = None,
) -> PretrainResult:
    """Trains a network on a stream of sampled tasks and writes its weights.

    Called in every process of a distributed run (see `priorax.train.join`), it trains one network on the devices of
    all of them; process 0 alone reads and writes ``out``, keeps the time and decides. BLAS has one thread meanwhile.

    The run directory gets config.yaml (the resolved recipe), prior.yaml, env.json, metrics.jsonl, checkpoints/ and
    model.safetensors, and start.safetensors where the recipe names weights to start from. With ``train.steps`` set and
    no time limit, the result is a function of recipe, seed, JAX version and devices; a run that was killed and resumed gives the same bits as one that was not.

    Args:
      recipe: from `load_recipe`.
      out: run directory, made if absent.
      seed: of the weights and of the stream of tasks.
      resume: go on from the newest intact checkpoint in ``out`` (from the start if there is none).
      time_limit: seconds of this leg, compiling, validating and writing included, on resuming too. It ends after the
        last dispatch that fits, with everything saved.
      total_time: seconds of the whole run, all legs together; replaces ``recipe.train.time_limit``. Without
        ``train.steps`` the learning rate is planned for it from measured speed, so that the decay ends when the time
        does. When it is not given, a run that starts is planned for ``time_limit`` if that is given; a run that is
        resumed keeps its plan, or is planned anew for the time it has taken and ``time_limit``, whichever is longer.
      training_only: limits are of training alone, so that different networks can be trained for the same time: the
        clock starts when all is compiled, and stands still while the run is validated or written.
      log: called with every record that goes to metrics.jsonl.
      watch: called after every dispatch, its time not counted; the run ends, saved, when it returns True.
      quiet: print nothing.
      sampler_factory: replaces `priorax.priors.make_sampler`: ``(prior, TableShape, tasks)`` to
        ``(key, step) -> TaskBatch``.
      prior: replaces the prior named in the recipe.
      may_exit: a dispatch that hangs ends the process, with exit code 1, where a limit or a signal should have ended the leg
        (see `priorax.train.watchdog`); else it is only told of.
      programs: replaces `priorax.train.programs.compile_programs`, for programs that were compiled elsewhere.
      began: what `time.monotonic` said when the leg began, where that was before this call: its limit, and the time that all legs took,
        count from there.

    Raises:
      ConfigError: settings that do not go together, also with the prior; ``out`` holds another run; ``total_time`` is over already; the
        network cannot start from the weights the recipe names.
      MissingError: those weights are not there.
      DataError: resuming, and no checkpoint is intact.
      NumericalError: too many steps in a row without a finite loss; the message names the last good checkpoint.
    """
    cfg = recipe.train
    clock = Clock(time_limit) if began is None else Clock(time_limit, started=began)
    for name, value in (("time_limit", time_limit), ("total_time", total_time)):
        if value is not None and not value > 0:
            raise ConfigError(f"{name} is {value}; it must be above 0")
    if cfg.steps is None and time_limit is None and total_time is None and cfg.time_limit is None:
        raise ConfigError("train.steps is null, which needs a time limit: give one, or set train.steps")
    check_request(recipe, seed)
    prior = load_prior(recipe.prior) if prior is None else prior
    if sampler_factory is None:
        recipe.check_classes(prior)
    run = _Run(
        recipe, Path(out), seed, clock, total_time, training_only, prior, sampler_factory or make_sampler, log,
        watch, quiet, may_exit, programs,
    )  # fmt: skip
    # Ridge scores are LAPACK's on a CPU; threads of its own would fight with those of the devices.
    with one_blas_thread(), contextlib.ExitStack() as stack:
        return run.execute(resume, stack)


class _Run:
    """One leg of a run. Attributes that change: pace, tasks_seen, train_seconds, ..., all of the host."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        seed: int,
        clock: Clock,
        total_time: float | None,
        training_only: bool,
        prior: PriorConfig,
        sampler_factory: SamplerFactory,
        log: Callable[[dict[str, Any]], None] | None,
        watch: Callable[[Moment], bool] | None,
        quiet: bool,
        may_exit: bool,
        programs: Callable[..., list[Any]],
    ):
        self.may_exit, self.compile_programs = may_exit, programs
        self.clock, self.total_time, self.training_only = clock, total_time, training_only
        self.recipe, self.cfg, self.out, self.seed = recipe, recipe.train, out, seed
        self.prior, self.sampler_factory, self.log, self.watch = prior, sampler_factory, log, watch
        self.fixed = None if self.cfg.steps is None else math.ceil(self.cfg.steps / self._k) * self._k
        self.team = Team()
        self.files = RunDirectory(out, recipe, prior, seed)
        self.quiet = quiet or not self.team.leads
        self.pace, self.settled = Pace(recipe.shapes), False
        self.tasks_seen, self.train_seconds, self.leg_tasks, self.leg_seconds = 0, 0.0, 0, 0.0
        self.validation_seconds: float | None = None
        self.save_seconds, self.skipped = 0.0, 0

    @property
    def _k(self) -> int:
        return self.cfg.steps_per_dispatch

    def execute(self, resume: bool, stack: contextlib.ExitStack) -> PretrainResult:
        progress = stack.enter_context(Progress(self.quiet))
        flag = stack.enter_context(StopFlag())
        flag.notice = None if self.quiet else "pretrain: stopping when all is compiled (a second Ctrl-C ends without saving)"
        team = self.team
        team.check_same(
            {
                "recipe": recipe_digest(self.recipe), "prior": config_digest(self.prior), "seed": str(self.seed),
                "JAX version": jax.__version__,
            }
        )  # fmt: skip
        self.devices = pick_devices(self.recipe)
        stack.callback(self.files.close)
        state, resumed_from, horizon = self._start(resume, progress)
        progress.say(
            f"{self.recipe.name}: {count_params(state.params):,} parameters on {kind_of(self.devices)}{idle(self.devices)}"
            + (f" in {team.size} processes" if team.size > 1 else "")
            + f"; compiling {len(self.recipe.shapes)} program(s)"
        )
        programs = self.compile_programs(
            self.recipe, self.prior, self.sampler_factory, self.devices, (state, *self._everywhere(0, 0, True, 0)), progress.say
        )
        progress.say(f"compiled after {self.clock.elapsed():.0f} s")
        self.startup_seconds = self.clock.elapsed()
        if self.training_only:
            self.clock.started = time.monotonic()
        self.clock.startup = self.clock.elapsed()
        self.clock.closing = self._closing_seconds()
        told = [self._everywhere(which, self.seed, True, 0) for which in range(len(programs))]
        self.watchdog = Watchdog(progress.say, lambda: flag.heard, self.may_exit)
        stack.callback(self.watchdog.close)
        step, saved = resumed_from or 0, resumed_from
        done_at_start = step
        loss, cut, signal = float("nan"), False, 0
        if not self.quiet:
            flag.notice = "pretrain: stopping; saving after the current step (a second Ctrl-C ends without saving)"
        while step < horizon:
            which = pick_shape(self.recipe.shapes, step // self._k, step / horizon)
            signal = team.any(flag.signal or 0)
            cut = not signal and not team.lead(self._fits, which)
            if signal or cut:
                break
            began = time.monotonic()
            with self.watchdog.over(f"the dispatch after step {step:,}", self.pace.price(which), self.clock.left()):
                state, numbers = programs[which](state, *told[which])
                numbers = jax.device_get(numbers)
            seconds = time.monotonic() - began
            before, step = step, step + self._k
            loss = self._count(numbers, which, seconds)
            planned = team.lead(self._record, step, which, numbers, seconds, horizon)
            self._stop_when_bad(numbers, step)
            if planned != horizon:
                state, horizon = self._with_horizon(state, planned), planned
            note = f"loss {loss:.3f}  accuracy {float(numbers['accuracy'].mean()):.3f}  {self._speed(which, seconds)}"
            progress.update(step, horizon if horizon < UNKNOWN_HORIZON else step, note)
            if _crossed(before, step, self.cfg.checkpoint_steps) and step < horizon:
                self._save(state)
                saved = step
            due = self.cfg.validate_steps and _crossed(before, step, self.cfg.validate_steps) and step < horizon
            if due and team.lead(self._time_to_validate):
                with self._aside(self.training_only):
                    state, held = self._validate(programs, state)
                progress.say(f"step {step}: held-out loss {held['loss']:.4f}, ROC AUC {held['roc_auc']:.4f}")
            if team.lead(self._watched, state, step, horizon, loss):
                break
        if step != saved:
            self._save(state)
        if not self.quiet:
            flag.notice = "pretrain: at its end and saved; held-out tasks and weights come yet (a second Ctrl-C ends at once)"
        held = dict.fromkeys(("loss", "accuracy", "roc_auc"), float("nan")) | {"shapes": []}
        short = not self.training_only and team.lead(lambda: self.clock.too_late_to_validate(self._validation_seconds(), cut))
        if step and not signal and not short:
            state, held = self._validate(programs, state)
        written = team.lead(self.files.export, state, self.tasks_seen, held)
        too_short = cut and step == done_at_start and (not step or team.lead(self.clock.leg_comes_first))
        self._say_how_it_ended(progress, signal, cut, step, too_short, horizon)
        measured = f"held-out loss {held['loss']:.4f}, ROC AUC {held['roc_auc']:.4f}; " if held["shapes"] else ""
        progress.say(f"{measured}weights in {self.out / WEIGHTS}" if written else "no weights: nothing was trained")
        return PretrainResult(
            weights_path=self.out / WEIGHTS,
            steps=step,
            horizon=horizon if horizon < UNKNOWN_HORIZON else None,
            tasks_seen=self.tasks_seen,
            seconds=self.clock.total(),
            train_seconds=self.train_seconds,
            tasks_per_s=self.leg_tasks / self.leg_seconds if self.leg_seconds else 0.0,
            loss=loss,
            validation=held,
            skipped=int(state.skipped),
            interrupted=signal or None,
            resumed_from=resumed_from,
            startup_seconds=self.startup_seconds,
            leg_limit=team.lead(self.clock.limit),
            too_short=too_short,
        )

    def _start(self, resume: bool, progress: Progress) -> tuple[TrainState, int | None, int]:
        """Opens the directory; the state on the devices, the step of its checkpoint if any, and the horizon."""
        state = init_state(self.recipe, self.seed, self.fixed or UNKNOWN_HORIZON)
        found: list[Checkpoint] = []

        def work() -> list[Any]:
            replanned = self.files.open(resume)
            checkpoint = self.files.restore(state, progress.say) if resume else None
            if checkpoint and "time_limit" in checkpoint.meta:  # older ones do not say
                # Not by config.yaml, which a leg that was refused or stopped before its first save has written too.
                replanned = checkpoint.meta["time_limit"] != self.cfg.time_limit
            if replanned and self.total_time is None:
                self.total_time = self.cfg.time_limit  # another plan than before was asked for
            found.extend([] if checkpoint is None else [checkpoint])
            horizon = self._horizon_at_start(checkpoint)
            self.files.start_metrics(checkpoint.step if checkpoint else None)
            if checkpoint and horizon != int(checkpoint.state.horizon):
                self._write(step=checkpoint.step, event="horizon", horizon=horizon)
            return [checkpoint.step if checkpoint else None, horizon, self.tasks_seen, self.train_seconds]

        resumed_from, horizon, self.tasks_seen, self.train_seconds = self.team.lead(work)
        if found:
            state = found[0].state
            legs = (found[0].meta.get("dispatch_seconds") or {}).get("devices"), kind_of(self.devices)
            if note := other_tasks_held_out(self.prior, *legs):
                progress.say(note)
        elif begun := self.files.starting_params():
            if note := self.files.seen_before():
                progress.say(note)
            state = init_state(self.recipe, self.seed, self.fixed or UNKNOWN_HORIZON, begun)
        if resumed_from is not None or self.recipe.start_from is not None:
            state = self.team.share_arrays(state)
        state = dataclasses.replace(state, horizon=np.asarray(horizon, np.int32))
        return place(state, self.devices), resumed_from, horizon

    def _horizon_at_start(self, found: Checkpoint | None) -> int:
        """The steps the run is planned for, as far as that is known before this leg has run any."""
        clock, k, fixed = self.clock, self._k, self.fixed
        planned = found.meta.get("planned_seconds") if found else None
        if found:
            self.skipped = int(found.state.skipped)
            self.tasks_seen, clock.earlier = found.meta["tasks_seen"], found.meta["seconds"]
            self.train_seconds = found.meta.get("train_seconds", 0.0)  # older checkpoints do not say
        clock.budget = whole_run(
            total=self.total_time, leg=clock.leg, recipe=self.cfg.time_limit, steps=fixed, planned=planned,
            earlier=clock.earlier if found else None,
        )  # fmt: skip
        if found is None:
            return fixed if fixed and clock.budget is None else UNKNOWN_HORIZON
        timed = found.meta.get("dispatch_seconds")
        if timed and timed["devices"] == kind_of(self.devices):
            self.pace = Pace(self.recipe.shapes, {int(i): s for i, s in timed["seconds"].items()})
        step, horizon = found.step, int(found.state.horizon)
        if clock.budget is None:
            return fixed or horizon
        if not step or clock.budget == planned:
            return horizon
        # Another end than before: at the speed so far, until that of this leg is known.
        fits = self.pace.dispatches(clock.trainable(), step / horizon)
        ahead = step * (clock.budget / clock.earlier - 1.0) if fits is None and clock.earlier else (fits or 1) * k
        horizon = step + max(1, math.ceil(ahead / k)) * k
        return min(horizon, fixed) if fixed else horizon

    def _everywhere(self, which: int, seed: int, learn: bool, first: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The arguments of a dispatch after the state, on all devices."""
        return replicate((task_key(seed, which), jnp.bool_(learn), jnp.uint32(first)), self.devices)

    def _with_horizon(self, state: TrainState, horizon: int) -> TrainState:
        return dataclasses.replace(state, horizon=put(np.asarray(horizon, np.int32), state.horizon.sharding))

    def _fits(self, which: int) -> bool:
        return self.clock.fits(self.pace.price(which))

    def _count(self, numbers: dict[str, np.ndarray], which: int, seconds: float) -> float:
        """Keeps the books of one dispatch; its mean loss."""
        tasks = self.recipe.shapes[which].tasks * self._k
        self.pace.add(which, seconds)
        self.tasks_seen, self.leg_tasks = self.tasks_seen + tasks, self.leg_tasks + tasks
        self.train_seconds, self.leg_seconds = self.train_seconds + seconds, self.leg_seconds + seconds
        self.clock.closing = self._closing_seconds()
        return mean_of_good(numbers, "loss")

    def _record(self, step: int, which: int, numbers: dict[str, np.ndarray], seconds: float, horizon: int) -> int:
        """Writes one dispatch down; the horizon from here on."""
        tasks, skipped = self.recipe.shapes[which].tasks, numbers["skipped"]
        self.skipped += int(skipped.sum())
        self._write(
            step=step, loss=mean_of_good(numbers, "loss"), accuracy=mean_of_good(numbers, "accuracy"),
            learning_rate=numbers["learning_rate"][-1], grad_norm=mean_of_good(numbers, "grad_norm"),
            tasks_seen=self.tasks_seen, tasks_per_s=round(tasks * self._k / seconds, 2), skipped=self.skipped,
            shape=which, seconds=round(self.clock.total(), 3),
        )  # fmt: skip
        for i in np.flatnonzero(skipped):
            at = step - len(skipped) + int(i)
            self._write(step=step, event="skipped", at=at, shape=which, tasks=[at * tasks, (at + 1) * tasks - 1])
        planned = horizon if self.clock.budget is None else self._plan(step, horizon)
        if planned != horizon:
            self._write(step=step, event="horizon", horizon=planned)
        return planned

    def _watched(self, state: TrainState, step: int, horizon: int, loss: float) -> bool:
        """Shows the run to whoever watches; whether that asked to end it. The clock stands still meanwhile."""
        if self.watch is None:
            return False
        moment = Moment(
            step, horizon, self.tasks_seen, self.train_seconds, self.clock.total(), self.startup_seconds, loss,
            lambda: jax.device_get(state.average),
        )  # fmt: skip
        with self._aside(True):
            return bool(self.watch(moment))

    @contextlib.contextmanager
    def _aside(self, stops: bool) -> Iterator[None]:
        """The clock stands still meanwhile, if it ``stops``."""
        began = time.monotonic()
        yield
        self.clock.started += (time.monotonic() - began) * stops

    def _plan(self, step: int, horizon: int) -> int:
        """The horizon that ends the run with its time: set freely at first, later when it is clearly wrong."""
        k, done = self._k, step / horizon
        settled = self.pace.settled(done)
        if not settled and self.clock.earlier and step < horizon:
            return horizon  # a resumed run keeps its plan until the speed of this leg is known
        planned = step + (self.pace.dispatches(self.clock.trainable(), done) or 0) * k
        planned = min(planned, self.fixed) if self.fixed else planned
        free, self.settled = not self.settled, self.settled or settled
        return planned if worth_replanning(step, horizon, planned, k, free) else horizon

    def _stop_when_bad(self, numbers: dict[str, np.ndarray], step: int) -> None:
        worst = int(numbers["streak"].max())
        if worst < self.cfg.max_bad_steps:
            return
        saved = list_checkpoints(self.files.checkpoints)
        where = f"the last good checkpoint is {saved[-1][1]}" if saved else "no checkpoint was written yet"
        raise NumericalError(
            f"{worst} steps in a row up to step {step} had no finite loss or gradient (train.max_bad_steps is "
            f"{self.cfg.max_bad_steps}); {where}. Start again in another directory with a lower train.learning_rate or "
            "train.clip, which a run cannot change on its way, or look at the prior; the steps are listed in "
            f"{self.out / 'metrics.jsonl'}"
        )

    def _validate(self, programs: list[Any], state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        rows, began, names = [], time.monotonic(), ("loss", "accuracy", "roc_auc")
        for which, (shape, program) in enumerate(zip(self.recipe.shapes, programs, strict=True)):
            parts = []
            for i in range(math.ceil(self.cfg.validation_tasks / (shape.tasks * self._k))):
                with self.watchdog.over("a dispatch of the validation", self.pace.price(which), self.clock.left()):
                    state, numbers = program(state, *self._everywhere(which, self.cfg.validation_seed, False, i * self._k))
                    parts.append(jax.device_get(numbers))
            row = {n: float(np.nanmean(np.concatenate([p[n] for p in parts]))) for n in names}
            tasks = len(parts) * shape.tasks * self._k
            rows.append({name: getattr(shape, name) for name in ("rows", "columns", "score_columns")} | {"tasks": tasks} | row)
        found = {n: float(np.mean([r[n] for r in rows])) for n in names} | {"shapes": rows}
        self.validation_seconds = time.monotonic() - began
        step = int(state.step)
        told = {f"validation_{n}": found[n] for n in names}
        self.team.lead(lambda: self._write(step=step, event="validation", **told))
        return state, found

    def _closing_seconds(self) -> float:
        """What validating and writing take after the last dispatch, a second spared; 0 when training alone counts."""
        kept = self.clock.kept_to_validate(self._validation_seconds())
        return 0.0 if self.training_only else 1.0 + max(1.0, 1.5 * self.save_seconds) + kept

    def _validation_seconds(self) -> float:
        """What a validation takes; a guess from the cost of training (sampling and a forward pass) before the first."""
        if self.validation_seconds is not None:
            return self.validation_seconds
        k = self.cfg.steps_per_dispatch
        rounds = {i: math.ceil(self.cfg.validation_tasks / (s.tasks * k)) for i, s in enumerate(self.recipe.shapes)}
        return 0.5 * sum(count * self.pace.price(i) for i, count in rounds.items())

    def _time_to_validate(self) -> bool:
        """Whether a validation on the way leaves time for the one at the end, for which time must be kept."""
        return self.clock.may_validate_on_the_way(self._validation_seconds())

    def _save(self, state: TrainState) -> None:
        began = time.monotonic()
        meta = {
            "tasks_seen": self.tasks_seen, "seconds": round(self.clock.total(), 3),
            "train_seconds": round(self.train_seconds, 3), "planned_seconds": self.clock.budget,
            "dispatch_seconds": {
                "devices": kind_of(self.devices),
                "seconds": {str(i): round(s, 4) for i, s in self.pace.seconds.items()},
            },
        }  # fmt: skip
        with self._aside(self.training_only):
            self.team.lead(self.files.save, state, meta)
        self.save_seconds = time.monotonic() - began
        release_free_memory()

    def _write(self, **values: Any) -> None:
        self.files.write(**values)
        if self.log is not None:
            self.log(values)

    def _speed(self, which: int, seconds: float) -> str:
        return f"{self.recipe.shapes[which].tasks * self._k / seconds:.0f} tasks/s"

    def _say_how_it_ended(
        self, progress: Progress, signal: int, cut: bool, step: int, too_short: bool, horizon: int
    ) -> None:
        if signal:
            progress.say(f"stopped by signal {signal} at step {step}; go on with resume")
        elif too_short:
            progress.say(f"no step fitted in: starting took {self.clock.startup:.0f} s; resume with a longer time limit")
        elif cut:
            planned = f"{horizon:,}" if horizon < UNKNOWN_HORIZON else "an unknown number"
            progress.say(f"time is over at step {step:,} of {planned} planned; resume goes on from there")


def _crossed(before: int, now: int, every: int) -> bool:
    return before // every != now // every
