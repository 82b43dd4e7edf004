"""The toy run of ``toy.py`` as a module, a program to start, and one finished run that several tests look at."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOY = Path(__file__).parent / "toy.py"


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("priorax_toy_run", TOY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def finished(toy, tmp_path_factory):
    """Run directory and result of the toy recipe, 24 steps without interruption."""
    from priorax.train import pretrain

    out = tmp_path_factory.mktemp("toy") / "run"
    return out, pretrain(toy.RECIPE, out, quiet=True, sampler_factory=toy.linear_tasks)


@pytest.fixture(scope="session")
def start_toy():
    """Starts ``toy.py`` in a process of its own."""

    def start(*args: object, **env: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(TOY), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **env},
        )  # fmt: skip

    return start
