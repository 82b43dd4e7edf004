"""`priorax pretrain`: train a network on tasks that are sampled as it learns."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

from priorax import options, output
from priorax.configs.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain(options.OutDir):
    """Pretrains a network from a recipe; tasks are sampled inside the training step, no files in between.

    Any setting of the recipe can be overridden: --train.learning-rate 2e-3 --model.width 96 --shapes.0.tasks 16.
    Ctrl-C or SIGTERM saves and ends; --resume goes on from the last checkpoint. A long run can be cut into legs:
    --time-limit ends this one, --total-time is what the learning rate is planned for.
    """

    TAKES_SETTINGS = True

    out: Path
    """Run directory: config, metrics, checkpoints, model.safetensors."""
    recipe: str = "nano"
    """Name of a recipe, or path of a YAML file."""
    prior: str | None = None
    """Prior instead of the recipe's: a name, or the path of a YAML file."""
    start_from: str | None = None
    """Weights to start from instead of random ones: default for those that ship, or a path. The network must be like theirs;
    it may have more layers, which change nothing until they are trained (but for the retrieval decoder)."""
    time_limit: str | None = None
    """Time of this leg from the start of the process, everything included, e.g. 8m or 1h30m. Without --total-time
    and --steps a new run is planned for it, and a resumed one that has no longer plan is planned to end with it."""
    total_time: str | None = None
    """Time of the whole run, all legs together; kept when resuming. The recipe's own when neither this nor
    --time-limit is given."""
    steps: int | None = None
    """Optimiser steps; the recipe's own when left out. With steps, --time-limit only cuts."""
    seed: int | None = None
    """Seed of weights and tasks: 0 when left out, and when resuming that of the run."""
    host_devices: int = 0
    """Parts to split a CPU into; tasks are shared out among them. 0: one per core. `priorax bench train
    --host-devices N` measures what that gains."""
    dry_run: options.Switch = False
    """Show the resolved recipe, train nothing."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.configs import config_digest, load_recipe, to_dict, to_yaml

        if self.prior is not None:
            settings = {"prior": _whole_path(self.prior), **settings}
        if self.start_from is not None:
            settings = {"start_from": self._weights(self.start_from), **settings}
        if self.steps is not None:
            settings = {"train.steps": str(self.steps), **settings}
            settings.setdefault("train.time_limit", "null")
        recipe = load_recipe(self.recipe, overrides=settings)
        prior = self._load_prior(recipe.prior)
        recipe.check_classes(prior)
        limit = None if self.time_limit is None else options.seconds(self.time_limit, "--time-limit")
        total = None if self.total_time is None else options.seconds(self.total_time, "--total-time")
        if limit is None and total is None and recipe.train.time_limit is None and recipe.train.steps is None:
            raise ConfigError("the recipe sets neither steps nor a time limit; give --steps or --time-limit")
        if self.dry_run:
            from priorax.models import count_params, init_params

            count = int(count_params(init_params(recipe.model)))
            if self.json:
                output.emit_json({"recipe": to_dict(recipe), "sha256": config_digest(recipe), "parameters": count})
            else:
                print(f"{to_yaml(recipe)}# {count:,} parameters, sha256 {config_digest(recipe)[:16]}")
            return
        from priorax.train import Team, leave, pretrain

        team = Team()
        seed = team.lead(self._open, recipe)
        tell = _events if self.log == "json" and team.leads else None
        age = _process_age()
        left = None if limit is None else max(limit - age, 0.1)  # the limit counts from the start of the process
        out = self.out.expanduser()
        result = pretrain(recipe, out, seed=seed, resume=self.resume, time_limit=left, total_time=total,
                          prior=prior, log=tell, quiet=self.quiet or self.log == "json", may_exit=True)  # fmt: skip
        leave()
        if result.interrupted:
            number = int(result.interrupted)
            name = signal.Signals(number).name
            raise output.Interrupted(number, f"{name}: saved at step {result.steps} in {out}; go on with --resume")
        if result.too_short:
            raise ConfigError(self._too_short(result, limit, age))
        if team.leads:
            self._show(result)

    def _too_short(self, result: Any, leg: float | None, age: float) -> str:
        """What to tell of a leg that had no room for a step: where the run stands, and how to go on."""
        started, limit = result.startup_seconds, max(result.leg_limit, 0.0)
        if leg is not None:  # which counts from the start of the process, unlike the clock of the run
            started, limit = started + age, min(limit + age, leg)
        minutes = max(5, math.ceil(3 * started / 60))
        if result.steps:
            stands = f"the run stands at step {result.steps} as before"
        else:
            stands = "the weights are those it began with" if result.weights_path.exists() else "there are no weights yet"
        longer = ", and a longer --total-time" if self.total_time is not None and not result.steps else ""
        return (
            f"nothing was trained: starting (compiling, for the most part) took {started:.0f} s, and the limit is {limit:.0f} s: "
            f"no room for a single step; {stands}. Go on in {self.out} with --resume --time-limit {minutes}m{longer}"
        )

    @staticmethod
    def _weights(given: str) -> str:
        """The path made absolute, since a run can be resumed from elsewhere."""
        return given if given == "default" else str(Path(given).expanduser().resolve())

    def _load_prior(self, name: str) -> Any:
        """The recipe's prior; of a run that is resumed elsewhere, where the file it names is not, the one the run holds."""
        from priorax.configs import load_prior

        kept = self.out.expanduser() / "prior.yaml"
        named_file = name.endswith((".yaml", ".yml"))
        if self.resume and self.prior is None and named_file and not Path(name).expanduser().is_file() and kept.is_file():
            return load_prior(kept)
        return load_prior(name)

    def _open(self, recipe: Any) -> int:
        """Opens the run directory; the seed of the run."""
        from priorax.train.rundir import check_request, seed_of_run

        folder = self.out.expanduser()
        known = seed_of_run(folder) if self.resume else None
        seed = (known or 0) if self.seed is None else self.seed
        if self.overwrite and recipe.start_from is not None and folder.resolve() in Path(recipe.start_from).resolve().parents:
            raise ConfigError(f"--start-from {recipe.start_from} lies in --out {folder}, which --overwrite would delete; give another --out")
        check_request(recipe, seed, begins=not self.resume)  # before an older run is removed
        out = output.open_out(self.out, "pretrain", overwrite=self.overwrite, resume=self.resume)
        if known in (None, seed):  # another seed will be refused and is not to be noted as that of the run
            output.write_run(out, "pretrain", {"recipe": recipe.name, "seed": seed})
        return seed

    def _show(self, result: Any) -> None:
        facts = {k: v for k, v in dataclasses.asdict(result).items() if k != "interrupted"}
        if self.json:
            output.emit_json(facts)
            return
        for key in ("steps", "tasks_seen", "seconds", "tasks_per_s", "loss", "skipped", "weights_path"):
            value = facts[key]
            print(f"{key:14} {value:,.4g}" if isinstance(value, float) else f"{key:14} {value}")
        held = facts["validation"]
        if result.horizon is None or result.steps < result.horizon:
            planned = "more steps" if result.horizon is None else f"{result.horizon} steps"
            print(f"{'planned':14} {planned}; go on with --resume")
        if not held["shapes"]:
            print("held-out tasks not measured: that would not fit into the time; --train.validation-tasks N takes fewer")
            return
        print(f"held-out tasks loss {held['loss']:.4f}, accuracy {held['accuracy']:.4f}, ROC AUC {held['roc_auc']:.4f}")


def _whole_path(prior: str) -> str:
    """The path of a prior file made absolute, since a run can be resumed from elsewhere; a name as it is."""
    return str(Path(prior).expanduser().resolve()) if prior.endswith((".yaml", ".yml")) or "/" in prior else prior


def _events(record: dict[str, Any]) -> None:
    output.log_event(f"train.{record.get('event', 'step')}", **{k: v for k, v in record.items() if k != "event"})


def _process_age() -> float:
    """Seconds since this process started; 0 where the system does not say."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, AttributeError, IndexError):
        return 0.0
