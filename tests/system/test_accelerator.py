"""The script for accelerators does on a CPU, small, what it does on one."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "accelerator.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("accelerator", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_step_that_hangs_or_fails_loses_nothing(script, tmp_path):
    child = "import time; time.sleep(600)"  # holds the pipe open after its parent is gone
    code = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    hangs = [sys.executable, "-c", code]
    found = script.run_step("hangs", hangs, tmp_path, 3.0)
    assert found["code"] is None and 3 <= found["seconds"] < 60 and found["result"] is None
    assert "begun" in (tmp_path / "hangs.log").read_text()
    fails = [sys.executable, "-c", "import sys; print('{\"a\": 1}'); sys.exit('no device')"]
    found = script.run_step("fails", fails, tmp_path, 60.0)
    assert found["code"] == 1 and found["result"] == {"a": 1} and "no device" in (tmp_path / "fails.log").read_text()


@pytest.mark.slow
def test_all_steps_run_small(script, tmp_path, monkeypatch):
    """python -m pytest -m slow tests/system/test_accelerator.py"""
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["accelerator.py", "--out", str(out), "--quick", "--time-limit", "30m",
                                      "--steps", *script.STEPS])  # fmt: skip
    monkeypatch.setattr(script, "pretraining", lambda args, seconds: [
        sys.executable, "-m", "priorax", "pretrain", "--recipe", "smoke", "--out", str(args.run), "--json",
    ])  # fmt: skip
    assert script.main() == 0
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary) == set(script.STEPS) and all(step["result"] is not None for step in summary.values())
    agreement = summary["agreement"]["result"]
    assert agreement["labels_equal"] == agreement["cells_within_1e-4"] == 1.0 and agreement["gradients_finite"]
    assert agreement["probability_float32"] == 0.0 and agreement["gradient_cosine_bfloat16"] > 0.95
    assert all(0 < point["flop_utilisation"] for point in summary["pretrain"]["result"]["shapes"])
    assert (out / "model.safetensors").is_file()


@pytest.fixture
def ahead(tmp_path):
    """The script for programs compiled ahead, and a folder that says it holds those of the recipe `smoke`."""
    spec = importlib.util.spec_from_file_location("gpu_ahead", SCRIPT.with_name("gpu_ahead.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    known = {"identity": module.identity(module.recipe_of("smoke", "pallas"))}
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "programs.json").write_text(json.dumps(known))
    return module, tmp_path / "programs"


def test_a_leg_that_cannot_be_meant_is_refused_before_it_begins(ahead, tmp_path):
    module, programs = ahead
    args = argparse.Namespace(programs=programs, recipe="smoke", run=tmp_path / "run", keep=None, resume=False, time_limit="9m", timing="25s", compile_there=False)
    module.refuse(args)
    with pytest.raises(SystemExit, match="leaves no minute"):
        module.refuse(argparse.Namespace(**vars(args) | {"timing": "8m30s"}))
    with pytest.raises(SystemExit, match="nothing was compiled there"):
        module.refuse(argparse.Namespace(**vars(args) | {"programs": tmp_path}))
    with pytest.raises(SystemExit, match="no checkpoint"):
        module.refuse(argparse.Namespace(**vars(args) | {"resume": True}))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(SystemExit, match="--resume"):
        module.refuse(args)
    with pytest.raises(SystemExit, match="not empty"):
        module.refuse(argparse.Namespace(**vars(args) | {"run": tmp_path / "other", "keep": tmp_path / "run"}))
    with pytest.raises(SystemExit, match="recipe .* there, .* here"):
        module.refuse(argparse.Namespace(**vars(args) | {"recipe": "nano", "run": tmp_path / "other"}))


@pytest.mark.slow
def test_a_leg_whose_programs_cannot_run_compiles_its_own(ahead, tmp_path):
    """As on a GPU they were not made for; here there are none at all."""
    out, run, kept = tmp_path / "out", tmp_path / "run", tmp_path / "kept"
    command = [sys.executable, str(SCRIPT.with_name("gpu_ahead.py")), "run", "--recipe", "smoke", "--programs", str(ahead[1]),
               "--out", str(out), "--run", str(run), "--keep", str(kept), "--timing", "none", "--time-limit", "10m", "--total-time", "12m"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert "not through its trial (exit code 1); compiling there" in done.stdout
    told = json.loads((out / "ahead.json").read_text())
    assert told["ahead"] is False and told["steps"] > 0 and told["skipped"] == 0
    assert (run / "model.safetensors").is_file() and not (out / "passed").exists()
    assert {file.name for file in kept.iterdir()} == {"ahead.json", "metrics.jsonl", "model.safetensors", "parts.json", "state.000"}
