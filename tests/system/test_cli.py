"""The command line from outside: results on stdout, logs on stderr, an exit code for every kind of end."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from priorax.configs.errors import ConfigError

from priorax.cli import COMMANDS, main
from priorax.output import open_out

SMALL = ["--rows", "64", "--columns", "8"]  # one shape for all tests, so that it compiles once


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained network: enough for everything but good predictions."""
    from priorax.models import ModelConfig, init_params, save_weights

    cfg = ModelConfig(
        width=16, heads=1, layers=2, hidden=32, decoder_hidden=16, thinking_rows=4, max_rows=512, max_columns=20
    )
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, cfg, init_params(cfg, 0), {"recipe": "none"})
    return path


@pytest.fixture
def tables(tmp_path):
    import random

    draw = random.Random(0)
    for name, n in (("train", 60), ("test", 20)):
        lines = ["id,age,job,y"]
        for i in range(n):
            age = draw.uniform(20, 60)
            lines.append(
                f"{name}{i},{'' if i % 7 == 0 else round(age, 1)},{draw.choice(['nurse', 'clerk'])},{'old' if age > 40 else 'young'}"
            )
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(capsys, *args):
    code = main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_and_version(capsys):
    code, out, err = run(capsys)
    assert code == 0 and all(name in out for name in COMMANDS) and not err
    assert run(capsys, "--version")[1].strip().count(".") == 2
    assert "prior" in run(capsys, "inspect")[1]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_its_flags(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["generat"], 2, "Did you mean generate?"),
        (["inspect", "priors"], 2, "it has: prior, task"),
        (["doctor", "--jsn"], 2, "Did you mean --json?"),
        (["generate", "--out", "x", "--prior", "defualt"], 2, 'The nearest is "default"'),
        (["generate", "--out", "x", "--components.0.laws.noize", "1"], 2, "components.0.laws.noise"),
        (["generate", "--out", "x", "--n-task", "10"], 2, "--n-task is not a flag of priorax generate. Did you mean --n-tasks?"),
        (["generate", "--out", "x", "--n_task=10"], 2, "--n_task=10 is not a flag of priorax generate. Did you mean --n-tasks?"),
        (["pretrain", "--out", "x", "--step", "10"], 2, "--step is not a flag of priorax pretrain. Did you mean --steps?"),
        (["generate", "--out", "x", "--components", "3"], 2, "components is '3'; expected a list"),
        (["generate", "--out", "x", "--shard", "3/3"], 2, "must lie in 0 .. 2"),
        (["generate", "--out", "x", "--shard", "half"], 2, "I/N"),
        (["generate", "--out", "x", "--format", "hdf5", "--missing", "keep"], 2, "cannot hold missing values"),
        (["generate", "--out", "x", "--rows", "3"], 2, "at least 8"),
        (["generate", "--out", "nowhere", "--verify"], 3, "no readable manifest"),
        (["pretrain", "--out", "x", "--recipe", "nan"], 2, 'The nearest is "nano"'),
        (["pretrain", "--out", "x", "--train.learning-rat", "1"], 2, "train.learning_rate"),
        (["pretrain", "--out", "x", "--time-limit", "soon"], 2, "duration"),
        (["predict", "--train", "no.csv", "--test", "no.csv", "--target", "y"], 3, "no file no.csv"),
        (["evaluate", "--suite", "bundle"], 2, "is no suite"),
        (["evaluate", "--model", "nope.safetensors"], 4, "no such file"),
        (["evaluate", "--baselines"], 2, "--baselines none"),
        (["evaluate", "--fail-under", "roc_auc"], 2, "METRIC=VALUE"),
        (["evaluate", "--fail-under", "roc_auc=0.9", "--fail-under=brier=0.5"], 2, "--fail-under is given twice"),
        (["pretrain", "--recipe", "smoke", "--prior", "many_classes", "--out", "x"], 2, "model.max_classes to 60"),
        (["inspect", "checkpoint", "none.safetensors"], 4, "cannot read weights"),
        (["inspect", "dump", "none"], 3, "no file or folder"),
        (["inspect", "task", "--index", "-1"], 2, "task_ids"),
        (["inspect", "task", "--out", "x.gif"], 2, ".png, .svg or .pdf"),
        (["bench", "prior", "--shapes", "many"], 2, "ROWSxCOLUMNS"),
        (["demo", "--time-limit", "3"], 2, "at least 20 seconds"),
    ],
)  # fmt: skip
def test_errors_are_sentences_with_an_exit_code(args, code, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, out, err = run(capsys, *args)
    assert found == code, err
    assert says in err and err.strip().splitlines()[-1].startswith(f"error[{code}]: ")
    assert not out and "Traceback" not in err
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_a_bug_shows_a_traceback_and_exit_code_1(capsys, monkeypatch):
    from priorax import cmd_doctor

    monkeypatch.setattr(cmd_doctor.Doctor, "run", lambda self, settings: 1 / 0)
    code, out, err = run(capsys, "doctor")
    assert code == 1 and "ZeroDivisionError" in err and "bug" in err


def test_out_of_memory_is_exit_code_5(capsys, monkeypatch):
    from priorax import cmd_doctor

    def boom(self, settings):
        raise MemoryError("could not allocate")

    monkeypatch.setattr(cmd_doctor.Doctor, "run", boom)
    code, _, err = run(capsys, "doctor")
    assert code == 5 and "out of memory" in err


def test_generate_verify_inspect(capsys, tmp_path):
    out = tmp_path / "dump"
    args = ["generate", "--out", out, "--n-tasks", "16", "--shard-size", "8", *SMALL, "--with-graph", "--quiet"]
    code, text, err = run(capsys, *args, "--json")
    assert code == 0 and not err
    made = json.loads(text)
    assert made["tasks"] == 16 and made["finished"] and made["compile_s"] > 0 and made["tasks_per_s"] > 0
    assert run(capsys, *args)[0] == 2  # not empty
    assert run(capsys, *args, "--resume")[0] == 0
    code, text, _ = run(capsys, *args, "--overwrite", "--json")
    assert code == 0 and json.loads(text)["manifest_sha256"] == made["manifest_sha256"]
    assert json.loads(run(capsys, "generate", "--out", out, "--verify", "--json")[1])["ok"]
    code, text, _ = run(capsys, "inspect", "dump", out, "--json")
    assert code == 0 and json.loads(text)["graphs"] and json.loads(text)["problems"] == []
    file = out / "data" / "part-00000-of-00002.parquet"
    intact = file.read_bytes()
    file.write_bytes(intact[:-1] + b"x")
    code, _, err = run(capsys, "generate", "--out", out, "--verify")
    assert code == 7 and "part-00000" in err
    file.write_bytes(intact)
    with open(out / "data" / "part-00001-of-00002.parquet", "r+b") as last:
        last.truncate(100)
    code, text, err = run(capsys, "inspect", "dump", out)
    assert code == 7 and err.startswith("error[7]: ") and "data/part-00001-of-00002.parquet: 100 bytes" in err
    assert "tasks            8" in text


def test_generate_says_that_it_compiles_and_counts_without_it(capsys, tmp_path):
    import re

    args = ["generate", "--out", tmp_path / "d", "--n-tasks", "16", "--shard-size", "8", *SMALL, "--with-graph"]
    code, text, err = run(capsys, *args)
    said = err.splitlines()
    assert code == 0 and said[0].startswith("compiling the sampler") and re.fullmatch(r"compiled in \d+ s", said[1])
    assert said[2].startswith("8/16 tasks, ") and re.search(r"^tasks_per_s +[0-9.]+$", text, re.M)
    code, _, err = run(capsys, *args, "--resume")  # nothing is left to do
    assert code == 0 and "compil" not in err


def test_overwrite_spares_foreign_folders(capsys, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    code, _, err = run(capsys, "generate", "--out", tmp_path, "--n-tasks", "8", *SMALL, "--overwrite")
    assert code == 2 and "not made by priorax" in err
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_resume_spares_foreign_folders(capsys, tmp_path):
    """A generate --resume in a repository of one's own once replaced its README.md and config.yaml."""
    (tmp_path / "README.md").write_text("mine")
    for words in (
        ["generate", "--n-tasks", "8", *SMALL],
        ["pretrain", "--recipe", "smoke", "--steps", "1"],
        ["evaluate", "--suite", "dev32"],
        ["bench", "ablate", "--variants", "narrow: model.width=32"],
    ):
        code, _, err = run(capsys, *words, "--out", tmp_path, "--resume")
        assert code == 2 and "not made by priorax" in err and "new one without --resume" in err, (words, err)
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"] and (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("marks", "command"),
    [("run.json", "generate"), ("dump.json", "generate"), ("prior.yaml checkpoints", "pretrain"), ("evaluation.json", "evaluate")],
)
def test_resume_takes_folders_of_commands_and_of_python(tmp_path, marks, command):
    for name in marks.split():
        (tmp_path / name).touch()
    assert open_out(tmp_path, command, resume=True) == tmp_path
    if marks != "run.json":
        with pytest.raises(ConfigError, match="not made by priorax"):
            open_out(tmp_path, "bench ablate", resume=True)


def test_no_command_touches_what_another_made(capsys, tmp_path, weights):
    """A generate --resume in a run of pretrain once replaced its config.yaml, an evaluate --overwrite the model it was to read."""
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "run.json").write_text('{"command": "pretrain"}')
    (run_folder / "model.safetensors").write_bytes(weights.read_bytes())
    for how, said in (("--resume", "write into it"), ("--overwrite", "delete it")):
        code, _, err = run(capsys, "generate", "--n-tasks", "8", *SMALL, "--out", run_folder, how)
        assert code == 2 and f"was made by priorax pretrain, so priorax generate will not {said}" in err
    (run_folder / "run.json").write_text('{"command": "evaluate"}')
    code, _, err = run(capsys, "evaluate", "--model", run_folder / "model.safetensors", "--out", run_folder, "--overwrite")
    assert code == 2 and "which --overwrite would delete" in err
    assert sorted(p.name for p in run_folder.iterdir()) == ["model.safetensors", "run.json"]


