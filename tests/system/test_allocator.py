"""Kept memory: a process that frees large arrays again and again stops asking the kernel for them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from priorax import keep_memory
kept = keep_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(50_000_000, np.uint8)
before = faults()
for _ in range(4):
    np.ones(50_000_000, np.uint8)
print(kept, faults() - before)
"""
PAGES = 4 * 50_000_000 // 4096


def _run(**env: str) -> tuple[bool, int]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "PRIORAX_KEEP"))}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=clean | env, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_memory_that_was_freed_is_used_again():
    kept, faults = _run()
    assert kept and faults < PAGES // 10


@pytest.mark.parametrize("env", [{"PRIORAX_KEEP_MEMORY": "off"}, {"MALLOC_ARENA_MAX": "2"}])
def test_what_the_environment_says_comes_first(env):
    kept, _ = _run(**env)
    assert not kept


COMMAND = """
import sys
from priorax import runtime
asked = []
runtime.keep_memory = lambda: asked.append(True)
from priorax.cli import main
code = main(sys.argv[1:])
print(code, len(asked))
"""


@pytest.mark.parametrize(
    ("command", "keeps"),
    [(["pretrain", "--out", "unused", "--dry-run", "--quiet"], "0"),
     (["generate", "--out", "unused", "--n-tasks", "4", "--dry-run", "--quiet"], "1")],
)  # fmt: skip
def test_commands_that_train_leave_memory_alone(command, keeps, tmp_path):
    done = subprocess.run([sys.executable, "-c", COMMAND, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["0", keeps]
