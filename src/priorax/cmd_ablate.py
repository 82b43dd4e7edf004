"""`priorax bench ablate`: what each choice of a recipe is worth."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from priorax import options, output, runtime
from priorax.configs.errors import ConfigError

VARIANTS = (
    "another seed: seed=1000",
    "one thinking row: model.thinking_rows=1",
    "no column groups: model.group_offsets=[0]",
    "residual stream not scaled: model.residual_decay=1.0",
    "squared ReLU: model.activation=relu2",
    "retrieval decoder: model.decoder=retrieval",
    "two blocks: model.layers=2",
    "four blocks: model.layers=4",
    "two layers over rows: model.row_layers=2",
    "width 32: model.width=32; model.heads=1; model.hidden=64",
    "width 96: model.width=96; model.heads=3; model.hidden=192",
    "no averaging: train.average=0",
    "cosine: train.schedule=cosine",
    "unfiltered tasks: prior=default",
)
"""What is tried when nothing else is asked for; written for recipe nano. The first is what chance alone does."""
TASKS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablate(options.OutDir):
    """Trains variants of a recipe, for as many tasks or for the same time, and compares them on held-out tasks.

    Every variant differs from the recipe in the settings named. Differences are paired over held-out synthetic tasks,
    with 95 % bootstrap intervals; these say how sure a difference between two trained networks is, not how it would vary
    with the seed of training, for which there are --seeds and the variant "another seed". results.json and table.md are
    written anew after every variant; --resume goes on where it stopped, with more --variants too.
    """

    TAKES_SETTINGS = True

    out: Path
    """Directory for the runs and the results."""
    recipe: str = "nano"
    """The recipe that variants are variants of; settings for all of them as for pretrain: --model.width 96."""
    variants: tuple[str, ...] = VARIANTS
    """Each "NAME: PATH=VALUE; PATH=VALUE", with paths as in a recipe, and seed=N for runs with seeds from N on."""
    n_tasks: int | None = None
    """Tasks to train each variant on; 4,096 when --seconds is not given either."""
    seconds: str | None = None
    """Train each variant for this long instead, e.g. 3m; compiling and measuring come on top. The only fair way to
    compare networks of different sizes."""
    held_out: int = 1024
    """Held-out tasks, shared out among the table shapes of the recipe."""
    seeds: int = 1
    """Runs of every variant, with seeds from --seed on; a task's numbers are averaged over them."""
    seed: int = 0
    """First seed of weights and tasks."""
    host_devices: int = 0
    """Parts to split a CPU into; 0: one per core."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.ablation import Families, Runs, compare, markdown, run_variants
        from priorax.configs.recipe import recipe_digest

        for name, value in (("n-tasks", self.n_tasks), ("held-out", self.held_out), ("seeds", self.seeds)):
            if value is not None and value < 1:
                raise ConfigError(f"--{name} is {value}; it must be at least 1")
        if self.n_tasks is not None and self.seconds is not None:
            raise ConfigError("--n-tasks and --seconds exclude each other")
        seconds = None if self.seconds is None else options.seconds(self.seconds, "--seconds")
        tasks = (self.n_tasks or TASKS) if seconds is None else None
        variants = self._variants(settings)
        out = output.open_out(self.out, "bench ablate", overwrite=self.overwrite, resume=self.resume)
        asked = {"recipe": self.recipe, "tasks": tasks, "seconds": seconds, "seed": self.seed}
        output.write_run(out, "bench ablate", asked)
        about = {
            "kind": "ablation", "recipe": variants[0].recipe.name, "recipe_sha256": recipe_digest(variants[0].recipe),
            "variants": {v.name: text for v, text in zip(variants[1:], self.variants, strict=True)},
            "seeds": {v.name: v.seeds for v in variants}, "tasks": tasks, "seconds": seconds,
            "environment": runtime.environment(),
        }  # fmt: skip

        def report(runs: Runs, families: Families) -> dict[str, Any]:
            rows = compare(runs, families)
            left = [v.name for v in variants if v.name not in runs]
            found = about | {"held_out": len(families["component"]), "left": left, "rows": rows}
            output.write_text(out / "results.json", json.dumps(output.jsonable(found), indent=1) + "\n")
            output.write_text(out / "table.md", markdown(found))
            return found

        found = report(
            *run_variants(
                variants, out, tasks=tasks, seconds=seconds, held_out=self.held_out, log=output.log, report=report
            )
        )
        if self.json:
            output.emit_json(found)
        else:
            print(markdown(found), end="")

    def _variants(self, settings: dict[str, str]) -> list[Any]:
        """The recipe itself and its variants; ConfigError for one that cannot be."""
        from priorax.ablation import Variant
        from priorax.configs import load_recipe

        found = [Variant("recipe", load_recipe(self.recipe, overrides=settings), self._seeds(self.seed))]
        for text in self.variants:
            name, changes = parse_variant(text)
            seeds = self._seeds(_whole(changes.pop("seed", str(self.seed)), text))
            one = Variant(name, load_recipe(self.recipe, overrides={**settings, **changes}), seeds)
            if not one.slug or one.slug in {v.slug for v in found}:
                raise ConfigError(f'two variants would be called "{one.slug}" ({text!r}); give each a name of its own')
            found.append(one)
        return found

    def _seeds(self, first: int) -> tuple[int, ...]:
        return tuple(range(first, first + self.seeds))


def parse_variant(text: str) -> tuple[str, dict[str, str]]:
    """Name and settings of ``"NAME: PATH=VALUE; PATH=VALUE"``; ConfigError when it is not of that form."""
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


def _whole(number: str, text: str) -> int:
    if not number.isdigit():
        raise ConfigError(f"variant {text!r}: seed is {number!r}; give a whole number of at least 0")
    return int(number)