def test_pretrain_checks_what_is_asked_before_it_removes_a_run(capsys, tmp_path, weights):
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text('{"command": "pretrain"}')
    (out / "model.safetensors").write_bytes(weights.read_bytes())
    base = ["pretrain", "--recipe", "smoke", "--out", out, "--overwrite"]
    for more, code, said in (
        (["--start-from", tmp_path / "typo.safetensors"], 4, "typo.safetensors"),
        (["--start-from", out / "model.safetensors"], 2, "which --overwrite would delete"),
        (["--start-from", "default"], 2, "model.width is"),
        (["--seed", "1000003"], 2, "held-out tasks would be training tasks"),
    ):
        found, _, err = run(capsys, *base, *more)
        assert found == code and said in err, err
        assert sorted(p.name for p in out.iterdir()) == ["model.safetensors", "run.json"]
    assert run(capsys, *base[:3], "--out", tmp_path / "new", "--seed", "-1")[0] == 2 and not (tmp_path / "new").exists()


def test_resume_takes_a_run_killed_before_its_first_file(tmp_path):
    (tmp_path / ".run.json.abc.tmp").write_text("{")
    for how in ({"resume": True}, {"overwrite": True}, {}):
        assert open_out(tmp_path, "generate", **how) == tmp_path
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not made by priorax"):
        open_out(tmp_path, "generate", resume=True)


