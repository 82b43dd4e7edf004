"""Figures of an evaluation, drawn with matplotlib, as HTML images that need no other file.

All functions take an `EvalResult` and return a matplotlib Figure; `figure_html` embeds one.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configs.errors import require
from .metrics import HIGHER_IS_BETTER, error_of
from .statistics import bootstrap_mean, by_group, calibration_table, mean_ranks, ranks, rounded, shot_curve

if TYPE_CHECKING:
    from .result import EvalResult

# Okabe and Ito's palette, which people with colour blindness can tell apart; the first is for our own networks.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000", "#b8a800")
MARKERS = "osD^vPX*<>"
SHOWN_ROWS = 20  # bins of a reliability diagram with fewer test rows are noise
TITLES = {
    "roc_auc": "ROC AUC",
    "roc_auc_ovo": "ROC AUC (one vs one)",
    "log_loss": "log loss",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "brier": "Brier score",
    "ece": "calibration error",
}


def new_figure(width: float, height: float, rows: int = 1, ratios: Sequence[float] | None = None) -> tuple[Any, Any]:
    """A figure that no window system and no global state knows of, and its axes: one, or ``rows`` below one another."""
    require("matplotlib", "plots", "drawing figures")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, height_ratios=ratios)
    for one in np.atleast_1d(axes):
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
        one.grid(True, color="#e6e6e6", linewidth=0.7)
        one.set_axisbelow(True)
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
    each = ranks(errors) if errors.shape[1] else errors
    means = mean_ranks(errors)
    order = np.argsort(means)
    figure, axes = new_figure(8, 1 + 0.36 * len(order))
    for row, i in enumerate(order):
        low, high = bootstrap_mean(each[i])
        axes.plot([low, high], [row, row], color=_colour(i), linewidth=2, alpha=0.5)
        axes.plot(means[i], row, _marker(i), color=_colour(i), markersize=8)
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

    frame = pandas.DataFrame(rounded(errors).T, columns=list(result.methods))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties between methods; the test then uses its normal approximation
        different = scikit_posthocs.posthoc_wilcoxon(
            frame.melt(var_name="method", value_name="error"), val_col="error", group_col="method", p_adjust="holm",
            zero_method="zsplit",
        )  # fmt: skip
    figure, axes = new_figure(8, 1.2 + 0.3 * len(errors))
    axes.grid(False)
    means = dict(zip(result.methods, mean_ranks(errors).tolist(), strict=True))
    colours = {method: _colour(i) for i, method in enumerate(result.methods)}
    scikit_posthocs.critical_difference_diagram(means, different, ax=axes, color_palette=colours)
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
    """Reliability over the test rows of all data sets: accuracy against the confidence of the most probable class, and
    below it how the rows are spread over confidences."""
    figure, (axes, below) = new_figure(6.6, 6, rows=2, ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
    rows = [row for row in calibration_table(result) if not row["task"]]
    for i, method in enumerate(result.methods):
        held = [row for row in rows if row["method"] == method]
        if not held:
            continue
        used = [row for row in held if row["rows"] >= SHOWN_ROWS]
        axes.plot(
            [row["confidence"] for row in used], [row["accuracy"] for row in used], marker=_marker(i), color=_colour(i),
            label=method, markersize=5, linewidth=1.3,
        )  # fmt: skip
        total = sum(row["rows"] for row in held)
        middle = [(row["low"] + row["high"]) / 2 for row in held]
        below.plot(middle, [row["rows"] / total for row in held], color=_colour(i), linewidth=1.3)
    axes.set_ylabel(f"share that is right\n(bins of {SHOWN_ROWS} rows or more)")
    below.set_ylabel("rows")
    below.set_xlabel("confidence of the predicted class")
    for one in (axes, below):
        one.set_xlim(0, 1.02)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def many_shot(result: EvalResult, metric: str = "roc_auc") -> Any:
    """Learning curves: mean score against the number of training rows, over the same data sets at every size."""
    rows = [row for row in shot_curve(result, metric) if row["data_sets"]]
    figure, axes = new_figure(8, 4.8)
    sizes = sorted({row["shots"] for row in rows})
    for i, method in enumerate(result.methods):
        held = [row for row in rows if row["method"] == method]
        x = [row["shots"] for row in held]
        axes.fill_between(x, [r["ci_low"] for r in held], [r["ci_high"] for r in held], color=_colour(i), alpha=0.1)
        axes.plot(
            x, [row["mean"] for row in held], marker=_marker(i), color=_colour(i), label=method, markersize=5, linewidth=1.6
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    count = rows[0]["data_sets"] if rows else 0
    axes.set_xlabel(f"training rows (the same {count} data sets at every size)")
    axes.set_ylabel(f"mean {TITLES.get(metric, metric)}")
    if rows:
        axes.legend(frameon=False, fontsize=9)
    return figure


def groups(result: EvalResult, metric: str = "roc_auc") -> Any:
    """A row per family of synthetic tasks: every method's mean with its bootstrap interval over tasks."""
    rows = [row for row in by_group(result, metric) if row["tasks"]]
    names = list(dict.fromkeys(row["group"] for row in rows))
    figure, axes = new_figure(8, 1.2 + len(names) * max(0.3, 0.09 * len(result.methods)))
    offsets = np.linspace(-0.3, 0.3, len(result.methods)) if len(result.methods) > 1 else [0.0]
    for i, method in enumerate(result.methods):
        held = [row for row in rows if row["method"] == method]
        at = np.array([names.index(row["group"]) for row in held]) + offsets[i]
        axes.hlines(
            at, [row["ci_low"] for row in held], [row["ci_high"] for row in held], color=_colour(i), alpha=0.45,
            linewidth=1.4,
        )  # fmt: skip
        axes.plot(
            [row["mean"] for row in held], at, _marker(i), color=_colour(i), markersize=5, label=method, linestyle="none"
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"{TITLES.get(metric, metric)} (mean and 95 % interval over the tasks of a family)")
    figure.legend(loc="outside upper left", ncols=min(4, len(result.methods)), frameon=False, fontsize=9)
    return figure


