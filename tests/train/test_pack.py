"""A packed training state comes back bit for bit, or not at all."""

from __future__ import annotations

import pytest
from priorax.configs import ConfigError, DataError
from priorax.train import pretrain
from priorax.train.checkpoints import list_checkpoints, restore_checkpoint
from priorax.train.pack import pack, unpack
from priorax.train.state import init_state


@pytest.fixture(scope="module")
def packed(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "parts"
    return out, pack(finished[0], out, part_bytes=20_000)


def test_parts_are_small_and_the_same_every_time(packed, finished, tmp_path):
    _, files = packed
    assert len(files) > 3 and all(p.stat().st_size <= 20_000 for p in files)
    again = pack(finished[0], tmp_path / "again", part_bytes=20_000)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in files]


def test_no_folder_of_the_machine_is_packed(packed, finished):
    together = b"".join(p.read_bytes() for p in packed[1])
    assert str(finished[0].parent).encode() not in together


def test_an_unpacked_run_is_the_run(packed, finished, toy, tmp_path):
    run = unpack(packed[0], tmp_path / "run")
    like = init_state(toy.RECIPE, 0, 24)
    wanted = restore_checkpoint(list_checkpoints(finished[0] / "checkpoints")[-1][1], like)
    found = restore_checkpoint(list_checkpoints(run / "checkpoints")[-1][1], like)
    assert toy.digest(found.state) == toy.digest(wanted.state)
    result = pretrain(toy.RECIPE, run, resume=True, quiet=True, sampler_factory=toy.linear_tasks)
    assert result.resumed_from == 24 and result.tasks_seen == 192


def test_a_missing_or_damaged_part_is_named(packed, tmp_path):
    import shutil

    for damage in ("flip", "delete"):
        copy = tmp_path / damage
        shutil.copytree(packed[0], copy)
        part = copy / "state.001"
        if damage == "flip":
            data = bytearray(part.read_bytes())
            data[100] ^= 4
            part.write_bytes(bytes(data))
        else:
            part.unlink()
        with pytest.raises(DataError, match=r"state\.001"):
            unpack(copy, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="not a packed training state"):
        unpack(tmp_path, tmp_path / "run")


def test_nothing_is_overwritten(packed, finished, tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        unpack(packed[0], tmp_path)
    with pytest.raises(ConfigError, match="not empty"):
        pack(finished[0], tmp_path)
    with pytest.raises(DataError, match="no intact checkpoint"):
        pack(tmp_path, tmp_path / "out")
