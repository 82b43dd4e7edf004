"""`priorax bench speedrun`: how long it takes to pretrain to the level of a random forest, data generation included."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from priorax import options, output, runtime
from priorax.configs.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speedrun(options.Common):
    """Trains a recipe from random weights until its mean ROC AUC passes that of scikit-learn's random forest.

    The protocol is that of the nanoTabPFN speedrun (arXiv 2606.03681): at most 1,000 rows and 100 columns of every data set,
    five folds, predictions of all folds scored once, one pass of the network. Times count training with the sampling of its
    tasks, compiling apart, evaluation not. On the suite "speedrun" (38 tasks of TabArena) the data come from OpenML, from
    --openml-cache, or from a folder made beforehand; "dev32" is its twin on other data.
    """

    TAKES_SETTINGS = True

    recipe: str = "nano"
    """Recipe to train: a name, or the path of a YAML file. Settings as for pretrain: --train.learning-rate 2e-3."""
    suite: str = "speedrun"
    """Data sets: the name of a suite, OpenML task ids, data files, or a folder made by prefetch."""
    tasks: tuple[str, ...] = ()
    """Only these tasks of the suite."""
    openml_cache: Path | None = None
    """Folder with an offline OpenML cache; it is copied before use."""
    time_limit: str | None = None
    """Time of training, compiling included, evaluation not, e.g. 10m; the learning rate is planned for it. The recipe's own
    when left out."""
    every: str = "30s"
    """Training time between evaluations."""
    target: float | None = None
    """Mean ROC AUC to reach; that of the random forest on the same folds when left out."""
    forest_seed: int = 0
    """Seed of the random forest."""
    keep_going: options.Switch = False
    """Train to the end of the plan even when the target is reached."""
    seed: int = 0
    """Seed of weights and tasks."""
    host_devices: int = 0
    """Parts to split a CPU into; 0: one per core."""
    out: Path | None = None
    """Write the result with the whole curve to this JSON file."""
    run_dir: Path | None = None
    """Keep the run (weights, checkpoints, metrics) in this directory."""
    overwrite: options.Switch = False
    """Replace --out."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.configs import config_digest, load_recipe
        from priorax.eval.speedrun import PUBLISHED_BAR, forest, network, prepare, race_score
        from priorax.eval.suites import Suite, load_suite
        from priorax.models import load_weights
        from priorax.train import pretrain

        recipe = load_recipe(self.recipe, overrides=settings)
        limit = None if self.time_limit is None else options.seconds(self.time_limit, "--time-limit")
        pause = options.seconds(self.every, "--every")
        out = output.check_out_file(self.out, self.overwrite) if self.out else None
        if self.run_dir is not None:
            output.open_out(self.run_dir)
        suite = load_suite(self.suite, self.openml_cache)
        if self.tasks:
            unknown = [task for task in self.tasks if task not in suite.ids]
            if unknown:
                raise ConfigError(f'task "{unknown[0]}" is not in suite {suite.name}. Tasks: {", ".join(suite.ids[:40])}')
            suite.ids = [task for task in suite.ids if task in self.tasks]
        assert isinstance(suite, Suite)
        began = time.monotonic()
        courses, left_out = prepare(suite, None, recipe.model.max_classes, recipe.model.max_columns)
        for record in left_out:
            output.log(f"left out: {record['task']}: {record['reason']}")
        bar, forests = race_score(courses, forest(self.forest_seed, runtime.cpu_count()))
        target = bar if self.target is None else self.target
        output.log(
            f"{len(courses)} data sets of {suite.name}; random forest {bar:.5f}, target {target:.5f} "
            f"({time.monotonic() - began:.0f} s)"
        )
        race = _Race(courses, target, pause, self.keep_going, lambda w: race_score(courses, network(recipe.model, w)))
        with tempfile.TemporaryDirectory(prefix="priorax-speedrun-") as temporary:
            folder = self.run_dir or Path(temporary) / "run"
            result = pretrain(recipe, folder, seed=self.seed, time_limit=limit, watch=race.watch, quiet=True)
            if not result.interrupted and (not race.curve or race.curve[-1]["step"] < result.steps):
                race.finish(result, load_weights(result.weights_path).params)
        if result.interrupted:
            raise output.Interrupted(int(result.interrupted), "interrupted; nothing was written")
        found: dict[str, Any] = {
            "kind": "speedrun", "suite": suite.name, "data_sets": len(courses), "left_out": left_out,
            "recipe": recipe.name, "recipe_sha256": config_digest(recipe), "seed": self.seed,
            "target": target, "random_forest": bar, "random_forest_published": PUBLISHED_BAR,
            "reached": race.reached, "best": max(race.curve, key=lambda p: p["roc_auc"], default=None),
            "train_seconds": round(result.train_seconds, 2), "tasks_seen": result.tasks_seen, "steps": result.steps,
            "planned_steps": result.horizon, "compile_s": race.compile_s, "curve": race.curve,
            "by_data_set": {c.id: {"name": c.name, "random_forest": forests[c.id], "network": race.last.get(c.id)}
                            for c in courses},
            "environment": runtime.environment(),
        }  # fmt: skip
        if out:
            output.write_text(out, json.dumps(output.jsonable(found), indent=1) + "\n")
        if self.json:
            output.emit_json(found)
        else:
            _show(found)


