"""Two evaluations side by side: pairs, signs, and what cannot be compared."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from priorax.configs.errors import DataError, MissingError
from priorax.configs.eval import Protocol
from priorax.eval import changes, evaluate, evaluation_report, load_result, load_suite
from priorax.eval.changes import compared_on

FEW = Protocol("few", folds=2)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp("changes")
    old = evaluate("bundled", ["net=majority", "knn"], FEW, out / "old", tasks=["iris", "wine"])
    new = evaluate("bundled", ["other=logistic_regression", "knn", "majority"], FEW, out / "new", tasks=["wine", "iris"])
    return new, old


def test_a_stored_result_is_the_result(two):
    new, old = two
    again = load_result(old.out)
    assert (again.methods, again.tasks, again.protocol, again.seed) == (old.methods, old.tasks, old.protocol, old.seed)
    for metric in ("roc_auc", "log_loss"):
        np.testing.assert_array_equal(again.table(metric), old.table(metric))
    assert changes(new, again) == changes(new, old)


def test_pairs_and_signs(two):
    new, old = two
    found = changes(new, old)
    rows = {(row["method"], row["metric"]): row for row in found["methods"]}
    assert set(rows) == {(m, k) for m in ("other", "knn") for k in ("roc_auc", "log_loss", "accuracy")}
    for metric in ("roc_auc", "log_loss", "accuracy"):
        same, network = rows["knn", metric], rows["other", metric]
        assert (same["difference"], same["better"], same["equal"], same["worse"]) == (0, 0, 2, 0)
        assert network["before"] == "net" and network["difference"] > 0 and network["better"] == 2  # better either way
        assert network["ci_low"] <= network["difference"] <= network["ci_high"]
    assert rows["other", "log_loss"]["mean_now"] < rows["other", "log_loss"]["mean_before"]
    assert len(found["sets"]) == 4 and {row["data"] for row in found["sets"]} == {"iris", "wine"}


def test_what_cannot_be_compared(two, tmp_path):
    _new, old = two
    with pytest.raises(DataError, match="other splits"):
        changes(evaluate("bundled", "knn", FEW, tasks=["iris"], seed=1), old)
    with pytest.raises(DataError, match="other splits"):
        changes(evaluate("bundled", "knn", Protocol("few", folds=3), tasks=["iris"]), old)
    with pytest.raises(DataError, match="no data set in common"):
        changes(evaluate("bundled", "knn", FEW, tasks=["breast_cancer"]), old)
    with pytest.raises(MissingError, match="no folder"):
        load_result(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no finished evaluation"):
        load_result(tmp_path)
    (tmp_path / "evaluation.json").write_text((old.out / "evaluation.json").read_text())
    with pytest.raises(DataError, match="did not finish"):
        load_result(tmp_path)


class Shifted:
    """The bundled suite with other rows under the names of some data sets."""

    def __init__(self, *names):
        self.suite, self.names = load_suite("bundled"), names
        self.load, self.suite.load = self.suite.load, self.shifted

    def shifted(self, task):
        data = self.load(task)
        return dataclasses.replace(data, X=data.X + 1) if task in self.names else data


def test_other_rows_under_the_same_name_are_not_compared(two, tmp_path):
    _new, old = two
    run = lambda *names: evaluate(Shifted(*names).suite, "knn", FEW, tasks=["iris", "wine"])
    same = changes(run(), old)
    assert same["other_data"] == same["unchecked"] == []
    part = changes(run("wine"), old)
    assert part["other_data"] == ["wine"] and {row["data"] for row in part["sets"]} == {"iris"}
    assert all(row["data_sets"] == 1 for row in part["methods"])
    with pytest.raises(DataError, match="other rows or splits of wine, iris"):
        changes(run("wine", "iris"), old)
    text = evaluation_report(run(), tmp_path / "r.html", compared=part).read_text()
    assert "Left out, since their rows or splits are not what they were: wine." in text


def test_what_kept_no_digests_is_named(two):
    new, old = two
    bare = [{k: v for k, v in row.items() if k != "data_digest"} for row in old.rows]
    found = changes(new, dataclasses.replace(old, rows=bare))
    assert found["unchecked"] == ["wine", "iris"] and found["methods"] == changes(new, old)["methods"]
    assert "Not known to be the same" in compared_on(found)[0]
    assert "set 11 and 8 more." in compared_on({"unchecked": [f"set {k}" for k in range(20)]})[0]


def test_changes_in_the_report(two, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    new, old = two
    text = evaluation_report(new, tmp_path / "r.html", compared=changes(new, old)).read_text()
    assert "Against the earlier evaluation" in text and "other (was net)" in text
