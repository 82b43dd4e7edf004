"""`priorax doctor`: is this installation healthy?"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from priorax import options, output, runtime
from priorax.configs.errors import MissingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doctor(options.Common):
    """Reports versions, devices, caches, write access and disk, and makes a tiny prediction.

    Exit code 4 when the device asked for is absent or the prediction fails.
    """

    def run(self, settings: dict[str, str]) -> None:
        from priorax.models.compile_cache import enable_compile_cache

        devices = runtime.devices(self.device)
        cache = enable_compile_cache()
        report: dict[str, Any] = {
            **runtime.environment(),
            "devices": [str(d) for d in devices],
            "cache_dir": str(cache) if cache else None,
            "cache_mb": _folder_mb(cache) if cache else None,
            "cache_writable": _writable(cache) if cache else False,
            "temp_writable": _writable(Path(tempfile.gettempdir())),
            "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
            "extras": {name: _installed(name) for name in ("matplotlib", "pyarrow", "h5py", "pandas", "openml")},
        }
        try:
            report["predict"] = _tiny_predict()
        except MissingError as error:
            report["predict"] = {"ok": False, "error": str(error)}
        if self.json:
            output.emit_json(report)
        else:
            _show(report)
        if not report["predict"]["ok"]:
            raise MissingError(f"the tiny prediction did not work: {report['predict'].get('error', 'wrong answers')}")


def _tiny_predict() -> dict[str, Any]:
    import numpy as np

    import priorax

    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4))
    y = (x[:, 0] > 0).astype(int)
    start = time.perf_counter()
    probabilities = priorax.PFNClassifier(n_estimators=1).fit(x[:60], y[:60]).predict_proba(x[60:])
    seconds = time.perf_counter() - start
    accuracy = float((probabilities.argmax(1) == y[60:]).mean())
    ok = bool(np.isfinite(probabilities).all() and np.allclose(probabilities.sum(1), 1, atol=1e-4) and accuracy > 0.5)
    return {"ok": ok, "accuracy": accuracy, "seconds": round(seconds, 2)}


def _folder_mb(folder: Path) -> float:
    if not folder.is_dir():
        return 0.0
    return round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6, 1)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def _show(report: dict[str, Any]) -> None:
    for key, value in report.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        print(f"{key:16} {value}")
