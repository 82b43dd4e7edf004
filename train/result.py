"""What a run tells of itself: while it goes on, and at its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNKNOWN_HORIZON = 10**8
"""Steps a run is planned for while its speed is not known; no run comes near. Not to be shown to anyone."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """Where a run stands after a dispatch, for those who watch it.

    Attributes:
      step, horizon: optimiser steps done and planned.
      tasks_seen: tasks sampled and learned from.
      train_seconds: time of training dispatches, sampling included; of all legs.
      seconds: time of the run, all legs, compiling included, watching not; see ``training_only`` of `pretrain`.
      startup_seconds: time this leg took before its first dispatch, nearly all of it compiling.
      loss: mean training loss of the dispatch.
      weights: gives the averaged weights as host arrays.
    """

    step: int
    horizon: int
    tasks_seen: int
    train_seconds: float
    seconds: float
    startup_seconds: float
    loss: float
    weights: Callable[[], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class PretrainResult:
    """What a run came to.

    Attributes:
      weights_path: the averaged weights (safetensors, float16). There is no such file while a run from random weights has not
        trained a step.
      steps, horizon: optimiser steps done and planned; the latter None while the speed, and so the plan, is not known.
      tasks_seen: tasks sampled and learned from, over all legs of the run.
      seconds: time of all legs, compilation included unless training alone was to count.
      train_seconds: time of training dispatches, of all legs.
      tasks_per_s: tasks a second of training dispatches, of this leg.
      loss: mean training loss of the last dispatch.
      validation: held-out results of the averaged weights: "loss", "accuracy", "roc_auc" (means over shapes) and
        "shapes", a list of the same per shape. NaN and empty when a signal or the time limit left no time to measure.
        With a prior that chooses among candidates (``oversample``) the number of devices decides which tasks these are,
        so compare runs on equal devices only.
      skipped: steps skipped because a loss or gradient was not finite.
      interrupted: number of the signal that ended the run early, or None.
      resumed_from: step of the checkpoint this leg started from, or None.
      startup_seconds: time this leg took before its first dispatch, nearly all of it compiling.
      leg_limit: seconds this leg had, by its own limit or by what was left of the time of the run; None without limits.
      too_short: whether that left no room for a single step.
    """

    weights_path: Path
    steps: int
    horizon: int | None
    tasks_seen: int
    seconds: float
    train_seconds: float
    tasks_per_s: float
    loss: float
    validation: dict[str, Any]
    skipped: int
    interrupted: int | None
    resumed_from: int | None
    startup_seconds: float
    leg_limit: float | None
    too_short: bool
