"""Ranks, wins, intervals and leaderboards on results made by hand."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from priorax.configs.eval import PROTOCOLS, Protocol
from priorax.eval.result import EvalResult
from priorax.eval.statistics import bootstrap_mean, compare, leaderboard, mean_ranks, wins_ties_losses


def result(table, protocol=PROTOCOLS["kfold"], folds=2):
    """An EvalResult whose table of ROC AUC is ``table`` (NaN: failed)."""
    rows = []
    for i, scores in enumerate(table):
        for j, value in enumerate(scores):
            for fold in range(folds):
                shift = 0.01 * (fold - (folds - 1) / 2)
                base = {
                    "method": f"m{i}", "task": f"t{j}", "data": f"set {j}", "repeat": 0, "fold": fold, "seed": 0,
                    "time_train_s": 1.0 + i, "time_warmup_s": 0.0, "time_infer_s": 0.5, "n_train": 8, "n_test": 2,
                    "n_features": 3, "n_classes": 2,
                }  # fmt: skip
                if np.isnan(value):
                    nothing = {"metric": "", "value": np.nan, "metric_error": np.nan}
                    rows.append(base | nothing | {"status": "failed", "reason": "ValueError: no"})
                    continue
                for metric in ("roc_auc", "roc_auc_ovo", "accuracy", "balanced_accuracy", "log_loss", "brier", "ece"):
                    v = value + shift if metric == "roc_auc" else 0.3
                    rows.append(
                        base | {"metric": metric, "value": v, "metric_error": 1 - v, "status": "ok", "reason": ""}
                    )
    methods, tasks = tuple(f"m{i}" for i in range(len(table))), tuple(f"t{j}" for j in range(len(table[0])))
    return EvalResult(rows, methods, tasks, {t: f"set {t[1:]}" for t in tasks}, "s", protocol, 0, Path("nowhere"))


def test_ranks_and_wins_by_hand():
    errors = np.array([[0.1, 0.3], [0.2, 0.3], [0.3, 0.1]])
    np.testing.assert_allclose(mean_ranks(errors), [(1 + 2.5) / 2, (2 + 2.5) / 2, (3 + 1) / 2])
    assert wins_ties_losses(errors, 0) == (2, 1, 1)
    assert np.isnan(mean_ranks(np.zeros((2, 0)))).all()


def test_table_and_leaderboard():
    r = result([[0.9, 0.8, 0.7], [0.95, 0.6, 0.6], [0.5, 0.5, np.nan]])
    np.testing.assert_allclose(r.table()[:2], [[0.9, 0.8, 0.7], [0.95, 0.6, 0.6]])
    board = leaderboard(r)
    assert [row["method"] for row in board] == ["m0", "m1", "m2"]
    assert all(row["data_sets"] == 2 for row in board) and [row["missing"] for row in board] == [0, 0, 1]
    assert board[0]["mean"] == pytest.approx(0.85) and board[0]["mean_rank"] == 1.5 and board[0]["time_train_s"] == 1
    assert (board[0]["wins"], board[0]["ties"], board[0]["losses"]) == (3, 0, 1)
    assert len(r.problems) == 2 and "elo" not in board[0]


def test_a_failed_fold_takes_the_data_set_out():
    r = result([[0.9, 0.8], [0.7, 0.6]])
    index = next(i for i, row in enumerate(r.rows) if (row["method"], row["task"], row["fold"]) == ("m0", "t0", 1))
    r.rows[index] = r.rows[index] | {"status": "failed", "metric": "", "reason": "x"}
    assert np.isnan(r.table()[0, 0]) and np.isfinite(r.table()[0, 1])


def test_only_pooled_rows_count_where_the_protocol_pools():
    r = result([[0.9]], Protocol("p", pooled=True))
    assert np.isnan(r.table()).all()
    r.rows.append(r.rows[0] | {"fold": -1, "value": 0.77})
    assert r.table()[0, 0] == 0.77


def test_bootstrap_intervals():
    values = np.random.default_rng(0).normal(0.8, 0.05, 200)
    low, high = bootstrap_mean(values)
    half = 1.96 * 0.05 / np.sqrt(200)
    assert low == pytest.approx(values.mean() - half, abs=0.002) and high == pytest.approx(
        values.mean() + half, abs=0.002
    )
    assert bootstrap_mean(values) == (low, high)
    assert all(np.isnan(bootstrap_mean(values[:1])))


def test_paired_comparison_sees_what_means_hide():
    base = np.linspace(0.5, 1.0, 20)
    r = result([base + 0.01, base])
    pair = compare(r, "m0", "m1")
    assert pair["difference"] == pytest.approx(0.01) and pair["ci_low"] > 0.009 and pair["wins"] == 20
    assert compare(r, "m1", "m0")["losses"] == 20
    assert compare(r, "m0", "m1", "log_loss")["ties"] == 20


def test_elo_and_improvability():
    if importlib.util.find_spec("bencheval") is None:
        pytest.skip("bencheval is not installed (extra eval)")
    base = np.linspace(0.5, 0.9, 8)
    board = leaderboard(result([base + 0.02 * (np.arange(8) % 3), base + 0.01, base]))
    assert board[0]["elo_low"] <= board[0]["elo"] <= board[0]["elo_high"]
    assert board[0]["elo"] > board[-1]["elo"] and 0 <= board[0]["improvability"] < board[-1]["improvability"] < 1


def nearly_tied(gap):
    """Two methods that differ by ``gap``, the second always better, and a third behind them."""
    base = np.linspace(0.5, 0.9, 12)
    return result([base, base + gap, base - 0.1], folds=1)


def test_rounding_breaks_no_tie_in_elo():
    if importlib.util.find_spec("bencheval") is None:
        pytest.skip("bencheval is not installed (extra eval)")
    elo = lambda r: {row["method"]: (row["elo"], row["mean_rank"]) for row in leaderboard(r)}
    assert elo(nearly_tied(4e-16)) == elo(nearly_tied(0)) != elo(nearly_tied(1e-3))


@pytest.mark.parametrize("figure", ["mean_rank", "critical_difference"])
def test_rounding_breaks_no_tie_in_figures(figure):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    if figure == "critical_difference" and importlib.util.find_spec("scikit_posthocs") is None:
        pytest.skip("scikit-posthocs is not installed (extra eval)")
    from priorax.eval import plots

    drawn = lambda gap: plots.figure_html(getattr(plots, figure)(nearly_tied(gap)), "ranks")
    assert drawn(4e-16) == drawn(0) != drawn(1e-3)


def test_elo_is_anchored_at_the_random_forest():
    if importlib.util.find_spec("bencheval") is None:
        pytest.skip("bencheval is not installed (extra eval)")
    base = np.linspace(0.5, 0.9, 8)
    r = result([base + 0.02 * (np.arange(8) % 3), base + 0.01, base])
    rows = [row | {"method": row["method"].replace("m1", "random_forest")} for row in r.rows]
    anchored = dataclasses.replace(r, rows=rows, methods=("m0", "random_forest", "m2"))
    assert {row["method"]: row["elo"] for row in leaderboard(anchored)}["random_forest"] == 1000


def test_critical_differences():
    if importlib.util.find_spec("scikit_posthocs") is None:
        pytest.skip("scikit-posthocs is not installed (extra eval)")
    from priorax.eval import plots

    base = np.linspace(0.5, 0.9, 12)
    noise = np.random.default_rng(0).normal(size=(2, 12)) * 0.01
    r = result([base + 0.05, base + noise[0], base + noise[1]])
    figure = plots.critical_difference(r)
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert any("m0" in text and "1" in text for text in texts) and any("m2" in text for text in texts)
    assert plots.critical_difference(result([base, base])) is None
