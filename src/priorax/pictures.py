"""Figures of tasks, graphs and priors. Every function returns a matplotlib Figure that no global state knows of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from priorax.configs.errors import require
from priorax.priors.records import TaskGraph, TaskRecord

# Okabe and Ito's palette: told apart by people with colour blindness too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000", "#7f7f7f", "#882255")
HIDDEN, OBSERVED, TARGET = "#d9d9d9", "#9ecae1", "#fdae6b"


def grid(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure with rows x columns axes (a 2-D array)."""
    require("matplotlib", "plots", "drawing figures")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def layers(graph: TaskGraph) -> np.ndarray:
    """i64[n_nodes], the length of the longest path that ends in each node."""
    depth = np.zeros(graph.n_nodes, np.int64)
    for source, destination, _ in graph.edges[np.argsort(graph.edges[:, 1], kind="stable")]:
        depth[destination] = max(depth[destination], depth[source] + 1)
    return depth


def draw_graph(axes: Any, graph: TaskGraph, names: bool = True) -> None:
    """The causal graph, causes left, effects right: hidden nodes grey, nodes shown as columns blue, label orange."""
    depth = layers(graph)
    depth[graph.target_node] = depth.max() + (depth.argmax() != graph.target_node)
    place = np.zeros((graph.n_nodes, 2))
    for level in range(depth.max() + 1):
        members = np.flatnonzero(depth == level)
        place[members, 0] = level
        # A slight slant keeps edges that skip a layer from running through the nodes between.
        place[members, 1] = (np.arange(len(members)) - (len(members) - 1) / 2) + 0.13 * level
    for source, destination, _ in graph.edges:
        axes.annotate(
            "", xy=place[destination], xytext=place[source],
            arrowprops=dict(arrowstyle="-|>", color="#969696", lw=0.8, shrinkA=7, shrinkB=7, mutation_scale=7),
        )  # fmt: skip
    shown = set(graph.node_of_feature.tolist())
    for node in range(graph.n_nodes):
        colour = TARGET if node == graph.target_node else OBSERVED if node in shown else HIDDEN
        axes.plot(*place[node], "o", ms=8 if names else 6, color=colour, mec="#636363", mew=0.6, zorder=3)
        if names:
            columns = np.flatnonzero(graph.node_of_feature == node)
            text = "y" if node == graph.target_node else ",".join(f"x{c}" for c in columns[:3])
            text += ",…" if len(columns) > 3 else ""
            axes.annotate(
                text, place[node], xytext=(0, 8), textcoords="offset points", ha="center", fontsize=6, zorder=4
            )
    axes.set_axis_off()
    axes.margins(0.15)


def draw_table(axes: Any, task: TaskRecord) -> None:
    """A scatter plot of the two columns that tell the classes apart best, coloured by class; query rows pale."""
    order = np.argsort(-_separation(task), kind="stable")
    first, second = order[0], order[1] if task.n_features > 1 else order[0]
    rng = np.random.default_rng(task.task_id)
    x = [_spread_out(task, int(j), rng) for j in (first, second)]
    for c in range(task.n_classes):
        for part, alpha in ((slice(0, task.n_context), 0.85), (slice(task.n_context, None), 0.3)):
            pick = task.y[part] == c
            axes.scatter(x[0][part][pick], x[1][part][pick], s=5, alpha=alpha, color=COLOURS[c % 10], linewidths=0)
    axes.set_xlabel(f"x{first}", fontsize=7, labelpad=1)
    axes.set_ylabel(f"x{second}", fontsize=7, labelpad=1)
    axes.set_xticks([])
    axes.set_yticks([])


def _separation(task: TaskRecord) -> np.ndarray:
    """f64[F], share of each column's rank variance that lies between the classes."""
    score = np.zeros(task.n_features)
    for j in range(task.n_features):
        good = ~np.isnan(task.x[:, j])
        if good.sum() < 3:
            continue
        rank = np.argsort(np.argsort(task.x[good, j])).astype(float)
        total = rank.var()
        y = task.y[good]
        means = [(rank[y == c].mean() - rank.mean()) ** 2 * (y == c).mean() for c in np.unique(y)]
        score[j] = sum(means) / total if total > 0 else 0.0
    return score


