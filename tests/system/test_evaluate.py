"""`priorax evaluate` from outside: kill and resume, several processes, thresholds, comparisons, snapshots."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys

import pytest
from priorax.eval import evaluate

from priorax.cli import main

pytest.importorskip("pyarrow", reason="results are read back as Parquet")
CLASSIC = ["evaluate", "--model", "none", "--baselines", "majority,knn,logistic_regression", "--tasks", "iris", "wine"]
CLOCK = {"time_train_s", "time_warmup_s", "time_infer_s", "memory_mb"}


def run(capsys, *args):
    code = main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def rows(folder):
    """The results but for what a clock or the system measured; NaN as text, so that it equals itself."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(folder / "results.parquet").to_pylist()
    return [{k: str(v) for k, v in row.items() if k not in CLOCK} for row in table]


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tmp_path, capsys):
    """SIGKILL to the whole process group while two workers are at it; then --resume."""
    args = [*CLASSIC, "breast_cancer", "--protocol", "repeated", "--jobs", "2"]
    assert run(capsys, *args, "--out", tmp_path / "whole", "--quiet")[0] == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "priorax", *args, "--out", str(tmp_path / "cut"), "--log", "json"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    for line in process.stderr:
        if json.loads(line)["event"] == "eval.task":
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not (tmp_path / "cut" / "results.parquet").exists(), "nothing was left to resume"
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut" / "cells").rglob("*.npz")}
    assert cells
    assert run(capsys, *args, "--out", tmp_path / "cut", "--quiet")[0] == 2  # not empty: say what you want
    assert run(capsys, *args, "--out", tmp_path / "cut", "--resume", "--quiet")[0] == 0
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == time for path, time in cells.items())  # finished work was kept


def test_thresholds_in_both_directions(tmp_path, capsys):
    args = ["evaluate", "--model", "none", "--baselines", "knn", "--tasks", "iris", "--quiet"]
    assert run(capsys, *args, "--fail-under", "roc_auc=0.9", "brier=0.5")[0] == 0
    code, _, err = run(capsys, *args, "--fail-under", "roc_auc=0.9", "brier=0.001")
    assert code == 7 and "mean brier of knn" in err
    code, _, err = run(capsys, *args, "--fail-under", "brier=0.001")
    assert code == 7 and "mean brier of knn" in err
    code, _, err = run(capsys, *args, "--fail-under", "f1=0.9")
    assert code == 2 and "roc_auc, roc_auc_ovo, log_loss" in err
    code, _, err = run(capsys, "evaluate", "--model", "none", "--baselines", "none")
    assert code == 2 and "nothing to evaluate" in err


def test_a_folder_that_is_refused_keeps_what_it_says_of_itself(tmp_path, capsys):
    out = tmp_path / "out"
    args = ["evaluate", "--model", "none", "--baselines", "majority", "--tasks", "iris", "--quiet", "--out", out]
    assert run(capsys, *args)[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, _, err = run(capsys, *args, "--resume", "--seed", "1")
    assert code == 2 and "another suite, protocol or seed" in err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "wrong", [("--baselines", "mayority"), ("--tasks", "irys"), ("--suite", "bundeld"), ("--protocol", "kfolds"), ("--seed", "-1")]
)
def test_a_slip_costs_no_results(tmp_path, capsys, wrong):
    """Neither does --overwrite remove any before all is checked, nor is a new folder left in which the next try is refused."""
    args = ["evaluate", "--model", "none", "--baselines", "majority", "--tasks", "iris", "--quiet"]
    old = tmp_path / "old" / "cells"
    assert run(capsys, *args, "--out", old.parent)[0] == 0
    kept = {path: path.read_bytes() for path in old.rglob("*.npz")}
    slip = [word for word in args if word not in ("majority", "iris", "--baselines", "--tasks")]
    slip += [word for flag, value in (("--baselines", "majority"), ("--tasks", "iris")) if flag != wrong[0] for word in (flag, value)]
    assert run(capsys, *slip, *wrong, "--out", old.parent, "--overwrite")[0] == 2
    assert kept and {path: path.read_bytes() for path in old.rglob("*.npz")} == kept
    assert run(capsys, *slip, *wrong, "--out", tmp_path / "new")[0] == 2
    assert not (tmp_path / "new").exists()


def test_two_targets_of_a_file_have_scores_of_their_own(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"{i % 7},{'xy'[i % 2]},{'uv'[(i % 7) > 3]}" for i in range(60)]
    (tmp_path / "mine.csv").write_text("n,a,b\n" + "\n".join(lines) + "\n")
    args = ["evaluate", "--suite", "mine.csv::a,mine.csv::b", "--model", "none", "--baselines", "knn", "--quiet"]
    code, said, _ = run(capsys, *args, "--json")
    scores = json.loads(said)["roc_auc"]["knn"]
    assert code == 0 and scores.keys() == {"mine (mine.csv::a)", "mine (mine.csv::b)"}
    assert scores["mine (mine.csv::b)"] == 1.0 > scores["mine (mine.csv::a)"]
    assert f"{scores['mine (mine.csv::a)']:.4f}" in run(capsys, *args)[1]


