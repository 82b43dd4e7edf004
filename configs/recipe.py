"""A recipe: everything that decides which weights come out of pretraining, but the seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from .errors import ConfigError
from .load import config_digest, load_preset
from .model import ModelConfig
from .prior import PriorConfig
from .train import TrainConfig


@dataclasses.dataclass(frozen=True)
class TaskShape:
    """A table shape to train on, and when. One compiled program each.

    Attributes:
      rows: rows of a table.
      columns: most columns of a table.
      least_columns: fewest columns of a table's cohort, or None for the prior's own law. Padded columns cost as much as
        real ones, so several narrow ranges train faster than one wide one.
      tasks: tasks of one optimiser step, over all devices together.
      context: context rows of every table; None to let the prior draw them per task (dearer: all rows are computed as
        possible context).
      least_context: fewest context rows, when every task is to draw its own number: log-uniform from here to ``context``, so that
        short contexts are as frequent as long ones. None: all have ``context``. All rows are computed as possible context.
      score_columns: room for ridge scores beside the table's columns (`priorax.models.ridge_scores`), as members of the estimator see
        them; 0: tables have none. Four regressions have a column each of two classes, and one for every class of more; where room is
        short some are drawn. Needs ``context`` rows that all tables have, at least 50.
      weight: how often this shape is trained on relative to the others that are active.
      start, end: active part of the run, as shares in [0, 1].
    """

    rows: int = 256
    columns: int = 10
    least_columns: int | None = None
    tasks: int = 8
    context: int | None = 192
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    least_context: int | None = dataclasses.field(default=None, metadata={"added": True})
    score_columns: int = dataclasses.field(default=0, metadata={"added": True})

    def __post_init__(self) -> None:
        if self.rows < 8:
            raise ValueError(f"shape.rows is {self.rows}; at least 8")
        if self.columns < 1:
            raise ValueError(f"shape.columns is {self.columns}; at least 1")
        if self.least_columns is not None and not 1 <= self.least_columns <= self.columns:
            raise ValueError(f"shape.least_columns is {self.least_columns}; allowed: 1 to columns = {self.columns}")
        if self.tasks < 1:
            raise ValueError(f"shape.tasks is {self.tasks}; at least 1")
        if self.context is not None and not 4 <= self.context < self.rows:
            raise ValueError(f"shape.context is {self.context}; allowed: 4 to rows - 1 = {self.rows - 1}")
        if self.least_context is not None and (self.context is None or not 4 <= self.least_context <= self.context):
            raise ValueError(
                f"shape.least_context is {self.least_context} and shape.context {self.context}; allowed: 4 to context, "
                "which must be a number"
            )
        if not 0 <= self.score_columns <= 1000:
            raise ValueError(f"shape.score_columns is {self.score_columns}; allowed: 0 to 1000")
        if self.score_columns and (self.fixed_context or 0) < 50:
            raise ValueError(
                f"shape.score_columns is {self.score_columns}, which needs shape.context of at least 50 and no shape.least_context; "
                f"they are {self.context} and {self.least_context}"
            )
        if not self.weight > 0:
            raise ValueError(f"shape.weight is {self.weight}; it must be above 0")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"shape.start and shape.end are {self.start}, {self.end}; allowed: 0 <= start < end <= 1")

    @property
    def all_columns(self) -> int:
        """Columns the network has room for."""
        return self.columns + self.score_columns

    @property
    def label(self) -> str:
        """The shape for people, as in tables of results: ``256 x 10``, ``256 x 10 with scores``."""
        return f"{self.rows} x {self.columns}" + (" with scores" if self.score_columns else "")

    @property
    def fixed_context(self) -> int | None:
        """Context rows that all tasks of this shape have; None where every task has its own number."""
        return self.context if self.least_context is None else None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Prior, network, table shapes and training settings of one pretraining run.

    Attributes:
      name: goes into the metadata of the weights.
      description: one line for people.
      prior: name of a prior preset, or the path of a YAML file.
      model: the network.
      shapes: table shapes trained on; at every point of the run at least one must be active.
      train: optimisation.
      start_from: weights to start from instead of random ones: the path of a weights file, or ``default`` for those that ship.
        Their network must be like ``model``, which may have more layers. The run keeps a copy.
    """

    name: str
    description: str = ""
    prior: str = "default"
    model: ModelConfig = ModelConfig()
    shapes: tuple[TaskShape, ...] = (TaskShape(),)
    train: TrainConfig = TrainConfig()
    start_from: str | None = dataclasses.field(default=None, metadata={"added": True})

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name is empty; a recipe needs a name")
        if not self.shapes:
            raise ValueError("shapes is empty; a recipe needs at least one table shape")
        edges = sorted({0.0, *(s.start for s in self.shapes), *(s.end for s in self.shapes)} - {1.0})
        for edge in edges:
            if not any(s.start <= edge < s.end for s in self.shapes):
                raise ValueError(f"shapes: none is active at share {edge:g} of the run; widen start and end")

    def check_classes(self, prior: PriorConfig) -> None:
        """Refuses a prior with more classes than the network has outputs.

        Raises:
          ConfigError: that is so.
        """
        most = self.model.max_classes
        if prior.sizes.classes > most:
            raise ConfigError(
                f"prior {prior.name} draws up to {prior.sizes.classes} classes, the network of recipe {self.name} has {most} "
                f"outputs; set model.max_classes to {prior.sizes.classes}, or sizes.classes of the prior to {most}"
            )


def load_recipe(name: str | Path = "nano", overrides: Mapping[str, str] | None = None) -> Recipe:
    """Loads a recipe preset by name, or a YAML file by path. The file of a prior that it names is looked for in the working directory,
    then beside it.

    Raises:
      ConfigError: for an unknown name (the nearest ones are named), an unknown key, or a value out of range.
    """
    recipe = load_preset("recipes", name, Recipe, overrides=overrides)
    beside = Path(name).expanduser().parent / recipe.prior
    if recipe.prior.endswith((".yaml", ".yml")) and not Path(recipe.prior).expanduser().is_file() and beside.is_file():
        recipe = dataclasses.replace(recipe, prior=str(beside.resolve()))
    return recipe


def recipe_digest(recipe: Recipe) -> str:
    """`config_digest` of a recipe, of whose prior's file only that it is one counts: where it lies is another matter on every machine, and
    what it holds has a digest of its own."""
    is_file = recipe.prior.endswith((".yaml", ".yml")) or "/" in recipe.prior
    return config_digest(dataclasses.replace(recipe, prior="") if is_file else recipe)
