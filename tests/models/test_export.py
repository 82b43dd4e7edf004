"""The exported program: the same logits without this package, and nothing kept that differs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from priorax.configs.errors import ConfigError, DataError, MissingError, ThresholdError
from priorax.models import PFNClassifier, export, init_params, load_weights, save_weights

ROWS, COLUMNS = 32, 8


@pytest.fixture(scope="module")
def weights(tiny_weights):
    return load_weights(tiny_weights)


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "net.stablehlo"
    return export.export_stablehlo(path, weights, rows=ROWS, columns=COLUMNS)


def test_what_is_reported(exported, weights):
    assert exported.path.stat().st_size == exported.bytes < 2_000_000
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert 0 <= exported.largest_difference <= export.TOLERANCE and exported.checked >= 10
    assert tuple(exported.inputs) == export.INPUTS and exported.inputs["x_context"] == f"float32[{ROWS},{COLUMNS}]"
    assert exported.inputs["x_query"] == f"float32[q,{COLUMNS}]" and exported.output == "float32[q,10]"
    assert exported.weights_sha256 == weights.sha256


ALONE = """
import json, sys
import jax, jax.export, numpy as np
with open(sys.argv[1], "rb") as file:
    program = jax.export.deserialize(bytearray(file.read()))
given = np.load(sys.argv[2])
names = ("x_context", "y_context", "x_query", "n_context", "n_features", "n_classes", "categorical")
print(json.dumps(np.asarray(program.call(*[given[name] for name in names])).tolist()))
assert not [name for name in sys.modules if name.split(".")[0] in ("priorax", "flax", "sklearn")]
"""


@pytest.mark.usefixtures("few_programs")
def test_it_runs_without_this_package_and_predicts_what_the_estimator_predicts(exported, tiny_weights, tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(25, 3)), np.arange(25) % 3
    model = PFNClassifier(1, weights=tiny_weights, softmax_temperature=1.0).fit(X[:20], y[:20])
    context, query = (np.full((size, COLUMNS), 9.0, np.float32) for size in (ROWS, 5))  # padding may hold anything
    context[:20, :3], query[:, :3] = model._encode(X[:20]), model._encode(X[20:])
    given = {
        "x_context": context, "y_context": np.resize(y[:20], ROWS).astype(np.int32), "x_query": query,
        "n_context": np.int32(20), "n_features": np.int32(3), "n_classes": np.int32(3),
        "categorical": np.zeros(COLUMNS, bool),
    }  # fmt: skip
    np.savez(tmp_path / "given.npz", **given)
    run = subprocess.run(
        [sys.executable, "-c", ALONE, exported.path, tmp_path / "given.npz"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    logits = np.array(json.loads(run.stdout))
    p = np.exp(logits[:, :3] - logits[:, :3].max(1, keepdims=True))
    np.testing.assert_allclose(p / p.sum(1, keepdims=True), model.predict_proba(X[20:]), atol=1e-5)
    assert (logits[:, 3:] == -1e9).all()


def test_a_network_with_layers_over_rows(weights, tmp_path):
    cfg = dataclasses.replace(weights.cfg, row_layers=2)
    keys = iter(jax.random.split(jax.random.key(0), 200))
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(next(keys), a.shape), init_params(cfg))  # no zeros
    save_weights(tmp_path / "rows.safetensors", cfg, params, {})
    made = export.export_stablehlo(
        tmp_path / "net", load_weights(tmp_path / "rows.safetensors"), rows=ROWS, columns=COLUMNS, platforms=["cpu"]
    )
    assert made.largest_difference <= export.TOLERANCE


@pytest.mark.slow
def test_contexts_so_long_that_ranks_are_searched(weights, tmp_path):
    made = export.export_stablehlo(tmp_path / "net", weights, rows=600, columns=4, platforms=["cpu"])
    assert made.largest_difference <= export.TOLERANCE


def test_stablehlo_text_is_in_the_file(exported):
    program = export.read_stablehlo(exported.path)
    assert b"StableHLO" in program.mlir_module_serialized[:64] and "stablehlo." in program.mlir_module()


def test_another_network_is_told_apart(exported, weights):
    moved = dataclasses.replace(weights, params=jax.tree.map(lambda a: a * 1.01, weights.params))
    error, _ = export.compare(exported.path, moved, ROWS, COLUMNS)
    assert error > 10 * export.TOLERANCE


def test_a_difference_leaves_nothing_behind(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "compare", lambda *_: (0.5, 3))
    with pytest.raises(ThresholdError, match=r"differ from the network's by 0.5.*not written"):
        export.export_stablehlo(tmp_path / "net", weights, rows=ROWS, columns=COLUMNS, platforms=["cpu"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": 1}, "rows is 1"),
        ({"columns": 0}, "columns is 0"),
        ({"platforms": ["abacus"]}, "abacus; choose from"),
        ({"platforms": []}, "platforms are none"),
    ],
)
def test_impossible_sizes(options, words, weights, tmp_path):
    with pytest.raises(ConfigError, match=words):
        export.export_stablehlo(tmp_path / "net", weights, **options)


def test_damaged_files_are_refused(exported, tmp_path):
    path = tmp_path / "bad"
    for data in (b"", b"hello, this is no program", exported.path.read_bytes()[: exported.bytes // 2]):
        path.write_bytes(data)
        with pytest.raises(DataError, match="not a program written by jax.export"):
            export.read_stablehlo(path)


def test_without_flatbuffers_it_says_what_to_install(monkeypatch, weights, tmp_path):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)  # as if it were not installed
    with pytest.raises(MissingError, match=r"priorax\[export\]"):
        export.export_stablehlo(tmp_path / "net.stablehlo", weights, rows=ROWS, columns=COLUMNS)
    with pytest.raises(MissingError, match=r"priorax\[export\]"):
        export.read_stablehlo(tmp_path / "net.stablehlo")
    assert not list(tmp_path.iterdir())