def test_dry_run_writes_nothing(capsys, tmp_path):
    code, text, _ = run(capsys, "generate", "--out", tmp_path / "d", "--n-tasks", "10000", "--dry-run", "--json")
    assert code == 0 and json.loads(text)["files"] == 3 and not (tmp_path / "d").exists()


def test_predict_writes_ids_and_probabilities(capsys, tables, weights):
    base = ["predict", "--train", tables / "train.csv", "--test", tables / "test.csv", "--target", "y", "--id", "id",
            "--model", weights, "--n-estimators", "1"]  # fmt: skip
    code, text, _ = run(capsys, *base, "--out", tables / "p.csv", "--json")
    summary = json.loads(text)
    assert (
        code == 0 and summary["rows"] == 20 and summary["classes"] == ["old", "young"] and 0 <= summary["accuracy"] <= 1
    )
    lines = (tables / "p.csv").read_text().splitlines()
    assert lines[0] == "id,prediction,proba_old,proba_young" and len(lines) == 21
    first = lines[1].split(",")
    assert first[0] == "test0" and abs(float(first[2]) + float(first[3]) - 1) < 1e-5
    assert run(capsys, *base, "--out", tables / "p.csv")[0] == 2  # exists
    code, text, _ = run(capsys, *base, "--no-proba")
    assert code == 0 and text.splitlines()[0] == "id,prediction"
    for suffix in ("jsonl", "parquet", "arrow"):
        assert run(capsys, *base, "--out", tables / f"p.{suffix}")[0] == 0
    from priorax import table_io

    tables_read = [table_io.read(tables / f"p.{s}") for s in ("jsonl", "parquet", "arrow")]
    assert tables_read[0] == tables_read[1] == tables_read[2]


