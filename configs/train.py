"""How a network is trained: optimiser, schedule, averaging, checkpoints."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of `priorax.train.pretrain`.

    Attributes:
      steps: optimiser steps (rounded up to whole dispatches), or None: as many as ``time_limit`` allows.
      time_limit: seconds of the whole run, all its legs together, compilation included; None for no limit. The
        learning rate is planned for it. Needed when ``steps`` is None and no other limit is given.
      steps_per_dispatch: optimiser steps that run on the device without the host.
      microbatch: tasks whose gradients are taken together; gradients of several are added. Small pieces stay in a CPU's
        cache. None: all tasks of a device at once.
      learning_rate: peak rate of Muon, which trains the matrices of the trunk; updates have a root mean square of 0.2
        times the rate.
      adam_learning_rate: peak rate of AdamW, which trains everything else.
      warmup_steps: linear warm-up.
      schedule: ``wsd`` (constant, then linear decay over the last ``decay`` of the run) or ``cosine``.
      decay: share of the run spent on decay (wsd).
      final_rate: rate at the end, as a share of the peak.
      muon_momentum, muon_weight_decay, adam_b2, adam_weight_decay: of the two optimisers; decay is multiplied by the
        rate.
      clip: largest global norm of the gradients.
      average: time constant of the exponential average of the weights, as a share of the run; 0 for none. The
        averaged weights are the ones that are validated and saved.
      max_bad_steps: stop after so many steps in a row whose loss or gradients were not finite.
      fast_compile: compile with `priorax.priors.compiler_options`: on a CPU a fraction of the time, for steps that are a little
        slower. A run of an hour does better without. No effect elsewhere.
      checkpoint_steps: optimiser steps between checkpoints.
      keep_checkpoints: checkpoints kept.
      validate_steps: optimiser steps between validations; None for one at the end only.
      validation_tasks: held-out tasks per table shape.
      validation_seed: seed of the held-out tasks; must differ from the training seed.
    """

    steps: int | None = None
    time_limit: float | None = None
    steps_per_dispatch: int = 8
    microbatch: int | None = 2
    learning_rate: float = 5e-3
    adam_learning_rate: float = 5e-3
    warmup_steps: int = 20
    schedule: Literal["wsd", "cosine"] = "wsd"
    decay: float = 0.4
    final_rate: float = 0.02
    muon_momentum: float = 0.95
    muon_weight_decay: float = 0.01
    adam_b2: float = 0.98
    adam_weight_decay: float = 0.0
    clip: float = 1.0
    average: float = 0.02
    max_bad_steps: int = 16
    fast_compile: bool = True
    checkpoint_steps: int = 400
    keep_checkpoints: int = 2
    validate_steps: int | None = None
    validation_tasks: int = 64
    validation_seed: int = 1_000_003

    def __post_init__(self) -> None:
        ranges = dict(
            steps=(1, 10**10), time_limit=(0, 1e9), steps_per_dispatch=(1, 100_000), microbatch=(1, 10**6),
            learning_rate=(1e-9, 1), adam_learning_rate=(0, 1), warmup_steps=(0, 10**8), decay=(0, 1), final_rate=(0, 1),
            muon_momentum=(0, 0.9999), muon_weight_decay=(0, 10), adam_b2=(0, 0.99999), adam_weight_decay=(0, 10),
            clip=(1e-6, 1e9), average=(0, 0.5), max_bad_steps=(1, 10**6), checkpoint_steps=(1, 10**9),
            keep_checkpoints=(1, 1000), validate_steps=(1, 10**9), validation_tasks=(1, 10**7),
            validation_seed=(0, 2**63 - 1),
        )  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"train.{name} is {value}; allowed: {low:g} to {high:g}")
        if self.schedule not in ("wsd", "cosine"):
            raise ValueError(f"train.schedule is {self.schedule!r}; allowed: wsd, cosine")
