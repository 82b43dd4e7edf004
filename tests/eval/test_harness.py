"""Whole evaluations: results, resuming after a kill, processes, problems, the report."""

from __future__ import annotations

import dataclasses
import html.parser
import itertools
import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from priorax.configs.errors import ConfigError
from priorax.configs.eval import Protocol
from priorax.eval import evaluate, evaluation_report, leaderboard, write_page
from priorax.eval.report import Section, table_html
from priorax.eval.result import COLUMNS, TIMES
from priorax.eval.store import Store

FAST = "majority,logistic_regression,knn"


def same(a, b):
    """Equal results but for the clock."""
    strip = (
        [{k: v for k, v in row.items() if k not in TIMES} for row in a.rows],
        [{k: v for k, v in row.items() if k not in TIMES} for row in b.rows],
    )
    for one, two in zip(*strip, strict=True):
        assert json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)  # NaN equals NaN as text
    return True


@pytest.fixture(scope="module")
def small(tmp_path_factory, tiny_weights):
    """The network and two baselines on two bundled sets."""
    out = tmp_path_factory.mktemp("eval")
    events = []
    result = evaluate(
        "bundled", [f"net=priorax:{tiny_weights}?n_estimators=1", "logistic_regression", "majority"], out=out,
        tasks=["iris", "wine"], log=lambda event, **fields: events.append((event, fields)),
    )  # fmt: skip
    return result, events


def test_rows_and_tables(small):
    result, events = small
    assert len(result.rows) == 2 * 3 * 5 * 7 and all(set(row) == set(COLUMNS) for row in result.rows)
    assert result.problems == [] and result.tasks == ("wine", "iris")  # the order of the suite
    table = result.table()
    assert table.shape == (3, 2) and (table[2] == 0.5).all() and (table[1] > 0.99).all() and (table[0] > 0.8).all()
    row = next(r for r in result.rows if r["metric"] == "roc_auc" and r["task"] == "iris")
    assert (row["n_train"], row["n_test"], row["n_features"], row["n_classes"]) == (120, 30, 4, 3)
    assert row["metric_error"] == pytest.approx(1 - row["value"]) and row["time_train_s"] > 0
    assert [e for e, _ in events].count("eval.task") == 6 and events[0][0] == "eval.start"
    y, p = result.predictions("net", "wine")
    assert sorted(np.bincount(y)) == [48, 59, 71] and p.shape == (178, 3)


def test_files(small):
    result, _ = small
    parquet = pytest.importorskip("pyarrow.parquet", reason="results are CSV without pyarrow")
    table = parquet.read_table(result.out / "results.parquet")
    assert table.column_names == list(COLUMNS) and table.num_rows == len(result.rows)
    text = (result.out / "leaderboard.csv").read_text()
    assert text.splitlines()[0].startswith("method,data_sets") and len(text.splitlines()) == 4
    assert not list(result.out.rglob("*.tmp"))


def test_pooled_scores(tmp_path):
    protocol = Protocol("pool", folds=3, pooled=True, seed=4, max_rows=60)
    result = evaluate("bundled", "knn", protocol, tasks=["iris"])
    pooled = [r for r in result.rows if r["fold"] == -1]
    assert len(pooled) == 7 and pooled[0]["n_test"] == 60
    y, p = result.predictions("knn", "iris")
    accuracy = next(r["value"] for r in pooled if r["metric"] == "accuracy")
    assert accuracy == pytest.approx((p.argmax(1) == y).mean())
    assert result.table("accuracy")[0, 0] == accuracy
    assert same(result, evaluate("bundled", "knn", protocol, seed=123, tasks=["iris"]))  # the protocol fixes the seed


def test_processes_give_the_same_results(tmp_path):
    alone = evaluate("bundled", FAST + ",random_forest", tasks=["iris", "wine"])
    assert same(alone, evaluate("bundled", FAST + ",random_forest", tasks=["iris", "wine"], jobs=2))


