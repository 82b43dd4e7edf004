"""`priorax bench speedrun`: how long it takes to pretrain to the level of a random forest, data generation included."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from priorax import options, output, runtime
from priorax.configs.errors import ConfigError

RESULTS = "results.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speedrun(options.OutDir):
    """Trains a recipe from random weights until its mean ROC AUC passes that of scikit-learn's random forest.

    The protocol is that of the nanoTabPFN speedrun (arXiv 2606.03681): at most 1,000 rows and 100 columns of every data
    set, five folds, predictions of all folds scored once, one pass of the network. The clock counts training with the
    sampling of its tasks; it stands still while the network is evaluated, and compiling is reported apart. On the suite
    "speedrun" (38 tasks of TabArena) the data come from OpenML, from --openml-cache, or from a folder made beforehand;
    "dev32" is its twin on other data. results.json is written anew after every evaluation; --resume goes on.
    """

    TAKES_SETTINGS = True

    out: Path
    """Directory for the run and results.json."""
    recipe: str = "nano"
    """Recipe to train: a name, or the path of a YAML file. Settings as for pretrain: --train.learning-rate 2e-3."""
    suite: str = "speedrun"
    """Data sets: the name of a suite, OpenML task ids, data files, or a folder made by prefetch."""
    tasks: tuple[str, ...] = ()
    """Only these tasks of the suite."""
    openml_cache: Path | None = None
    """Folder with an offline OpenML cache; it is copied before use."""
    time_limit: str | None = None
    """Time of training at most, compiling and evaluation not included, e.g. 10m; the learning rate is planned for it.
    The recipe's own when left out."""
    every: str = "1m"
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

    def run(self, settings: dict[str, str]) -> None:
        from priorax.configs import load_recipe
        from priorax.configs.recipe import recipe_digest
        from priorax.eval.speedrun import PUBLISHED_BAR, networks, prepare, race_score
        from priorax.eval.suites import load_suite
        from priorax.models import load_weights
        from priorax.train import pretrain

        recipe = load_recipe(self.recipe, overrides=settings)
        if recipe.start_from is not None:
            raise ConfigError(f"start_from is {recipe.start_from}; a speedrun starts from random weights: leave it out")
        limit = None if self.time_limit is None else options.seconds(self.time_limit, "--time-limit")
        pause = options.seconds(self.every, "--every")
        suite = load_suite(self.suite, self.openml_cache)
        courses, left_out = prepare(suite, self.tasks or None, recipe.model.max_classes)
        what = {
            "suite": suite.name, "data_sets": {c.id: c.name for c in courses}, "recipe": recipe.name,
            "recipe_sha256": recipe_digest(recipe), "seed": self.seed, "forest_seed": self.forest_seed,
        }  # fmt: skip
        out = output.open_out(self.out, "bench speedrun", overwrite=self.overwrite, resume=self.resume)
        before = _before(out / RESULTS, what)
        output.write_run(out, "bench speedrun", what)
        for record in left_out:
            output.log(f"left out: {record['task']}: {record['reason']}")
        bar, each = self._bar(courses, before)
        target = bar if self.target is None else self.target
        found = {
            "kind": "speedrun", **what, "left_out": left_out, "target": target, "random_forest": bar,
            "random_forest_by_data_set": each, "random_forest_published": PUBLISHED_BAR,
            "time_limit": recipe.train.time_limit if limit is None else limit,
            "environment": runtime.environment(),
        }  # fmt: skip
        output.log(f"{len(courses)} data sets of {suite.name}: random forest {bar:.5f}, target {target:.5f}")

        def write(race: Race, finished: bool) -> dict[str, Any]:
            whole = found | race.facts() | {"finished": finished}
            output.write_text(out / RESULTS, json.dumps(output.jsonable(whole), indent=1) + "\n")
            return whole

        race = Race(
            target, pause, self.keep_going, lambda w: race_score(courses, networks(recipe.model, w)),
            lambda race: write(race, False), before,
        )  # fmt: skip
        write(race, False)
        if race.goes_on():
            result = pretrain(
                recipe, out / "run", seed=self.seed, resume=self.resume, total_time=limit, training_only=True,
                watch=race.watch, quiet=True,
            )  # fmt: skip
            if result.interrupted:
                number = int(result.interrupted)
                raise output.Interrupted(number, f"saved at step {result.steps} in {out}; go on with --resume")
            if race.goes_on() and (not race.curve or race.curve[-1]["step"] < result.steps):
                race.finish(result, load_weights(result.weights_path).params)
        whole = write(race, True)
        if self.json:
            output.emit_json(whole)
        else:
            _show(whole)

    def _bar(self, courses: list[Any], before: dict[str, Any] | None) -> tuple[float, dict[str, float]]:
        """What the random forest reaches, on all data sets and on each."""
        from priorax.eval.speedrun import forests, race_score

        if before:
            return before["random_forest"], before["random_forest_by_data_set"]
        return race_score(courses, forests(self.forest_seed, runtime.cpu_count()))


