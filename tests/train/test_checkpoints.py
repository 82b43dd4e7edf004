"""Checkpoints: damage of any kind is seen, reported, and the one before is used."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from priorax.configs import DataError
from priorax.models import ModelConfig
from priorax.train.checkpoints import list_checkpoints, restore_checkpoint, restore_latest, save_checkpoint
from priorax.train.state import init_state


@pytest.fixture(scope="module")
def state(toy):
    return init_state(toy.RECIPE, 0, 24)


def test_a_new_state_has_the_types_of_a_restored_one(state):
    """Else a run that goes on compiles all of its programs again: arrays of files have no weak types."""
    assert [leaf.aval for leaf in jax.tree.leaves(state) if leaf.weak_type] == []


@pytest.fixture(scope="module")
def pair(state, tmp_path_factory):
    """A folder with checkpoints of steps 4 and 8."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for step in (4, 8):
        save_checkpoint(folder, dataclasses.replace(state, step=np.int32(step)), {"seed": 0, "note": step})
    return folder


def test_round_trip_is_bitwise_and_old_ones_go(toy, state, tmp_path):
    for step in (4, 8, 12):
        save_checkpoint(tmp_path, dataclasses.replace(state, step=np.int32(step)), {"tasks_seen": step}, keep=2)
    assert [s for s, _ in list_checkpoints(tmp_path)] == [8, 12]
    found = restore_latest(tmp_path, state, pytest.fail)
    assert found.step == 12 and found.meta == {"tasks_seen": 12}
    assert toy.digest(dataclasses.replace(found.state, step=state.step)) == toy.digest(state)
    assert jax.tree.structure(found.state) == jax.tree.structure(state)


def test_every_damage_falls_back_to_the_step_before(pair, state, tmp_path):
    newest = list_checkpoints(pair)[-1][1].name
    files = sorted(str(p.relative_to(pair / newest)) for p in (pair / newest).rglob("*") if p.is_file())
    assert "manifest.json" in files and len(files) > 3
    rng = np.random.default_rng(0)

    def flip(path):
        data = bytearray(path.read_bytes() or b"\0")
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data))

    def truncate(path):
        path.write_bytes(path.read_bytes()[:-1] if path.stat().st_size else b"\0")

    def delete(path):
        path.unlink()

    for name in files:
        for damage in (flip, truncate, delete):
            folder = tmp_path / "copy"
            shutil.copytree(pair, folder)
            damage(folder / newest / name)
            told = []
            assert restore_latest(folder, state, told.append).step == 4
            assert len(told) == 1 and newest in told[0]
            shutil.rmtree(folder)


def test_empty_and_unfinished_folders_are_no_checkpoints(pair, state, tmp_path):
    shutil.copytree(pair, tmp_path / "c")
    (tmp_path / "c" / "step-000000012").mkdir()
    (tmp_path / "c" / ".tmp-step-000000016").mkdir()
    told = []
    assert restore_latest(tmp_path / "c", state, told.append).step == 8
    assert "step-000000012" in told[0]
    save_checkpoint(tmp_path / "c", dataclasses.replace(state, step=np.int32(12)), {})
    assert not (tmp_path / "c" / ".tmp-step-000000016").exists()
    assert restore_latest(tmp_path / "c", state, pytest.fail).step == 12


def test_damaged_later_steps_do_not_outlast_what_is_saved_after_them(pair, state, tmp_path):
    shutil.copytree(pair, tmp_path / "c")
    for step in (12, 16):
        (tmp_path / "c" / f"step-{step:09d}").mkdir()
    save_checkpoint(tmp_path / "c", dataclasses.replace(state, step=np.int32(10)), {}, keep=1)
    assert [step for step, _ in list_checkpoints(tmp_path / "c")] == [10]
    assert restore_latest(tmp_path / "c", state, pytest.fail).step == 10


def test_none_at_all_and_none_intact_differ(pair, state, tmp_path):
    assert restore_latest(tmp_path / "nothing", state, pytest.fail) is None
    shutil.copytree(pair, tmp_path / "c")
    for _, path in list_checkpoints(tmp_path / "c"):
        (path / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="none of the 2 checkpoints"):
        restore_latest(tmp_path / "c", state, lambda text: None)


def test_another_network_is_refused(toy, pair):
    wider = dataclasses.replace(toy.RECIPE, model=ModelConfig(width=32, heads=1, layers=2))
    with pytest.raises(DataError, match="does not fit|this recipe needs"):
        restore_checkpoint(list_checkpoints(pair)[-1][1], init_state(wider, 0, 24))
