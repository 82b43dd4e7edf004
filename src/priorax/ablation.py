"""Variants of a recipe, trained alike and compared task by task."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

METRICS = ("loss", "roc_auc")


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
    recipes: dict[str, Any], out: Path, tasks: int, held_out: int, seeds: Iterable[int], log: Callable[[str], None]
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Trains every recipe and measures it on the same held-out tasks, those of the first recipe's prior.

    Returns:
      By name: ``parameters``, ``tasks_seen``, ``tasks_per_s``, and f64[seeds, tasks] of each metric; and str[tasks] of the
      ``component``, ``target`` and ``size`` of every held-out task.
    """
    from priorax.configs import load_prior
    from priorax.models import count_params
    from priorax.models.weights import load_weights
    from priorax.train import pretrain
    from priorax.train.heldout import measure_tasks, sample_held_out

    first = next(iter(recipes.values()))
    prior, each = load_prior(first.prior), math.ceil(held_out / len(first.shapes))
    sets = [sample_held_out(prior, shape, each, first.train.validation_seed) for shape in first.shapes]
    families = {
        "component": np.concatenate([s.component for s in sets]),
        "target": np.concatenate([s.target for s in sets]),
        "shape": np.concatenate([[f"{s.shape.rows} x {s.shape.columns}"] * len(s.component) for s in sets]),
    }
    runs: dict[str, dict[str, Any]] = {}
    for name, recipe in recipes.items():
        train = dataclasses.replace(recipe.train, steps=steps_for(recipe, tasks), time_limit=None, validate_steps=None)
        recipe = dataclasses.replace(recipe, train=train)
        found: dict[str, Any] = {metric: [] for metric in METRICS} | {"tasks_per_s": []}
        for seed in seeds:
            folder = out / "runs" / f"{re.sub('[^a-z0-9]+', '-', name.lower())}-{seed}"
            result = pretrain(recipe, folder, seed=seed, resume=True, quiet=True)
            if result.interrupted:
                from priorax import output

                number = int(result.interrupted)
                raise output.Interrupted(number, f"saved at step {result.steps} of {name}; go on with --resume")
            params = load_weights(result.weights_path).params
            measured = [measure_tasks(recipe.model, params, s) for s in sets]
            for metric in METRICS:
                found[metric].append(np.concatenate([m[metric] for m in measured]))
            if result.tasks_per_s:
                found["tasks_per_s"].append(result.tasks_per_s)
            log(
                f"{name}, seed {seed}: {result.tasks_seen:,} tasks, loss {np.mean(found['loss'][-1]):.4f}, "
                f"ROC AUC {np.nanmean(found['roc_auc'][-1]):.4f}"
            )
        found = {k: np.array(v) for k, v in found.items()}
        found |= {"parameters": int(count_params(params)), "tasks_seen": result.tasks_seen}
        found["tasks_per_s"] = float(np.mean(found["tasks_per_s"])) if len(found["tasks_per_s"]) else float("nan")
        runs[name] = found
    return runs, families


def compare(runs: dict[str, dict[str, Any]], families: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row per variant: means, and differences to the first one over all tasks and by family.

    Differences are variant minus recipe, so below zero is better for the loss and above zero for the AUC.
    """
    base = next(iter(runs))
    rows = []
    for name, run in runs.items():
        row: dict[str, Any] = {"variant": name, **{k: run[k] for k in ("parameters", "tasks_seen", "tasks_per_s")}}
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
    """The table for people: differences to the recipe with 95 % intervals, components of the prior in columns."""
    rows = found["rows"]
    parts = sorted({member for row in rows for member in row.get("by_component", {})})
    header = ["variant", "parameters", "tasks/s", "loss", "difference", "ROC AUC", "difference", *parts]
    about = (
        f"Recipe {found['recipe']}, {found['tasks']:,} tasks each, seeds {', '.join(map(str, found['seeds']))}; "
        f"{found['held_out']:,} held-out synthetic tasks; differences to the recipe with 95 % paired bootstrap intervals "
        "over tasks; the last columns are differences of ROC AUC by component of the prior."
    )
    lines = [about, "", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for row in rows:
        cells = [
            row["variant"], f"{row['parameters']:,}", f"{row['tasks_per_s']:.0f}", f"{row['loss']:.4f}",
            _interval(row.get("loss_difference")), f"{row['roc_auc']:.4f}", _interval(row.get("roc_auc_difference")),
            *(_interval(row.get("by_component", {}).get(part, {}).get("roc_auc")) for part in parts),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(value: dict[str, Any] | None) -> str:
    return "" if value is None else f"{value['mean']:+.4f} ({value['ci_low']:+.4f} to {value['ci_high']:+.4f})"
