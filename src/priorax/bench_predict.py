"""Measures the classifier: fresh processes, first and warm calls, one row against a cached context, and a network of
TabICL's shape on the same tables where that package is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from priorax import runtime
from priorax.configs.errors import ConfigError, MissingError

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

# The package's own classes; weights are random, which costs as much time as trained ones. The default shape of its
# constructor is that of version 2 but for the names of variants that change no size.
_TABICL = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np, torch
try:
    from tabicl._model.tabicl import TabICL
except ImportError:
    from tabicl.model.tabicl import TabICL
s = json.loads(sys.argv[1])
torch.manual_seed(0)
model = TabICL(max_classes=10).eval()
rng = np.random.default_rng(s["seed"])
n, q = s["context"], s["queries"]
x = torch.tensor(rng.normal(size=(1, n + q, s["columns"])), dtype=torch.float32)
y = torch.tensor(np.arange(n) % s["classes"], dtype=torch.float32)[None]
def timed(work, repeats):
    work()
    out = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        out.append(time.perf_counter() - start)
    return out
with torch.inference_mode():
    found = {"fit_predict_s": timed(lambda: model(x, y), s["repeats"])}
    if hasattr(model, "forward_with_cache"):
        model.forward_with_cache(X_train=x[:, :n], y_train=y, X_test=x[:, n:], store_cache=True)
        answer = lambda rows: model.forward_with_cache(X_test=rows, use_cache=True, store_cache=False)
        found["predict_s"] = timed(lambda: answer(x[:, n:]), s["repeats"])
        found["one_row_s"] = timed(lambda: answer(x[:, n:n + 1]), s["repeats"])
found["parameters"] = sum(p.numel() for p in model.parameters())
found["threads"] = torch.get_num_threads()
print(json.dumps(found))
"""


def table(rows: int, columns: int, queries: int, classes: int, seed: int) -> tuple[Any, Any, Any]:
    """A table to time: context f64[rows, columns], classes i64[rows] in equal shares, queries f64[queries, columns]."""
    import numpy as np

    x = np.random.default_rng(seed).normal(size=(rows + queries, columns))
    score = x[:rows, 0] + 0.3 * x[:rows, -1] ** 2
    return x[:rows], np.argsort(np.argsort(score)) * classes // rows, x[rows:]


def predict_point(settings: dict[str, Any], *, fresh: bool, tabicl: str | None) -> dict[str, Any]:
    """One benchmark point.

    Args:
      settings: ``context``, ``columns``, ``queries``, ``classes``, ``n_estimators``, ``model`` (weights file or None),
        ``seed``, ``repeats``.
      fresh: also time processes of their own.
      tabicl: a Python interpreter that has the package ``tabicl``, or None.

    Returns:
      The sizes, and seconds: ``process_s`` and ``process_no_cache_s`` (a new process: import, fit, predict; with the
      compile cache of this machine, and with an empty one), ``first_s`` (fit and predict, first time in this process);
      with p50, p95, least and most over the repeats: ``fit_predict_s``, ``predict_s`` (context cached), ``one_row_s``
      (one row, context cached), ``tabicl_...`` the same for TabICL; ``peak_mb``.
    """
    from priorax import PFNClassifier

    s = settings
    x, y, query = table(s["context"], s["columns"], s["queries"], s["classes"], s["seed"])
    point: dict[str, Any] = {name: s[name] for name in ("context", "columns", "queries", "n_estimators")}
    if fresh:
        point |= _fresh(s)

    def fitted() -> Any:
        return PFNClassifier(s["n_estimators"], weights=s["model"], random_state=s["seed"]).fit(x, y)

    start = time.perf_counter()
    model = fitted()
    model.predict_proba(query)
    point["first_s"] = round(time.perf_counter() - start, 3)
    model.predict_proba(query[:1])
    point["fit_predict_s"] = _timed(lambda: fitted().predict_proba(query), s["repeats"])
    point["predict_s"] = _timed(lambda: model.predict_proba(query), s["repeats"])
    point["one_row_s"] = _timed(lambda: model.predict_proba(query[:1]), s["repeats"])
    point["peak_mb"] = runtime.peak_memory_mb()
    if tabicl is not None:
        found = _ask([tabicl, "-c", _TABICL], s, {})
        for name in ("fit_predict_s", "predict_s", "one_row_s"):
            point[f"tabicl_{name}"] = latency(found[name]) if name in found else None
        point |= {"tabicl_parameters": found["parameters"], "tabicl_threads": found["threads"]}
    return point


def find_tabicl(wanted: str) -> str | None:
    """The interpreter to run TabICL with: ``auto`` (this one if it has the package, else None), ``off``, or a path.

    Raises:
      ConfigError: the path is no file.
    """
    if wanted == "off":
        return None
    if wanted == "auto":
        both = all(importlib.util.find_spec(name) is not None for name in ("tabicl", "torch"))
        return sys.executable if both else None
    if not Path(wanted).expanduser().is_file():
        raise ConfigError(f"--tabicl {wanted}: no such file; give a Python interpreter that has tabicl, auto or off")
    return str(Path(wanted).expanduser())


def latency(seconds: list[float]) -> dict[str, float]:
    """p50 (under the name ``median``), p95, least and most."""
    import numpy as np

    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    named = {"median": p50, "p95": p95, "min": min(seconds), "max": max(seconds)}
    return {name: round(float(value), 5) for name, value in named.items()}


def _timed(work: Callable[[], Any], repeats: int) -> dict[str, float]:
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