def flowers(folder):
    """A table of two classes that one column tells apart, its class in the last column."""
    path = folder / "flowers.csv"
    path.write_text("width,species\n" + "\n".join(f"{i % 2 + i / 100},{'ab'[i % 2]}" for i in range(30)) + "\n")
    return path


def test_nothing_scored_ends_with_the_reason(tmp_path, capsys):
    pytest.importorskip("pandas", reason="reading files needs pandas")
    path, base = flowers(tmp_path), ["evaluate", "--model", "none", "--quiet"]
    wrong = [*base, "--baselines", "knn,majority", "--suite", f"{path}::specis", "--out", tmp_path / "out"]
    code, out, err = run(capsys, *wrong)
    assert code == 3 and len(err.strip().splitlines()) == 1
    assert err.startswith("error[3]: nothing could be scored; failed: knn, majority on ") and 'column "specis"' in err
    assert out.count("specis\" is not in") == 1, "one reason, one line"
    assert (tmp_path / "out" / "report.html").exists() and len(rows(tmp_path / "out")) == 2
    code, _, err = run(capsys, *base, "--baselines", "knn", "--suite", tmp_path / "gone.csv", "--fail-under", "roc_auc=0.5")
    assert code == 4 and "no data file" in err  # the reason, not the threshold, which nothing was held against
    code, out, _ = run(capsys, *base, "--baselines", "knn", "--suite", f"{path},{tmp_path / 'gone.csv'}")
    assert code == 0 and "failed: knn on" in out and "no data file" in out  # in part is not nothing


def test_the_target_of_a_file_is_told(tmp_path, capsys):
    pytest.importorskip("pandas", reason="reading files needs pandas")
    path, base = flowers(tmp_path), ["evaluate", "--model", "none", "--baselines", "majority"]
    code, _, err = run(capsys, *base, "--suite", path)
    assert code == 0 and "eval.target: data flowers, target species (last column)" in err
    code, _, err = run(capsys, *base, "--suite", f"{path}::species", "--log", "json")
    (told,) = [event for event in map(json.loads, err.splitlines()) if event["event"] == "eval.target"]
    assert code == 0 and told["target"] == "species"


def test_an_absent_package_is_named_once(capsys):
    optional = ("tabpfn", "tabicl", "catboost", "lightgbm", "xgboost")
    absent = next((name for name in optional if importlib.util.find_spec(name) is None), None)
    if absent is None:
        pytest.skip("every optional baseline is installed")
    args = ["evaluate", "--model", "none", "--tasks", "iris", "wine", "--quiet"]
    code, out, err = run(capsys, *args, "--baselines", absent)
    assert code == 4 and err.startswith(f"error[4]: nothing could be scored; failed: {absent} on wine, iris (5 folds each)")
    assert err.count("pip install") == out.count("pip install") == 1
    code, out, _ = run(capsys, *args, "--baselines", f"knn,{absent}")
    assert code == 0 and out.count("pip install") == 1


def test_a_set_that_is_in_no_cache(tmp_path, capsys):
    pytest.importorskip("openml", reason="the openml client is not installed")
    (tmp_path / "org" / "openml" / "www").mkdir(parents=True)
    code, out, err = run(capsys, "evaluate", "--suite", "11,37", "--openml-cache", tmp_path, "--model", "none", "--quiet")
    assert code == 4 and "OpenML task 11 is not in the offline cache" in err and "1 more reason on stdout" in err
    assert out.count("task 11 is not") == out.count("task 37 is not") == 1


def test_a_threshold_without_a_score_says_why(tmp_path, capsys):
    pytest.importorskip("pandas", reason="reading files needs pandas")
    suite = f"{flowers(tmp_path)},{tmp_path / 'gone.csv'}"
    args = ["evaluate", "--model", "none", "--baselines", "knn", "--quiet", "--fail-under", "roc_auc=0.9"]
    code, _, err = run(capsys, *args, "--suite", suite)
    assert code == 7 and "there is no score to compare with 0.9" in err and "no data file" in err and "nan" not in err