def test_killed_and_run_again_equals_uninterrupted(tmp_path):
    protocol = Protocol("cut", folds=5, max_rows=150)
    whole = evaluate("bundled", FAST, protocol, out=tmp_path / "whole")
    code = (
        "from priorax.eval import Protocol, evaluate\n"
        f"evaluate('bundled', {FAST!r}, {protocol!r}, {str(tmp_path / 'cut')!r}, "
        "log=lambda e, **k: print(e, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(3)]  # eval.start and two finished units
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert lines[0] == "eval.start\n" and not (tmp_path / "cut" / "leaderboard.csv").exists()
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut" / "cells").rglob("*.npz")}
    assert 10 <= len(cells) < 60
    damaged = next(iter(cells))
    damaged.write_bytes(damaged.read_bytes()[:100])
    again = evaluate("bundled", FAST, protocol, out=tmp_path / "cut")
    assert same(whole, again)
    kept = [path for path, time in cells.items() if path.stat().st_mtime_ns == time]
    assert len(kept) == len(cells) - 1  # nothing finished was computed twice, the damaged cell was


def test_a_cell_with_any_byte_changed_is_passed_over_or_whole(tmp_path):
    store = Store(tmp_path)
    store.put({"method": "m", "task": "t", "repeat": 0, "fold": 0}, np.array([0, 1]), np.full((2, 2), 0.5))
    (whole,) = store.cells("m", "t")
    (path,) = tmp_path.rglob("*.npz")
    content = path.read_bytes()
    lost = 0
    for i, bits in itertools.product(range(len(content)), (0x01, 0xFF)):
        path.write_bytes(content[:i] + bytes([content[i] ^ bits]) + content[i + 1 :])
        found = list(store.cells("m", "t"))
        lost += not found
        for cell in found:  # a byte that nothing depends on, such as a time
            assert cell.meta == whole.meta and (cell.p == whole.p).all() and (cell.y == whole.y).all()
    assert lost > len(content) // 2


def test_a_folder_belongs_to_one_evaluation(tmp_path):
    evaluate("bundled", "majority", out=tmp_path, tasks=["iris"])
    more = evaluate("bundled", "majority,knn", out=tmp_path, tasks=["iris", "wine"])  # more methods and tasks are fine
    assert np.isfinite(more.table()).all()
    with pytest.raises(ConfigError, match="another suite, protocol or seed"):
        evaluate("bundled", "majority", out=tmp_path, tasks=["iris"], seed=1)


def test_other_weights_are_computed_again(tmp_path, tiny_weights):
    spec = f"net=priorax:{tiny_weights}?n_estimators=1"
    first = evaluate("bundled", spec, out=tmp_path, tasks=["iris"])
    second = evaluate("bundled", spec + "&softmax_temperature=3.0", out=tmp_path, tasks=["iris"])
    assert second.table("log_loss")[0, 0] != first.table("log_loss")[0, 0]
    assert second.table("accuracy")[0, 0] == first.table("accuracy")[0, 0]


class _Fails:
    def fit(self, X, y):
        raise RuntimeError("this learner is broken")


def test_problems_are_listed_and_tried_again(tmp_path):
    protocol = Protocol("few", folds=2, max_classes=5)
    result = evaluate("bundled", {"broken": _Fails}, protocol, out=tmp_path, tasks=["iris", "digits"])
    by_task = {row["task"]: row for row in result.problems}
    assert by_task["iris"]["status"] == "failed" and "RuntimeError: this learner is broken" in by_task["iris"]["reason"]
    assert by_task["digits"]["status"] == "skipped" and "10 classes" in by_task["digits"]["reason"]
    assert np.isnan(result.table()).all() and leaderboard(result)[0]["missing"] == 2
    from sklearn.dummy import DummyClassifier

    mended = evaluate("bundled", {"broken": DummyClassifier()}, protocol, out=tmp_path, tasks=["iris", "digits"])
    assert mended.table()[0, 0] == 0.5


def test_missing_data_sets_are_failures_with_reasons(tmp_path):
    pytest.importorskip("pandas", reason="reading files needs pandas")
    (tmp_path / "a.csv").write_text("x,y\n" + "\n".join(f"{i},{i % 2}" for i in range(20)) + "\n")
    result = evaluate([str(tmp_path / "a.csv"), str(tmp_path / "gone.csv")], "knn", out=tmp_path / "out")
    (problem,) = result.problems
    assert problem["status"] == "failed" and "no data file" in problem["reason"]
    assert np.isfinite(result.table()).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"suite": "bundle"}, "is no suite"),
        ({"methods": "xgbost"}, 'Did you mean "xgboost"'),
        ({"protocol": "kfolds"}, 'Did you mean "kfold"'),
        ({"tasks": ["mnist"]}, 'task "mnist" is not in suite bundled'),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ConfigError, match=words):
        evaluate(**({"methods": "majority"} | arguments))


class _Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("img", "meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report(small, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    result, _ = small
    path = evaluation_report(result, tmp_path / "report.html", extra=[Section("Loss <curve>", "<p>here</p>", "a & b")])
    text = path.read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert page.open == [] and page.tags.count("img") == 5
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert "Loss &lt;curve&gt;" in text and "a &amp; b" in text and "nothing failed" in text
    assert not re.search(r"(src|href)=.https?:|@import|<script", text)
    for name in ("net", "logistic_regression", "majority"):
        assert name in text
    again = evaluation_report(result, tmp_path / "again.html", extra=[Section("Loss <curve>", "<p>here</p>", "a & b")])
    assert again.read_text(encoding="utf-8") == text


def test_report_lists_problems(tmp_path):
    result = evaluate("bundled", {"broken": _Fails}, Protocol("few", folds=2), tasks=["iris"])
    told = {"task": "iris", "attempt": 1, "error": "OpenMLServerError: 503", "again": True}
    text = evaluation_report(dataclasses.replace(result, server_errors=(told,)), tmp_path / "r.html").read_text()
    assert "this learner is broken" in text and "none" in text
    assert "Servers answered wrongly 1 times" in text and "OpenMLServerError: 503" in text


def test_tables_and_pages_escape(tmp_path):
    table = table_html([{"a": "<b>", "n": 1.0}, {"a": "c", "n": float("nan")}], best={"n": True})
    assert "&lt;b&gt;" in table and '<td class="best">1.0000</td>' in table and "none" in table
    assert "&lt;t&gt;" in write_page(tmp_path / "p.html", "<t>", []).read_text()
    assert table_html([]) == "<p>none</p>"


def test_real_sets_from_the_offline_cache(openml_cache, tiny_weights):
    pytest.importorskip("openml", reason="the openml client is not installed")
    result = evaluate(
        [11, 29, 49], [f"net=priorax:{tiny_weights}?n_estimators=1", "logistic_regression"],
        Protocol("quick", folds=2, max_rows=200), openml_cache=openml_cache,
    )  # fmt: skip
    assert result.problems == [] and np.isfinite(result.table()).all()
    assert result.table()[1].mean() > 0.75
