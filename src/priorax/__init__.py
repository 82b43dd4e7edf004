"""Priorax: sample tabular tasks with known causes, pretrain on them, predict in context.

Public names are loaded when first used, so `import priorax` costs milliseconds and does not start JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "TaskBatch": "priorax.priors",
    "TableShape": "priorax.priors",
    "load_prior": "priorax.configs",
    "make_sampler": "priorax.priors",
    "sample": "priorax.priors",
    "stream": "priorax.priors",
    "PFNClassifier": "priorax.models.estimator",
    "keep_memory": "priorax.allocator",
    "load_recipe": "priorax.configs",
    "pretrain": "priorax.train",
    "evaluate": "priorax.eval.harness",
    "PrioraxError": "priorax.configs",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from priorax.allocator import keep_memory as keep_memory
    from priorax.configs import PrioraxError as PrioraxError
    from priorax.configs import load_prior as load_prior
    from priorax.configs import load_recipe as load_recipe
    from priorax.eval.harness import evaluate as evaluate
    from priorax.models.estimator import PFNClassifier as PFNClassifier
    from priorax.priors import TableShape as TableShape
    from priorax.priors import TaskBatch as TaskBatch
    from priorax.priors import make_sampler as make_sampler
    from priorax.priors import sample as sample
    from priorax.priors import stream as stream
    from priorax.train import pretrain as pretrain


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'priorax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