def heat_map(result: EvalResult, metric: str = "roc_auc") -> Any:
    """Methods by data sets (families of synthetic tasks where there are any): the score, coloured by the distance to
    the best method in the row."""
    names, table = _rows_shown(result, metric)
    errors = error_of(metric, table)
    gap = errors - np.where(np.isfinite(errors), errors, np.inf).min(axis=0)
    gap[~np.isfinite(table)] = np.nan
    figure, axes = new_figure(2.6 + 0.95 * len(result.methods), 1.4 + 0.26 * len(names))
    axes.grid(False)
    top = max(0.02, float(np.nanquantile(gap, 0.95))) if np.isfinite(gap).any() else 1.0
    axes.imshow(gap.T, cmap="YlOrRd", vmin=0, vmax=top, aspect="auto")
    for j in range(len(names)):
        for i in range(len(result.methods)):
            text = f"{table[i, j]:.3f}" if np.isfinite(table[i, j]) else "none"
            dark = np.isfinite(gap[i, j]) and gap[i, j] > 0.7 * top
            axes.text(i, j, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
    axes.set_xticks(
        range(len(result.methods)), result.methods, rotation=35, ha="right", rotation_mode="anchor", fontsize=8
    )
    axes.set_yticks(range(len(names)), names, fontsize=8)
    return figure


def _rows_shown(result: EvalResult, metric: str) -> tuple[list[str], np.ndarray]:
    """Names of data sets, or of families of synthetic tasks, and f64[methods, names]."""
    if not result.groups:
        return [result.names.get(task, task) for task in result.tasks], result.table(metric)
    rows = by_group(result, metric)
    names = list(dict.fromkeys(row["group"] for row in rows))
    table = np.full((len(result.methods), len(names)), np.nan)
    for row in rows:
        table[result.methods.index(row["method"]), names.index(row["group"])] = row["mean"]
    return names, table


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