def test_predict_names_what_is_wrong(capsys, tables, weights):
    base = ["predict", "--train", tables / "train.csv", "--test", tables / "test.csv", "--model", weights]
    code, _, err = run(capsys, *base, "--target", "label")
    assert code == 3 and 'column "label" is not in' in err and "age, job, y" in err
    code, _, err = run(capsys, *base, "--target", "y", "--columns", "age", "wage")
    assert code == 3 and '"wage"' in err
    code, _, err = run(capsys, *base, "--target", "y", "--categorical", "wage")
    assert code == 2 and "wage" in err
    bad = (tables / "test.csv").read_text().replace(",", ",x", 4)
    (tables / "bad.csv").write_text(bad.replace("xage", "age").replace("xjob", "job").replace("xy", "y"))
    code, _, err = run(capsys, *base[:3], "--test", tables / "bad.csv", *base[5:], "--target", "y")
    assert code == 3 and "numeric in the training table" in err


def test_predict_reads_files_as_they_are_meant(capsys, tables, weights):
    """Ids as written, "none" among classes, labels and columns written in other ways in the other file; a column named in a warning."""
    folder, rows = tables, [f"{'NA' if i == 3 else f' c{i}'},{'-' if i == 5 else i},{('none', 'mild')[i % 2]}" for i in range(60)]
    (folder / "a.csv").write_text("\n".join(["who,dose,y", *rows]))
    (folder / "b.csv").write_text("\n".join(["who,dose,y", *rows[:6]]))
    base = ["predict", "--train", folder / "a.csv", "--test", folder / "b.csv", "--target", "y", "--model", weights, "--n-estimators", "1"]
    code, text, err = run(capsys, *base, "--id", "who", "--json")
    told = json.loads(text)
    assert code == 0 and told["classes"] == ["mild", "none"] and told["train_rows"] == 60 and "accuracy" in told
    assert told["table"]["id"] == [" c0", " c1", " c2", "NA", " c4", " c5"] and len(told["table"]["prediction"]) == 6
    assert "column 'dose': 59 of 60 different values read as numbers, but '-', for one, does not" in err
    (folder / "a.csv").write_text("\n".join(["x,y", *(f"{i},{i % 2}.0" for i in range(60))]))
    (folder / "b.csv").write_text("x,y\n1,1\n2,0.0\n3,other\n")
    told = json.loads(run(capsys, *base, "--json")[1])
    right = sum(a == b for a, b in zip(told["table"]["prediction"], ["1", "0"], strict=False))
    assert told["classes"] == ["0", "1"] and told["accuracy"] == pytest.approx(right / 3)


def test_predict_keeps_the_files_it_reads(capsys, tables, weights):
    before = (tables / "train.csv").read_bytes(), (tables / "test.csv").read_bytes()
    for flag in ("train", "test"):
        code, _, err = run(capsys, "predict", "--train", tables / "train.csv", "--test", tables / "test.csv", "--target", "y",
                           "--model", weights, "--out", tables / f"{flag}.csv", "--overwrite")  # fmt: skip
        assert code == 2 and f"is the file of --{flag}" in err
    assert before == ((tables / "train.csv").read_bytes(), (tables / "test.csv").read_bytes())


