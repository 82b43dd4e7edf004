"""The time budget of the test suite itself: on a slow machine tests are left out loudly, never in silence."""

from __future__ import annotations

import os
import subprocess
import sys


def _pytest(repository, budget, *args):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args], cwd=repository, text=True, capture_output=True,
        env={**os.environ, "PRIORAX_TEST_BUDGET": budget}, timeout=1800,
    )  # fmt: skip


def test_tests_beyond_the_budget_are_named(repository):
    run = _pytest(repository, "0", "tests/configs/test_load.py")
    assert run.returncode == 0 and "passed" not in run.stdout
    assert "tests were NOT run" in run.stdout and "tests/configs/test_load.py::" in run.stdout


def test_a_budget_that_is_no_number_is_refused(repository):
    run = _pytest(repository, "soon", "tests/configs/test_load.py")
    assert run.returncode != 0 and "give minutes" in run.stdout + run.stderr
