"""benchmarks/tune_ensemble.py: combining stored logits is the same as fitting with each setting."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
from priorax.configs.errors import DataError
from priorax.models import PFNClassifier

pytestmark = pytest.mark.usefixtures("few_programs")
LEAST_ROWS = 256


@pytest.fixture(scope="module")
def tune(repository):
    spec = importlib.util.spec_from_file_location("tune_ensemble", repository / "benchmarks" / "tune_ensemble.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["tune_ensemble"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["tune_ensemble"]


@pytest.mark.filterwarnings("ignore:12 classes")
@pytest.mark.parametrize("classes", [2, 12])
def test_combined_logits_are_the_estimators_predictions(classes, tune, tiny_weights):
    rng = np.random.default_rng(0)
    y = np.arange(84) % classes
    X = np.exp(rng.normal(size=(84, 4)) + y[:, None])
    train, test = slice(0, 72), slice(72, 84)
    options = {"n_estimators": 4, "weights": tiny_weights, "random_state": 3}
    members, logits, stack = tune.run_members(X[train], y[train], X[test], None, options, ("none", "power"))
    found = tune.Logits(y[test], members, logits, len(members) // 4, stack)
    assert stack.shape == (12, classes)
    for setting in (
        tune.Setting(("none",), 1, 0.7, 0.0), tune.Setting(("none", "power"), 3, 1.0, 0.4), tune.Setting(("power",), 4, 0.9, 1.0),
    ):  # fmt: skip
        model = PFNClassifier(
            setting.n_estimators, numeric_transforms=setting.transforms, softmax_temperature=setting.temperature,
            stack_weight=setting.stack_weight, categorical_features=None, weights=tiny_weights, random_state=3,
        )  # fmt: skip
        expected = model.fit(X[train], y[train]).predict_proba(X[test])
        np.testing.assert_allclose(found.probabilities(setting), expected, atol=1e-4)


def test_tables_wider_than_a_member_are_refused(tune, tiny_weights):
    X = np.random.default_rng(0).normal(size=(20, 4))
    options = {"n_estimators": 1, "weights": tiny_weights, "max_columns": 3}
    with pytest.raises(DataError, match="4 columns, one member sees 3"):
        tune.run_members(X, np.arange(20) % 2, X, None, options, ("none",))


def test_it_runs_resumes_and_compares(tune, tiny_weights, tmp_path, capsys):
    args = ["--suite", "bundled", "--tasks", "iris", "wine", "--model", str(tiny_weights), "--out", str(tmp_path), "--folds", "1",
            "--members", "4", "--n-estimators", "1", "4", "--transforms", "none", "power",
            "--temperatures", str(tune.defaults().temperature), "1.2"]  # fmt: skip
    assert tune.main(args) == 0
    report = json.loads((tmp_path / "tune.json").read_text())
    assert report["data_sets"] == ["iris", "wine"] and report["base"] == str(tune.defaults())
    rows = report["tables"]["log_loss"]
    assert len(rows) == 8 and [r["gain"] for r in rows] == sorted((r["gain"] for r in rows), reverse=True)
    base = next(r for r in rows if r["setting"] == report["base"])
    assert base["gain"] == 0 and base["wins"] == base["losses"] == 0
    for row in rows:
        values = np.array(report["values"]["log_loss"][row["setting"]])
        gains = np.array(report["values"]["log_loss"][report["base"]]) - values
        assert row["gain"] == pytest.approx(gains.mean()) and row["ci_low"] <= row["gain"] <= row["ci_high"]
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npz")}
    assert len(stamps) == 2
    assert tune.main(args) == 0  # from the stored logits
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npz")} == stamps
    again = json.loads((tmp_path / "tune.json").read_text())
    assert [r["setting"] for r in again["tables"]["log_loss"]] == [r["setting"] for r in rows]
    capsys.readouterr()


def test_wrong_flags(tune, tmp_path, capsys):
    for flags in (["--transforms", "log"], ["--members", "2"], ["--temperatures", "0"]):
        with pytest.raises(SystemExit):
            tune.parse(["--out", str(tmp_path), *flags])
    assert "unknown transform log" in capsys.readouterr().err