def test_a_report_says_what_it_leaves_out(tmp_path, capsys):
    """A second evaluation into a folder: its report replaces the first one's, so what is no longer in it is named."""
    base = ["evaluate", "--model", "none", "--out", tmp_path / "e"]
    code, _, err = run(capsys, *base, "--baselines", "knn,majority", "--tasks", "iris", "wine")
    assert code == 0 and "not in this report" not in err
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "e" / "cells").rglob("*.npz")}
    code, out, err = run(capsys, *base, "--resume", "--baselines", "logistic_regression,knn", "--tasks", "iris", "--json")
    assert code == 0 and json.loads(out)["not_in_report"] == {"methods": ["majority"], "tasks": ["wine"]}
    assert "also holds results of methods majority; data sets wine, which were not named" in err
    assert {row["method"] for row in rows(tmp_path / "e")} == {"logistic_regression", "knn"}
    every = ["--baselines", "logistic_regression,knn,majority", "--tasks", "iris", "wine"]
    code, out, err = run(capsys, *base, "--resume", *every, "--json")
    assert code == 0 and json.loads(out)["not_in_report"] == {"methods": [], "tasks": []} and "also holds" not in err
    assert {(row["method"], row["task"]) for row in rows(tmp_path / "e")} >= {("majority", "wine"), ("logistic_regression", "wine")}
    assert all(path.stat().st_mtime_ns == time for path, time in cells.items()), "finished work was done again"


def test_comparison_with_an_earlier_folder(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the report needs matplotlib")
    base = ["evaluate", "--model", "none", "--tasks", "iris", "wine", "--quiet"]
    evaluate("bundled", "knn", out=tmp_path / "a", tasks=["iris", "wine"])
    code, out, _ = run(
        capsys, *base, "--baselines", "best=logistic_regression,knn", "--compare-with", tmp_path / "a", "--out", tmp_path / "b"
    )
    assert code == 0 and "knn, roc_auc" in out and "equal on 2" in out
    assert "Against the earlier evaluation" in (tmp_path / "b" / "report.html").read_text()
    code, out, _ = run(capsys, *base, "--baselines", "knn", "--compare-with", tmp_path / "a", "--json")
    assert code == 0 and {row["equal"] for row in json.loads(out)["compared"]["methods"]} == {2}
    code, out, _ = run(capsys, *base[:-3], "iris", "--quiet", "--baselines", "knn", "--compare-with", tmp_path / "a", "--out", tmp_path / "c")
    assert code == 0 and "+0.0000 (no interval with one data set)" in out and "nan" not in out
    assert "no interval with one data set" in (tmp_path / "c" / "report.html").read_text()
    code, _, err = run(capsys, *base, "--baselines", "knn", "--seed", "1", "--compare-with", tmp_path / "a")
    assert code == 3 and "other splits" in err
    code, _, err = run(capsys, *base, "--baselines", "knn", "--compare-with", tmp_path / "nowhere")
    assert code == 4 and "no folder" in err


@pytest.mark.parametrize("given", [["majority,knn"], ["majority", "knn"], ["majority,", "knn"], ["none,majority", "knn"]])
def test_baselines_with_commas_or_spaces(given, capsys):
    code, out, _ = run(capsys, "evaluate", "--model", "none", "--baselines", *given, "--tasks", "iris", "--json", "--quiet")
    assert code == 0 and list(json.loads(out)["roc_auc"]) == ["majority", "knn"]


def test_tuned_baselines_join_their_defaults(capsys):
    code, out, _ = run(
        capsys, "evaluate", "--model", "none", "--baselines", "knn,majority", "--tune", "0.2s", "--tasks", "iris", "--json"
    )
    assert code == 0 and list(json.loads(out)["roc_auc"]) == ["knn", "majority", "knn tuned"]


def test_prefetch(tmp_path, capsys):
    code, _, err = run(capsys, "evaluate", "--prefetch")
    assert code == 2 and "--out" in err
    (tmp_path / "a.csv").write_text("x,y\n" + "\n".join(f"{i % 7},{i % 2}" for i in range(30)) + "\n")
    suite = f"{tmp_path / 'a.csv'},{tmp_path / 'b.csv'}"
    code, out, err = run(capsys, "evaluate", "--suite", suite, "--prefetch", "--out", tmp_path / "snap", "--quiet")
    assert code == 4 and "1 of 2 tasks are missing" in err and "no data file" in out
    (tmp_path / "a.csv").rename(tmp_path / "b.csv")
    code, out, _ = run(capsys, "evaluate", "--suite", suite, "--prefetch", "--out", tmp_path / "snap", "--resume", "--json")
    assert code == 0 and json.loads(out)["tasks"] == 2 and json.loads(out)["server_errors"] == []
    (tmp_path / "b.csv").unlink()
    code, out, _ = run(
        capsys, "evaluate", "--suite", tmp_path / "snap", "--model", "none", "--baselines", "knn", "--json", "--quiet"
    )
    assert code == 0 and json.loads(out)["skipped"] == [] and len(json.loads(out)["roc_auc"]["knn"]) == 2
