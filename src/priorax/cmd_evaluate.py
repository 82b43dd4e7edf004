"""`priorax evaluate`: networks and baselines on real data sets, with a report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from priorax import options, output, runtime
from priorax.configs.errors import ConfigError, DataError, ThresholdError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(options.OutDir):
    """Compares networks with baselines on real data sets: scores, ranks, intervals, times, and a report in one file.

    Runs offline on the sets that ship with scikit-learn, on local files, and on an OpenML cache (--openml-cache). A
    killed run goes on with --resume.
    """

    suite: str = "bundled"
    """Name of a suite, OpenML task ids (11,37), local files (a.csv::target), or a YAML file."""
    model: tuple[str, ...] = ()
    """Weights files to evaluate; the shipped weights when left out."""
    baselines: str = "logistic_regression,knn,random_forest"
    """Baselines, with commas; or none."""
    protocol: str | None = None
    """How data are cut and split; the suite's own when left out."""
    tasks: tuple[str, ...] = ()
    """Only these tasks of the suite."""
    openml_cache: Path | None = None
    """Folder with an offline OpenML cache; it is copied before use."""
    n_estimators: int | None = None
    """Members of a network's ensemble."""
    jobs: int = 1
    """Processes."""
    seed: int = 0
    """Seed of splits and of everything random in a method."""
    out: Path | None = None
    """Directory for results, leaderboard and report."""
    fail_under: tuple[str, ...] = ()
    """METRIC=VALUE: exit code 7 when the first network's mean is worse."""
    compare_with: Path | None = None
    """results.parquet of an earlier evaluation: differences of the first network's scores are shown."""

    def run(self, settings: dict[str, str]) -> None:
        from priorax.eval.harness import evaluate
        from priorax.eval.statistics import leaderboard

        limits = [_limit(text) for text in self.fail_under]
        methods = [f"priorax:{m}" for m in self.model] or ["priorax"]
        if self.baselines.strip().lower() not in ("", "none"):
            methods += [b for b in self.baselines.split(",") if b.strip()]
        if self.jobs < 1:
            raise ConfigError(f"--jobs is {self.jobs}; it must be at least 1")
        for model in self.model:
            if not Path(model.partition("?")[0]).is_file():
                raise DataError(f"--model {model}: no such file")
        out = output.open_out(self.out, overwrite=self.overwrite, resume=self.resume) if self.out else None
        if out:
            output.write_run(out, "evaluate", {"suite": self.suite, "methods": methods, "seed": self.seed})
            output.write_json(out / "env.json", runtime.environment())
        result = evaluate(
            self.suite, methods, self.protocol, out, seed=self.seed, openml_cache=self.openml_cache, jobs=self.jobs,
            n_estimators=self.n_estimators, tasks=self.tasks or None, log=output.log_event,
        )  # fmt: skip
        board = leaderboard(result)
        summary: dict[str, Any] = {
            "suite": result.suite, "protocol": result.protocol.name, "seed": self.seed,
            "roc_auc": roc_auc(result), "leaderboard": board,
            "skipped": [{k: r[k] for k in ("method", "task", "data", "status", "reason")} for r in result.problems],
        }  # fmt: skip
        if out:
            from priorax.eval.report import evaluation_report

            summary["report"] = evaluation_report(result, out / "report.html")
            summary["results"] = out
        if self.compare_with:
            summary["compared"] = _compared(result, self.compare_with)
        if self.json:
            output.emit_json(summary)
        else:
            _show(result, board, summary)
        for metric, value in limits:
            mean = _mean(result, metric)
            if not mean >= value:
                raise ThresholdError(f"mean {metric} of {result.methods[0]} is {mean:.5f}, asked for was {value:g}")


def roc_auc(result: Any) -> dict[str, dict[str, float]]:
    """{method: {data set: mean ROC AUC over folds}}."""
    table = result.table("roc_auc")
    return {
        method: {result.names.get(task, task): float(table[i, j]) for j, task in enumerate(result.tasks)}
        for i, method in enumerate(result.methods)
    }


def score_table(result: Any, board: list[dict[str, Any]]) -> str:
    """Leaderboard rows with the ROC AUC of every data set."""
    scores = roc_auc(result)
    names = [result.names.get(task, task) for task in result.tasks]
    wide = len(names) > 8
    header = ["method", *([] if wide else names), "mean", "rank", "fit s", "predict s"]
    rows = []
    for row in board:
        cells = [] if wide else [f"{scores[row['method']][n]:.4f}" for n in names]
        rows.append([row["method"], *cells, f"{row['mean']:.4f}", f"{row['mean_rank']:.2f}",
                     f"{row['time_train_s']:.2f}", f"{row['time_infer_s']:.2f}"])  # fmt: skip
    return output.table(rows, header)


def _show(result: Any, board: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    print(
        f"ROC AUC (one versus rest) on {result.suite}, protocol {result.protocol.name}, {len(result.tasks)} data sets"
    )
    print(score_table(result, board))
    for problem in summary["skipped"]:
        print(f"{problem['status']}: {problem['method']} on {problem['data']}: {problem['reason']}")
    for line in summary.get("compared", []):
        print(line)
    if "report" in summary:
        print(f"\nreport: {summary['report']}")


def _limit(text: str) -> tuple[str, float]:
    from priorax.eval.metrics import HIGHER_IS_BETTER

    metric, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        raise ConfigError(f"--fail-under {text!r}; write METRIC=VALUE, e.g. roc_auc=0.9") from None
    if metric not in HIGHER_IS_BETTER:
        raise ConfigError(f"--fail-under {metric!r}; allowed: {', '.join(sorted(HIGHER_IS_BETTER))}")
    return metric, number


def _mean(result: Any, metric: str) -> float:
    import numpy as np

    row = result.table(metric)[0]
    return float(row.mean()) if np.isfinite(row).all() else float("nan")


def _compared(result: Any, path: Path) -> list[str]:
    """Lines with the change of the first network's ROC AUC per data set since an earlier evaluation."""
    from priorax import table_io

    old = table_io.read(path)
    table_io.columns(old, ["method", "data", "metric", "value", "fold"], path)
    fold = -1 if result.protocol.pooled else None
    before: dict[str, list[float]] = {}
    for method, data, metric, value, f in zip(
        *(old[k] for k in ("method", "data", "metric", "value", "fold")), strict=True
    ):
        if method.startswith("priorax") and metric == "roc_auc" and (int(f) == -1) == (fold == -1):
            before.setdefault(data, []).append(float(value))
    lines = []
    for name, now in roc_auc(result)[result.methods[0]].items():
        if name in before:
            then = sum(before[name]) / len(before[name])
            lines.append(f"{name}: ROC AUC {then:.4f} -> {now:.4f} ({now - then:+.4f})")
    if not lines:
        raise DataError(f"{path} has no ROC AUC of priorax on any of these data sets")
    return lines
