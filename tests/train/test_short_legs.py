"""Legs that end before their first step: nothing is passed off as a result, and nothing is lost."""

from __future__ import annotations

import dataclasses
import functools
import json
import time

import pytest
from priorax.configs import to_yaml
from priorax.models import load_weights
from priorax.train import pretrain
from priorax.train.checkpoints import list_checkpoints
from priorax.train.clock import Clock

from priorax import cli


def _for_a_time(toy, **changes):
    train = dataclasses.replace(toy.RECIPE.train, steps=None, checkpoint_steps=10**6, validation_tasks=8)
    return dataclasses.replace(toy.RECIPE, train=train, **changes)


def test_a_run_without_a_step_leaves_no_weights_and_can_go_on(toy, tmp_path, capsys):
    recipe, kind = _for_a_time(toy), {"sampler_factory": toy.linear_tasks}
    nothing = pretrain(recipe, tmp_path, time_limit=0.01, **kind)
    assert nothing.too_short and nothing.steps == 0 and nothing.horizon is None and nothing.leg_limit == 0.01
    assert nothing.startup_seconds > 0.01 and nothing.validation["shapes"] == []
    assert not nothing.weights_path.exists() and [s for s, _ in list_checkpoints(tmp_path / "checkpoints")] == [0]
    said = capsys.readouterr().err
    assert "no step fitted in" in said and "no weights: nothing was trained" in said
    assert "nan" not in said and "100000000" not in said and "100,000,000" not in said
    assert "program 1 of 1 (32 rows, 3 columns) compiled in " in said
    some = pretrain(recipe, tmp_path, time_limit=600, resume=True, watch=lambda at: at.step == 8, **kind)
    assert some.resumed_from == 0 and some.steps == 8 and not some.too_short
    written = some.weights_path.read_bytes()
    assert load_weights(some.weights_path).meta["validation"]["loss"] > 0
    capsys.readouterr()
    again = pretrain(recipe, tmp_path, time_limit=0.01, resume=True, **kind)
    assert again.too_short and again.steps == again.resumed_from == 8
    assert again.weights_path.read_bytes() == written, "what was measured of them is kept"
    said = capsys.readouterr().err
    assert "no step fitted in" in said and "weights in" in said and "nan" not in said
    again.weights_path.unlink()  # as after a kill between the last checkpoint and the weights
    assert load_weights(pretrain(recipe, tmp_path, time_limit=0.01, resume=True, quiet=True, **kind).weights_path).meta["steps"] == 8


def test_a_run_that_began_with_weights_has_some_from_the_start(toy, finished, tmp_path):
    recipe = _for_a_time(toy, start_from=str(finished[1].weights_path))
    ago = time.monotonic() - 1000  # so long ago that its limit is over
    nothing = pretrain(recipe, tmp_path, time_limit=900, began=ago, quiet=True, sampler_factory=toy.linear_tasks)
    assert nothing.seconds > nothing.startup_seconds > 1000 and nothing.leg_limit == 900
    assert nothing.too_short and nothing.steps == 0 and load_weights(nothing.weights_path).meta["steps"] == 0


def test_only_the_limit_of_a_leg_can_be_too_short():
    """A run whose time is over has ended; to call it again, as scripts do, is no mistake."""
    assert Clock(leg=8).leg_comes_first() and Clock(leg=8, budget=48, earlier=40).leg_comes_first()
    assert not Clock(leg=8, budget=42, earlier=40).leg_comes_first()
    assert not Clock(leg=None, budget=42, earlier=40).leg_comes_first()
    late = Clock(leg=8, budget=42, earlier=40, started=time.monotonic() - 1)
    assert late.limit() == 2 and late.left() == pytest.approx(1, abs=0.5)


def test_the_command_says_what_happened_and_how_to_go_on(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("priorax.train.pretrain", functools.partial(pretrain, sampler_factory=toy.linear_tasks))
    prior = tmp_path / "prior.yaml"  # of as many classes as the network has, which the command checks
    prior.write_text("base: default\nname: three\nsizes: {classes: 3}\n")
    (tmp_path / "toy.yaml").write_text(to_yaml(dataclasses.replace(toy.RECIPE, prior=str(prior))))
    command = ["pretrain", "--recipe", str(tmp_path / "toy.yaml"), "--out", str(tmp_path / "run")]
    assert cli.main([*command, "--time-limit", "0.1s", "--seed", "3"]) == 2
    out, err = capsys.readouterr()
    told = err.splitlines()[-1]
    assert told.startswith("error[2]: nothing was trained: starting ") and "with --resume --time-limit" in told and not out
    assert ", and the limit is 0 s: no room for a single step; there are no weights yet" in told and not (tmp_path / "run" / "model.safetensors").exists()
    assert cli.main([*command, "--resume", "--quiet", "--seed", "4"]) == 2
    assert "was started with seed 3" in capsys.readouterr().err
    assert cli.main([*command, "--resume", "--quiet"]) == 0  # the seed of the run need not be said again
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seed"] == 3
    out, err = capsys.readouterr()
    assert "weights_path" in out and "held-out tasks loss" in out and "planned" not in out and not err
