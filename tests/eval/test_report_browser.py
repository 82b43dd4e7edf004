"""The report as a browser draws it: headless Chromium, where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from priorax.configs.eval import PROTOCOLS, Protocol
from priorax.eval.report import evaluation_report
from priorax.eval.result import POOLED, EvalResult
from priorax.eval.store import Store

pytest.importorskip("matplotlib", reason="figures need matplotlib")
pytestmark = pytest.mark.slow
BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
METHODS = ("priorax", "random_forest", "logistic_regression", "xgboost tuned")
METRICS = ("roc_auc", "roc_auc_ovo", "log_loss", "accuracy", "balanced_accuracy", "brier", "ece")


def made_up(out: Path, protocol: Protocol, sets: int = 12, group: bool = False) -> EvalResult:
    """An evaluation of four methods with every kind of content: scores, curves, a failure, notes, server errors."""
    rng = np.random.default_rng(0)
    rows = []
    store = Store(out)
    tasks = tuple(f"t{j}" for j in range(sets))
    for i, method in enumerate(METHODS):
        for j, task in enumerate(tasks):
            for fold in [*range(2), *([POOLED] if protocol.pooled else [])]:
                for shots in protocol.shots or (0,):
                    base = {
                        "method": method, "task": task, "data": f"data set {j}", "repeat": 0, "fold": fold, "shots": shots,
                        "group": f"family {j % 4}" if group else "", "seed": 0, "time_train_s": 0.02 * 4**i,
                        "time_warmup_s": 0.0, "time_infer_s": 0.01, "memory_mb": 12.0 + i, "n_train": 80, "n_test": 20,
                        "n_features": 5, "n_classes": 2, "status": "ok", "reason": "7 random of 9 columns" if j == 2 else "",
                    }  # fmt: skip
                    if (i, j) == (3, 5):
                        words = "ValueError: <this> learner does not take 3 classes & says so at length"
                        rows.append(
                            base | {"metric": "", "value": np.nan, "metric_error": np.nan, "status": "failed", "reason": words}
                        )
                        continue
                    level = 0.9 - 0.02 * i - 0.3 * (j % 5) / 5 + 0.01 * rng.normal()
                    level -= 0.2 / np.log2(shots) if shots else 0.0
                    for metric in METRICS:
                        value = 1 - level if metric in ("log_loss", "brier", "ece") else level
                        rows.append(base | {"metric": metric, "value": value, "metric_error": 1 - level})
            y = rng.integers(2, size=200)
            p = np.clip(0.5 + (y - 0.5) * rng.uniform(-0.2, 0.9, size=200), 0.01, 0.99)
            meta = {"method": method, "task": task, "repeat": 0, "fold": 0, "status": "ok"}
            store.put(meta, y, np.stack([1 - p, p], 1))
    error = {"task": "t3", "attempt": 1, "error": "OpenMLServerError: Status code: 503", "again": True}
    names = {t: f"data set {t[1:]}" for t in tasks}
    return EvalResult(rows, METHODS, tasks, names, "made-up", protocol, 0, out, (error,))


@pytest.fixture(scope="module", params=["sets", "curves", "families"])
def page(request, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp(request.param)
    curve = Protocol("many-shot", splits="holdout", shots=(8, 32, 128, 512))
    protocol = {"sets": PROTOCOLS["speedrun"], "curves": curve, "families": PROTOCOLS["official"]}[request.param]
    result = made_up(out, protocol, group=request.param == "families")
    return evaluation_report(result, out / "report.html")


def browse(page: Path, *flags: str) -> subprocess.CompletedProcess:
    """Opens a page without a network. Chromium refuses its sandbox for root, so it is off; the page is our own."""
    if BROWSER is None:
        pytest.skip("no Chromium: install chromium to see the report as a browser does")
    home = page.parent / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--disable-component-update",
         f"--user-data-dir={home}", "--virtual-time-budget=4000", *flags, page.as_uri()],
        check=False, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(home)},
    )  # fmt: skip


def test_every_panel_is_there(page):
    text = page.read_text(encoding="utf-8")
    curves, families = "many-shot" in text.split("</p>")[0], "family 1" in text
    for heading in (
        "Leaderboard", "priorax against the others", "Mean rank", "Score against time", "Calibration", "Heat map",
        "All metrics", "Skipped, failed, and notes", "Settings",
        "Families of tasks" if families else "Every data set",
        *(["Learning curves", "Learning curves in numbers"] if curves else []),
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in text, heading
    assert "&lt;this&gt; learner" in text and "503" in text and "7 random of 9 columns" in text


def test_a_browser_draws_it(page, tmp_path):
    from matplotlib.image import imread

    picture = page.parent / "page.png"
    done = browse(page, f"--screenshot={picture}", "--window-size=1100,9000")
    assert picture.is_file(), done.stderr[-2000:]
    if keep := os.environ.get("PRIORAX_SCREENSHOTS"):  # to look at them
        Path(keep).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, Path(keep) / f"{page.parent.name}.png")
    pixels = imread(picture)[..., :3]
    ink = (pixels < 0.97).any(axis=2)
    assert ink.mean() > 0.03  # not an empty page
    # Nothing is cut off: the page has margins left and right all the way down.
    assert not ink[:, :5].any() and not ink[:, -5:].any()
    coloured = (pixels.max(2) - pixels.min(2) > 0.3).mean()
    assert coloured > 0.002  # figures are drawn, not just their frames


def test_nothing_is_fetched_and_images_have_sizes(page):
    """The page as the browser holds it after loading: every image has been decoded and fits into the page."""
    probe = page.with_name("probe.html")
    script = (
        "<script>addEventListener('load', () => { const images = [...document.images];"
        "document.title = JSON.stringify({n: images.length, broken: images.filter(i => !i.naturalWidth).length,"
        "wide: images.filter(i => i.getBoundingClientRect().right > innerWidth).length,"
        "loads: performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length,"
        "over: document.documentElement.scrollWidth - innerWidth}) })</script>"
    )
    probe.write_text(page.read_text(encoding="utf-8").replace("</body>", script + "</body>"), encoding="utf-8")
    done = browse(probe, "--dump-dom", "--window-size=1100,1600")
    found = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert found, done.stderr[-2000:]
    import json

    facts = json.loads(found[1])
    assert facts["n"] >= 5 and facts["broken"] == 0 and facts["wide"] == 0 and facts["loads"] == 0
    assert facts["over"] <= 0  # no sideways scrolling of the whole page
