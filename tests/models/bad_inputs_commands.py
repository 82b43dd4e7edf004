"""Bad inputs of the command line, run in this process."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from bad_input_case import TINY, case
from priorax.configs.errors import ConfigError, DataError

from priorax import cli

COMMANDS = "Files and flags (`priorax predict`)"
GOOD = "a,b,y\n" + "".join(f"{i},{'uv'[i % 2]},{'no' if i % 3 else 'yes'}\n" for i in range(20))


def command(*flags: str, train: str | bytes = GOOD, test: str | bytes = GOOD, suffix: str = ".csv", command: str = "predict"):
    """Runs ``priorax predict`` in this process on two files; errors come out as they are."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, text in (("train.csv", train), (f"test{suffix}", test)):
            Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        Path("full").mkdir()
        Path("full/file").write_text("mine")
        given = {"--train": "train.csv", "--test": f"test{suffix}", "--model": TINY, "--n-estimators": "1", "--target": "y"}
        cli._run([command, *(word for flag, value in given.items() if flag not in flags for word in (flag, value)), *flags])


def told(*flags: str, **files: Any) -> dict[str, Any]:
    """What ``--json`` says."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        command("--json", *flags, **files)
    return json.loads(said.getvalue())


def parquet(**columns: list) -> bytes:
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue().to_pybytes()


def other(*words: str) -> None:
    """Runs another command in an empty folder."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("full").mkdir()
        Path("full/file").write_text("mine")
        cli._run(list(words))


