"""Suites: presets, files, the offline OpenML cache through the official client."""

from __future__ import annotations

import decimal
import warnings

import numpy as np
import pytest
from priorax.configs.errors import ConfigError, DataError, MissingError
from priorax.configs.eval import PROTOCOLS
from priorax.configs.load import preset_names
from priorax.eval.baselines import Baseline
from priorax.eval.suites import load_file, load_suite

SIZES = {
    "bundled": 4,
    "dev32": 32,
    "cc18": 72,
    "tabarena": 38,
    "tabarena-lite": 38,
    "speedrun": 38,
    "tabpfn18": 18,
    "tabpfn30": 30,
    "held-out": 696,
    "held-out-short": 696,
    "probes": 72,
}


def test_presets():
    assert {name: len(load_suite(name)) for name in preset_names("suites")} == SIZES
    for name in SIZES:
        assert load_suite(name).config.protocol in PROTOCOLS
    assert set(load_suite("tabpfn18").ids) <= set(load_suite("tabpfn30").ids) <= set(load_suite("cc18").ids)


def test_bundled_sets():
    shapes = {data.name: (data.X.shape, len(data.classes)) for data in load_suite("bundled")}
    assert shapes == {
        "breast_cancer": ((569, 30), 2), "wine": ((178, 13), 3), "iris": ((150, 4), 3), "digits": ((1797, 64), 10)
    }  # fmt: skip


@pytest.mark.parametrize("spec", ["11,37", [11, 37], (11, np.int64(37))])
def test_lists_of_task_ids(spec):
    suite = load_suite(spec)
    assert suite.ids == ["11", "37"] and suite.config.source == "openml" and suite.config.protocol == "official"
    assert load_suite(suite) is suite


@pytest.mark.parametrize("spec", ["cc81", "11,x", [], ["a.txt"], 3.5, "sub/suite"])
def test_unknown_suites(spec):
    with pytest.raises(ConfigError, match="suite"):
        load_suite(spec)


def test_own_files(tmp_path):
    pd = pytest.importorskip("pandas", reason="reading files needs pandas")
    frame = pd.DataFrame({"a": [1, 2, 3, 4], "kind": ["u", "v", "u", "v"], "b": [0.5, None, 1, 2]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = load_file(f"{tmp_path / 't.csv'}::kind")
    assert data.classes == ("u", "v") and data.y.tolist() == [0, 1, 0, 1] and data.X.shape == (4, 2)
    frame.to_parquet(tmp_path / "t.parquet")
    suite = load_suite([tmp_path / "t.parquet"])
    assert suite.config.source == "files"
    with pytest.raises(DataError, match="1 of 4 rows have no class"):
        list(suite)
    (tmp_path / "r.csv").write_text("x,y\n" + "\n".join(f"{i},{i % 5 / 2}" for i in range(30)))
    with pytest.raises(DataError, match='column "y" of .* holds decimal numbers .0.5, for one'):
        load_file(f"{tmp_path / 'r.csv'}")
    (tmp_path / "i.csv").write_text("x,y\n" + "1,a\ninf,b\n" * 5)
    with pytest.raises(DataError, match='row 2: column "x" holds infinity'):
        load_file(f"{tmp_path / 'i.csv'}")
    with pytest.raises(DataError, match='column "label" is not in'):
        load_file(f"{tmp_path / 't.csv'}::label")
    with pytest.raises(DataError, match="4 different values in 4 rows"):
        load_file(f"{tmp_path / 't.csv'}::a")
    with pytest.raises(MissingError, match="no data file"):
        load_file("nowhere.csv")
    (tmp_path / "mine.yaml").write_text(f"name: mine\nsource: files\ntasks: ['{tmp_path}/t.csv::kind']\n")
    assert len(list(load_suite(tmp_path / "mine.yaml"))) == 1


def test_dates_and_decimals_of_files_are_no_categories(tmp_path):
    pd = pytest.importorskip("pandas", reason="reading files needs pandas")
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    n, rng = 60, np.random.default_rng(0)
    seconds = rng.permutation(n) * 86_400
    frame = pd.DataFrame(
        {
            "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(seconds, unit="s"),
            "lasts": pd.to_timedelta(seconds, unit="s"),
            "price": [decimal.Decimal(int(s)) / 7 for s in seconds],
            "number": seconds * 1.0,
            "text": rng.choice(["u", "v"], n),
            "flag": rng.random(n) < 0.5,
            "kind": pd.Categorical(rng.choice(list("abc"), n)),
            "y": rng.integers(2, size=n),
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    data = load_file(str(tmp_path / "t.parquet"))
    assert data.categorical.tolist() == [False] * 4 + [True] * 3
    model = Baseline("majority", data.categorical).fit(data.X, data.y)  # every baseline gets this encoding
    levels = dict(zip(model._encoder.names_, model._encoder.cardinality_.tolist(), strict=True))
    assert levels["when:epoch"] == levels["lasts"] == levels["price"] == levels["number"] == 0
    assert (levels["text"], levels["flag"], levels["kind"]) == (2, 2, 3)
    frame.drop(columns="price").assign(odd=[[k, 0] for k in range(n)], y=frame["y"]).to_parquet(tmp_path / "odd.parquet")
    with pytest.raises(DataError, match="odd.parquet: X column 'odd', row 0"):
        load_file(f"{tmp_path / 'odd.parquet'}::y")


def test_codes_of_a_large_file_are_text_throughout(tmp_path):
    pytest.importorskip("pandas", reason="reading files needs pandas")
    n = 300_000  # more than pandas reads at once by default
    path = tmp_path / "t.csv"
    path.write_text("code,y\n" + "".join(f"{i % 5},{i % 2}\n" for i in range(n)) + "A,1\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_file(str(path))
    assert set(data.X["code"]) == {"0", "1", "2", "3", "4", "A"}


def test_not_a_cache(tmp_path):
    with pytest.raises(MissingError, match="no OpenML cache"):
        load_suite("dev32", tmp_path)


def test_offline_cache(openml_cache):
    pytest.importorskip("openml", reason="the openml client is not installed")
    import openml

    before = openml.config._root_cache_directory
    files = sorted((p, p.stat().st_mtime_ns, p.stat().st_size) for p in openml_cache.rglob("*"))
    suite = load_suite([11, 29, 50_000_000], openml_cache)
    balance, credit = suite.load("11"), suite.load("29")
    assert balance.X.shape == (625, 4) and len(balance.classes) == 3 and len(balance.splits) == 10
    tests = np.concatenate([split.test for split in balance.splits])
    assert sorted(tests) == list(range(625))
    assert credit.categorical.sum() == 9 and len(credit.classes) == 2
    with pytest.raises(MissingError, match="50000000 is not in the offline cache"):
        suite.load("50000000")
    assert openml.config._root_cache_directory == before
    assert files == sorted(
        (p, p.stat().st_mtime_ns, p.stat().st_size) for p in openml_cache.rglob("*")
    )  # never written
