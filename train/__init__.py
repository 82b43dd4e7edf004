"""Pretraining: from a recipe and a seed to weights."""

from ..configs.recipe import Recipe, TaskShape, load_recipe
from ..configs.train import TrainConfig
from .loop import pretrain
from .result import Moment, PretrainResult
from .team import Team, join, leave

__all__ = [
    "Moment", "PretrainResult", "Recipe", "TaskShape", "Team", "TrainConfig", "join", "leave", "load_recipe", "pretrain",
]  # fmt: skip
