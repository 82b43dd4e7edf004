"""`priorax export`, `bench predict` and the talk of `predict`, from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from priorax.cli import main

TINY = Path(__file__).resolve().parents[1] / "models" / "tiny.safetensors"


def run(capsys, *args):
    code = main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_export_writes_a_program_and_its_description(capsys, tmp_path):
    out = tmp_path / "net.stablehlo"
    args = ["export", out, "--to", "stablehlo", "--model", TINY, "--rows", "32", "--columns", "8", "--platforms", "cpu"]
    code, text, _ = run(capsys, *args, "--json")
    facts = json.loads(text)
    assert code == 0 and facts == json.loads((tmp_path / "net.stablehlo.json").read_text())
    assert facts["bytes"] == out.stat().st_size and facts["licence"] == "Apache-2.0" and facts["platforms"] == ["cpu"]
    assert facts["check"]["largest_difference"] <= facts["check"]["tolerance"] and facts["check"]["query_rows"] > 0
    assert facts["order"] == list(facts["inputs"]) and facts["inputs"]["y_context"] == "int32[32]"
    code, _, err = run(capsys, *args)
    assert code == 2 and "exists. Use --overwrite" in err


def test_a_failed_export_is_exit_code_7_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    from priorax.models import export

    monkeypatch.setattr(export, "compare", lambda *_: (0.5, 3))
    args = ["export", tmp_path / "n", "--model", TINY, "--rows", "32", "--columns", "8", "--platforms", "cpu"]
    code, _, err = run(capsys, *args)
    assert code == 7 and "was not written" in err and not list(tmp_path.iterdir())


def test_bench_predict_tells_cold_warm_and_one_row(capsys, tmp_path):
    out = tmp_path / "b.json"
    args = ["bench", "predict", "--shapes", "40x4", "--queries", "30", "--repeats", "5", "--model", TINY,
            "--n-estimators", "1", "--no-fresh", "--no-tabicl", "--out", out]  # fmt: skip
    code, text, _ = run(capsys, *args, "--json")
    (point,) = json.loads(text)
    assert code == 0 and (point["context"], point["columns"], point["queries"]) == (40, 4, 30)
    for name in ("fit_predict_s", "predict_s", "one_row_s"):
        spread = point[name]
        assert 0 < spread["min"] <= spread["median"] <= spread["p95"] <= spread["max"]
    assert point["first_s"] > 0 and "process_s" not in point
    saved = json.loads(out.read_text())
    assert saved["points"] == [point] and saved["environment"]["device_platform"] == "cpu"
    code, text, _ = run(capsys, *args[:-2])
    assert code == 0 and "p95" in text and "one_row_s" in text


def test_bench_predict_says_that_tabicl_is_not_there(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tabicl", None)  # as if it were not installed
    args = ["bench", "predict", "--shapes", "40x4", "--queries", "30", "--repeats", "1", "--model", TINY, "--no-fresh"]
    code, text, err = run(capsys, *args, "--json")
    (point,) = json.loads(text)
    assert code == 0 and "tabicl is not installed" in err and "network" not in point


def test_bench_predict_times_tabicl_beside_ours(capsys, tmp_path):
    for package in ("tabicl", "torch"):
        pytest.importorskip(package, reason="TabICL is not installed (pip install tabicl)")
    args = ["bench", "predict", "--shapes", "40x4", "--queries", "30", "--repeats", "2", "--model", TINY, "--no-fresh"]
    code, text, err = run(capsys, *args, "--json", "--out", tmp_path / "b.json")
    ours, theirs = json.loads(text)
    assert code == 0, err
    assert ours["network"] == "priorax" and theirs["network"].startswith("tabicl 2") and list(ours) == list(theirs)
    assert theirs["n_estimators"] == 1 and theirs["columns"] == 4 and theirs["context"] == 40
    for name in ("fit_predict_s", "predict_s", "one_row_s"):
        assert 0 < theirs[name]["min"] <= theirs[name]["median"] <= theirs[name]["max"]
    # A slower TabICL is not a regression of ours.
    saved = json.loads((tmp_path / "b.json").read_text())
    saved["points"][1]["fit_predict_s"]["median"] = 1e-9
    (tmp_path / "b.json").write_text(json.dumps(saved))
    code, text, err = run(capsys, *args, "--compare", tmp_path / "b.json", "--max-regression", "100000")
    assert code == 0 and "tabicl 2" in text and "random weights" in text, err


def test_the_peak_of_a_process_is_its_own_and_not_that_of_its_parent(tmp_path):
    pytest.importorskip("resource", reason="this system has no getrusage")
    script = tmp_path / "peak.py"
    script.write_text(
        "import subprocess, sys\n"
        "from priorax import runtime\n"
        "if len(sys.argv) == 1:\n"
        "    large = b'x' * 400_000_000\n"
        "    subprocess.run([sys.executable, __file__, 'child'], check=True)\n"
        "    assert runtime.peak_memory_mb() > 400\n"
        "else:\n"
        "    print(runtime.peak_memory_mb())\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert 1 < float(done.stdout) < 300


@pytest.mark.slow
def test_bench_predict_starts_new_processes(run_cli):
    done = run_cli("bench", "predict", "--shapes", "40x4", "--queries", "30", "--repeats", "2", "--model", TINY,
                   "--no-tabicl", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (point,) = json.loads(done.stdout)
    assert 0 < point["process_s"] and 0 < point["process_no_cache_s"]


@pytest.mark.parametrize(("extra", "count"), [("1,u,never\n", "1 test labels do"), ("", None)])
def test_predict_points_out_labels_it_cannot_know(extra, count, capsys, tmp_path):
    rows = "a,b,y\n" + "".join(f"{i},{'uv'[i % 2]},{'no' if i % 3 else 'yes'}\n" for i in range(40))
    (tmp_path / "train.csv").write_text(rows)
    (tmp_path / "test.csv").write_text(rows + extra)
    code, text, err = run(capsys, "predict", "--train", tmp_path / "train.csv", "--test", tmp_path / "test.csv", "--target",
                          "y", "--model", TINY, "--n-estimators", "1", "--json")  # fmt: skip
    assert code == 0 and 0 <= json.loads(text)["accuracy"] <= 1
    assert ("do not occur in" in err) == (count is not None) and (count or "") in err


def test_predict_rounds_the_accuracy_for_people(capsys, tmp_path):
    rows = "a,b,y\n" + "".join(f"{i},{'uv'[i % 2]},{'no' if i % 3 else 'yes'}\n" for i in range(42))
    (tmp_path / "t.csv").write_text(rows)
    base = ["predict", "--train", tmp_path / "t.csv", "--test", tmp_path / "t.csv", "--target", "y", "--model", TINY,
            "--n-estimators", "1"]  # fmt: skip
    exact = json.loads(run(capsys, *base, "--json")[1])["accuracy"]
    code, text, _ = run(capsys, *base, "--out", tmp_path / "p.csv")
    (line,) = (line for line in text.splitlines() if line.startswith("accuracy"))
    assert code == 0 and line.split()[1] == f"{exact:.4f}"


@pytest.mark.parametrize(
    ("chain", "total", "says"),
    [
        ((8,), (8, 1, True), "8 in this run"),
        ((8, 20, None), (28, 2, True), "8 in this run; 28 with the runs before that the header names"),
        ((8, 20, 1000, None), (1028, 3, True), "8 in this run; 1,028 with"),
        ((8, 20), (28, 2, False), "8 in this run; at least 28 with"),  # as older headers end
    ],
)
def test_inspect_checkpoint_tells_this_run_from_those_before(capsys, tmp_path, chain, total, says):
    from priorax.models import load_weights, save_weights

    from priorax.cmd_weights import tasks_over_runs

    meta = {"trained_rows": 1024}
    here = meta
    for i, tasks in enumerate(chain):
        if i:
            here["started_from"] = None if tasks is None else {}
            here = here["started_from"]
        if tasks is not None:
            here["tasks_seen"] = tasks
    assert tasks_over_runs(meta) == total
    tiny = load_weights(TINY)
    save_weights(tmp_path / "w.safetensors", tiny.cfg, tiny.params, meta)
    code, text, _ = run(capsys, "inspect", "checkpoint", tmp_path / "w.safetensors")
    assert code == 0 and says in text and "1,024 (context and query rows together)" in text
    assert json.loads(run(capsys, "inspect", "checkpoint", tmp_path / "w.safetensors", "--json")[1])["meta"]["trained_rows"] == 1024
