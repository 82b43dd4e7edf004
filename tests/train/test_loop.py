"""Whole runs: they learn, say what they did, and go on exactly where they were stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest
from priorax.configs import ConfigError, load_prior, load_yaml
from priorax.configs.recipe import Recipe
from priorax.models import load_weights
from priorax.train import pretrain
from priorax.train.checkpoints import list_checkpoints, restore_checkpoint
from priorax.train.rundir import RunDirectory
from priorax.train.state import init_state


def _records(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def _without_time(out):
    return [{k: v for k, v in r.items() if k not in ("tasks_per_s", "seconds")} for r in _records(out)]


def _final(toy, out):
    like = init_state(toy.RECIPE, 0, 24)
    return restore_checkpoint(list_checkpoints(out / "checkpoints")[-1][1], like)


def test_a_run_learns_and_leaves_what_it_promises(toy, finished):
    out, result = finished
    assert result.steps == result.horizon == 24 and result.tasks_seen == 24 * 8 and result.skipped == 0
    assert result.interrupted is None and result.resumed_from is None
    assert {p.name for p in out.iterdir()} == {
        "config.yaml", "prior.yaml", "env.json", "metrics.jsonl", "checkpoints", "model.safetensors"
    }  # fmt: skip
    assert load_yaml(out / "config.yaml", Recipe) == toy.RECIPE
    records = [r for r in _records(out) if "loss" in r]
    assert [r["step"] for r in records] == [4, 8, 12, 16, 20, 24]
    assert records[-1]["loss"] < records[0]["loss"] and result.validation["roc_auc"] > 0.7
    assert len(list_checkpoints(out / "checkpoints")) == 3
    loaded = load_weights(result.weights_path)
    assert loaded.meta["recipe"] == "toy" and loaded.meta["tasks_seen"] == 192 and loaded.meta["seed"] == 0
    average = _final(toy, out).state.average
    for a, b in zip(jax.tree.leaves(average), jax.tree.leaves(loaded.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert json.loads((out / "env.json").read_text())["device_platform"] == jax.default_backend()


def test_learning_goes_far_below_chance(toy, tmp_path):
    train = dataclasses.replace(toy.RECIPE.train, steps=200, checkpoint_steps=1000)
    recipe = dataclasses.replace(toy.RECIPE, train=train)
    result = pretrain(recipe, tmp_path / "run", quiet=True, sampler_factory=toy.linear_tasks)
    assert result.validation["roc_auc"] > 0.85 and result.validation["loss"] < np.log(2) - 0.15


def test_a_run_in_two_processes_equals_one_in_one(toy, finished, tmp_path, start_toy):
    """Stopped by SIGTERM somewhere, resumed: same weights, same optimiser, same metrics, bit for bit."""
    process = start_toy(tmp_path / "run", "--delay", 0.05, "--loud")
    for line in process.stdout:
        if json.loads(line).get("step", 0) >= 8:
            process.send_signal(signal.SIGTERM)
            break
    rest, said = process.communicate()
    assert process.returncode == 0, said
    assert "pretrain: stopping; saving after the current step (a second Ctrl-C ends without saving)\n" in said
    told = json.loads(rest.splitlines()[-1])
    assert told["interrupted"] == signal.SIGTERM and 8 <= told["done"] < 24
    result = pretrain(toy.RECIPE, tmp_path / "run", resume=True, quiet=True, sampler_factory=toy.linear_tasks)
    assert result.resumed_from == told["done"] and result.tasks_seen == 192
    assert toy.digest(_final(toy, tmp_path / "run").state) == toy.digest(_final(toy, finished[0]).state)
    trained = lambda out: [r for r in _without_time(out) if "loss" in r]
    assert trained(tmp_path / "run") == trained(finished[0])


def test_a_killed_run_goes_on_from_its_last_checkpoint(toy, finished, tmp_path, start_toy):
    out = tmp_path / "run"
    for step in (8, 16):  # killed twice, at moments of no one's choosing
        process = start_toy(out, "--resume", "--delay", 0.02)
        for line in process.stdout:
            if json.loads(line).get("step", 0) >= step:
                break
        process.kill()
        process.wait()
    result = pretrain(toy.RECIPE, out, resume=True, quiet=True, sampler_factory=toy.linear_tasks)
    assert result.resumed_from is not None and result.steps == 24
    assert toy.digest(_final(toy, out).state) == toy.digest(_final(toy, finished[0]).state)
    trained = lambda out: [r for r in _without_time(out) if "loss" in r]
    assert trained(out) == trained(finished[0])
    assert not list((out / "checkpoints").glob(".tmp-*"))


@pytest.mark.slow  # a compilation of its own
def test_eight_devices_learn_what_one_learns(finished, tmp_path, start_toy):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    process = start_toy(tmp_path / "run", XLA_FLAGS=flags.strip())
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert json.loads((tmp_path / "run" / "env.json").read_text())["device_count"] == 8
    one = [r["loss"] for r in _records(finished[0]) if "loss" in r]
    eight = [r["loss"] for r in _records(tmp_path / "run") if "loss" in r]
    np.testing.assert_allclose(eight, one, rtol=2e-3)


def test_resuming_a_finished_run_changes_nothing(toy, finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    before = (out / "model.safetensors").read_bytes()
    result = pretrain(toy.RECIPE, out, resume=True, quiet=True, sampler_factory=toy.linear_tasks)
    assert result.steps == 24 and result.resumed_from == 24
    assert (out / "model.safetensors").read_bytes() == before


def test_a_directory_is_not_mistaken_for_another_run(toy, finished, tmp_path):
    out = finished[0]
    with pytest.raises(ConfigError, match="already holds a run"):
        pretrain(toy.RECIPE, out, quiet=True, sampler_factory=toy.linear_tasks)
    other = dataclasses.replace(toy.RECIPE, model=dataclasses.replace(toy.RECIPE.model, hidden=64))
    with pytest.raises(ConfigError, match=r"model\.hidden differs"):
        pretrain(other, out, resume=True, quiet=True, sampler_factory=toy.linear_tasks)
    with pytest.raises(ConfigError, match="seed 0"):
        pretrain(toy.RECIPE, out, seed=1, resume=True, quiet=True, sampler_factory=toy.linear_tasks)
    endless = dataclasses.replace(toy.RECIPE, train=dataclasses.replace(toy.RECIPE.train, steps=None))
    with pytest.raises(ConfigError, match="time limit"):
        pretrain(endless, tmp_path / "new", quiet=True)
    with pytest.raises(ConfigError, match="validation_seed"):
        pretrain(toy.RECIPE, tmp_path / "new", seed=toy.RECIPE.train.validation_seed, quiet=True)
    with pytest.raises(ConfigError, match="must lie in"):  # JAX would take it for one of 32 bits
        pretrain(toy.RECIPE, tmp_path / "new", seed=toy.RECIPE.train.validation_seed - 2**32, quiet=True)


def test_legs_with_other_kernels_are_one_run(toy, finished, tmp_path):
    """Legs on other machines, that is. What differs is rounding; which kernels the last leg had is in config.yaml."""
    out, prior = shutil.copytree(finished[0], tmp_path / "run"), load_prior(toy.RECIPE.prior)
    other = dataclasses.replace(toy.RECIPE, model=dataclasses.replace(toy.RECIPE.model, attention="xla"))
    files = RunDirectory(out, other, prior, 0)
    files.open(resume=True)
    files.close()
    assert load_yaml(out / "config.yaml", Recipe).model.attention == "xla"


@pytest.mark.slow
def test_a_time_limit_sets_the_horizon_and_ends_the_decay(toy, tmp_path):
    train = dataclasses.replace(toy.RECIPE.train, steps=None, checkpoint_steps=10_000)
    recipe = dataclasses.replace(toy.RECIPE, train=train)
    result = pretrain(recipe, tmp_path / "run", time_limit=15, quiet=True, sampler_factory=toy.linear_tasks)
    records = _records(tmp_path / "run")
    assert any(r.get("event") == "horizon" for r in records)
    trained = [r for r in records if "loss" in r]
    if result.steps == result.horizon:  # else the machine stood still and the clock ended the run
        assert trained[-1]["learning_rate"] < 0.1 * train.learning_rate
    assert max(r["learning_rate"] for r in trained) == pytest.approx(train.learning_rate)
    assert result.seconds < 60


def test_a_full_disk_ends_the_run_with_a_reason_and_costs_one_checkpoint(toy, finished, tmp_path, start_toy):
    out = tmp_path / "run"
    process = start_toy(out, "--full-from", 12)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode != 0
    assert "could not write a checkpoint" in errors and "the run is saved up to step 8" in errors
    assert [step for step, _ in list_checkpoints(out / "checkpoints")] == [4, 8]
    assert not list((out / "checkpoints").glob(".tmp-*"))
    result = pretrain(toy.RECIPE, out, resume=True, quiet=True, sampler_factory=toy.linear_tasks)
    assert result.resumed_from == 8
    assert toy.digest(_final(toy, out).state) == toy.digest(_final(toy, finished[0]).state)


def test_a_damaged_newest_checkpoint_costs_its_steps_only(toy, finished, tmp_path):
    """Half a file, and a folder with nothing in it, as a machine that lost its power leaves them."""
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    newest = list_checkpoints(out / "checkpoints")[-1][1]
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    (out / "checkpoints" / "step-000000028").mkdir()
    result = pretrain(toy.RECIPE, out, resume=True, quiet=True, sampler_factory=toy.linear_tasks)
    assert result.resumed_from == 20 and result.steps == 24
    assert [step for step, _ in list_checkpoints(out / "checkpoints")] == [16, 20, 24]
    assert toy.digest(_final(toy, out).state) == toy.digest(_final(toy, finished[0]).state)
    assert (out / "model.safetensors").read_bytes() == (finished[0] / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_kills_at_random_moments_cost_nothing_but_time(toy, finished, tmp_path, start_toy):
    import time

    out, rng = tmp_path / "run", np.random.default_rng()
    for _ in range(10):  # while starting, compiling, training, saving, validating
        process = start_toy(out, "--resume", "--delay", 0.1)
        time.sleep(rng.uniform(0.5, 12))
        process.kill()
        process.wait()
    process = start_toy(out, "--resume")
    assert process.wait(timeout=300) == 0, process.stderr.read()
    assert toy.digest(_final(toy, out).state) == toy.digest(_final(toy, finished[0]).state)


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_save_loses_one_checkpoint_at_most(toy, finished, tmp_path, start_toy):
    import time

    out = tmp_path / "run"
    for delay in (0.0, 0.005, 0.02, 0.05, 0.1):
        process = start_toy(out, "--resume")
        seen = set((out / "checkpoints").glob(".tmp-*")) if out.exists() else set()
        while process.poll() is None and not set((out / "checkpoints").glob(".tmp-*")) - seen:
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        process.wait()
    process = start_toy(out, "--resume")
    assert process.wait(timeout=300) == 0, process.stderr.read()
    assert toy.digest(_final(toy, out).state) == toy.digest(_final(toy, finished[0]).state)


@pytest.mark.slow  # compiles the sampler; the demo's test runs the same recipe
def test_the_smoke_recipe_runs_on_the_real_prior(run_python, tmp_path):
    code = (
        "import sys; from priorax.train import load_recipe, pretrain;"
        "r = pretrain(load_recipe('smoke'), sys.argv[1], quiet=True); print(r.steps, r.tasks_seen)"
    )
    done = run_python(code, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["16", "128"]


@pytest.fixture
def run_python():
    import sys

    def run(code, *args):
        command = [sys.executable, "-c", code, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    return run