class _Race:
    """Evaluates a run as it goes; the curve so far and the first point at or above the target."""

    def __init__(self, courses: list[Any], target: float, pause: float, keep_going: bool, measure: Any):
        self.target, self.pause, self.keep_going, self._measure = target, pause, keep_going, measure
        self.curve: list[dict[str, Any]] = []
        self.reached: dict[str, Any] | None = None
        self.last: dict[str, float] = {}
        self.compile_s: float | None = None
        self._next = pause

    def watch(self, moment: Any) -> bool:
        if self.compile_s is None:
            self.compile_s = round(moment.seconds - moment.train_seconds, 2)
        if moment.train_seconds < self._next and moment.step < moment.horizon:
            return False
        self._next = moment.train_seconds + self.pause
        self._add(moment, moment.step, moment.weights())
        return self.reached is not None and not self.keep_going

    def finish(self, result: Any, weights: Any) -> None:
        """The network a run ended with, when its time was over between two evaluations."""
        self._add(result, result.steps, weights)

    def _add(self, at: Any, step: int, weights: Any) -> None:
        mean, self.last = self._measure(weights)
        point = {
            "train_seconds": round(at.train_seconds, 2), "seconds": round(at.seconds, 2),
            "tasks_seen": at.tasks_seen, "step": step, "loss": at.loss, "roc_auc": mean,
        }  # fmt: skip
        self.curve.append(point)
        output.log(f"{point['train_seconds']:.0f} s, {at.tasks_seen:,} tasks: ROC AUC {mean:.5f}")
        if mean >= self.target and self.reached is None:
            self.reached = point | {"minutes": round(at.train_seconds / 60, 3)}


def _show(found: dict[str, Any]) -> None:
    rows = [
        [f"{p['train_seconds'] / 60:.2f}", f"{p['tasks_seen']:,}", f"{p['loss']:.4f}", f"{p['roc_auc']:.5f}"]
        for p in found["curve"]
    ]
    print(output.table(rows, ["minutes", "tasks", "loss", "ROC AUC"]))
    print(f"random forest {found['random_forest']:.5f} on {found['data_sets']} data sets of {found['suite']}")
    reached = found["reached"]
    if reached:
        print(
            f"target {found['target']:.5f} reached after {reached['minutes']:.2f} minutes of training and "
            f"{reached['tasks_seen']:,} tasks, sampling included; compiling took {found['compile_s']:.0f} s"
        )
    else:
        print(f"target {found['target']:.5f} not reached in {found['train_seconds'] / 60:.2f} minutes of training")