case(COMMANDS, "a target that is not in the training file", DataError, 'column "label" is not in train.csv. Columns: a, b, y')(
    lambda: command("--target", "label")
)
case(COMMANDS, "a column that is not in the test file", DataError, 'column "b" is not in test.csv')(
    lambda: command(test="a,y\n1,no\n")
)
case(COMMANDS, "an id column that is not there", DataError, 'column "id" is not in test.csv')(
    lambda: command("--id", "id")
)
case(COMMANDS, "a file that is not there", DataError, "no file nowhere.csv")(lambda: command("--test", "nowhere.csv"))
case(COMMANDS, "an unknown suffix", DataError, "unknown suffix .xls; known: .csv")(lambda: command(suffix=".xls"))
case(COMMANDS, "an empty file", DataError, "is empty")(lambda: command(train=""))
case(COMMANDS, "a header and no rows to predict", DataError, "holds no rows")(lambda: command(test="a,b\n"))
case(COMMANDS, "a row that is too short", DataError, "row 3: 1 cells, the header names 3")(
    lambda: command(train="a,b,y\n1,u,no\n2\n")
)
case(COMMANDS, "a column name twice", DataError, "occur twice: a")(lambda: command(train="a,a,y\n1,2,no\n"))
case(COMMANDS, "text that is not UTF-8", DataError, "cannot be read as delimited UTF-8 text")(
    lambda: command(train=b"a,b,y\n\xff\xfe,u,no\n")
)
case(COMMANDS, "JSON lines that are not UTF-8", DataError, "line 1, cannot be read as UTF-8 text")(
    lambda: command(test=b'{"a": 1, "b": "\xff"}\n', suffix=".jsonl")
)
case(COMMANDS, "numbers and text in one column of JSON lines", None, "text")(
    lambda: told(test='{"a": 1, "b": 2}\n{"a": 2, "b": "u"}\n', suffix=".jsonl")["rows"] == 2
)
case(COMMANDS, "empty text in a column of numbers of JSON lines or Parquet", None, "missing")(
    lambda: told(test='{"a": "", "b": "u"}\n', suffix=".jsonl")["rows"]
    == told(test=parquet(a=["NA"], b=["u"]), suffix=".parquet")["rows"] == 1
)
case(COMMANDS, "an --out that is the training file", ConfigError, "is the file of --train, which would be lost")(
    lambda: command("--out", "train.csv", "--overwrite")
)
case(COMMANDS, "a line that is not JSON", DataError, "line 1: not JSON")(lambda: command(test="{bad\n", suffix=".jsonl"))
case(COMMANDS, "a list in a JSON cell", DataError, "holds list, not one value")(
    lambda: command(test='{"a": [1], "b": "u"}\n', suffix=".jsonl")
)
case(COMMANDS, "a damaged Parquet file", DataError, "cannot be read")(lambda: command(test="nonsense", suffix=".parquet"))
case(COMMANDS, "text in a column of numbers", DataError, 'row 1: column "a" is numeric in the training table, here "x"')(
    lambda: command(test="a,b\nx,u\n")
)
case(COMMANDS, "infinity in a file", DataError, 'test.csv, row 1: column "a" holds infinity')(lambda: command(test="a,b\ninf,u\n"))
case(COMMANDS, "infinity behind a row without a label", DataError, 'train.csv, row 3: column "a" holds infinity')(
    lambda: command(train="a,b,y\n1,u,no\n2,u,\ninf,u,yes\n")
)
case(COMMANDS, "a list in a Parquet cell of a column in use", DataError, 'row 1: column "a" holds list, not one value')(
    lambda: command(test=parquet(a=[[1.0]], b=["u"]), suffix=".parquet")
)
case(COMMANDS, "the same in a column that --columns leaves out", None, "the other columns are read")(
    lambda: command("--columns", "b", test=parquet(a=[[1.0]], b=["u"]), suffix=".parquet") is None
)
case(COMMANDS, "dates in the training table, text in their place", DataError, 'column "when" holds dates in the training table')(
    lambda: command("--train", "test.parquet", "--test", "train.csv", "--columns", "when", train="when\n2024-01-01\n",
                    test=parquet(when=[datetime.date(2024, 1, 1 + i) for i in range(20)], y=["no", "yes"] * 10), suffix=".parquet")
)  # fmt: skip
case(COMMANDS, "a context of one row", ConfigError, "--max-context-rows is 1")(lambda: command("--max-context-rows", "1"))
case(COMMANDS, "fewer context rows than classes", DataError, "fewer rows than the 3 classes of y")(
    lambda: command("--max-context-rows", "2", train=GOOD + "1,u,maybe\n")
)
case(COMMANDS, "a negative seed", ConfigError, "--seed is -1")(lambda: command("--seed", "-1"))
case(COMMANDS, "fewer than two classes", DataError, "fewer than 2 classes")(
    lambda: command(train="a,b,y\n1,u,no\n2,v,no\n")
)
case(COMMANDS, "a target of decimal numbers", DataError, "holds decimal numbers (0.5, for one); regression is not supported")(
    lambda: command(train="a,b,y\n" + "".join(f"{i},u,{i / 2}\n" for i in range(20)))
)
case(COMMANDS, "a target of whole numbers written with a decimal point", None, "classes 0, 1, 2 ...")(
    lambda: told(train="a,b,y\n" + "".join(f"{i},u,{i % 3}.0\n" for i in range(20)), test="a,b\n1,u\n")["classes"] == ["0", "1", "2"]
)
case(COMMANDS, "the same where the test labels have none", None, "they are the same classes")(
    lambda: told(train=f"a,b,y\n{''.join(f'{i},u,{i % 2}.0' + chr(10) for i in range(20))}9,u,\n", test="a,b,y\n1,u,1\n1,u,0\n")["accuracy"] == 0.5
)
case(COMMANDS, "labels that are names with a number among them", None, "classes as they stand")(
    lambda: told(train="a,b,y\n" + "".join(f"{i},u,{('1.0', 'beta')[i % 2]}\n" for i in range(20)), test="a,b\n1,u\n")["classes"] == ["1.0", "beta"]
)
case(COMMANDS, "labels that are NaN in Parquet", None, "no class; their rows are left out, with a warning on stderr")(
    lambda: told("--train", "test.parquet", "--test", "train.csv", train="a\n1\n", suffix=".parquet",
                 test=parquet(a=list(range(20)), y=[0.0, 1.0] * 9 + [float("nan")] * 2))["classes"] == ["0", "1"]
)  # fmt: skip
case(COMMANDS, "training rows without a label", None, "left out, with a warning on stderr")(
    lambda: command("--json", train=GOOD + "3,u,\n") is None
)
case(COMMANDS, "test labels that do not occur in the training file", None, "counted as wrong, with a warning on stderr")(
    lambda: command("--json", test="a,b,y\n1,u,never\n") is None
)
case(COMMANDS, "the target among --columns", ConfigError, "must not name the target")(lambda: command("--columns", "a", "y"))
case(COMMANDS, "an unknown column in --categorical", ConfigError, "'wage', which is not among the columns")(
    lambda: command("--categorical", "wage")
)
case(COMMANDS, "a flag twice", ConfigError, "--id is given twice")(lambda: command("--id", "a", "--id=b"))
case(COMMANDS, "no members", ConfigError, "--n-estimators is 0")(lambda: command("--n-estimators", "0"))
case(COMMANDS, "an unknown suffix of --out", ConfigError, "unknown suffix; known")(lambda: command("--out", "p.xls"))
case(COMMANDS, "an --out that exists", ConfigError, "exists. Use --overwrite")(lambda: command("--out", "train.csv"))
case(COMMANDS, "an --out in a folder that does not exist", ConfigError, "does not exist")(
    lambda: command("--out", "no/p.csv")
)
case(COMMANDS, "an unknown flag", ConfigError, "Did you mean --target")(lambda: command("--targt", "y"))

