"""Figures of an evaluation, drawn with matplotlib, as HTML images that need no other file.

All functions take an `EvalResult` and return a matplotlib Figure; `figure_html` embeds one.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configs.errors import require
from .metrics import HIGHER_IS_BETTER, error_of, reliability
from .statistics import bootstrap_mean, mean_ranks

if TYPE_CHECKING:
    from .harness import EvalResult

# Okabe and Ito's palette, which people with colour blindness can tell apart; the first is for our own networks.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000", "#b8a800")
MARKERS = "osD^vPX*<>"
TITLES = {
    "roc_auc": "ROC AUC",
    "roc_auc_ovo": "ROC AUC (one vs one)",
    "log_loss": "log loss",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "brier": "Brier score",
    "ece": "calibration error",
}


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure that no window system and no global state knows of, and its one axes."""
    require("matplotlib", "plots", "drawing figures")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(True, color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def figure_html(figure: Any, alt: str, form: str = "svg") -> str:
    """``<img>`` with the figure inside, as SVG or PNG; the same figure gives the same bytes."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "priorax"}):
        figure.savefig(buffer, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
    kind = "svg+xml" if form == "svg" else "png"
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt, quote=True)}" src="data:image/{kind};base64,{data}">'


def per_data_set(result: EvalResult, metric: str = "roc_auc") -> Any:
    """A row per data set: every method's mean, and the range over folds as a line."""
    table = result.table(metric)
    order = np.argsort(-_row_means(table)) if metric in HIGHER_IS_BETTER else np.argsort(_row_means(table))
    figure, axes = new_figure(8, 1.2 + len(order) * max(0.28, 0.09 * len(result.methods)))
    ranges = _fold_ranges(result, metric)
    offsets = np.linspace(-0.3, 0.3, len(result.methods)) if len(result.methods) > 1 else [0.0]
    for i, method in enumerate(result.methods):
        at = np.arange(len(order)) + offsets[i]
        axes.hlines(at, ranges[i, order, 0], ranges[i, order, 1], color=_colour(i), alpha=0.45, linewidth=1.4)
        axes.plot(table[i, order], at, _marker(i), color=_colour(i), markersize=5, label=method, linestyle="none")
    axes.set_yticks(range(len(order)), [result.names.get(result.tasks[j], result.tasks[j]) for j in order])
    axes.invert_yaxis()
    axes.set_xlabel(f"{TITLES.get(metric, metric)} (mean and range over folds)")
    figure.legend(loc="outside upper left", ncols=min(4, len(result.methods)), frameon=False, fontsize=9)
    return figure


def mean_rank(result: EvalResult, metric: str = "roc_auc") -> Any:
    """Mean rank of every method over the data sets all finished, with bootstrap intervals; 1 is best."""
    table = result.table(metric)
    errors = error_of(metric, table[:, np.isfinite(table).all(0)])
    ranks = mean_ranks(errors)
    from scipy.stats import rankdata

    each = rankdata(errors, axis=0) if errors.shape[1] else errors
    order = np.argsort(ranks)
    figure, axes = new_figure(8, 1 + 0.36 * len(order))
    for row, i in enumerate(order):
        low, high = bootstrap_mean(each[i])
        axes.plot([low, high], [row, row], color=_colour(i), linewidth=2, alpha=0.5)
        axes.plot(ranks[i], row, _marker(i), color=_colour(i), markersize=8)
    axes.set_yticks(range(len(order)), [result.methods[i] for i in order])
    axes.invert_yaxis()
    axes.set_xlim(0.8, len(order) + 0.2)
    axes.set_xlabel(f"mean rank by {TITLES.get(metric, metric)} over {errors.shape[1]} data sets (left is better)")
    return figure


def critical_difference(result: EvalResult, metric: str = "roc_auc") -> Any | None:
    """Critical-difference diagram: mean ranks, methods joined that pairwise Wilcoxon signed-rank tests with Holm's
    correction do not tell apart at 5 % (Demsar 2006; Benavoli et al. 2016).

    None without ``scikit-posthocs`` (extra ``eval``), or with fewer than three methods or five data sets.
    """
    table = result.table(metric)
    errors = error_of(metric, table[:, np.isfinite(table).all(0)])
    if len(errors) < 3 or errors.shape[1] < 5 or importlib.util.find_spec("scikit_posthocs") is None:
        return None
    import pandas
    import scikit_posthocs

    frame = pandas.DataFrame(errors.T, columns=list(result.methods))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties between methods; the test then uses its normal approximation
        different = scikit_posthocs.posthoc_wilcoxon(
            frame.melt(var_name="method", value_name="error"), val_col="error", group_col="method", p_adjust="holm",
            zero_method="zsplit",
        )  # fmt: skip
    figure, axes = new_figure(8, 1.2 + 0.3 * len(errors))
    axes.grid(False)
    ranks = dict(zip(result.methods, mean_ranks(errors).tolist(), strict=True))
    colours = {method: _colour(i) for i, method in enumerate(result.methods)}
    scikit_posthocs.critical_difference_diagram(ranks, different, ax=axes, color_palette=colours)
    return figure


def score_against_time(result: EvalResult, metric: str = "roc_auc") -> Any:
    """Mean score against the median seconds to fit and predict one fold (compiling apart)."""
    table, seconds = result.table(metric), result.seconds().sum(2)
    shared = np.isfinite(table).all(0)
    figure, axes = new_figure(8, 4.5)
    for i, method in enumerate(result.methods):
        if not shared.any():
            continue
        x, y = float(np.median(seconds[i, shared])), float(table[i, shared].mean())
        low, high = bootstrap_mean(table[i, shared])
        axes.plot([x, x], [low, high], color=_colour(i), alpha=0.4, linewidth=2)
        axes.plot(x, y, _marker(i), color=_colour(i), markersize=9)
        axes.annotate(f" {method}", (x, y), fontsize=9, va="center", xytext=(6, 0), textcoords="offset points")
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.set_xlabel("median seconds to fit and predict one fold (log)")
    axes.set_ylabel(f"mean {TITLES.get(metric, metric)}")
    return figure


def calibration(result: EvalResult) -> Any:
    """Reliability over the test rows of all data sets: accuracy against the confidence of the most probable class."""
    figure, axes = new_figure(6, 5)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
    for i, method in enumerate(result.methods):
        tops, rights = [], []
        for task in result.tasks:
            if (held := result.predictions(method, task)) is not None:
                tops.append(held[1].max(1))
                rights.append(held[1].argmax(1) == held[0])
        if not tops:
            continue
        top, right = np.concatenate(tops), np.concatenate(rights)
        # Two columns with the same top value reproduce confidence and correctness for `reliability`.
        pair = np.stack([top, np.zeros_like(top)], 1)
        confidence, accuracy, rows = reliability(np.where(right, 0, 1), pair)
        used = rows >= 20
        axes.plot(
            confidence[used],
            accuracy[used],
            marker=_marker(i),
            color=_colour(i),
            label=method,
            markersize=5,
            linewidth=1.3,
        )
    axes.set_xlabel("confidence of the predicted class")
    axes.set_ylabel("share that is right (bins of 20 rows or more)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    return figure


def heat_map(result: EvalResult, metric: str = "roc_auc") -> Any:
    """Methods by data sets: the score, coloured by the distance to the best method on that data set."""
    table = result.table(metric)
    errors = error_of(metric, table)
    with np.errstate(invalid="ignore"):
        gap = errors - np.nanmin(np.where(np.isfinite(errors), errors, np.inf), axis=0)
    gap[~np.isfinite(table)] = np.nan
    figure, axes = new_figure(2.6 + 0.95 * len(result.methods), 1.4 + 0.26 * len(result.tasks))
    axes.grid(False)
    top = max(0.02, float(np.nanquantile(gap, 0.95))) if np.isfinite(gap).any() else 1.0
    axes.imshow(gap.T, cmap="YlOrRd", vmin=0, vmax=top, aspect="auto")
    for j in range(len(result.tasks)):
        for i in range(len(result.methods)):
            text = f"{table[i, j]:.3f}" if np.isfinite(table[i, j]) else "none"
            dark = np.isfinite(gap[i, j]) and gap[i, j] > 0.7 * top
            axes.text(i, j, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
    axes.set_xticks(
        range(len(result.methods)), result.methods, rotation=35, ha="right", rotation_mode="anchor", fontsize=8
    )
    axes.set_yticks(range(len(result.tasks)), [result.names.get(t, t) for t in result.tasks], fontsize=8)
    return figure


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _marker(i: int) -> str:
    return MARKERS[i % len(MARKERS)]


def _row_means(table: np.ndarray) -> np.ndarray:
    counts = np.isfinite(table).sum(0)
    return np.where(counts > 0, np.nansum(table, axis=0) / np.maximum(counts, 1), 0.0)


def _fold_ranges(result: EvalResult, metric: str) -> np.ndarray:
    """f64[methods, tasks, 2], lowest and highest score over folds."""
    out = np.full((len(result.methods), len(result.tasks), 2), np.nan)
    at_m = {m: i for i, m in enumerate(result.methods)}
    at_t = {t: i for i, t in enumerate(result.tasks)}
    for row in result.rows:
        if row["metric"] == metric and row["fold"] >= 0 and np.isfinite(row["value"]):
            cell = out[at_m[row["method"]], at_t[row["task"]]]
            cell[0], cell[1] = np.fmin(cell[0], row["value"]), np.fmax(cell[1], row["value"])
    return out