def _spread_out(task: TaskRecord, j: int, rng: np.random.Generator) -> np.ndarray:
    """A column for plotting: categories jittered, a heavy tail pulled in by ranks beyond the middle 98 %."""
    v = task.x[:, j].astype(np.float64)
    if task.categorical[j]:
        return v + rng.uniform(-0.25, 0.25, v.shape)
    if np.isnan(v).all():
        return v
    low, high = np.nanquantile(v, [0.01, 0.99])
    return np.clip(v, low, high)


def tasks_with_graphs(tasks: Sequence[TaskRecord]) -> Any:
    """A row of scatter plots over a row of their graphs."""
    figure, axes = grid(2, len(tasks), 2.1 * len(tasks), 4.2)
    for k, task in enumerate(tasks):
        draw_table(axes[0, k], task)
        axes[0, k].set_title(f"task {task.task_id}: {task.n_features} columns, {task.n_classes} classes", fontsize=7)
        if task.graph is not None:
            draw_graph(axes[1, k], task.graph)
    return figure


def thumbnails(tasks: Sequence[TaskRecord], per_row: int = 6) -> Any:
    """Scatter plots of many tasks."""
    rows = -(-len(tasks) // per_row)
    figure, axes = grid(rows, per_row, 1.7 * per_row, 1.65 * rows)
    for k, axis in enumerate(axes.ravel()):
        if k < len(tasks):
            draw_table(axis, tasks[k])
        else:
            axis.set_axis_off()
    return figure


def one_task(task: TaskRecord) -> Any:
    """The table and the graph of one task."""
    figure, axes = grid(1, 2, 11, 4.8)
    draw_table(axes[0, 0], task)
    axes[0, 0].set_title(f"{task.n_rows} rows, {task.n_features} columns, {task.n_classes} classes", fontsize=9)
    if task.graph is not None:
        draw_graph(axes[0, 1], task.graph)
        axes[0, 1].set_title("causal graph (blue: shown as a column, orange: label)", fontsize=9)
    return figure


def histograms(panels: Sequence[tuple[str, np.ndarray]], per_row: int = 4) -> Any:
    """Histograms with titles; whole numbers get a bar each."""
    rows = -(-len(panels) // per_row)
    figure, axes = grid(rows, per_row, 2.9 * per_row, 2.2 * rows)
    for axis in axes.ravel()[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, values) in zip(axes.ravel(), panels, strict=False):
        values = np.asarray(values)
        if values.dtype.kind in "iu" and values.size and np.ptp(values) <= 40:
            axis.bar(*np.unique(values, return_counts=True), color=COLOURS[0])
        else:
            axis.hist(values[np.isfinite(values)] if values.dtype.kind == "f" else values, bins=30, color=COLOURS[0])
        axis.set_title(title, fontsize=8)
        axis.tick_params(labelsize=7)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure


def marginals(tasks: Sequence[TaskRecord], n: int = 24) -> Any:
    """Histograms of one column each of many tasks, numeric ones blue, categorical ones green."""
    figure, axes = grid(-(-n // 8), 8, 11, 1.4 * (-(-n // 8)))
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
    for k, (axis, task) in enumerate(zip(axes.ravel(), tasks, strict=False)):
        j = k % task.n_features
        v = task.x[:, j]
        v = v[~np.isnan(v)]
        if task.categorical[j]:
            axis.bar(*np.unique(v, return_counts=True), color=COLOURS[2])
        elif v.size:
            low, high = np.quantile(v, [0.005, 0.995])
            axis.hist(np.clip(v, low, high), bins=25, color=COLOURS[0])
    return figure


def curve(steps: Sequence[float], values: Sequence[float], x_label: str, y_label: str) -> Any:
    """A noisy curve with its running mean."""
    figure, axes = grid(1, 1, 7, 3)
    axis, v = axes[0, 0], np.asarray(values, float)
    axis.plot(steps, v, color=COLOURS[5], lw=0.8, alpha=0.6)
    width = max(len(v) // 25, 1)
    if len(v) >= 2 * width:
        smooth = np.convolve(v, np.ones(width) / width, mode="valid")
        axis.plot(np.asarray(steps, float)[width - 1 :], smooth, color=COLOURS[0], lw=1.8)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(True, color="#e6e6e6", lw=0.7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure
