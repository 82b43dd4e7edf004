"""Variants of a recipe, trained alike and compared task by task."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from priorax import output

METRICS = ("loss", "roc_auc")
FACTS = ("parameters", "tasks_seen", "train_seconds", "tasks_per_s")
FOUND = "held_out.json"
"""In the directory of a run: what it made of every held-out task. A resumed call reads it instead of training again."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A recipe under a name, trained with ``seeds`` (weights and tasks)."""

    name: str
    recipe: Any
    seeds: tuple[int, ...]

    @property
    def slug(self) -> str:
        """The name as a folder is called."""
        return re.sub("[^a-z0-9]+", "-", self.name.lower()).strip("-")


Runs = dict[str, dict[str, Any]]
"""By name of the variant: the mean of every fact of `FACTS` over its seeds, and f64[seeds, tasks] of each metric."""
Families = dict[str, np.ndarray]
"""str[tasks] each: ``component``, ``target`` and ``shape`` of every held-out task."""


def steps_for(recipe: Any, tasks: int) -> int:
    """Optimiser steps in which a recipe sees about ``tasks`` tasks, whole dispatches."""
    from priorax.train.curriculum import active_shapes

    k, shares = recipe.train.steps_per_dispatch, []
    for point in range(64):
        active = active_shapes(recipe.shapes, (point + 0.5) / 64)
        weight = sum(recipe.shapes[i].weight for i in active)
        shares.append(sum(recipe.shapes[i].tasks * recipe.shapes[i].weight for i in active) / weight)
    return max(1, round(tasks / (float(np.mean(shares)) * k))) * k


def run_variants(
    variants: Sequence[Variant],
    out: Path,
    *,
    tasks: int | None,
    seconds: float | None,
    held_out: int,
    log: Callable[[str], None],
    report: Callable[[Runs, Families], None],
) -> tuple[Runs, Families]:
    """Trains every variant and measures it on the same held-out tasks, those of the first one's prior.

    Args:
      out: directory; runs go into ``out/runs``, and those that are finished there are not done again.
      tasks, seconds: how long each is trained, one of the two; seconds are of training, compiling apart.
      held_out: tasks to measure on, shared out among the table shapes of the first variant, rounded up to whole chunks.
      report: called with all that is known whenever a variant is finished.

    Raises:
      Interrupted: by a signal; the run in progress was saved.
    """
    from priorax.configs import load_prior
    from priorax.train.heldout import sample_held_out

    first = variants[0].recipe
    prior, each = load_prior(first.prior), math.ceil(held_out / len(first.shapes))
    sets = [sample_held_out(prior, shape, each, first.train.validation_seed) for shape in first.shapes]
    families = {
        "component": np.concatenate([s.component for s in sets]),
        "target": np.concatenate([s.target for s in sets]),
        "shape": np.concatenate([[s.shape.label] * len(s.component) for s in sets]),
    }
    log(f"{len(families['component']):,} held-out tasks drawn")
    runs: Runs = {}
    for variant in variants:
        train = dataclasses.replace(
            variant.recipe.train, steps=None if tasks is None else steps_for(variant.recipe, tasks), time_limit=None,
            validate_steps=None,
        )  # fmt: skip
        recipe = dataclasses.replace(variant.recipe, train=train)
        found = []
        for seed in variant.seeds:
            run = _one_run(recipe, prior, sets, out / "runs" / f"{variant.slug}-{seed}", seed, seconds)
            found.append(run)
            log(
                f"{variant.name}, seed {seed}: {run['tasks_seen']:,} tasks in {run['train_seconds']:.0f} s, "
                f"loss {np.mean(run['loss']):.4f}, ROC AUC {np.nanmean(np.array(run['roc_auc'], float)):.4f}"
            )
        runs[variant.name] = {fact: float(np.mean([f[fact] for f in found])) for fact in FACTS}
        runs[variant.name] |= {m: np.array([f[m] for f in found], np.float64) for m in METRICS}
        report(runs, families)
    return runs, families


