"""Typed configurations: frozen dataclasses are the truth, YAML presets fill them in."""

from .errors import (
    ConfigError,
    DataError,
    MemoryLimitError,
    MissingError,
    NumericalError,
    PrioraxError,
    ThresholdError,
    require,
)
from .load import config_digest, load_preset, load_yaml, nearest, preset_names, preset_path, to_dict, to_yaml
from .prior import Laws, PriorConfig, Sizes, load_prior
from .recipe import Recipe, load_recipe

__all__ = [
    "ConfigError", "DataError", "Laws", "MemoryLimitError", "MissingError", "NumericalError", "PrioraxError",
    "PriorConfig", "Recipe", "Sizes", "ThresholdError", "config_digest", "load_preset", "load_prior", "load_recipe",
    "load_yaml", "nearest", "preset_names", "preset_path", "require", "to_dict", "to_yaml",
]  # fmt: skip
