"""Dumps: the same bytes whether made at once, in shards, or killed and resumed; damage is found."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from priorax.configs import load_prior
from priorax.configs.errors import ConfigError, DataError, ThresholdError
from priorax.priors import sample
from priorax.priors.dump import DumpSpec, verify, write_dump
from priorax.priors.readers import inspect_dump
from priorax.priors.writers import FORMATS, read_parquet

SHAPE = dict(rows=64, columns=8)


@pytest.fixture(scope="module")
def spec() -> DumpSpec:
    return DumpSpec(load_prior("default"), seed=3, n_tasks=40, shard_size=16, **SHAPE)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(spec, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    told = []
    result = write_dump(spec, out, on_tasks=told.append, on_compile=told.append)
    assert result["finished"] and result["tasks"] == 40 and result["parts"] == 3
    # The sampler is compiled once, before the first task, and apart from the rate of tasks.
    assert told[0] is None and round(told[1], 2) == result["compile_s"] and told[2:] == [16, 16, 8]
    assert result["tasks_per_s"] > 0
    return out


def test_holds_the_tasks_of_the_stream(spec, whole):
    back = [t for p in sorted((whole / "data").iterdir()) for t in read_parquet(p)]
    assert [t.task_id for t in back] == list(range(40))
    wanted = sample(spec.prior, spec.seed, range(16, 32), **SHAPE)
    for i, t in enumerate(back[16:32]):
        np.testing.assert_array_equal(t.x, np.asarray(wanted.x[i, :, : t.n_features]))
        np.testing.assert_array_equal(t.y, np.asarray(wanted.y[i]))
        assert t.n_context == int(wanted.n_context[i])


def test_shards_make_the_same_folder(spec, whole, tmp_path):
    first = write_dump(spec, tmp_path, shard=(0, 2))
    assert not first["finished"] and first["parts_done"] == 2
    second = write_dump(spec, tmp_path, shard=(1, 2))
    assert second["finished"]
    assert content(tmp_path) == content(whole)


def test_a_part_is_made_by_one_process_at_a_time(spec, whole, tmp_path):
    refused = []

    def meanwhile(tasks):
        with pytest.raises(ConfigError, match="another process is making part") as caught:
            write_dump(spec, tmp_path, shard=(len(refused), 3))
        refused.append(str(caught.value))

    assert write_dump(spec, tmp_path, on_tasks=meanwhile)["finished"]
    assert len(refused) == 3 and content(tmp_path) == content(whole)


def test_who_is_overtaken_while_compiling_finds_all_done(spec, whole, tmp_path):
    """The other has removed the folder of notes and locks by then."""
    on_compile = lambda seconds: seconds is None and write_dump(spec, tmp_path)
    overtaken = write_dump(spec, tmp_path, on_compile=on_compile)
    assert overtaken["finished"] and overtaken["tasks_per_s"] is None
    assert content(tmp_path) == content(whole) and not (tmp_path / ".progress").exists()


def test_what_describes_a_finished_dump_is_written_again(spec, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    for name in ("README.md", "croissant.json"):
        (tmp_path / "copy" / name).unlink()
    (tmp_path / "copy" / "config.yaml").write_text("name: another\n")
    assert write_dump(spec, tmp_path / "copy")["finished"]
    assert content(tmp_path / "copy") == content(whole)


def test_stopped_and_resumed_makes_the_same_folder(spec, whole, tmp_path):
    written = []
    result = write_dump(spec, tmp_path, on_tasks=written.append, stop=lambda: len(written) >= 1)
    assert result["parts_done"] == 1 and not (tmp_path / "manifest.json").exists()
    torn = tmp_path / "data" / "part-00000-of-00003.parquet"
    torn.write_bytes(torn.read_bytes()[:100])  # a file cut short is made again
    assert write_dump(spec, tmp_path)["finished"]
    assert content(tmp_path) == content(whole)


def test_a_finished_dump_is_left_alone(spec, whole):
    before = content(whole)
    again = write_dump(spec, whole)
    assert again["finished"] and again["compile_s"] is None and again["tasks_per_s"] is None
    assert content(whole) == before


def _break(copy: Path, how: str) -> str:
    """Damages the second part, or the manifest; what `verify` says of it."""
    path = copy / "data" / "part-00001-of-00003.parquet"
    if how == "missing":
        path.unlink()
    elif how == "changed at equal size":
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
        how = "has changed"
    elif how == "shorter":
        path.write_bytes(path.read_bytes()[:-1])
        how = "bytes"
    else:
        (copy / "manifest.json").write_text(how)
        how = "manifest"
    return how


@pytest.mark.parametrize("how", ["missing", "changed at equal size", "shorter", "[]", '{"files": 3}', "{"])
def test_a_damaged_dump_is_repaired_by_what_verify_advises(spec, whole, tmp_path, how):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    says = _break(copy, how)
    with pytest.raises((ThresholdError, DataError), match=says):
        verify(copy)
    assert write_dump(spec, copy)["finished"]
    assert content(copy) == content(whole)
    # Only what is damaged is drawn again.
    repaired = copy / "data" / "part-00001-of-00003.parquet"
    kept = [p for p in (copy / "data").iterdir() if p.stat().st_mtime_ns == (whole / "data" / p.name).stat().st_mtime_ns]
    assert len(kept) == (0 if says == "manifest" else 2) and repaired not in kept


def test_another_shard_leaves_a_damaged_dump_unfinished(spec, whole, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    _break(copy, "missing")
    result = write_dump(spec, copy, shard=(0, 2))
    assert (result["finished"], result["parts_done"], result["tasks_per_s"]) == (False, 2, None)
    assert write_dump(spec, copy, shard=(1, 2))["finished"] and content(copy) == content(whole)


@pytest.mark.parametrize("form", ["csv", "tabicl"])
def test_files_of_every_layout_find_their_part(spec, form, tmp_path):
    some = dataclasses.replace(spec, format=form, missing="keep" if form == "csv" else "impute", n_tasks=32)
    write_dump(some, tmp_path)
    before = content(tmp_path)
    lost = [f["path"] for f in json.loads((tmp_path / "manifest.json").read_text())["files"]][-1]
    (tmp_path / lost).unlink()
    other = [p for p in sorted(before) if Path(p).suffix == Path(lost).suffix and "manifest" not in p][0]
    stamp = (tmp_path / other).stat().st_mtime_ns
    assert write_dump(some, tmp_path)["finished"] and content(tmp_path) == before
    assert (tmp_path / other).stat().st_mtime_ns == stamp


def test_other_settings_are_refused(spec, whole):
    with pytest.raises(ConfigError, match="seed = 3, this run has 4"):
        write_dump(dataclasses.replace(spec, seed=4), whole)


def test_verify_finds_damage(whole, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    assert verify(copy)["ok"]
    path = copy / "data" / "part-00001-of-00003.parquet"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ThresholdError, match="part-00001.*changed"):
        verify(copy)
    path.write_bytes(raw[:-1])
    with pytest.raises(ThresholdError, match="bytes"):
        verify(copy)
    path.unlink()
    with pytest.raises(ThresholdError, match="missing"):
        verify(copy)
    with pytest.raises(DataError, match="manifest"):
        verify(tmp_path)


def test_inspect_reads_every_part(whole, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    found = inspect_dump(copy)
    assert (found["tasks"], found["files"], found["problems"]) == (40, 3, [])
    path = copy / "data" / "part-00001-of-00003.parquet"
    path.write_bytes(path.read_bytes()[:100])
    found = inspect_dump(copy)
    assert found["tasks"] == 24 and found["problems"][0].startswith("data/part-00001-of-00003.parquet: 100 bytes")


def test_manifest_and_card(spec, whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["seed"] == 3 and manifest["prior"]["name"] == "default" and manifest["license"] == "Apache-2.0"
    assert len(manifest["files"]) == 3 and {len(f["sha256"]) for f in manifest["files"]} == {64}
    assert "license: apache-2.0" in (whole / "README.md").read_text()
    croissant = json.loads((whole / "croissant.json").read_text())
    assert {d["sha256"] for d in croissant["distribution"] if "sha256" in d} == {f["sha256"] for f in manifest["files"]}
    fields = {f["name"] for f in croissant["recordSet"][0]["field"]}
    pq = pytest.importorskip("pyarrow.parquet")
    (part, *_) = sorted((whole / "data").glob("*.parquet"))
    assert fields == set(pq.read_schema(part).names)


def test_the_card_shows_code_that_runs(whole, monkeypatch):
    code = (whole / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(whole)
    scope: dict = {}
    exec(code, scope)
    assert scope["X"].shape[0] == 64 and scope["split"] < 64


@pytest.mark.parametrize(("n_tasks", "shard_size", "wanted"), [(16, 4096, 16), (16, 8, 8), (20, 8, 8)])
def test_the_card_of_a_tabicl_dump_asks_for_what_its_files_hold(spec, tmp_path, n_tasks, shard_size, wanted):
    """With the shard size as its batch size, the reader waited ten minutes for files that a small dump does not have."""
    write_dump(
        dataclasses.replace(spec, format="tabicl", missing="impute", n_tasks=n_tasks, shard_size=shard_size), tmp_path
    )
    text, files = (tmp_path / "README.md").read_text(), len(list(tmp_path.glob("*.pt")))
    assert f'LoadPriorDataset(".", batch_size={wanted}, max_batches={files})' in text
    assert ("# the last has 4 tasks" in text) == (n_tasks == 20)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["batch_size"] == metadata["batch_size_per_gp"] == wanted


def test_croissant_describes_the_edges():
    from priorax.priors.dump_card import croissant

    settings = {"prior": {"name": "default"}, "seed": 0, "engine_version": "2"}
    fields = {f["name"]: f for f in croissant(settings, [], True, True)["recordSet"][0]["field"]}
    pq = pytest.importorskip("pyarrow.parquet")
    from priorax.priors.writers import parquet_schema

    assert pq is not None and set(fields) == set(parquet_schema(True, {}, True).names)
    edges = fields["edges"]
    assert [f["source"]["transform"]["jsonPath"] for f in edges["subField"]] == ["$.src", "$.dst", "$.lag"]
    assert edges["repeated"] and "dataType" not in edges and {f["source"]["extract"]["column"] for f in edges["subField"]} == {"edges"}


def test_no_missing_values_when_none_are_wanted(spec, tmp_path):
    write_dump(dataclasses.replace(spec, missing="none", shard_size=16, n_tasks=16), tmp_path)
    (file,) = (tmp_path / "data").iterdir()
    assert all(np.isfinite(t.x).all() for t in read_parquet(file))


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_every_format_writes_real_tasks(spec, form, tmp_path):
    missing = "keep" if FORMATS[form].holds_nan else "impute"
    some = dataclasses.replace(spec, format=form, missing=missing, n_tasks=16, group_size=8)
    result = write_dump(some, tmp_path)
    assert result["finished"] and verify(tmp_path)["ok"]
    found = inspect_dump(tmp_path)
    assert found["problems"] == [] and found["tasks"] == 16


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(format="hdf5"), "cannot hold missing values"),
        (dict(format="hdf5", missing="impute", group_size=7), "do not divide into groups"),
        (dict(format="feather"), "allowed: parquet"),
        (dict(n_tasks=0), "at least 1"),
        (dict(rows=4), "at least 8"),
        (dict(seed=-1), "seed"),
        (dict(first=2**32), "2\\*\\*32"),
        (dict(format="tabicl", missing="impute", with_graph=True), "no place for graphs"),
        (dict(format="mllm-jsonl", missing="impute", with_info=True), "no place for facts"),
        (dict(missing="drop"), "allowed: keep"),
    ],
)
def test_bad_settings_are_refused(spec, changes, says):
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(spec, **changes)


def test_graphs_are_acyclic_and_reach_the_columns(spec, tmp_path):
    write_dump(dataclasses.replace(spec, with_graph=True, with_info=True, n_tasks=16), tmp_path)
    (file,) = (tmp_path / "data").iterdir()
    for t in read_parquet(file):
        g = t.graph
        assert t.info["n_nodes"] == g.n_nodes - 1
        assert g.mechanism[-1] == (t.info["target"], "median_split", "coin")[t.info["fallback"]]
        assert np.isfinite(t.info["learnability_z"]) and t.info["component"] in {c.name for c in spec.prior.components}
        assert (g.edges[:, 0] < g.edges[:, 1]).all(), "topological order"
        assert g.edges.max(initial=0) < g.n_nodes == len(g.mechanism)
        assert len(g.node_of_feature) == t.n_features and g.node_of_feature.min() >= -1
        assert g.target_node == g.n_nodes - 1
        assert (g.edges[:, 1] == g.target_node).any() != (g.mechanism[-1] == "coin")
        assert all(c < t.n_features for c in g.rule_columns)
        assert (g.mechanism[-1] in ("rule", "additive")) <= bool(g.rule_columns) <= (t.info["target"] in ("rule", "additive"))
