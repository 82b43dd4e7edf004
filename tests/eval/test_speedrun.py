"""The race: its course is that of the protocol, its score is that of all folds together."""

from __future__ import annotations

import json

import numpy as np
import pytest
from priorax.configs import DataError
from priorax.configs.eval import PROTOCOLS
from priorax.eval.speedrun import forest, network, prepare, race_score
from priorax.eval.suites import load_suite
from priorax.models import load_weights
from sklearn.metrics import roc_auc_score


@pytest.fixture(scope="module")
def courses():
    suite = load_suite("bundled")
    suite.ids = ["wine", "iris"]
    return prepare(suite)[0]


def test_the_course_is_that_of_the_protocol(courses):
    assert [c.id for c in courses] == ["wine", "iris"] and all(len(c.folds) == 5 for c in courses)
    wine = courses[0]
    assert sorted(np.concatenate([f.test for f in wine.folds])) == list(range(178))
    suite = load_suite("bundled")
    suite.ids = ["digits", "iris"]
    small, left_out = prepare(suite, PROTOCOLS["speedrun"], max_classes=5, max_columns=2)
    assert [c.id for c in small] == ["iris"] and small[0].folds[0].x.shape[1] == 2
    assert left_out[0]["task"] == "digits" and "10 classes" in left_out[0]["reason"]
    with pytest.raises(DataError, match="no data set of the suite"):
        prepare(suite, max_classes=2)


def test_predictions_of_all_folds_are_scored_once(courses):
    rng = np.random.default_rng(0)
    told = {c.id: rng.dirichlet(np.ones(c.n_classes), len(c.y)) for c in courses}
    mean, each = race_score(courses, lambda course, fold: told[course.id][fold.test])
    wanted = {c.id: roc_auc_score(c.y, told[c.id], multi_class="ovr") for c in courses}
    assert each == pytest.approx(wanted) and mean == pytest.approx(np.mean(list(wanted.values())))


def test_the_forest_and_a_network(courses, tiny_weights):
    mean, _ = race_score(courses, forest())
    assert 0.98 < mean <= 1
    weights = load_weights(tiny_weights)
    reached, each = race_score(courses, network(weights.cfg, weights.params))
    assert each["iris"] > 0.9 and 0.8 < reached <= 1


@pytest.mark.slow  # compiles the sampler
def test_the_race_from_the_command_line(run_cli, tmp_path):
    """A network that has learned next to nothing reaches a target below guessing, at its first evaluation."""
    out = tmp_path / "race.json"
    args = ["bench", "speedrun", "--recipe", "smoke", "--suite", "bundled", "--tasks", "iris", "--every", "0.01"]
    done = run_cli(*args, "--target", "0.01", "--out", out, "--json", "--host-devices", "1")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found == json.loads(done.stdout)
    assert found["reached"]["step"] == 8 and len(found["curve"]) == 1 and found["steps"] == 8
    assert found["reached"]["tasks_seen"] == 64 and found["reached"]["minutes"] > 0 and found["compile_s"] > 0
    assert found["random_forest"] > 0.97 and set(found["by_data_set"]) == {"iris"}
    assert 0 <= found["by_data_set"]["iris"]["network"] <= 1
    done = run_cli(*args, "--target", "1.5", "--run-dir", tmp_path / "run", "--host-devices", "1")
    assert done.returncode == 0, done.stderr
    assert "target 1.50000 not reached" in done.stdout and (tmp_path / "run" / "model.safetensors").is_file()
    assert len(done.stdout.splitlines()) == 2 + 2 + 2  # two evaluations