def _one_run(
    recipe: Any, prior: Any, sets: Sequence[Any], folder: Path, seed: int, seconds: float | None
) -> dict[str, Any]:
    """Trains and measures, or reads what an earlier call of the same run found: `FACTS`, and a list of each metric."""
    from priorax.configs import config_digest, load_prior
    from priorax.configs.recipe import recipe_digest
    from priorax.models import count_params
    from priorax.models.weights import load_weights
    from priorax.train import pretrain
    from priorax.train.heldout import measure_tasks

    made_of = {
        "recipe": recipe_digest(recipe), "prior": config_digest(load_prior(recipe.prior)), "seed": seed,
        "seconds": seconds, "held_out_prior": config_digest(prior),
        "held_out": [[config_digest(s.shape), len(s.component)] for s in sets],
    }  # fmt: skip
    file = folder / FOUND
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["made_of"] == made_of:
            return known
    result = pretrain(recipe, folder, seed=seed, resume=True, total_time=seconds, training_only=True, quiet=True)
    if result.interrupted:
        raise output.Interrupted(int(result.interrupted), f"{folder.name}: saved at step {result.steps}; use --resume")
    params = load_weights(result.weights_path).params
    measured = [measure_tasks(recipe.model, params, s) for s in sets]
    found = {
        "made_of": made_of, "parameters": int(count_params(params)), "tasks_seen": result.tasks_seen,
        "train_seconds": round(result.train_seconds, 2),
        "tasks_per_s": result.tasks_seen / result.train_seconds if result.train_seconds else None,
    }  # fmt: skip
    found |= {m: np.concatenate([one[m] for one in measured]) for m in METRICS}
    found = output.jsonable(found)
    output.write_text(file, json.dumps(found) + "\n")
    return found


def compare(runs: Runs, families: Families) -> list[dict[str, Any]]:
    """One row per variant: means, and differences to the first one over all tasks and by family.

    Differences are variant minus recipe, so below zero is better for the loss and above zero for the AUC.
    """
    base = next(iter(runs))
    rows = []
    for name, run in runs.items():
        row: dict[str, Any] = {"variant": name, **{k: run[k] for k in FACTS}}
        for metric in METRICS:
            row[metric] = float(np.nanmean(run[metric]))
            row[f"{metric}_by_seed"] = [float(v) for v in np.nanmean(run[metric], axis=1)]
            if name == base:
                continue
            difference = run[metric].mean(0) - runs[base][metric].mean(0)
            row[f"{metric}_difference"] = _paired(difference, np.ones(len(difference), bool))
            for kind, members in families.items():
                row.setdefault(f"by_{kind}", {})
                for member in np.unique(members):
                    row[f"by_{kind}"].setdefault(str(member), {})[metric] = _paired(difference, members == member)
        rows.append(row)
    return rows


def _paired(difference: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    from priorax.eval.statistics import bootstrap_mean

    values = difference[chosen & np.isfinite(difference)]
    low, high = bootstrap_mean(values)
    mean = float(values.mean()) if len(values) else float("nan")
    return {"mean": mean, "ci_low": low, "ci_high": high, "tasks": len(values)}


def markdown(found: dict[str, Any]) -> str:
    """The tables for people: all tasks, then differences of ROC AUC by component of the prior and by kind of target."""
    rows = found["rows"]
    each = f"{found['tasks']:,} tasks" if found["tasks"] else f"{found['seconds']:g} s of training"
    whole = [
        [
            row["variant"], f"{row['parameters']:,.0f}", f"{row['tasks_seen']:,.0f}", f"{row['train_seconds']:.0f}",
            f"{row['loss']:.4f}", _interval(row.get("loss_difference")),
            f"{row['roc_auc']:.4f}", _interval(row.get("roc_auc_difference")),
        ]
        for row in rows
    ]  # fmt: skip
    about = (
        f"Recipe {found['recipe']}, {each} for each variant; {found['held_out']:,} held-out synthetic tasks, the same "
        "for all. Differences to the recipe, with 95 % bootstrap intervals of the mean over tasks, paired."
    )
    parts = [
        about,
        _table(["variant", "parameters", "tasks", "seconds", "loss", "difference", "ROC AUC", "difference"], whole),
    ]
    for kind, title in (("component", "component of the prior"), ("target", "how classes are made")):
        members = sorted({member for row in rows for member in row.get(f"by_{kind}", {})})
        if not members:
            continue
        by = [
            [row["variant"], *(_interval(row[f"by_{kind}"][member]["roc_auc"]) for member in members)]
            for row in rows
            if f"by_{kind}" in row
        ]
        heads = [f"{m} ({rows[-1][f'by_{kind}'][m]['roc_auc']['tasks']})" for m in members]
        parts += [f"Difference of ROC AUC by {title} (number of tasks):", _table(["variant", *heads], by)]
    return "\n\n".join(parts) + "\n"


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def _interval(value: dict[str, Any] | None) -> str:
    return "" if value is None else f"{value['mean']:+.4f} ({value['ci_low']:+.4f} to {value['ci_high']:+.4f})"
