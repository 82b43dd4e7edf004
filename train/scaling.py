"""What more training is expected to bring, from what runs have written about themselves.

Loss is fitted as ``floor + scale * tasks ** -exponent`` (Kaplan et al. 2020, arXiv 2001.08361), ROC AUC as a straight
line in the logarithm of tasks. A fit describes the range it was made from; a prediction is a guess that gets worse with
distance, and one network reaches a floor that another does not have.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from ..configs.errors import DataError

BOOTSTRAPS = 200


@dataclasses.dataclass(frozen=True)
class Log:
    """What metrics.jsonl of a run holds. S dispatches at the full learning rate, V validations.

    Attributes:
      name: of the run's directory.
      tasks, loss: f64[S], tasks seen and training loss, from the end of the warm-up to the start of the decay.
      held_tasks, held_loss, held_auc: f64[V], of the averaged weights on held-out tasks.
      decayed: bool[V], whether the learning rate had come down when they were measured.
      last_tasks: tasks seen at the end, the decay included.
    """

    name: str
    tasks: np.ndarray
    loss: np.ndarray
    held_tasks: np.ndarray
    held_loss: np.ndarray
    held_auc: np.ndarray
    decayed: np.ndarray
    last_tasks: float


def read_log(run: str | Path) -> Log:
    """Reads the log of a run.

    Raises:
      DataError: there is none, or it holds nothing to fit.
    """
    run = Path(run)
    path = run / "metrics.jsonl" if run.is_dir() else run
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give the directory of a run of pretrain") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise DataError(f"{path}, line {number}: not JSON") from None
    steps = [r for r in records if r.get("loss") is not None and "event" not in r]
    if not steps:
        raise DataError(f"{path} records no training")
    top = max(r["learning_rate"] for r in steps)
    full = np.array([r["learning_rate"] > 0.999 * top for r in steps])
    tasks = {r["step"]: r["tasks_seen"] for r in steps}
    rate = {r["step"]: r["learning_rate"] for r in steps}
    held = [r for r in records if r.get("event") == "validation" and r["step"] in tasks]
    held = list({r["step"]: r for r in held}.values())  # a step that was measured twice counts once
    column = lambda name: np.array([r[name] for r in held], np.float64)
    return Log(
        name=run.name if run.is_dir() else run.parent.name,
        last_tasks=float(steps[-1]["tasks_seen"]),
        tasks=np.array([r["tasks_seen"] for r in steps], np.float64)[full],
        loss=np.array([r["loss"] for r in steps], np.float64)[full],
        held_tasks=np.array([tasks[r["step"]] for r in held], np.float64),
        held_loss=column("validation_loss"),
        held_auc=column("validation_roc_auc"),
        decayed=np.array([rate[r["step"]] < 0.999 * top for r in held], bool),
    )


def binned(tasks: np.ndarray, loss: np.ndarray, bins: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over bins of equal width in the logarithm of tasks: tasks, loss and standard error, empty bins left out."""
    edges = np.geomspace(tasks.min(), tasks.max() * (1 + 1e-9), bins + 1)
    which = np.clip(np.searchsorted(edges, tasks, side="right") - 1, 0, bins - 1)
    rows = [
        (np.exp(np.log(tasks[which == b]).mean()), loss[which == b].mean(), loss[which == b].std() / (n**0.5))
        for b in range(bins)
        if (n := np.count_nonzero(which == b))
    ]
    x, y, error = (np.array(column) for column in zip(*rows, strict=True))
    return x, y, error


def fit_loss(tasks: np.ndarray, loss: np.ndarray, start: dict[str, Any] | None = None) -> dict[str, Any]:
    """Fits ``floor + scale * (tasks / first) ** -exponent``.

    Args:
      tasks, loss: f64[N].
      start: a fit of nearly the same points to start from; None tries several starts.

    Returns:
      ``floor``, ``scale`` (at the fewest tasks), ``exponent``, ``first``, ``residual`` (root mean square) and ``points``.

    Raises:
      DataError: fewer than four points, or all at the same number of tasks.
    """
    _check(tasks, loss, 4)
    first, low = float(tasks.min()), float(loss.min())
    z = np.log(tasks / first)

    def wrong(p: np.ndarray) -> np.ndarray:
        return p[0] + p[1] * np.exp(-p[2] * z) - loss

    span = max(float(loss.max()) - low, 1e-6)
    starts = [
        (max(low - share * span, 0.0), span * (1 + share), exponent)
        for share in (0.0, 0.5, 2.0) for exponent in (0.1, 0.3, 1.0)
    ]  # fmt: skip
    if start is not None:
        moved = start["scale"] * (first / start["first"]) ** -start["exponent"]
        starts = [(max(start["floor"], 0.0), max(moved, 0.0), float(np.clip(start["exponent"], 2e-3, 4.9)))]
    bounds = ([0, 0, 1e-3], [np.inf, np.inf, 5])
    fits = [least_squares(wrong, point, bounds=bounds, x_scale=(1, span, 0.3)) for point in starts]
    best = min(fits, key=lambda fit: fit.cost)
    floor, scale, exponent = (float(v) for v in best.x)
    residual = float(np.sqrt(np.mean(best.fun**2)))
    return {"floor": floor, "scale": scale, "exponent": exponent, "first": first, "residual": residual, "points": len(z)}


