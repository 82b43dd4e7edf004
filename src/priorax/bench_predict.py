"""Measures the classifier: fresh processes, first and warm calls, one row against a cached context."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from priorax import runtime
from priorax.configs.errors import MissingError

# Run in a process of its own: argv is the settings as JSON, stdout the answer as JSON.
_FRESH = """
import json, sys, time
start = time.perf_counter()
import numpy as np
from priorax import PFNClassifier, bench_predict
s = json.loads(sys.argv[1])
x, y, query = bench_predict.table(s["context"], s["columns"], s["queries"], s["classes"], s["seed"])
model = PFNClassifier(s["n_estimators"], weights=s["model"], random_state=s["seed"]).fit(x, y)
model.predict_proba(query)
print(json.dumps({"seconds": time.perf_counter() - start}))
"""


def table(rows: int, columns: int, queries: int, classes: int, seed: int) -> tuple[Any, Any, Any]:
    """A table to time: context f64[rows, columns], classes i64[rows] in equal shares, queries f64[queries, columns]."""
    import numpy as np

    x = np.random.default_rng(seed).normal(size=(rows + queries, columns))
    score = x[:rows, 0] + 0.3 * x[:rows, -1] ** 2
    return x[:rows], np.argsort(np.argsort(score)) * classes // rows, x[rows:]


def predict_point(settings: dict[str, Any], *, fresh: bool) -> dict[str, Any]:
    """One benchmark point.

    Args:
      settings: ``context``, ``columns``, ``queries``, ``classes``, ``n_estimators``, ``model`` (weights file or None),
        ``seed``, ``repeats``.
      fresh: also time processes of their own.

    Returns:
      The sizes, the first digits of the weights' SHA-256, and seconds: ``process_s`` and ``process_no_cache_s`` (a new process: import, fit, predict; with the
      compile cache of this machine, and with an empty one), ``first_s`` (fit and predict, first time in this process);
      with p50, p95, least and most over the repeats: ``fit_predict_s``, ``predict_s`` (context cached), ``one_row_s``
      (one row, context cached); ``peak_mb``.
    """
    from priorax import PFNClassifier

    s = settings
    x, y, query = table(s["context"], s["columns"], s["queries"], s["classes"], s["seed"])
    point: dict[str, Any] = {name: s[name] for name in ("context", "columns", "queries", "classes", "n_estimators")}
    if fresh:
        point |= _fresh(s)

    def fitted() -> Any:
        return PFNClassifier(s["n_estimators"], weights=s["model"], random_state=s["seed"]).fit(x, y)

    start = time.perf_counter()
    model = fitted()
    model.predict_proba(query)
    point["weights"] = model.weights_hash_[:12]
    point["first_s"] = round(time.perf_counter() - start, 3)
    model.predict_proba(query[:1])
    point["fit_predict_s"] = timed(lambda: fitted().predict_proba(query), s["repeats"])
    point["predict_s"] = timed(lambda: model.predict_proba(query), s["repeats"])
    point["one_row_s"] = timed(lambda: model.predict_proba(query[:1]), s["repeats"])
    point["peak_mb"] = runtime.peak_memory_mb()
    return point


def tabicl_beside(point: dict[str, Any], settings: dict[str, Any], *, fresh: bool) -> dict[str, Any]:
    """The point of TabICL's network (`priorax.bench_tabicl`) beside one of ours, with the same keys.

    Args:
      point: ours, as `predict_point` gives it.
      settings, fresh: as for `predict_point`.

    Returns:
      ``network`` ("tabicl VERSION, ... parameters, random weights"), then the keys of ``point``; None where TabICL has
      no such thing (a compile cache).

    Raises:
      MissingError: its process failed; the message holds the last line it wrote.
    """
    command = [sys.executable, "-m", "priorax.bench_tabicl"]
    asked = settings | {"threads": runtime.cpu_count()}
    found = _ask(command, asked, {})
    found["process_s"] = _ask(command, asked | {"once": True}, {})["process_s"] if fresh else None
    sizes = {name: settings[name] for name in ("context", "columns", "queries", "classes")} | {"n_estimators": 1}
    network = f"tabicl {found['version']}, {found['parameters'] / 1e6:.1f} M parameters, random weights"
    return {"network": network} | {name: sizes.get(name, found.get(name)) for name in point}


def latency(seconds: list[float]) -> dict[str, float]:
    """p50 (under the name ``median``), p95, least and most."""
    import numpy as np

    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    named = {"median": p50, "p95": p95, "min": min(seconds), "max": max(seconds)}
    return {name: round(float(value), 5) for name, value in named.items()}


def timed(work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """`latency` of calling ``work`` that many times."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return latency(seconds)


def _fresh(settings: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-c", _FRESH]
    _ask(command, settings, {})  # fills the machine's compile cache
    with tempfile.TemporaryDirectory(prefix="priorax-bench-") as empty:
        cold = _ask(command, settings, {"JAX_COMPILATION_CACHE_DIR": empty})["seconds"]
    return {
        "process_s": round(_ask(command, settings, {})["seconds"], 3),
        "process_no_cache_s": round(cold, 3),
    }


def _ask(command: list[str], settings: dict[str, Any], env: dict[str, str]) -> dict[str, Any]:
    run = subprocess.run(
        [*command, json.dumps(settings)], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    try:
        return json.loads(run.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (run.stderr.strip() or "no output").splitlines()[-1]
        raise MissingError(f"{command[0]} could not be measured (exit code {run.returncode}): {last}") from None