def test_checkpoint_commands(capsys, weights):
    code, text, _ = run(capsys, "inspect", "checkpoint", weights, "--json")
    facts = json.loads(text)
    assert (
        code == 0 and facts["licence"] == "Apache-2.0" and facts["self_test"] == "passed" and facts["parameters"] > 1000
    )
    assert run(capsys, "weights", "verify", weights)[0] == 0
    damaged = weights.with_name("damaged.safetensors")
    raw = bytearray(weights.read_bytes())
    raw[-5] ^= 0xFF
    damaged.write_bytes(raw)
    code, _, err = run(capsys, "weights", "verify", damaged)
    assert code == 3 and "checksum" in err


def test_inspect_task_draws_the_graph(capsys, tmp_path):
    code, text, _ = run(capsys, "inspect", "task", "--index", "3", *SMALL, "--out", tmp_path / "t.svg", "--json")
    found = json.loads(text)
    assert code == 0 and found["graph"]["target_node"] == found["graph"]["n_nodes"] - 1
    assert "<svg" in (tmp_path / "t.svg").read_text()


def test_inspect_prior_reports(capsys, tmp_path):
    args = ["inspect", "prior", "default", "--n-tasks", "64", "--forest-tasks", "4", *SMALL, "--out", tmp_path / "r"]
    code, text, _ = run(capsys, *args, "--json")
    found = json.loads(text)
    assert code == 0 and 2 <= found["table"]["classes"]["mean"] <= 10 and found["graph"]["nodes"]["mean"] > 2
    page = (tmp_path / "r" / "report.html").read_text()
    assert page.count("data:image/png") == 4 and "http" not in page.split("</style>")[1]
    assert {p.name for p in (tmp_path / "r").glob("*.png")} == {"sizes.png", "marginals.png", "tasks.png", "graphs.png"}


@pytest.mark.parametrize("bad", [["--rows", "4"], ["--columns", "0"], ["--seed", "-1"], ["--n-tasks", "0"]])
@pytest.mark.parametrize("what", ["prior", "members"])
def test_inspect_checks_before_it_empties_a_folder(capsys, tmp_path, what, bad):
    """--overwrite once deleted the old report, and `members` then ended in a traceback."""
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "report.html").write_text("old")
    code, _, err = run(capsys, "inspect", what, "--out", tmp_path, "--overwrite", *bad)
    assert code == 2 and err.startswith("error[2]: ") and (tmp_path / "report.html").read_text() == "old"


def test_refused_settings_are_not_noted_as_those_of_a_dump(capsys, tmp_path):
    out = tmp_path / "d"
    args = ["generate", "--out", out, "--n-tasks", "8", *SMALL]
    assert run(capsys, *args)[0] == 0
    before = (out / "run.json").read_text()
    code, _, err = run(capsys, *args, "--resume", "--seed", "4")
    assert code == 2 and "seed = 0, this run has 4" in err and (out / "run.json").read_text() == before
    (out / "dump.json").write_text("{")
    code, _, err = run(capsys, *args, "--resume")
    assert code == 2 and "dump.json cannot be read" in err


def test_verify_of_what_is_no_manifest(capsys, tmp_path):
    (tmp_path / "manifest.json").write_text("[]")
    code, _, err = run(capsys, "generate", "--verify", "--out", tmp_path)
    assert code == 3 and "is not the manifest of a dump" in err and "--resume" in err


def test_inspect_members_draws_every_member_of_a_law(capsys, tmp_path):
    args = ["inspect", "members", "--laws", "combine", "--n-tasks", "2", *SMALL]
    code, text, _ = run(capsys, *args, "--out", tmp_path / "m", "--json")
    assert code == 0 and json.loads(text)["members"] == 5
    assert (tmp_path / "m" / "combine.png").stat().st_size > 1000
    assert (tmp_path / "m" / "report.html").read_text().count("data:image/png") == 1
    code, _, err = run(capsys, "inspect", "members", "--laws", "color", "--out", tmp_path / "n")
    assert code == 2 and "laws are" in err and not (tmp_path / "n").exists()


