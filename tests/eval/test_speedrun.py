"""The race: its course is that of the protocol, its score is that of all folds together, and a killed one goes on."""

from __future__ import annotations

import dataclasses
import json
import threading

import numpy as np
import pytest
from priorax.configs import ConfigError, DataError
from priorax.eval.speedrun import forests, networks, prepare, race_score
from priorax.eval.suites import load_suite
from priorax.models import load_weights
from sklearn.metrics import roc_auc_score

from priorax.cmd_speedrun import Race


@pytest.fixture(scope="module")
def courses():
    return prepare(load_suite("bundled"), ["wine", "iris"])[0]


def test_the_course_is_that_of_the_protocol(courses):
    assert {c.id for c in courses} == {"wine", "iris"} and all(len(c.folds) == 5 for c in courses)
    (wine,) = [c for c in courses if c.id == "wine"]
    assert sorted(np.concatenate([f.test for f in wine.folds])) == list(range(178))
    suite = load_suite("bundled")
    small, left_out = prepare(suite, ["digits", "iris"], max_classes=5)
    assert [c.id for c in small] == ["iris"]
    assert left_out[0]["task"] == "digits" and "10 classes" in left_out[0]["reason"]
    (digits,) = prepare(suite, ["digits"])[0]
    assert len(digits.y) == 1000 and all(f.x.shape[1] <= 64 for f in digits.folds)
    assert any(f.x.shape[1] < 64 for f in digits.folds)  # constant columns are dropped
    with pytest.raises(DataError, match="no data set of the suite"):
        prepare(suite, ["iris"], max_classes=2)
    with pytest.raises(ConfigError, match="is not in suite"):
        prepare(suite, ["irises"])


def test_a_data_set_with_an_infinity_is_left_out(courses):
    suite = load_suite("bundled")
    load = suite.load

    def spoiled(task):
        data = load(task)
        if task != "wine":
            return data
        X = data.X.copy()
        X[5, 2] = np.inf
        return dataclasses.replace(data, X=X)

    suite.load = spoiled
    found, left_out = prepare(suite, ["wine", "iris"])
    assert [course.id for course in found] == ["iris"]
    assert left_out[0]["task"] == "wine" and "column 2 holds an infinity" in left_out[0]["reason"]


def test_predictions_of_all_folds_are_scored_once_and_folds_are_shared_out(courses):
    rng = np.random.default_rng(0)
    told = {c.id: rng.dirichlet(np.ones(c.n_classes), len(c.y)) for c in courses}
    wanted = {c.id: roc_auc_score(c.y, told[c.id], multi_class="ovr") for c in courses}
    both, seen = threading.Barrier(2, timeout=60), []

    def teller(index):
        def predict(course, fold):
            if index not in seen:
                seen.append(index)
                both.wait()  # passes only when the other predictor is at work too
            return told[course.id][fold.test]

        return predict

    mean, each = race_score(courses, [teller(0), teller(1)])
    assert each == pytest.approx(wanted) and mean == pytest.approx(np.mean(list(wanted.values())))
    assert sorted(seen) == [0, 1]


def test_the_forest_and_a_network(courses, tiny_weights):
    mean, _ = race_score(courses, forests(jobs=2))
    assert 0.98 < mean <= 1
    weights = load_weights(tiny_weights)
    reached, each = race_score(courses, networks(weights.cfg, weights.params))
    assert each["iris"] > 0.9 and 0.8 < reached <= 1


@dataclasses.dataclass
class At:
    step: int
    train_seconds: float
    horizon: int = 100
    tasks_seen: int = 0
    loss: float = 1.0
    startup_seconds: float = 5.0

    def weights(self):
        return self.step / 100


def test_a_race_evaluates_when_it_is_time_and_stops_at_the_target():
    reports = []
    race = Race(0.45, 10, False, lambda w: (w, {"a": w}), lambda race: reports.append(race.facts()))
    ended = [race.watch(At(step, 0.4 * step)) for step in range(10, 70, 10)]
    # Evaluated at the first dispatch 10 s after the last evaluation: 12 s, 24 s.
    assert [p["step"] for p in race.curve] == [30, 60]
    assert ended == [False] * 5 + [True] and race.reached["step"] == 60 and race.reached["minutes"] == 0.4
    assert [len(r["curve"]) for r in reports] == [1, 2] and reports[0]["reached"] is None
    assert race.startups == [5.0] and not race.goes_on()


def test_a_resumed_race_keeps_what_is_before_its_checkpoint():
    measure = lambda w: (w, {})
    race = Race(0.9, 10, False, measure, lambda race: None)
    for step in range(10, 80, 10):
        race.watch(At(step, float(step)))
    again = Race(0.9, 10, False, measure, lambda race: None, before=json.loads(json.dumps(race.facts())))
    again.watch(At(50, 52.0))  # the checkpoint was of step 40
    assert [p["step"] for p in again.curve] == [10, 20, 30, 40, 50]
    assert again.startups == [5.0, 5.0] and again.curve[-1]["train_seconds"] == 52.0
    again.watch(At(100, 55.0))
    assert again.curve[-1]["step"] == 100 and again.reached["roc_auc"] == 1.0  # the end of the plan is always evaluated


@pytest.mark.slow  # compiles the sampler
def test_the_race_from_the_command_line(run_cli, tmp_path):
    """A network that has learned next to nothing reaches a target below guessing, at its first evaluation."""
    args = ["bench", "speedrun", "--recipe", "smoke", "--suite", "bundled", "--tasks", "iris", "--every", "0.01",
            "--host-devices", "2", "--train.steps", "24"]  # fmt: skip
    done = run_cli(*args, "--target", "0.01", "--out", tmp_path / "a", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "a" / "results.json").read_text())
    assert found == json.loads(done.stdout) and found["finished"]
    assert found["reached"]["step"] == 8 and len(found["curve"]) == 1
    assert found["reached"]["tasks_seen"] == 64 and found["reached"]["minutes"] > 0 and found["startup_seconds"][0] > 0
    assert found["random_forest"] > 0.97 and set(found["random_forest_by_data_set"]) == {"iris"}
    assert set(found["reached"]["by_data_set"]) == {"iris"}
    # The same race with a target that is out of reach goes on where that one stopped.
    done = run_cli(*args, "--target", "1.5", "--out", tmp_path / "a", "--resume")
    assert done.returncode == 0, done.stderr
    assert "target 1.50000 not reached" in done.stdout
    more = json.loads((tmp_path / "a" / "results.json").read_text())
    assert [p["step"] for p in more["curve"]] == [8, 16, 24] and more["curve"][0] == found["curve"][0]
    assert more["curve"][1]["train_seconds"] > more["curve"][0]["train_seconds"]
    done = run_cli(*args, "--target", "1.5", "--out", tmp_path / "a", "--resume", "--seed", "3")
    assert done.returncode == 2 and "its seed differs" in done.stderr
