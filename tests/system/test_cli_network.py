"""`priorax export`, `bench predict` and the talk of `predict`, from outside."""

from __future__ import annotations

import json
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
            "--n-estimators", "1", "--no-fresh", "--out", out]  # fmt: skip
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


@pytest.mark.slow
def test_bench_predict_starts_new_processes(run_cli):
    done = run_cli("bench", "predict", "--shapes", "40x4", "--queries", "30", "--repeats", "2", "--model", TINY,
                   "--json")  # fmt: skip
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
