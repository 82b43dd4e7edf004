"""`priorax bench ablate` and `priorax bench scaling`: what each choice is worth, and what more training would bring."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from priorax import options, output, runtime
from priorax.configs.errors import ConfigError

VARIANTS = (
    "one thinking row: model.thinking_rows=1",
    "no column groups: model.group_offsets=[0]",
    "residual stream not scaled: model.residual_decay=1.0",
    "no averaging: train.average=0",
    "cosine: train.schedule=cosine",
    "two blocks: model.layers=2",
    "width 32: model.width=32",
    "unfiltered tasks: prior=default",
)
"""What is tried when nothing else is asked for; written for recipe nano."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablate(options.OutDir):
    """Trains variants of a recipe for the same number of tasks and compares them, task by task, on held-out ones.

    Every variant differs from the recipe in the settings named. Differences are paired over held-out synthetic tasks, with
    95 % bootstrap intervals; these say how sure a difference between two trained networks is, not how it would vary with
    the seed of training, for which there is --seeds. Writes results.json and table.md; --resume goes on where it stopped.
    """

    TAKES_SETTINGS = True

    out: Path
    """Directory for the runs and the results."""
    recipe: str = "nano"
    """The recipe that variants are variants of; settings for all of them as for pretrain: --model.width 96."""
    variants: tuple[str, ...] = VARIANTS
    """Each "NAME: PATH=VALUE; PATH=VALUE", with paths as in a recipe."""
    n_tasks: int = 4096
    """Tasks to train each variant on."""
    held_out: int = 1024
    """Held-out tasks, shared out among the table shapes of the recipe."""
    seeds: int = 1
    """Runs of every variant, with seeds from --seed on; a task's numbers are averaged over them."""
    seed: int = 0
    """First seed of weights and tasks."""
    host_devices: int = 0
    """Parts to split a CPU into; 0: one per core."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.ablation import compare, markdown, run_variants
        from priorax.configs import config_digest, load_recipe

        for name, value in (("n-tasks", self.n_tasks), ("held-out", self.held_out), ("seeds", self.seeds)):
            if value < 1:
                raise ConfigError(f"--{name} is {value}; it must be at least 1")
        recipes = {"recipe": load_recipe(self.recipe, overrides=settings)}
        for text in self.variants:
            name, changes = _variant(text)
            if name in recipes:
                raise ConfigError(f'two variants are called "{name}"')
            recipes[name] = load_recipe(self.recipe, overrides={**settings, **changes})
        out = output.open_out(self.out, overwrite=self.overwrite, resume=self.resume)
        output.write_run(out, "bench ablate", {"recipe": self.recipe, "tasks": self.n_tasks, "seed": self.seed})
        seeds = range(self.seed, self.seed + self.seeds)
        runs, families = run_variants(recipes, out, self.n_tasks, self.held_out, seeds, output.log)
        found = {
            "kind": "ablation", "recipe": recipes["recipe"].name, "recipe_sha256": config_digest(recipes["recipe"]),
            "variants": dict(_variant(text) for text in self.variants), "seeds": list(seeds), "tasks": self.n_tasks,
            "held_out": len(families["component"]), "rows": compare(runs, families),
            "environment": runtime.environment(),
        }  # fmt: skip
        output.write_text(out / "results.json", json.dumps(output.jsonable(found), indent=1) + "\n")
        output.write_text(out / "table.md", markdown(found))
        if self.json:
            output.emit_json(found)
        else:
            print(markdown(found))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling(options.Common):
    """Fits loss and ROC AUC against tasks from the logs of runs, and says what more tasks are expected to bring."""

    runs: options.Positional[tuple[Path, ...]]
    """Directories of pretrain; several runs of one network with different numbers of tasks, or legs of one."""
    factors: tuple[float, ...] = (2, 10, 100)
    """How many times the tasks so far to predict for."""
    out: Path | None = None
    """Also write the result to this JSON file."""
    overwrite: options.Switch = False
    """Replace --out."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.train.scaling import scaling

        if not self.runs:
            raise ConfigError("give at least one directory of a run")
        if min(self.factors, default=1) <= 0:
            raise ConfigError("--factors must be above 0")
        out = output.check_out_file(self.out, self.overwrite) if self.out else None
        found = scaling(self.runs, self.factors)
        if out:
            output.write_text(out, json.dumps(output.jsonable(found), indent=1) + "\n")
        if self.json:
            output.emit_json(found)
            return
        fit = found["loss"]
        print(f"{found['basis']}, {fit['points']} points")
        print(
            f"loss = {fit['floor']:.4f} + {fit['scale']:.4f} (tasks / {fit['first']:,.0f})^-{fit['exponent']:.3f}, "
            f"residual {fit['residual']:.4f}"
        )
        if found["roc_auc"]:
            print(f"ROC AUC {found['roc_auc']['per_decade']:+.4f} a decade, residual {found['roc_auc']['residual']:.4f}")
        rows = [
            [f"x{row['factor']:g}", f"{row['tasks']:,.0f}", _between(row, "loss"), _between(row, "roc_auc")]
            for row in found["expected"]
        ]
        print(output.table(rows, ["", "tasks", "loss (90 %)", "ROC AUC (90 %)"]))


def _variant(text: str) -> tuple[str, dict[str, str]]:
    name, colon, rest = text.partition(":")
    changes = {}
    for part in filter(None, (p.strip() for p in rest.split(";"))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f'variant {text!r}: "{part}" is not PATH=VALUE')
        changes[key.strip().replace("-", "_")] = value.strip()
    if not colon or not name.strip() or not changes:
        raise ConfigError(f'variant {text!r}; write "NAME: PATH=VALUE; PATH=VALUE", e.g. "narrow: model.width=32"')
    return name.strip(), changes


def _between(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return ""
    interval = row[f"{name}_interval"]
    return f"{row[name]:.4f}" + (f" ({interval[0]:.4f} - {interval[1]:.4f})" if interval else "")
