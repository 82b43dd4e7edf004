"""The whole way in one command, smoke-sized: sample, pretrain, predict, report."""

from __future__ import annotations

import json
import re

import pytest

pytestmark = pytest.mark.heavy  # compiles the sampler inside a training step, twice


@pytest.fixture(scope="module")
def demo(run_cli, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    done = run_cli("demo", "--recipe", "smoke", "--time-limit", "10m", "--tasks", "iris", "wine", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "priorax-demo", json.loads(done.stdout), done.stderr


def test_summary(demo):
    _, found, _ = demo
    assert set(found["roc_auc"]) == {"priorax", "network_alone", "logistic_regression", "knn", "random_forest"}
    for scores in found["roc_auc"].values():
        assert set(scores) == {"iris", "wine"} and all(0 <= v <= 1 for v in scores.values())
    assert found["roc_auc"]["logistic_regression"]["iris"] > 0.95
    assert found["mean_roc_auc_small"] > found["mean_roc_auc_small_network_alone"] > 0.3  # it has learned next to nothing
    assert found["tasks_seen"] == 128 and found["steps"] == 16 and found["tasks_per_s"] > 0
    assert {"sample", "pretrain", "evaluate", "total"} == set(found["seconds"]) and found["failed"] == []


def test_files(demo):
    folder, found, _ = demo
    assert json.loads((folder / "summary.json").read_text())["roc_auc"] == found["roc_auc"]
    page = (folder / "report.html").read_text()
    assert "<h2>Loss</h2>" in page and "<h2>Tasks it learned from</h2>" in page and "<h2>Every data set</h2>" in page
    assert not re.search(r'(src|href)="http', page), "the report needs no network"
    from priorax.models import load_weights

    assert load_weights(folder / "model.safetensors").meta["recipe"] == "smoke"


def test_progress_is_on_stderr(demo):
    _, _, err = demo
    assert "tasks/s" in err and "1/3" in err and "3/3" in err


def test_weights_are_usable(demo, capsys):
    from priorax.cli import main

    assert main(["weights", "verify", str(demo[0] / "model.safetensors")]) == 0
    assert "intact" in capsys.readouterr().out


def test_a_second_demo_replaces_the_first(demo, tmp_path):
    import shutil

    from priorax.cmd_demo import Demo

    folder = shutil.copytree(demo[0], tmp_path / "again")
    assert Demo(out=folder)._open() == folder and not list(folder.iterdir())


def test_a_folder_of_someone_else_is_not_replaced(run_cli, tmp_path):
    (tmp_path / "priorax-demo").mkdir()
    (tmp_path / "priorax-demo" / "notes.txt").write_text("mine")
    done = run_cli("demo", "--recipe", "smoke", cwd=tmp_path)
    assert done.returncode == 2 and "not empty" in done.stderr
    assert (tmp_path / "priorax-demo" / "notes.txt").exists()


def test_pretrain_command_and_resume(run_cli, tmp_path):
    args = ["pretrain", "--recipe", "smoke", "--out", tmp_path / "run", "--json"]
    first = run_cli(*args, "--steps", "8", "--log", "json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["steps"] == 8
    events = [json.loads(line) for line in first.stderr.splitlines() if line.startswith("{")]
    assert any(e["event"] == "train.step" and e["step"] == 8 for e in events)
    assert run_cli(*args).returncode == 2, "a used folder needs --resume or --overwrite"
    assert (tmp_path / "run" / "model.safetensors").is_file() and (tmp_path / "run" / "env.json").is_file()
