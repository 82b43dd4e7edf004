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

__all__ = [
    "ConfigError", "DataError", "MemoryLimitError", "MissingError", "NumericalError", "PrioraxError", "ThresholdError",
    "config_digest", "load_preset", "load_yaml", "nearest", "preset_names", "preset_path", "require", "to_dict",
    "to_yaml",
]  # fmt: skip