def _before(path: Path, what: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier call left, None if nothing; ConfigError when it was another race."""
    if not path.is_file():
        return None
    before = json.loads(path.read_text(encoding="utf-8"))
    wrong = next((name for name, value in what.items() if before.get(name) != value), None)
    if wrong:
        raise ConfigError(f"{path} is of another race: its {wrong} differs; choose another --out, or --overwrite")
    return before


class Race:
    """Evaluates a run as it goes: the curve so far, and its first point at or above the target.

    Args:
      target: mean ROC AUC.
      pause: training seconds between evaluations.
      keep_going: whether training goes on when the target is reached.
      measure: from weights to the mean ROC AUC and that of each data set.
      report: called after every evaluation.
      before: results of earlier legs.
    """

    def __init__(
        self,
        target: float,
        pause: float,
        keep_going: bool,
        measure: Callable[[Any], tuple[float, dict[str, float]]],
        report: Callable[[Race], Any],
        before: dict[str, Any] | None = None,
    ):
        self.target, self.pause, self.keep_going = target, pause, keep_going
        self._measure, self._report = measure, report
        self.curve: list[dict[str, Any]] = list(before["curve"]) if before else []
        self.startups: list[float] = list(before["startup_seconds"]) if before else []
        self._first = True

    @property
    def reached(self) -> dict[str, Any] | None:
        """The first point of the curve at or above the target."""
        return next((point for point in self.curve if point["roc_auc"] >= self.target), None)

    def goes_on(self) -> bool:
        """Whether there is a reason to train on."""
        return self.keep_going or self.reached is None

    def facts(self) -> dict[str, Any]:
        """What is known so far."""
        best = max(self.curve, key=lambda point: point["roc_auc"], default=None)
        known = {"startup_seconds": list(self.startups), "curve": list(self.curve)}
        return {"reached": self.reached, "best": best, **known}

    def watch(self, moment: Any) -> bool:
        """Called by `pretrain` after every dispatch; evaluates when it is time, and ends the run at the target."""
        if self._first:
            self._first = False
            self.startups.append(round(moment.startup_seconds, 2))
            # A leg starts at a checkpoint; what was evaluated after it belongs to steps that are done again.
            self.curve = [point for point in self.curve if point["step"] < moment.step]
        due = self.pause + (self.curve[-1]["train_seconds"] if self.curve else 0.0)
        if moment.train_seconds >= due or moment.step >= moment.horizon:
            self._add(moment, moment.step, moment.weights())
        return not self.goes_on()

    def finish(self, result: Any, weights: Any) -> None:
        """Evaluates the network a run ended with, when its time was over between two evaluations."""
        self._add(result, result.steps, weights)

    def _add(self, at: Any, step: int, weights: Any) -> None:
        began = time.monotonic()
        mean, each = self._measure(weights)
        took = time.monotonic() - began
        self.curve.append({
            "minutes": round(at.train_seconds / 60, 4), "train_seconds": round(at.train_seconds, 2), "step": step,
            "planned_steps": at.horizon, "tasks_seen": at.tasks_seen, "loss": at.loss, "roc_auc": mean,
            "by_data_set": each, "evaluation_seconds": round(took, 2),
        })  # fmt: skip
        output.log(f"{at.train_seconds:.0f} s, {at.tasks_seen:,} tasks: ROC AUC {mean:.5f} (evaluated in {took:.0f} s)")
        self._report(self)


def _show(found: dict[str, Any]) -> None:
    rows = [
        [f"{p['minutes']:.2f}", f"{p['tasks_seen']:,}", _loss(p["loss"]), f"{p['roc_auc']:.5f}"]
        for p in found["curve"]
    ]
    print(output.table(rows, ["minutes", "tasks", "loss", "ROC AUC"]))
    print(f"random forest {found['random_forest']:.5f} on {len(found['data_sets'])} data sets of {found['suite']}")
    compiling = " + ".join(f"{s:.0f}" for s in found["startup_seconds"])
    reached = found["reached"]
    if reached:
        print(
            f"target {found['target']:.5f} reached after {reached['minutes']:.2f} minutes of training and "
            f"{reached['tasks_seen']:,} tasks, sampling included; starting and compiling took {compiling} s"
        )
    else:
        last = found["curve"][-1]
        print(f"target {found['target']:.5f} not reached in {last['minutes']:.2f} minutes of training")


def _loss(value: float | None) -> str:
    """A leg that did nothing but evaluate has no loss: NaN, or None when read from a file."""
    return "" if value is None or math.isnan(value) else f"{value:.4f}"