@pytest.mark.heavy
def test_bench_prior_json_and_comparison(tmp_path, run_cli):
    base = tmp_path / "base.json"
    args = ["bench", "prior", "--shapes", "64x8", "--tasks", "64", "--repeats", "3"]
    done = run_cli(*args, "--json", "--out", base)
    assert done.returncode == 0, done.stderr
    (point,) = json.loads(done.stdout)
    assert (point["rows"], point["columns"], point["preset"]) == (64, 8, "default")
    rate = point["tasks_per_s"]
    assert 0 < rate["min"] <= rate["median"] <= rate["max"] and point["compile_s"] > 0 and point["peak_mb"] > 0
    record = json.loads(base.read_text())
    record["points"][0]["tasks_per_s"]["median"] *= 1000
    base.write_text(json.dumps(record))
    from priorax.configs.errors import DataError, ThresholdError

    from priorax.cmd_bench import BenchPrior

    # The file of the earlier run may be the one to write: it is read first.
    with pytest.raises(ThresholdError, match="rows=64"):
        BenchPrior(compare=base, out=base, overwrite=True)._finish("prior", [point], "tasks_per_s", True)
    assert json.loads(base.read_text())["points"] == [point]
    BenchPrior(compare=base)._finish("prior", [point], "tasks_per_s", True)
    with pytest.raises(DataError, match="holds none of the points"):
        BenchPrior(compare=base)._finish("prior", [point | {"rows": 128}], "tasks_per_s", True)
    with pytest.raises(DataError, match="another benchmark"):
        BenchPrior(compare=base)._finish("prior", [point], "fit_predict_s", False)


def test_log_json_parses_line_by_line(tmp_path, weights, capsys):
    code, out, err = run(capsys, "evaluate", "--model", weights, "--baselines", "knn", "--tasks", "iris", "--log", "json",
                         "--n-estimators", "1", "--json", "--out", tmp_path / "e")  # fmt: skip
    assert code == 0
    events = [json.loads(line) for line in err.splitlines()]
    assert {"ts", "event"} <= set(events[0]) and any(e["event"] == "eval.task" for e in events)
    assert set(json.loads(out)["roc_auc"]["knn"]) == {"iris"}
    assert (tmp_path / "e" / "report.html").exists()


def test_evaluate_threshold(capsys, weights):
    code, _, err = run(capsys, "evaluate", "--model", weights, "--baselines", "none", "--tasks", "iris", "--n-estimators",
                       "1", "--fail-under", "roc_auc=0.9999")  # fmt: skip
    assert code == 7 and "roc_auc" in err


def test_doctor(run_cli, weights):
    done = run_cli("doctor", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert found["predict"]["ok"] and found["device_platform"] == "cpu" and "jax" in found["versions"]


@pytest.mark.parametrize(("device", "extra"), [("tpu", "priorax[tpu]"), ("gpu", "priorax[cuda]")])
def test_absent_device_is_exit_code_4(run_cli, device, extra):
    import jax

    if jax.default_backend() == device:
        pytest.skip(f"there is a {device}")
    done = run_cli("doctor", "--device", device, env={"JAX_PLATFORMS": ""})
    assert done.returncode == 4 and "not available" in done.stderr and extra in done.stderr


@pytest.mark.heavy
def test_killed_generate_resumes_to_the_same_bytes(tmp_path):
    """SIGKILL while parts are being written; the resumed folder equals one made in peace."""
    import hashlib

    def command(out, *more):
        return [sys.executable, "-m", "priorax", "generate", "--out", str(out), "--n-tasks", "1536", "--shard-size", "64",
                *SMALL, "--quiet", *more]  # fmt: skip

    def digest(folder):
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        return [(p.relative_to(folder).as_posix(), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]

    subprocess.run(command(tmp_path / "clean"), check=True, timeout=1800)
    process = subprocess.Popen(command(tmp_path / "killed"))
    deadline = time.monotonic() + 300
    while not list((tmp_path / "killed").glob("data/*.parquet")) and time.monotonic() < deadline:
        assert process.poll() is None, "generate ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "manifest.json").exists(), "nothing was left to resume"
    subprocess.run(command(tmp_path / "killed", "--resume"), check=True, timeout=1800)
    assert digest(tmp_path / "killed") == digest(tmp_path / "clean")


@pytest.mark.heavy
def test_sigterm_ends_generate_with_143(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "priorax", "generate", "--out", str(tmp_path / "d"), "--n-tasks", "100000", "--shard-size",
         "64", *SMALL, "--quiet"], stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not list((tmp_path / "d").glob("data/*.parquet")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    _, err = process.communicate(timeout=1800)
    assert process.returncode == 143 and "--resume" in err
