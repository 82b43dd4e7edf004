"""Ablations: paired differences are what they should be, and a smoke-sized run from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from priorax.configs import ConfigError, load_recipe

from priorax.ablation import compare, steps_for
from priorax.cmd_ablate import VARIANTS, _variant


def test_differences_are_paired_by_task_and_family():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=(1, 400))  # tasks differ far more than networks do
    family = np.array(["a", "b"] * 200)
    told = {"parameters": 1, "tasks_seen": 2, "tasks_per_s": 3.0}
    base = told | {"loss": hard, "roc_auc": 0.5 + hard / 100}
    better = hard - 0.1 * (family == "a") + 0.01 * rng.normal(size=hard.shape)
    other = told | {"loss": better, "roc_auc": np.where(family == "b", np.nan, 0.6 + hard / 100)}
    rows = compare({"recipe": base, "other": other}, {"component": family})
    assert "loss_difference" not in rows[0]
    found = rows[1]["loss_difference"]
    assert found["tasks"] == 400 and found["ci_low"] < found["mean"] == pytest.approx(-0.05, abs=0.002)
    assert found["ci_high"] - found["ci_low"] < 0.02  # not the spread over tasks, which is 1
    parts = rows[1]["by_component"]
    assert parts["a"]["loss"]["mean"] == pytest.approx(-0.1, abs=0.002)
    assert parts["b"]["loss"]["ci_low"] < 0 < parts["b"]["loss"]["ci_high"]
    assert parts["a"]["roc_auc"]["mean"] == pytest.approx(0.1) and parts["b"]["roc_auc"]["tasks"] == 0


def test_variants_are_read_and_those_that_ship_load():
    assert _variant("a b: model.width=32; train.warmup-steps = 5") == (
        "a b", {"model.width": "32", "train.warmup_steps": "5"}
    )  # fmt: skip
    for text in ("narrow", "narrow: width", ": a=1", "narrow:"):
        with pytest.raises(ConfigError, match="variant"):
            _variant(text)
    for text in VARIANTS:
        load_recipe("nano", overrides=_variant(text)[1])


def test_steps_give_the_tasks_asked_for():
    assert steps_for(load_recipe("nano"), 4096) == 512  # 8 tasks a step
    small = load_recipe("small")  # two shapes, of 8 and of 4 tasks
    assert steps_for(small, 8000) % small.train.steps_per_dispatch == 0
    assert 1000 < steps_for(small, 8000) < 2000


@pytest.mark.slow  # compiles the sampler for training and for held-out tasks
def test_a_smoke_run(run_cli, tmp_path):
    out = tmp_path / "out"
    args = ["bench", "ablate", "--recipe", "smoke", "--out", out, "--n-tasks", "64", "--held-out", "32", "--host-devices", "1",
            "--variants", "no averaging: train.average=0"]  # fmt: skip
    done = run_cli(*args, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((out / "results.json").read_text())
    base, other = found["rows"]
    assert (base["variant"], other["variant"]) == ("recipe", "no averaging") and base["tasks_seen"] == 64
    assert other["loss_difference"]["tasks"] == found["held_out"] == 32
    assert sum(part["loss"]["tasks"] for part in other["by_component"].values()) == 32
    assert set(other["by_shape"]) == {"32 x 4"}
    table = (out / "table.md").read_text()
    assert "| no averaging |" in table and "| recipe |" in table
    again = run_cli(*args, "--resume")
    assert again.returncode == 0, again.stderr
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert rows[1]["loss"] == other["loss"]
    empty = run_cli("bench", "scaling", out / "runs" / "recipe-0")
    assert empty.returncode == 3 and "usable points" in empty.stderr
