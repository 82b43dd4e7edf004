"""Runs that start from other weights: they begin where those ended, deeper ones too, and go on from their own copy."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from priorax.configs import ConfigError, MissingError, config_digest, load_prior, load_recipe
from priorax.models import ModelConfig, init_params, load_weights, with_params
from priorax.models.growth import check_can_start, grow
from priorax.train import pretrain
from priorax.train.checkpoints import list_checkpoints, restore_checkpoint
from priorax.train.pack import pack, unpack
from priorax.train.state import init_state

from priorax.cmd_weights import tasks_over_runs

DEEPER = 4


def _shaken(params):
    """Weights whose projections back are not zero, as after training."""
    keys = iter(jax.random.split(jax.random.key(5), 100))
    return jax.tree.map(lambda a: a + 0.1 * jax.random.normal(next(keys), a.shape), params)


def _answers(cfg, params):
    x = np.random.default_rng(0).normal(size=(2, 24, 3)).astype(np.float32)
    y = np.random.default_rng(1).integers(0, 2, (2, 24)).astype(np.int32)
    each = lambda v: jnp.full(2, v, jnp.int32)
    call = jax.jit(lambda p: with_params(cfg, p)(x, y, each(3), each(2), each(16), jnp.zeros((2, 3), bool), context=16))
    return np.asarray(call(params))[:, :, :2]


def _recipe(toy, start, layers=2, row_layers=0, **train):
    return dataclasses.replace(
        toy.RECIPE, start_from=str(start),
        model=dataclasses.replace(toy.RECIPE.model, layers=layers, row_layers=row_layers),
        train=dataclasses.replace(toy.RECIPE.train, **train),
    )  # fmt: skip


def test_a_deeper_trunk_answers_as_before_and_can_learn(toy):
    cfg = toy.RECIPE.model
    params = _shaken(init_params(cfg, 3))
    deeper = dataclasses.replace(cfg, layers=DEEPER)
    grown = grow(params, deeper)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, init_params(deeper))
    np.testing.assert_allclose(_answers(deeper, grown), _answers(cfg, params), rtol=1e-4, atol=1e-5)
    assert grow(params, cfg) == params
    with pytest.raises(ValueError, match="have 2 already"):
        grow(params, dataclasses.replace(cfg, layers=1))
    # The new blocks are no dead end: the gradient of what they give back is not zero.
    loss = lambda p: jnp.square(with_params(deeper, p)(*_task(), context=16)[..., 0]).sum()
    slope = jax.jit(jax.grad(loss))(grown)["blocks"]
    assert all(np.abs(slope[name][cfg.layers :]).max() > 0 for name in ("feature_out", "row_out", "mlp_out"))


def _task():
    rng, each = np.random.default_rng(2), lambda v: jnp.full(1, v, jnp.int32)
    x, y = rng.normal(size=(1, 24, 3)).astype(np.float32), rng.integers(0, 2, (1, 24)).astype(np.int32)
    return x, y, each(3), each(2), each(16), jnp.zeros((1, 3), bool)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"layers": DEEPER}, id="blocks"),
        # `test_row_layers.py` has what they start as; a program of its own only to run it.
        pytest.param({"row_layers": 2}, id="layers over rows", marks=pytest.mark.slow),
    ],
)
def test_a_run_starts_from_the_weights_it_is_given(toy, finished, tmp_path, more):
    """With the least rate a run ends where it started: the weights, deepened, within what float16 keeps."""
    start = finished[1].weights_path
    recipe = _recipe(toy, start, **more, steps=4, learning_rate=1e-9, adam_learning_rate=0.0)
    result = pretrain(recipe, tmp_path / "run", quiet=True, sampler_factory=toy.linear_tasks)
    found, given = load_weights(result.weights_path), load_weights(start)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(grow(given.params, recipe.model)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7)  # random layers have not been float16 before
    assert result.validation["loss"] == pytest.approx(finished[1].validation["loss"], abs=2e-3)
    assert found.meta["started_from"] == {
        "sha256": given.sha256, "recipe": "toy", "tasks_seen": 192, "seed": 0,
        "prior_sha256": config_digest(load_prior(toy.RECIPE.prior)), "started_from": None,
    }  # fmt: skip
    assert found.meta["tasks_seen"] == 4 * 8
    assert tasks_over_runs(found.meta) == (192 + 4 * 8, 2, True)
    assert "started_from" not in given.meta


def test_it_learns_on(toy, finished, tmp_path):
    recipe = _recipe(toy, finished[1].weights_path, DEEPER, steps=160, checkpoint_steps=1000)
    result = pretrain(recipe, tmp_path / "run", quiet=True, sampler_factory=toy.linear_tasks)
    assert result.validation["loss"] < finished[1].validation["loss"] - 0.02


def test_it_goes_on_from_its_copy_bit_for_bit(toy, finished, tmp_path):
    start = tmp_path / "gone.safetensors"
    start.write_bytes(finished[1].weights_path.read_bytes())
    recipe = _recipe(toy, start, steps=16)
    whole = tmp_path / "whole"
    pretrain(recipe, whole, quiet=True, sampler_factory=toy.linear_tasks)
    cut = tmp_path / "cut"
    first = pretrain(recipe, cut, quiet=True, sampler_factory=toy.linear_tasks, watch=lambda moment: moment.step == 8)
    assert first.steps == 8
    start.unlink()
    pack(cut, tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "moved")
    rest = pretrain(recipe, tmp_path / "moved", resume=True, quiet=True, sampler_factory=toy.linear_tasks)
    assert rest.resumed_from == 8 and rest.steps == 16
    like = init_state(toy.RECIPE, 0, 16)
    a, b = (
        restore_checkpoint(list_checkpoints(run / "checkpoints")[-1][1], like).state
        for run in (whole, tmp_path / "moved")
    )
    assert toy.digest(a) == toy.digest(b)


def test_what_another_attempt_left_is_not_taken_for_the_weights_asked_for(toy, finished, tmp_path):
    """A directory that holds a copy of other weights and no run."""
    from priorax.configs import load_prior
    from priorax.models import save_weights
    from priorax.train.rundir import START, RunDirectory

    start = finished[1].weights_path
    for resume in (False, True):
        out = tmp_path / f"run-{resume}"
        out.mkdir()
        save_weights(out / START, toy.RECIPE.model, _shaken(load_weights(start).params), {})
        files = RunDirectory(out, _recipe(toy, start), load_prior("default"), 0)
        files.open(resume)
        assert load_weights(out / START).sha256 == load_weights(start).sha256
        jax.tree.map(np.testing.assert_array_equal, files.starting_params(), load_weights(start).params)


def test_a_run_that_is_refused_keeps_what_it_says_of_itself(toy, tmp_path):
    """Another prior, or the same of another version of the engine, is found out before anything is written."""
    from priorax.configs import load_prior
    from priorax.configs.load import to_yaml
    from priorax.train.checkpoints import save_checkpoint
    from priorax.train.rundir import RunDirectory

    recipe = toy.RECIPE
    RunDirectory(tmp_path, recipe, load_prior("default"), 0).open(resume=False)
    save_checkpoint(tmp_path / "checkpoints", init_state(recipe, 0, 24), {"seed": 0}, 1)
    RunDirectory(tmp_path, recipe, load_prior("default"), 0).open(resume=True)
    today = to_yaml(load_prior("default"))
    for text, prior in ((today, "graph_scm"), (today.replace("version: '3'", "version: '2'"), "default")):
        (tmp_path / "prior.yaml").write_text(text)
        before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
        with pytest.raises(ConfigError, match="started with another prior"):
            RunDirectory(tmp_path, recipe, load_prior(prior), 0).open(resume=True)
        assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_a_run_on_a_prior_file_goes_on_where_the_file_is_not(toy, tmp_path, monkeypatch, capsys):
    """As in another folder, or on another machine: the run holds its prior."""
    from priorax.configs import to_yaml

    from priorax import cli

    monkeypatch.setattr("priorax.train.pretrain", functools.partial(pretrain, sampler_factory=toy.linear_tasks))
    (tmp_path / "mine.yaml").write_text("base: default\nname: three\nsizes: {classes: 3}\n")
    (tmp_path / "toy.yaml").write_text(to_yaml(dataclasses.replace(toy.RECIPE, prior="mine.yaml")))
    run, moved = tmp_path / "run", tmp_path / "elsewhere" / "run"
    assert cli.main(["pretrain", "--recipe", str(tmp_path / "toy.yaml"), "--out", str(run), "--quiet"]) == 0  # the prior beside it
    shutil.copytree(run, moved)
    (tmp_path / "mine.yaml").unlink()
    monkeypatch.chdir(moved.parent)
    again = ["pretrain", "--recipe", "run/config.yaml", "--out", "run", "--resume", "--quiet"]
    assert cli.main(again) == 0, capsys.readouterr().err
    (moved.parent / "other.yaml").write_text("base: graph_scm\nname: three\nsizes: {classes: 3}\n")
    for prior, said in (("run/prior.yaml", None), ("other.yaml", "started with another prior")):
        code, err = cli.main([*again, "--prior", prior]), capsys.readouterr().err
        assert (code, said) == (0, None) or code == 2 and said in err, err


@pytest.mark.parametrize(
    ("setting", "said"),
    [({"width": 32}, "model.width is 32.*must have 16"), ({"layers": 1}, "model.layers is 1.*must have 2 or more"),
     ({"activation": "relu2"}, "model.activation is relu2")],
)  # fmt: skip
def test_a_network_of_another_kind_is_refused_before_anything_is_written(toy, finished, tmp_path, setting, said):
    recipe = _recipe(toy, finished[1].weights_path)
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **setting))
    with pytest.raises(ConfigError, match=said):
        pretrain(recipe, tmp_path / "run", quiet=True, sampler_factory=toy.linear_tasks)
    assert not any((tmp_path / "run").iterdir())


def test_weights_that_are_not_there(toy, tmp_path):
    with pytest.raises(MissingError, match=r"nowhere\.safetensors"):
        pretrain(
            _recipe(toy, tmp_path / "nowhere.safetensors"), tmp_path / "run", quiet=True, sampler_factory=toy.linear_tasks
        )


def test_recipes_without_it_keep_their_digest():
    recipe = load_recipe("small")
    old = {f.name for f in dataclasses.fields(recipe)} - {"start_from"}
    Old = dataclasses.make_dataclass("Old", sorted(old))
    assert config_digest(recipe) == config_digest(Old(**{name: getattr(recipe, name) for name in old}))
    assert config_digest(dataclasses.replace(recipe, start_from="default")) != config_digest(recipe)


def test_the_command_line_takes_it(capsys):
    from priorax.cli import main

    assert main(["pretrain", "--recipe", "small", "--start-from", "default", "--out", "unused", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["start_from"] == "default"


def test_defaults_of_other_settings_are_free():
    check_can_start(ModelConfig(max_rows=99, dtype="bfloat16", layers=9), ModelConfig(), "weights")


def test_who_starts_with_the_seed_of_the_weights_is_told(toy, finished, tmp_path, capsys):
    settings = {"sampler_factory": toy.linear_tasks}
    for seed, told in ((0, True), (1, False)):
        pretrain(_recipe(toy, finished[1].weights_path, steps=4), tmp_path / str(seed), seed=seed, **settings)
        assert ("another --seed draws new ones" in capsys.readouterr().err) is told
    # And who starts from what has started there.
    pretrain(_recipe(toy, tmp_path / "1" / "model.safetensors", steps=4), tmp_path / "2", seed=0, **settings)
    assert "with seed 0 too" in capsys.readouterr().err
