"""Flags that several commands share, and the reading of ``--a.b.c VALUE`` settings."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from priorax import runtime
from priorax.configs.errors import ConfigError

Device = Literal["auto", "cpu", "gpu", "tpu"]
Switch = tyro.conf.FlagCreatePairsOff[bool]
"""A flag that is off unless given; there is no --no-FLAG."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """Flags every command has."""

    KEEPS_MEMORY: ClassVar[bool] = False
    """Whether the process keeps the memory it frees (`priorax.keep_memory`): right for commands that call short programs
    again and again; wrong for those that train, see there."""

    json: Switch = False
    """Print the result as one JSON object on stdout."""
    quiet: Switch = False
    """No logs and no progress on stderr."""
    log: Literal["auto", "json"] = "auto"
    """Form of the lines on stderr: readable, or one JSON object a line."""
    device: Device = "auto"
    """Where to compute; auto takes what JAX finds."""

    def start_devices(self) -> None:
        """Starts JAX on the device asked for, if one was; MissingError when it is not there."""
        if self.device != "auto":
            runtime.devices(self.device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutDir(Common):
    """Flags of a command that fills a directory."""

    overwrite: Switch = False
    """Delete what an earlier run left in --out."""
    resume: Switch = False
    """Go on with what an earlier run left in --out."""


Positional = tyro.conf.Positional
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


def settings(unknown: list[str]) -> dict[str, str]:
    """Turns left-over ``--a.b VALUE`` and ``--a.b=VALUE`` arguments into dotted overrides of a configuration.

    Raises:
      ConfigError: an argument is not of that form, or its value is missing.
    """
    found: dict[str, str] = {}
    rest = list(unknown)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise ConfigError(f"unexpected argument {word!r}; settings are written as --group.name VALUE")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest or (rest[0].startswith("--")):
                raise ConfigError(f"--{key} needs a value")
            value = rest.pop(0)
        found[key.replace("-", "_")] = value
    return found


def seconds(text: str, flag: str) -> float:
    """Seconds of ``90``, ``90s``, ``8m``, ``1h``, ``5m30s`` and the like.

    Raises:
      ConfigError: the text is no duration, or not above zero.
    """
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip().lower())
    total = (
        sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if not total > 0:
        raise ConfigError(f"{flag} is {text!r}; write a duration above zero, e.g. 90, 8m or 1h30m")
    return total
