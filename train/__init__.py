"""Pretraining: from a recipe and a seed to weights."""

from ..configs.recipe import Recipe, TaskShape, load_recipe
from ..configs.train import TrainConfig
from .loop import PretrainResult, pretrain

__all__ = ["PretrainResult", "Recipe", "TaskShape", "TrainConfig", "load_recipe", "pretrain"]