OTHERS = "Other commands"
case(OTHERS, "an unknown command", ConfigError, "Did you mean predict")(lambda: other("predcit"))
case(OTHERS, "an unknown setting", ConfigError, "components.0.laws.noise")(
    lambda: other("generate", "--out", "x", "--components.0.laws.noize", "1")
)
case(OTHERS, "an output folder that is not empty", ConfigError, "full is not empty. Use --resume, --overwrite")(
    lambda: other("generate", "--out", "full")
)
case(OTHERS, "--resume in a folder of one's own", ConfigError, "--resume will not write into it")(
    lambda: other("generate", "--out", "full", "--resume")
)
case(OTHERS, "one weight of laws that is not there", ConfigError, "Did you mean")(
    lambda: other("generate", "--out", "x", "--components.0.laws.family.liner", "3")
)
case(OTHERS, "a range of laws that gives no numbers", ConfigError, "its low end must be at least 0")(
    lambda: other("generate", "--out", "x", "--components.0.laws.weight-decay", "[-50, 2]")
)
case(OTHERS, "pictures of tables of four rows", ConfigError, "a table needs at least 8 rows")(
    lambda: other("inspect", "members", "--out", "x", "--rows", "4")
)
case(OTHERS, "exporting to a folder that does not exist", ConfigError, "does not exist")(
    lambda: other("export", "no/net.stablehlo")
)
case(OTHERS, "exporting for an unknown platform", ConfigError, "choose from cpu, cuda, rocm, tpu")(
    lambda: other("export", "net.stablehlo", "--model", TINY, "--platforms", "abacus")
)
case(OTHERS, "exporting no columns", ConfigError, "columns is 0; allowed")(
    lambda: other("export", "net.stablehlo", "--model", TINY, "--columns", "0")
)
case(OTHERS, "a benchmark of no queries", ConfigError, "--queries is 0")(lambda: other("bench", "predict", "--queries", "0"))
case(OTHERS, "an unknown setting where the prior is left out", ConfigError, "components.0.laws.missing_rate")(
    lambda: other("inspect", "prior", "--components.0.laws.mising-rate", "1")
)
case(OTHERS, "a negative seed of an evaluation", ConfigError, "must lie in [0, 2**31)")(lambda: other("evaluate", "--seed", "-1"))
case(OTHERS, "a task twice in a suite", ConfigError, "names a task twice")(lambda: other("evaluate", "--suite", "11,11"))
case(OTHERS, "a benchmark compared with no benchmark", DataError, "cannot be read as a benchmark result")(
    lambda: other("bench", "prior", "--compare", "full/file")
)
