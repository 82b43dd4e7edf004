"""Fits find the law a log was made from, and say when there is too little to fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from priorax.configs import DataError
from priorax.train.scaling import auc_at, binned, fit_auc, fit_loss, loss_at, read_log, scaling


def _law(tasks):
    return 0.3 + 0.5 * (np.asarray(tasks, float) / 100) ** -0.4


def _write(folder, steps, every=None, decay_from=1.0, noise=0.0, seed=0):
    """A log of ``steps`` dispatches of 100 tasks that follows the law."""
    rng, lines = np.random.default_rng(seed), []
    for i in range(1, steps + 1):
        rate = 1.0 if i <= decay_from * steps else 0.1
        loss = float(_law(100 * i) + noise * rng.normal())
        line = {"step": i, "loss": loss, "learning_rate": rate, "tasks_seen": 100 * i}
        lines.append(line)
        if (every and i % every == 0) or i == steps:
            auc = 0.6 + 0.1 * np.log10(i)
            lines.append({"step": i, "event": "validation", "validation_loss": float(_law(100 * i)),
                          "validation_accuracy": 0.5, "validation_roc_auc": float(auc)})  # fmt: skip
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"torn')
    return folder


def test_fits_find_the_law():
    tasks = np.geomspace(100, 1e5, 12)
    fit = fit_loss(tasks, _law(tasks))
    assert (fit["floor"], fit["scale"], fit["exponent"]) == pytest.approx((0.3, 0.5, 0.4), abs=1e-3)
    assert loss_at(fit, 1e6) == pytest.approx(_law(1e6), abs=1e-3)
    line = fit_auc(tasks, 0.7 + 0.02 * np.log10(tasks))
    assert line["per_decade"] == pytest.approx(0.02) and auc_at(line, 1e6) == pytest.approx(0.82)
    assert auc_at(line, 1e30) == 1.0


def test_validations_at_the_full_rate_are_fitted(tmp_path):
    run = _write(tmp_path / "a", 200, every=20, decay_from=0.8)
    log = read_log(run)
    assert len(log.tasks) == 160 and log.decayed.tolist() == [False] * 8 + [True] * 2
    found = scaling([run])
    assert found["basis"] == "held-out tasks, full learning rate" and found["tasks_so_far"] == 20_000
    assert found["loss"]["exponent"] == pytest.approx(0.4, abs=0.02)
    assert found["roc_auc"]["per_decade"] == pytest.approx(0.1, abs=1e-6)
    ahead = found["expected"][-1]
    assert ahead["factor"] == 100 and ahead["loss"] == pytest.approx(_law(2e6), abs=0.02)
    assert ahead["loss_interval"][0] <= ahead["loss"] + 1e-6 and ahead["roc_auc"] <= 1


def test_the_ends_of_several_runs_are_fitted_together(tmp_path):
    runs = [_write(tmp_path / str(n), n, decay_from=0.6) for n in (10, 30, 100, 300)]
    found = scaling(runs)
    assert found["basis"].endswith("decayed") and [p["tasks"] for p in found["points"]] == [1e3, 3e3, 1e4, 3e4]
    assert found["loss"]["floor"] == pytest.approx(0.3, abs=0.03)
    assert found["tasks_so_far"] == 30_000 and found["expected"][0]["tasks"] == 30_000


def test_tasks_so_far_are_those_of_the_decay_too(tmp_path):
    found = scaling([_write(tmp_path / "a", 400, decay_from=0.5, noise=0.02)], (2,))
    assert found["basis"].startswith("training loss") and [row["tasks"] for row in found["expected"]] == [40_000, 80_000]


def test_without_validations_the_training_loss_is_fitted(tmp_path):
    found = scaling([_write(tmp_path / "a", 400, noise=0.02)])
    assert found["basis"].startswith("training loss") and found["roc_auc"] is None
    assert found["expected"][0]["loss"] == pytest.approx(_law(40_000), abs=0.02)
    x, y, error = binned(np.arange(1.0, 101), np.ones(100), 5)
    assert (np.diff(x) > 0).all() and (y == 1).all() and (error == 0).all()


def test_too_little_is_said(tmp_path):
    with pytest.raises(DataError, match="3 usable points"):
        scaling([_write(tmp_path / "a", 3)])
    with pytest.raises(DataError, match="cannot be read"):
        read_log(tmp_path / "nothing")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match="records no training"):
        read_log(empty)
    (empty / "metrics.jsonl").write_text('{"torn\n{}\n')
    with pytest.raises(DataError, match="line 1"):
        read_log(empty)
