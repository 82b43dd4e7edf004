"""Ablations: paired differences are what they should be, and a smoke-sized run from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from priorax.configs import ConfigError, load_recipe

from priorax.ablation import compare, markdown, steps_for
from priorax.cli import main
from priorax.cmd_ablate import VARIANTS, Ablate, parse_variant

FACTS = {"parameters": 1.0, "tasks_seen": 2.0, "train_seconds": 1.0, "tasks_per_s": 3.0}


def test_differences_are_paired_by_task_and_family():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=(1, 400))  # tasks differ far more than networks do
    family = np.array(["a", "b"] * 200)
    base = FACTS | {"loss": hard, "roc_auc": 0.5 + hard / 100}
    better = hard - 0.1 * (family == "a") + 0.01 * rng.normal(size=hard.shape)
    other = FACTS | {"loss": better, "roc_auc": np.where(family == "b", np.nan, 0.6 + hard / 100)}
    rows = compare({"recipe": base, "other": other}, {"component": family, "target": family})
    assert "loss_difference" not in rows[0]
    found = rows[1]["loss_difference"]
    assert found["tasks"] == 400 and found["ci_low"] < found["mean"] == pytest.approx(-0.05, abs=0.002)
    assert found["ci_high"] - found["ci_low"] < 0.02  # not the spread over tasks, which is 1
    parts = rows[1]["by_component"]
    assert parts["a"]["loss"]["mean"] == pytest.approx(-0.1, abs=0.002)
    assert parts["b"]["loss"]["ci_low"] < 0 < parts["b"]["loss"]["ci_high"]
    assert parts["a"]["roc_auc"]["mean"] == pytest.approx(0.1) and parts["b"]["roc_auc"]["tasks"] == 0
    text = markdown({"recipe": "nano", "tasks": None, "seconds": 90.0, "held_out": 400, "rows": rows})
    assert "90 s of training" in text and "| variant | a (200) | b (0) |" in text
    assert text.count("| other |") == 3 and text.count("| recipe |") == 1
    first = {"recipe": "nano", "tasks": 64, "seconds": None, "held_out": 400, "rows": rows[:1]}
    assert "64 tasks" in markdown(first) and "by component" not in markdown(first)


def test_variants_are_read_and_those_that_ship_load():
    assert parse_variant("a b: model.width=32; train.warmup-steps = 5") == (
        "a b", {"model.width": "32", "train.warmup_steps": "5"}
    )  # fmt: skip
    for text in ("narrow", "narrow: width", ": a=1", "narrow:"):
        with pytest.raises(ConfigError, match="variant"):
            parse_variant(text)
    found = Ablate(out="x", seeds=2)._variants({})
    assert [v.name for v in found] == ["recipe", *(text.partition(":")[0] for text in VARIANTS)]
    assert found[0].seeds == (0, 1) and found[1].seeds == (1000, 1001) and found[1].recipe == found[0].recipe
    assert all(v.recipe != found[0].recipe for v in found[2:])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--variants", "narrow"], "NAME: PATH=VALUE"),
        (["--variants", "a: model.widht=3"], "model.width"),
        (["--variants", "a b: model.width=32", "a-b: model.layers=2"], "two variants would be called"),
        (["--variants", "a: seed=x"], "whole number"),
        (["--n-tasks", "64", "--seconds", "3m"], "exclude each other"),
        (["--seconds", "long"], "duration"),
        (["--held-out", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_made(args, says, capsys, tmp_path):
    assert main(["bench", "ablate", "--out", str(tmp_path / "out"), *args]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_steps_give_the_tasks_asked_for():
    assert steps_for(load_recipe("nano"), 4096) == 512  # 8 tasks a step
    small = load_recipe("small")  # shapes of 8, 16 and 4 tasks from the start, 7.5 in the mean with those of 4 and 2
    assert steps_for(small, 8000) % small.train.steps_per_dispatch == 0
    assert 8000 / 8.9 < steps_for(small, 8000) < 8000 / 7.5


@pytest.mark.slow  # compiles the sampler for training and for held-out tasks
def test_a_smoke_run(run_cli, tmp_path):
    out = tmp_path / "out"
    args = ["bench", "ablate", "--recipe", "smoke", "--out", out, "--n-tasks", "64", "--held-out", "32",
            "--host-devices", "1"]  # fmt: skip
    done = run_cli(*args, "--variants", "no averaging: train.average=0", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((out / "results.json").read_text())
    base, other = found["rows"]
    assert (base["variant"], other["variant"]) == ("recipe", "no averaging") and base["tasks_seen"] == 64
    assert other["loss_difference"]["tasks"] == found["held_out"] == 32 and found["left"] == []
    assert sum(part["loss"]["tasks"] for part in other["by_component"].values()) == 32
    assert sum(part["loss"]["tasks"] for part in other["by_target"].values()) == 32
    assert set(other["by_shape"]) == {"32 x 4"}
    table = (out / "table.md").read_text()
    assert "| no averaging |" in table and "| recipe |" in table
    weights = out / "runs" / "recipe-0" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    # One more variant: what is there is not trained again, and is what it was.
    again = run_cli(*args, "--resume", "--variants", "no averaging: train.average=0", "another seed: seed=7")
    assert again.returncode == 0, again.stderr
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert rows[1]["loss"] == other["loss"] and rows[2]["loss"] != base["loss"]
    assert weights.stat().st_mtime_ns == before
    empty = run_cli("bench", "scaling", out / "runs" / "recipe-0")
    assert empty.returncode == 3 and "usable points" in empty.stderr


@pytest.mark.slow  # likewise
def test_variants_train_for_the_same_time(run_cli, tmp_path):
    args = ["bench", "ablate", "--recipe", "smoke", "--out", tmp_path / "out", "--seconds", "4", "--held-out", "32"]
    done = run_cli(*args, "--variants", "wide: model.width=64; model.hidden=256", "--host-devices", "1", "--json")
    assert done.returncode == 0, done.stderr
    base, wide = json.loads(done.stdout)["rows"]
    assert 0 < wide["tasks_seen"] < base["tasks_seen"]  # a wider network sees fewer tasks in that time
    # Four seconds each, less what the host takes between dispatches; a stalled machine may take longer for the last one.
    assert all(1 < row["train_seconds"] < 8 for row in (base, wide))
