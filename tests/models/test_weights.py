"""Weights on disk: what is written comes back, and nothing damaged or foreign is loaded."""

from __future__ import annotations

import json
import os
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy
from priorax.configs import DataError, MissingError, NumericalError
from priorax.models import ModelConfig, init_params, load_weights, save_weights

CFG = ModelConfig(width=16, heads=1, layers=1, hidden=16, decoder_hidden=16, thinking_rows=2, max_classes=3)


@pytest.fixture(scope="module")
def params():
    return init_params(CFG, seed=5)


@pytest.fixture
def saved(tmp_path, params):
    path = tmp_path / "new" / "w.safetensors"
    save_weights(path, CFG, params, {"recipe": "test", "tasks_seen": 8})
    return path


@pytest.mark.parametrize("dtype, tolerance", [("float32", 0.0), ("float16", 1e-3), ("bfloat16", 1e-2)])
def test_round_trip(tmp_path, params, dtype, tolerance):
    path = tmp_path / "w.safetensors"
    digest = save_weights(path, CFG, params, {"recipe": "test", "seed": 5}, dtype)
    loaded = load_weights(path)
    assert loaded.cfg == CFG and loaded.sha256 == digest
    assert loaded.meta["recipe"] == "test" and loaded.meta["licence"] == "Apache-2.0"
    assert loaded.meta["limits"] == {"max_rows": 2048, "max_columns": 100, "max_classes": 3}
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(loaded.params), strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance)


def test_equal_input_gives_equal_bytes_and_no_leftovers(saved, params, tmp_path):
    save_weights(tmp_path / "again", CFG, params, {"recipe": "test", "tasks_seen": 8})
    assert saved.read_bytes() == (tmp_path / "again").read_bytes()
    assert os.listdir(saved.parent) == ["w.safetensors"]


def test_every_kind_of_damage_is_found(saved):
    good = saved.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*rng.integers(0, len(good), 40), 0, 7, 8, len(good) - 1]:
        damaged = bytearray(good)
        damaged[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(bytes(damaged))
        with pytest.raises(DataError, match=r"w\.safetensors"):
            load_weights(saved, verify=False)
    for length in (0, 4, 100, len(good) // 2, len(good) - 1):
        saved.write_bytes(good[:length])
        with pytest.raises(DataError, match=r"w\.safetensors"):
            load_weights(saved, verify=False)


def test_missing_and_foreign_files_are_named(tmp_path, saved):
    with pytest.raises(MissingError, match="nowhere"):
        load_weights(tmp_path / "nowhere")
    foreign = tmp_path / "foreign.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(3, np.float32)}, foreign)
    with pytest.raises(DataError, match="not weights of this package"):
        load_weights(foreign)
    (tmp_path / "text").write_text("hello, this is no weights file")
    with pytest.raises(DataError, match="not an intact safetensors file"):
        load_weights(tmp_path / "text")


def _rewrite(path, change):
    """Changes the header and seals it again, as another program that writes the format would."""
    from priorax.models import weights

    data = path.read_bytes()
    header, tensors = weights._parse(data, path)
    change(header, tensors)
    header["sha256"] = weights._digest(tensors, header)
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"priorax": json.dumps(header)}))


def test_newer_format_other_network_and_failed_self_test_are_told_apart(saved):
    good = saved.read_bytes()
    (length,) = struct.unpack("<Q", good[:8])
    assert b"self_test" in good[: 8 + length]

    def other_logits(header, tensors):
        header["self_test"] = [v + 1.0 for v in header["self_test"]]

    _rewrite(saved, other_logits)
    with pytest.raises(NumericalError, match="self-test"):
        load_weights(saved)
    assert load_weights(saved, verify=False).cfg == CFG
    saved.write_bytes(good)

    newer = good.replace(b'\\"format\\": 1', b'\\"format\\": 9')
    assert newer != good
    saved.write_bytes(newer)
    with pytest.raises(DataError, match="weights format 9.*upgrade"):
        load_weights(saved)
    saved.write_bytes(good)

    def of_a_later_version(header, tensors):
        header["config"]["gates"] = 3

    _rewrite(saved, of_a_later_version)
    with pytest.raises(DataError, match="newer priorax.*gates.*upgrade"):
        load_weights(saved)
    saved.write_bytes(good)

    def renamed(header, tensors):
        tensors["blocks/other"] = tensors.pop("blocks/row_q")

    _rewrite(saved, renamed)
    with pytest.raises(DataError, match="blocks/"):
        load_weights(saved)


def test_what_is_not_finite_is_not_written(tmp_path, params):
    path = tmp_path / "w.safetensors"
    huge = jax.tree.map(lambda a: a * 1e6, params)
    with pytest.raises(NumericalError, match="not finite in float16"):
        save_weights(path, CFG, huge, {})
    assert not path.exists()
    with pytest.raises(ValueError, match="allowed: float32"):
        save_weights(path, CFG, params, {}, "int8")