def loss_at(fit: dict[str, Any], tasks: float) -> float:
    """The fitted loss at a number of tasks."""
    return fit["floor"] + fit["scale"] * (tasks / fit["first"]) ** -fit["exponent"]


def fit_auc(tasks: np.ndarray, auc: np.ndarray) -> dict[str, Any]:
    """Fits ``at_first + per_decade * log10(tasks / first)``; DataError with fewer than three points."""
    _check(tasks, auc, 3)
    first = float(tasks.min())
    z = np.log10(tasks / first)
    slope, start = np.polyfit(z, auc, 1)
    residual = float(np.sqrt(np.mean((start + slope * z - auc) ** 2)))
    return {
        "at_first": float(start), "per_decade": float(slope), "first": first, "residual": residual, "points": len(z)
    }  # fmt: skip


def auc_at(fit: dict[str, Any], tasks: float) -> float:
    """The fitted ROC AUC at a number of tasks, at most 1."""
    return min(1.0, fit["at_first"] + fit["per_decade"] * np.log10(tasks / fit["first"]))


def scaling(runs: Sequence[str | Path], factors: Sequence[float] = (2, 10, 100), seed: int = 0) -> dict[str, Any]:
    """Fits the logs of one or more runs of one network and says what more tasks would bring.

    With validations at four or more numbers of tasks (decayed ones of several runs, else those of one run at the full
    learning rate) held-out loss and ROC AUC are fitted; else the training loss at the full learning rate. Intervals of
    predictions are 90 % percentiles over resampled points.

    Raises:
      DataError: too little was recorded for any fit.
    """
    logs = [read_log(run) for run in runs]
    held, basis = _held_points(logs)
    found: dict[str, Any] = {"runs": [log.name for log in logs], "basis": basis}
    if held is not None:
        tasks, loss, auc = held
    else:
        kept = [(log.tasks, log.loss) for log in logs if len(log.tasks)]
        if not kept:
            raise DataError("the learning rate was never at its peak for a whole dispatch; nothing to fit")
        tasks, loss, _ = binned(*(np.concatenate(column) for column in zip(*kept, strict=True)))
        auc = None
    found["points"] = [
        {"tasks": float(t), "loss": float(v)} | ({} if auc is None else {"roc_auc": float(auc[i])})
        for i, (t, v) in enumerate(zip(tasks, loss, strict=True))
    ]
    found["loss"] = fit_loss(tasks, loss)
    found["roc_auc"] = None if auc is None else fit_auc(tasks, auc)
    rng, draws = np.random.default_rng(seed), []
    for _ in range(BOOTSTRAPS):
        pick = np.sort(rng.integers(len(tasks), size=len(tasks)))
        if len(np.unique(tasks[pick])) >= 4:
            draws.append((fit_loss(tasks[pick], loss[pick], found["loss"]), None if auc is None else fit_auc(tasks[pick], auc[pick])))
    now = float(max(log.last_tasks for log in logs))
    found["tasks_so_far"], found["expected"] = now, []
    for factor in (1, *factors):
        at = factor * now
        row: dict[str, Any] = {"factor": factor, "tasks": at, "loss": loss_at(found["loss"], at)}
        row["loss_interval"] = _interval([loss_at(d[0], at) for d in draws])
        if auc is not None:
            row["roc_auc"] = auc_at(found["roc_auc"], at)
            row["roc_auc_interval"] = _interval([auc_at(d[1], at) for d in draws])
        found["expected"].append(row)
    return found


def _held_points(logs: list[Log]) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray] | None, str]:
    for decayed, basis in ((True, "held-out tasks, learning rate decayed"), (False, "held-out tasks, full learning rate")):
        rows = [
            (log.held_tasks[i], log.held_loss[i], log.held_auc[i])
            for log in logs
            # Of the decayed points of a run only the last one is a finished network.
            for i in (np.flatnonzero(log.decayed)[-1:] if decayed else np.flatnonzero(~log.decayed))
            if np.isfinite(log.held_loss[i]) and np.isfinite(log.held_auc[i])
        ]
        if len({r[0] for r in rows}) >= 4:
            return tuple(np.array(column) for column in zip(*sorted(rows), strict=True)), basis
    return None, "training loss, full learning rate"


def _check(tasks: np.ndarray, values: np.ndarray, least: int) -> None:
    if len(np.unique(tasks)) < least or not (np.isfinite(values).all() and (np.asarray(tasks) > 0).all()):
        raise DataError(
            f"{len(np.unique(tasks))} usable points; a fit needs at least {least} at different numbers of tasks. Train "
            "longer, validate more often (train.validate_steps), or give several runs"
        )


def _interval(values: list[float]) -> list[float] | None:
    return [float(v) for v in np.quantile(values, (0.05, 0.95))] if values else None
