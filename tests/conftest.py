"""Settings every test runs under, and the fixtures more than one room uses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

# Before anything imports jax. The compile cache is shared by all test processes and by later runs; a cold run fills it.
_CACHE = Path(tempfile.gettempdir()) / f"priorax-test-cache-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # bits and tolerances are stated for CPU; set it to "cuda" to try a GPU
os.environ.setdefault("MPLBACKEND", "Agg")
# The tables are tiny: OpenMP threads gain nothing, and on a busy machine they spin while they wait for one another (a gradient
# boosting fit that takes a second alone was seen to take two minutes).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads of scikit-learn that wait must not burn a shared core

import pytest
from hypothesis import settings

settings.register_profile("priorax", deadline=None)  # a busy machine is not a failure
settings.load_profile("priorax")

ROOT = Path(__file__).resolve().parents[1]

BUDGET = os.environ.get("PRIORAX_TEST_BUDGET", "25")
"""Minutes after which no further test is started, or "none". An ordinary machine needs a fraction of it."""
_started, _left_out = time.monotonic(), []


def _budget() -> float:
    try:
        return float("inf") if BUDGET == "none" else 60.0 * float(BUDGET)
    except ValueError:
        raise pytest.UsageError(f'PRIORAX_TEST_BUDGET is {BUDGET!r}; give minutes, or "none"') from None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cheap rooms come first and heavy tests last, so that on a slow machine the budget buys as many checks as it can."""
    rooms = ("configs", "eval", "system", "priors", "train", "models")

    def rank(item: pytest.Item) -> tuple[bool, int]:
        room = item.path.relative_to(ROOT / "tests").parts[0]
        return item.get_closest_marker("heavy") is not None, rooms.index(room) if room in rooms else len(rooms)

    items.sort(key=rank)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.monotonic() - _started > _budget():
        _left_out.append(item.nodeid)
        pytest.skip(f"the time budget of {BUDGET} minutes is used up (PRIORAX_TEST_BUDGET)")


def pytest_terminal_summary(terminalreporter) -> None:
    if _left_out:
        terminalreporter.section("not run", sep="=", red=True, bold=True)
        terminalreporter.line(
            f"{len(_left_out)} tests were NOT run: the time budget of {BUDGET} minutes was used up. This machine is slow; "
            "PRIORAX_TEST_BUDGET=none runs everything. First and last left out:"
        )
        for name in (_left_out[0], _left_out[-1]):
            terminalreporter.line(f"  {name}")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout the tests run from."""
    return ROOT


@pytest.fixture(scope="session")
def openml_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A writable copy of an offline OpenML cache (the client writes into it); skips where none is given."""
    source = os.environ.get("PRIORAX_OPENML_CACHE")
    if not source:
        pytest.skip("no offline OpenML cache: set PRIORAX_OPENML_CACHE to the folder that holds org/openml")
    if not Path(source).is_dir():
        pytest.fail(f"PRIORAX_OPENML_CACHE={source} is not a folder")
    copy = tmp_path_factory.mktemp("openml") / "cache"
    shutil.copytree(source, copy)
    for path in [copy, *copy.rglob("*")]:  # the source may be read-only
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copy


@pytest.fixture(scope="session")
def run_cli():
    """Runs the command line in a process of its own: ``run_cli("doctor", "--json", cwd=..., env={...})``."""

    def run(*args: str, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 1800):
        return subprocess.run(
            [sys.executable, "-m", "priorax", *map(str, args)],
            cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module", autouse=True)
def _release_compiled_programs():
    """Drops compiled programs after every test file. Each holds dozens of memory maps, and a process that keeps those of the
    whole suite reaches the system's limit on maps (65,530 by default on Linux) and crashes."""
    yield
    if "jax" in sys.modules:
        import gc

        import jax

        jax.clear_caches()
        gc.collect()


@pytest.fixture
def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Called, it makes the default device look like an accelerator: what is traced from then on is written for one, and runs on a
    CPU as well, slowly. What was traced before it, or meanwhile, is forgotten: JAX does not know that anything changed."""
    import jax
    from priorax.priors import device

    def pretend() -> None:
        jax.clear_caches()
        monkeypatch.setattr(device, "default_device", lambda: types.SimpleNamespace(platform="gpu"))

    before = device.default_device
    yield pretend
    if device.default_device is not before:
        jax.clear_caches()
